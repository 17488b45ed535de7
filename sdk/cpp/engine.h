// Engine: the worker's half of the worker protocol without the stream: what waits, what runs, what
// is to be answered, and the threads that call the handlers.
//
//   Deliver ─> function queue ─(a thread, below its concurrency)─> handler ─> answers ─>
//   TakeAnswers
//
// A session is one connection. Ending it forgets what waits, cancels what runs and drops answers,
// because the broker queues everything again. started_through = one below the lowest handle that
// still waits: handles rise within a session and each queue is first in, first out.
// A delivery whose lease ended is answered all the same, when its handler has returned: that
// settles nothing, but until then the broker counts this worker as busy with it.
// The lease of a delivery that waits here is renewed at its half, and once more when it begins if a
// quarter of it is over: time behind others is not the handler's.
//
// Threading: every method from any thread; one mutex. Handlers run without it.

#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "sdk/cpp/delivery_frame.h"
#include "sdk/cpp/worker.h"
#include "tocsin/v1/worker.pb.h"

namespace tocsin::sdk::internal {

// A delivery in a handler's hands.
struct Running {
  Delivery delivery;
  const std::string* function = nullptr;
  std::uint64_t session = 0;
  std::atomic<bool> cancelled = false;
  std::atomic<std::int64_t> lease_ms = 0;
  std::atomic<std::int64_t> lease_expires_ns = 0;
  // Guarded by the engine's mutex.
  std::function<void()> on_cancel;
  bool sent_more = false;   // an Extend or Progress may wait to be sent
  Running* prev = nullptr;  // in the list of what runs
  Running* next = nullptr;
  std::optional<Context> context;  // of those that are used again
  // Of the handler's threads; guarded by emitted_mutex.
  std::mutex emitted_mutex;
  std::vector<std::string> emitted;
  std::size_t emitted_bytes = 0;
};

// Notes the lease in `running`.
void GrantLease(Running& running, TimePoint from, std::int64_t lease_ms);

// The text as valid UTF-8 of at most 4 KiB: a protobuf string must be, or the broker ends the
// stream, and an error message may be anything.
std::string CleanText(std::string_view text);

class Engine {
 public:
  Engine(std::string name, WorkerOptions options);
  ~Engine();

  void AddFunction(std::string name, Handler handler, std::uint32_t concurrency);
  void AddBatch(std::string name, BatchHandler handler, BatchOptions options);

  const std::string& name() const { return name_; }
  const WorkerOptions& options() const { return options_; }
  const LogSink& log() const { return options_.connection.log; }
  std::vector<std::string> FunctionNames() const;
  std::uint32_t CreditEvents() const;

  void StartThreads();
  void StopThreads();  // after what runs has returned

  // A new session; `wake` is called (under the mutex: it must only notify) when there is something
  // to send after there was nothing. `send` is called without the mutex by a handler's thread when
  // there is something to send and nothing else waits: it may send at once, which saves waking
  // another thread. It may be called once more after EndSession().
  void BeginSession(std::function<void()> wake, std::function<void()> send);
  void EndSession();

  // Takes a frame's deliveries in. Does not let the threads know yet: LetRun does.
  void Deliver(DeliveryFrame& frame);
  // The handle up to which everything begins at once when LetRun is called, if that is all of it.
  std::optional<std::uint64_t> StartsNow();
  void LetRun();
  void Cancel(const ::tocsin::v1::Cancel& cancel);
  void CancelAll();
  // While draining, batches do not wait to fill.
  void SetDraining(bool draining);

  // Moves what is to be answered into `answers`. False: nothing.
  bool TakeAnswers(::tocsin::v1::Answers* answers);
  bool HasAnswers();
  // Extends the leases of what waits and is half through its own. Returns when to come again, at
  // most that late; `wake` is called when it should be earlier.
  TimePoint RenewWaiting(TimePoint now);
  // If nothing waits, runs or is to be answered in this session: takes nothing more in, because
  // that could not be answered any more. False: not yet.
  bool CloseIfIdle();

  // For Context and TestBroker.
  void OnCancel(Running& running, std::function<void()> callback);
  void SendAnswer(Running& running, ::tocsin::v1::Answer answer);
  // Runs a function's handler here and now, as TestBroker does. nullopt: no such function.
  std::optional<Result> Call(const std::string& function, const Event& event, Running& running);
  const std::string* Intern(const std::string& name);

 private:
  struct Function {
    std::string name;
    Handler handler;
    BatchHandler batch;
    BatchOptions batch_options;
    std::uint32_t concurrency = 1;
    std::uint32_t running = 0;
    std::deque<Delivery> waiting;

    // When what waits of a batch goes although more would have room.
    TimePoint DueLocked() const { return waiting.front().received + batch_options.max_wait; }
  };

  std::uint64_t StartedThroughLocked() const;
  void ExtendLocked(Delivery& delivery, TimePoint now);
  // What a handler's thread keeps from call to call.
  struct Work {
    std::vector<std::unique_ptr<Running>> running;
    std::vector<Event> events;
    std::vector<Context*> contexts;
    std::vector<Result> results;  // empty: all acked
  };
  Function* PickLocked(TimePoint now, Work* work, TimePoint* wake);
  std::unique_ptr<Running> NewRunningLocked();
  void AddRunningLocked(Running& running);
  void RemoveRunningLocked(Running& running);
  void ThreadMain();
  void RunOne(Function& function, Work& work);
  void RunBatch(Function& function, Work& work);
  void FinishLocked(Running& running, Result* result);
  void WakeWriterLocked();
  void WakeThreadLocked(TimePoint now);
  bool RunnableLocked(const Function& function, TimePoint now) const;

  // Set at construction or before StartThreads.
  const std::string name_;
  const WorkerOptions options_;
  std::vector<std::unique_ptr<Function>> functions_;
  std::vector<std::thread> threads_;

  // Guarded by mutex_.
  std::mutex mutex_;
  std::condition_variable threads_wake_;
  std::function<void()> wake_;
  std::shared_ptr<const std::function<void()>> send_;
  std::uint64_t session_ = 0;
  bool connected_ = false;
  bool closed_ = false;  // what comes in this session is dropped: the broker offers it again
  bool draining_ = false;
  bool stopping_ = false;
  std::size_t idle_threads_ = 0;
  bool waking_ = false;                       // one of them was notified and does not run yet
  TimePoint timed_until_ = TimePoint::max();  // when one of them wakes by itself, at the latest
  std::size_t next_function_ = 0;
  std::uint64_t last_handle_ = 0;
  std::uint64_t started_reported_ = 0;
  TimePoint renew_due_ = TimePoint::max();
  Running* first_running_ = nullptr;
  std::vector<std::unique_ptr<Running>> spare_;     // for what runs next
  std::map<std::uint32_t, Function*> function_of_;  // by the broker's number
  std::map<std::pair<std::uint32_t, std::uint32_t>, const std::string*> trigger_of_;
  std::set<std::string> names_;  // addresses stay, so what runs may outlive its session
  std::vector<std::uint64_t> acked_;
  std::vector<::tocsin::v1::Answer> others_;
};

}  // namespace tocsin::sdk::internal
