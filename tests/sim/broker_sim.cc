#include "tests/sim/broker_sim.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <vector>

#include "broker/base/random.h"
#include "broker/base/status.h"
#include "broker/partition/shards.h"
#include "broker/virtual/memory_journal.h"
#include "broker/virtual/one_thread_executor.h"
#include "broker/virtual/virtual_clock.h"
#include "dispatch/dispatcher.h"
#include "dispatch/worker_session.h"

namespace tocsin {
namespace {

constexpr std::uint32_t kPartitions = 2;
constexpr std::uint32_t kAttempts = 3;

struct TriggerPlan {
  std::string name;
  bool park = false;
  std::uint32_t concurrency = 0;
  Order order = Order::kKey;
  bool from_start = false;  // not there at first; given every stored event when it comes
};

const std::vector<TriggerPlan>& Plans() {
  static const std::vector<TriggerPlan> plans = {
      {"all", false, 0, Order::kKey},
      {"park", true, 0, Order::kKey},
      {"some", false, 2, Order::kNone},
      {"late", false, 0, Order::kKey, true},
  };
  return plans;
}

std::string MakeEvent(std::uint64_t number, std::string_view key, std::string_view type) {
  EventBuilder builder(fmt::format("e{}", number), "/sim", type);
  if (!key.empty()) builder.Attribute("partitionkey", key);
  builder.Attribute("subject", number % 3 == 0 ? "third" : "other");
  builder.TextData(fmt::format("{{\"n\":{}}}", number));
  return std::move(builder).Encode();
}

class Sim;

// A simulated worker: keeps what it was given and answers when the simulator says so.
class SimWorker final : public WorkerLink {
 public:
  struct Held {
    std::uint64_t handle = 0;
    FencingToken token;
    DeliveryId id;
    Offset offset;
    std::string trigger;
    std::string event;
    std::uint32_t attempt = 0;
  };

  explicit SimWorker(Sim& sim) : sim_(sim) {}
  void Deliver(std::string_view, std::span<const OutgoingDelivery> deliveries) override;
  void Cancel(std::span<const std::uint64_t>) override {}
  void Drain(const std::string&) override {}

  std::deque<Held> held;
  std::deque<Held> answered;  // for late and double answers
  std::shared_ptr<WorkerSession> session;
  std::uint64_t started_through = 0;
  bool mute = false;

 private:
  Sim& sim_;
};

// One life of the broker, from opening to crash.
struct Life {
  Life(Journal& journal, Executor& executor, const Clock& clock, Random& random,
       PartitionObserver& observer, const ShardsOptions& options)
      : shards(options, Shards::Ports{journal, {&executor}, clock, {&random}, observer}),
        dispatcher(shards, shards) {
    shards.SetDispatcher(dispatcher);
  }
  Shards shards;
  Dispatcher dispatcher;
};

class Sim final : public PartitionObserver {
 public:
  explicit Sim(const BrokerSimOptions& options)
      : options_(options),
        random_(options.seed),
        broker_random_(options.seed ^ 0x9E3779B97F4A7C15u),
        engine_(clock_),
        executor_(clock_),
        journal_(engine_, [] {
          MemoryJournalOptions journal_options;
          journal_options.batch_bytes_max = 256 * 1024;
          return journal_options;
        }()) {}

  BrokerSimResult Run();

  void Warn(PartitionId, std::string_view code, const std::string& message) override {
    if (options_.trace) fmt::print("  warn {} {}\n", code, message);
  }
  void Failed(PartitionId partition, const absl::Status& status) override {
    Fail(fmt::format("partition {} failed: {}", partition.value(), MessageOf(status)));
  }

  void OnDelivered(SimWorker& worker, const OutgoingDelivery& delivery);
  void Fail(const std::string& what) {
    if (result_.failure.empty()) result_.failure = what;
  }

 private:
  bool Chance(std::uint64_t percent) { return random_.Below(100) < percent; }
  void Pump(std::size_t tasks) {
    for (std::size_t i = 0; i < tasks; ++i) {
      const bool ran = Chance(50) ? (executor_.RunOne() || engine_.RunOne())
                                  : (engine_.RunOne() || executor_.RunOne());
      if (!ran) return;
    }
  }
  void PumpAll() {
    for (int i = 0; i < 100000; ++i) {
      const std::size_t ran = executor_.RunUntilIdle(1000) + engine_.RunUntilIdle(1000);
      if (ran == 0) return;
    }
    Fail("the broker does not come to rest");
  }
  void Start();
  void Crash();
  void Publish();
  void Answer(SimWorker& worker);
  void AnswerOne(SimWorker& worker, const SimWorker::Held& held, bool healthy);
  void Attach();
  void CheckBooks(bool drained);
  std::shared_ptr<RoutePlan> MakePlan();
  void Letters(bool redrive_all);
  void Quiesce();

  const BrokerSimOptions options_;
  SeededRandom random_;
  SeededRandom broker_random_;
  VirtualClock clock_;
  OneThreadExecutor engine_;
  OneThreadExecutor executor_;
  MemoryJournal journal_;
  std::unique_ptr<Life> life_;
  std::vector<std::shared_ptr<SimWorker>> workers_;
  bool opened_ = false;
  std::uint64_t generation_ = 0;
  std::set<std::string> detached_;
  BrokerSimResult result_;

  // swarm
  bool crashes_ = true, deaths_ = true, fails_ = true, poison_ = true, reloads_ = true,
       emits_ = true, dups_ = true, full_ = true, letters_ = true, pauses_ = true;
  std::uint64_t keys_ = 4;

  // shadow
  std::uint64_t next_number_ = 0;
  std::map<std::uint64_t, bool> answered_;           // published number -> answered OK
  std::map<std::string, std::uint32_t> executions_;  // delivery id -> executions
  std::map<std::string, std::string> outcome_;       // delivery id -> last answer given
  std::map<std::pair<std::string, std::string>, std::string> leased_;  // (trigger, key) -> delivery
  std::map<std::string, std::uint64_t> first_lease_;  // trigger/key/epoch -> highest offset
  std::map<std::pair<std::uint32_t, std::uint64_t>, std::string> payload_;  // offset -> event id
  std::map<std::string, int> executed_events_;  // "trigger event-id" -> executions
  std::set<std::string> final_;                 // settlements whose durability was confirmed
  Instant last_expiry_check_{};
};

void SimWorker::Deliver(std::string_view, std::span<const OutgoingDelivery> deliveries) {
  for (const OutgoingDelivery& delivery : deliveries) {
    held.push_back({delivery.handle, delivery.token, delivery.id, delivery.offset,
                    std::string(delivery.trigger_name), std::string(delivery.event),
                    delivery.attempt});
    sim_.OnDelivered(*this, delivery);
  }
}

void Sim::OnDelivered(SimWorker&, const OutgoingDelivery& delivery) {
  ++result_.delivered;
  EventView view;
  if (!ParseEvent(delivery.event, view).ok()) {
    Fail("delivered bytes are not an event");
    return;
  }
  const std::string id = FormatDeliveryId(delivery.id);
  const std::string event_id(view.id);
  const std::string trigger(delivery.trigger_name);
  const auto [payload, fresh] =
      payload_.try_emplace({delivery.id.partition.value(), delivery.offset.value()}, event_id);
  if (!fresh && payload->second != event_id) {
    Fail(fmt::format("offset {} had {} and now {}", delivery.offset.value(), payload->second,
                     event_id));
  }
  if (final_.contains(id + "@" + std::to_string(delivery.offset.value()))) {
    Fail(fmt::format("{} ({}) delivered again after its settlement was confirmed", id, event_id));
  }
  if (delivery.attempt > kAttempts) Fail(fmt::format("{}: attempt {}", id, delivery.attempt));
  const std::string key(view.PartitionKey());
  if (!key.empty() && trigger != "some") {
    const std::string scope = fmt::format("{}/{}/{}", delivery.id.partition.value(), trigger, key);
    auto [lease, free] = leased_.try_emplace({scope, ""}, id);
    if (!free) Fail(fmt::format("{}: {} leased while {} is", scope, id, lease->second));
    if (delivery.attempt == 1 && delivery.id.run == 0) {
      const std::string epoch_scope = fmt::format("{}@{}", scope, delivery.token.value() >> 32);
      std::uint64_t& highest = first_lease_[epoch_scope];
      if (delivery.offset.value() + 1 < highest) {
        Fail(fmt::format("{}: {} leased after offset {}", scope, id, highest - 1));
      }
      highest = std::max(highest, delivery.offset.value() + 1);
    }
  }
  if (options_.trace) {
    fmt::print("  deliver {} {} attempt {} {}\n", trigger, id, delivery.attempt, event_id);
  }
}

std::shared_ptr<RoutePlan> Sim::MakePlan() {
  auto plan = std::make_shared<RoutePlan>();
  plan->generation = ++generation_;
  std::vector<RouteSpec> routes;
  for (const TriggerPlan& spec : Plans()) {
    if (detached_.contains(spec.name)) continue;
    RouteSpec route;
    route.name = spec.name;
    routes.push_back(route);
    TriggerSpec trigger;
    trigger.name = spec.name;
    trigger.policy.function = spec.name;
    trigger.policy.concurrency = spec.concurrency;
    trigger.policy.order = spec.order;
    trigger.from_start = spec.from_start;
    trigger.policy.timeout = std::chrono::seconds(5);
    trigger.policy.retry.attempts_max = kAttempts;
    trigger.policy.retry.backoff = std::chrono::milliseconds(200);
    trigger.policy.on_exhausted = spec.park ? OnExhausted::kPark : OnExhausted::kSkip;
    trigger.config_json = fmt::format("{{\"name\":\"{}\"}}", spec.name);
    trigger.config_hash = spec.name;
    plan->triggers.push_back(trigger);
    plan->numbers.push_back(life_->dispatcher.SetTrigger(spec.name, spec.name, spec.concurrency));
  }
  plan->table = RouteTable::Build(std::move(routes));
  return plan;
}

void Sim::Start() {
  ShardsOptions options;
  options.partition.partitions = kPartitions;
  options.partition.hash_seed = 7;
  options.partition.queues.entries_max = 8;
  options.partition.queues.key_entries_max = 2;
  options.partition.queues.skipped_keys_max = 3;
  options.partition.queues.spread_max = 4096;
  options.partition.cache_bytes_max = 2000;
  options.partition.checkpoint_every = std::chrono::seconds(2);
  life_ = std::make_unique<Life>(journal_, executor_, clock_, broker_random_, *this, options);
  opened_ = false;
  life_->shards.Open(MakePlan(), [this](const absl::Status& status) {
    if (!status.ok()) Fail(fmt::format("open: {}", MessageOf(status)));
    opened_ = true;
  });
}

void Sim::Crash() {
  ++result_.crashes;
  if (options_.trace) fmt::print("crash\n");
  executor_.Clear();
  engine_.Clear();
  for (const auto& worker : workers_) worker->session.reset();
  workers_.clear();
  life_.reset();
  executor_.Clear();
  engine_.Clear();
  journal_.Crash();
  leased_.clear();
  Start();
}

void Sim::Publish() {
  if (!opened_) return;
  const std::uint64_t count = 1 + random_.Below(6);
  std::map<std::uint32_t, PublishBatch> batches;
  std::map<std::uint32_t, std::vector<std::uint64_t>> numbers;
  auto keep = std::make_shared<std::deque<std::string>>();
  for (std::uint64_t i = 0; i < count; ++i) {
    std::uint64_t number = next_number_;
    if (dups_ && next_number_ > 0 && Chance(15)) {
      number = random_.Below(next_number_);
    } else {
      ++next_number_;
    }
    const std::uint64_t key = number * 2654435761u % (keys_ + 1);
    const std::string name = key == keys_ ? std::string() : fmt::format("k{}", key);
    keep->push_back(MakeEvent(number, name, number % 17 == 16 && poison_ ? "poison" : "plain"));
    PublishedEvent event;
    PartitionId home;
    const absl::Status prepared =
        PreparePublished(keep->back(), EventLimits(), 16, 7, kPartitions, event, home);
    if (!prepared.ok()) {
      Fail(fmt::format("prepare: {}", MessageOf(prepared)));
      return;
    }
    event.index = static_cast<std::uint32_t>(i);
    batches[home.value()].bytes += event.bytes.size();
    batches[home.value()].events.push_back(std::move(event));
    numbers[home.value()].push_back(number);
  }
  for (auto& [home, batch] : batches) {
    batch.keep_alive = keep;
    batch.done = [this, mine = numbers[home]](const PublishOutcome& outcome) {
      if (!outcome.status.ok()) return;
      for (const PublishVerdict& verdict : outcome.verdicts) {
        if (!verdict.refusal.ok()) return;  // nothing is known then of which
      }
      for (const std::uint64_t number : mine) answered_[number] = true;
      result_.published += mine.size();
    };
    if (options_.canary == SimCanary::kAnswerEarly) {
      for (const std::uint64_t number : numbers[home]) answered_[number] = true;
    }
    (void)life_->shards.TryPublish(PartitionId(home), batch);
  }
}

void Sim::Attach() {
  if (life_ == nullptr) return;
  auto worker = std::make_shared<SimWorker>(*this);
  SessionHello hello;
  hello.worker = "sim";
  for (const TriggerPlan& spec : Plans()) hello.functions.push_back(spec.name);
  hello.credit.events = static_cast<std::uint32_t>(1 + random_.Below(8));
  worker->mute = deaths_ && Chance(10);
  worker->session = life_->dispatcher.Attach(hello, worker, clock_.Monotonic());
  workers_.push_back(worker);
}

void Sim::AnswerOne(SimWorker& worker, const SimWorker::Held& held, bool healthy) {
  EventView view;
  (void)ParseEvent(held.event, view);
  const std::string id = FormatDeliveryId(held.id);
  const std::string key(view.PartitionKey());
  ++executions_[id];
  const std::string scope = fmt::format("{}/{}/{}", held.id.partition.value(), held.trigger, key);
  const auto lease = leased_.find({scope, ""});
  if (lease != leased_.end() && lease->second == id) leased_.erase(lease);
  worker.started_through = std::max(worker.started_through, held.handle);
  FrameAnswers frame;
  frame.started_through = worker.started_through;
  const bool poison = view.type == "poison" && held.id.run == 0;
  HandleAnswer answer;
  answer.handle = held.handle;
  answer.token = held.token;
  const std::string mark = id + "@" + std::to_string(held.offset.value());
  if (poison && !healthy) {
    answer.outcome = Retry{"poison", "no", std::nullopt};
  } else if (fails_ && !healthy && Chance(12)) {
    answer.outcome = Retry{"flaky", "again", std::nullopt};
  } else if (fails_ && !healthy && Chance(3)) {
    answer.outcome = Reject{"never"};
  } else if (fails_ && !healthy && Chance(3)) {
    answer.outcome = Drop{"not wanted"};
  } else if (emits_ && !healthy && view.type == "plain" && Chance(10)) {
    answer.outcome = Ack{};
    const std::uint64_t number = random_.Below(1000);
    answer.emitted.push_back(MakeEvent(1'000'000 + next_number_ * 1000 + number,
                                       fmt::format("k{}", random_.Below(keys_)), "emitted"));
    ++result_.emitted;
  } else {
    frame.acked.push_back({held.handle, held.handle});
    ++executed_events_[held.trigger + " " + std::string(view.id)];
    // A stale answer settles nothing, and neither does one whose trigger was detached meanwhile.
    auto stale = std::make_shared<bool>(true);
    if (worker.session->OnAnswers(frame, clock_.Monotonic(), [this, mark, stale] {
          if (!*stale) final_.insert(mark);
        }) == 0) {
      *stale = reloads_;
    }
    return;
  }
  if (std::holds_alternative<Ack>(answer.outcome)) {
    ++executed_events_[held.trigger + " " + std::string(view.id)];
  }
  frame.others.push_back(std::move(answer));
  (void)worker.session->OnAnswers(frame, clock_.Monotonic(), nullptr);
}

void Sim::Answer(SimWorker& worker) {
  if (worker.held.empty() || worker.mute) return;
  const std::size_t index = random_.Below(worker.held.size());
  const SimWorker::Held held = worker.held[index];
  worker.held.erase(worker.held.begin() + static_cast<std::ptrdiff_t>(index));
  AnswerOne(worker, held, false);
  worker.answered.push_back(held);
  if (worker.answered.size() > 8) worker.answered.pop_front();
  if (deaths_ && Chance(5)) {
    FrameAnswers again;  // twice, and an unknown handle
    again.acked.push_back({worker.answered.front().handle, worker.answered.front().handle});
    again.acked.push_back({999999, 999999});
    if (worker.session->OnAnswers(again, clock_.Monotonic(), nullptr) != 2) {
      Fail("a double and an unknown answer were not both counted");
    }
  }
}

void Sim::CheckBooks(bool drained) {
  if (!opened_) return;
  bool came = false;
  life_->shards.Snapshots([&](const std::vector<PartitionSnapshot>& snapshots) {
    came = true;
    for (const PartitionSnapshot& snapshot : snapshots) {
      for (const TriggerBooks& books : snapshot.triggers) {
        const std::uint64_t sum =
            books.acked + books.dead + books.dropped + books.expired + books.pending;
        if (sum != books.matched) {
          Fail(fmt::format("{} on {}: books do not balance", books.name, snapshot.id.value()));
        }
        if (drained && books.pending > 0 && books.parked_keys == 0 &&
            books.state == TriggerState::kActive) {
          Fail(
              fmt::format("{} on {}: {} pending after quiesce (ready {}, leased {}, delayed {}, "
                          "skipped keys {}, floor {}, end {})",
                          books.name, snapshot.id.value(), books.pending, books.ready, books.leased,
                          books.delayed, books.skipped_keys, books.floor.value(),
                          snapshot.durable_end.value()));
        }
      }
    }
  });
  PumpAll();
  if (!came) Fail("no snapshot came");
}

void Sim::Letters(bool redrive_all) {
  if (!opened_) return;
  for (std::uint32_t id = 0; id < kPartitions; ++id) {
    life_->shards.Post(PartitionId(id), [this, redrive_all](Partition& partition) {
      for (const LetterSummary& letter : partition.OpenLetters()) {
        ++result_.letters;
        if (letter.position.value() == 0 && !redrive_all) continue;
        if (!redrive_all && !Chance(50)) continue;
        if (!redrive_all && Chance(20)) {
          partition.Discard(letter.id, [](const absl::Status&) {});
        } else {
          ++result_.redriven;
          partition.Redrive(letter.id, [](const absl::Status&) {});
        }
      }
    });
  }
}

void Sim::Quiesce() {
  journal_.SetLogBytesMax(UINT64_MAX);
  journal_.Release();
  detached_.clear();
  PumpAll();
  if (!opened_ && result_.failure.empty()) return Fail("the broker did not open");
  for (const auto& worker : workers_) {
    if (worker->session != nullptr) life_->dispatcher.Detach(worker->session, false);
    worker->session.reset();  // they hold each other
  }
  workers_.clear();
  leased_.clear();
  life_->shards.ApplyPlan(MakePlan());
  for (std::uint32_t id = 0; id < kPartitions; ++id) {
    life_->shards.Post(PartitionId(id), [](Partition& partition) {
      for (const TriggerPlan& spec : Plans()) (void)partition.SetPaused(spec.name, false);
    });
  }
  PumpAll();
  deaths_ = false;
  Attach();
  for (int round = 0; round < 4000 && result_.failure.empty(); ++round) {
    PumpAll();
    bool busy = false;
    for (const auto& worker : workers_) {
      while (!worker->held.empty()) {
        busy = true;
        const SimWorker::Held held = worker->held.front();
        worker->held.pop_front();
        AnswerOne(*worker, held, true);
      }
    }
    PumpAll();
    if (options_.trace) fmt::print("round {} busy {}\n", round, busy);
    if (!busy) {
      if (round % 20 == 19) Letters(true);
      clock_.Advance(std::chrono::milliseconds(500));
      leased_.clear();
    }
  }
  if (result_.failure.empty()) CheckBooks(true);
  // Every answered event came to every trigger that was there all the time, or to a letter that was
  // dropped or discarded; with no such outcomes switched on it must have been acked.
  if (result_.failure.empty() && !fails_ && !reloads_ && !letters_) {
    for (const auto& [number, ok] : answered_) {
      for (const TriggerPlan& spec : Plans()) {
        const std::string name = fmt::format("{} e{}", spec.name, number);
        if (!executed_events_.contains(name)) {
          Fail(fmt::format("answered event e{} was never executed by '{}'", number, spec.name));
          return;
        }
      }
    }
  }
}

BrokerSimResult Sim::Run() {
  const auto on = [&] { return !Chance(25); };
  for (bool* one : {&crashes_, &deaths_, &fails_, &poison_, &emits_, &dups_}) *one = on();
  for (bool* one : {&reloads_, &full_, &letters_, &pauses_}) *one = Chance(50);
  keys_ = 1 + random_.Below(8);
  detached_.insert("late");
  Start();
  for (std::uint32_t step = 0; step < options_.steps && result_.failure.empty(); ++step) {
    const std::uint64_t choice = random_.Below(100);
    if (choice < 25) {
      Publish();
    } else if (choice < 55 && !workers_.empty()) {
      Answer(*workers_[random_.Below(workers_.size())]);
    } else if (choice < 60 && workers_.size() < 3) {
      Attach();
    } else if (choice < 63 && deaths_ && !workers_.empty()) {
      const std::size_t index = random_.Below(workers_.size());
      const auto worker = workers_[index];
      for (const SimWorker::Held& held : worker->held) {
        EventView view;
        (void)ParseEvent(held.event, view);
        leased_.erase(
            {fmt::format("{}/{}/{}", held.id.partition.value(), held.trigger, view.PartitionKey()),
             ""});
      }
      life_->dispatcher.Detach(worker->session, Chance(30));
      worker->session.reset();
      workers_.erase(workers_.begin() + static_cast<std::ptrdiff_t>(index));
    } else if (choice < 65 && crashes_) {
      Crash();
    } else if (choice < 67 && reloads_ && opened_) {
      const std::string& name = Plans()[random_.Below(Plans().size())].name;
      if (!detached_.erase(name)) detached_.insert(name);
      // A detached trigger's leases end unseen by their workers.
      std::erase_if(leased_, [&](const auto& lease) {
        return lease.first.first.find("/" + name + "/") != std::string::npos;
      });
      life_->shards.ApplyPlan(MakePlan());
    } else if (choice < 69 && full_) {
      journal_.SetLogBytesMax(Chance(50) ? journal_.log_bytes() + 200 : UINT64_MAX);
    } else if (choice < 70 && full_) {
      journal_.Hold();
    } else if (choice < 73 && full_) {
      journal_.Release();
    } else if (choice < 75 && letters_) {
      Letters(false);
    } else if (choice < 77 && pauses_ && opened_) {
      const std::string name = Plans()[random_.Below(Plans().size())].name;
      const bool paused = Chance(50);
      for (std::uint32_t id = 0; id < kPartitions; ++id) {
        life_->shards.Post(PartitionId(id), [name, paused](Partition& partition) {
          (void)partition.SetPaused(name, paused);
        });
      }
    } else if (choice < 85) {
      const Duration by = std::chrono::milliseconds(random_.Below(1500));
      // Leases end at the clock's word; what their holders say afterwards is stale.
      clock_.Advance(by);
      if (clock_.Monotonic() - last_expiry_check_ > std::chrono::seconds(3)) {
        last_expiry_check_ = clock_.Monotonic();
        leased_.clear();
      }
      Pump(1000);
    } else if (choice < 88) {
      CheckBooks(false);
    } else {
      Pump(random_.Below(20));
    }
    if (Chance(60)) Pump(random_.Below(30));
  }
  if (result_.failure.empty()) Quiesce();
  executor_.Clear();
  engine_.Clear();
  for (const auto& worker : workers_) worker->session.reset();
  return result_;
}

}  // namespace

BrokerSimResult RunBrokerSim(const BrokerSimOptions& options) { return Sim(options).Run(); }

}  // namespace tocsin
