// From a Config to what runs: the RoutePlan of the partitions, and what a reload changes.
//
// Threading: free functions; BuildPlan talks to the Dispatcher, which is thread-safe.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/config/config.h"
#include "broker/partition/partition.h"
#include "broker/partition/route_plan.h"
#include "broker/server/auth.h"
#include "dispatch/dispatcher.h"

namespace tocsin {

// The plan of `config`: every trigger with its route and its number in `dispatcher` (which from
// then on knows its function and limits), every timer as a schedule.
//   kInvalidArgument  a schedule that cannot be parsed; LoadConfig() has refused it before
// `more` are triggers beside those of the file.
absl::StatusOr<std::shared_ptr<const RoutePlan>> BuildPlan(
    const Config& config, std::uint64_t generation, Dispatcher& dispatcher,
    const std::vector<const TriggerConfig*>& more = {});

// Tells `dispatcher` what it must know of the trigger.
// `renamed`: nothing else has its former name now.
TriggerNumber NumberTrigger(const TriggerSpec& spec, bool renamed, Dispatcher& dispatcher);

// A line per difference, for `reload` and the log: sorted by kind, then in the order of the file.
// What takes effect only at a restart says so.
std::vector<std::string> DescribeChanges(const Config& before, const Config& after);

// The options of every partition; `id` is set by Shards.
PartitionOptions ToPartitionOptions(const BrokerConfig& config, std::uint32_t partitions,
                                    std::uint64_t hash_seed);

AccessPolicy ToAccessPolicy(const BrokerConfig& config);

// A listener that other machines can reach needs TLS and an identity, or `insecure: true`.
//   kFailedPrecondition  T0205, names the listener and what to do
//   kInvalidArgument     not an address
absl::Status CheckListeners(const BrokerConfig& config);
// The same for a reload: who may do what is as `policy` says from now on, and the listeners stay as
// they were `bound` until the process ends.
absl::Status CheckBoundListeners(const BrokerConfig& bound, const BrokerConfig& policy);

// A broker that watches its own data directory would make events of its own writing for ever.
//   kFailedPrecondition  T0110, names the source
absl::Status CheckSources(const Config& config);

}  // namespace tocsin
