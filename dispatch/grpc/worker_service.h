// WorkerService: the worker protocol (tocsin.v1.Worker) over gRPC's callback API. One reactor per
// stream, which joins it to a WorkerSession of the Dispatcher:
//
//   [waiting for hello] --Hello--> [attached] --Leaving--> [leaving] --half-close--> ended
//          | 10 s, or a bad one        | closed, reset, malformed, silent     |
//          +---------> ended <---------+--------------------------------------+
//
// A stream that ends detaches its session at once, whatever ended it. A malformed frame ends its
// own stream with INVALID_ARGUMENT and nothing else.
//
// Threading: reactors run on gRPC's threads and never block; one read and one write are in flight
// per stream. Tick() runs on one thread. The dispatcher and clock outlive the service; the service
// outlives the gRPC server it is registered with.

#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/base/mutex.h"
#include "dispatch/dispatcher.h"
#include "dispatch/grpc/frames.h"
#include "dispatch/grpc/outbox.h"
#include "tocsin/v1/worker.grpc.pb.h"

namespace tocsin {

class WorkerStream;

struct WorkerServiceOptions {
  std::string broker;  // name and version, for Welcome
  Duration heartbeat = std::chrono::seconds(4);
  Duration gone_after = std::chrono::seconds(30);
  Duration hello_within = std::chrono::seconds(10);
  Duration tick_every = std::chrono::seconds(1);
  std::size_t streams_max = 10'000;
  std::uint64_t frame_bytes_max = std::uint64_t{4} << 20;  // told to workers
  WorkerFrameLimits frame_limits;
  Outbox::Limits outbox_limits;
};

// May be read from any thread.
struct WorkerCounters {
  std::atomic<std::uint64_t> attached{0};
  std::atomic<std::uint64_t> refused{0};  // not let in
  std::atomic<std::uint64_t> malformed{0};
  std::atomic<std::uint64_t> silent{0};
  std::atomic<std::uint64_t> stale_answers{0};
  std::atomic<std::uint64_t> frames_in{0}, frames_out{0};
  std::atomic<std::uint64_t> bytes_in{0}, bytes_out{0};
  std::atomic<std::uint64_t> deliveries{0};
};

class WorkerService final : public v1::Worker::WithRawCallbackMethod_Attach<v1::Worker::Service> {
 public:
  // Called on a reactor: before the first frame with no functions, and with the Hello's functions
  // before the session begins. Not OK ends the stream with that status.
  using Authorize = std::function<absl::Status(const grpc::ServerContextBase& context,
                                               const std::vector<std::string>* functions)>;

  WorkerService(const WorkerServiceOptions& options, Dispatcher& dispatcher, const Clock& clock,
                Authorize authorize);
  ~WorkerService() override;

  // Runs Tick() on `executor` every tick_every. The executor is stopped before the service ends.
  void Start(Executor& executor);
  // Ends silent sessions, streams without a Hello, and closed ones that the peer does not take.
  void Tick();

  // Ends every stream with `status` (UNAVAILABLE when the broker stops); later ones are refused.
  void EndAll(const grpc::Status& status);
  // New streams are refused with UNAVAILABLE; those there go on.
  void RefuseNew();
  // Ends the streams that Authorize now refuses: after tokens or certificates have changed.
  void Reauthorize();

  std::size_t stream_count() const;
  const WorkerCounters& counters() const { return counters_; }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Attach(
      grpc::CallbackServerContext* context) override;

 private:
  friend class WorkerStream;
  void Schedule();
  std::vector<std::shared_ptr<WorkerStream>> Streams() const;
  void Remove(std::uint64_t number);

  // Set at construction.
  const WorkerServiceOptions options_;
  Dispatcher& dispatcher_;
  const Clock& clock_;
  const Authorize authorize_;
  Executor* executor_ = nullptr;
  WorkerCounters counters_;

  mutable Mutex mutex_;
  std::uint64_t next_number_ ABSL_GUARDED_BY(mutex_) = 1;
  bool refusing_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<std::uint64_t, std::shared_ptr<WorkerStream>> streams_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace tocsin
