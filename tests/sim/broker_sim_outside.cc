// What comes to the broker by itself, sources and schedules, and what its log must hold in the end.

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "broker/schedule/rule.h"
#include "tests/sim/broker_sim_world.h"

namespace tocsin::broker_sim {
namespace {

constexpr std::uint64_t kEntries = 3;

std::string LaneEventId(std::size_t lane, std::uint64_t number) {
  return fmt::format("L{}-{}", lane, number);
}

std::uint64_t Number(std::string_view text) {
  return text.empty() ? 0 : std::stoull(std::string(text));
}

// What a lane remembers once it is through with `position`: entry k, the last number of its class.
std::map<std::string, std::string> EntriesAt(std::uint64_t position) {
  std::map<std::string, std::string> entries;
  for (std::uint64_t n = position; n > 0 && entries.size() < kEntries; --n) {
    entries.emplace(fmt::format("k{}", n % kEntries), std::to_string(n));
  }
  return entries;
}

}  // namespace

void Sim::AddSchedules(RoutePlan& plan) const {
  static const auto every = [](std::string name, std::string cron, MissedPolicy missed,
                               OverlapPolicy overlap) {
    ScheduleSpec spec;
    spec.name = std::move(name);
    spec.cron = std::move(cron);
    spec.missed = missed;
    spec.missed_max = 20;
    spec.overlap = overlap;
    return *Schedule::Parse(spec);
  };
  static const std::vector<std::pair<std::string, std::shared_ptr<const Schedule>>> kSchedules = {
      {"tick", every("tick", "@every 3s", MissedPolicy::kAll, OverlapPolicy::kSkip)},
      {"last", every("last", "@every 7s", MissedPolicy::kLast, OverlapPolicy::kSkip)},
      {"queue", every("queue", "@every 5s", MissedPolicy::kAll, OverlapPolicy::kQueueAll)},
      {"cancel",
       every("cancel", "@every 4s", MissedPolicy::kLast, OverlapPolicy::kCancelPrevious)}};
  for (const auto& [name, schedule] : kSchedules) {
    ScheduleBinding binding;
    binding.name = name;
    binding.schedule = schedule;
    binding.make_event = [name = name](WallTime nominal, WallTime) {
      EventBuilder builder(fmt::format("T{}-{}", name, nominal.time_since_epoch().count()),
                           "/sim/" + name, "tick");
      return std::move(builder).Encode();
    };
    plan.schedules.push_back(std::move(binding));
  }
}

void Sim::AttachLanes() {
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    const LaneId& id = lanes_[i].id;
    life_->shards.Post(PartitionOfLane(id, kPartitions), [this, i](Partition& partition) {
      SimLane& lane = lanes_[i];
      const StoredLaneState restored = partition.AttachLane(lane.id, nullptr);
      const std::uint64_t position = Number(restored.position);
      if (position < lane.confirmed && !log_damaged_) {
        Fail(fmt::format("lane {} is at {}, but {} was confirmed", i, position, lane.confirmed));
      }
      if (restored.entries != EntriesAt(position) && !log_damaged_) {
        Fail(fmt::format("lane {}: its entries are not those of its position {}", i, position));
      }
      lane.next = position + 1;
      lane.attached = true;
      lane.under_way = false;
    });
  }
}

void Sim::Feed(std::size_t index) {
  SimLane& lane = lanes_[index];
  if (!opened_ || !lane.attached || lane.under_way) return;
  LaneBatch batch;
  batch.lane = lane.id;
  const std::uint64_t last = lane.next + random_.Below(4);
  for (std::uint64_t n = lane.next; n <= last; ++n) {
    EventBuilder builder(LaneEventId(index, n), "/sim/lane", "plain");
    builder.Attribute("partitionkey", fmt::format("k{}", n % keys_));
    batch.events.push_back(std::move(builder).Encode());
    batch.puts.emplace_back(fmt::format("k{}", n % kEntries), std::to_string(n));
  }
  if (Chance(5)) batch.undecodable.push_back({"\xff not an event", "it is none"});
  batch.position = std::to_string(last);
  batch.done = [this, life = result_.crashes, index, last](const absl::Status& status) {
    SimLane& mine = lanes_[index];
    if (life != result_.crashes) return;
    mine.under_way = false;
    if (status.ok()) {
      mine.confirmed = last;
      mine.next = last + 1;
    } else if (!absl::IsResourceExhausted(status)) {
      mine.attached = false;  // until the restart
    }
  };
  lane.under_way = true;
  if (!life_->shards.TryAppendLane(PartitionOfLane(lane.id, kPartitions), batch).ok()) {
    lane.under_way = false;
  }
}

void Sim::AddDynamic(const std::string& name, bool once) {
  NewSchedule schedule;
  schedule.name = name;
  schedule.head = std::move(EventBuilder("x", "/sim/dynamic", "plain")).Encode();
  if (once) {
    schedule.at = clock_.Wall() + std::chrono::milliseconds(random_.Below(4000));
    one_shots_[name].at = *schedule.at;
  } else {
    static constexpr OverlapPolicy kPolicies[] = {
        OverlapPolicy::kSkip, OverlapPolicy::kQueueOne, OverlapPolicy::kQueueAll,
        OverlapPolicy::kCancelPrevious, OverlapPolicy::kAllow};
    ScheduleSpec spec;
    spec.cron = fmt::format("@every {}s", 2 + random_.Below(4));
    spec.missed = Chance(50) ? MissedPolicy::kAll : MissedPolicy::kLast;
    spec.missed_max = 10;
    spec.overlap = kPolicies[random_.Below(5)];
    schedule.rule = EncodeRule(spec);
    recurring_.insert(name);
  }
  life_->shards.Post(
      PartitionOfLane({name, ""}, kPartitions), [this, name, once, schedule](Partition& partition) {
        partition.AddSchedules({schedule},
                               [this, name, once](const std::vector<absl::Status>& results) {
                                 if (once && results[0].ok()) one_shots_[name].answered = true;
                               });
      });
}

void Sim::ControlDynamic(const std::string& name, ScheduleAction action) {
  life_->shards.Post(
      PartitionOfLane({name, ""}, kPartitions), [name, action](Partition& partition) {
        partition.ControlSchedule(name, action, [](const absl::StatusOr<ScheduleInfo>&) {});
      });
}

void Sim::Dynamic() {
  const std::string kind = Chance(60) ? "o" : "r";
  if (Chance(60) || next_schedule_ == 0) {
    AddDynamic(fmt::format("{}{}", kind, next_schedule_++), kind == "o");
    return;
  }
  const std::string name = fmt::format("{}{}", kind, random_.Below(next_schedule_));
  const std::uint64_t what = random_.Below(4);
  if (kind == "o" && !one_shots_.contains(name)) return;
  if (what == 0 && kind == "o") one_shots_[name].removed = true;
  // A fire by command is before its time.
  if (what == 1 && kind == "o") one_shots_[name].at = WallTime();
  ControlDynamic(name, what == 0   ? ScheduleAction::kRemove
                       : what == 1 ? ScheduleAction::kFire
                       : what == 2 ? ScheduleAction::kPause
                                   : ScheduleAction::kResume);
}

void Sim::EndDelays() {
  if (!delays_) return;
  for (const std::string& name : recurring_) ControlDynamic(name, ScheduleAction::kRemove);
  for (const auto& [name, shot] : one_shots_) {
    ControlDynamic(name, ScheduleAction::kResume);
    (void)shot;
  }
  PumpAll();
  // The clock may have been set back since.
  clock_.StepWall(std::chrono::hours(24));
  PumpAll();
  for (auto& [name, shot] : one_shots_) shot.at = WallTime();
  FireRest();
}

// Whose time passed while they were paused: they do not fire by themselves. A full log refuses it.
void Sim::FireRest() {
  for (const std::string& name : recurring_) ControlDynamic(name, ScheduleAction::kRemove);
  for (const auto& [name, shot] : one_shots_) ControlDynamic(name, ScheduleAction::kFire);
  PumpAll();
}

// All that is stored, by the pages that tail reads.
std::vector<EventRecordInfo> Sim::ReadAll(PartitionId id) {
  std::vector<EventRecordInfo> events;
  Offset from;
  for (bool more = true; more;) {
    more = false;
    life_->shards.Post(id, [&](Partition& partition) {
      partition.ReadEvents(from, 50, 20'000, [&](absl::StatusOr<EventPage> page) {
        if (!page.ok()) return Fail(fmt::format("tail: {}", MessageOf(page.status())));
        for (const std::string& gap : page->gaps) {
          if (!log_damaged_) Fail("tail met a gap: " + gap);
        }
        for (EventRecordInfo& event : page->events) events.push_back(std::move(event));
        from = page->next;
        more = from < page->durable_end && result_.failure.empty();
      });
    });
    PumpAll();
  }
  return events;
}

// What was given a time does not come before it. (It is stored with the time its turn began.)
void Sim::CheckDue(std::string_view id) {
  if (clock_set_) return;
  const std::string name(id);
  const auto due = deliver_.find(name.starts_with("e") ? Number(id.substr(1)) : UINT64_MAX);
  const auto shot = one_shots_.find(name.substr(0, name.find('/')));
  if ((due != deliver_.end() && clock_.Wall() < due->second) ||
      (shot != one_shots_.end() && clock_.Wall() < shot->second.at)) {
    Fail(fmt::format("{} came before its time", id));
  }
}

void Sim::CheckContent(std::string_view id, std::string_view bytes) {
  // Where the record that it fired was damaged it fires again, and tells when that was.
  const bool fired = id.starts_with('o') || id.starts_with('r') || id.starts_with('T');
  if (log_damaged_ && fired) return;
  Checked(SimCheck::kContent);
  const std::size_t hash = std::hash<std::string_view>()(bytes);
  const auto [known, added] = content_.try_emplace(std::string(id), hash);
  if (!added && known->second != hash) Fail(fmt::format("{} is not what it was", id));
}

// An event goes to those that were there and whose filter holds: as far as reloads do not matter.
void Sim::CheckMatching(const EventRecordInfo& event, std::string_view id) {
  Checked(SimCheck::kMatching);
  const bool third = id.starts_with("e") && Number(id.substr(1)) % 3 == 0;
  for (const TriggerPlan& spec : Plans()) {
    const bool there =
        std::any_of(event.triggers.begin(), event.triggers.end(),
                    [&](const std::string& name) { return PlanOf(name) == spec.name; });
    const bool wanted = spec.name != "late" && (spec.name != "some" || !filter_ || third);
    const bool certain = !ever_detached_.contains(spec.name) && spec.name != "late";
    if (there && spec.name == "some" && !wanted) Fail(fmt::format("{} matched 'some'", id));
    if (certain && there != wanted) {
      Fail(fmt::format("{} {} '{}'", id, there ? "matched" : "did not match", spec.name));
    }
  }
}

// The books say what the log and the workers say.
void Sim::CheckBooksAgainst(
    const std::map<std::pair<std::uint32_t, std::string>, std::uint64_t>& matched) {
  std::map<std::string, std::uint64_t> acked;
  life_->shards.Snapshots([&](const std::vector<PartitionSnapshot>& snapshots) {
    for (const PartitionSnapshot& snapshot : snapshots) {
      for (const TriggerBooks& books : snapshot.triggers) {
        acked[std::string(PlanOf(books.name))] += books.acked;
        if (trims_ || PlanOf(books.name) == "late") continue;
        Checked(SimCheck::kBooks);
        const auto in_log = matched.find({snapshot.id.value(), std::string(PlanOf(books.name))});
        const std::uint64_t count = in_log == matched.end() ? 0 : in_log->second;
        if (books.matched != count) {
          Fail(fmt::format("{} on {}: {} matched, but {} in the log", books.name,
                           snapshot.id.value(), books.matched, count));
        }
      }
    }
  });
  PumpAll();
  for (const auto& [trigger, count] : acked) {
    const std::size_t confirmed = acks_confirmed_[trigger].size();
    const std::size_t sent = acks_sent_[trigger].size();
    if (count < confirmed || count > sent) {
      Fail(fmt::format("{}: {} acked, but {} were sent and {} confirmed", trigger, count, sent,
                       confirmed));
    }
  }
}

void Sim::NoteSchedules() {
  // That the clock was set is noticed within a second.
  clock_.Advance(std::chrono::seconds(2));
  PumpAll();
  schedules_noted_ = clock_.Wall();
  life_->shards.Snapshots([this](const std::vector<PartitionSnapshot>& snapshots) {
    for (const PartitionSnapshot& snapshot : snapshots) {
      for (const ScheduleStatus& schedule : snapshot.schedules) {
        schedule_status_[schedule.name] = schedule;
      }
    }
  });
  PumpAll();
}

// Every instant has fired or is recorded as skipped, and what fired is in the log.
void Sim::CheckSchedules() {
  static const std::map<std::string, std::int64_t> kPeriods = {
      {"tick", 3'000'000}, {"last", 7'000'000}, {"queue", 5'000'000}, {"cancel", 4'000'000}};
  for (const auto& [name, status] : schedule_status_) {
    Checked(SimCheck::kInstants);
    const std::vector<std::int64_t>& fired = fired_["T" + name];
    if (fired.size() < status.fired && !trims_) {
      Fail(fmt::format("{} fired {} times, but is {} times in the log", name, status.fired,
                       fired.size()));
    }
    // Those that wait for the run before are decided, but neither yet.
    if (status.next && *status.next <= schedules_noted_ && name != "queue" && !trims_) {
      Fail(fmt::format("{} is overdue", name));
    }
    if (fired.empty()) continue;
    const std::int64_t period = kPeriods.at(name);
    const auto instants = static_cast<std::uint64_t>((fired.back() - fired.front()) / period + 1);
    if (instants > fired.size() + status.skipped) {
      Fail(fmt::format("{}: of {} instants {} fired and {} are recorded as skipped", name, instants,
                       fired.size(), status.skipped));
    }
  }
}

// Each answered event, each item of a lane and each instant once, lanes and instants in order.
void Sim::CheckLog() {
  std::map<std::string, std::uint64_t> times;
  std::map<std::size_t, std::uint64_t> reached;  // by lane
  std::map<std::pair<std::uint32_t, std::string>, std::uint64_t> matched;
  for (std::uint32_t id = 0; id < kPartitions && result_.failure.empty(); ++id) {
    std::optional<Offset> before;
    std::map<std::uint64_t, std::uint64_t> places;  // of numbered events
    for (const EventRecordInfo& event : ReadAll(PartitionId(id))) {
      if (before && !(*before < event.offset)) Fail("tail goes back");
      before = event.offset;
      EventView view;
      if (!ParseEvent(event.bytes, view).ok()) return Fail("tail shows what is not an event");
      const std::string name(view.id);
      CheckContent(name, event.bytes);
      for (const std::string& trigger : event.triggers) {
        ++matched[{id, std::string(PlanOf(trigger))}];
      }
      if (event.origin != event.offset) continue;  // a later run of an event
      if (!log_damaged_) CheckMatching(event, name);
      ++times[name];
      if (name.starts_with("e") && !deliver_.contains(Number(name.substr(1)))) {
        places.emplace(Number(name.substr(1)), event.offset.value());
      }
      const auto shot = one_shots_.find(name.substr(0, name.find('/')));
      if (shot != one_shots_.end()) {
        ++times[shot->first];
      }
      if (log_damaged_) continue;  // what was journaled of lanes and schedules may be damaged
      if (name.starts_with("L")) {
        const std::size_t lane = Number(name.substr(1, 1));
        const std::uint64_t number = Number(name.substr(3));
        if (trims_ && reached[lane] == 0) reached[lane] = number - 1;
        Checked(SimCheck::kLaneOrder);
        if (number != ++reached[lane]) {
          Fail(fmt::format("lane {}: {} came where {} belongs", lane, number, reached[lane]));
        }
      } else if (name.starts_with("T") && !clock_set_) {
        const std::size_t dash = name.find('-');
        const auto instant = static_cast<std::int64_t>(Number(name.substr(dash + 1)));
        std::vector<std::int64_t>& fired = fired_[name.substr(0, dash)];
        if (!fired.empty() && instant <= fired.back()) {
          Fail(fmt::format("{} fired after {}", name, fired.back()));
        }
        fired.push_back(instant);
      }
    }
    if (!trims_ || (!clock_set_ && !suspends_)) CheckStreams(places);
  }
  for (std::size_t i = 0; i < lanes_.size() && !log_damaged_; ++i) {
    if (reached[i] < lanes_[i].confirmed && !(trims_ && reached[i] == 0)) {
      Fail(fmt::format("lane {}: {} was confirmed, the log ends at {}", i, lanes_[i].confirmed,
                       reached[i]));
    }
  }
  if (!log_damaged_) CheckBooksAgainst(matched);
  if (!log_damaged_ && !clock_set_) CheckSchedules();
  const bool window_holds = !clock_set_ && !suspends_ && !log_damaged_;
  for (const auto& [number, ok] : answered_) {
    const std::string name = fmt::format("e{}", number);
    const std::uint64_t count = times[name];
    if (log_damaged_ && deliver_.contains(number)) continue;  // its record may be damaged
    if (!trims_ || window_holds) Checked(SimCheck::kInLogOnce);
    // A repeat within the window is a duplicate; a clock that was set may end the window.
    if ((count == 0 && !trims_ && !lost_events_.contains(name)) ||
        (count > 1 && window_holds && !late_repeats_.contains(number))) {
      Fail(fmt::format("answered event e{} is {} times in the log", number, count));
    }
  }
  for (const std::string& name : emitted_) {
    const std::uint64_t count = times[name];
    if (log_damaged_) break;
    Checked(SimCheck::kEmittedOnce);
    if ((count == 0 && !trims_) || count > 1) {
      Fail(fmt::format("emitted event {} is {} times in the log", name, count));
    }
  }
  for (const auto& [name, shot] : one_shots_) {
    const std::uint64_t count = times[name];
    if (log_damaged_) break;
    if (count > 1 || (count == 0 && shot.answered && !shot.removed && !trims_)) {
      Fail(fmt::format("{} fired {} times", name, count));
    }
  }
  for (const auto& [name, count] : times) {
    if (!log_damaged_ && count > 1 && (name.starts_with("T") || name.starts_with("r")))
      Fail(fmt::format("{} fired {} times", name, count));
  }
}

}  // namespace tocsin::broker_sim
