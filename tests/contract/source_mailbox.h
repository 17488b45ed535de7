// SourceMailbox: an owner's executor for tests of connectors with threads of their own: posted to
// by those, run by the test's thread.

#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/base/mutex.h"

namespace tocsin {

class SourceMailbox final : public Executor {
 public:
  ~SourceMailbox() override { ::close(posted_); }

  void Post(Task task) override {
    {
      MutexLock lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    const std::uint64_t one = 1;
    EXPECT_EQ(::write(posted_, &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  }
  // Run by RunUntil() when its time has come.
  void PostAt(Instant when, Task task) override {
    MutexLock lock(mutex_);
    timers_.emplace(when, std::move(task));
  }

  void RunUntilIdle() {
    std::vector<Task> tasks;
    {
      MutexLock lock(mutex_);
      tasks.swap(tasks_);
    }
    for (Task& task : tasks) task();
  }

  // For ten seconds: false.
  bool RunUntil(const Clock& clock, const std::function<bool()>& finished) {
    const Instant end = clock.Monotonic() + std::chrono::seconds(10);
    while (!finished()) {
      if (clock.Monotonic() > end) return false;
      RunTimers(clock.Monotonic());
      RunUntilIdle();
      if (!finished()) Wait(std::chrono::milliseconds(20));
    }
    return true;
  }

 private:
  void RunTimers(Instant now) {
    std::vector<Task> due;
    {
      MutexLock lock(mutex_);
      while (!timers_.empty() && timers_.begin()->first <= now) {
        due.push_back(std::move(timers_.begin()->second));
        timers_.erase(timers_.begin());
      }
    }
    for (Task& task : due) task();
  }
  void Wait(std::chrono::milliseconds at_most) const {
    pollfd waited{posted_, POLLIN, 0};
    if (::poll(&waited, 1, static_cast<int>(at_most.count())) <= 0) return;
    std::uint64_t count = 0;
    EXPECT_EQ(::read(posted_, &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
  }

  const int posted_ = ::eventfd(0, EFD_CLOEXEC);
  Mutex mutex_;
  std::vector<Task> tasks_ ABSL_GUARDED_BY(mutex_);
  std::multimap<Instant, Task> timers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tocsin
