// PartitionRig: one partition with its shard, dispatcher and a worker, on the file journal and a
// simulated disk, driven from one thread.

#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/event.h"
#include "broker/base/status.h"
#include "broker/journal/file_journal.h"
#include "broker/partition/shards.h"
#include "broker/virtual/one_thread_executor.h"
#include "dispatch/worker_session.h"
#include "tests/sim/sim_file_system.h"

namespace tocsin {

// Keeps what it is given until the test answers.
class RigWorker final : public WorkerLink {
 public:
  struct Held {
    std::uint64_t handle = 0;
    std::string delivery;  // its id
    std::string trigger;
    std::string event;  // its id
    std::uint32_t attempt = 0;
    WallTime recorded;
  };

  void Deliver(std::string_view, std::span<const OutgoingDelivery> deliveries) override {
    together.push_back(deliveries.size());
    for (const OutgoingDelivery& delivery : deliveries) {
      EventView view;
      EXPECT_TRUE(ParseEvent(delivery.event, view).ok());
      held.push_back({delivery.handle, FormatDeliveryId(delivery.id),
                      std::string(delivery.trigger_name), std::string(view.id), delivery.attempt,
                      delivery.recorded});
    }
  }
  void Cancel(std::span<const std::uint64_t> handles) override {
    cancelled.insert(cancelled.end(), handles.begin(), handles.end());
  }
  void Drain(const std::string&) override {}

  std::deque<Held> held;
  std::vector<std::size_t> together;     // how many came at a time
  std::vector<std::uint64_t> cancelled;  // handles
  std::shared_ptr<WorkerSession> session;
};

class PartitionRig : public PartitionObserver {
 public:
  explicit PartitionRig(std::uint64_t seed = 1) : fs(seed) {
    journal_options.partitions = 1;
    journal_options.segment_bytes = 64 * 1024;
    journal_options.letter_segment_bytes = 32 * 1024;
    journal_options.batch_bytes_max = 32 * 1024;
    journal_options.checkpoint_bytes_per_second = 0;
    journal_options.reserve_bytes = 0;
    partition_options.partitions = 1;
    partition_options.hash_seed = 7;
    partition_options.between_fires = Duration::zero();  // Run() leaves the clock where it is
    partition_options.settlements_wait = Duration::zero();
    AddTrigger("all");
  }
  ~PartitionRig() override { Kill(); }

  TriggerSpec& AddTrigger(const std::string& name, std::shared_ptr<const Filter> filter = nullptr) {
    TriggerSpec spec;
    spec.name = name;
    spec.policy.function = "work";
    spec.config_json = fmt::format("{{\"name\":\"{}\"}}", name);
    spec.config_hash = name;
    triggers.push_back(spec);
    filters.push_back(std::move(filter));
    return triggers.back();
  }

  absl::Status Start() {
    std::optional<absl::Status> result;
    const absl::Status begun = Begin(result);
    if (!begun.ok()) return begun;
    Run();
    return result.value_or(absl::DeadlineExceededError("not opened"));
  }
  // Opens, not run: `result` is filled when the partition is recovered.
  absl::Status Begin(std::optional<absl::Status>& result) {
    FileJournalOptions options = std::move(journal_options);
    journal_options = FileJournalOptions();
    journal_options.partitions = options.partitions;
    journal_options.segment_bytes = options.segment_bytes;
    journal_options.letter_segment_bytes = options.letter_segment_bytes;
    journal_options.batch_bytes_max = options.batch_bytes_max;
    journal_options.checkpoint_bytes_per_second = 0;
    journal_options.reserve_bytes = options.reserve_bytes;
    auto opened = OpenFileJournal(std::move(options),
                                  FileJournalPorts{fs, clock, random, committer, engine, engine});
    if (!opened.ok()) return opened.status();
    journal = *std::move(opened);
    ShardsOptions shards_options;
    shards_options.partition = partition_options;
    shards = std::make_unique<Shards>(shards_options,
                                      Shards::Ports{*journal, {&owner}, clock, {&random}, *this});
    dispatcher = std::make_unique<Dispatcher>(*shards, *shards);
    shards->SetDispatcher(*dispatcher);
    shards->Open(MakePlan(), [&result](const absl::Status& status) { result = status; });
    return absl::OkStatus();
  }

  std::shared_ptr<const RoutePlan> MakePlan() {
    auto plan = std::make_shared<RoutePlan>();
    plan->generation = ++generation;
    std::vector<RouteSpec> routes;
    for (std::size_t i = 0; i < triggers.size(); ++i) {
      routes.push_back({triggers[i].name, {}, filters[i], nullptr});
      plan->triggers.push_back(triggers[i]);
      const TriggerPolicy& policy = triggers[i].policy;
      plan->numbers.push_back(dispatcher->SetTrigger(
          triggers[i].name, policy.function,
          {policy.concurrency, policy.rate, policy.batch.events_max}, triggers[i].was));
    }
    plan->table = RouteTable::Build(std::move(routes));
    plan->schedules = schedules;
    return plan;
  }

  void Reload() {
    shards->ApplyPlan(MakePlan());
    Run();
  }

  // Until nothing is due; the clock stands.
  void Run() {
    while (committer.RunUntilIdle() + engine.RunUntilIdle() + owner.RunUntilIdle() > 0) {
    }
  }
  void Advance(Duration by) {
    clock.Advance(by);
    Run();
  }
  // The clock goes on from timer to timer; says how many there were.
  int GoOn(Duration span) {
    const Instant end = clock.Monotonic() + span;
    int timers = 0;
    for (; clock.Monotonic() < end; ++timers) {
      Instant next = end;
      for (const OneThreadExecutor* thread : {&owner, &committer, &engine}) {
        if (const auto timer = thread->NextTimer()) next = std::min(next, *timer);
      }
      Advance(next - clock.Monotonic());
    }
    return timers;
  }

  // The process ends at once; the disk keeps everything written.
  void Kill() {
    committer.Clear();
    engine.Clear();
    owner.Clear();
    worker.reset();
    for (const auto& one : workers) one->session.reset();  // they hold each other
    workers.clear();
    shards.reset();
    dispatcher.reset();
    committer.Clear();
    engine.Clear();
    owner.Clear();
    journal.reset();
  }
  absl::Status Restart(SimFileSystem::Coins coins = SimFileSystem::Coins::kAll) {
    Kill();
    fs.Crash(coins);
    return Start();
  }

  static std::string MakeEvent(const std::string& id, const std::string& key, std::size_t bytes,
                               const std::string& expires = "") {
    EventBuilder builder(id, "/rig", "rig");
    if (!key.empty()) builder.Attribute("partitionkey", key);
    if (!expires.empty()) builder.Attribute("expirytime", expires);
    builder.TextData(std::string(bytes, 'd'));
    return std::move(builder).Encode();
  }

  // Handed in, not run: `answer` is filled when the outcome comes.
  void Send(
      const std::string& id, std::optional<PublishOutcome>& answer, const std::string& key = "",
      std::size_t bytes = 10, std::function<void()> answered = [] {}) {
    auto event_bytes = std::make_shared<std::string>(MakeEvent(id, key, bytes, expires));
    PublishBatch batch;
    PublishedEvent event;
    PartitionId home;
    ASSERT_TRUE(PreparePublished(*event_bytes, EventLimits(), 16, 7, 1, event, home).ok());
    batch.keep_alive = event_bytes;
    batch.bytes = event_bytes->size();
    batch.events.push_back(std::move(event));
    batch.done = [&answer, answered = std::move(answered)](PublishOutcome outcome) {
      answer = std::move(outcome);
      answered();
    };
    batch.order = publish_in;
    if (publish_in != nullptr) batch.order_epoch = publish_in->epoch();
    const absl::Status taken = shards->TryPublish(publish_to, batch);
    if (!taken.ok()) answer = PublishOutcome{taken, Offset(), {}};
  }
  absl::Status Publish(const std::string& id, const std::string& key = "", std::size_t bytes = 10) {
    std::optional<PublishOutcome> answer;
    Send(id, answer, key, bytes);
    Run();
    if (!answer) {
      ADD_FAILURE() << id << " was not answered";
      return absl::DeadlineExceededError("not answered");
    }
    return answer->status;
  }

  RigWorker& Attach(std::uint32_t credit = 100) {
    BeginAttach(credit);
    Run();
    return *worker;
  }
  // Not run.
  void BeginAttach(std::uint32_t credit) {
    worker = workers.emplace_back(std::make_shared<RigWorker>());
    SessionHello hello;
    hello.worker = "rig";
    hello.functions = {"work"};
    hello.credit.events = credit;
    worker->session = dispatcher->Attach(hello, worker, clock.Monotonic());
  }

  // Answers the oldest delivery; not run. `durable` becomes true when its settlement is.
  void Answer(Outcome outcome, bool* durable = nullptr, std::vector<std::string> emitted = {}) {
    ASSERT_FALSE(worker->held.empty());
    FrameAnswers frame;
    frame.started_through = worker->held.front().handle;
    frame.others.push_back(
        {worker->held.front().handle, FencingToken(), std::move(outcome), std::move(emitted)});
    worker->held.pop_front();
    std::function<void()> confirmed;
    if (durable != nullptr) confirmed = [durable] { *durable = true; };
    EXPECT_EQ(worker->session->OnAnswers(std::move(frame), clock.Monotonic(), confirmed), 0u);
  }
  // The ids of the events that are delivered and acked until nothing comes.
  std::vector<std::string> DrainAll() {
    std::vector<std::string> ids;
    for (Run(); !worker->held.empty(); Run()) {
      ids.push_back(worker->held.front().event);
      Answer(Ack{});
    }
    return ids;
  }

  PartitionSnapshot Snapshot() {
    PartitionSnapshot snapshot;
    shards->Snapshots([&](std::vector<PartitionSnapshot> all) { snapshot = std::move(all[0]); });
    Run();
    return snapshot;
  }
  TriggerBooks Books(const std::string& name = "all") {
    for (TriggerBooks& books : Snapshot().triggers) {
      if (books.name == name) return std::move(books);
    }
    ADD_FAILURE() << "no trigger " << name;
    return {};
  }
  bool Warned(std::string_view code) const {
    for (const auto& [seen, message] : warnings) {
      if (seen == code) return true;
    }
    return false;
  }

  void Warn(PartitionId, std::string_view code, const std::string& message) override {
    warnings.emplace_back(code, message);
  }
  void Failed(PartitionId, const absl::Status& status) override { failure = status; }

  FileJournalOptions journal_options;
  PartitionOptions partition_options;
  std::vector<TriggerSpec> triggers;
  std::vector<std::shared_ptr<const Filter>> filters;
  std::vector<ScheduleBinding> schedules;
  std::uint64_t generation = 0;
  std::string expires;                      // expirytime of what is published
  PartitionId publish_to{0};                // whatever the key
  std::shared_ptr<StreamOrder> publish_in;  // null: each on its own

  SimFileSystem fs;
  VirtualClock clock;
  SeededRandom random{9};
  OneThreadExecutor committer{clock};
  OneThreadExecutor engine{clock};
  OneThreadExecutor owner{clock};
  std::unique_ptr<FileJournal> journal;
  std::unique_ptr<Shards> shards;
  std::unique_ptr<Dispatcher> dispatcher;
  std::shared_ptr<RigWorker> worker;                // the last one attached
  std::vector<std::shared_ptr<RigWorker>> workers;  // of this life
  std::vector<std::pair<std::string, std::string>> warnings;
  absl::Status failure;
};

}  // namespace tocsin
