#include "broker/virtual/virtual_clock.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "broker/virtual/one_thread_executor.h"

namespace tocsin {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(VirtualClockTest, BothClocksAdvanceAndOnlyTheWallJumps) {
  VirtualClock clock(WallTime(seconds(1000)));
  const Instant start = clock.Monotonic();
  clock.Advance(milliseconds(1500));
  EXPECT_EQ(clock.Wall(), WallTime(microseconds(1'001'500'000)));
  EXPECT_EQ(clock.Monotonic() - start, milliseconds(1500));
  clock.StepWall(-seconds(10));
  EXPECT_EQ(clock.Wall(), WallTime(microseconds(991'500'000)));
  EXPECT_EQ(clock.Monotonic() - start, milliseconds(1500));
  clock.SetWall(WallTime(seconds(5)));
  clock.AdvanceMonotonicTo(start + seconds(9));
  clock.AdvanceMonotonicTo(start + seconds(3));
  EXPECT_EQ(clock.Wall(), WallTime(seconds(5)));
  EXPECT_EQ(clock.Monotonic() - start, seconds(9));
}

TEST(VirtualClockTest, StepsBelowAMicrosecondAddUp) {
  VirtualClock clock(WallTime(seconds(0)));
  for (int i = 0; i < 1000; ++i) clock.Advance(Duration(500));
  EXPECT_EQ(clock.Wall(), WallTime(microseconds(500)));
}

TEST(OneThreadExecutorTest, TasksRunInOrderAndOnlyWhenTold) {
  VirtualClock clock;
  OneThreadExecutor executor(clock);
  std::vector<int> ran;
  executor.Post([&] {
    ran.push_back(1);
    executor.Post([&ran] { ran.push_back(3); });
  });
  executor.Post([&ran] { ran.push_back(2); });
  EXPECT_TRUE(ran.empty());
  EXPECT_TRUE(executor.HasWork());
  EXPECT_EQ(executor.RunUntilIdle(), 3u);
  EXPECT_EQ(ran, (std::vector<int>{1, 2, 3}));
  EXPECT_FALSE(executor.HasWork());
}

TEST(OneThreadExecutorTest, RunForVisitsEachTimerAtItsTime) {
  VirtualClock clock;
  OneThreadExecutor executor(clock);
  const Instant start = clock.Monotonic();
  std::vector<std::int64_t> at;
  const auto note = [&] { at.push_back((clock.Monotonic() - start).count()); };
  executor.PostAt(start + Duration(30), note);
  executor.PostAt(start + Duration(10), [&] {
    note();
    executor.PostAt(start + Duration(20), note);
  });
  executor.PostAt(start + Duration(31), note);
  EXPECT_EQ(executor.RunFor(Duration(30)), 3u);
  EXPECT_EQ(at, (std::vector<std::int64_t>{10, 20, 30}));
  EXPECT_EQ(*executor.NextTimer(), start + Duration(31));
  EXPECT_EQ(executor.RunFor(Duration(100)), 1u);
  EXPECT_EQ(clock.Monotonic(), start + Duration(130));
}

TEST(OneThreadExecutorTest, ClearDropsWithoutRunning) {
  VirtualClock clock;
  OneThreadExecutor executor(clock);
  const auto held = std::make_shared<int>(0);
  executor.Post([held] { ADD_FAILURE(); });
  executor.PostAt(clock.Monotonic(), [held] { ADD_FAILURE(); });
  executor.Clear();
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_EQ(executor.RunUntilIdle(), 0u);
}

}  // namespace
}  // namespace tocsin
