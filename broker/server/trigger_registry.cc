#include "broker/server/trigger_registry.h"

#include <algorithm>
#include <span>
#include <utility>

#include "broker/base/check.h"
#include "broker/server/plan_builder.h"

namespace tocsin {
namespace {

constexpr std::size_t kOverlayMax = 256;

}  // namespace

void TriggerRegistry::Reset(std::shared_ptr<const RoutePlan> plan, bool post) {
  const MutexLock lock(mutex_);
  ++resets_;
  base_ = std::move(plan);
  overlay_.reset();
  in_force_.clear();
  for (std::uint32_t i = 0; i < base_->triggers.size(); ++i) in_force_[base_->triggers[i].name] = i;
  if (post) ports_.shards.ApplyPlan(base_);
}

void TriggerRegistry::Change(const std::vector<TriggerConfig>& put,
                             const std::vector<std::string>& removed) {
  const MutexLock lock(mutex_);
  auto change = std::make_shared<PlanChange>();
  for (const std::string& name : removed) {
    if (in_force_.erase(name) > 0) change->removed.push_back(name);
  }
  // What is there keeps its place: the partitions know it by that.
  auto overlay = std::make_shared<RoutePlan>();
  std::vector<RouteSpec> routes;
  if (overlay_ != nullptr) {
    overlay->triggers = overlay_->triggers;
    overlay->numbers = overlay_->numbers;
    for (std::uint32_t i = 0; i < overlay_->table->size(); ++i) {
      routes.push_back(overlay_->table->route(i));
    }
  }
  const auto base = static_cast<std::uint32_t>(base_->triggers.size());
  overlay->generation = base_->generation;
  for (const TriggerConfig& trigger : put) {
    in_force_[trigger.spec.name] = base + static_cast<std::uint32_t>(overlay->triggers.size());
    routes.push_back(trigger.route);
    overlay->triggers.push_back(trigger.spec);
    overlay->numbers.push_back(
        NumberTrigger(trigger.spec, !in_force_.contains(trigger.spec.was), ports_.dispatcher));
  }
  overlay->table = RouteTable::Build(std::move(routes));
  overlay_ = overlay;
  change->overlay = std::move(overlay);
  ports_.shards.ChangePlan(change);
  if (overlay_->triggers.size() > kOverlayMax) PostRebuild();
}

const RoutePlan& TriggerRegistry::PlanOf(std::uint32_t number, std::uint32_t& route) const {
  const auto base = static_cast<std::uint32_t>(base_->triggers.size());
  route = number < base ? number : number - base;
  return number < base ? *base_ : *overlay_;
}

std::vector<PlannedRoute> TriggerRegistry::Routes() const {
  const MutexLock lock(mutex_);
  std::vector<std::uint32_t> numbers;
  numbers.reserve(in_force_.size());
  for (const auto& [name, number] : in_force_) numbers.push_back(number);
  std::sort(numbers.begin(), numbers.end());
  std::vector<PlannedRoute> routes;
  routes.reserve(numbers.size());
  const auto base = static_cast<std::uint32_t>(base_ == nullptr ? 0 : base_->triggers.size());
  for (const std::uint32_t number : numbers) {
    routes.push_back(number < base ? PlannedRoute{base_, number}
                                   : PlannedRoute{overlay_, number - base});
  }
  return routes;
}

void TriggerRegistry::PostRebuild() {
  if (std::exchange(rebuilding_, true)) return;
  ports_.builder.Post([this, guard = std::weak_ptr(alive_)] {
    if (!guard.expired()) Rebuild();
  });
}

// Compiled outside of the lock; what was changed meanwhile stays in the overlay.
void TriggerRegistry::Rebuild() {
  std::vector<std::uint32_t> from;
  std::vector<RouteSpec> routes;
  auto plan = std::make_shared<RoutePlan>();
  std::uint64_t resets = 0;
  std::size_t overlaid = 0;
  {
    const MutexLock lock(mutex_);
    if (overlay_ == nullptr) {  // there was a reset since this was posted
      rebuilding_ = false;
      return;
    }
    resets = resets_;
    overlaid = overlay_->triggers.size();
    for (const auto& [name, number] : in_force_) from.push_back(number);
    std::sort(from.begin(), from.end());
    for (const std::uint32_t number : from) {
      std::uint32_t route = 0;
      const RoutePlan& old = PlanOf(number, route);
      routes.push_back(old.table->route(route));
      plan->triggers.push_back(old.triggers[route]);
      plan->numbers.push_back(old.numbers[route]);
    }
    plan->schedules = base_->schedules;
    plan->generation = base_->generation;
  }
  plan->table = RouteTable::Build(std::move(routes));

  const MutexLock lock(mutex_);
  rebuilding_ = false;
  if (resets != resets_) {
    if (overlay_ != nullptr && overlay_->triggers.size() > kOverlayMax) PostRebuild();
    return;
  }
  auto rebase = std::make_shared<PlanRebase>();
  rebase->base = plan;
  const auto old_base = static_cast<std::uint32_t>(base_->triggers.size());
  const auto new_base = static_cast<std::uint32_t>(plan->triggers.size());
  if (overlay_->triggers.size() > overlaid) {
    auto overlay = std::make_shared<RoutePlan>();
    std::vector<RouteSpec> late;
    overlay->generation = plan->generation;
    for (std::size_t i = overlaid; i < overlay_->triggers.size(); ++i) {
      late.push_back(overlay_->table->route(static_cast<std::uint32_t>(i)));
      overlay->triggers.push_back(overlay_->triggers[i]);
      overlay->numbers.push_back(overlay_->numbers[i]);
    }
    overlay->table = RouteTable::Build(std::move(late));
    rebase->overlay = std::move(overlay);
  }
  absl::flat_hash_map<std::uint32_t, std::uint32_t> moved;
  for (std::uint32_t i = 0; i < new_base; ++i) moved[from[i]] = i;
  for (std::size_t i = overlaid; i < overlay_->triggers.size(); ++i) {
    const auto number = static_cast<std::uint32_t>(old_base + i);
    moved[number] = new_base + static_cast<std::uint32_t>(i - overlaid);
    from.push_back(number);
  }
  for (auto& [name, number] : in_force_) number = moved.at(number);
  rebase->from = std::move(from);
  base_ = plan;
  overlay_ = rebase->overlay;
  ports_.shards.RebasePlan(std::move(rebase));
}

}  // namespace tocsin
