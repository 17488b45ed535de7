#include "broker/schedule/timing_wheel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>

#include "broker/base/random.h"

namespace tocsin {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr WallTime kStart = WallTime(std::chrono::seconds(1'800'000'000));

TEST(TimingWheelTest, NothingArmedNeedsNoWakeUp) {
  TimingWheel wheel(kStart);
  std::vector<std::uint32_t> due;
  wheel.Advance(kStart + hours(100'000), due);
  EXPECT_TRUE(due.empty());
  EXPECT_FALSE(wheel.NextWake().has_value());
}

TEST(TimingWheelTest, ATimerOfThePastIsDueAtOnce) {
  TimingWheel wheel(kStart);
  wheel.Arm(3, kStart - hours(1));
  EXPECT_LE(*wheel.NextWake(), kStart);
  std::vector<std::uint32_t> due;
  wheel.Advance(kStart, due);
  EXPECT_EQ(due, std::vector<std::uint32_t>{3});
  EXPECT_EQ(wheel.armed(), 0U);
}

TEST(TimingWheelTest, FollowingTheWakeUpsGivesEachTimerInItsMillisecond) {
  const char* given = std::getenv("TOCSIN_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 0) : SystemSeed();
  std::cout << "seed " << seed << "\n";
  SeededRandom random(seed);
  TimingWheel wheel(kStart);
  std::map<std::uint32_t, WallTime> model;
  WallTime now = kStart;
  const auto arm = [&](std::uint32_t id) {
    // From microseconds to ten years.
    const std::uint64_t range = std::uint64_t{1} << random.Below(49);
    const WallTime when = now + microseconds(static_cast<std::int64_t>(random.Below(range)));
    wheel.Arm(id, when);
    model[id] = when;
  };
  for (std::uint32_t id = 0; id < 2000; ++id) arm(id);
  std::size_t wakes = 0;
  std::size_t fired = 0;
  while (!model.empty()) {
    const std::optional<WallTime> wake = wheel.NextWake();
    ASSERT_TRUE(wake.has_value());
    now = std::max(now, *wake);
    ++wakes;
    std::vector<std::uint32_t> due;
    wheel.Advance(now, due);
    for (const std::uint32_t id : due) {
      ASSERT_TRUE(model.contains(id));
      ASSERT_LE(model[id], now);
      ASSERT_LT(now - model[id], milliseconds(1));
      model.erase(id);
      ++fired;
    }
    for (const auto& [id, when] : model) ASSERT_GT(when, now - milliseconds(1));
    if (fired < 3000 && random.Below(3) == 0) arm(static_cast<std::uint32_t>(random.Below(2500)));
    if (random.Below(10) == 0 && !model.empty()) {
      const std::uint32_t id = model.begin()->first;
      wheel.Disarm(id);
      model.erase(id);
    }
    ASSERT_EQ(wheel.armed(), model.size());
  }
  EXPECT_LE(wakes, 8 * (fired + 2000));
}

TEST(TimingWheelTest, AClockSetBackMovesNothingForward) {
  TimingWheel wheel(kStart);
  wheel.Arm(1, kStart + milliseconds(10));
  wheel.Arm(2, kStart + hours(2));
  std::vector<std::uint32_t> due;
  wheel.Advance(kStart + hours(1), due);
  EXPECT_EQ(due, std::vector<std::uint32_t>{1});
  due.clear();
  wheel.Advance(kStart - hours(1), due);  // three hours before 2
  wheel.Arm(1, kStart - milliseconds(1));
  wheel.Advance(kStart - milliseconds(2), due);
  EXPECT_TRUE(due.empty());
  wheel.Advance(kStart, due);
  EXPECT_EQ(due, std::vector<std::uint32_t>{1});
  due.clear();
  wheel.Advance(kStart + hours(2), due);
  EXPECT_EQ(due, std::vector<std::uint32_t>{2});
}

TEST(TimingWheelTest, ASmallStepBackIsWaitedOutAndNothingIsEarly) {
  TimingWheel wheel(kStart);
  std::vector<std::uint32_t> due;
  wheel.Advance(kStart + milliseconds(500), due);
  wheel.Arm(1, kStart + milliseconds(400));
  wheel.Advance(kStart + milliseconds(300), due);
  EXPECT_TRUE(due.empty());
  EXPECT_EQ(*wheel.NextWake(), kStart + milliseconds(400));
  wheel.Advance(kStart + milliseconds(400), due);
  EXPECT_EQ(due, std::vector<std::uint32_t>{1});
}

TEST(TimingWheelTest, AHundredThousandAtOneInstantAreAllDue) {
  TimingWheel wheel(kStart);
  for (std::uint32_t id = 0; id < 100'000; ++id) wheel.Arm(id, kStart + hours(24));
  std::vector<std::uint32_t> due;
  wheel.Advance(kStart + hours(24), due);
  EXPECT_EQ(due.size(), 100'000U);
}

}  // namespace
}  // namespace tocsin
