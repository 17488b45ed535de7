// Schedules by command: added, paused, resumed, removed, fired, backfilled, shown; and the events
// that tell of schedules which fail or fall behind.

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "broker/base/check.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/journal/record.h"
#include "broker/partition/partition_impl.h"
#include "broker/schedule/rule.h"

namespace tocsin {
namespace {

constexpr std::chrono::microseconds kTick(1);
constexpr std::size_t kShownOfDryRun = 1000;

absl::Status NoSuchSchedule(std::string_view name) {
  return absl::NotFoundError(fmt::format("T0337: there is no schedule '{}'", name));
}

std::string Quoted(std::string_view text) {
  std::string out;
  AppendJsonString(out, text);
  return out;
}

// The instant of a fire by command is in the event's id: none at which the schedule fires itself.
std::int64_t FreeInstant(const Schedule& schedule, const ScheduleState& state, std::int64_t at_us) {
  while (schedule.NextAfter(FromMicros(at_us - 1), state.anchor) == FromMicros(at_us)) ++at_us;
  return at_us;
}

}  // namespace

absl::Status Partition::Impl::RoomForSchedules(std::size_t bytes) const {
  if (stalled || resubmitted || closing || !ports.journal.HasRoomForIngest() ||
      ports.journal.log_bytes() >= options.retention_bytes) {
    return absl::ResourceExhaustedError(
        "the broker takes nothing now: its disk or `retention.size` is full, or it is stopping");
  }
  if (state.dynamic().bytes() + bytes > options.schedule_bytes_max) {
    return absl::ResourceExhaustedError(fmt::format(
        "T0338: schedules and delayed events take {} on partition {}, which is all they "
        "may: remove some, or wait until they have fired",
        FormatBytes(state.dynamic().bytes()), options.id.value()));
  }
  return absl::OkStatus();
}

std::optional<std::size_t> Partition::Impl::ConfiguredSchedule(std::string_view name) const {
  const auto found = schedule_numbers.find(std::string(name));
  return found == schedule_numbers.end() ? std::nullopt : std::optional(found->second);
}

absl::Status Partition::Impl::AddSchedule(const NewSchedule& schedule) {
  ScheduleTable& table = state.dynamic();
  if (ConfiguredSchedule(schedule.name)) {
    return absl::AlreadyExistsError(fmt::format(
        "T0336: '{}' is a source of the configuration: choose another name", schedule.name));
  }
  if (table.Find(schedule.name) && !schedule.replace) {
    return absl::AlreadyExistsError(fmt::format(
        "T0336: there is a schedule '{}': choose another name, or replace it", schedule.name));
  }
  const std::size_t bytes = schedule.name.size() + schedule.rule.size() + schedule.head.size() +
                            schedule.data.size() + 256;
  TOCSIN_RETURN_IF_ERROR(RoomForSchedules(bytes));
  DynamicSetRecord record;
  record.name = schedule.name;
  record.paused = schedule.paused;
  record.text_data = schedule.text_data;
  record.rule = schedule.rule;
  record.head = schedule.head;
  record.data = schedule.data;
  record.at_us = Micros(schedule.at.value_or(wall));
  if (!schedule.at) {
    TOCSIN_ASSIGN_OR_RETURN(ScheduleSpec spec, DecodeRule(schedule.rule));
    spec.name = schedule.name;
    TOCSIN_ASSIGN_OR_RETURN(const std::shared_ptr<const Schedule> parsed, Schedule::Parse(spec));
    record.decided_us = Micros(StartSchedule(wall, parsed->spread()).decided_through);
  }
  EnsureRoom(bytes);
  if (const auto known = table.Find(schedule.name)) ArmDynamic(*known, std::nullopt);
  std::string body;
  EncodeDynamicSet(record, body);
  AddAndApply(RecordType::kDynamicSet, body);
  turn.ingest = true;
  const auto id = table.Find(schedule.name);
  TOCSIN_CHECK(id.has_value());
  if (schedule.paused) return absl::OkStatus();
  if (schedule.at) {
    ArmDynamic(*id, *schedule.at);
  } else {
    (void)PlanRecurring(*id, 1, false);
  }
  return absl::OkStatus();
}

void Partition::AddSchedules(const std::vector<NewSchedule>& schedules, SchedulesAdded done) {
  Impl& impl = *impl_;
  std::vector<absl::Status> results;
  results.reserve(schedules.size());
  const absl::Status usable = impl.Writable();
  impl.BeginIfNeeded();
  for (const NewSchedule& schedule : schedules) {
    results.push_back(usable.ok() ? impl.AddSchedule(schedule) : usable);
  }
  if (!usable.ok()) return done(std::move(results));
  auto answer = [done = std::move(done),
                 results = std::move(results)](const absl::Status& status) mutable {
    for (absl::Status& result : results) {
      if (result.ok()) result = status;
    }
    done(std::move(results));
  };
  impl.WhenDurable(std::move(answer), true);
}

absl::Status Partition::Impl::ControlConfigured(std::size_t index, ScheduleAction action) {
  ScheduleRuntime& runtime = schedules[index];
  const ScheduleBinding& binding = plan->schedules[runtime.binding];
  if (action == ScheduleAction::kRemove) {
    return absl::FailedPreconditionError(fmt::format(
        "T0343: '{}' is a source of the configuration: remove it there and reload", binding.name));
  }
  TOCSIN_RETURN_IF_ERROR(RoomForSchedules(0));
  if (action == ScheduleAction::kFire) {
    last_command_us =
        FreeInstant(*binding.schedule, runtime.state, std::max(last_command_us + 1, Micros(wall)));
    FireInstant(binding, FromMicros(last_command_us), runtime.state);
    return absl::OkStatus();
  }
  const bool pause = action == ScheduleAction::kPause;
  if (runtime.paused == pause) return absl::OkStatus();
  if (!pause) {
    // What has passed meanwhile does not fire, and that is recorded.
    const FirePlan fire = PlanFires(*binding.schedule, runtime.state, wall, false, 1, true);
    RecordSkips(index, fire);
    runtime.state = fire.state;
  }
  EnsureRoom(512);
  ScheduleRecord record;
  record.name = binding.name;
  const std::string encoded = EncodeScheduleState(runtime.state);
  record.state = encoded;
  record.reason = pause ? kSchedulePause : kScheduleResume;
  RecordSchedule(RecordType::kScheduleSet, record);
  runtime.paused = pause;
  PlanScheduleAt(index, wall);
  return absl::OkStatus();
}

absl::Status Partition::Impl::ControlDynamic(ScheduleTable::Id id, ScheduleAction action) {
  ScheduleTable& table = state.dynamic();
  const std::string name(table.NameOf(id));
  const bool once = !table.IsRecurring(id);
  if (action != ScheduleAction::kRemove) TOCSIN_RETURN_IF_ERROR(RoomForSchedules(0));
  DynamicSetRecord record;
  record.name = name;
  switch (action) {
    case ScheduleAction::kRemove: {
      record.what = DynamicChange::kRemoved;
      ArmDynamic(id, std::nullopt);
      overdue_told.erase(name);
      break;
    }
    case ScheduleAction::kFire: {
      if (once) {
        FireOnce(id);
        return absl::OkStatus();
      }
      const auto schedule = table.ScheduleOf(id);
      if (!schedule.ok()) return schedule.status();
      TOCSIN_ASSIGN_OR_RETURN(const ScheduleState reached, table.StateOf(id, **schedule));
      last_command_us =
          FreeInstant(**schedule, reached, std::max(last_command_us + 1, Micros(wall)));
      const WallTime instant = FromMicros(last_command_us);
      const std::optional<Offset> at = AppendFire(name, DynamicEvent(id, instant), true);
      if (!at) return absl::InvalidArgumentError(fmt::format("'{}' makes no valid event", name));
      const std::string encoded = EncodeScheduleState(reached);
      DynamicFiredRecord fired;
      fired.name = name;
      fired.instant_us = last_command_us;
      fired.offset = *at;
      fired.decided_us = Micros(reached.decided_through);
      fired.state = encoded;
      std::string body;
      EncodeDynamicFired(fired, body);
      AddAndApply(RecordType::kDynamicFired, body);
      return absl::OkStatus();
    }
    case ScheduleAction::kPause:
      if (table.IsPaused(id)) return absl::OkStatus();
      record.what = DynamicChange::kPaused;
      ArmDynamic(id, std::nullopt);
      break;
    case ScheduleAction::kResume:
      if (!table.IsPaused(id)) return absl::OkStatus();
      if (once && table.AtOf(id) <= Micros(wall)) {
        return absl::FailedPreconditionError(
            fmt::format("the time of '{0}' passed while it was paused: `tocsin schedule fire {0}` "
                        "fires it now, `tocsin schedule remove {0}` discards it",
                        name));
      }
      // What has passed meanwhile does not fire, and that is recorded.
      if (!once) (void)PlanRecurring(id, 1, true);
      record.what = DynamicChange::kResumed;
      break;
  }
  std::string encoded;
  if (record.what == DynamicChange::kResumed && !once) {
    const auto schedule = table.ScheduleOf(id);
    if (!schedule.ok()) return schedule.status();
    TOCSIN_ASSIGN_OR_RETURN(const ScheduleState reached, table.StateOf(id, **schedule));
    encoded = EncodeScheduleState(reached);
    record.decided_us = Micros(reached.decided_through);
    record.state = encoded;
  }
  EnsureRoom(768);
  std::string body;
  EncodeDynamicSet(record, body);
  AddAndApply(RecordType::kDynamicSet, body);
  if (record.what == DynamicChange::kResumed) {
    if (once) {
      ArmDynamic(id, FromMicros(table.AtOf(id)));
    } else {
      (void)PlanRecurring(id, 1, false);
    }
  }
  if (record.what != DynamicChange::kRemoved) return absl::OkStatus();
  const bool shadowed =
      std::any_of(plan->schedules.begin(), plan->schedules.end(),
                  [&name](const ScheduleBinding& binding) { return binding.name == name; });
  if (shadowed) LoadSchedules();
  return absl::OkStatus();
}

void Partition::ControlSchedule(const std::string& name, ScheduleAction action,
                                absl::AnyInvocable<void(absl::StatusOr<ScheduleInfo>)> done) {
  Impl& impl = *impl_;
  if (const absl::Status usable = impl.Writable(); !usable.ok()) return done(usable);
  impl.BeginIfNeeded();
  absl::StatusOr<ScheduleInfo> before = DescribeSchedule(name);
  if (!before.ok()) return done(before.status());
  const auto configured = impl.ConfiguredSchedule(name);
  const absl::Status status = configured
                                  ? impl.ControlConfigured(*configured, action)
                                  : impl.ControlDynamic(*impl.state.dynamic().Find(name), action);
  if (!status.ok()) return done(status);
  absl::StatusOr<ScheduleInfo> after = DescribeSchedule(name);  // of one that is gone: as it was
  auto answer = [done = std::move(done), info = after.ok() ? std::move(after) : before](
                    const absl::Status& durable) mutable {
    if (!durable.ok()) return done(durable);
    done(std::move(info));
  };
  impl.WhenDurable(std::move(answer), true);
}

ScheduleInfo Partition::Impl::Describe(ScheduleTable::Id id) const {
  const ScheduleTable& table = state.dynamic();
  ScheduleInfo info;
  info.delayed = table.IsDelayed(id);
  info.paused = table.IsPaused(id);
  if (info.delayed) {
    info.head = std::string(table.DataOf(id));
    EventView view;
    if (ParseEvent(info.head, view).ok()) info.name = fmt::format("{} {}", view.source, view.id);
  } else {
    info.name = std::string(table.NameOf(id));
    info.head = table.HeadOf(id);
    info.data = std::string(table.DataOf(id));
    info.text_data = table.IsTextData(id);
  }
  if (table.IsRecurring(id)) {
    const absl::StatusOr<ScheduleSpec> spec = DecodeRule(table.RuleOf(id));
    if (spec.ok()) info.spec = *spec;
    info.busy = state.ScheduleBusy(info.name);
  } else {
    info.at = FromMicros(table.AtOf(id));
  }
  info.spec.name = info.name;
  if (wheel) info.next = wheel->ArmedFor(id);
  info.fired = table.FiredOf(id);
  info.skipped = table.SkippedOf(id);
  return info;
}

ScheduleInfo Partition::Impl::DescribeConfigured(std::size_t index) const {
  const ScheduleRuntime& runtime = schedules[index];
  const ScheduleBinding& binding = plan->schedules[runtime.binding];
  ScheduleInfo info;
  info.name = binding.name;
  info.configured = true;
  info.spec = binding.spec;
  info.next = runtime.next;
  info.head = binding.make_event(wall, wall);
  const auto known = state.schedules().find(binding.name);
  if (known != state.schedules().end()) {
    info.fired = known->second.fired;
    info.skipped = known->second.skipped;
  }
  info.busy = state.ScheduleBusy(binding.name);
  info.paused = runtime.paused || binding.schedule->paused();
  return info;
}

absl::StatusOr<ScheduleInfo> Partition::DescribeSchedule(const std::string& name) const {
  TOCSIN_RETURN_IF_ERROR(impl_->Usable());
  if (const auto configured = impl_->ConfiguredSchedule(name)) {
    return impl_->DescribeConfigured(*configured);
  }
  const auto id = IsDelayedName(name) ? std::nullopt : impl_->state.dynamic().Find(name);
  if (!id) return NoSuchSchedule(name);
  return impl_->Describe(*id);
}

SchedulePage Partition::ListSchedules(std::uint32_t from, std::size_t schedules_max,
                                      bool delayed) const {
  const ScheduleTable& table = impl_->state.dynamic();
  SchedulePage page;
  if (from == 0 && !delayed) {
    for (std::size_t i = 0; i < impl_->schedules.size(); ++i) {
      page.schedules.push_back(impl_->DescribeConfigured(i));
    }
  }
  page.next = from;
  // Empty places are looked at, too: a step stays short.
  const std::uint64_t last = std::uint64_t{from} + 16 * schedules_max;
  while (page.next < table.end() && page.next < last && page.schedules.size() < schedules_max) {
    const ScheduleTable::Id id = page.next++;
    if (table.Has(id) && table.IsDelayed(id) == delayed) {
      page.schedules.push_back(impl_->Describe(id));
    }
  }
  page.end = page.next >= table.end();
  return page;
}

absl::StatusOr<BackfillStep> Partition::Impl::Backfill(const std::string& name, WallTime from,
                                                       WallTime to, std::size_t instants_max,
                                                       bool dry_run) {
  ScheduleTable& table = state.dynamic();
  const auto configured = ConfiguredSchedule(name);
  const auto id = configured || IsDelayedName(name) ? std::nullopt : table.Find(name);
  if (!configured && !id) return NoSuchSchedule(name);
  if (id && !table.IsRecurring(*id)) {
    return absl::InvalidArgumentError(
        fmt::format("T0342: '{}' fires once: there is nothing to backfill", name));
  }
  std::shared_ptr<const Schedule> schedule;
  ScheduleState reached;
  UnfiredRanges unfired{WallTime()};
  if (configured) {
    const ScheduleRuntime& runtime = schedules[*configured];
    schedule = plan->schedules[runtime.binding].schedule;
    reached = runtime.state;
    const auto known = state.schedules().find(name);
    if (known != state.schedules().end()) unfired = known->second.Unfired();
  } else {
    TOCSIN_ASSIGN_OR_RETURN(schedule, table.ScheduleOf(*id));
    TOCSIN_ASSIGN_OR_RETURN(reached, table.StateOf(*id, *schedule));
    unfired = table.UnfiredOf(*id);
  }
  if (schedule->at_boot()) {
    return absl::InvalidArgumentError(
        fmt::format("T0342: '{}' fires when the machine starts: it has no instants", name));
  }
  if (!dry_run) TOCSIN_RETURN_IF_ERROR(RoomForSchedules(0));
  from = std::max(from, WallTime(kTick));
  // What is not decided yet fires by itself.
  to = std::min({to, wall, reached.decided_through});
  const WallTime anchor =
      schedule->counts_from_anchor() ? reached.anchor : std::min(reached.anchor, from - kTick);
  BackfillStep step;
  step.next = to + kTick;
  step.end = true;
  for (const InstantRange& range : unfired.ranges()) {
    const WallTime begin = std::max(range.first, from);
    const WallTime end = std::min(range.last, to);
    if (begin > end) continue;
    if (dry_run) step.count += schedule->CountBetween(begin - kTick, end, anchor);
    const std::size_t most = dry_run ? kShownOfDryRun : instants_max;
    for (WallTime after = begin - kTick;;) {
      const std::optional<WallTime> instant = schedule->NextAfter(after, anchor);
      if (!instant || *instant > end) break;
      if (step.instants.size() >= most) {
        step.next = after + kTick;
        step.end = false;
        break;
      }
      step.instants.push_back(*instant);
      after = *instant;
    }
    if (!step.end && !dry_run) break;
  }
  if (dry_run) {
    step.end = true;
    return step;
  }
  step.count = step.instants.size();
  WallTime first = from;
  for (const WallTime instant : step.instants) {
    if (configured) {
      const ScheduleBinding& binding = plan->schedules[schedules[*configured].binding];
      const auto at = AppendFire(name, binding.make_event(instant, wall), true);
      if (!at) return absl::InvalidArgumentError(fmt::format("'{}' makes no valid event", name));
      ScheduleRecord fired;
      fired.name = name;
      const std::string encoded = EncodeScheduleState(reached);
      fired.state = encoded;
      fired.first_us = Micros(first);
      fired.last_us = Micros(instant);
      fired.count = 1;
      fired.reason = kScheduleBackfill;
      fired.offset = *at;
      RecordSchedule(RecordType::kScheduleFired, fired);
    } else {
      const auto at = AppendFire(name, DynamicEvent(*id, instant), true);
      if (!at) return absl::InvalidArgumentError(fmt::format("'{}' makes no valid event", name));
      DynamicFiredRecord fired;
      fired.name = name;
      fired.instant_us = Micros(instant);
      fired.offset = *at;
      fired.backfill = true;
      fired.first_us = Micros(first);
      std::string body;
      EncodeDynamicFired(fired, body);
      AddAndApply(RecordType::kDynamicFired, body);
    }
    first = instant + kTick;
  }
  return step;
}

void Partition::Backfill(const std::string& name, WallTime from, WallTime to,
                         std::size_t instants_max, bool dry_run,
                         absl::AnyInvocable<void(absl::StatusOr<BackfillStep>)> done) {
  const absl::Status usable = dry_run ? impl_->Usable() : impl_->Writable();
  if (!usable.ok()) return done(usable);
  impl_->BeginIfNeeded();
  absl::StatusOr<BackfillStep> step = impl_->Backfill(name, from, to, instants_max, dry_run);
  if (!step.ok() || dry_run) return done(std::move(step));
  auto answer = [done = std::move(done),
                 step = std::move(step)](const absl::Status& status) mutable {
    if (!status.ok()) return done(status);
    done(std::move(step));
  };
  impl_->WhenDurable(std::move(answer), true);
}

// Nobody asked for it if no trigger with a condition matches it: it is not even stored.
void Partition::Impl::RaiseScheduleEvent(std::string_view name, std::string_view what,
                                         std::string_view key, std::string_view data) {
  const bool no_triggers =
      plan == nullptr || plan->table == nullptr || (plan->triggers.empty() && overlay == nullptr);
  if (no_triggers || !SchedulesRun()) return;
  EventBuilder builder(fmt::format("{}/{}/{}", name, what, key), ScheduleSource(name),
                       fmt::format("dev.tocsin.schedule.{}", what));
  const auto seconds = std::chrono::floor<std::chrono::seconds>(wall);
  builder.Timestamp("time", seconds.time_since_epoch().count(),
                    static_cast<std::int32_t>((wall - seconds) / std::chrono::nanoseconds(1)));
  builder.Attribute("subject", name);
  builder.Attribute("datacontenttype", "application/json");
  builder.TextData(data);
  const std::string bytes = std::move(builder).Encode();
  EventView view;
  EventRecord record;
  if (!ParseEvent(bytes, view).ok()) return;
  EnsureRoom(bytes.size() + 512);
  (void)MatchEvent(view, "", record, nullptr);
  // Who takes everything asked for none of these.
  const auto asked = [this](const Match& match) {
    const Runtime* runtime = RuntimeOf(match.trigger);
    if (runtime == nullptr) return false;
    const RouteSpec& route = RouteOf(runtime->route);
    return !route.sources.empty() || route.filter != nullptr || route.pattern != nullptr;
  };
  record.matches.erase(
      std::remove_if(record.matches.begin(), record.matches.end(), std::not_fn(asked)),
      record.matches.end());
  if (record.matches.empty()) return;
  record.event = bytes;
  (void)AddEvent(record, view, nullptr, false);
  turn.ingest = true;
  DropOverBacklog(record);
}

void Partition::Impl::RaiseSkipped(std::string_view name, const SkippedRange& skip) {
  if (skip.reason == SkipReason::kPaused) return;
  const std::string first = FormatRfc3339(skip.first);
  RaiseScheduleEvent(name, "skipped", first,
                     fmt::format("{{\"schedule\":{},\"first\":\"{}\",\"last\":\"{}\",\"count\":{},"
                                 "\"reason\":\"{}\"}}",
                                 Quoted(name), first, FormatRfc3339(skip.last), skip.count,
                                 SkipReasonName(skip.reason)));
}

// Two ways to be behind: what fires is late; or the next instant has come, and a run before it is
// not settled yet.
void Partition::Impl::RaiseOverdue(const std::string& name, const FirePlan& fire, Duration delay,
                                   bool busy) {
  if (!fire.fires.empty() && wall - fire.fires.front() - delay > kOnTimeMax && !busy) {
    const std::string first = FormatRfc3339(fire.fires.front());
    const auto late =
        std::chrono::duration_cast<std::chrono::milliseconds>(wall - fire.fires.front() - delay);
    RaiseScheduleEvent(name, "overdue", first,
                       fmt::format("{{\"schedule\":{},\"reason\":\"late\",\"first\":\"{}\","
                                   "\"last\":\"{}\",\"count\":{},\"late_ms\":{}}}",
                                   Quoted(name), first, FormatRfc3339(fire.fires.back()),
                                   fire.fires.size(), late.count()));
  }
  if (!busy || (fire.fires.empty() && fire.skips.empty())) return;
  const std::set<std::uint64_t> unsettled = state.OpenFires(name);
  if (unsettled.empty()) return;
  const auto run = state.tracked().find(*unsettled.begin());
  if (run == state.tracked().end()) return;
  std::uint64_t& told = overdue_told[name];
  if (told == run->first + 1) return;
  told = run->first + 1;
  const std::string event_id = run->second.event_id;
  RaiseScheduleEvent(name, "overdue", event_id,
                     fmt::format("{{\"schedule\":{},\"reason\":\"unsettled\",\"event\":{},"
                                 "\"offset\":\"{}/{}\",\"pending\":{}}}",
                                 Quoted(name), Quoted(event_id), options.id.value(), run->first,
                                 run->second.remaining));
}

void Partition::Impl::RaiseFailed(std::string_view name, std::string_view event_id,
                                  std::string_view trigger, const Letter& letter) {
  RaiseScheduleEvent(
      name, "failed", fmt::format("{}/{}", event_id, trigger),
      fmt::format("{{\"schedule\":{},\"event\":{},\"trigger\":{},\"letter\":\"{}\","
                  "\"reason\":\"{}\",\"attempts\":{},\"message\":{}}}",
                  Quoted(name), Quoted(event_id), Quoted(trigger), FormatDeliveryId(letter.id),
                  LetterReasonName(letter.reason), letter.attempts, Quoted(letter.message)));
}

}  // namespace tocsin
