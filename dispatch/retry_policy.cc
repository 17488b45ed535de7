#include "dispatch/retry_policy.h"

#include <algorithm>
#include <cmath>

namespace tocsin {

Duration BackoffCeiling(const RetryPolicy& policy, std::uint32_t failed) {
  const Duration max = std::max(policy.backoff_max, Duration{0});
  const Duration first = std::clamp(policy.backoff, Duration{0}, max);
  if (failed <= 1 || first == Duration{0} || first == max) return first;
  const double grown = static_cast<double>(first.count()) *
                       std::pow(std::max(policy.factor, 0.0), static_cast<double>(failed - 1));
  // In floating point: the power overflows an integer long before attempts end. Not a number and
  // infinity fall on the cap.
  if (!(grown < static_cast<double>(max.count()))) return max;
  return Duration{static_cast<Duration::rep>(grown)};
}

Duration RetryDelay(const RetryPolicy& policy, std::uint32_t failed, std::optional<Duration> after,
                    Random& random) {
  if (after.has_value()) return std::clamp(*after, Duration{0}, kRetryAfterMax);
  const Duration ceiling = BackoffCeiling(policy, failed);
  if (policy.jitter == Jitter::kNone) return ceiling;
  return Duration{
      static_cast<Duration::rep>(random.Below(static_cast<std::uint64_t>(ceiling.count()) + 1))};
}

}  // namespace tocsin
