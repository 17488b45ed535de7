#include "connectors/kafka/kafka_lane.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <utility>
#include <vector>

#include "broker/base/status.h"
#include "connectors/kafka/kafka_position.h"

namespace tocsin {
namespace {

using Pair = std::pair<std::string_view, std::string_view>;

std::optional<std::string_view> View(const void* data, std::size_t size) {
  if (data == nullptr) return std::nullopt;
  return std::string_view(static_cast<const char*>(data), size);
}

}  // namespace

struct KafkaLane::Impl : std::enable_shared_from_this<KafkaLane::Impl> {
  Impl(KafkaPartition partition_in, std::shared_ptr<KafkaClient> client_in,
       std::shared_ptr<const RecordMapper> mapper_in, Executor& owner_in)
      : partition(std::move(partition_in)),
        client(std::move(client_in)),
        mapper(std::move(mapper_in)),
        owner(owner_in) {}

  // What the look at the start found.
  struct Begin {
    KafkaPosition position;
    std::int64_t from = 0;  // where reading begins
    bool announce = false;  // the position is to be durable before the first event
    std::uint64_t skipped = 0;
    std::string note;
  };

  // On `control`.
  absl::StatusOr<Begin> Look(const LaneState& restored) const;
  absl::StatusOr<Begin> LookFresh(Begin begin, const KafkaBounds& bounds) const;
  absl::Status Refuse(std::string_view what) const;

  // On `lanes`.
  void Connected(std::uint64_t number, absl::StatusOr<Begin> begin);
  absl::Status Start(std::int64_t from);
  void StopReading();
  void Listen();
  void Fetch();
  absl::Status Take(const rd_kafka_message_t& message, SourceBatch& batch, std::size_t& bytes);
  void Add(const rd_kafka_message_t& message, SourceBatch& batch, std::size_t& bytes);
  void Give(bool timed_out);
  void Answer(Done done, absl::Status status);
  void AnswerPoll(absl::StatusOr<SourceBatch> answer);
  void ShowPosition();

  // Set at construction.
  const KafkaPartition partition;
  const std::shared_ptr<KafkaClient> client;
  const std::shared_ptr<const RecordMapper> mapper;
  Executor& owner;

  // Of `lanes`.
  Done connect_done;
  std::uint64_t connects = 0;
  PollDone poll_done;
  std::uint64_t polls = 0;
  KafkaQueue queue;
  bool reading = false;
  bool closed = false;
  bool announce = false;
  KafkaPosition position;
  bool verify = false;  // the first record is the one before the position
  std::deque<KafkaMessage> fetched;
  std::uint64_t outages_seen = 0;
  std::uint64_t skipped_total = 0;

  mutable Mutex mutex;
  bool cancelled ABSL_GUARDED_BY(mutex) = false;
  LaneReport shown ABSL_GUARDED_BY(mutex);

  bool IsCancelled() const {
    MutexLock lock(mutex);
    return cancelled;
  }
};

absl::Status KafkaLane::Impl::Refuse(std::string_view what) const {
  return absl::FailedPreconditionError(
      fmt::format("{}: {}; `tocsin sources forget {}` begins all its partitions anew",
                  partition.Key(), what, client->spec().name));
}

absl::StatusOr<KafkaLane::Impl::Begin> KafkaLane::Impl::LookFresh(Begin begin,
                                                                  const KafkaBounds& bounds) const {
  switch (client->spec().start) {
    case KafkaStart::kEarliest:
      begin.position.next = bounds.low;
      break;
    case KafkaStart::kLatest:
      begin.position.next = bounds.high;
      begin.announce = true;
      break;
    case KafkaStart::kTime: {
      TOCSIN_ASSIGN_OR_RETURN(begin.position.next,
                              client->AskOffsetAt(partition, client->spec().start_time));
      begin.announce = true;
      break;
    }
  }
  begin.from = begin.position.next;
  return begin;
}

absl::StatusOr<KafkaLane::Impl::Begin> KafkaLane::Impl::Look(const LaneState& restored) const {
  Begin begin;
  TOCSIN_ASSIGN_OR_RETURN(const std::string cluster, client->AskClusterId());
  TOCSIN_ASSIGN_OR_RETURN(const KafkaBounds bounds, client->AskBounds(partition));
  std::optional<std::int64_t> committed;
  if (client->grouped()) {
    TOCSIN_ASSIGN_OR_RETURN(committed, client->AskCommitted(partition));
  }
  begin.position.cluster = cluster;
  if (restored.position.value.empty()) {
    if (!committed) return LookFresh(std::move(begin), bounds);
    begin.position.next = begin.from = std::max(*committed, bounds.low);
    return begin;
  }
  const auto stored = DecodeKafkaPosition(restored.position.value);
  if (!stored) return Refuse("the stored position is of another kind of source");
  if (stored->cluster != cluster) {
    return Refuse(fmt::format("it is on another cluster ({}) than what was read ({})", cluster,
                              stored->cluster));
  }
  if (stored->next > bounds.high) {
    return Refuse(
        fmt::format("it ends at {}, but had been read up to {}: the topic was made anew, "
                    "or restored from an older copy",
                    bounds.high, stored->next));
  }
  begin.position = *stored;
  begin.from = stored->next;
  if (committed && *committed > stored->next) {
    begin.position.next = begin.from = *committed;
    begin.position.last = -1;
    return begin;
  }
  if (stored->next < bounds.low) {
    const std::string what = fmt::format(
        "{} records after {} expired before they were read; the first that is there "
        "is {}",
        bounds.low - stored->next, stored->next, bounds.low);
    if (!client->spec().pass_gaps) {
      return absl::FailedPreconditionError(fmt::format(
          "{}: {}; say `on_gap: continue` to go on behind them", partition.Key(), what));
    }
    begin.skipped = static_cast<std::uint64_t>(bounds.low - stored->next);
    begin.note = what;
    begin.position.next = begin.from = bounds.low;
    begin.position.last = -1;
    return begin;
  }
  if (stored->last >= bounds.low && !client->grouped()) begin.from = stored->last;
  return begin;
}

absl::Status KafkaLane::Impl::Start(std::int64_t from) {
  queue.reset();
  if (client->grouped()) {
    queue.reset(rd_kafka_queue_get_partition(client->handle(), partition.topic.c_str(),
                                             partition.partition));
    if (queue == nullptr) return absl::UnavailableError("the partition is not ours any more");
    rd_kafka_queue_forward(queue.get(), nullptr);
  } else {
    rd_kafka_topic_t* topic = client->TopicOf(partition.topic);
    queue.reset(rd_kafka_queue_new(client->handle()));
    if (rd_kafka_consume_start_queue(topic, partition.partition, from, queue.get()) != 0) {
      return KafkaStatus(rd_kafka_last_error(), partition.Key());
    }
  }
  reading = true;
  Listen();
  return absl::OkStatus();
}

// The callback comes from a thread of the library; not after StopReading().
void KafkaLane::Impl::Listen() {
  rd_kafka_queue_cb_event_enable(
      queue.get(),
      [](rd_kafka_t*, void* opaque) {
        auto* self = static_cast<Impl*>(opaque);
        self->client->ports().lanes.Post([weak = self->weak_from_this()] {
          if (const auto alive = weak.lock()) alive->Give(false);
        });
      },
      this);
}

void KafkaLane::Impl::StopReading() {
  fetched.clear();
  if (queue != nullptr) rd_kafka_queue_cb_event_enable(queue.get(), nullptr, nullptr);
  if (reading && !client->grouped()) {
    rd_kafka_consume_stop(client->TopicOf(partition.topic), partition.partition);
  }
  reading = false;
  queue.reset();
}

void KafkaLane::Impl::Answer(Done done, absl::Status status) {
  owner.Post(
      [done = std::move(done), status = std::move(status)]() mutable { done(std::move(status)); });
}

void KafkaLane::Impl::AnswerPoll(absl::StatusOr<SourceBatch> answer) {
  owner.Post([done = std::exchange(poll_done, nullptr), answer = std::move(answer)]() mutable {
    done(std::move(answer));
  });
}

void KafkaLane::Impl::Connected(std::uint64_t number, absl::StatusOr<Begin> begin) {
  if (number != connects || connect_done == nullptr || closed) return;  // cancelled meanwhile
  absl::Status status = begin.status();
  if (status.ok()) {
    position = begin->position;
    announce = begin->announce;
    verify = begin->from < position.next;
    skipped_total += begin->skipped;
    outages_seen = client->outages();
    status = Start(begin->from);
    MutexLock lock(mutex);
    shown.skipped = skipped_total;
    shown.note = begin->note;
  }
  ShowPosition();
  Answer(std::exchange(connect_done, nullptr), std::move(status));
}

void KafkaLane::Impl::ShowPosition() {
  std::int64_t low = 0, high = 0;
  const bool known =
      reading &&
      rd_kafka_get_watermark_offsets(client->handle(), partition.topic.c_str(), partition.partition,
                                     &low, &high) == RD_KAFKA_RESP_ERR_NO_ERROR &&
      high >= 0;
  MutexLock lock(mutex);
  shown.position = std::to_string(position.next);
  if (known)
    shown.lag = static_cast<std::uint64_t>(std::max<std::int64_t>(0, high - position.next));
}

void KafkaLane::Impl::Add(const rd_kafka_message_t& message, SourceBatch& batch,
                          std::size_t& bytes) {
  std::vector<Pair> headers;
  rd_kafka_headers_t* held = nullptr;
  if (rd_kafka_message_headers(&message, &held) == RD_KAFKA_RESP_ERR_NO_ERROR) {
    const char* name = nullptr;
    const void* value = nullptr;
    std::size_t size = 0;
    for (std::size_t i = 0;
         rd_kafka_header_get_all(held, i, &name, &value, &size) == RD_KAFKA_RESP_ERR_NO_ERROR;
         ++i) {
      headers.emplace_back(name, View(value, size).value_or(""));
    }
  }
  rd_kafka_timestamp_type_t kind = RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
  const std::int64_t time = rd_kafka_message_timestamp(&message, &kind);
  const std::string number = std::to_string(message.partition);
  const std::string offset = std::to_string(message.offset);
  const std::string id = fmt::format("{}/{}/{}", partition.topic, number, offset);
  const std::array<Pair, 3> names = {Pair{"topic", partition.topic}, Pair{"partition", number},
                                     Pair{"offset", offset}};
  OutsideRecord record;
  record.id = id;
  record.subject = partition.topic;
  record.where = id;
  record.key = View(message.key, message.key_len);
  record.headers = headers;
  record.names = names;
  record.value = View(message.payload, message.len);
  record.what = record.value ? "record" : "tombstone";
  if (kind != RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && time >= 0) {
    record.time = WallTime(std::chrono::milliseconds(time));
  }
  bytes += mapper->MapInto(record, batch);
  position.next = message.offset + 1;
  position.last = message.offset;
  position.fingerprint = KafkaFingerprint(time, record.key, record.value);
}

absl::Status KafkaLane::Impl::Take(const rd_kafka_message_t& message, SourceBatch& batch,
                                   std::size_t& bytes) {
  if (message.err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
    // Behind what transactions leave that is no record.
    if (message.offset > position.next) position.next = message.offset;
    verify = false;
    return absl::OkStatus();
  }
  if (message.err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET ||
      message.err == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE) {
    // Which of the reasons it is, the look at the next start tells.
    return absl::FailedPreconditionError(
        fmt::format("{}: offset {} is not there", partition.Key(), position.next));
  }
  if (message.err != RD_KAFKA_RESP_ERR_NO_ERROR) return KafkaStatus(message.err, partition.Key());
  if (verify && message.offset == position.last) {
    verify = false;
    rd_kafka_timestamp_type_t kind = RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    const std::uint64_t found =
        KafkaFingerprint(rd_kafka_message_timestamp(&message, &kind),
                         View(message.key, message.key_len), View(message.payload, message.len));
    if (found == position.fingerprint) return absl::OkStatus();
    return Refuse(
        fmt::format("the record at {} is not the one that was read: the topic was made "
                    "anew",
                    message.offset));
  }
  // Compaction may have taken the record before the position.
  verify = false;
  if (message.offset < position.next) return absl::OkStatus();
  Add(message, batch, bytes);
  return absl::OkStatus();
}

void KafkaLane::Impl::Fetch() {
  std::array<rd_kafka_message_t*, kBatchEventsMax> some;
  const ssize_t got = rd_kafka_consume_batch_queue(queue.get(), 0, some.data(), some.size());
  for (ssize_t i = 0; i < got; ++i) fetched.emplace_back(some[static_cast<std::size_t>(i)]);
}

void KafkaLane::Impl::Give(bool timed_out) {
  if (poll_done == nullptr || closed) return;
  if (IsCancelled()) return AnswerPoll(absl::CancelledError("cancelled"));
  if (!reading) return AnswerPoll(absl::UnavailableError("it is not connected"));
  SourceBatch batch;
  std::size_t bytes = 0;
  if (std::exchange(announce, false)) {
    batch.position.value = EncodeKafkaPosition(position);
    batch.puts.push_back({"begun", std::to_string(position.next)});
    return AnswerPoll(std::move(batch));
  }
  while (true) {
    if (fetched.empty()) Fetch();
    if (fetched.empty()) break;
    const KafkaMessage message = std::move(fetched.front());
    fetched.pop_front();
    absl::Status status = Take(*message, batch, bytes);
    if (!status.ok()) {
      // What came before it is given first; the next poll meets the error again at the start.
      if (batch.empty()) return AnswerPoll(std::move(status));
      fetched.clear();
      break;
    }
    if (batch.events.size() + batch.undecodable.size() >= kBatchEventsMax ||
        bytes >= kBatchBytesMax) {
      break;
    }
  }
  ShowPosition();
  batch.position.value = EncodeKafkaPosition(position);
  if (!batch.empty()) return AnswerPoll(std::move(batch));
  const std::uint64_t outages = client->outages();
  if (outages != outages_seen) {
    outages_seen = outages;
    const absl::Status why = client->problem();
    return AnswerPoll(why.ok() ? absl::UnavailableError("no broker is reachable") : why);
  }
  if (timed_out) AnswerPoll(std::move(batch));
}

KafkaLane::KafkaLane(KafkaPartition partition, std::shared_ptr<KafkaClient> client,
                     std::shared_ptr<const RecordMapper> mapper, Executor& owner)
    : impl_(std::make_shared<Impl>(std::move(partition), std::move(client), std::move(mapper),
                                   owner)) {}

KafkaLane::~KafkaLane() {
  Executor& lanes = impl_->client->ports().lanes;
  lanes.Post([impl = std::move(impl_)] {
    impl->closed = true;
    impl->StopReading();
  });
}

void KafkaLane::Connect(const LaneState& restored, Done done) {
  impl_->client->ports().lanes.Post([impl = impl_, restored, done = std::move(done)]() mutable {
    if (impl->IsCancelled()) {
      return impl->Answer(std::move(done), absl::CancelledError("cancelled"));
    }
    impl->StopReading();
    impl->connect_done = std::move(done);
    const std::uint64_t number = ++impl->connects;
    impl->client->ports().control.Post([impl, restored = std::move(restored), number] {
      absl::StatusOr<Impl::Begin> begin =
          impl->IsCancelled() ? absl::CancelledError("cancelled") : impl->Look(restored);
      if (begin.ok() && impl->client->grouped()) {
        const absl::Status sought = impl->client->AskSeek(impl->partition, begin->from);
        if (!sought.ok()) begin = sought;
      }
      impl->client->ports().lanes.Post([impl, number, begin = std::move(begin)]() mutable {
        impl->Connected(number, std::move(begin));
      });
    });
  });
}

void KafkaLane::Poll(Duration wait_max, PollDone done) {
  impl_->client->ports().lanes.Post([impl = impl_, wait_max, done = std::move(done)]() mutable {
    impl->poll_done = std::move(done);
    const std::uint64_t number = ++impl->polls;
    impl->Give(wait_max <= Duration::zero());
    if (impl->poll_done == nullptr) return;
    const Instant until = impl->client->ports().clock.Monotonic() + wait_max;
    impl->client->ports().lanes.PostAt(until, [weak = std::weak_ptr(impl), number] {
      const auto alive = weak.lock();
      if (alive != nullptr && alive->polls == number) alive->Give(true);
    });
  });
}

void KafkaLane::Commit(const SourcePosition& position, Done done) {
  const auto stored = DecodeKafkaPosition(position.value);
  if (!impl_->client->grouped() || !stored) return impl_->Answer(std::move(done), absl::OkStatus());
  impl_->client->ports().control.Post(
      [impl = impl_, next = stored->next, done = std::move(done)]() mutable {
        impl->Answer(std::move(done), impl->client->AskCommit(impl->partition, next));
      });
}

void KafkaLane::Cancel() {
  {
    MutexLock lock(impl_->mutex);
    impl_->cancelled = true;
  }
  impl_->client->ports().lanes.Post([impl = impl_] {
    if (impl->connect_done != nullptr) {
      impl->Answer(std::exchange(impl->connect_done, nullptr), absl::CancelledError("cancelled"));
    }
    impl->Give(false);
  });
}

LaneReport KafkaLane::report() const {
  MutexLock lock(impl_->mutex);
  return impl_->shown;
}

}  // namespace tocsin
