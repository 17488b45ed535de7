// What `tocsin sources snapshot` does in the journal: a lane's state gets what was asked for, so
// that it holds from then on, whatever ends.
//
// Threading: blocks until all is durable, so not on a shard's executor.

#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "broker/partition/shards.h"
#include "connectors/source_connector.h"

namespace tocsin {

// The state of the only lane of a source as it is now; empty if there is none. The lane may run, if
// it is one that hears of no settlements.
LaneState StateOfSource(const std::string& source, Shards& shards);

// Asks for `tables`, and with `after_gap` that the gap behind the stored position may be passed
// once. The lane is detached.
//   kResourceExhausted  the broker is full: some tables may be asked for; again later
//   kUnavailable        the broker is stopping
absl::Status AskForSnapshot(const std::string& source, const std::vector<std::string>& tables,
                            bool after_gap, Shards& shards);

}  // namespace tocsin
