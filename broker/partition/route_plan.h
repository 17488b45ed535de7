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

}  // namespace tocsin
