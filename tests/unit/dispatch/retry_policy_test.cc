#include "dispatch/retry_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

namespace tocsin {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

TEST(RetryPolicyTest, TheCeilingGrowsFromBackoffByFactorUpToItsMax) {
  const RetryPolicy policy;
  EXPECT_EQ(BackoffCeiling(policy, 1), seconds(1));
  EXPECT_EQ(BackoffCeiling(policy, 2), seconds(2));
  EXPECT_EQ(BackoffCeiling(policy, 5), seconds(16));
  EXPECT_EQ(BackoffCeiling(policy, 9), seconds(256));
  EXPECT_EQ(BackoffCeiling(policy, 10), minutes(5));
  EXPECT_EQ(BackoffCeiling(policy, 5000), minutes(5));
  EXPECT_EQ(BackoffCeiling(policy, std::numeric_limits<std::uint32_t>::max()), minutes(5));
}

TEST(RetryPolicyTest, OddPoliciesStayWithinZeroAndMax) {
  RetryPolicy policy;
  policy.backoff = hours(1);
  EXPECT_EQ(BackoffCeiling(policy, 1), minutes(5));
  policy.backoff = -seconds(1);
  EXPECT_EQ(BackoffCeiling(policy, 3), Duration{0});
  policy.backoff = seconds(1);
  policy.factor = std::numeric_limits<double>::quiet_NaN();
  EXPECT_LE(BackoffCeiling(policy, 3), minutes(5));
  policy.factor = 0.5;
  EXPECT_EQ(BackoffCeiling(policy, 2), milliseconds(500));
  policy.factor = 1e300;
  EXPECT_EQ(BackoffCeiling(policy, 3), minutes(5));
  policy.backoff_max = Duration::max();
  EXPECT_EQ(BackoffCeiling(policy, 3), Duration::max());
}

TEST(RetryPolicyTest, FullJitterIsUniformFromZeroToTheCeiling) {
  const RetryPolicy policy;
  SeededRandom random(7);
  Duration least = Duration::max();
  Duration most{0};
  double sum = 0;
  constexpr int kTimes = 4000;
  for (int i = 0; i < kTimes; ++i) {
    const Duration delay = RetryDelay(policy, 4, std::nullopt, random);
    least = std::min(least, delay);
    most = std::max(most, delay);
    sum += std::chrono::duration<double>(delay).count();
  }
  EXPECT_GE(least, Duration{0});
  EXPECT_LT(least, milliseconds(50));
  EXPECT_LE(most, seconds(8));
  EXPECT_GT(most, milliseconds(7950));
  EXPECT_NEAR(sum / kTimes, 4.0, 0.2);
}

TEST(RetryPolicyTest, AfterWinsWithoutJitterWithinZeroAndADay) {
  const RetryPolicy policy;
  SeededRandom random(7);
  EXPECT_EQ(RetryDelay(policy, 1, seconds(30), random), seconds(30));
  EXPECT_EQ(RetryDelay(policy, 1, hours(20), random), hours(20)) << "backoff_max does not bound it";
  EXPECT_EQ(RetryDelay(policy, 1, hours(25), random), hours(24));
  EXPECT_EQ(RetryDelay(policy, 1, -seconds(1), random), Duration{0});
}

TEST(RetryPolicyTest, AttemptsAreUsedUpAtTheLimitAndZeroIsUnlimited) {
  RetryPolicy policy;
  EXPECT_FALSE(AttemptsUsedUp(policy, 7));
  EXPECT_TRUE(AttemptsUsedUp(policy, 8));
  policy.attempts_max = 0;
  EXPECT_FALSE(AttemptsUsedUp(policy, std::numeric_limits<std::uint32_t>::max()));
}

}  // namespace
}  // namespace tocsin
