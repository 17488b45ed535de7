#include "dispatch/grpc/worker_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "broker/base/status.h"
#include "broker/base/thread_executor.h"
#include "dispatch/grpc/byte_buffer.h"

namespace tocsin {
namespace {

// A call that was finished and still is not gone after this is cancelled: its peer does not read.
constexpr Duration kFinishWithin = std::chrono::seconds(5);
// What so few answers cause is done by the thread that read them: that is less than waking another.
constexpr std::uint64_t kHereAnswersMax = 16;
constexpr std::size_t kHereBytesMax = 4096;
constexpr std::uint64_t kStaleCountedMax = 1'000'000;  // of one frame

grpc::Status ToGrpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(MessageOf(status))};
}

std::uint32_t ToMilliseconds(Duration duration) {
  return static_cast<std::uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
}

bool IsSmall(const FrameAnswers& answers) {
  std::uint64_t count = answers.others.size() + answers.extends.size();
  for (const HandleRange& range : answers.acked) {
    if (range.last < range.first || range.last - range.first >= kHereAnswersMax) return false;
    count += range.last - range.first + 1;
  }
  return count <= kHereAnswersMax;
}

}  // namespace

class WorkerStream::Reactor final
    : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit Reactor(std::shared_ptr<WorkerStream> stream) : stream_(std::move(stream)) {}

  void OnReadDone(bool ok) override { stream_->OnRead(ok); }
  void OnWriteDone(bool ok) override { stream_->OnWritten(ok); }
  void OnCancel() override {
    stream_->End(grpc::Status(grpc::StatusCode::CANCELLED, "the connection was closed"), false);
  }
  void OnDone() override {
    stream_->OnDone();
    delete this;
  }

 private:
  const std::shared_ptr<WorkerStream> stream_;
};

WorkerStream::WorkerStream(WorkerService& service, grpc::CallbackServerContext& context,
                           std::uint64_t number, Instant now)
    : service_(service),
      number_(number),
      begun_(now),
      context_(&context),
      outbox_(service.options_.outbox_limits) {}

WorkerStream::~WorkerStream() = default;

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* WorkerStream::Begin() {
  auto* reactor = new Reactor(shared_from_this());
  MutexLock lock(mutex_);
  reactor_ = reactor;
  if (end_) {
    MaybeFinish();
  } else {
    reactor->StartRead(&read_buffer_);
  }
  return reactor;
}

void WorkerStream::End(const grpc::Status& status, bool clean) {
  std::shared_ptr<WorkerSession> session;
  {
    MutexLock lock(mutex_);
    if (end_) return;
    end_ = status;
    ended_ = service_.clock_.Monotonic();
    session = std::move(session_);
    outbox_.Clear();
    unconfirmed_.clear();
    MaybeFinish();
  }
  if (session != nullptr) service_.dispatcher_.Detach(session, clean);
}

void WorkerStream::MaybeFinish() {
  if (!end_ || finished_ || write_in_flight_ || reactor_ == nullptr) return;
  finished_ = true;
  reactor_->Finish(*end_);
}

void WorkerStream::Flush() {
  if (!attached_ || end_ || write_in_flight_ || reactor_ == nullptr || outbox_.empty()) return;
  write_buffer_ = outbox_.Take();
  write_in_flight_ = true;
  service_.counters_.frames_out.fetch_add(1, std::memory_order_relaxed);
  service_.counters_.bytes_out.fetch_add(write_buffer_.Length(), std::memory_order_relaxed);
  reactor_->StartWrite(&write_buffer_);
}

void WorkerStream::OnWritten(bool ok) {
  {
    MutexLock lock(mutex_);
    write_in_flight_ = false;
    write_buffer_.Clear();
    if (ok) Flush();
    MaybeFinish();
  }
  if (!ok) End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the connection broke"), false);
}

void WorkerStream::OnDone() {
  reader_session_.reset();
  {
    MutexLock lock(mutex_);
    reactor_ = nullptr;
    context_ = nullptr;
  }
  service_.Remove(number_);
}

void WorkerStream::OnRead(bool ok) {
  if (!ok) {
    bool clean = false;
    {
      MutexLock lock(mutex_);
      clean = leaving_ && context_ != nullptr && !context_->IsCancelled();
    }
    End(grpc::Status::OK, clean);
    return;
  }
  WorkerCounters& counters = service_.counters_;
  counters.frames_in.fetch_add(1, std::memory_order_relaxed);
  counters.bytes_in.fetch_add(read_buffer_.Length(), std::memory_order_relaxed);
  FlatBytes flat;
  WorkerFrame frame;
  absl::Status decoded = absl::InvalidArgumentError("malformed frame: it cannot be decompressed");
  if (flat.Assign(read_buffer_)) {
    decoded = DecodeWorkerFrame(flat.bytes(), service_.options_.frame_limits, frame);
  }
  read_buffer_.Clear();
  if (!decoded.ok()) {
    counters.malformed.fetch_add(1, std::memory_order_relaxed);
    End(ToGrpc(decoded), false);
    return;
  }
  std::optional<ThreadExecutor::Gathering> here;
  if (frame.kind == WorkerFrameKind::kAnswers && flat.bytes().size() <= kHereBytesMax &&
      IsSmall(frame.answers)) {
    here.emplace();
  }
  const grpc::Status handled = Handle(std::move(frame));
  if (!handled.ok()) {
    End(handled, false);
    return;
  }
  MutexLock lock(mutex_);
  if (!end_ && reactor_ != nullptr) reactor_->StartRead(&read_buffer_);
}

grpc::Status WorkerStream::Handle(WorkerFrame frame) {
  if (reader_session_ == nullptr) {
    if (frame.kind == WorkerFrameKind::kHello) return HandleHello(std::move(frame));
    service_.counters_.malformed.fetch_add(1, std::memory_order_relaxed);
    return {grpc::StatusCode::INVALID_ARGUMENT, "the first frame must be a hello"};
  }
  const Instant now = service_.clock_.Monotonic();
  switch (frame.kind) {
    case WorkerFrameKind::kHello:
      service_.counters_.malformed.fetch_add(1, std::memory_order_relaxed);
      return {grpc::StatusCode::INVALID_ARGUMENT, "a second hello on one stream"};
    case WorkerFrameKind::kAnswers:
      HandleAnswers(std::move(frame));
      break;
    case WorkerFrameKind::kCredit:
      reader_session_->OnCredit(frame.credit, now);
      break;
    case WorkerFrameKind::kLeaving: {
      {
        MutexLock lock(mutex_);
        leaving_ = true;
      }
      reader_session_->OnLeaving(now);
      break;
    }
    case WorkerFrameKind::kHeartbeat:
    case WorkerFrameKind::kOther:
      reader_session_->OnHeartbeat(now);
      break;
  }
  return grpc::Status::OK;
}

grpc::Status WorkerStream::HandleHello(WorkerFrame frame) {
  WorkerCounters& counters = service_.counters_;
  absl::Status allowed = ValidateHello(frame, service_.options_.frame_limits);
  if (allowed.ok()) {
    MutexLock lock(mutex_);
    if (context_ != nullptr) {
      allowed = service_.authorize_(*context_, &frame.hello.functions);
      frame.hello.peer = context_->peer();
    }
  }
  if (!allowed.ok()) {
    counters.refused.fetch_add(1, std::memory_order_relaxed);
    return ToGrpc(allowed);
  }
  confirm_ = frame.hello.confirm;
  const std::shared_ptr<WorkerSession> session =
      service_.dispatcher_.Attach(frame.hello, shared_from_this(), service_.clock_.Monotonic());
  counters.attached.fetch_add(1, std::memory_order_relaxed);
  reader_session_ = session;
  const WelcomeFrame welcome{
      .broker = service_.options_.broker,
      .session = session->id(),
      .heartbeat_ms = ToMilliseconds(service_.options_.heartbeat),
      .gone_after_ms = ToMilliseconds(service_.options_.gone_after),
      .frame_bytes_max = service_.options_.frame_bytes_max,
  };
  {
    MutexLock lock(mutex_);
    if (!end_) {
      session_ = session;
      session_id_ = session->id();
      // Deliveries may have come in already: they wait for the welcome.
      outbox_.AddFirst(EncodeWelcome(welcome));
      attached_ = true;
      Flush();
      return grpc::Status::OK;
    }
  }
  // The call ended while the session began.
  service_.dispatcher_.Detach(session, false);
  return {grpc::StatusCode::CANCELLED, "the connection was closed"};
}

void WorkerStream::HandleAnswers(WorkerFrame frame) {
  std::function<void()> confirmed;
  if (confirm_ && frame.sequence != 0) {
    const std::uint64_t ticket = next_ticket_++;
    {
      MutexLock lock(mutex_);
      if (end_) return;
      unconfirmed_.push_back({.ticket = ticket, .sequence = frame.sequence});
    }
    confirmed = [weak = weak_from_this(), ticket] {
      if (const auto stream = weak.lock()) stream->OnConfirmed(ticket);
    };
  }
  const std::uint64_t stale = reader_session_->OnAnswers(
      std::move(frame.answers), service_.clock_.Monotonic(), std::move(confirmed));
  if (stale == 0) return;
  // One range may name every handle there can be; the counter must not wrap.
  service_.counters_.stale_answers.fetch_add(std::min(stale, kStaleCountedMax),
                                             std::memory_order_relaxed);
  MutexLock lock(mutex_);
  if (end_) return;
  outbox_.AddRefused(stale);
  Flush();
}

void WorkerStream::OnConfirmed(std::uint64_t ticket) {
  MutexLock lock(mutex_);
  if (end_ || unconfirmed_.empty() || ticket < unconfirmed_.front().ticket) return;
  const std::uint64_t index = ticket - unconfirmed_.front().ticket;
  if (index >= unconfirmed_.size()) return;
  unconfirmed_[index].durable = true;
  // Only what has nothing open before it is told: a Confirmed speaks for all up to it.
  std::optional<std::uint64_t> through;
  while (!unconfirmed_.empty() && unconfirmed_.front().durable) {
    through = unconfirmed_.front().sequence;
    unconfirmed_.pop_front();
  }
  if (!through) return;
  outbox_.SetConfirmed(*through);
  Flush();
}

void WorkerStream::Check(Instant now, const absl::flat_hash_set<SessionId>& silent) {
  bool is_silent = false;
  bool is_late = false;
  {
    MutexLock lock(mutex_);
    if (end_) {
      if (context_ != nullptr && now - ended_ >= kFinishWithin) context_->TryCancel();
      return;
    }
    is_silent = attached_ && silent.contains(session_id_);
    is_late = !attached_ && now - begun_ >= service_.options_.hello_within;
  }
  if (is_silent) {
    service_.counters_.silent.fetch_add(1, std::memory_order_relaxed);
    End(grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED,
                     fmt::format("not heard of for {} ms: attach again",
                                 ToMilliseconds(service_.options_.gone_after))),
        false);
  } else if (is_late) {
    service_.counters_.refused.fetch_add(1, std::memory_order_relaxed);
    End(grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "no hello came in time"), false);
  }
}

void WorkerStream::Reauthorize() {
  absl::Status allowed;
  std::shared_ptr<WorkerSession> session;
  {
    MutexLock lock(mutex_);
    if (end_ || context_ == nullptr) return;
    session = session_;
    allowed =
        service_.authorize_(*context_, session == nullptr ? nullptr : &session->hello().functions);
  }
  if (!allowed.ok()) End(ToGrpc(allowed), false);
}

void WorkerStream::Deliver(std::string_view function,
                           std::span<const OutgoingDelivery> deliveries) {
  service_.counters_.deliveries.fetch_add(deliveries.size(), std::memory_order_relaxed);
  MutexLock lock(mutex_);
  if (end_) return;
  outbox_.AddDeliveries(function, deliveries);
  Flush();
}

void WorkerStream::Cancel(std::span<const std::uint64_t> handles) {
  MutexLock lock(mutex_);
  if (end_) return;
  outbox_.AddCancel(handles);
  Flush();
}

void WorkerStream::Drain(const std::string& reason) {
  MutexLock lock(mutex_);
  if (end_) return;
  outbox_.AddFrame(EncodeDrain(reason));
  Flush();
}

}  // namespace tocsin
