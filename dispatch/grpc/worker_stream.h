// WorkerStream: one Attach call: the WorkerLink of its session, and what its reactor does.
//
// The reactor belongs to gRPC and ends with OnDone; the stream is shared with the session, which
// may still hand in deliveries while the call ends. They are dropped: Detach has requeued them, or
// will.
//
// Threading: the mutex is a leaf; neither the dispatcher nor the session is called under it.

#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "broker/base/mutex.h"
#include "dispatch/grpc/outbox.h"
#include "dispatch/grpc/worker_service.h"
#include "dispatch/worker_link.h"
#include "dispatch/worker_session.h"

namespace tocsin {

class WorkerStream final : public WorkerLink, public std::enable_shared_from_this<WorkerStream> {
 public:
  WorkerStream(WorkerService& service, grpc::CallbackServerContext& context, std::uint64_t number,
               Instant now);
  ~WorkerStream() override;

  // Makes the reactor of this call; gRPC owns it from then on.
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Begin();

  // Detaches the session at once and finishes the call as soon as no write is in flight.
  // Idempotent: the first status counts.
  void End(const grpc::Status& status, bool clean);

  // What the periodic check finds: see WorkerService::Tick().
  void Check(Instant now, const absl::flat_hash_set<SessionId>& silent);
  void Reauthorize();

  void Deliver(std::string_view function, std::span<const OutgoingDelivery> deliveries) override;
  void Cancel(std::span<const std::uint64_t> handles) override;
  void Drain(const std::string& reason) override;

 private:
  class Reactor;

  void OnRead(bool ok);
  void OnWritten(bool ok);
  void OnDone();
  // Not OK ends the stream.
  grpc::Status Handle(WorkerFrame frame);
  grpc::Status HandleHello(WorkerFrame frame);
  void HandleAnswers(WorkerFrame frame);
  void OnConfirmed(std::uint64_t ticket);

  void Flush() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MaybeFinish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Set at construction.
  WorkerService& service_;
  const std::uint64_t number_;
  const Instant begun_;

  // Touched by the one read in flight alone.
  grpc::ByteBuffer read_buffer_;
  std::shared_ptr<WorkerSession> reader_session_;
  bool confirm_ = false;
  std::uint64_t next_ticket_ = 0;

  mutable Mutex mutex_;
  Reactor* reactor_ ABSL_GUARDED_BY(mutex_) = nullptr;              // null after OnDone
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(mutex_);    // null after OnDone
  std::shared_ptr<WorkerSession> session_ ABSL_GUARDED_BY(mutex_);  // until End()
  SessionId session_id_ ABSL_GUARDED_BY(mutex_);
  bool attached_ ABSL_GUARDED_BY(mutex_) = false;  // welcome is queued: writes may begin
  bool leaving_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mutex_);
  Instant ended_ ABSL_GUARDED_BY(mutex_){};
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool write_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer write_buffer_ ABSL_GUARDED_BY(mutex_);
  Outbox outbox_ ABSL_GUARDED_BY(mutex_);

  // Answers with a sequence whose settlements are not all durable; the front is the oldest.
  struct Unconfirmed {
    std::uint64_t ticket = 0;
    std::uint64_t sequence = 0;
    bool durable = false;
  };
  std::deque<Unconfirmed> unconfirmed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tocsin
