// Triggers that come and go while the broker runs, and replays.

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "tests/sim/broker_sim_world.h"

namespace tocsin::broker_sim {

// First what is stored, then what the partitions match by; a crash may come in between.
void Sim::ChangeApi() {
  if (api_busy_) return;
  api_busy_ = true;
  ++api_changes_;
  const bool remove = !api_told_.empty() && Chance(30);
  const std::string version = remove ? "" : fmt::format("v{}", random_.Below(5));
  const bool is_new = api_possible_.insert(version).second;
  const auto stored = [this, version, is_new, life = result_.crashes](const absl::Status& status) {
    if (life != result_.crashes) return;
    const bool taken = IsTakenWithoutRoom(status);
    if (absl::IsResourceExhausted(status) && !taken) {
      if (is_new) api_possible_.erase(version);
      api_busy_ = false;
      return;
    }
    if (!status.ok() && !taken) {
      if (!storage_->faulty()) Fail(fmt::format("store: {}", MessageOf(status)));
      return;
    }
    if (!taken) api_possible_ = {version};  // else a crash may still undo it
    if (!quiet_) TellApi(version);
  };
  life_->shards.Post(PartitionId(0), [version, stored](Partition& partition) {
    partition.StoreTriggers({{"api", version}}, stored);
  });
}

void Sim::TellApi(const std::string& version) {
  auto change = std::make_shared<PlanChange>();
  auto overlay = std::make_shared<RoutePlan>();
  std::vector<RouteSpec> routes;
  if (overlay_ != nullptr) {
    overlay->triggers = overlay_->triggers;
    overlay->numbers = overlay_->numbers;
    for (std::uint32_t i = 0; i < overlay_->table->size(); ++i) {
      routes.push_back(overlay_->table->route(i));
    }
  }
  if (version.empty()) {
    change->removed.push_back(ApiPlan().name);
  } else {
    AddRoute(ApiPlan(), version, *overlay, routes);
  }
  overlay->table = RouteTable::Build(std::move(routes));
  overlay_ = overlay;
  change->overlay = overlay;
  api_told_ = version;
  life_->shards.ChangePlan(change);
  auto left = std::make_shared<std::uint32_t>(kPartitions);
  for (std::uint32_t id = 0; id < kPartitions; ++id) {
    life_->shards.Post(PartitionId(id), [this, left, life = result_.crashes](Partition&) {
      // Its leases end unseen by their workers when it goes.
      if (api_told_.empty()) {
        std::erase_if(leased_, [](const auto& lease) {
          return lease.first.first.find("/api/") != std::string::npos;
        });
      }
      if (life != result_.crashes || --*left > 0) return;
      api_busy_ = false;
      ++api_changes_;
    });
  }
}

// As the builder of the server does, in another order.
void Sim::RebasePlan() {
  if (plan_ == nullptr || api_busy_) return;
  auto rebase = std::make_shared<PlanRebase>();
  auto base = std::make_shared<RoutePlan>();
  std::vector<RouteSpec> routes;
  const auto add = [&](const RoutePlan& from, std::size_t i, std::size_t number) {
    base->triggers.push_back(from.triggers[i]);
    base->numbers.push_back(from.numbers[i]);
    routes.push_back(from.table->route(static_cast<std::uint32_t>(i)));
    rebase->from.push_back(static_cast<std::uint32_t>(number));
  };
  const std::size_t overlaid = overlay_ == nullptr ? 0 : overlay_->triggers.size();
  for (std::size_t i = 0; i < plan_->triggers.size(); ++i) {
    const bool api = plan_->triggers[i].name == ApiPlan().name;
    if (!api || (overlaid == 0 && !api_told_.empty())) add(*plan_, i, i);
  }
  if (overlaid > 0 && !api_told_.empty()) {
    add(*overlay_, overlaid - 1, plan_->triggers.size() + overlaid - 1);
  }
  base->schedules = plan_->schedules;
  base->generation = plan_->generation;
  base->table = RouteTable::Build(std::move(routes));
  rebase->base = base;
  plan_ = base;
  overlay_.reset();
  life_->shards.RebasePlan(rebase);
}

void Sim::CheckStored(const std::map<std::string, std::string>& stored) {
  const auto found = stored.find("api");
  const std::string version = found == stored.end() ? "" : found->second;
  if (!api_possible_.contains(version) && !log_damaged_) {
    Fail(fmt::format("version '{}' of the API's trigger is stored", version));
  }
  api_possible_ = {version};
  api_told_ = version;
  ++api_changes_;
}

void Sim::StartReplay() {
  const std::vector<std::string> names = {"all", "some", "late"};
  const std::string name = names[random_.Below(names.size())];
  const auto id = static_cast<std::uint32_t>(random_.Below(kPartitions));
  const bool stop = Chance(20);
  ReplayOrder order;
  if (Chance(50)) order.from = Offset(random_.Below(20));
  if (Chance(50)) order.end = Offset(random_.Below(60));
  if (Chance(50)) order.rate_millis = 20'000 + random_.Below(100'000);
  life_->shards.Post(PartitionId(id), [this, id, name, stored = NameOf(name), order, stop,
                                       life = result_.crashes](Partition& partition) {
    if (stop) {
      (void)partition.StopReplay(stored);
      for (SimReplay& replay : replays_) {
        if (replay.partition == id && replay.trigger == name) replay.stopped = true;
      }
      return;
    }
    partition.Replay(stored, order,
                     [this, id, name, life](const absl::StatusOr<ReplayProgress>& progress) {
                       if (!progress.ok() || life != result_.crashes) return;
                       // Stopped, perhaps, before it was durable that it began.
                       replays_.push_back({id, name, *progress, progress->stopped});
                     });
  });
}

bool Sim::Replaying() {
  bool active = false;
  for (std::uint32_t id = 0; id < kPartitions; ++id) {
    life_->shards.Post(PartitionId(id), [this, &active](Partition& partition) {
      for (const TriggerPlan& spec : Plans()) {
        active = active || partition.ReplayOf(NameOf(spec.name)).active;
      }
    });
  }
  PumpAll();
  return active;
}

// Each run of a replay once, and of those that were not stopped every event of its span; and what
// the API's trigger matched.
void Sim::CheckReplays() {
  if (log_damaged_) return;
  for (std::uint32_t id = 0; id < kPartitions; ++id) {
    const std::vector<EventRecordInfo> events = ReadAll(PartitionId(id));
    std::set<std::tuple<std::string, std::uint32_t, std::uint64_t>> runs;
    for (const EventRecordInfo& event : events) {
      if (event.run == 0 || event.run % kRunsPerReplay != 0) continue;
      for (const std::string& trigger : event.triggers) {
        if (!runs.emplace(PlanOf(trigger), event.run, event.origin.value()).second) {
          return Fail(fmt::format("run {} of {}/{} for {} is in the log twice", event.run, id,
                                  event.origin.value(), trigger));
        }
      }
    }
    for (const SimReplay& replay : replays_) {
      if (replay.partition != id || replay.stopped || trims_) continue;
      const std::uint32_t run = replay.begun.number * kRunsPerReplay;
      for (const EventRecordInfo& event : events) {
        EventView view;
        if (event.run > 0 || event.offset < replay.begun.from ||
            !(event.offset < replay.begun.end) || !ParseEvent(event.bytes, view).ok()) {
          continue;
        }
        if (replay.trigger == "some" && filter_ && view.Text("subject") != "third") continue;
        Checked(SimCheck::kReplayRuns);
        if (!runs.contains({replay.trigger, run, event.offset.value()})) {
          return Fail(fmt::format("replay {} of {} lacks {}/{}", replay.begun.number,
                                  replay.trigger, id, event.offset.value()));
        }
      }
    }
    std::set<std::string> seen;
    for (const EventRecordInfo& event : events) {
      EventView view;
      if (trims_ || event.run > 0 || !ParseEvent(event.bytes, view).ok() ||
          !view.id.starts_with("e") || !seen.emplace(view.id).second) {
        continue;  // a repeat from behind the dedupe window is another event
      }
      const auto expected = api_expected_.find(std::stoull(std::string(view.id.substr(1))));
      if (expected == api_expected_.end()) continue;
      const bool matched = std::find(event.triggers.begin(), event.triggers.end(),
                                     ApiPlan().name) != event.triggers.end();
      Checked(SimCheck::kApiMatching);
      if (matched != expected->second) {
        return Fail(fmt::format("{}/{} ({}) was {}matched by the API's trigger", id,
                                event.offset.value(), view.id, matched ? "" : "not "));
      }
    }
  }
}

}  // namespace tocsin::broker_sim
