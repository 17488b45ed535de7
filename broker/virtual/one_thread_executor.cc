#include "broker/virtual/one_thread_executor.h"

namespace tocsin {

void OneThreadExecutor::Post(Task task) { tasks_.push_back(std::move(task)); }

void OneThreadExecutor::PostAt(Instant when, Task task) { timers_.emplace(when, std::move(task)); }

bool OneThreadExecutor::RunOne() {
  while (!timers_.empty() && timers_.begin()->first <= clock_.Monotonic()) {
    tasks_.push_back(std::move(timers_.begin()->second));
    timers_.erase(timers_.begin());
  }
  if (tasks_.empty()) return false;
  Task task = std::move(tasks_.front());
  tasks_.pop_front();
  std::move(task)();
  return true;
}

std::size_t OneThreadExecutor::RunUntilIdle(std::size_t tasks_max) {
  std::size_t ran = 0;
  while (ran < tasks_max && RunOne()) ++ran;
  return ran;
}

std::size_t OneThreadExecutor::RunFor(Duration by) {
  const Instant end = clock_.Monotonic() + by;
  std::size_t ran = RunUntilIdle();
  while (!timers_.empty() && timers_.begin()->first <= end) {
    const Instant next = timers_.begin()->first;
    if (next > clock_.Monotonic()) clock_.Advance(next - clock_.Monotonic());
    ran += RunUntilIdle();
  }
  if (end > clock_.Monotonic()) clock_.Advance(end - clock_.Monotonic());
  return ran;
}

bool OneThreadExecutor::HasWork() const {
  return !tasks_.empty() || (!timers_.empty() && timers_.begin()->first <= clock_.Monotonic());
}

std::optional<Instant> OneThreadExecutor::NextTimer() const {
  if (timers_.empty()) return std::nullopt;
  return timers_.begin()->first;
}

void OneThreadExecutor::Clear() {
  // What a task holds may post when it is destroyed.
  while (!tasks_.empty() || !timers_.empty()) {
    std::deque<Task> tasks;
    std::multimap<Instant, Task> timers;
    tasks.swap(tasks_);
    timers.swap(timers_);
  }
}

}  // namespace tocsin
