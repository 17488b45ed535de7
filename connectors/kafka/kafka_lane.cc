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

// An entry of the lane: it was found to be of another topic than the one that was read.
constexpr const char* kAnewKey = "anew";

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

  // A record as it was read.
  struct Known {
    std::int64_t offset = -1;  // -1: none
    std::uint64_t fingerprint = 0;
    std::int64_t newest = -1;  // milliseconds: of all records read up to it
  };

  // What the look at the start found.
  struct Begin {
    KafkaPosition position;
    std::int64_t from = 0;  // where reading begins
    bool announce = false;  // the position is to be durable before the first event
    std::uint64_t skipped = 0;
    std::string note;
  };

  // What is told of the partition while it is read.
  struct Seen {
    KafkaBounds bounds;
    std::int64_t newer = 0;  // the first record that is newer than all that are sure
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
  bool Verified(const rd_kafka_message_t& message);
  Known Last() const { return {position.last, position.fingerprint, newest}; }

  // On `lanes`, while it reads: is it still the same topic?
  void AskAgainLater(std::uint64_t number);
  void AskAgain(std::uint64_t number);
  void Told(Known last, const absl::StatusOr<Seen>& seen);

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
  Known expected;              // the first record that comes, if it is that one
  Known sure;                  // read when it was the same topic without doubt
  std::int64_t newest = -1;    // milliseconds: of the records read since the start
  std::int64_t doubt = -1;     // an offset that did not fit
  std::int64_t harmless = -1;  // one that was looked into
  std::string anew;            // why it is another topic; to be durable before it is told
  bool anew_given = false;
  absl::Status pending_error;  // came behind records, which are given first
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
  // Each may take seconds while nobody answers.
  if (IsCancelled()) return absl::CancelledError("cancelled");
  // Before the bounds: another member may be reading on meanwhile.
  TOCSIN_ASSIGN_OR_RETURN(const std::optional<std::int64_t> committed,
                          client->AskCommitted(partition));
  if (IsCancelled()) return absl::CancelledError("cancelled");
  TOCSIN_ASSIGN_OR_RETURN(const KafkaBounds bounds, client->AskBounds(partition));
  begin.position.cluster = cluster;
  if (restored.position.value.empty()) {
    if (!committed) return LookFresh(std::move(begin), bounds);
    begin.position.next = *committed;
  } else {
    const auto stored = DecodeKafkaPosition(restored.position.value);
    if (!stored) return Refuse("the stored position is of another kind of source");
    if (stored->cluster != cluster) {
      return Refuse(fmt::format("it is on another cluster ({}) than what was read ({})", cluster,
                                stored->cluster));
    }
    const auto other = restored.entries.find(kAnewKey);
    if (other != restored.entries.end()) return Refuse(other->second);
    begin.position = *stored;
    if (committed && *committed > stored->next) {
      begin.position.next = *committed;
      begin.position.last = -1;
    }
  }
  const std::int64_t next = begin.from = begin.position.next;
  if (next > bounds.high) {
    return Refuse(
        fmt::format("it ends at {}, but had been read up to {}: the topic was made anew, "
                    "or restored from an older copy",
                    bounds.high, next));
  }
  if (next < bounds.low) {
    const std::string what = fmt::format(
        "{} records after {} expired before they were read; the first that is there "
        "is {}",
        bounds.low - next, next, bounds.low);
    if (!client->spec().pass_gaps) {
      return absl::FailedPreconditionError(fmt::format(
          "{}: {}; say `on_gap: continue` to go on behind them", partition.Key(), what));
    }
    begin.skipped = static_cast<std::uint64_t>(bounds.low - next);
    begin.note = what;
    begin.position.next = begin.from = bounds.low;
    begin.position.last = -1;
    return begin;
  }
  // The record before it is looked at, too: is it the one that was read?
  if (begin.position.last >= bounds.low) begin.from = begin.position.last;
  return begin;
}

absl::Status KafkaLane::Impl::Start(std::int64_t from) {
  queue.reset(rd_kafka_queue_new(client->handle()));
  if (rd_kafka_consume_start_queue(client->TopicOf(partition.topic), partition.partition, from,
                                   queue.get()) != 0) {
    return KafkaStatus(rd_kafka_last_error(), partition.Key());
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
  if (reading) rd_kafka_consume_stop(client->TopicOf(partition.topic), partition.partition);
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
    expected = begin->from < position.next ? Last() : Known();
    sure = Known();
    pending_error = absl::OkStatus();
    newest = doubt = harmless = -1;
    skipped_total += begin->skipped;
    outages_seen = client->outages();
    status = Start(begin->from);
    AskAgainLater(number);
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
  newest = std::max(newest, time);
  if (sure.offset < 0) sure = Last();
}

// Compaction may have taken the record that is expected.
bool KafkaLane::Impl::Verified(const rd_kafka_message_t& message) {
  const Known wanted = std::exchange(expected, Known());
  if (wanted.offset < 0) return true;
  if (message.offset == wanted.offset) {
    rd_kafka_timestamp_type_t kind = RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    const std::int64_t time = rd_kafka_message_timestamp(&message, &kind);
    const std::uint64_t found = KafkaFingerprint(time, View(message.key, message.key_len),
                                                 View(message.payload, message.len));
    if (found != wanted.fingerprint) return false;
    newest = std::max(newest, time);
    if (sure.offset < 0) sure = {wanted.offset, wanted.fingerprint, newest};
  }
  if (doubt >= 0) harmless = std::exchange(doubt, -1);
  return true;
}

void KafkaLane::Impl::AskAgainLater(std::uint64_t number) {
  const Instant when = client->ports().clock.Monotonic() + client->spec().discover;
  client->ports().lanes.PostAt(when, [weak = weak_from_this(), number] {
    if (const auto alive = weak.lock()) alive->AskAgain(number);
  });
}

void KafkaLane::Impl::AskAgain(std::uint64_t number) {
  if (closed || number != connects) return;
  AskAgainLater(number);
  if (!reading || sure.newest < 0 || expected.offset >= 0) return;
  client->ports().control.Post(
      [self = shared_from_this(), number, last = Last(), after = sure.newest + 1] {
        if (self->IsCancelled()) return;
        const auto time = WallTime(std::chrono::milliseconds(after));
        absl::StatusOr<Seen> seen = Seen();
        const absl::StatusOr<std::int64_t> newer = self->client->AskOffsetAt(self->partition, time);
        const absl::StatusOr<KafkaBounds> bounds = self->client->AskBounds(self->partition);
        if (newer.ok() && bounds.ok()) {
          seen = Seen{*bounds, *newer};
        } else {
          seen = newer.ok() ? bounds.status() : newer.status();
        }
        self->client->ports().lanes.Post([self, number, last, seen] {
          if (!self->closed && number == self->connects && self->reading) self->Told(last, seen);
        });
      });
}

// In the topic that was read, what is newer than all that was read up to a record comes behind it,
// but for clocks that differ. If it does not, that record is read again: is it still the one?
void KafkaLane::Impl::Told(Known last, const absl::StatusOr<Seen>& seen) {
  if (!seen.ok() || !anew.empty()) return;  // it is asked again
  const bool fits = seen->newer > sure.offset || seen->newer == harmless;
  if (fits || sure.offset < seen->bounds.low) {
    if (!fits) harmless = seen->newer;  // nothing that is known is still there
    sure = last;
    return;
  }
  doubt = seen->newer;
  StopReading();
  expected = sure;
  // What cannot be started says so to the next poll.
  if (!Start(sure.offset).ok()) reading = false;
}

absl::Status KafkaLane::Impl::Take(const rd_kafka_message_t& message, SourceBatch& batch,
                                   std::size_t& bytes) {
  if (message.err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
    // Behind what transactions leave that is no record.
    if (message.offset > position.next) position.next = message.offset;
    expected = Known();
    return absl::OkStatus();
  }
  if (message.err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET ||
      message.err == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE) {
    // Which of the reasons it is, the look at the next start tells.
    return absl::FailedPreconditionError(
        fmt::format("{}: offset {} is not there", partition.Key(), position.next));
  }
  if (message.err != RD_KAFKA_RESP_ERR_NO_ERROR) return KafkaStatus(message.err, partition.Key());
  if (!Verified(message)) {
    const std::string what = fmt::format(
        "the record at {} is not the one that was read: the topic was made anew", message.offset);
    if (doubt >= 0) anew = what;
    return Refuse(what);
  }
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
  if (!pending_error.ok()) return AnswerPoll(pending_error);
  if (!reading) return AnswerPoll(absl::UnavailableError("it is not connected"));
  SourceBatch batch;
  std::size_t bytes = 0;
  if (std::exchange(announce, false)) {
    batch.position.value = EncodeKafkaPosition(position);
    batch.puts.push_back({"begun", std::to_string(position.next)});
    return AnswerPoll(std::move(batch));
  }
  while (anew.empty()) {
    if (fetched.empty()) Fetch();
    if (fetched.empty()) break;
    const KafkaMessage message = std::move(fetched.front());
    fetched.pop_front();
    absl::Status status = Take(*message, batch, bytes);
    if (!anew.empty()) break;
    if (!status.ok()) {
      if (batch.empty()) return AnswerPoll(std::move(status));
      // What came before it is given first. The library tells it once only, and what is behind it
      // is read again by the next connection.
      pending_error = std::move(status);
      StopReading();
      break;
    }
    if (batch.events.size() + batch.undecodable.size() >= kBatchEventsMax ||
        bytes >= kBatchBytesMax) {
      break;
    }
  }
  ShowPosition();
  batch.position.value = EncodeKafkaPosition(position);
  if (!anew.empty()) {
    // Records of the other topic were taken, so the position says nothing any more.
    if (std::exchange(anew_given, true)) return AnswerPoll(Refuse(anew));
    batch.puts.push_back({kAnewKey, anew});
  }
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
    impl->client->ports().control.Post([impl, restored, number] {
      absl::StatusOr<Impl::Begin> begin =
          impl->IsCancelled() ? absl::CancelledError("cancelled") : impl->Look(restored);
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
  if (impl_->client->group() == nullptr || !stored) {
    return impl_->Answer(std::move(done), absl::OkStatus());
  }
  impl_->client->ports().lanes.Post(
      [impl = impl_, next = stored->next, done = std::move(done)]() mutable {
        impl->client->group()->Commit(impl->partition, next,
                                      [impl, done = std::move(done)](absl::Status status) mutable {
                                        impl->Answer(std::move(done), std::move(status));
                                      });
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
