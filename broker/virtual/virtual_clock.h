// VirtualClock: a Clock that moves only when told to; wall and monotonic time are driven apart, so
// that a test can set the wall clock back while leases go on.
//
// Reading is thread-safe; one thread drives.

#pragma once

#include <atomic>
#include <cstdint>

#include "broker/base/clock.h"

namespace tocsin {

class VirtualClock final : public Clock {
 public:
  // Monotonic time starts one hour in, so that a subtraction does not go below zero.
  explicit VirtualClock(WallTime wall = WallTime(std::chrono::seconds(1'700'000'000)));

  Instant Monotonic() const override;
  WallTime Wall() const override;

  // Both clocks go on. `by` must not be negative.
  void Advance(Duration by);
  // Monotonic time goes on alone, up to `when`; nothing if it is past that already.
  void AdvanceMonotonicTo(Instant when);
  // Only the wall clock jumps, in either direction.
  void SetWall(WallTime wall);
  void StepWall(std::chrono::microseconds by);

 private:
  std::atomic<std::int64_t> monotonic_ns_;
  std::atomic<std::int64_t> wall_ns_;  // nanoseconds, so that many small steps are not lost
};

}  // namespace tocsin
