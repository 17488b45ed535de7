#include "tests/sim/broker_sim_world.h"

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/time_text.h"

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

const TriggerPlan& ApiPlan() {
  static const TriggerPlan plan = {"api", false, 0, Order::kKey};
  return plan;
}

std::string MakeEvent(std::uint64_t number, std::string_view key, std::string_view type,
                      std::string_view expires, std::string_view deliver_at) {
  EventBuilder builder(fmt::format("e{}", number), "/sim", type);
  if (!deliver_at.empty()) builder.Attribute(kDeliverAtAttribute, deliver_at);
  if (!expires.empty()) builder.Attribute("expirytime", expires);
  if (!key.empty()) builder.Attribute("partitionkey", key);
  builder.Attribute("subject", number % 3 == 0 ? "third" : "other");
  builder.TextData(fmt::format("{{\"n\":{}}}", number));
  return std::move(builder).Encode();
}

void SimWorker::Deliver(std::string_view, std::span<const OutgoingDelivery> deliveries) {
  for (const OutgoingDelivery& delivery : deliveries) {
    held.push_back({delivery.handle, delivery.token, delivery.id, delivery.offset,
                    std::string(PlanOf(delivery.trigger_name)), std::string(delivery.event),
                    delivery.attempt});
    if (sim_.wrong_byte() && delivery.offset.value() % 16 == 15) {
      std::string bytes(delivery.event);
      bytes.back() ^= 1;
      OutgoingDelivery wrong = delivery;
      wrong.event = bytes;
      sim_.OnDelivered(*this, wrong);
      continue;
    }
    sim_.OnDelivered(*this, delivery);
  }
}

void SimWorker::Cancel(std::span<const std::uint64_t> handles) {
  for (const std::uint64_t handle : handles) {
    const auto one = std::find_if(held.begin(), held.end(),
                                  [&](const Held& lease) { return lease.handle == handle; });
    if (one != held.end()) sim_.ForgetLease(*one);
  }
}

void Sim::ForgetLease(const SimWorker::Held& held) {
  EventView view;
  (void)ParseEvent(held.event, view);
  const std::string id = FormatDeliveryId(held.id);
  const std::string partition = std::to_string(held.id.partition.value());
  const auto lease =
      leased_.find({fmt::format("{}/{}/{}", partition, held.trigger, view.PartitionKey()), ""});
  if (lease != leased_.end() && lease->second == id) leased_.erase(lease);
  leased_.erase({partition + "/some/", id});
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
  CheckContent(view.id, delivery.event);
  CheckDue(view.id);
  const std::string trigger(PlanOf(delivery.trigger_name));
  CheckExpiry(delivery, view);
  if (trigger == rated_) CheckRate(id);
  const auto [payload, fresh] =
      payload_.try_emplace({delivery.id.partition.value(), delivery.offset.value()}, event_id);
  if (!fresh && payload->second != event_id) {
    Fail(fmt::format("offset {} had {} and now {}", delivery.offset.value(), payload->second,
                     event_id));
  }
  if (!log_damaged_) Checked(SimCheck::kNotAgain);
  if (!log_damaged_ && final_.contains(id + "@" + std::to_string(delivery.offset.value()))) {
    Fail(fmt::format("{} ({}) delivered again after its settlement was confirmed", id, event_id));
  }
  Checked(SimCheck::kAttempts);
  Checked(SimCheck::kDurableFirst);
  if (trigger == "some" && filter_ && view.Text("subject") != "third") {
    Fail(fmt::format("{}: the filter of '{}' does not hold for it", event_id, trigger));
  }
  if (delivery.attempt > kAttempts) Fail(fmt::format("{}: attempt {}", id, delivery.attempt));
  Journal& journal = storage_->journal();
  if (!(journal.Locate(delivery.id.partition, delivery.offset) < journal.end())) {
    Fail(fmt::format("{} was delivered before it was durable", id));
  }
  Runs& runs = runs_.try_emplace(id, Runs{0, result_.crashes, 1}).first->second;
  // A failure is durable before its attempt is repeated.
  if (delivery.attempt < runs.attempt && !log_damaged_) {
    Fail(fmt::format("{}: attempt {} after attempt {}", id, delivery.attempt, runs.attempt));
  }
  runs.attempt = delivery.attempt;
  const std::string key(view.PartitionKey());
  if (!key.empty() && trigger != "some") {
    const std::string scope = fmt::format("{}/{}/{}", delivery.id.partition.value(), trigger, key);
    auto [lease, free] = leased_.try_emplace({scope, ""}, id);
    // What was read from the disk while the machine stood still may arrive after its lease's end,
    // or never.
    if (!suspends_) Checked(SimCheck::kExclusive);
    if (!free && !suspends_)
      Fail(fmt::format("{}: {} leased while {} is", scope, id, lease->second));
    // What it was attempted in former lives does not matter: a key resumes at the first delivery
    // that is not settled.
    const bool first =
        seen_leases_.insert(fmt::format("{}@{}", id, delivery.token.value() >> 32)).second;
    CheckKey(delivery, scope, id, first, !view.Text("expirytime").empty());
    if (first && delivery.id.run == 0) {
      Checked(SimCheck::kKeyOrder);
      const std::string epoch_scope = fmt::format("{}@{}", scope, delivery.token.value() >> 32);
      std::uint64_t& highest = first_lease_[epoch_scope];
      if (delivery.offset.value() + 1 < highest) {
        Fail(fmt::format("{}: {} leased after offset {}", scope, id, highest - 1));
      }
      highest = std::max(highest, delivery.offset.value() + 1);
    }
  }
  if (trigger == "some") {
    leased_.try_emplace({fmt::format("{}/some/", delivery.id.partition.value()), id}, id);
    const auto under_way = std::count_if(leased_.begin(), leased_.end(), [](const auto& lease) {
      return !lease.first.second.empty();
    });
    if (!suspends_) Checked(SimCheck::kConcurrency);
    if (!suspends_ && under_way > 2) Fail(fmt::format("'some': {} are under way", under_way));
  }
  if (options_.trace) {
    fmt::print("  deliver {} {} attempt {} {}\n", trigger, id, delivery.attempt, event_id);
  }
}

// The key's order across attempts: a delivery that waits to be repeated, or has parked its key,
// holds it.
void Sim::CheckKey(const OutgoingDelivery& delivery, const std::string& scope,
                   const std::string& id, bool first, bool expires) {
  const auto parked = parked_.find(scope);
  if (parked != parked_.end() && !park_full_) Checked(SimCheck::kParked);
  if (parked != parked_.end() && delivery.id.run == 0) {
    if (delivery.offset <= parked->second.offset) {
      parked_.erase(parked);  // it did not become durable that it, or one after it, had died
    } else if (!park_full_) {
      Fail(fmt::format("{}: {} leased while {} parks the key", scope, id, parked->second.id));
    }
  }
  KeyHead& head = key_heads_[fmt::format("{}@{}", scope, delivery.token.value() >> 32)];
  const bool passes = delivery.id.run == 0 && first && !head.id.empty() && head.id != id &&
                      head.attempt + storage_->failing_reads() < kAttempts && !head.expires &&
                      !log_damaged_ && !suspends_;
  if (passes) Checked(SimCheck::kKeyHeld);
  if (passes && !head.settled) {
    Fail(fmt::format("{}: {} leased, but {} is not settled (attempt {})", scope, id, head.id,
                     head.attempt));
  }
  if (delivery.id.run == 0) head = {id, delivery.attempt, false, expires};
}

// Between its lease and its arrival the clock may have gone on by two steps.
void Sim::CheckExpiry(const OutgoingDelivery& delivery, const EventView& view) {
  const std::string_view text = view.Text("expirytime");
  if (text.empty() || delivery.id.run % kRunsPerReplay != 0 || suspends_ || clock_set_) return;
  Checked(SimCheck::kExpiry);
  if (clock_.Wall() >= *ParseRfc3339(text) + std::chrono::seconds(3)) {
    Fail(fmt::format("{} was delivered at {} and expired at {}", FormatDeliveryId(delivery.id),
                     FormatRfc3339(clock_.Wall()), text));
  }
}

void Sim::NoteAnswer(const SimWorker::Held& held, const std::string& scope, const std::string& id,
                     const Outcome& outcome) {
  const bool retry = std::holds_alternative<Retry>(outcome);
  const std::string epoch_scope = fmt::format("{}@{}", scope, held.token.value() >> 32);
  const auto head = key_heads_.find(epoch_scope);
  if (!retry && head != key_heads_.end() && head->second.id == id) head->second.settled = true;
  // Events without a key hold none; what is said of a detached trigger's delivery may be stale.
  if (held.trigger != "park" || scope.ends_with('/') || reloads_) return;
  const auto parked = parked_.find(scope);
  EventView view;
  if (std::holds_alternative<Reject>(outcome) || (retry && held.attempt >= kAttempts)) {
    // After a crash it may expire instead, which parks nothing.
    if (ParseEvent(held.event, view).ok() && !view.Text("expirytime").empty()) return;
    parked_[scope] = {id, held.id.offset};
  } else if (!retry && held.id.run > 0 && parked != parked_.end()) {
    parked_.erase(parked);  // the redriven letter is settled
  }
}

void Sim::AddRoute(const TriggerPlan& spec, std::string_view version, RoutePlan& plan,
                   std::vector<RouteSpec>& routes) {
  RouteSpec route;
  route.name = NameOf(spec.name);
  if (spec.name == "some" && filter_) {
    route.filter = FilterFromJson(R"({"exact":{"subject":"third"}})").value();
  }
  routes.push_back(route);
  TriggerSpec trigger;
  trigger.name = route.name;
  if (renames_ && spec.name != ApiPlan().name) {
    trigger.was = renamed_.contains(spec.name) ? spec.name : spec.name + kRenamed;
  }
  trigger.policy.function = spec.name;
  trigger.policy.concurrency = spec.concurrency;
  if (spec.name == rated_) trigger.policy.rate = rate_;
  if (spec.name == batched_) trigger.policy.batch = batch_;
  trigger.policy.order = spec.order;
  trigger.from_start = spec.from_start;
  trigger.policy.timeout = std::chrono::seconds(5);
  if (spec.name == "all" && backlog_max_ > 0) trigger.policy.backlog.size_max = backlog_max_;
  trigger.policy.retry.attempts_max = kAttempts;
  trigger.policy.retry.backoff = std::chrono::milliseconds(200);
  trigger.policy.on_exhausted = spec.park ? OnExhausted::kPark : OnExhausted::kSkip;
  trigger.config_json = fmt::format("{{\"name\":\"{}{}\"}}", trigger.name, version);
  trigger.config_hash = fmt::format("{}{}", trigger.name, version);
  plan.triggers.push_back(trigger);
  plan.numbers.push_back(life_->dispatcher.SetTrigger(
      trigger.name, spec.name,
      {spec.concurrency, trigger.policy.rate, trigger.policy.batch.events_max}, trigger.was));
}

std::shared_ptr<RoutePlan> Sim::MakePlan() {
  auto plan = std::make_shared<RoutePlan>();
  plan->generation = ++generation_;
  std::vector<RouteSpec> routes;
  for (const TriggerPlan& spec : Plans()) {
    if (!detached_.contains(spec.name)) AddRoute(spec, "", *plan, routes);
  }
  if (!api_told_.empty()) AddRoute(ApiPlan(), api_told_, *plan, routes);
  plan->table = RouteTable::Build(std::move(routes));
  if (schedules_) AddSchedules(*plan);
  plan_ = plan;
  overlay_.reset();
  return plan;
}

void Sim::Start() {
  ShardsOptions options;
  options.partition.partitions = kPartitions;
  options.partition.hash_seed = 7;
  options.partition.queues.entries_max = 8;
  options.partition.queues.key_entries_max = 2;
  options.partition.queues.skipped_keys_max = 4;
  options.partition.queues.spread_max = 4096;
  options.partition.cache_bytes_max = 2000;
  options.partition.checkpoint_every = std::chrono::seconds(2);
  if (trims_) {
    options.partition.retention_bytes = log_bytes_max_;
    options.partition.retention_age = std::chrono::seconds(10);
    if (letters_) options.partition.letters_bytes = letter_bytes_max_;  // else nobody makes room
  }
  broken_ = false;
  rate_left_ = 1 + 0.1 * rate_.count;
  rate_at_ = clock_.Monotonic();
  for (int attempt = 0;; ++attempt) {
    const absl::Status status = storage_->Start();
    if (status.ok()) break;
    if (!storage_->faulty() || attempt > 100) {
      return Fail(fmt::format("the journal does not open: {}", MessageOf(status)));
    }
    ++result_.broken_openings;
    storage_->Crash(breaks_ && attempt < 20);
  }
  life_ = std::make_unique<Life>(storage_->journal(), executor_, clock_, broker_random_, *this,
                                 options);
  opened_ = false;
  const auto make_plan = [this](const std::map<std::string, std::string>& stored)
      -> absl::StatusOr<std::shared_ptr<const RoutePlan>> {
    CheckStored(stored);
    return MakePlan();
  };
  life_->shards.Open(make_plan, [this](const absl::Status& status) {
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
  for (const auto& ghost : ghosts_) ghost->session.reset();
  ghosts_.clear();
  life_.reset();
  executor_.Clear();
  storage_->Crash(breaks_);
  // No restart takes less: what is fired by command has an instant of its own, in microseconds.
  clock_.Advance(std::chrono::milliseconds(1));
  leased_.clear();
  api_busy_ = false;
  ++api_changes_;
  for (SimLane& lane : lanes_) lane.attached = false;
  for (SimStream& stream : streams_) stream.order.reset();
  if (damage_ && Chance(30)) FlipBit();
  Start();
}

void Sim::FlipBit() {
  const bool in_checkpoint = Chance(50);
  if (in_checkpoint && checkpoint_damaged_) return;  // the other one is needed now
  const std::optional<FlippedBit> flipped = storage_->FlipBit(in_checkpoint);
  if (!flipped) return;
  ++result_.flipped_bits;
  if (options_.trace) fmt::print("a bit flips in {}\n", in_checkpoint ? "a checkpoint" : "the log");
  if (flipped->checkpoint) {
    checkpoint_damaged_ = true;
    return;
  }
  log_damaged_ = true;
  for (const std::string& bytes : flipped->events) {
    EventView view;
    if (ParseEvent(bytes, view).ok()) lost_events_.emplace(view.id);
  }
}

void Sim::Attach() {
  if (life_ == nullptr) return;
  auto worker = std::make_shared<SimWorker>(*this);
  SessionHello hello;
  hello.worker = "sim";
  for (const TriggerPlan& spec : Plans()) hello.functions.push_back(spec.name);
  hello.functions.push_back(ApiPlan().name);
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
  const Runs& runs = runs_[id];
  if (!reloads_ && !log_damaged_) Checked(SimCheck::kExecutions);
  // A detached trigger's leases end without being charged.
  const bool may_go = reloads_ || held.trigger == ApiPlan().name;  // be detached meanwhile
  if (++runs_[id].executions > kAttempts + result_.crashes - runs.crashes_before && !may_go &&
      !log_damaged_) {
    Fail(fmt::format("{} ran {} times in {} lives", id, runs.executions,
                     result_.crashes - runs.crashes_before + 1));
  }
  const std::string scope = fmt::format("{}/{}/{}", held.id.partition.value(), held.trigger, key);
  ForgetLease(held);
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
    answer.emitted.push_back(
        MakeEvent(++emitted_number_, fmt::format("k{}", random_.Below(keys_)), "emitted"));
    ++result_.emitted;
  } else {
    NoteAnswer(held, scope, id, Ack{});
    frame.acked.push_back({held.handle, held.handle});
    ++executed_events_[held.trigger + " " + std::string(view.id)];
    acks_sent_[held.trigger].insert(mark);
    // A stale answer settles nothing, and neither does one whose trigger was detached meanwhile.
    auto stale = std::make_shared<bool>(true);
    if (worker.session->OnAnswers(frame, clock_.Monotonic(),
                                  [this, mark, stale, trigger = held.trigger] {
                                    if (*stale) return;
                                    final_.insert(mark);
                                    acks_confirmed_[trigger].insert(mark);
                                  }) == 0) {
      *stale = may_go;
    }
    return;
  }
  const std::string name = held.trigger + " " + std::string(view.id);
  if (std::holds_alternative<Ack>(answer.outcome)) {
    ++executed_events_[name];
    acks_sent_[held.trigger].insert(mark);
  }
  if (std::holds_alternative<Drop>(answer.outcome)) dropped_.insert(name);
  const Outcome outcome = answer.outcome;
  auto applied = std::make_shared<bool>(false);
  std::function<void()> confirmed;
  if (!std::holds_alternative<Retry>(outcome)) {
    const bool ack = std::holds_alternative<Ack>(outcome);
    if (options_.trace) fmt::print("  {} ends with outcome {}\n", id, outcome.index());
    confirmed = [this, applied, ack, mark, trigger = held.trigger,
                 emitted = fmt::format("e{}", emitted_number_)] {
      if (!*applied) return;
      final_.insert(mark);
      if (!ack) return;
      emitted_.insert(emitted);
      acks_confirmed_[trigger].insert(mark);
    };
  }
  frame.others.push_back(std::move(answer));
  // What a detached trigger's worker says may be stale on its way.
  if (worker.session->OnAnswers(frame, clock_.Monotonic(), std::move(confirmed)) == 0) {
    *applied = !may_go;
    NoteAnswer(held, scope, id, outcome);
  }
}

// A half-open stream: the broker gave the worker up, the worker does not know.
void Sim::GhostAnswers() {
  SimWorker& ghost = *ghosts_[random_.Below(ghosts_.size())];
  if (ghost.held.empty()) return;
  const SimWorker::Held held = ghost.held.front();
  ghost.held.pop_front();
  FrameAnswers frame;
  frame.acked.push_back({held.handle, held.handle});
  frame.started_through = held.handle;
  if (ghost.session->OnAnswers(frame, clock_.Monotonic(), nullptr) != 1) {
    Fail(fmt::format("{}: the answer of a worker that was given up was taken",
                     FormatDeliveryId(held.id)));
  }
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
