#include "sdk/cpp/publisher.h"

#include <fmt/format.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "sdk/cpp/request_batch.h"
#include "tocsin/v1/publish.grpc.pb.h"

namespace tocsin::sdk {
namespace {

namespace pb = ::tocsin::v1;
using std::chrono::milliseconds;

constexpr milliseconds kRoomHintDefault{100};
constexpr milliseconds kRoomHintMax{10'000};
constexpr std::size_t kSpareMax = 4;
// Of requests that are not half full: one is being synced, and one waits for that.
constexpr std::size_t kPartsInFlightMax = 2;
// A broker reads messages of at most 8 MiB and requests of at most 65,536 events.
constexpr std::size_t kEventBytesMost = std::size_t{7} << 20;
constexpr std::size_t kBatchBytesMost = std::size_t{4} << 20;
constexpr std::size_t kBatchEventsMost = 65'536;

constexpr char kSequenceTag = 1 << 3;  // of PublishRequest
constexpr char kFromRefusedTag = 3 << 3;

bool IsFatal(grpc::StatusCode code) {
  return code == grpc::StatusCode::UNAUTHENTICATED || code == grpc::StatusCode::PERMISSION_DENIED ||
         code == grpc::StatusCode::UNIMPLEMENTED;
}

// A refusal that says nothing against the event: it is sent again.
bool IsRetried(std::int32_t code) {
  return code == static_cast<std::int32_t>(grpc::StatusCode::RESOURCE_EXHAUSTED) ||
         code == static_cast<std::int32_t>(grpc::StatusCode::UNAVAILABLE) ||
         code == static_cast<std::int32_t>(grpc::StatusCode::ABORTED);
}

}  // namespace

// Whoever publishes while nothing is being written starts the write; what is published during it
// goes with the next, which the write's end starts. gRPC's threads read. The publisher's own thread
// connects, waits and connects again.
class Publisher::Impl {
 public:
  explicit Impl(PublisherOptions options)
      : options_([&options] {
          options.connection = Resolve(std::move(options.connection));
          options.batch_events_max =
              std::clamp<std::size_t>(options.batch_events_max, 1, kBatchEventsMost);
          options.batch_bytes_max = std::min(options.batch_bytes_max, kBatchBytesMost);
          return std::move(options);
        }()),
        thread_([this] { Main(); }) {}
  ~Impl() { Close(milliseconds(0)); }

  void Publish(std::string_view encoded, PublishDone done);
  bool Flush(milliseconds timeout);
  void Close(milliseconds flush_timeout);

 private:
  class Stream;
  using Lock = std::unique_lock<std::mutex>;
  using Batch = internal::RequestBatch;

  void Main();
  grpc::Status Serve(Lock& lock);
  // The one that takes `bytes` more: the last of `batches`, or a new one.
  Batch& BatchFor(std::deque<Batch>& batches, std::size_t bytes);
  void Recycle(Batch batch);
  // Starts the next write if there is one to start; gives the lock up while it does.
  void Pump(Lock& lock);
  void RequeueLocked(std::deque<Batch> batches);
  void FailAll(Lock& lock, const absl::Status& status);
  static void Finish(Batch& batch, const PublishResult& result);
  void CountFinished(Lock& lock, std::size_t events, std::size_t bytes);
  void Log(std::string_view line) { options_.connection.log(line); }

  void OnWritten(bool ok);
  void OnRead(Stream& stream, bool ok, const pb::PublishResponse& response);
  bool OnResponse(const pb::PublishResponse& response);
  void OnExceptions(Batch& batch, const pb::PublishResponse& response);
  void OnDone(const grpc::Status& status);

  const PublisherOptions options_;
  std::shared_ptr<grpc::Channel> channel_;

  std::mutex mutex_;
  std::condition_variable main_wake_;
  std::condition_variable changed_;  // room, emptiness
  // Guarded by mutex_.
  std::deque<Batch> queue_;  // the last one takes what is published
  std::deque<Batch> in_flight_;
  std::size_t parts_in_flight_ = 0;  // of them, those sent with room for more
  std::deque<Batch> refused_;        // in order; sent again when nothing is in flight any more
  std::vector<Batch> spare_;         // answered ones, for their memory
  std::size_t unanswered_events_ = 0;
  std::size_t unanswered_bytes_ = 0;
  std::uint64_t next_sequence_ = 1;
  bool resend_ = false;  // the next batch begins with what was refused
  milliseconds room_hint_{0};
  bool answered_once_ = false;  // on this connection
  bool closing_ = false;
  Stream* stream_ = nullptr;  // null between connections
  bool writing_ = false;
  int starting_ = 0;  // writes being started, without the mutex
  bool reader_over_ = false;
  bool finished_ = false;
  grpc::Status status_;

  std::mutex close_mutex_;
  std::thread thread_;  // last: it uses all of the above
};

class Publisher::Impl::Stream final
    : public grpc::ClientBidiReactor<grpc::ByteBuffer, pb::PublishResponse> {
 public:
  explicit Stream(Impl& owner) : owner_(owner) {}

  grpc::ClientContext& context() { return context_; }
  // Held until RemoveHold(): writes are started from outside the reactor.
  void Begin(const std::shared_ptr<grpc::Channel>& channel) {
    grpc::TemplatedGenericStub<grpc::ByteBuffer, pb::PublishResponse>(channel)
        .PrepareBidiStreamingCall(&context_, "/tocsin.v1.Publisher/PublishStream",
                                  grpc::StubOptions(), this);
    AddHold();
    StartRead(&response_);
    StartCall();
  }
  void Write(std::string header, const std::shared_ptr<const std::string>& bytes) {
    const grpc::Slice slices[2] = {
        grpc::Slice(header),
        grpc::Slice(
            const_cast<char*>(bytes->data()), bytes->size(),
            [](void* held) { delete static_cast<std::shared_ptr<const std::string>*>(held); },
            new std::shared_ptr<const std::string>(bytes))};
    written_ = grpc::ByteBuffer(slices, 2);
    StartWrite(&written_);
  }

  void OnWriteDone(bool ok) override { owner_.OnWritten(ok); }
  void OnReadDone(bool ok) override {
    owner_.OnRead(*this, ok, response_);
    if (ok) StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override { owner_.OnDone(status); }

 private:
  Impl& owner_;
  grpc::ClientContext context_;
  pb::PublishResponse response_;
  grpc::ByteBuffer written_;
};

Publisher::Impl::Batch& Publisher::Impl::BatchFor(std::deque<Batch>& batches, std::size_t bytes) {
  if (!batches.empty() && batches.back().size() < options_.batch_events_max &&
      batches.back().bytes().size() + bytes <= options_.batch_bytes_max) {
    return batches.back();
  }
  if (spare_.empty()) {
    return batches.emplace_back();
  }
  batches.push_back(std::move(spare_.back()));
  spare_.pop_back();
  return batches.back();
}

void Publisher::Impl::Recycle(Batch batch) {
  if (spare_.size() >= kSpareMax) return;
  batch.Clear(2 * options_.batch_bytes_max);
  spare_.push_back(std::move(batch));
}

void Publisher::Impl::Publish(std::string_view encoded, PublishDone done) {
  if (encoded.size() > kEventBytesMost) {
    PublishResult result;
    result.status = absl::OutOfRangeError(
        fmt::format("the event has {} bytes, which is more than a broker takes", encoded.size()));
    done(result);
    return;
  }
  Lock lock(mutex_);
  const auto has_room = [&] {
    return closing_ || (unanswered_events_ < options_.queue_events_max &&
                        (unanswered_events_ == 0 ||
                         unanswered_bytes_ + encoded.size() <= options_.queue_bytes_max));
  };
  if (!has_room()) changed_.wait(lock, has_room);
  if (closing_) {
    lock.unlock();
    done({absl::CancelledError("the publisher is closed"), false, false, 0, 0});
    return;
  }
  ++unanswered_events_;
  unanswered_bytes_ += encoded.size();
  BatchFor(queue_, encoded.size()).Add(encoded, std::move(done));
  if (stream_ != nullptr) {
    Pump(lock);
  } else if (queue_.size() == 1 && queue_.front().size() == 1) {
    main_wake_.notify_one();
  }
}

void Publisher::Impl::Pump(Lock& lock) {
  if (stream_ == nullptr || writing_ || reader_over_ || queue_.empty() || !refused_.empty() ||
      in_flight_.size() >= options_.batches_in_flight_max) {
    return;
  }
  const bool part = queue_.size() == 1 && queue_.front().size() < options_.batch_events_max &&
                    queue_.front().bytes().size() < options_.batch_bytes_max / 2;
  if (part && parts_in_flight_ >= kPartsInFlightMax) return;  // an answer comes, and starts it
  parts_in_flight_ += part ? 1 : 0;
  queue_.front().part = part;
  in_flight_.push_back(std::move(queue_.front()));
  queue_.pop_front();
  Batch& batch = in_flight_.back();
  batch.sequence = next_sequence_++;
  std::string header(1, kSequenceTag);
  internal::AddVarint(batch.sequence, &header);
  if (resend_) {
    header.push_back(kFromRefusedTag);
    internal::AddVarint(1, &header);
    resend_ = false;
  }
  writing_ = true;
  ++starting_;
  // Held here too: the answer may come before gRPC is done with starting.
  const std::shared_ptr<const std::string> bytes = batch.Share();
  Stream* stream = stream_;
  lock.unlock();
  stream->Write(std::move(header), bytes);
  lock.lock();
  if (--starting_ == 0 && (reader_over_ || closing_)) main_wake_.notify_all();
}

void Publisher::Impl::OnWritten(bool ok) {
  Lock lock(mutex_);
  writing_ = false;
  if (ok) Pump(lock);  // else the read fails too
}

void Publisher::Impl::OnRead(Stream& stream, bool ok, const pb::PublishResponse& response) {
  if (ok && OnResponse(response)) {
    Lock lock(mutex_);
    Pump(lock);
    if (closing_ || !refused_.empty()) main_wake_.notify_all();
    return;
  }
  const std::lock_guard lock(mutex_);
  if (ok) stream.context().TryCancel();
  reader_over_ = true;
  main_wake_.notify_all();
}

void Publisher::Impl::OnDone(const grpc::Status& status) {
  const std::lock_guard lock(mutex_);
  status_ = status;
  finished_ = true;
  main_wake_.notify_all();
}

void Publisher::Impl::RequeueLocked(std::deque<Batch> batches) {
  queue_.insert(queue_.begin(), std::make_move_iterator(batches.begin()),
                std::make_move_iterator(batches.end()));
}

void Publisher::Impl::Main() {
  channel_ = NewChannel(options_.connection);
  Backoff backoff(options_.connection.backoff_min, options_.connection.backoff_max);
  Lock lock(mutex_);
  while (!closing_) {
    main_wake_.wait(lock, [this] { return closing_ || !queue_.empty(); });
    if (closing_) {
      break;
    }
    answered_once_ = false;
    const grpc::Status status = Serve(lock);
    // What has no answer goes first on the next connection, in its order.
    std::deque<Batch> again = std::move(refused_);
    refused_.clear();
    std::deque<Batch> unanswered = std::move(in_flight_);
    in_flight_.clear();
    parts_in_flight_ = 0;
    resend_ = false;
    std::optional<Batch> poisoned;
    if (status.error_code() == grpc::StatusCode::INVALID_ARGUMENT && !unanswered.empty()) {
      // The broker answers everything before the request that it cannot read, and nothing after.
      poisoned = std::move(unanswered.front());
      unanswered.pop_front();
    }
    for (Batch& batch : unanswered) {
      batch.Own();  // more may be added to it
      again.push_back(std::move(batch));
    }
    RequeueLocked(std::move(again));
    if (poisoned) {
      PublishResult result;
      result.status = absl::InvalidArgumentError(status.error_message());
      lock.unlock();
      Finish(*poisoned, result);
      lock.lock();
      CountFinished(lock, poisoned->size(), poisoned->EventBytes());
    }
    if (closing_) {
      break;
    }
    if (IsFatal(status.error_code())) {
      FailAll(lock, absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                                 status.error_message()));
      continue;
    }
    if (answered_once_) {
      backoff.Reset();
    }
    const milliseconds wait = backoff.Next();
    if (backoff.WorthTelling()) {
      Log(fmt::format("publisher: no connection to {} ({}); {} events wait, it tries again",
                      options_.connection.target, Describe(status), unanswered_events_));
    }
    main_wake_.wait_for(lock, wait, [this] { return closing_; });
    // A channel that failed waits by itself before it tries again: the backoff is ours.
    channel_ = NewChannel(options_.connection);
  }
  FailAll(lock, absl::CancelledError("the publisher was closed before the broker answered"));
}

void Publisher::Impl::FailAll(Lock& lock, const absl::Status& status) {
  std::deque<Batch> failed = std::move(queue_);
  queue_.clear();
  PublishResult result;
  result.status = status;
  std::size_t events = 0;
  std::size_t bytes = 0;
  lock.unlock();
  for (Batch& batch : failed) {
    events += batch.size();
    bytes += batch.EventBytes();
    Finish(batch, result);
  }
  lock.lock();
  CountFinished(lock, events, bytes);
}

grpc::Status Publisher::Impl::Serve(Lock& lock) {
  Stream stream(*this);
  Authorize(options_.connection, stream.context());
  if (options_.positions) {
    stream.context().AddMetadata("tocsin-refs", "1");
  }
  writing_ = false;
  reader_over_ = false;
  finished_ = false;
  lock.unlock();
  stream.Begin(channel_);
  lock.lock();
  stream_ = &stream;
  Pump(lock);
  bool over = false;
  while (!over) {
    main_wake_.wait(lock, [this] {
      return reader_over_ || closing_ || (!refused_.empty() && in_flight_.empty());
    });
    if (reader_over_ || closing_) {
      over = true;
      continue;
    }
    // Everything sent is answered, so what was refused can go again before anything newer.
    main_wake_.wait_for(lock, room_hint_, [this] { return reader_over_ || closing_; });
    RequeueLocked(std::move(refused_));
    refused_.clear();
    resend_ = true;
    Pump(lock);
  }
  // Whoever is starting a write still needs the stream.
  const bool orderly = in_flight_.empty() && !writing_ && !reader_over_;
  stream_ = nullptr;
  main_wake_.wait(lock, [this] { return starting_ == 0; });
  const bool cancel = !orderly && !reader_over_;
  lock.unlock();
  if (orderly) {
    stream.StartWritesDone();
  } else if (cancel) {
    // When closing, nothing is worth waiting for.
    stream.context().TryCancel();
  }
  stream.RemoveHold();
  lock.lock();
  main_wake_.wait(lock, [this] { return finished_; });
  return status_;
}

// False: the answer fits nothing that was sent.
bool Publisher::Impl::OnResponse(const pb::PublishResponse& response) {
  Batch batch;
  {
    const std::lock_guard lock(mutex_);
    if (in_flight_.empty() || in_flight_.front().sequence != response.sequence()) {
      Log(fmt::format("publisher: {} answered sequence {}, which was not asked",
                      options_.connection.target, response.sequence()));
      return false;
    }
    batch = std::move(in_flight_.front());
    in_flight_.pop_front();
    parts_in_flight_ -= batch.part ? 1 : 0;
    answered_once_ = true;
  }
  if (response.exceptions_size() > 0 || response.refs_size() > 0) {
    OnExceptions(batch, response);
    return true;
  }
  static const PublishResult stored;
  const std::size_t events = batch.size();
  const std::size_t bytes = batch.EventBytes();
  Finish(batch, stored);
  Lock lock(mutex_);
  Recycle(std::move(batch));
  CountFinished(lock, events, bytes);
  return true;
}

void Publisher::Impl::OnExceptions(Batch& batch, const pb::PublishResponse& response) {
  std::vector<PublishResult> results(batch.size());
  std::vector<bool> again(batch.size());
  for (int i = 0; i < response.refs_size() && static_cast<std::size_t>(i) < results.size(); ++i) {
    PublishResult& result = results[static_cast<std::size_t>(i)];
    result.has_position = true;
    result.partition = response.refs(i).partition();
    result.offset = response.refs(i).offset();
  }
  milliseconds hint{0};
  bool refused = false;
  for (const pb::EventResult& exception : response.exceptions()) {
    if (exception.index() >= results.size()) {
      continue;
    }
    PublishResult& result = results[exception.index()];
    if (exception.duplicate() || exception.delayed()) {
      result.duplicate = exception.duplicate();
      result.delayed = exception.delayed();
      result.has_position = false;
      if (exception.has_first()) {
        result.has_position = true;
        result.partition = exception.first().partition();
        result.offset = exception.first().offset();
      }
    } else if (IsRetried(exception.code())) {
      again[exception.index()] = true;
      refused = true;
      hint = std::max(hint, milliseconds(exception.retry_after_ms()));
    } else {
      result.has_position = false;
      result.status =
          absl::Status(static_cast<absl::StatusCode>(exception.code()), exception.error());
    }
  }
  if (refused) {
    const std::lock_guard lock(mutex_);
    if (refused_.empty()) {
      room_hint_ = kRoomHintDefault;
    }
    room_hint_ = std::clamp(hint, room_hint_, kRoomHintMax);
    for (std::size_t i = 0; i < results.size(); ++i) {
      if (again[i]) {
        BatchFor(refused_, batch.Field(i).size())
            .AddField(batch.Field(i), std::move(batch.done(i)));
      }
    }
  }
  std::size_t events = 0;
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (again[i]) continue;
    ++events;
    bytes += batch.EventBytes(i);
    if (batch.done(i)) batch.done(i)(results[i]);
  }
  Lock lock(mutex_);
  CountFinished(lock, events, bytes);
}

void Publisher::Impl::Finish(Batch& batch, const PublishResult& result) {
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (batch.done(i)) batch.done(i)(result);
  }
}

void Publisher::Impl::CountFinished(Lock&, std::size_t events, std::size_t bytes) {
  unanswered_events_ -= events;
  unanswered_bytes_ -= bytes;
  changed_.notify_all();
}

bool Publisher::Impl::Flush(milliseconds timeout) {
  Lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [this] { return unanswered_events_ == 0; });
}

void Publisher::Impl::Close(milliseconds flush_timeout) {
  const std::lock_guard close_lock(close_mutex_);
  if (!thread_.joinable()) {
    return;
  }
  if (flush_timeout.count() > 0) {
    Flush(flush_timeout);
  }
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    main_wake_.notify_all();
    changed_.notify_all();
  }
  thread_.join();
}

Publisher::Publisher(PublisherOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {}
Publisher::~Publisher() = default;

void Publisher::Publish(const Event& event, PublishDone done) {
  impl_->Publish(event.Encoded(), std::move(done));
}

void Publisher::PublishEncoded(std::string encoded, PublishDone done) {
  impl_->Publish(encoded, std::move(done));
}

std::future<PublishResult> Publisher::Publish(const Event& event) {
  auto promise = std::make_shared<std::promise<PublishResult>>();
  std::future<PublishResult> future = promise->get_future();
  impl_->Publish(event.Encoded(),
                 [promise](const PublishResult& result) { promise->set_value(result); });
  return future;
}

std::vector<PublishResult> Publisher::PublishBatch(std::span<const Event> events) {
  std::vector<PublishResult> results(events.size());
  std::mutex mutex;
  std::condition_variable all;
  std::size_t left = events.size();
  for (std::size_t i = 0; i < events.size(); ++i) {
    impl_->Publish(events[i].Encoded(), [&, i](const PublishResult& result) {
      results[i] = result;
      const std::lock_guard lock(mutex);
      if (--left == 0) {
        all.notify_one();
      }
    });
  }
  std::unique_lock lock(mutex);
  all.wait(lock, [&left] { return left == 0; });
  return results;
}

bool Publisher::Flush(milliseconds timeout) { return impl_->Flush(timeout); }
void Publisher::Close(milliseconds flush_timeout) { impl_->Close(flush_timeout); }

}  // namespace tocsin::sdk
