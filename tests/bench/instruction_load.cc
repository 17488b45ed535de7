// A fixed piece of work of the broker's core, for counting its instructions: events in batches
// through a partition on the file journal and a simulated disk, to a worker that acks all at once.
// One thread, a virtual clock, a fixed seed: two runs of one program execute the same instructions.
//
//   instruction_load CASE EVENTS        settled_128, settled_1k, keys, fanout, match

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/base/check.h"
#include "broker/base/event.h"
#include "broker/journal/file_journal.h"
#include "broker/partition/shards.h"
#include "broker/routing/filter.h"
#include "broker/virtual/one_thread_executor.h"
#include "dispatch/worker_session.h"
#include "tests/sim/sim_file_system.h"

namespace tocsin {
namespace {

constexpr std::size_t kBatchEvents = 256;
constexpr std::uint64_t kHashSeed = 7;

struct Shape {
  std::string_view name;
  std::size_t data_bytes = 128;
  std::size_t keys = 0;
  std::size_t matching = 1;  // triggers that match each event
  std::size_t others = 0;    // that match none
};

constexpr Shape kShapes[] = {
    {"settled_128", 128, 0, 1, 0}, {"settled_1k", 1024, 0, 1, 0}, {"keys", 128, 1000, 1, 0},
    {"fanout", 1024, 0, 20, 0},    {"match", 128, 0, 1, 2000},
};

// Keeps the handles of what it was given.
class CountingWorker final : public WorkerLink {
 public:
  void Deliver(std::string_view, std::span<const OutgoingDelivery> deliveries) override {
    if (held_.first == 0) held_.first = deliveries.front().handle;
    held_.last = deliveries.back().handle;
    count_ += deliveries.size();
  }
  void Cancel(std::span<const std::uint64_t>) override { TOCSIN_CHECK(false, "cancelled"); }
  void Drain(const std::string&) override {}

  HandleRange Take() { return std::exchange(held_, {}); }
  std::size_t count() const { return count_; }

 private:
  HandleRange held_;
  std::size_t count_ = 0;
};

class CoreLoad final : public PartitionObserver {
 public:
  explicit CoreLoad(const Shape& shape) : shape_(shape) {
    FileJournalOptions options;
    options.partitions = 1;
    options.segment_bytes = 1024 * 1024;
    options.checkpoint_bytes_per_second = 0;
    options.reserve_bytes = 0;
    auto opened = OpenFileJournal(
        std::move(options), FileJournalPorts{fs_, clock_, random_, committer_, engine_, engine_});
    TOCSIN_CHECK(opened.ok(), "the journal does not open");
    journal_ = *std::move(opened);
    ShardsOptions shards_options;
    shards_options.partition.partitions = 1;
    shards_options.partition.hash_seed = kHashSeed;
    shards_ = std::make_unique<Shards>(
        shards_options, Shards::Ports{*journal_, {&owner_}, clock_, {&random_}, *this});
    dispatcher_ = std::make_unique<Dispatcher>(*shards_, *shards_);
    shards_->SetDispatcher(*dispatcher_);
    bool open = false;
    shards_->Open(Plan(), [&open](const absl::Status& status) { open = status.ok(); });
    Run();
    TOCSIN_CHECK(open, "the partition does not open");
    SessionHello hello;
    hello.worker = "load";
    hello.functions = {"work"};
    hello.credit.events = 16'384;
    session_ = dispatcher_->Attach(hello, worker_, clock_.Monotonic());
    Run();
  }
  ~CoreLoad() override {
    for (OneThreadExecutor* one : {&committer_, &engine_, &owner_}) one->Clear();
    session_.reset();
    shards_.reset();
    dispatcher_.reset();
    for (OneThreadExecutor* one : {&committer_, &engine_, &owner_}) one->Clear();
    journal_.reset();
  }

  void Publish(std::size_t first, std::size_t count) {
    auto bytes = std::make_shared<std::vector<std::string>>();
    PublishBatch batch;
    for (std::size_t number = first; number < first + count; ++number) {
      EventBuilder builder(std::to_string(100'000'000 + number), "/load", "load.matched");
      if (shape_.keys > 0) {
        builder.Attribute("partitionkey", "key-" + std::to_string(number * 7919 % shape_.keys));
      }
      builder.TextData(std::string(shape_.data_bytes, 'd'));
      bytes->push_back(std::move(builder).Encode());
    }
    for (std::size_t i = 0; i < count; ++i) {
      PublishedEvent event;
      PartitionId home;
      TOCSIN_CHECK(
          PreparePublished((*bytes)[i], EventLimits(), 16, kHashSeed, 1, event, home).ok());
      event.index = static_cast<std::uint32_t>(i);
      batch.bytes += event.bytes.size();
      batch.events.push_back(std::move(event));
    }
    batch.keep_alive = bytes;
    batch.done = [this, count](const PublishOutcome& outcome) {
      TOCSIN_CHECK(outcome.status.ok() && outcome.verdicts.empty(), "a publish was refused");
      stored_ += count;
    };
    TOCSIN_CHECK(shards_->TryPublish(PartitionId(0), batch).ok(), "a publish was refused");
    Run();
    // As a worker does: all that came, at once.
    for (HandleRange range = worker_->Take(); range.first != 0; range = worker_->Take()) {
      FrameAnswers answers;
      answers.started_through = range.last;
      answers.acked.push_back(range);
      TOCSIN_CHECK(session_->OnAnswers(std::move(answers), clock_.Monotonic(), {}) == 0);
      Run();
    }
  }

  std::size_t stored() const { return stored_; }
  std::size_t delivered() const { return worker_->count(); }

  void Warn(PartitionId, std::string_view, const std::string& message) override {
    TOCSIN_CHECK(false, "{}", message);
  }
  void Failed(PartitionId, const absl::Status& status) override {
    TOCSIN_CHECK(false, "{}", std::string(status.message()));
  }

 private:
  std::shared_ptr<const RoutePlan> Plan() {
    auto plan = std::make_shared<RoutePlan>();
    plan->generation = 1;
    std::vector<RouteSpec> routes;
    for (std::size_t i = 0; i < shape_.matching + shape_.others; ++i) {
      TriggerSpec spec;
      spec.name = "trigger-" + std::to_string(i);
      spec.policy.function = "work";
      spec.config_json = "{\"name\":\"" + spec.name + "\"}";
      spec.config_hash = spec.name;
      const std::string type =
          i < shape_.matching ? "load.matched" : "load.other." + std::to_string(i);
      auto filter = std::make_shared<Filter>();
      filter->kind = Filter::Kind::kExact;
      filter->conditions.push_back({"type", type});
      routes.push_back({spec.name, {}, std::move(filter), nullptr});
      plan->numbers.push_back(dispatcher_->SetTrigger(spec.name, "work", 0));
      plan->triggers.push_back(std::move(spec));
    }
    plan->table = RouteTable::Build(std::move(routes));
    return plan;
  }
  void Run() {
    while (committer_.RunUntilIdle() + engine_.RunUntilIdle() + owner_.RunUntilIdle() > 0) {
    }
  }

  const Shape& shape_;
  SimFileSystem fs_{1};
  VirtualClock clock_;
  SeededRandom random_{9};
  OneThreadExecutor committer_{clock_};
  OneThreadExecutor engine_{clock_};
  OneThreadExecutor owner_{clock_};
  std::unique_ptr<FileJournal> journal_;
  std::unique_ptr<Shards> shards_;
  std::unique_ptr<Dispatcher> dispatcher_;
  const std::shared_ptr<CountingWorker> worker_ = std::make_shared<CountingWorker>();
  std::shared_ptr<WorkerSession> session_;
  std::size_t stored_ = 0;
};

int Main(int argc, char** argv) {
  const std::string_view name = argc == 3 ? argv[1] : "";
  for (const Shape& shape : kShapes) {
    if (shape.name != name) continue;
    const std::size_t events = std::strtoul(argv[2], nullptr, 10);
    CoreLoad load(shape);
    for (std::size_t i = 0; i < events; i += kBatchEvents) {
      load.Publish(i, std::min(kBatchEvents, events - i));
    }
    TOCSIN_CHECK(load.stored() == events && load.delivered() == events * shape.matching,
                 "{} stored, {} delivered", load.stored(), load.delivered());
    return 0;
  }
  std::fprintf(stderr, "usage: instruction_load CASE EVENTS\n");
  return 2;
}

}  // namespace
}  // namespace tocsin

int main(int argc, char** argv) { return tocsin::Main(argc, argv); }
