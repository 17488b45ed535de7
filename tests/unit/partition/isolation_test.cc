// One failing key, one hot key, one worker that never answers: what the other keys get is compared
// turn by turn with a broker whose load is the same and undisturbed. Clock, journal and threads are
// virtual, so the comparison is exact.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/random.h"
#include "broker/partition/shards.h"
#include "broker/virtual/memory_journal.h"
#include "broker/virtual/one_thread_executor.h"
#include "broker/virtual/virtual_clock.h"
#include "dispatch/dispatcher.h"
#include "dispatch/worker_session.h"

namespace tocsin {
namespace {

constexpr std::uint32_t kKeys = 100;        // the others
constexpr std::uint32_t kTurnEvents = 100;  // published per turn
constexpr std::size_t kEntriesMax = 256;
constexpr std::size_t kKeyEntriesMax = 16;

struct Shape {
  std::uint32_t odd_per_turn = 0;  // of kTurnEvents: of the failing or of the hot key
  bool odd_is_one_key = true;      // else they are spread over a hundred keys
  bool odd_fails = false;
  bool mute_worker = false;
  std::uint32_t turns = 1000;
  std::uint32_t credit = 200;
};

// A worker that keeps what it gets until it is asked for its answers.
class HoldingWorker final : public WorkerLink {
 public:
  struct Held {
    std::uint64_t handle = 0;
    std::string key;
    std::uint64_t number = 0;
    std::uint32_t attempt = 0;
  };
  void Deliver(std::string_view, std::span<const OutgoingDelivery> deliveries) override {
    for (const OutgoingDelivery& delivery : deliveries) {
      EventView view;
      EXPECT_TRUE(ParseEvent(delivery.event, view).ok());
      held.push_back({delivery.handle, std::string(view.PartitionKey()),
                      std::stoull(std::string(view.id)), delivery.attempt});
    }
  }
  void Cancel(std::span<const std::uint64_t>) override {}
  void Drain(const std::string&) override {}

  std::deque<Held> held;
  std::shared_ptr<WorkerSession> session;
};

class Broker final : public PartitionObserver {
 public:
  explicit Broker(const Shape& shape)
      : shape_(shape),
        random_(7),
        engine_(clock_),
        executor_(clock_),
        journal_(engine_),
        shards_(Options(), Shards::Ports{journal_, {&executor_}, clock_, {&random_}, *this}),
        dispatcher_(shards_, shards_) {
    shards_.SetDispatcher(dispatcher_);
    shards_.Open(Plan(), [](const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; });
    Run();
    Attach(worker_, shape.credit);
    if (shape.mute_worker) Attach(mute_, 16);
  }
  ~Broker() override {
    for (const auto& worker : {worker_, mute_}) {
      if (worker != nullptr) worker->session.reset();  // they hold each other
    }
    executor_.Clear();
    engine_.Clear();
  }

  void Warn(PartitionId, std::string_view, const std::string&) override {}
  void Failed(PartitionId, const absl::Status& status) override { ADD_FAILURE() << status; }

  // Publishes a turn's events, lets the worker answer twice what it holds, goes on by 10 ms.
  void Turn() {
    Publish();
    for (int i = 0; i < 2; ++i) Answer();
    for (const HoldingWorker::Held& held : mute_->held) withheld_.insert(held.key);
    per_turn_.push_back(settled_);
    clock_.Advance(std::chrono::milliseconds(10));
    Run();
  }
  // Until nothing is pending, at most so long.
  void Drain(Duration at_most) {
    for (Duration spent{}; spent < at_most && Books().pending > 0;
         spent += std::chrono::milliseconds(10)) {
      Answer();
      clock_.Advance(std::chrono::milliseconds(10));
      Run();
    }
  }

  // Per turn: how many of each of the other keys' events had been settled by then.
  const std::vector<std::map<std::string, std::uint64_t>>& per_turn() const { return per_turn_; }
  const std::set<std::string>& withheld() const { return withheld_; }
  std::uint64_t published_odd() const { return published_odd_; }
  std::uint64_t settled_odd() const { return settled_odd_; }

  TriggerBooks Books() {
    TriggerBooks books;
    shards_.Snapshots(
        [&](const std::vector<PartitionSnapshot>& all) { books = all.front().triggers.front(); });
    Run();
    return books;
  }

 private:
  static ShardsOptions Options() {
    ShardsOptions options;
    options.partition.queues.entries_max = kEntriesMax;
    options.partition.queues.key_entries_max = kKeyEntriesMax;
    options.partition.cache_bytes_max = 256 * 1024;
    return options;
  }
  std::shared_ptr<RoutePlan> Plan() {
    auto plan = std::make_shared<RoutePlan>();
    plan->generation = 1;
    TriggerSpec trigger;
    trigger.name = "all";
    trigger.policy.function = "work";
    trigger.policy.timeout = std::chrono::seconds(1);
    trigger.config_json = "{}";
    trigger.config_hash = "h";
    plan->triggers.push_back(trigger);
    plan->numbers.push_back(dispatcher_.SetTrigger("all", "work", 0));
    RouteSpec route;
    route.name = "all";
    plan->table = RouteTable::Build({route});
    return plan;
  }
  void Attach(const std::shared_ptr<HoldingWorker>& worker, std::uint32_t credit) {
    SessionHello hello;
    hello.worker = "test";
    hello.functions = {"work"};
    hello.credit.events = credit;
    worker->session = dispatcher_.Attach(hello, worker, clock_.Monotonic());
  }
  void Run() {
    while (executor_.RunUntilIdle() + engine_.RunUntilIdle() > 0) {
    }
  }

  void Publish() {
    auto keep = std::make_shared<std::deque<std::string>>();
    PublishBatch batch;
    for (std::uint32_t i = 0; i < kTurnEvents; ++i) {
      const std::uint64_t number = next_number_++;
      // Spread over the turn, as a stream of events is.
      const bool odd =
          (i + 1) * shape_.odd_per_turn / kTurnEvents > i * shape_.odd_per_turn / kTurnEvents;
      std::string key;
      if (odd) {
        key = shape_.odd_is_one_key ? "odd" : fmt::format("odd{}", published_odd_ % 100);
        ++published_odd_;
      } else {
        key = fmt::format("k{}", next_other_++ % kKeys);
      }
      EventBuilder builder(fmt::format("{}", number), "/test", "test");
      builder.Attribute("partitionkey", key);
      keep->push_back(std::move(builder).Encode());
      PublishedEvent event;
      PartitionId home;
      ASSERT_TRUE(PreparePublished(keep->back(), EventLimits(), 16, 0, 1, event, home).ok());
      event.index = i;
      batch.bytes += event.bytes.size();
      batch.events.push_back(std::move(event));
    }
    batch.keep_alive = keep;
    batch.done = [](const PublishOutcome& outcome) {
      EXPECT_TRUE(outcome.status.ok()) << outcome.status;
      EXPECT_TRUE(outcome.verdicts.empty());
    };
    ASSERT_TRUE(shards_.TryPublish(PartitionId(0), batch).ok());
    Run();
  }

  void Answer() {
    FrameAnswers frame;
    std::deque<HoldingWorker::Held> held = std::exchange(worker_->held, {});
    for (const HoldingWorker::Held& one : held) {
      frame.started_through = std::max(frame.started_through, one.handle);
      const bool odd = one.key.starts_with("odd");
      if (odd && shape_.odd_fails) {
        HandleAnswer answer;
        answer.handle = one.handle;
        answer.outcome = Retry{"no", "it always fails", std::nullopt};
        frame.others.push_back(std::move(answer));
        continue;
      }
      frame.acked.push_back({one.handle, one.handle});
      // Numbers of a key rise, so settling in order is settling in rising order.
      const auto [last, fresh] = last_.try_emplace(one.key, one.number);
      EXPECT_TRUE(fresh || last->second < one.number) << one.key << " out of order";
      last->second = one.number;
      odd ? ++settled_odd_ : ++settled_[one.key];
    }
    (void)worker_->session->OnAnswers(std::move(frame), clock_.Monotonic(), nullptr);
    worker_->session->OnHeartbeat(clock_.Monotonic());
    if (mute_->session != nullptr) mute_->session->OnHeartbeat(clock_.Monotonic());
    Run();
  }

  const Shape shape_;
  VirtualClock clock_;
  SeededRandom random_;
  OneThreadExecutor engine_;
  OneThreadExecutor executor_;
  MemoryJournal journal_;
  Shards shards_;
  Dispatcher dispatcher_;
  std::shared_ptr<HoldingWorker> worker_ = std::make_shared<HoldingWorker>();
  std::shared_ptr<HoldingWorker> mute_ = std::make_shared<HoldingWorker>();

  std::uint64_t next_number_ = 0;
  std::uint64_t next_other_ = 0;
  std::uint64_t published_odd_ = 0;
  std::uint64_t settled_odd_ = 0;
  std::map<std::string, std::uint64_t> last_;
  std::map<std::string, std::uint64_t> settled_;
  std::vector<std::map<std::string, std::uint64_t>> per_turn_;
  std::set<std::string> withheld_;
};

// Every key that is in nobody's way has settled as much in each turn as without the disturbance.
void ExpectSameTurns(const Broker& disturbed, const Broker& quiet) {
  ASSERT_EQ(disturbed.per_turn().size(), quiet.per_turn().size());
  for (std::size_t turn = 0; turn < quiet.per_turn().size(); ++turn) {
    for (const auto& [key, settled] : quiet.per_turn()[turn]) {
      if (disturbed.withheld().contains(key)) continue;
      const auto found = disturbed.per_turn()[turn].find(key);
      ASSERT_TRUE(found != disturbed.per_turn()[turn].end()) << key << " got nothing";
      ASSERT_EQ(found->second, settled) << key << " in turn " << turn;
    }
  }
}

TEST(IsolationTest, AKeyThatAlwaysFailsTakesNoTurnFromTheOthers) {
  Shape shape{.odd_per_turn = 1};
  Broker quiet(shape);
  shape.odd_fails = true;
  Broker disturbed(shape);
  for (std::uint32_t turn = 0; turn < shape.turns; ++turn) {
    quiet.Turn();
    disturbed.Turn();
  }
  // Longer than it takes to fill the window with its deliveries, if they were let in.
  ASSERT_GT(disturbed.published_odd(), 3 * kEntriesMax);
  ExpectSameTurns(disturbed, quiet);
  const TriggerBooks books = disturbed.Books();
  EXPECT_EQ(books.pending, disturbed.published_odd());
  EXPECT_EQ(books.skipped_keys, 1u);
  EXPECT_EQ(books.state, TriggerState::kActive);
}

TEST(IsolationTest, AHotKeyTakesNoTurnFromTheOthersAndDrainsInOrder) {
  Shape shape{.odd_per_turn = 90, .odd_is_one_key = false, .turns = 100};
  Broker quiet(shape);
  shape.odd_is_one_key = true;
  Broker disturbed(shape);
  for (std::uint32_t turn = 0; turn < shape.turns; ++turn) {
    quiet.Turn();
    disturbed.Turn();
  }
  // One of its deliveries at a time: it is far behind, and the others are not.
  ASSERT_GT(disturbed.published_odd() - disturbed.settled_odd(), 3 * kEntriesMax);
  EXPECT_EQ(quiet.published_odd(), quiet.settled_odd());
  EXPECT_EQ(disturbed.settled_odd(), 2 * shape.turns);
  ExpectSameTurns(disturbed, quiet);
  disturbed.Drain(std::chrono::hours(1));
  EXPECT_EQ(disturbed.Books().pending, 0u);
  EXPECT_EQ(disturbed.settled_odd(), disturbed.published_odd());
}

TEST(IsolationTest, AWorkerThatNeverAnswersHoldsUpOnlyTheKeysItWasGiven) {
  Shape shape{};
  Broker quiet(shape);
  shape.mute_worker = true;
  Broker disturbed(shape);
  for (std::uint32_t turn = 0; turn < shape.turns; ++turn) {
    quiet.Turn();
    disturbed.Turn();
  }
  // Its credit, one delivery of a key each.
  EXPECT_EQ(disturbed.withheld().size(), 16u);
  ExpectSameTurns(disturbed, quiet);
  // The leases ended, the deliveries went to the other worker, and nothing came to this one again.
  disturbed.Drain(std::chrono::minutes(10));
  EXPECT_EQ(disturbed.Books().pending, 0u);
  EXPECT_EQ(disturbed.withheld().size(), 16u);
  const TriggerBooks books = disturbed.Books();
  EXPECT_EQ(books.acked, books.matched);
}

}  // namespace
}  // namespace tocsin
