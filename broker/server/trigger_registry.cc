#include "broker/server/trigger_registry.h"

#include <algorithm>
#include <cstdint>
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
  std::shared_ptr<const RoutePlan> old = std::exchange(base_, std::move(plan));
  overlay_.reset();
  in_force_.clear();
  for (std::uint32_t i = 0; i < base_->triggers.size(); ++i) in_force_[base_->triggers[i].name] = i;
  if (!post) return;
  ports_.shards.ApplyPlan(base_);
  FreeWhenUnused(std::move(old));
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

// Compiled outside of the lock, which changes of single triggers wait for; what was changed
// meanwhile stays in the overlay.
void TriggerRegistry::Rebuild() {
  std::vector<std::uint32_t> from;
  std::shared_ptr<const RoutePlan> old_base;
  std::shared_ptr<const RoutePlan> old_overlay;
  std::uint64_t resets = 0;
  {
    const MutexLock lock(mutex_);
    if (overlay_ == nullptr) {  // there was a reset since this was posted
      rebuilding_ = false;
      return;
    }
    resets = resets_;
    old_base = base_;
    old_overlay = overlay_;
    from.reserve(in_force_.size());
    for (const auto& [name, number] : in_force_) from.push_back(number);
  }
  std::sort(from.begin(), from.end());
  const auto base_size = static_cast<std::uint32_t>(old_base->triggers.size());
  const auto overlaid = static_cast<std::uint32_t>(old_overlay->triggers.size());
  const auto new_size = static_cast<std::uint32_t>(from.size());
  std::vector<std::uint32_t> moved(base_size + overlaid, UINT32_MAX);
  std::vector<RouteSpec> routes;
  auto plan = std::make_shared<RoutePlan>();
  for (std::uint32_t i = 0; i < new_size; ++i) {
    moved[from[i]] = i;
    const RoutePlan& old = from[i] < base_size ? *old_base : *old_overlay;
    const std::uint32_t route = from[i] < base_size ? from[i] : from[i] - base_size;
    routes.push_back(old.table->route(route));
    plan->triggers.push_back(old.triggers[route]);
    plan->numbers.push_back(old.numbers[route]);
  }
  plan->schedules = old_base->schedules;
  plan->generation = old_base->generation;
  plan->table = RouteTable::Build(std::move(routes));
  auto rebase = std::make_shared<PlanRebase>();
  rebase->base = plan;

  const MutexLock lock(mutex_);
  rebuilding_ = false;
  if (resets != resets_) {
    if (overlay_ != nullptr && overlay_->triggers.size() > kOverlayMax) PostRebuild();
    return;
  }
  if (overlay_->triggers.size() > overlaid) {
    auto overlay = std::make_shared<RoutePlan>();
    std::vector<RouteSpec> late;
    overlay->generation = plan->generation;
    for (std::uint32_t i = overlaid; i < overlay_->triggers.size(); ++i) {
      late.push_back(overlay_->table->route(i));
      overlay->triggers.push_back(overlay_->triggers[i]);
      overlay->numbers.push_back(overlay_->numbers[i]);
      from.push_back(base_size + i);
    }
    overlay->table = RouteTable::Build(std::move(late));
    rebase->overlay = std::move(overlay);
  }
  for (auto& [name, number] : in_force_) {
    number = number < moved.size() ? moved[number]
                                   : new_size + (number - static_cast<std::uint32_t>(moved.size()));
    TOCSIN_CHECK(number != UINT32_MAX, "trigger `{}` is in no plan", name);
  }
  rebase->from = std::move(from);
  base_ = std::move(plan);
  overlay_ = rebase->overlay;
  ports_.shards.RebasePlan(std::move(rebase));
  FreeWhenUnused(std::move(old_base));
  // So much was changed meanwhile.
  if (overlay_ != nullptr && overlay_->triggers.size() > kOverlayMax) PostRebuild();
}

// A large plan takes its time to be freed, too: not on a shard's thread.
void TriggerRegistry::FreeWhenUnused(std::shared_ptr<const RoutePlan> plan) {
  struct Used {
    Used(std::weak_ptr<bool> guard_in, Executor& builder_in)
        : guard(std::move(guard_in)), builder(builder_in) {}
    ~Used() {
      if (!guard.expired()) builder.Post([plan = std::move(plan)] {});
    }
    Used(const Used&) = delete;
    Used& operator=(const Used&) = delete;

    const std::weak_ptr<bool> guard;
    Executor& builder;
    std::shared_ptr<const RoutePlan> plan;
  };
  const auto used = std::make_shared<Used>(alive_, ports_.builder);
  used->plan = std::move(plan);
  for (std::uint32_t id = 0; id < ports_.shards.partition_count(); ++id) {
    ports_.shards.Post(PartitionId(id), [used](Partition&) {});
  }
}

}  // namespace tocsin
