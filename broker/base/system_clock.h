// SystemClock: CLOCK_MONOTONIC and CLOCK_REALTIME. Stateless, thread-safe.

#pragma once

#include "broker/base/clock.h"

namespace tocsin {

class SystemClock final : public Clock {
 public:
  Instant Monotonic() const override;
  WallTime Wall() const override;
};

}  // namespace tocsin
