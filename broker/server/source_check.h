// CheckSource: tries what a source of a configuration would need, without a broker.
//
// Threading: blocks, some seconds at most; any thread.

#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/config/config.h"
#include "broker/server/source_kinds.h"

namespace tocsin {

// One line of what is there; or why the source would not work. Changes nothing outside, reads no
// event, and takes no place in a group.
absl::StatusOr<std::string> CheckSource(const SourceConfig& source, const Clock& clock);

}  // namespace tocsin
