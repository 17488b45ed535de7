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

// Dispatches until a task has run inside the call: the thread may not sleep yet at first.
bool RunsInside(const Clock& clock, ThreadExecutor& executor) {
  const Instant deadline = clock.Monotonic() + std::chrono::seconds(20);
  while (clock.Monotonic() < deadline) {
    std::promise<std::thread::id> ran;
    executor.Dispatch([&ran] { ran.set_value(std::this_thread::get_id()); });
    if (ran.get_future().get() == std::this_thread::get_id()) return true;
  }
  return false;
}

TEST(ThreadExecutorTest, DispatchRunsOnTheCallersThreadWhileItsOwnSleeps) {
  SystemClock clock;
  ThreadExecutor executor("dispatch", clock);
  EXPECT_TRUE(RunsInside(clock, executor));
}

TEST(ThreadExecutorTest, WhatIsPostedDuringADispatchIsRunByTheThreadAfterwards) {
  SystemClock clock;
  ThreadExecutor executor("after", clock);
  ASSERT_TRUE(RunsInside(clock, executor));
  const std::thread::id self = std::this_thread::get_id();
  bool inside = false;
  while (!inside) {
    bool over = false;
    std::promise<bool> posted;
    std::promise<bool> due;
    executor.Dispatch([&] {
      inside = std::this_thread::get_id() == self;
      executor.PostAt(clock.Monotonic(), [&] { due.set_value(over); });
      std::thread([&] { executor.Post([&] { posted.set_value(over); }); }).join();
      over = true;
    });
    EXPECT_TRUE(posted.get_future().get());
    EXPECT_TRUE(due.get_future().get());
  }
}

// Dispatches through until both have run inside the call.
TEST(ThreadExecutorTest, WhatFollowsADispatchThroughRunsOnTheCallersThreadAfterIt) {
  SystemClock clock;
  ThreadExecutor first("first", clock);
  ThreadExecutor second("second", clock);
  ASSERT_TRUE(RunsInside(clock, first));
  ASSERT_TRUE(RunsInside(clock, second));
  const std::thread::id self = std::this_thread::get_id();
  const Instant deadline = clock.Monotonic() + std::chrono::seconds(20);
  bool inside = false;
  while (!inside && clock.Monotonic() < deadline) {
    std::vector<int> order;
    std::promise<std::thread::id> followed;
    first.DispatchThrough([&] {
      second.Follow([&] {
        order.push_back(2);
        followed.set_value(std::this_thread::get_id());
      });
      if (std::this_thread::get_id() == self) order.push_back(1);
    });
    inside = followed.get_future().get() == self && order == std::vector<int>{1, 2};
  }
  EXPECT_TRUE(inside);
}

TEST(ThreadExecutorTest, WithoutADispatchThroughWhatFollowsIsPosted) {
  SystemClock clock;
  ThreadExecutor first("first", clock);
  ThreadExecutor second("second", clock);
  ASSERT_TRUE(RunsInside(clock, first));
  const std::thread::id self = std::this_thread::get_id();
  for (int i = 0; i < 20; ++i) {
    std::promise<std::thread::id> followed;
    first.Dispatch([&] { second.Follow([&] { followed.set_value(std::this_thread::get_id()); }); });
    EXPECT_NE(followed.get_future().get(), self);
  }
}

TEST(ThreadExecutorTest, WhatIsGatheredRunsOnTheCallersThreadAtTheEnd) {
  SystemClock clock;
  ThreadExecutor first("first", clock, ThreadExecutor::Gathered::kYes);
  ThreadExecutor second("second", clock, ThreadExecutor::Gathered::kYes);
  ASSERT_TRUE(RunsInside(clock, first));
  ASSERT_TRUE(RunsInside(clock, second));
  const std::thread::id self = std::this_thread::get_id();
  const Instant deadline = clock.Monotonic() + std::chrono::seconds(20);
  bool inside = false;
  while (!inside && clock.Monotonic() < deadline) {
    std::vector<int> order;
    std::promise<std::thread::id> last;
    bool early = false;
    {
      const ThreadExecutor::Gathering gathering;
      first.Post([&] {
        if (std::this_thread::get_id() == self) order.push_back(1);
        // What a task posts there comes with it.
        first.Post([&] { last.set_value(std::this_thread::get_id()); });
      });
      second.Post([&] {
        if (std::this_thread::get_id() == self) order.push_back(2);
      });
      early = !order.empty();
    }
    EXPECT_FALSE(early);
    inside = last.get_future().get() == self && order == std::vector<int>{1, 2};
    second.Dispatch([] {});
    std::promise<void> over;
    second.Post([&over] { over.set_value(); });
    over.get_future().get();
  }
  EXPECT_TRUE(inside);
}

TEST(ThreadExecutorTest, WhatIsGatheredForABusyThreadIsRunByIt) {
  SystemClock clock;
  ThreadExecutor executor("busy", clock, ThreadExecutor::Gathered::kYes);
  std::promise<void> busy;
  std::promise<void> go;
  executor.Post([&] {
    busy.set_value();
    go.get_future().get();
  });
  busy.get_future().get();
  std::promise<std::thread::id> ran;
  {
    const ThreadExecutor::Gathering gathering;
    executor.Post([&ran] { ran.set_value(std::this_thread::get_id()); });
  }
  go.set_value();
  EXPECT_NE(ran.get_future().get(), std::this_thread::get_id());
}

TEST(ThreadExecutorTest, WhoIsNotToBeGatheredRunsOnItsOwnThread) {
  SystemClock clock;
  ThreadExecutor executor("own", clock);
  ASSERT_TRUE(RunsInside(clock, executor));
  for (int i = 0; i < 20; ++i) {
    std::promise<std::thread::id> ran;
    {
      const ThreadExecutor::Gathering gathering;
      executor.Post([&ran] { ran.set_value(std::this_thread::get_id()); });
    }
    EXPECT_NE(ran.get_future().get(), std::this_thread::get_id());
  }
}

TEST(ThreadExecutorTest, ATaskKnowsWhetherItIsOnLoan) {
  SystemClock clock;
  ThreadExecutor executor("loan", clock);
  const std::thread::id self = std::this_thread::get_id();
  const Instant deadline = clock.Monotonic() + std::chrono::seconds(20);
  bool on_loan = false;
  while (!on_loan && clock.Monotonic() < deadline) {
    std::promise<void> over;
    executor.Dispatch([&] {
      EXPECT_EQ(ThreadExecutor::OnLoan(), std::this_thread::get_id() == self);
      on_loan = ThreadExecutor::OnLoan();
      over.set_value();
    });
    over.get_future().get();
  }
  EXPECT_TRUE(on_loan);
  EXPECT_FALSE(ThreadExecutor::OnLoan());
}

// It sleeps until a later one: the thread that has its place must not wake it, and it must not
// sleep on.
TEST(ThreadExecutorTest, AnEarlierTimerOfATaskOnLoanIsKept) {
  SystemClock clock;
  ThreadExecutor executor("timer", clock);
  executor.PostAt(clock.Monotonic() + std::chrono::hours(1), [] {});
  ASSERT_TRUE(RunsInside(clock, executor));
  for (int i = 0; i < 20; ++i) {
    std::promise<void> fired;
    executor.Dispatch([&] {
      executor.PostAt(clock.Monotonic() + std::chrono::milliseconds(2), [&] { fired.set_value(); });
    });
    EXPECT_EQ(fired.get_future().wait_for(std::chrono::seconds(20)), std::future_status::ready);
  }
}

// The danger: two threads inside one owner, or one thread's tasks out of order.
TEST(ThreadExecutorTest, DispatchAndPostRunOneTaskAtATimeInEachThreadsOrder) {
  SystemClock clock;
  constexpr int kThreads = 4;
  constexpr int kTasks = 5000;
  std::vector<int> next(kThreads);
  int total = 0;  // no atomic: the executor alone makes it safe
  int disordered = 0;
  ThreadExecutor executor("mixed", clock, ThreadExecutor::Gathered::kYes);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < kTasks; ++i) {
        const auto task = [&, thread, i] {
          ++total;
          disordered += next[static_cast<std::size_t>(thread)]++ == i ? 0 : 1;
        };
        if (i % 4 == 0) {
          executor.Post(task);
        } else if (i % 4 == 1) {
          const ThreadExecutor::Gathering gathering;
          executor.Post(task);
        } else if (i % 4 == 2) {
          executor.DispatchThrough(task);
        } else {
          executor.Dispatch(task);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  executor.Stop();
  EXPECT_EQ(total, kThreads * kTasks);
  EXPECT_EQ(disordered, 0);
}

TEST(ThreadExecutorTest, DispatchAfterStopIsDropped) {
  SystemClock clock;
  ThreadExecutor executor("stopped", clock);
  executor.Stop();
  executor.Dispatch([] { ADD_FAILURE(); });
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
