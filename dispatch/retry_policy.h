// How long a failed delivery waits before it is tried again. Pure.

#pragma once

#include <cstdint>
#include <optional>

#include "broker/base/clock.h"
#include "broker/base/random.h"
#include "dispatch/trigger_spec.h"

namespace tocsin {

// The longest wait that a worker may ask for with Retry::after.
inline constexpr Duration kRetryAfterMax = std::chrono::hours(24);

// backoff * factor^(failed - 1), at most backoff_max, never negative. `failed` counts from 1.
Duration BackoffCeiling(const RetryPolicy& policy, std::uint32_t failed);

// What a delivery waits after its `failed`th failed attempt. `after`, if the worker sent it, wins,
// within 0 and kRetryAfterMax and without jitter. Full jitter is uniform over [0, ceiling].
Duration RetryDelay(const RetryPolicy& policy, std::uint32_t failed, std::optional<Duration> after,
                    Random& random);

// True when `failed` attempts are all that the policy allows.
inline bool AttemptsUsedUp(const RetryPolicy& policy, std::uint32_t failed) {
  return policy.attempts_max != 0 && failed >= policy.attempts_max;
}

}  // namespace tocsin
