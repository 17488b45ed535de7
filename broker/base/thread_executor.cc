#include "broker/base/thread_executor.h"

#include <pthread.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "broker/base/check.h"

namespace tocsin {
namespace {

constexpr int kRounds = 2;

thread_local bool on_loan = false;

struct Timer {
  Instant when;
  std::uint64_t sequence = 0;
  Task task;
};

// For std::push_heap: the earliest timer on top, the first posted of equals.
struct Later {
  bool operator()(const Timer& a, const Timer& b) const {
    return a.when != b.when ? a.when > b.when : a.sequence > b.sequence;
  }
};

}  // namespace

struct ThreadExecutor::Impl {
  Impl(const Clock& system, Gathered gathered_in) : clock(system), gathered(gathered_in) {}

  enum class Mode { kRunning, kFinishing, kDropping };

  const Clock& clock;
  const Gathered gathered;
  std::mutex mutex;
  std::condition_variable wake;
  // Guarded by mutex.
  Mode mode = Mode::kRunning;
  bool waiting = false;
  bool borrowed = false;   // a Dispatch() runs tasks in the thread's place
  bool overslept = false;  // meanwhile the thread wanted to run
  std::uint64_t sequence = 0;
  std::vector<Task> tasks;
  std::vector<Timer> timers;  // a heap by Later
  // Set by Stop() and the destructor alone.
  std::thread thread;

  bool Dropping() {
    const std::lock_guard<std::mutex> lock(mutex);
    return mode == Mode::kDropping;
  }

  void MoveDueTimers() {
    if (timers.empty()) return;
    const Instant now = clock.Monotonic();
    while (!timers.empty() && timers.front().when <= now) {
      std::pop_heap(timers.begin(), timers.end(), Later{});
      tasks.push_back(std::move(timers.back().task));
      timers.pop_back();
    }
  }

  // False: the thread ends.
  bool Take(std::vector<Task>& batch) {
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
      if (borrowed) {
        overslept = true;
        wake.wait(lock);
        continue;
      }
      if (mode == Mode::kDropping) return false;
      MoveDueTimers();
      if (!tasks.empty()) {
        batch.swap(tasks);
        return true;
      }
      if (mode == Mode::kFinishing) return false;
      waiting = true;
      if (timers.empty()) {
        wake.wait(lock);
      } else {
        wake.wait_for(lock, timers.front().when - clock.Monotonic());
      }
      waiting = false;
    }
  }

  void Run() {
    std::vector<Task> batch;
    while (Take(batch)) RunAll(batch);
  }

  void RunAll(std::vector<Task>& batch) {
    for (Task& task : batch) {
      if (Dropping()) break;
      std::move(task)();
      task = nullptr;  // what it holds goes before the next one runs
    }
    batch.clear();
  }

  void Dispatch(Task task, int rounds) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (mode != Mode::kRunning) return;
      tasks.push_back(std::move(task));
      // Else somebody will look.
      if (!Sleeps() || tasks.size() > 1) return;
      borrowed = true;
    }
    RunBorrowed(rounds);
  }

  // What was posted and not told to the thread.
  void RunGathered() {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!Sleeps() || tasks.empty() || mode != Mode::kRunning) return;
      borrowed = true;
    }
    RunBorrowed(kRounds);
  }

  // Else it runs, or somebody has its place and looks again.
  bool Sleeps() const { return waiting && !borrowed; }

  // In the second round what the first has posted: an answer's turn comes with the answer.
  void RunBorrowed(int rounds) {
    const bool outer = std::exchange(on_loan, true);
    std::vector<Task> batch;
    for (int round = 0; round < rounds; ++round) {
      {
        const std::lock_guard<std::mutex> lock(mutex);
        if (tasks.empty()) break;
        batch.swap(tasks);
      }
      RunAll(batch);
    }
    on_loan = outer;
    const std::lock_guard<std::mutex> lock(mutex);
    borrowed = false;
    // Under the mutex: this object may go as soon as the thread has run.
    if (std::exchange(overslept, false) || !tasks.empty() || mode != Mode::kRunning) {
      wake.notify_all();
    }
  }

  void End(Mode how) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      if (mode != Mode::kDropping) mode = how;
    }
    wake.notify_all();
    if (thread.joinable()) {
      TOCSIN_CHECK(thread.get_id() != std::this_thread::get_id(), "stopped from its own task");
      thread.join();
    }
    std::vector<Task> dropped_tasks;
    std::vector<Timer> dropped_timers;
    const std::lock_guard<std::mutex> lock(mutex);
    dropped_tasks.swap(tasks);
    dropped_timers.swap(timers);
  }
};

// Of the DispatchThrough() that the thread is in.
struct ThreadExecutor::Followers {
  std::vector<std::pair<ThreadExecutor*, Task>> tasks;
  static thread_local Followers* current;
};

thread_local ThreadExecutor::Followers* ThreadExecutor::Followers::current = nullptr;

ThreadExecutor::ThreadExecutor(const std::string& name, const Clock& clock, Gathered gathered)
    : impl_(std::make_unique<Impl>(clock, gathered)) {
  impl_->thread = std::thread([impl = impl_.get()] { impl->Run(); });
  pthread_setname_np(impl_->thread.native_handle(), name.substr(0, 15).c_str());
}

ThreadExecutor::~ThreadExecutor() { impl_->End(Impl::Mode::kDropping); }

void ThreadExecutor::Post(Task task) {
  bool notify = false;
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    if (impl_->mode != Impl::Mode::kRunning) return;
    impl_->tasks.push_back(std::move(task));
    notify = impl_->Sleeps() && impl_->tasks.size() == 1;
  }
  if (!notify) return;
  if (Gathering::current != nullptr && impl_->gathered == Gathered::kYes) {
    Gathering::current->executors_.push_back(this);
  } else {
    impl_->wake.notify_one();
  }
}

void ThreadExecutor::Dispatch(Task task) { impl_->Dispatch(std::move(task), kRounds); }

bool ThreadExecutor::OnLoan() { return on_loan; }

void ThreadExecutor::DispatchThrough(Task task) {
  Followers followers;
  Followers* const outer = std::exchange(Followers::current, &followers);
  impl_->Dispatch(std::move(task), kRounds);
  Followers::current = outer;
  // Once: what they post in turn is not this thread's any more, and may wait for the disk again.
  for (auto& [executor, following] : followers.tasks) {
    executor->impl_->Dispatch(std::move(following), 1);
  }
}

void ThreadExecutor::Follow(Task task) {
  if (Followers::current == nullptr) return Post(std::move(task));
  Followers::current->tasks.emplace_back(this, std::move(task));
}

thread_local ThreadExecutor::Gathering* ThreadExecutor::Gathering::current = nullptr;

ThreadExecutor::Gathering::Gathering() : outer_(std::exchange(current, this)) {}

ThreadExecutor::Gathering::~Gathering() {
  current = outer_;
  for (ThreadExecutor* executor : executors_) executor->impl_->RunGathered();
}

void ThreadExecutor::PostAt(Instant when, Task task) {
  bool notify = false;
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex);
    if (impl_->mode != Impl::Mode::kRunning) return;
    impl_->timers.push_back(Timer{when, impl_->sequence++, std::move(task)});
    std::push_heap(impl_->timers.begin(), impl_->timers.end(), Later{});
    // Else the thread wakes before it anyhow.
    const bool first = impl_->timers.front().sequence + 1 == impl_->sequence;
    if (impl_->borrowed) impl_->overslept = impl_->overslept || first;
    notify = first && impl_->Sleeps();
  }
  if (notify) impl_->wake.notify_one();
}

void ThreadExecutor::Stop() { impl_->End(Impl::Mode::kFinishing); }

}  // namespace tocsin
