// Executor runs tasks one after the other, in the order posted, on one thread at a time (or, in the
// simulator, when the simulator says so). An owner's state is touched by its executor alone.

#pragma once

#include <utility>

#include "absl/functional/any_invocable.h"
#include "broker/base/clock.h"

namespace tocsin {

using Task = absl::AnyInvocable<void()>;

class Executor {
 public:
  virtual ~Executor() = default;

  // Thread-safe, never blocks, never runs `task` inside the call. Tasks posted by one thread run
  // in that order. After Stop() of an implementation, tasks are dropped.
  virtual void Post(Task task) = 0;

  // As Post, but may run `task`, and what was posted before it, inside the call: that saves waking
  // a thread. The caller holds no lock that a task takes, and must not mind waiting for a task.
  virtual void Dispatch(Task task) { Post(std::move(task)); }

  // As Dispatch; afterwards the call also does what the task has left to others by Follow(), which
  // may wait for the disk.
  virtual void DispatchThrough(Task task) { Dispatch(std::move(task)); }
  // As Post; but if the calling thread is in a DispatchThrough(), of whatever executor, it does the
  // task itself when that has ended, unless this executor is busy then. The executor must outlive
  // that call.
  virtual void Follow(Task task) { Post(std::move(task)); }

  // As Post, but not before `when` on the executor's clock.
  virtual void PostAt(Instant when, Task task) = 0;
};

}  // namespace tocsin
