#include "sdk/cpp/publisher.h"

#include <fmt/format.h>
#include <grpcpp/impl/codegen/rpc_method.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "tocsin/v1/publish.grpc.pb.h"

namespace tocsin::sdk {
namespace {

namespace pb = ::tocsin::v1;
using std::chrono::milliseconds;

constexpr milliseconds kRoomHintDefault{100};
constexpr milliseconds kRoomHintMax{10'000};

void AddVarint(std::uint64_t value, std::string* out) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

// Fields of PublishRequest: the events are encoded already and are not decoded to be encoded again.
constexpr char kSequenceTag = 1 << 3;
constexpr char kEventsTag = (2 << 3) | 2;
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

// The connection's thread writes, a thread per connection reads.
class Publisher::Impl {
 public:
  explicit Impl(PublisherOptions options)
      : options_([&options] {
          options.connection = Resolve(std::move(options.connection));
          return std::move(options);
        }()),
        thread_([this] { Main(); }) {}
  ~Impl() { Close(milliseconds(0)); }

  void Publish(std::string encoded, PublishDone done);
  bool Flush(milliseconds timeout);
  void Close(milliseconds flush_timeout);

 private:
  using Stream = grpc::ClientReaderWriter<grpc::ByteBuffer, pb::PublishResponse>;
  struct Entry {
    std::string encoded;
    PublishDone done;
  };
  struct Batch {
    std::uint64_t sequence = 0;
    std::vector<Entry> entries;
  };
  struct Answered {
    PublishDone done;
    PublishResult result;
  };

  void Main();
  grpc::Status Serve(std::unique_lock<std::mutex>& lock);
  void ReaderMain(Stream& stream);
  bool OnResponse(pb::PublishResponse& response);
  Batch TakeBatchLocked(std::string* request);
  void RequeueLocked(std::vector<Entry> entries);
  void FailAll(std::unique_lock<std::mutex>& lock, const absl::Status& status);
  void Finish(std::vector<Answered> answered);
  void Log(std::string_view line) { options_.connection.log(line); }

  const PublisherOptions options_;
  std::shared_ptr<grpc::Channel> channel_;

  std::mutex mutex_;
  std::condition_variable writer_wake_;
  std::condition_variable changed_;  // room, emptiness
  // Guarded by mutex_.
  std::deque<Entry> queue_;
  std::deque<Batch> in_flight_;
  std::vector<Entry> refused_;  // in order; sent again when nothing is in flight any more
  std::size_t unanswered_events_ = 0;
  std::size_t unanswered_bytes_ = 0;
  std::uint64_t next_sequence_ = 1;
  bool resend_ = false;  // the next batch begins with what was refused
  milliseconds room_hint_{0};
  bool answered_once_ = false;  // on this connection
  bool closing_ = false;
  bool reader_over_ = false;
  grpc::ClientContext* context_ = nullptr;

  std::mutex close_mutex_;
  std::thread thread_;  // last: it uses all of the above
};

void Publisher::Impl::Publish(std::string encoded, PublishDone done) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    return closing_ || (unanswered_events_ < options_.queue_events_max &&
                        (unanswered_events_ == 0 ||
                         unanswered_bytes_ + encoded.size() <= options_.queue_bytes_max));
  });
  if (closing_) {
    lock.unlock();
    done({absl::CancelledError("the publisher is closed"), false, false, 0, 0});
    return;
  }
  ++unanswered_events_;
  unanswered_bytes_ += encoded.size();
  queue_.push_back({std::move(encoded), std::move(done)});
  if (queue_.size() == 1) {
    writer_wake_.notify_one();
  }
}

Publisher::Impl::Batch Publisher::Impl::TakeBatchLocked(std::string* request) {
  Batch batch;
  batch.sequence = next_sequence_++;
  request->clear();
  request->push_back(kSequenceTag);
  AddVarint(batch.sequence, request);
  if (resend_) {
    request->push_back(kFromRefusedTag);
    AddVarint(1, request);
    resend_ = false;
  }
  while (!queue_.empty() && batch.entries.size() < options_.batch_events_max) {
    Entry& entry = queue_.front();
    if (!batch.entries.empty() &&
        request->size() + entry.encoded.size() > options_.batch_bytes_max) {
      break;
    }
    request->push_back(kEventsTag);
    AddVarint(entry.encoded.size(), request);
    request->append(entry.encoded);
    batch.entries.push_back(std::move(entry));
    queue_.pop_front();
  }
  return batch;
}

void Publisher::Impl::RequeueLocked(std::vector<Entry> entries) {
  queue_.insert(queue_.begin(), std::make_move_iterator(entries.begin()),
                std::make_move_iterator(entries.end()));
}

void Publisher::Impl::Main() {
  channel_ = NewChannel(options_.connection);
  Backoff backoff(options_.connection.backoff_min, options_.connection.backoff_max);
  std::unique_lock lock(mutex_);
  while (!closing_) {
    writer_wake_.wait(lock, [this] { return closing_ || !queue_.empty(); });
    if (closing_) {
      break;
    }
    answered_once_ = false;
    const grpc::Status status = Serve(lock);
    // What has no answer goes first on the next connection, in its order.
    std::vector<Entry> again = std::move(refused_);
    refused_.clear();
    const bool poisoned = status.error_code() == grpc::StatusCode::INVALID_ARGUMENT;
    std::vector<Answered> failed;
    for (Batch& batch : in_flight_) {
      for (Entry& entry : batch.entries) {
        if (poisoned) {
          unanswered_bytes_ -= entry.encoded.size();
          failed.push_back(
              {std::move(entry.done),
               {absl::InvalidArgumentError(status.error_message()), false, false, 0, 0}});
        } else {
          again.push_back(std::move(entry));
        }
      }
    }
    in_flight_.clear();
    RequeueLocked(std::move(again));
    resend_ = false;
    if (!failed.empty()) {
      lock.unlock();
      Finish(std::move(failed));
      lock.lock();
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
    writer_wake_.wait_for(lock, wait, [this] { return closing_; });
    // A channel that failed waits by itself before it tries again: the backoff is ours.
    channel_ = NewChannel(options_.connection);
  }
  FailAll(lock, absl::CancelledError("the publisher was closed before the broker answered"));
}

void Publisher::Impl::FailAll(std::unique_lock<std::mutex>& lock, const absl::Status& status) {
  std::vector<Answered> failed;
  for (Entry& entry : queue_) {
    unanswered_bytes_ -= entry.encoded.size();
    failed.push_back({std::move(entry.done), {status, false, false, 0, 0}});
  }
  queue_.clear();
  lock.unlock();
  Finish(std::move(failed));
  lock.lock();
}

grpc::Status Publisher::Impl::Serve(std::unique_lock<std::mutex>& lock) {
  grpc::ClientContext context;
  Authorize(options_.connection, context);
  if (options_.positions) {
    context.AddMetadata("tocsin-refs", "1");
  }
  context_ = &context;
  reader_over_ = false;
  lock.unlock();
  static const std::string method = "/tocsin.v1.Publisher/PublishStream";
  const std::unique_ptr<Stream> stream(
      grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, pb::PublishResponse>::Create(
          channel_.get(),
          grpc::internal::RpcMethod(method.c_str(), grpc::internal::RpcMethod::BIDI_STREAMING,
                                    channel_),
          &context));
  std::thread reader([this, &stream] { ReaderMain(*stream); });
  std::string request;
  lock.lock();
  while (!reader_over_) {
    writer_wake_.wait(lock, [this] {
      return reader_over_ || (closing_ && in_flight_.empty()) ||
             (!refused_.empty() && in_flight_.empty()) ||
             (refused_.empty() && !queue_.empty() &&
              in_flight_.size() < options_.batches_in_flight_max);
    });
    if (reader_over_ || closing_) {
      break;
    }
    if (!refused_.empty()) {
      // Everything sent is answered, so what was refused can go again before anything newer.
      writer_wake_.wait_for(lock, room_hint_, [this] { return reader_over_ || closing_; });
      std::vector<Entry> again = std::move(refused_);
      refused_.clear();
      RequeueLocked(std::move(again));
      resend_ = true;
      continue;
    }
    in_flight_.push_back(TakeBatchLocked(&request));
    lock.unlock();
    const grpc::Slice slice(request);
    const bool written = stream->Write(grpc::ByteBuffer(&slice, 1));
    lock.lock();
    if (!written) {
      break;
    }
  }
  const bool orderly = closing_ && in_flight_.empty() && !reader_over_;
  lock.unlock();
  if (orderly) {
    stream->WritesDone();
  } else if (!reader_over_) {
    // A failed write means the call is over; when closing, nothing is worth waiting for.
    lock.lock();
    if (closing_) {
      context.TryCancel();
    }
    lock.unlock();
  }
  reader.join();
  const grpc::Status status = stream->Finish();
  lock.lock();
  context_ = nullptr;
  return status;
}

void Publisher::Impl::ReaderMain(Stream& stream) {
  pb::PublishResponse response;
  while (stream.Read(&response)) {
    if (!OnResponse(response)) {
      const std::lock_guard lock(mutex_);
      context_->TryCancel();
      break;
    }
  }
  const std::lock_guard lock(mutex_);
  reader_over_ = true;
  writer_wake_.notify_all();
}

// False: the answer fits nothing that was sent.
bool Publisher::Impl::OnResponse(pb::PublishResponse& response) {
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
    answered_once_ = true;
  }
  std::vector<PublishResult> results(batch.entries.size());
  std::vector<bool> again(batch.entries.size());
  for (int i = 0; i < response.refs_size() && static_cast<std::size_t>(i) < results.size(); ++i) {
    PublishResult& result = results[static_cast<std::size_t>(i)];
    result.has_position = true;
    result.partition = response.refs(i).partition();
    result.offset = response.refs(i).offset();
  }
  milliseconds hint{0};
  for (const pb::EventResult& exception : response.exceptions()) {
    if (exception.index() >= results.size()) {
      continue;
    }
    PublishResult& result = results[exception.index()];
    if (exception.duplicate()) {
      result.duplicate = true;
      if (exception.has_first()) {
        result.has_position = true;
        result.partition = exception.first().partition();
        result.offset = exception.first().offset();
      }
    } else if (IsRetried(exception.code())) {
      again[exception.index()] = true;
      hint = std::max(hint, milliseconds(exception.retry_after_ms()));
    } else {
      result.has_position = false;
      result.status =
          absl::Status(static_cast<absl::StatusCode>(exception.code()), exception.error());
    }
  }
  std::vector<Answered> answered;
  std::vector<Entry> refused;
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (again[i]) {
      refused.push_back(std::move(batch.entries[i]));
    } else {
      bytes += batch.entries[i].encoded.size();
      answered.push_back({std::move(batch.entries[i].done), std::move(results[i])});
    }
  }
  {
    const std::lock_guard lock(mutex_);
    unanswered_bytes_ -= bytes;
    if (!refused.empty()) {
      if (refused_.empty()) {
        room_hint_ = kRoomHintDefault;
      }
      room_hint_ = std::clamp(hint, room_hint_, kRoomHintMax);
      std::move(refused.begin(), refused.end(), std::back_inserter(refused_));
    }
    writer_wake_.notify_one();
  }
  Finish(std::move(answered));
  return true;
}

void Publisher::Impl::Finish(std::vector<Answered> answered) {
  for (Answered& one : answered) {
    if (one.done) {
      one.done(one.result);
    }
  }
  const std::lock_guard lock(mutex_);
  unanswered_events_ -= answered.size();
  changed_.notify_all();
}

bool Publisher::Impl::Flush(milliseconds timeout) {
  std::unique_lock lock(mutex_);
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
    writer_wake_.notify_all();
    changed_.notify_all();
    if (context_ != nullptr && !in_flight_.empty()) {
      context_->TryCancel();
    }
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
  impl_->Publish(std::move(encoded), std::move(done));
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
