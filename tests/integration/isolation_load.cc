#include "tests/integration/isolation_load.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <span>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/event.h"
#include "broker/base/hash.h"
#include "broker/base/mutex.h"
#include "tocsin/v1/worker.grpc.pb.h"

namespace tocsin {
namespace {

constexpr std::size_t kPartitions = 4;  // of the default configuration
constexpr std::size_t kDataBytes = 256;
constexpr std::uint32_t kCrowdKeys = 1000;  // of the quiet side in place of the hot key
constexpr Duration kPace = std::chrono::milliseconds(2);
constexpr Duration kHeartbeatEvery = std::chrono::seconds(2);

struct Stamp {  // at the front of every event's data
  std::uint32_t number = 0;
  std::uint32_t sequence = 0;
  std::int64_t due_ns = 0;
};

// Of a hundred events, how many are odd.
std::uint32_t OddShare(Disturbance disturbance) {
  switch (disturbance) {
    case Disturbance::kFailingKey:
      return 1;
    case Disturbance::kHotKey:
      return 90;
    case Disturbance::kMuteWorker:
    case Disturbance::kStuckTrigger:
      return 0;
  }
  return 0;
}

std::string Triggers(const std::string& timeout, bool stuck) {
  std::string text = "functions:\n  disturbed: {}\n  quiet: {}\ntriggers:\n";
  for (const char* side : {"disturbed", "quiet"}) {
    text += fmt::format(
        "  {0}:\n    filters: [ {{ exact: {{ type: {0} }} }} ]\n    function: {0}\n    timeout: "
        "{1}\n",
        side, timeout);
  }
  if (stuck) {
    text += fmt::format(
        "  {0}:\n    filters: [ {{ exact: {{ type: disturbed }} }} ]\n    function: {0}\n"
        "    timeout: {1}\n",
        kStuckTriggerName, timeout);
    text.insert(text.find("triggers:"), fmt::format("  {}: {{}}\n", kStuckTriggerName));
  }
  return text;
}

bool HasStuckTrigger(const LoadShape& shape, bool disturbed) {
  return disturbed && !shape.calm && shape.disturbance == Disturbance::kStuckTrigger;
}

sdk::ConnectionOptions ConnectTo(const std::string& target) {
  sdk::ConnectionOptions connection;
  connection.target = target;
  connection.log = [](std::string_view) {};
  return connection;
}

}  // namespace

class IsolationLoad::Side {
 public:
  Side(const LoadShape& shape, bool disturbed)
      : disturbed_(disturbed),
        name_(disturbed ? "disturbed" : "quiet"),
        // One odd key, or the crowd in its place, after the others.
        odd_keys_((!disturbed || shape.calm) && shape.disturbance == Disturbance::kHotKey
                      ? kCrowdKeys
                      : 1),
        fails_(disturbed && !shape.calm && shape.disturbance == Disturbance::kFailingKey),
        keys_(shape.keys),
        sent_(shape.keys + odd_keys_),
        done_(shape.keys + odd_keys_),
        withheld_(shape.keys) {}

  bool disturbed() const { return disturbed_; }
  const std::string& name() const { return name_; }
  std::uint32_t keys() const { return keys_; }
  std::uint32_t NextOddNumber() { return keys_ + static_cast<std::uint32_t>(odd_++ % odd_keys_); }
  std::uint32_t NextOther() { return next_other_++ % keys_; }
  std::uint32_t NextSequence(std::uint32_t number) { return sent_[number]++; }
  std::string KeyName(std::uint32_t number) const { return fmt::format("{}{}", name_[0], number); }

  // What becomes of a delivery; `other`: the key to publish next of, if it is one of the others'.
  sdk::Result Ran(std::string_view data, Instant now, std::optional<std::uint32_t>* other) {
    Stamp stamp;
    TOCSIN_CHECK(data.size() == kDataBytes, "an event that is not ours");
    std::memcpy(&stamp, data.data(), sizeof stamp);
    const MutexLock lock(mutex_);
    const bool odd = stamp.number >= keys_;
    std::uint32_t& done = done_[stamp.number];
    if (odd && fails_) {
      // Again the one before, or the next one when that is dead.
      if (stamp.sequence != done && stamp.sequence != done + 1) ++overtakings_;
      done = stamp.sequence;
      ++odd_failed_;
      return sdk::RetryError("no", "this key always fails");
    }
    if (stamp.sequence != done) ++overtakings_;
    done = stamp.sequence + 1;
    if (odd) {
      ++odd_settled_;
      return sdk::Ack();
    }
    const std::int64_t late_ns = now.time_since_epoch().count() - stamp.due_ns;
    latencies_.push_back({stamp.number, static_cast<float>(late_ns) / 1e6F});
    *other = stamp.number;
    return sdk::Ack();
  }
  // The mute worker was given an event of this key.
  void Withheld(std::string_view data) {
    Stamp stamp;
    std::memcpy(&stamp, data.data(), sizeof stamp);
    const MutexLock lock(mutex_);
    withheld_[stamp.number] = true;
  }

  SideCount Count() const {
    const MutexLock lock(mutex_);
    SideCount count;
    std::array<std::uint32_t, kPartitions> keys{};
    std::array<std::uint64_t, kPartitions> others{};
    for (std::uint32_t key = 0; key < keys_; ++key) {
      if (withheld_[key]) continue;
      const std::size_t partition = HashKey(KeyName(key)) % kPartitions;
      ++keys[partition];
      others[partition] += done_[key];
      ++count.other_keys;
      count.others += done_[key];
    }
    count.slowest_per_key = count.per_key();
    for (std::size_t partition = 0; partition < kPartitions; ++partition) {
      count.slowest_per_key =
          std::min(count.slowest_per_key,
                   static_cast<double>(others[partition]) / std::max(keys[partition], 1U));
    }
    count.odd_published = odd_;
    count.odd_settled = odd_settled_;
    count.odd_failed = odd_failed_;
    return count;
  }
  Latency OthersLatency() const {
    std::vector<float> sorted;
    {
      const MutexLock lock(mutex_);
      for (const auto& [key, ms] : latencies_) {
        if (!withheld_[key]) sorted.push_back(ms);
      }
    }
    if (sorted.empty()) return {};
    std::sort(sorted.begin(), sorted.end());
    return {.p50_ms = sorted[sorted.size() / 2],
            .p99_ms = sorted[sorted.size() * 99 / 100],
            .max_ms = sorted.back()};
  }
  std::uint64_t overtakings() const { return overtakings_; }

 private:
  const bool disturbed_;
  const std::string name_;
  const std::uint32_t odd_keys_;
  const bool fails_;
  const std::uint32_t keys_;
  std::atomic<std::uint64_t> odd_{0};
  std::vector<std::uint32_t> sent_;  // the driver's
  std::uint32_t next_other_ = 0;     // the driver's
  mutable Mutex mutex_;
  std::vector<std::uint32_t> done_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> withheld_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<std::uint32_t, float>> latencies_ ABSL_GUARDED_BY(mutex_);
  std::uint64_t odd_settled_ ABSL_GUARDED_BY(mutex_) = 0;
  std::uint64_t odd_failed_ ABSL_GUARDED_BY(mutex_) = 0;
  std::atomic<std::uint64_t> overtakings_{0};
};

// Takes what its credit allows and never answers, while its heartbeat goes on.
class MuteWorker {
 public:
  MuteWorker(const std::string& target, const std::string& function, std::uint32_t credit,
             std::function<void(std::string_view data)> took)
      : stub_(v1::Worker::NewStub(grpc::CreateChannel(target, grpc::InsecureChannelCredentials()))),
        stream_(stub_->Attach(&context_)),
        took_(std::move(took)),
        reader_("mute-read", clock_),
        writer_("mute-write", clock_) {
    v1::WorkerFrame frame;
    v1::Hello& hello = *frame.mutable_hello();
    hello.set_protocol(1);
    hello.set_worker("mute");
    hello.add_functions(function);
    hello.mutable_credit()->set_events(credit);
    TOCSIN_CHECK(stream_->Write(frame));
    v1::BrokerFrame welcome;
    TOCSIN_CHECK(stream_->Read(&welcome) && welcome.has_welcome());
    reader_.Post([this] { Read(); });
    writer_.Post([this] { Beat(); });
  }
  ~MuteWorker() {
    writer_.Stop();
    context_.TryCancel();
    reader_.Stop();
    stream_->Finish();
  }

 private:
  void Read() {
    v1::BrokerFrame frame;
    while (stream_->Read(&frame)) {
      for (const v1::Delivery& delivery : frame.deliveries().deliveries()) {
        took_(sdk::Event::Borrow(delivery.event()).data());
      }
    }
  }
  void Beat() {
    v1::WorkerFrame frame;
    frame.mutable_heartbeat();
    if (!stream_->Write(frame)) return;
    writer_.PostAt(clock_.Monotonic() + kHeartbeatEvery, [this] { Beat(); });
  }

  SystemClock clock_;
  std::unique_ptr<v1::Worker::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerFrame, v1::BrokerFrame>> stream_;
  const std::function<void(std::string_view data)> took_;
  ThreadExecutor reader_;
  ThreadExecutor writer_;
};

IsolationLoad::IsolationLoad(const LoadShape& shape, bool disturbed, bool quiet)
    : shape_(shape),
      broker_(TOCSIN_PROGRAM, shape.broker,
              Triggers(shape.timeout, HasStuckTrigger(shape, disturbed))) {
  const absl::Status started = broker_.Start();
  TOCSIN_CHECK(started.ok(), "{}", std::string(started.message()));
  if (disturbed) sides_.push_back(std::make_unique<Side>(shape, true));
  if (quiet) sides_.push_back(std::make_unique<Side>(shape, false));
  sdk::PublisherOptions publish;
  publish.connection = ConnectTo(broker_.target());
  publisher_ = std::make_unique<sdk::Publisher>(std::move(publish));
  if (disturbed && !shape.calm && shape.disturbance == Disturbance::kMuteWorker) {
    mute_ = std::make_unique<MuteWorker>(
        broker_.target(), "disturbed", shape.mute_credit,
        [side = sides_.front().get()](std::string_view data) { side->Withheld(data); });
  }
  if (HasStuckTrigger(shape, disturbed)) {
    mute_ = std::make_unique<MuteWorker>(broker_.target(), kStuckTriggerName, shape.mute_credit,
                                         [](std::string_view) {});
  }
  sdk::WorkerOptions work;
  work.connection = ConnectTo(broker_.target());
  work.prefetch = 4000;
  work.handle_signals = false;
  worker_ = std::make_unique<sdk::Worker>("worker", std::move(work));
  for (const auto& side : sides_) {
    worker_->OnBatch(
        side->name(),
        [this, &side = *side](std::span<const sdk::Event> events, std::span<sdk::Context* const>) {
          return Handle(side, events);
        },
        {.max_items = 200, .max_wait = std::chrono::milliseconds(0), .concurrency = 1});
  }
  driver_ = std::make_unique<ThreadExecutor>("driver", clock_);
  worker_thread_ = std::make_unique<ThreadExecutor>("worker", clock_);
  worker_thread_->Post([this] { worker_->Run(); });
}

IsolationLoad::~IsolationLoad() {
  StopLoad();
  worker_->Stop();
  worker_thread_->Stop();
  driver_->Stop();
  publisher_.reset();
}

void IsolationLoad::Send(Side& side, const std::string& key, std::uint32_t number,
                         std::uint32_t sequence, Instant due) {
  EventBuilder builder(fmt::format("{}-{}", key, sequence), "/isolation", side.name());
  builder.Attribute("partitionkey", key);
  std::string data(kDataBytes, '.');
  const Stamp stamp{number, sequence, due.time_since_epoch().count()};
  std::memcpy(data.data(), &stamp, sizeof stamp);
  builder.BinaryData(data);
  publisher_->PublishEncoded(std::move(builder).Encode(), [this](const sdk::PublishResult& result) {
    if (!result.status.ok() && result.status.code() != absl::StatusCode::kCancelled) ++refused_;
  });
}

void IsolationLoad::PublishOdd(Side& side, Instant due) {
  const std::uint32_t number = side.NextOddNumber();
  Send(side, side.KeyName(number), number, side.NextSequence(number), due);
}

void IsolationLoad::PublishNext(Side& side, std::uint32_t key, Instant due) {
  const std::uint32_t sequence = side.NextSequence(key);
  Send(side, side.KeyName(key), key, sequence, due);
  if (shape_.rate > 0) return;
  // Closed loop: the odd ones go along. `sequence` of each key rises alike, so any key's will do to
  // spread them.
  const std::uint32_t odd = OddShare(shape_.disturbance);
  if (odd == 1 && (key + sequence) % 99 == 0) PublishOdd(side, due);
  for (std::uint32_t i = 0; odd > 50 && i < odd / (100 - odd); ++i) PublishOdd(side, due);
}

// Open loop: what is due by the clock. Sides take turns.
void IsolationLoad::PublishDue() {
  if (!loading_) return;
  const Instant now = clock_.Monotonic();
  const double elapsed = std::chrono::duration<double>(now - load_begun_).count();
  const auto due_count = static_cast<std::uint64_t>(elapsed * shape_.rate);
  const std::uint32_t odd = OddShare(shape_.disturbance);
  for (; sent_due_ < due_count && loading_; ++sent_due_) {
    const Instant due =
        load_begun_ +
        Duration(static_cast<std::int64_t>(static_cast<double>(sent_due_) / shape_.rate * 1e9));
    const std::uint64_t of_hundred = sent_due_ % 100;
    const bool is_odd = (of_hundred + 1) * odd / 100 > of_hundred * odd / 100;
    for (const auto& side : sides_) {
      if (is_odd) {
        PublishOdd(*side, due);
      } else {
        PublishNext(*side, side->NextOther(), due);
      }
    }
  }
  driver_->PostAt(now + kPace, [this] { PublishDue(); });
}

void IsolationLoad::StartLoad() {
  load_begun_ = clock_.Monotonic();
  loading_ = true;
  if (shape_.rate > 0) {
    driver_->Post([this] { PublishDue(); });
    return;
  }
  driver_->Post([this] {
    for (std::uint32_t round = 0; round < shape_.window; ++round) {
      for (std::uint32_t key = 0; key < shape_.keys; ++key) {
        for (const auto& side : sides_) PublishNext(*side, key, clock_.Monotonic());
      }
    }
  });
}

void IsolationLoad::StopLoad() { loading_ = false; }

sdk::BatchResult IsolationLoad::Handle(Side& side, std::span<const sdk::Event> events) {
  sdk::BatchResult results;
  std::vector<std::uint32_t> next;
  for (const sdk::Event& event : events) {
    std::optional<std::uint32_t> other;
    results.push_back(side.Ran(event.data(), clock_.Monotonic(), &other));
    if (other) next.push_back(*other);
  }
  if (shape_.rate == 0 && loading_ && !next.empty()) {
    driver_->Post([this, &side, next = std::move(next)] {
      for (const std::uint32_t key : next) {
        if (loading_) PublishNext(side, key, clock_.Monotonic());
      }
    });
  }
  return results;
}

bool IsolationLoad::Drain(Duration at_most) {
  const Instant end = clock_.Monotonic() + at_most;
  while (clock_.Monotonic() < end) {
    bool drained = true;
    for (const auto& side : sides_) {
      const std::optional<v1::TriggerStatus> books = broker_.Books(side->name());
      const SideCount count = side->Count();
      // Of a failing key, what is dead is settled too.
      const std::uint64_t pending_max =
          books ? count.odd_published - count.odd_settled - books->dead() : 0;
      drained = drained && books && books->pending() <= pending_max;
    }
    if (drained) return true;
    if (broker_.EndsWithin(std::chrono::milliseconds(20))) return false;
  }
  return false;
}

SideCount IsolationLoad::Count(bool disturbed) const {
  for (const auto& side : sides_) {
    if (side->disturbed() == disturbed) return side->Count();
  }
  return {};
}

Latency IsolationLoad::OthersLatency(bool disturbed) const {
  for (const auto& side : sides_) {
    if (side->disturbed() == disturbed) return side->OthersLatency();
  }
  return {};
}

std::uint64_t IsolationLoad::overtakings() const {
  std::uint64_t sum = 0;
  for (const auto& side : sides_) sum += side->overtakings();
  return sum;
}

}  // namespace tocsin
