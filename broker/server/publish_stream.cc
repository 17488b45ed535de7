#include "broker/server/publish_stream.h"

#include <utility>

#include "broker/server/grpc_auth.h"
#include "dispatch/grpc/byte_buffer.h"

namespace tocsin {

class PublishStream::Reactor final
    : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit Reactor(std::shared_ptr<PublishStream> stream) : stream_(std::move(stream)) {}

  void OnReadDone(bool ok) override { stream_->OnRead(ok); }
  void OnWriteDone(bool ok) override { stream_->OnWritten(ok); }
  void OnCancel() override { stream_->OnCancel(); }
  void OnDone() override {
    stream_->OnDone();
    delete this;
  }

 private:
  const std::shared_ptr<PublishStream> stream_;
};

PublishStream::PublishStream(PublishService& service, grpc::CallbackServerContext& context,
                             std::uint64_t number)
    : service_(service),
      number_(number),
      with_places_(context.client_metadata().count(kRefsMetadata) > 0),
      order_(std::make_shared<StreamOrder>(service.engine_.options().partitions)),
      context_(&context) {}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* PublishStream::Begin() {
  auto* reactor = new Reactor(shared_from_this());
  MutexLock lock(mutex_);
  reactor_ = reactor;
  Advance();
  return reactor;
}

void PublishStream::EndAfterAnswers(const grpc::Status& status) {
  MutexLock lock(mutex_);
  if (end_) return;
  end_ = status;
  Advance();
}

void PublishStream::Reauthorize() {
  absl::Status allowed;
  {
    MutexLock lock(mutex_);
    if (end_ || context_ == nullptr) return;
    allowed = service_.authorize_(*context_);
  }
  if (!allowed.ok()) EndAfterAnswers(ToGrpcStatus(allowed));
}

void PublishStream::Advance() {
  if (reactor_ == nullptr || finished_) return;
  if (!broken_ && !write_in_flight_ && !slots_.empty() && slots_.front().response) {
    write_buffer_ = TakeByteBuffer(std::move(*slots_.front().response));
    bytes_under_way_ -= slots_.front().bytes;
    service_.Observe(slots_.front().begun);
    slots_.pop_front();
    ++front_ticket_;
    write_in_flight_ = true;
    reactor_->StartWrite(&write_buffer_);
  }
  if (end_) {
    if (write_in_flight_ || (!broken_ && !slots_.empty())) return;
    finished_ = true;
    reactor_->Finish(*end_);
    return;
  }
  if (!reading_ && bytes_under_way_ < service_.options_.stream_bytes_max &&
      slots_.size() < service_.options_.stream_requests_max) {
    reading_ = true;
    reactor_->StartRead(&read_buffer_);
  }
}

void PublishStream::OnRead(bool ok) {
  if (!ok) {
    MutexLock lock(mutex_);
    reading_ = false;
    if (!end_) end_ = grpc::Status::OK;  // half-closed: answer the rest
    Advance();
    return;
  }
  FlatBytes flat;
  PublishFrame frame;
  absl::Status decoded = absl::InvalidArgumentError("a request that cannot be decompressed");
  if (flat.Assign(read_buffer_)) {
    decoded = DecodePublishRequest(flat.bytes(), service_.options_.events_max, frame);
  }
  read_buffer_.Clear();
  if (!decoded.ok()) {
    service_.engine_.counters().malformed.fetch_add(1, std::memory_order_relaxed);
    MutexLock lock(mutex_);
    reading_ = false;
    if (!end_) end_ = ToGrpcStatus(decoded);
    Advance();
    return;
  }
  std::uint64_t ticket = 0;
  {
    MutexLock lock(mutex_);
    if (end_) {
      // Not taken: the stream ended first, and its status tells the client so.
      reading_ = false;
      Advance();
      return;
    }
    ticket = front_ticket_ + slots_.size();
    slots_.push_back({.response = std::nullopt,
                      .bytes = flat.bytes().size(),
                      .begun = service_.clock_.Monotonic()});
    bytes_under_way_ += flat.bytes().size();
  }
  service_.engine_.Run(flat.keep_alive(), frame, with_places_, order_,
                       [self = shared_from_this(), ticket](const PublishAnswer& answer) {
                         self->OnAnswer(ticket, EncodePublishResponse(answer));
                       });
  // The next request is read only after this one was handed on: a stream's requests reach a
  // partition in order.
  MutexLock lock(mutex_);
  reading_ = false;
  Advance();
}

void PublishStream::OnAnswer(std::uint64_t ticket, std::string response) {
  MutexLock lock(mutex_);
  slots_[ticket - front_ticket_].response = std::move(response);
  Advance();
}

void PublishStream::OnWritten(bool ok) {
  MutexLock lock(mutex_);
  write_in_flight_ = false;
  write_buffer_.Clear();
  if (!ok) {
    broken_ = true;
    if (!end_) end_ = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the connection broke");
  }
  Advance();
}

void PublishStream::OnCancel() {
  MutexLock lock(mutex_);
  broken_ = true;
  if (!end_) end_ = grpc::Status(grpc::StatusCode::CANCELLED, "the connection was closed");
  Advance();
}

void PublishStream::OnDone() {
  {
    MutexLock lock(mutex_);
    reactor_ = nullptr;
    context_ = nullptr;
  }
  service_.Remove(number_);
}

}  // namespace tocsin
