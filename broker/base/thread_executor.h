// ThreadExecutor: an Executor with one thread of its own, whose place a Dispatch() may take. The
// destructor stops it: the task that runs is finished, what waits is dropped.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "broker/base/executor.h"

namespace tocsin {

class ThreadExecutor final : public Executor {
 public:
  // Whether a Gathering's end may do its tasks: they must be short then, or see to it by OnLoan().
  enum class Gathered : std::uint8_t { kNo, kYes };

  // `name` is what `ps -L` and `top -H` show (at most 15 bytes are kept). `clock` must outlive it;
  // PostAt waits by std::condition_variable against clock.Monotonic().
  ThreadExecutor(const std::string& name, const Clock& clock, Gathered gathered = Gathered::kNo);
  ~ThreadExecutor() override;

  void Post(Task task) override;
  // Inside the call when the thread has nothing to do.
  void Dispatch(Task task) override;
  void DispatchThrough(Task task) override;
  void Follow(Task task) override;
  void PostAt(Instant when, Task task) override;

  // In a task: whether another thread does it in the place of its executor's, which has other
  // things to do. What takes long is posted again then.
  static bool OnLoan();

  // What a thread posts while one of these exists, to executors of Gathered::kYes whose threads
  // sleep, wakes them only if it cannot be done in their place when this ends: as Dispatch() for
  // all of it. Short: others' tasks may wait behind it. The executors must outlive it; the thread
  // holds no lock then that a task takes.
  class Gathering {
   public:
    Gathering();
    ~Gathering();
    Gathering(const Gathering&) = delete;
    Gathering& operator=(const Gathering&) = delete;

   private:
    friend class ThreadExecutor;
    Gathering* const outer_;
    std::vector<ThreadExecutor*> executors_;
    static thread_local Gathering* current;
  };

  // Runs what was posted before, then ends the thread. Must not be called from a task.
  void Stop();

 private:
  struct Impl;
  struct Followers;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tocsin
