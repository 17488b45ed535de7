#include "broker/base/thread_executor.h"

#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "broker/base/system_clock.h"

namespace tocsin {
namespace {

TEST(ThreadExecutorTest, TasksOfOneThreadRunInTheOrderPosted) {
  SystemClock clock;
  std::vector<int> ran;
  ThreadExecutor executor("order", clock);
  for (int i = 0; i < 1000; ++i) executor.Post([&ran, i] { ran.push_back(i); });
  executor.Stop();
  ASSERT_EQ(ran.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(ran[static_cast<std::size_t>(i)], i);
}

TEST(ThreadExecutorTest, ATaskNeverRunsInsidePost) {
  SystemClock clock;
  ThreadExecutor executor("inside", clock);
  std::promise<std::thread::id> ran;
  executor.Post([&ran] { ran.set_value(std::this_thread::get_id()); });
  EXPECT_NE(ran.get_future().get(), std::this_thread::get_id());
}

TEST(ThreadExecutorTest, TimersRunInTheOrderOfTheirTimesAndNotBefore) {
  SystemClock clock;
  ThreadExecutor executor("timers", clock);
  const Instant start = clock.Monotonic();
  std::vector<int> ran;
  std::promise<Instant> last;
  executor.PostAt(start + std::chrono::milliseconds(20), [&] {
    ran.push_back(3);
    last.set_value(clock.Monotonic());
  });
  executor.PostAt(start + std::chrono::milliseconds(10), [&ran] { ran.push_back(1); });
  executor.PostAt(start + std::chrono::milliseconds(10), [&ran] { ran.push_back(2); });
  EXPECT_GE(last.get_future().get(), start + std::chrono::milliseconds(20));
  executor.Stop();
  EXPECT_EQ(ran, (std::vector<int>{1, 2, 3}));
}

TEST(ThreadExecutorTest, TheDestructorDropsWhatWaits) {
  SystemClock clock;
  const auto held = std::make_shared<int>(0);
  {
    ThreadExecutor executor("drop", clock);
    executor.PostAt(clock.Monotonic() + std::chrono::hours(1), [held] { ADD_FAILURE(); });
  }
  EXPECT_EQ(held.use_count(), 1);
}

TEST(ThreadExecutorTest, PostAfterStopIsDropped) {
  SystemClock clock;
  ThreadExecutor executor("stopped", clock);
  executor.Stop();
  executor.Post([] { ADD_FAILURE(); });
}

TEST(ThreadExecutorTest, ATaskMayPostToItsOwnExecutor) {
  SystemClock clock;
  ThreadExecutor executor("self", clock);
  std::promise<void> done;
  executor.Post([&] { executor.Post([&done] { done.set_value(); }); });
  done.get_future().get();
}

TEST(SystemClockTest, MonotonicNeverDecreasesAndWallIsAfter2020) {
  SystemClock clock;
  Instant before = clock.Monotonic();
  for (int i = 0; i < 1000; ++i) {
    const Instant now = clock.Monotonic();
    ASSERT_GE(now, before);
    before = now;
  }
  EXPECT_GT(clock.Wall(), WallTime(std::chrono::seconds(1577836800)));
}

}  // namespace
}  // namespace tocsin
