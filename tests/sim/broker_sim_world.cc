#include "tests/sim/broker_sim_world.h"

#include <fmt/format.h>

#include <algorithm>

namespace tocsin::broker_sim {

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
  if (schedules_) AddSchedules(*plan);
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
  if (trims_) {
    options.partition.retention_bytes = log_bytes_max_;
    options.partition.retention_age = std::chrono::seconds(10);
    if (letters_) options.partition.letters_bytes = letter_bytes_max_;  // else nobody makes room
  }
  broken_ = false;
  for (int attempt = 0;; ++attempt) {
    const absl::Status status = storage_->Start();
    if (status.ok()) break;
    if (!storage_->faulty() || attempt > 100) {
      return Fail(fmt::format("the journal does not open: {}", MessageOf(status)));
    }
    storage_->Crash();
  }
  life_ = std::make_unique<Life>(storage_->journal(), executor_, clock_, broker_random_, *this,
                                 options);
  opened_ = false;
  life_->shards.Open(MakePlan(), [this](const absl::Status& status) {
    if (!status.ok()) {
      broken_ = true;
      if (!storage_->faulty()) Fail(fmt::format("open: {}", MessageOf(status)));
      return;
    }
    opened_ = true;
    AttachLanes();
  });
}

void Sim::Crash() {
  ++result_.crashes;
  if (options_.trace) fmt::print("crash\n");
  executor_.Clear();
  storage_->DropTasks();
  for (const auto& worker : workers_) worker->session.reset();
  workers_.clear();
  life_.reset();
  executor_.Clear();
  storage_->Crash();
  leased_.clear();
  for (SimLane& lane : lanes_) lane.attached = false;
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

}  // namespace tocsin::broker_sim
