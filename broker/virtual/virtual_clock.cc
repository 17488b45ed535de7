#include "broker/virtual/virtual_clock.h"

#include <algorithm>

#include "broker/base/check.h"

namespace tocsin {

VirtualClock::VirtualClock(WallTime wall)
    : monotonic_ns_(std::chrono::nanoseconds(std::chrono::hours(1)).count()),
      wall_ns_(std::chrono::nanoseconds(wall.time_since_epoch()).count()) {}

Instant VirtualClock::Monotonic() const { return Instant(Duration(monotonic_ns_.load())); }

WallTime VirtualClock::Wall() const {
  return std::chrono::floor<std::chrono::microseconds>(
      std::chrono::sys_time<std::chrono::nanoseconds>(std::chrono::nanoseconds(wall_ns_.load())));
}

void VirtualClock::Advance(Duration by) {
  TOCSIN_CHECK(by >= Duration::zero(), "time does not go back by {} ns", -by.count());
  monotonic_ns_ += by.count();
  wall_ns_ += by.count();
}

void VirtualClock::AdvanceMonotonicTo(Instant when) {
  monotonic_ns_ = std::max(monotonic_ns_.load(), when.time_since_epoch().count());
}

void VirtualClock::SetWall(WallTime wall) {
  wall_ns_ = std::chrono::nanoseconds(wall.time_since_epoch()).count();
}

void VirtualClock::StepWall(std::chrono::microseconds by) {
  wall_ns_ += std::chrono::nanoseconds(by).count();
}

}  // namespace tocsin
