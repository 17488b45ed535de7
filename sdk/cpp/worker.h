// Worker: serves functions to a Tocsin broker over one Attach stream.
//
//   tocsin::sdk::Worker worker("orders");
//   worker.On("charge", [](const sdk::Event& event, sdk::Context& context) -> sdk::Result {
//     return Busy() ? sdk::RetryAfter(10s) : sdk::Ack();
//   }, {.concurrency = 8});
//   return worker.Run();                    // until SIGTERM, SIGINT or Stop()
//
//   Run ─ connect ─ Hello ─ Welcome ─ deliveries ... answers ─┬─ lost: back off, connect again
//                                                             ├─ Drain: finish, Leaving, connect
//                                                             again └─ Stop: finish, Leaving,
//                                                             return 0
//
// What a handler throws is a retry by the trigger's policy. The credit announced is the sum of the
// functions' concurrency (times max_items for batches) plus `prefetch`: the broker never has more
// outstanding. Acks go out as ranges, at once when nothing else waits.
//
// Threading: On and OnBatch before Run; Stop and Abort from any thread; handlers run on the
// worker's own threads, each handler up to its concurrency at a time. Threads are owned here and
// not by an executor port because the SDK stands alone. Nothing but handlers may throw.

#pragma once

#include <absl/status/status.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/cpp/connection.h"
#include "sdk/cpp/event.h"

namespace tocsin::sdk {

namespace internal {
class Engine;
struct Delivery;
struct Running;
}  // namespace internal

// What becomes of a delivery.
struct Result {
  enum class Kind : std::uint8_t { kAck, kRetry, kReject, kDrop };
  Kind kind = Kind::kAck;
  std::chrono::milliseconds after{0};  // of a retry; 0: by the trigger's policy
  std::string code;                    // of a retry
  std::string message;                 // of a retry; the reason of a reject or drop
};

inline Result Ack() { return {}; }
inline Result RetryAfter(std::chrono::milliseconds after, std::string message = {}) {
  return {Result::Kind::kRetry, after, {}, std::move(message)};
}
inline Result RetryError(std::string code, std::string message) {
  return {Result::Kind::kRetry, {}, std::move(code), std::move(message)};
}
inline Result Reject(std::string reason) {  // straight to the dead letters
  return {Result::Kind::kReject, {}, {}, std::move(reason)};
}
inline Result Drop(std::string reason) {  // done with it; recorded
  return {Result::Kind::kDrop, {}, {}, std::move(reason)};
}

// One attempt, as its handler sees it. Lives as long as the handler's call; safe from any thread.
class Context {
 public:
  static constexpr std::size_t kEmittedMax = 256;
  static constexpr std::size_t kEmittedBytesMax = 2 * 1024 * 1024;

  Context(internal::Engine* engine, internal::Running* running);
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  std::uint32_t attempt() const;  // 1 on the first try
  std::uint32_t partition() const;
  std::uint64_t offset() const;
  const std::string& trigger() const;
  const std::string& function() const;
  std::int64_t recorded_us() const;         // when the broker appended the event
  std::chrono::milliseconds lease() const;  // granted at delivery or by Extend()
  std::chrono::steady_clock::time_point lease_expires() const;  // by this side's clock
  // <partition>/<offset>/<trigger>/<run>: the same over attempts and restarts.
  std::string delivery_id() const;

  // The lease ended or the connection was lost: the answer no longer counts.
  bool Cancelled() const;
  // Called once when it is cancelled, or now if it is already; must not call the context.
  void OnCancel(std::function<void()> callback);

  // Renews the lease; zero: by the trigger's timeout.
  void Extend(std::chrono::milliseconds by = std::chrono::milliseconds{0});
  void Progress(std::string message);

  // Durable with this delivery's Ack, Reject or Drop; a retry forgets it. It gets the delivered
  // event's id as `causationid`, and its trace, unless it has its own. kResourceExhausted above
  // kEmittedMax events or kEmittedBytesMax; kInvalidArgument for an event that is not Valid().
  absl::Status Emit(const Event& event);

 private:
  internal::Engine* engine_;
  internal::Running* running_;
};

using Handler = std::function<Result(const Event&, Context&)>;

// One result per event, or none at all for "all acked"; a missing one is a retry.
using BatchResult = std::vector<Result>;
// The events and their contexts, index by index.
using BatchHandler = std::function<BatchResult(std::span<const Event>, std::span<Context* const>)>;

struct FunctionOptions {
  std::uint32_t concurrency = 1;
};

struct BatchOptions {
  std::uint32_t max_items = 100;
  std::chrono::milliseconds max_wait{200};  // for the batch to fill, from its first event
  std::uint32_t concurrency = 1;            // batches at a time
};

struct WorkerOptions {
  ConnectionOptions connection;
  std::string instance;        // empty: host name and process id
  std::string version;         // of the application, shown by `workers`
  std::uint32_t prefetch = 0;  // deliveries that may wait here, beyond concurrency
  std::uint32_t credit_bytes = 64 * 1024 * 1024;  // 0: not limited by bytes
  std::uint32_t threads_max = 64;                 // handlers at a time over all functions
  bool handle_signals = true;                     // SIGTERM, SIGINT: Stop(); a second one: Abort()
};

class Worker {
 public:
  explicit Worker(std::string name, WorkerOptions options = {});
  ~Worker();  // after Run has returned
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  Worker& On(std::string function, Handler handler, FunctionOptions options = {});
  Worker& OnBatch(std::string function, BatchHandler handler, BatchOptions options = {});

  // Serves until Stop (returns 0) or Abort (returns 1). Reconnects for ever.
  int Run();
  // Takes no more, finishes what it holds, leaves.
  void Stop();
  // Cancels what is running and leaves without its answers.
  void Abort();

 private:
  friend class TestBroker;
  class Loop;
  std::unique_ptr<internal::Engine> engine_;
  std::unique_ptr<Loop> loop_;
};

}  // namespace tocsin::sdk
