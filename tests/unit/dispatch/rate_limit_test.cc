#include "dispatch/rate_limit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>

#include "broker/base/random.h"

namespace tocsin {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Instant kStart{seconds(50)};

TEST(RateLimitTest, WithoutARateThereIsNoEnd) {
  RateLimit limit;
  EXPECT_FALSE(limit.limited());
  limit.Take(1'000'000, kStart);
  EXPECT_GT(limit.Left(kStart), std::uint64_t{1} << 60);
}

TEST(RateLimitTest, ItFillsEvenlyAndKeepsATenthOfASecond) {
  RateLimit limit;
  limit.Set({100, seconds(1)}, kStart);
  EXPECT_EQ(limit.Left(kStart), 10u);
  limit.Take(10, kStart);
  EXPECT_EQ(limit.Left(kStart + milliseconds(9)), 0u);
  EXPECT_EQ(limit.Left(kStart + milliseconds(10)), 1u);
  EXPECT_EQ(limit.Left(kStart + milliseconds(35)), 3u);
  EXPECT_EQ(limit.Left(kStart + seconds(60)), 10u);
  EXPECT_EQ(limit.Left(kStart + hours(24 * 365 * 100)), 10u);
}

TEST(RateLimitTest, AFewADayAreSpreadOverTheDay) {
  RateLimit limit;
  limit.Set({2, hours(24)}, kStart);
  EXPECT_EQ(limit.Left(kStart), 1u);
  limit.Take(1, kStart);
  EXPECT_EQ(limit.Next(kStart), kStart + hours(12));
  EXPECT_EQ(limit.Left(kStart + hours(12) - microseconds(1)), 0u);
  EXPECT_EQ(limit.Left(kStart + hours(12)), 1u);
  EXPECT_EQ(limit.Left(kStart + hours(240)), 1u);
}

TEST(RateLimitTest, ATurnThatComesLateLosesNothing) {
  RateLimit limit;
  limit.Set({4, seconds(1)}, kStart);
  limit.Take(1, kStart);
  Instant now = kStart;
  for (int i = 1; i <= 20; ++i) {
    now = limit.Next(now) + milliseconds(40);
    ASSERT_EQ(limit.Left(now), 1u);
    limit.Take(1, now);
    ASSERT_EQ(now, kStart + i * milliseconds(250) + milliseconds(40));
  }
}

TEST(RateLimitTest, TheSameRateAgainChangesNothingAndAnotherGoesOn) {
  RateLimit limit;
  limit.Set({10, seconds(1)}, kStart);
  limit.Take(1, kStart);
  limit.Set({10, seconds(1)}, kStart);
  EXPECT_EQ(limit.Left(kStart), 0u);
  limit.Set({20, seconds(1)}, kStart);
  EXPECT_EQ(limit.Left(kStart), 0u);
  EXPECT_EQ(limit.Next(kStart), kStart + milliseconds(50));
  // Half of one is half of one.
  const Instant half = kStart + milliseconds(25);
  limit.Set({2, hours(24)}, half);
  EXPECT_EQ(limit.Next(half), half + hours(6));
  limit.Set({100, seconds(1)}, half + hours(6));
  EXPECT_EQ(limit.Left(half + hours(6)), 1u);
  limit.Set({}, half + hours(6));
  EXPECT_FALSE(limit.limited());
  limit.Set({100, seconds(1)}, half + hours(6));
  EXPECT_EQ(limit.Left(half + hours(6)), 10u) << "there was none";
  limit.Set({10, seconds(1)}, half + hours(6));
  EXPECT_EQ(limit.Left(half + hours(6)), 1u) << "never more than it keeps";
}

TEST(RateLimitTest, WhatDidNotBeginComesBackAndNeverMoreThanFits) {
  RateLimit limit;
  limit.Set({20, seconds(1)}, kStart);
  EXPECT_EQ(limit.Left(kStart), 2u);
  limit.Take(2, kStart);
  limit.GiveBack(1);
  EXPECT_EQ(limit.Left(kStart), 1u);
  limit.GiveBack(100);
  EXPECT_EQ(limit.Left(kStart), 2u);
}

TEST(RateLimitTest, WhoTakesMoreThanThereIsWaitsTheLonger) {
  RateLimit limit;
  limit.Set({10, seconds(1)}, kStart);
  limit.Take(11, kStart);
  EXPECT_EQ(limit.Left(kStart), 0u);
  EXPECT_EQ(limit.Next(kStart), kStart + milliseconds(1100));
  EXPECT_EQ(limit.Left(kStart + milliseconds(1099)), 0u);
  EXPECT_EQ(limit.Left(kStart + milliseconds(1100)), 1u);
  limit.GiveBack(10);
  EXPECT_EQ(limit.Next(kStart), kStart + milliseconds(100));
  limit.GiveBack(1000);
  EXPECT_EQ(limit.Left(kStart), 1u);
}

TEST(RateLimitTest, WhatWasTakenTooEarlyIsPaidBackInItsOwnTime) {
  RateLimit limit;
  limit.Set({100, seconds(1)}, kStart);
  limit.Take(1000, kStart);
  limit.Set({10, seconds(60)}, kStart);
  EXPECT_LE(limit.Next(kStart), kStart + seconds(10 + 6));
  EXPECT_GE(limit.Next(kStart), kStart + seconds(9));
}

// Whoever takes of it, whenever: the rate is never passed, and there is some when it said so.
TEST(RateLimitTest, TheRateHoldsHoweverItIsTaken) {
  const char* text = std::getenv("TOCSIN_SEED");
  SeededRandom random(text == nullptr ? 1 : std::strtoull(text, nullptr, 10));
  for (int run = 0; run < 300; ++run) {
    const Rate rate{static_cast<std::uint32_t>(1 + random.Below(run % 3 == 0 ? 1'000'000 : 300)),
                    run % 2 == 0 ? seconds(1) : seconds(60)};
    RateLimit limit;
    limit.Set(rate, kStart);
    Instant now = kStart;
    std::uint64_t taken = 0;
    const double per_second = rate.count / std::chrono::duration<double>(rate.per).count();
    const double kept = 1 + per_second / 10;
    for (int step = 0; step < 500; ++step) {
      const std::uint64_t left = limit.Left(now);
      const std::uint64_t count = left == 0 ? 0 : 1 + random.Below(left);
      limit.Take(count, now);
      taken += count;
      const double passed = std::chrono::duration<double>(now - kStart).count();
      ASSERT_LE(static_cast<double>(taken), passed * per_second + kept + 1e-3)
          << rate.count << " per " << rate.per.count();
      if (limit.Left(now) == 0) {
        const Instant next = limit.Next(now);
        ASSERT_GT(next, now);
        ASSERT_GE(limit.Left(next), 1u);
        ASSERT_LE(next - now, std::max<Duration>(rate.per / rate.count + Duration(1),
                                                 milliseconds(26) + rate.per / (4 * rate.count)));
        now = next;
      } else {
        now += microseconds(random.Below(100));
      }
    }
  }
}

}  // namespace
}  // namespace tocsin
