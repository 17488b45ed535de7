// Schedules: which instants fire in this turn, and what overlap does to earlier ones.

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/canary.h"
#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/journal/record.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

constexpr std::size_t kTrackedFew = 1000;  // events whose settlement is told to somebody

}  // namespace

void Partition::Impl::RecordSchedule(RecordType type, const ScheduleRecord& record) {
  std::string body;
  EncodeSchedule(record, body);
  if (Planted(Canary::kFireForgotten) && type == RecordType::kScheduleFired) {
    (void)state.Apply(RecordView{type, body, 0}, state.end(), turn.append_time_us);
    return;
  }
  if (Planted(Canary::kSkipUnrecorded) && type == RecordType::kScheduleSkipped) return;
  AddAndApply(type, body);
}

ScheduleState Partition::Impl::RestoreSchedule(const ScheduleBinding& binding, bool& changed) {
  const Schedule& schedule = *binding.schedule;
  // Only a start can be the first one under a boot.
  const bool boots = options.boot_id != 0 && !schedules_loaded;
  const auto anew = [&] {
    changed = true;
    if (schedule.at_boot()) return StartForBoot(wall, options.boot_id, boots);
    return StartSchedule(wall, schedule.spread());
  };
  auto known = state.schedules().find(binding.name);
  if (known == state.schedules().end() && !binding.was.empty()) {
    known = state.schedules().find(binding.was);
  }
  if (known == state.schedules().end()) return anew();
  const absl::StatusOr<ScheduleState> decoded = DecodeScheduleState(known->second.state);
  if (!decoded.ok()) {
    Warn("T0306", fmt::format("the state of schedule '{}' cannot be read ({}); it starts anew",
                              binding.name, MessageOf(decoded.status())));
    return anew();
  }
  if (schedule.at_boot() && decoded->boot != options.boot_id) return anew();
  changed = known->first != binding.name;
  if (schedule.at_boot() || decoded->boot == 0) return *decoded;
  // It was @reboot before: its anchor is no first start.
  changed = true;
  ScheduleState state_now = *decoded;
  state_now.boot = 0;
  return state_now;
}

void Partition::Impl::LoadSchedules() {
  schedules.clear();
  schedule_dues.clear();
  schedule_numbers.clear();
  if (plan == nullptr) return;
  LoadDynamic();
  for (std::size_t i = 0; i < plan->schedules.size(); ++i) {
    const ScheduleBinding& binding = plan->schedules[i];
    if (PartitionOfLane({binding.name, ""}, options.partitions) != options.id) continue;
    if (state.dynamic().Find(binding.name)) {
      Warn("T0340", fmt::format("source '{0}' does not fire: a schedule of that name was added by "
                                "command or API; remove that one (`tocsin schedule remove {0}`) or "
                                "rename the source",
                                binding.name));
      continue;
    }
    ScheduleRuntime runtime;
    runtime.binding = i;
    bool changed = false;
    runtime.state = RestoreSchedule(binding, changed);
    if (changed) {
      EnsureRoom(512);
      ScheduleRecord record;
      record.name = binding.name;
      const std::string encoded = EncodeScheduleState(runtime.state);
      record.state = encoded;
      RecordSchedule(RecordType::kScheduleSet, record);
    }
    if (binding.schedule->overlap() == OverlapPolicy::kCancelPrevious) {
      Supersede(binding.name, state.LastFire(binding.name));
    }
    const auto known = state.schedules().find(binding.name);
    runtime.paused = known != state.schedules().end() && known->second.paused;
    schedule_numbers.emplace(binding.name, schedules.size());
    schedules.push_back(runtime);
    // Planned at the first turn, which also finds what was missed.
    PlanScheduleAt(schedules.size() - 1, wall);
  }
  schedules_loaded = true;
}

void Partition::Impl::PlanScheduleAt(std::size_t index, std::optional<WallTime> when) {
  ScheduleRuntime& runtime = schedules[index];
  if (runtime.next.has_value()) schedule_dues.erase({*runtime.next, index});
  if (runtime.paused) when.reset();
  runtime.next = when;
  if (when.has_value()) schedule_dues.emplace(*when, index);
}

bool Partition::Impl::SchedulesRun() const {
  return !stalled && ports.journal.HasRoomForIngest() &&
         ports.journal.log_bytes() < options.retention_bytes;
}

void Partition::Impl::RunSchedules() {
  const ScheduleTable& dynamic = state.dynamic();
  if (schedules.empty() && dynamic.schedules() + dynamic.delayed() == 0) {
    static_cast<void>(state.TakeReleasedSchedules());
    // What was to be looked at is gone.
    replan_next.reset();
    dynamic_due.clear();
    dynamic_due_next = 0;
    dynamic_released.clear();
    return;
  }
  if (!SchedulesRun()) return;
  const Duration offset = wall.time_since_epoch() - now.time_since_epoch();
  if (offset - wall_offset > std::chrono::seconds(1) ||
      wall_offset - offset > std::chrono::seconds(1)) {
    // The wall clock was set: every schedule is planned again.
    wall_offset = offset;
    for (std::size_t i = 0; i < schedules.size(); ++i) PlanScheduleAt(i, wall);
    ReplanDynamic();
  }
  std::size_t fires_left = options.fires_max;
  // Runs that are settled let what waits for them go.
  for (const std::string& name : state.TakeReleasedSchedules()) {
    const auto found = schedule_numbers.find(name);
    if (found == schedule_numbers.end()) {
      const auto id = dynamic.Find(name);
      if (id && dynamic.IsRecurring(*id)) dynamic_released.push_back(*id);
      continue;
    }
    if (!schedules[found->second].state.waiting.empty()) PlanScheduleAt(found->second, wall);
  }
  while (!schedule_dues.empty() && schedule_dues.begin()->first <= wall && fires_left > 0) {
    const std::size_t index = schedule_dues.begin()->second;
    EncodeSettlements();  // so that what was just acked does not count as busy
    fires_left -= std::min(fires_left, FireSchedule(index, fires_left));
  }
  RunDynamic(fires_left);
}

std::size_t Partition::Impl::FireSchedule(std::size_t index, std::size_t fires_max) {
  ScheduleRuntime& runtime = schedules[index];
  const ScheduleBinding& binding = plan->schedules[runtime.binding];
  const bool busy = state.ScheduleBusy(binding.name);
  const FirePlan fire =
      PlanFires(*binding.schedule, runtime.state, wall, busy, fires_max, runtime.paused);
  for (std::size_t i = 0; i < fire.fires.size(); ++i) {
    // The state after every fire is journaled with it, so that no instant fires twice; those
    // still to come in this plan are in the same batch or after it.
    ScheduleState reached = fire.state;
    if (i + 1 < fire.fires.size()) {
      reached = runtime.state;
      reached.decided_through = std::max(reached.decided_through, fire.fires[i]);
    }
    FireInstant(binding, fire.fires[i], reached);
  }
  if (!fire.fires.empty() && binding.schedule->overlap() == OverlapPolicy::kCancelPrevious) {
    Supersede(binding.name, state.LastFire(binding.name));
  }
  RecordSkips(index, fire);
  const std::string encoded = EncodeScheduleState(fire.state);
  if (fire.fires.empty() && fire.skips.empty() && fire.state.waiting != runtime.state.waiting) {
    // Noticed and neither fired nor skipped: that it waits must survive.
    EnsureRoom(512);
    ScheduleRecord waits;
    waits.name = binding.name;
    waits.state = encoded;
    RecordSchedule(RecordType::kScheduleSet, waits);
  }
  RaiseOverdue(binding.name, fire, DelayOfFirst(fire, *binding.schedule), busy);
  runtime.state = fire.state;
  PlanScheduleAt(index, fire.next);
  return fire.fires.size();
}

void Partition::Impl::RecordSkips(std::size_t index, const FirePlan& fire) {
  const ScheduleBinding& binding = plan->schedules[schedules[index].binding];
  const std::string encoded = EncodeScheduleState(fire.state);
  for (const SkippedRange& skip : fire.skips) {
    EnsureRoom(512);
    ScheduleRecord skipped;
    skipped.name = binding.name;
    skipped.state = encoded;
    skipped.first_us = Micros(skip.first);
    skipped.last_us = Micros(skip.last);
    skipped.count = skip.count;
    skipped.reason = static_cast<std::uint8_t>(skip.reason);
    RecordSchedule(RecordType::kScheduleSkipped, skipped);
    if (skip.reason == SkipReason::kPaused) continue;
    Warn("", fmt::format("schedule '{}': {} instants from {} to {} did not fire: {}{}",
                         binding.name, skip.count, FormatRfc3339(skip.first),
                         FormatRfc3339(skip.last), SkipReasonName(skip.reason),
                         skip.reason == SkipReason::kOverlap
                             ? " (the one before is not settled by every trigger yet)"
                             : ""));
    RaiseSkipped(binding.name, skip);
  }
}

void Partition::Impl::FireInstant(const ScheduleBinding& binding, WallTime instant,
                                  const ScheduleState& reached) {
  const std::optional<Offset> at =
      AppendFire(binding.name, binding.make_event(instant, wall), true);
  if (!at) return;
  ScheduleRecord fired;
  fired.name = binding.name;
  const std::string encoded = EncodeScheduleState(reached);
  fired.state = encoded;
  fired.first_us = fired.last_us = Micros(instant);
  fired.count = 1;
  fired.offset = *at;
  RecordSchedule(RecordType::kScheduleFired, fired);
}

// Leaves room for the record that says so: both are one batch.
std::optional<Offset> Partition::Impl::AppendFire(std::string_view name, std::string_view bytes,
                                                  bool tracked) {
  EventView view;
  absl::Status valid = ParseEvent(bytes, view);
  if (valid.ok()) valid = ValidateEvent(view, bytes.size(), options.event_limits);
  if (!valid.ok()) {
    Warn("T0307",
         fmt::format("schedule '{}' makes an event that is not valid: {}", name, MessageOf(valid)));
    return std::nullopt;
  }
  EnsureRoom(bytes.size() + 1024);
  EventRecord record;
  (void)MatchEvent(view, name, record, nullptr);
  record.has_lane = true;
  record.tracked = tracked;
  record.from_schedule = true;
  record.lane_source = name;
  record.event = bytes;
  const Offset at = AddEvent(record, view, nullptr, false);
  turn.ingest = true;
  if (record.matches.empty()) CountUnmatched(view, at);
  DropOverBacklog(record);
  return at;
}

void Partition::Impl::Supersede(std::string_view name, std::optional<Offset> newest) {
  for (const std::uint64_t offset : state.OpenFires(name)) {
    if (!newest.has_value() || offset < newest->value()) superseded.insert(Offset(offset));
  }
}

// Deliveries that no queue holds yet (their event is not durable, or was skipped for want of room)
// are dropped when it does.
// Each look goes over all that is tracked: beside much of it, what stays (its trigger may be
// detached for days) is looked at ten times a second.
void Partition::Impl::DropSuperseded() {
  if (state.tracked().size() > kTrackedFew && now < superseded_next) return;
  superseded_next = now + std::chrono::milliseconds(100);
  std::vector<Action>& actions = action_scratch;
  for (auto offset = superseded.begin(); offset != superseded.end();) {
    const std::vector<Match> pending = state.PendingOf(*offset);
    for (const Match& match : pending) {
      Runtime* runtime = RuntimeOf(match.trigger);
      if (runtime == nullptr || runtime->queue == nullptr) continue;
      if (runtime->queue->Withdraw(*offset, "cancel_previous: the next instant fired", now,
                                   actions)) {
        Touch(*runtime);
        RunActions(*runtime, actions);
      }
    }
    offset = pending.empty() ? superseded.erase(offset) : std::next(offset);
  }
}

}  // namespace tocsin
