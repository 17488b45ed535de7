// ThreadExecutor: an Executor with one thread of its own, whose place a Dispatch() may take. The
// destructor stops it: the task that runs is finished, what waits is dropped.

#pragma once

#include <memory>
#include <string>

#include "broker/base/executor.h"

namespace tocsin {

class ThreadExecutor final : public Executor {
 public:
  // `name` is what `ps -L` and `top -H` show (at most 15 bytes are kept). `clock` must outlive it;
  // PostAt waits by std::condition_variable against clock.Monotonic().
  ThreadExecutor(const std::string& name, const Clock& clock);
  ~ThreadExecutor() override;

  void Post(Task task) override;
  // Inside the call when the thread has nothing to do.
  void Dispatch(Task task) override;
  void DispatchThrough(Task task) override;
  void Follow(Task task) override;
  void PostAt(Instant when, Task task) override;

  // Runs what was posted before, then ends the thread. Must not be called from a task.
  void Stop();

 private:
  struct Impl;
  struct Followers;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tocsin
