// Which triggers are in force: those of the plan, and those that were applied since, one by one.

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/canary.h"
#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/journal/record.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

// Of one record batch: a crash between two leaves the first.
constexpr std::size_t kStoredBytes = std::size_t{1} << 20;

}  // namespace

const TriggerSpec& Partition::Impl::SpecOf(std::size_t route) const {
  const std::size_t base = plan->triggers.size();
  return route < base ? plan->triggers[route] : overlay->triggers[route - base];
}

const RouteSpec& Partition::Impl::RouteOf(std::size_t route) const {
  const std::size_t base = plan->triggers.size();
  return route < base ? plan->table->route(static_cast<std::uint32_t>(route))
                      : overlay->table->route(static_cast<std::uint32_t>(route - base));
}

TriggerNumber Partition::Impl::NumberOf(std::size_t route) const {
  const std::size_t base = plan->numbers.size();
  return route < base ? plan->numbers[route] : overlay->numbers[route - base];
}

bool Partition::Impl::InForce(std::size_t route) const {
  if (Planted(Canary::kRouteStale)) return true;
  const TriggerOrdinal ordinal = route_ordinals[route];
  const Runtime* runtime =
      ordinal.value() < runtimes.size() ? runtimes[ordinal.value()].get() : nullptr;
  return runtime != nullptr && runtime->route == route;
}

void Partition::Impl::MatchRoutes(const EventView& view, std::string_view source) {
  plan->table->Match(view, source, match_scratch, match_routes);
  if (!patched) return;
  std::erase_if(match_routes, [this](std::uint32_t route) { return !InForce(route); });
  if (overlay == nullptr) return;
  overlay->table->Match(view, source, match_scratch, overlay_routes);
  const auto base = static_cast<std::uint32_t>(plan->triggers.size());
  for (const std::uint32_t route : overlay_routes) {
    if (InForce(base + route)) match_routes.push_back(base + route);
  }
}

void Partition::Impl::Define(const TriggerRecord& known, const TriggerSpec& spec,
                             TriggerOrdinal ordinal, bool paused) {
  EnsureRoom(spec.config_json.size() + 256);
  TriggerDefinedRecord record;
  record.trigger = ordinal;
  record.generation = known.generation + 1;
  record.paused = paused;
  record.name = spec.name;
  record.config_hash = spec.config_hash;
  record.config_json = spec.config_json;
  std::string body;
  EncodeTriggerDefined(record, body);
  AddAndApply(RecordType::kTriggerDefined, body);
}

TriggerOrdinal Partition::Impl::DefineRoute(const TriggerSpec& spec) {
  TriggerRecord* known = state.FindTrigger(spec.name);
  if (known == nullptr && !spec.was.empty()) known = state.FindTrigger(spec.was);
  if (known == nullptr) {
    const TriggerOrdinal ordinal(static_cast<std::uint32_t>(state.triggers().size()));
    Define(TriggerRecord(), spec, ordinal, spec.paused);
    const std::optional<Offset> undefined = state.undefined_from();
    if ((spec.from_start && state.end() > Offset()) || undefined) {
      std::string body;
      EncodeTriggerCatchUp({ordinal, spec.from_start ? Offset() : *undefined, false}, body);
      AddAndApply(RecordType::kTriggerCatchUp, body);
    }
    if (undefined && !spec.from_start) {
      Warn("T0311", fmt::format("what defined some triggers cannot be read: '{}', which is not "
                                "known, is given the events from {}/{} again",
                                spec.name, options.id.value(), undefined->value()));
    }
    return ordinal;
  }
  if (known->detached || known->name != spec.name || known->config_hash != spec.config_hash) {
    Define(*known, spec, known->ordinal, known->paused);
  }
  return known->ordinal;
}

void Partition::Impl::PutInForce(std::size_t route) {
  const TriggerOrdinal ordinal = route_ordinals[route];
  if (runtimes.size() <= ordinal.value()) runtimes.resize(state.triggers().size());
  std::unique_ptr<Runtime>& runtime = runtimes[ordinal.value()];
  if (runtime == nullptr) {
    runtime = std::make_unique<Runtime>();
    runtime->ordinal = ordinal;
  }
  runtime->route = route;
  const TriggerNumber number = NumberOf(route);
  if (runtime->offered + runtime->offered_alone > 0 && runtime->number != number) {
    ports.dispatcher.Withdraw(options.id, runtime->number);
    runtime->offered = runtime->offered_alone = 0;
  }
  runtime->number = number;
  const BacklogPolicy& backlog = SpecOf(route).policy.backlog;
  if (backlog.size_max && backlog.when_full == WhenFull::kRefuse) backlog_refuses = true;
  by_number[runtime->number.value()] = ordinal;
  const TriggerRecord* trigger = state.FindTrigger(ordinal);
  if (trigger->catch_up) catching_up.insert(ordinal.value());
  if (trigger->replay) replaying.insert(ordinal.value());
  if (runtime->queue != nullptr) {
    runtime->queue->SetPolicy(SpecOf(route).policy);
    Touch(*runtime);
    return;
  }
  if (trigger->pending() > 0 || !trigger->parked.empty()) {
    // A former queue's failures must be durable before their deliveries are tried again.
    Flush();
    runtime->scan_after = in_flight.empty() ? 0 : in_flight.back().number;
    (void)QueueOf(*runtime, std::min(trigger->floor, durable_end));
    Touch(*runtime);
  }
}

void Partition::Impl::TakeOutOfForce(const TriggerRecord& trigger) {
  Runtime* runtime = RuntimeOf(trigger.ordinal);
  if (runtime != nullptr) {
    if (runtime->queue != nullptr) {
      state.RaiseFloor(trigger.ordinal, runtime->queue->Floor(durable_end));
      DropRuntimeQueue(*runtime);
    }
    // What it was granted since the last turn stays with the others.
    ports.dispatcher.Withdraw(options.id, runtime->number);
    absl::erase_if(leased_hops, [&trigger](const auto& leased) {
      return leased.first.first == trigger.ordinal.value();
    });
    runtimes[trigger.ordinal.value()].reset();
  }
  if (trigger.detached) return;
  EnsureRoom(64);
  std::string body;
  EncodeTriggerDetached({trigger.ordinal, Micros(wall), false}, body);
  AddAndApply(RecordType::kTriggerDetached, body);
  Warn("T0313", fmt::format("trigger '{}' is not in the configuration any more: it is detached "
                            "with {} pending deliveries; `tocsin triggers forget {}` discards them",
                            trigger.name, trigger.pending(), trigger.name));
}

void Partition::Impl::ApplyPlan(std::shared_ptr<const RoutePlan> new_plan) {
  BeginIfNeeded();
  if (failed || !open) return;
  EncodeSettlements();
  plan = std::move(new_plan);
  overlay.reset();
  patched = backlog_refuses = false;
  route_ordinals.assign(plan->triggers.size(), kNoTrigger);
  absl::flat_hash_set<std::uint32_t> present;
  for (std::size_t route = 0; route < plan->triggers.size(); ++route) {
    route_ordinals[route] = DefineRoute(plan->triggers[route]);
    present.insert(route_ordinals[route].value());
  }
  if (state.undefined_from()) {
    for (const auto& trigger : state.triggers()) {
      if (!trigger->name.empty() || trigger->pending() == 0) continue;
      std::string body;
      EncodeTriggerDetached({trigger->ordinal, Micros(wall), true}, body);
      AddAndApply(RecordType::kTriggerDetached, body);
    }
    state.DefinedAgain();
  }
  runtimes.resize(state.triggers().size());
  by_number.clear();
  catching_up.clear();
  replaying.clear();
  for (std::size_t route = 0; route < plan->triggers.size(); ++route) PutInForce(route);
  for (const auto& trigger : state.triggers()) {
    if (trigger->forgotten || present.contains(trigger->ordinal.value())) continue;
    TakeOutOfForce(*trigger);
  }
  LoadSchedules();
  for (LaneBatch& batch : std::exchange(early_lanes, {})) AppendLane(std::move(batch));
}

void Partition::ChangePlan(const PlanChange& change) { impl_->ChangePlan(change); }
void Partition::RebasePlan(const PlanRebase& rebase) { impl_->RebasePlan(rebase); }

void Partition::Impl::ChangePlan(const PlanChange& change) {
  BeginIfNeeded();
  if (failed || !open || plan == nullptr) return;
  EncodeSettlements();
  const std::size_t base = plan->triggers.size();
  const std::size_t known = overlay == nullptr ? 0 : overlay->triggers.size();
  TOCSIN_CHECK(route_ordinals.size() == base + known);
  patched = true;
  overlay = change.overlay;
  for (std::size_t i = known; i < overlay->triggers.size(); ++i) {
    route_ordinals.push_back(DefineRoute(overlay->triggers[i]));
    PutInForce(base + i);
  }
  for (const std::string& name : change.removed) {
    const TriggerRecord* trigger = state.FindTrigger(name);
    if (trigger == nullptr || trigger->forgotten) continue;
    catching_up.erase(trigger->ordinal.value());
    replaying.erase(trigger->ordinal.value());
    TakeOutOfForce(*trigger);
  }
}

void Partition::Impl::RebasePlan(const PlanRebase& rebase) {
  BeginIfNeeded();
  if (failed || !open || plan == nullptr) return;
  std::vector<TriggerOrdinal> ordinals(rebase.from.size());
  std::vector<std::pair<Runtime*, std::size_t>> moved;
  for (std::size_t route = 0; route < rebase.from.size(); ++route) {
    const std::uint32_t before = rebase.from[route];
    ordinals[route] = route_ordinals[before];
    if (InForce(before)) moved.emplace_back(RuntimeOf(ordinals[route]), route);
  }
  for (const auto& [runtime, route] : moved) runtime->route = route;
  plan = rebase.base;
  overlay = rebase.overlay;
  route_ordinals = std::move(ordinals);
  patched = overlay != nullptr || moved.size() < route_ordinals.size();
}

std::map<std::string, std::string> Partition::StoredTriggers() const {
  const auto& stored = impl_->state.stored_triggers();
  return {stored.begin(), stored.end()};
}

void Partition::StoreTriggers(const std::vector<std::pair<std::string, std::string>>& triggers,
                              absl::AnyInvocable<void(absl::Status)> done) {
  Impl& impl = *impl_;
  if (const absl::Status usable = impl.Writable(); !usable.ok()) {
    done(usable);
    return;
  }
  impl.BeginIfNeeded();
  std::size_t bytes = 0;
  for (const auto& [name, text] : triggers) {
    const std::size_t mine = name.size() + text.size() + 16;
    if (bytes + mine > kStoredBytes) {
      impl.Flush();
      bytes = 0;
    }
    bytes += mine;
    impl.EnsureRoom(mine);
    std::string body;
    EncodeTriggerStored({name, text}, body);
    impl.AddAndApply(RecordType::kTriggerStored, body);
  }
  impl.WhenDurable(std::move(done), true);
}

}  // namespace tocsin
