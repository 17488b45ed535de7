// OneThreadExecutor: an Executor that runs its tasks on the calling thread, when told to.
//
// Tasks run in the order posted; a timer that is due runs before tasks posted after it became due
// was noticed, timers in the order of their times. Not thread-safe: one thread posts and runs.

#pragma once

#include <cstddef>
#include <deque>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "broker/base/executor.h"
#include "broker/virtual/virtual_clock.h"

namespace tocsin {

class OneThreadExecutor final : public Executor {
 public:
  // `clock` must outlive it.
  explicit OneThreadExecutor(VirtualClock& clock) : clock_(clock) {}

  void Post(Task task) override;
  void PostAt(Instant when, Task task) override;

  // Runs the next task or due timer; false if there is none.
  bool RunOne();

  // Runs what is due, and what that posts, until nothing is due or `tasks_max` have run. The
  // number that ran.
  std::size_t RunUntilIdle(std::size_t tasks_max = std::numeric_limits<std::size_t>::max());

  // As RunUntilIdle, advancing the clock (wall too) from timer to timer, and at last to now + by.
  std::size_t RunFor(Duration by);

  // A task or a due timer waits.
  bool HasWork() const;
  std::size_t waiting() const { return tasks_.size() + timers_.size(); }
  std::optional<Instant> NextTimer() const;

  // What a crash does: everything that waits is dropped without being run.
  void Clear();

 private:
  VirtualClock& clock_;
  std::deque<Task> tasks_;
  std::multimap<Instant, Task> timers_;  // equal times keep the order posted
};

}  // namespace tocsin
