// The event of one instant of a timer.

#pragma once

#include <string>

#include "broker/base/clock.h"
#include "connectors/timer/timer_spec.h"

namespace tocsin {

// Encoded. `id` is `<name>/<nominal instant>`, so that an instant fires once across restarts;
// `time` is the nominal instant, `recordedtime` the actual one. Pure.
std::string MakeTimerEvent(const TimerSpec& spec, WallTime nominal, WallTime actual);

}  // namespace tocsin
