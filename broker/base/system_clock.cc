#include "broker/base/system_clock.h"

#include <ctime>

namespace tocsin {
namespace {

timespec Read(clockid_t id) {
  timespec value{};
  clock_gettime(id, &value);
  return value;
}

}  // namespace

Instant SystemClock::Monotonic() const {
  const timespec now = Read(CLOCK_MONOTONIC);
  return Instant(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec));
}

WallTime SystemClock::Wall() const {
  const timespec now = Read(CLOCK_REALTIME);
  return WallTime(std::chrono::seconds(now.tv_sec) + std::chrono::microseconds(now.tv_nsec / 1000));
}

}  // namespace tocsin
