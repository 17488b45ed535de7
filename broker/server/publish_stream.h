// PublishStream: one PublishStream call: requests under way, and their answers in order.
//
//   slots:  [answered, being written] [answered] [under way] [answered] [under way]
//
// Shared with the outcomes that are still to come, which may outlive the call.

#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "broker/base/mutex.h"
#include "broker/server/publish_service.h"

namespace tocsin {

class PublishStream final : public std::enable_shared_from_this<PublishStream> {
 public:
  PublishStream(PublishService& service, grpc::CallbackServerContext& context,
                std::uint64_t number);

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Begin();

  // Reads no more; answers what was taken, then finishes with `status`. The first one counts.
  void EndAfterAnswers(const grpc::Status& status);
  void Reauthorize();

 private:
  class Reactor;

  void OnRead(bool ok);
  void OnWritten(bool ok);
  void OnCancel();
  void OnDone();
  void OnAnswer(std::uint64_t ticket, std::string response);
  void EndReading(const grpc::Status& status);
  // Does what is to be done next, until nothing is; the mutex is not held while gRPC does it.
  enum class Step : std::uint8_t { kNone, kWrite, kWriteAhead, kRead, kFinish };
  void Advance();
  Step NextStep() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  struct Slot {
    std::optional<std::string> response;
    std::size_t bytes = 0;  // of the request
    Instant begun;
  };

  // Set at construction.
  PublishService& service_;
  const std::uint64_t number_;
  const bool with_places_;
  const std::shared_ptr<StreamOrder> order_;

  // Touched by the one read in flight alone.
  grpc::ByteBuffer read_buffer_;

  mutable Mutex mutex_;
  Reactor* reactor_ ABSL_GUARDED_BY(mutex_) = nullptr;            // null after OnDone
  grpc::CallbackServerContext* context_ ABSL_GUARDED_BY(mutex_);  // null after OnDone
  std::deque<Slot> slots_ ABSL_GUARDED_BY(mutex_);
  std::uint64_t front_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  std::size_t bytes_under_way_ ABSL_GUARDED_BY(mutex_) = 0;
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  Instant read_begun_ ABSL_GUARDED_BY(mutex_);
  int pauses_ ABSL_GUARDED_BY(mutex_) = 0;    // requests in a row that were waited for
  int starting_ ABSL_GUARDED_BY(mutex_) = 0;  // threads that are starting a read or write
  bool write_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;  // nobody listens: no answer is waited for
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mutex_);
  // Of the one write in flight; touched by nobody while it is.
  grpc::ByteBuffer write_buffer_;
};

}  // namespace tocsin
