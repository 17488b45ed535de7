#include "sdk/cpp/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>

namespace tocsin::sdk::internal {
namespace {

using std::chrono::steady_clock;

constexpr std::size_t kSpareMax = 4096;  // of Running, about 400 bytes each

Result FromException(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const std::exception& error) {
    return RetryError("exception", error.what());
  } catch (...) {
    return RetryError("exception", "something that is not a std::exception was thrown");
  }
}

}  // namespace

Engine::Engine(std::string name, WorkerOptions options)
    : name_(std::move(name)), options_([&options] {
        options.connection = Resolve(std::move(options.connection));
        return std::move(options);
      }()) {}

Engine::~Engine() { StopThreads(); }

void Engine::AddFunction(std::string name, Handler handler, std::uint32_t concurrency) {
  auto function = std::make_unique<Function>();
  function->name = std::move(name);
  function->handler = std::move(handler);
  function->concurrency = std::max(1U, concurrency);
  functions_.push_back(std::move(function));
}

void Engine::AddBatch(std::string name, BatchHandler handler, BatchOptions options) {
  auto function = std::make_unique<Function>();
  function->name = std::move(name);
  function->batch = std::move(handler);
  options.max_items = std::max(1U, options.max_items);
  function->batch_options = options;
  function->concurrency = std::max(1U, options.concurrency);
  functions_.push_back(std::move(function));
}

std::vector<std::string> Engine::FunctionNames() const {
  std::vector<std::string> names;
  for (const auto& function : functions_) {
    names.push_back(function->name);
  }
  return names;
}

std::uint32_t Engine::CreditEvents() const {
  std::uint32_t events = options_.prefetch;
  for (const auto& function : functions_) {
    events += function->concurrency * (function->batch ? function->batch_options.max_items : 1);
  }
  return events;
}

void Engine::StartThreads() {
  std::uint32_t wanted = 0;
  for (const auto& function : functions_) {
    wanted += function->concurrency;
  }
  const std::uint32_t count = std::clamp(wanted, 1U, std::max(1U, options_.threads_max));
  for (std::uint32_t i = 0; i < count; ++i) {
    threads_.emplace_back([this] { ThreadMain(); });
  }
}

void Engine::StopThreads() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    threads_wake_.notify_all();
  }
  for (std::thread& thread : threads_) {
    thread.join();
  }
  threads_.clear();
}

void Engine::BeginSession(std::function<void()> wake, std::function<void()> send) {
  const std::lock_guard lock(mutex_);
  ++session_;
  connected_ = true;
  closed_ = false;
  draining_ = false;
  wake_ = std::move(wake);
  send_ = std::make_shared<const std::function<void()>>(std::move(send));
  last_handle_ = 0;
  started_reported_ = 0;
  renew_due_ = TimePoint::max();
  function_of_.clear();
  trigger_of_.clear();
}

void Engine::EndSession() {
  const std::lock_guard lock(mutex_);
  connected_ = false;
  wake_ = nullptr;
  send_ = nullptr;
  for (const auto& function : functions_) {
    function->waiting.clear();
  }
  acked_.clear();
  others_.clear();
  for (Running* running = first_running_; running != nullptr; running = running->next) {
    if (running->session == session_ && !running->cancelled.exchange(true) && running->on_cancel) {
      running->on_cancel();
    }
  }
}

const std::string* Engine::Intern(const std::string& name) { return &*names_.insert(name).first; }

void Engine::Deliver(DeliveryFrame& frame) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  for (const DeliveryFrame::FunctionName& named : frame.functions) {
    for (const auto& function : functions_) {
      if (function->name == named.name) {
        function_of_[named.function] = function.get();
      }
    }
  }
  for (const DeliveryFrame::TriggerName& named : frame.triggers) {
    trigger_of_[{named.partition, named.trigger}] = Intern(std::string(named.name));
  }
  // Frames are mostly of one trigger and function: the last look-ups are remembered.
  bool looked = false;
  std::uint32_t function_number = 0;
  std::pair<std::uint32_t, std::uint32_t> trigger_number;
  Function* function = nullptr;
  const std::string* trigger = nullptr;
  TimePoint renew_due = renew_due_;
  for (Delivery& one : frame.deliveries) {
    if (!looked || function_number != one.function) {
      const auto found = function_of_.find(one.function);
      function = found == function_of_.end() ? nullptr : found->second;
      function_number = one.function;
    }
    if (!looked || trigger_number != std::pair(one.partition, one.trigger)) {
      trigger_number = {one.partition, one.trigger};
      const auto found = trigger_of_.find(trigger_number);
      trigger = found == trigger_of_.end() ? Intern("") : found->second;
    }
    looked = true;
    last_handle_ = std::max(last_handle_, one.handle);
    if (function == nullptr) {
      ::tocsin::v1::Answer answer;
      answer.set_handle(one.handle);
      answer.set_token(one.token);
      answer.mutable_retry()->set_code("unknown_function");
      answer.mutable_retry()->set_message("this worker does not serve the function");
      others_.push_back(std::move(answer));
      WakeWriterLocked();
      continue;
    }
    one.trigger_name = trigger;
    renew_due = std::min(renew_due, one.LeasePart(2));
    function->waiting.push_back(std::move(one));
  }
  if (renew_due < renew_due_) {
    renew_due_ = renew_due;
    WakeWriterLocked();
  }
}

std::optional<std::uint64_t> Engine::StartsNow() {
  const std::lock_guard lock(mutex_);
  std::size_t total = 0;
  for (const auto& function : functions_) {
    const std::size_t count = function->waiting.size();
    if (count > 0 && (function->batch || count > function->concurrency - function->running)) {
      return std::nullopt;
    }
    total += count;
  }
  if (total == 0 || total > idle_threads_) {
    return std::nullopt;
  }
  started_reported_ = last_handle_;
  return last_handle_;
}

void Engine::LetRun() {
  const std::lock_guard lock(mutex_);
  WakeThreadLocked(steady_clock::now());
}

// One thread at a time is woken, and wakes the next if there is more than it takes itself: of short
// handlers' threads most never need to wake. Also for a batch that is due before anybody wakes.
void Engine::WakeThreadLocked(TimePoint now) {
  if (waking_ || idle_threads_ == 0) return;
  for (const auto& function : functions_) {
    if (function->waiting.empty() || function->running >= function->concurrency) continue;
    if (!RunnableLocked(*function, now) && function->DueLocked() >= timed_until_) continue;
    waking_ = true;
    threads_wake_.notify_one();
    return;
  }
}

bool Engine::RunnableLocked(const Function& function, TimePoint now) const {
  if (function.waiting.empty() || function.running >= function.concurrency) return false;
  return !function.batch || draining_ ||
         function.waiting.size() >= function.batch_options.max_items || now >= function.DueLocked();
}

void Engine::CancelAll() {
  const std::lock_guard lock(mutex_);
  for (const auto& function : functions_) {
    function->waiting.clear();
  }
  for (Running* running = first_running_; running != nullptr; running = running->next) {
    if (!running->cancelled.exchange(true) && running->on_cancel) {
      running->on_cancel();
    }
  }
}

void Engine::SetDraining(bool draining) {
  const std::lock_guard lock(mutex_);
  draining_ = draining;
  threads_wake_.notify_all();
}

void Engine::WakeWriterLocked() {
  if (wake_) {
    wake_();
  }
}

std::unique_ptr<Running> Engine::NewRunningLocked() {
  if (!spare_.empty()) {
    std::unique_ptr<Running> running = std::move(spare_.back());
    spare_.pop_back();
    return running;
  }
  auto running = std::make_unique<Running>();
  running->context.emplace(this, running.get());
  return running;
}

void Engine::AddRunningLocked(Running& running) {
  running.prev = nullptr;
  running.next = first_running_;
  if (first_running_ != nullptr) first_running_->prev = &running;
  first_running_ = &running;
}

void Engine::RemoveRunningLocked(Running& running) {
  (running.prev == nullptr ? first_running_ : running.prev->next) = running.next;
  if (running.next != nullptr) running.next->prev = running.prev;
}

Engine::Function* Engine::PickLocked(TimePoint now, Work* work, TimePoint* wake) {
  for (std::size_t i = 0; i < functions_.size(); ++i) {
    Function& function = *functions_[(next_function_ + i) % functions_.size()];
    if (function.waiting.empty() || function.running >= function.concurrency) {
      continue;
    }
    if (!RunnableLocked(function, now)) {
      *wake = std::min(*wake, function.DueLocked());
      continue;
    }
    const std::size_t most = function.batch ? function.batch_options.max_items : 1;
    const std::size_t count = std::min(most, function.waiting.size());
    for (std::size_t j = 0; j < count; ++j) {
      std::unique_ptr<Running> running = NewRunningLocked();
      running->delivery = std::move(function.waiting.front());
      function.waiting.pop_front();
      running->function = &function.name;
      running->session = session_;
      if (now >= running->delivery.LeasePart(4)) {
        ExtendLocked(running->delivery, now);
        running->sent_more = true;
        WakeWriterLocked();
      }
      GrantLease(*running, running->delivery.leased, running->delivery.lease_ms);
      AddRunningLocked(*running);
      work->running.push_back(std::move(running));
    }
    ++function.running;
    next_function_ = (next_function_ + i + 1) % functions_.size();
    return &function;
  }
  return nullptr;
}

void Engine::ThreadMain() {
  Work work;
  std::unique_lock lock(mutex_);
  while (true) {
    TimePoint wake = TimePoint::max();
    const TimePoint now = steady_clock::now();
    Function* function = PickLocked(now, &work, &wake);
    if (function == nullptr) {
      if (stopping_) {
        return;
      }
      ++idle_threads_;
      if (wake < timed_until_) {
        timed_until_ = wake;
        threads_wake_.wait_until(lock, wake);
        timed_until_ =
            TimePoint::max();  // whoever waits for less is found out, and woken once more
      } else {
        threads_wake_.wait(lock);
      }
      --idle_threads_;
      waking_ = false;
      continue;
    }
    WakeThreadLocked(now);
    if (StartedThroughLocked() != started_reported_) {
      WakeWriterLocked();
    }
    lock.unlock();
    work.results.clear();
    if (function->batch) {
      RunBatch(*function, work);
    } else {
      RunOne(*function, work);
    }
    work.events.clear();
    work.contexts.clear();
    lock.lock();
    --function->running;
    for (std::size_t i = 0; i < work.running.size(); ++i) {
      FinishLocked(*work.running[i], work.results.empty() ? nullptr : &work.results[i]);
    }
    std::shared_ptr<const std::function<void()>> send;
    if (function->waiting.empty()) {
      send = send_;
    } else {
      WakeWriterLocked();
    }
    lock.unlock();
    if (send != nullptr) (*send)();  // also if there is nothing: a drain may be waiting for it
    // Frees frames and what handlers left behind without the mutex.
    for (const std::unique_ptr<Running>& running : work.running) {
      running->delivery.frame.reset();
      running->on_cancel = nullptr;
      running->emitted.clear();
      running->emitted_bytes = 0;
    }
    lock.lock();
    for (std::unique_ptr<Running>& running : work.running) {
      if (spare_.size() == kSpareMax) break;
      running->cancelled = false;
      running->sent_more = false;
      spare_.push_back(std::move(running));
    }
    work.running.clear();
  }
}

void Engine::RunOne(Function& function, Work& work) {
  Running& running = *work.running.front();
  const Event event = Event::Borrow(running.delivery.event);
  try {
    work.results.push_back(function.handler(event, *running.context));
  } catch (...) {
    work.results.push_back(FromException(std::current_exception()));
  }
}

void Engine::RunBatch(Function& function, Work& work) {
  for (const std::unique_ptr<Running>& running : work.running) {
    work.events.push_back(Event::Borrow(running->delivery.event));
    work.contexts.push_back(&*running->context);
  }
  BatchResult& answers = work.results;
  try {
    answers = function.batch(work.events, work.contexts);
  } catch (...) {
    answers.assign(work.running.size(), FromException(std::current_exception()));
  }
  if (answers.empty()) {
    return;
  }
  while (answers.size() < work.running.size()) {
    answers.push_back(RetryError("no_result", "the batch handler gave no result for this event"));
  }
}

void Engine::OnCancel(Running& running, std::function<void()> callback) {
  const std::lock_guard lock(mutex_);
  if (running.cancelled) {
    if (callback) {
      callback();
    }
    return;
  }
  running.on_cancel = std::move(callback);
}

std::optional<Result> Engine::Call(const std::string& name, const Event& event, Running& running) {
  for (const auto& function : functions_) {
    if (function->name != name) {
      continue;
    }
    running.function = &function->name;
    Context context(this, &running);
    try {
      if (function->handler) {
        return function->handler(event, context);
      }
      Context* const pointer = &context;
      BatchResult results = function->batch({&event, 1}, {&pointer, 1});
      return results.empty() ? Ack() : results.front();
    } catch (...) {
      return FromException(std::current_exception());
    }
  }
  return std::nullopt;
}

}  // namespace tocsin::sdk::internal
