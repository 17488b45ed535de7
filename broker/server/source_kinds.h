// SourceKinds: from the configuration of a source to its lanes and their connectors: the one place
// where the kinds are told apart when they run.
//
// Threading: as SourceLanes says.

#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/config/config.h"
#include "connectors/source_lanes.h"

namespace tocsin {

// `file`, `timer`, ...
std::string_view KindOfSource(const SourceSpec& spec);

// Any kind but `timer`. An error if the machine lacks what the kind needs.
absl::StatusOr<std::unique_ptr<SourceLanes>> MakeSourceLanes(const SourceConfig& source,
                                                             const Clock& clock, Executor& owner);

}  // namespace tocsin
