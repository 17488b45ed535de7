// TimerSpec: what a source of kind `timer` says in the configuration.

#pragma once

#include "broker/schedule/schedule.h"
#include "connectors/event_overrides.h"

namespace tocsin {

struct TimerSpec {
  ScheduleSpec schedule;  // schedule.name is the source's name
  EventOverrides event;

  friend bool operator==(const TimerSpec&, const TimerSpec&) = default;
};

}  // namespace tocsin
