#include "broker/server/publish_stream.h"

#include <algorithm>
#include <utility>

#include "broker/server/grpc_auth.h"
#include "dispatch/grpc/byte_buffer.h"

namespace tocsin {
namespace {

// A publisher that has waited before each of so many requests waits for every answer: there is
// nothing that its thread could read meanwhile.
constexpr Duration kPause = std::chrono::microseconds(60);
constexpr int kPausesMin = 8;

}  // namespace

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
  {
    MutexLock lock(mutex_);
    reactor_ = reactor;
  }
  Advance();
  return reactor;
}

void PublishStream::EndAfterAnswers(const grpc::Status& status) {
  {
    MutexLock lock(mutex_);
    if (end_) return;
    end_ = status;
  }
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

PublishStream::Step PublishStream::NextStep() {
  if (reactor_ == nullptr || finished_) return Step::kNone;
  if (!broken_ && !write_in_flight_ && !slots_.empty() && slots_.front().response) {
    write_buffer_ = TakeByteBuffer(std::move(*slots_.front().response));
    bytes_under_way_ -= slots_.front().bytes;
    service_.Observe(slots_.front().begun);
    slots_.pop_front();
    ++front_ticket_;
    write_in_flight_ = true;
    return !slots_.empty() && slots_.front().response ? Step::kWriteAhead : Step::kWrite;
  }
  if (end_) {
    if (starting_ > 0 || write_in_flight_ || (!broken_ && !slots_.empty())) return Step::kNone;
    finished_ = true;
    return Step::kFinish;
  }
  if (!reading_ && bytes_under_way_ < service_.options_.stream_bytes_max &&
      slots_.size() < service_.options_.stream_requests_max) {
    reading_ = true;
    read_begun_ = service_.clock_.Monotonic();
    return Step::kRead;
  }
  return Step::kNone;
}

// gRPC may well write to the socket inside StartWrite(): whoever has an answer meanwhile, the
// committer above all, must not wait for that.
void PublishStream::Advance() {
  const std::shared_ptr<PublishStream> self = shared_from_this();
  bool started = false;
  while (true) {
    Step step = Step::kNone;
    Reactor* reactor = nullptr;
    grpc::Status status;
    {
      MutexLock lock(mutex_);
      if (started) --starting_;
      step = NextStep();
      if (step == Step::kNone) return;
      reactor = reactor_;
      if (step == Step::kFinish) status = *end_;
      started = step != Step::kFinish;
      if (started) ++starting_;
    }
    switch (step) {
      case Step::kWrite:
        reactor->StartWrite(&write_buffer_);
        break;
      case Step::kWriteAhead:  // more follow: one packet for all
        reactor->StartWrite(&write_buffer_, grpc::WriteOptions().set_buffer_hint());
        break;
      case Step::kRead:
        reactor->StartRead(&read_buffer_);
        break;
      case Step::kFinish:
        reactor->Finish(status);
        return;
      case Step::kNone:
        return;
    }
  }
}

void PublishStream::OnRead(bool ok) {
  if (!ok) {
    EndReading(grpc::Status::OK);  // half-closed: answer the rest
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
    EndReading(ToGrpcStatus(decoded));
    return;
  }
  std::uint64_t ticket = 0;
  bool taken = false;
  bool alone = false;
  {
    MutexLock lock(mutex_);
    const Instant now = service_.clock_.Monotonic();
    pauses_ = now - read_begun_ >= kPause ? std::min(pauses_ + 1, kPausesMin) : 0;
    alone = pauses_ == kPausesMin && slots_.empty();
    taken = !end_;
    ticket = front_ticket_ + slots_.size();
    if (taken) {
      slots_.push_back({.response = std::nullopt, .bytes = flat.bytes().size(), .begun = now});
      bytes_under_way_ += flat.bytes().size();
    }
  }
  if (!taken) {
    // The stream ended first, and its status tells the client so.
    EndReading(grpc::Status::OK);
    return;
  }
  service_.engine_.Run(flat.keep_alive(), frame, with_places_, order_, alone,
                       [self = shared_from_this(), ticket](const PublishAnswer& answer) {
                         self->OnAnswer(ticket, EncodePublishResponse(answer));
                       });
  // The next request is read only after this one was handed on: a stream's requests reach a
  // partition in order.
  {
    MutexLock lock(mutex_);
    reading_ = false;
  }
  Advance();
}

void PublishStream::EndReading(const grpc::Status& status) {
  {
    MutexLock lock(mutex_);
    reading_ = false;
    if (!end_) end_ = status;
  }
  Advance();
}

void PublishStream::OnAnswer(std::uint64_t ticket, std::string response) {
  {
    MutexLock lock(mutex_);
    slots_[ticket - front_ticket_].response = std::move(response);
    if (ticket != front_ticket_ || write_in_flight_) return;
  }
  Advance();
}

void PublishStream::OnWritten(bool ok) {
  {
    MutexLock lock(mutex_);
    write_in_flight_ = false;
    write_buffer_.Clear();
    if (!ok) {
      broken_ = true;
      if (!end_) end_ = grpc::Status(grpc::StatusCode::UNAVAILABLE, "the connection broke");
    }
  }
  Advance();
}

void PublishStream::OnCancel() {
  {
    MutexLock lock(mutex_);
    broken_ = true;
    if (!end_) end_ = grpc::Status(grpc::StatusCode::CANCELLED, "the connection was closed");
  }
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
