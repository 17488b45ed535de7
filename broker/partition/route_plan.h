// RoutePlan: what a partition must know of the configuration. Immutable, shared by all shards,
// posted to each as control work when it changes.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "broker/base/clock.h"
#include "broker/routing/route_table.h"
#include "broker/schedule/schedule.h"
#include "dispatch/dispatcher.h"
#include "dispatch/trigger_spec.h"

namespace tocsin {

struct ScheduleBinding {
  std::string name;  // the source's
  std::string was;
  std::shared_ptr<const Schedule> schedule;
  ScheduleSpec spec;  // what it was made of, to be shown
  // The encoded event of one instant. Pure.
  std::function<std::string(WallTime nominal, WallTime actual)> make_event;
};

struct RoutePlan {
  std::uint64_t generation = 0;  // rises with every reload of this process
  std::shared_ptr<const RouteTable> table;
  std::vector<TriggerSpec> triggers;   // parallel to the table's routes
  std::vector<TriggerNumber> numbers;  // parallel: Dispatcher::SetTrigger()
  std::vector<ScheduleBinding> schedules;
};

// Single triggers added, replaced and taken away. `overlay` is all that was applied since the plan:
// what was in the last one keeps its place, new routes come behind it; it has no schedules. Of a
// trigger that has several routes the last one counts.
struct PlanChange {
  std::shared_ptr<const RoutePlan> overlay;
  std::vector<std::string> removed;
};

// Plan and overlay compiled anew: `from[i]` is the number, in the former plan and then its overlay,
// of what is route i in `base` and then `overlay` (may be null). All in force are among them.
struct PlanRebase {
  std::shared_ptr<const RoutePlan> base;
  std::shared_ptr<const RoutePlan> overlay;
  std::vector<std::uint32_t> from;
};

}  // namespace tocsin
