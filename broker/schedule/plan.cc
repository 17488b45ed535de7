#include <algorithm>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/wire.h"
#include "broker/schedule/schedule.h"

namespace tocsin {
namespace {

using std::chrono::microseconds;

constexpr std::uint8_t kPlainVersion = 1;
constexpr std::uint8_t kWaitingVersion = 2;  // followed by `boot` and `waiting`
constexpr microseconds kTick(1);

WallTime Earlier(WallTime time, Duration by) { return time - std::chrono::ceil<microseconds>(by); }

// (ahead_from, ahead_through] is decided although it lies beyond decided_through.
bool IsAhead(const ScheduleState& state) { return state.ahead_through > state.ahead_from; }

Duration JitterOf(const Schedule& schedule, WallTime instant, WallTime anchor) {
  return schedule.DelayOf(instant, anchor) - schedule.spread();
}

// Plans the instants of (state.decided_through, through].
class Planner {
 public:
  Planner(const Schedule& schedule, const ScheduleState& state, WallTime now, WallTime through,
          bool busy, bool paused, std::size_t fires_max)
      : schedule_(schedule),
        before_(state),
        now_(now),
        through_(through),
        busy_(busy),
        paused_(schedule.paused() || paused),
        fires_max_(fires_max) {
    plan_.state = state;
  }

  // True if fires_max ended the plan before `through`.
  bool Run() {
    const std::optional<WallTime> newest = Last(through_);
    if (newest.has_value()) {
      plan_.state.decided_through = *newest;
      if (paused_) {
        Skip(before_.decided_through, *newest, SkipReason::kPaused);
      } else {
        PlanDue(*newest);
      }
    }
    const bool queues = schedule_.overlap() == OverlapPolicy::kQueueOne ||
                        schedule_.overlap() == OverlapPolicy::kQueueAll;
    if (paused_ || !queues) {
      // Of a policy that was changed, too.
      DropWaiting(paused_ ? SkipReason::kPaused : SkipReason::kOverlap);
    } else {
      Queue();
      return false;
    }
    if (plan_.fires.size() <= fires_max_) return false;
    plan_.fires.resize(fires_max_);
    const WallTime decided = plan_.fires.back();
    plan_.state.decided_through = decided;
    std::erase_if(plan_.skips,
                  [decided](const SkippedRange& skip) { return skip.first > decided; });
    return true;
  }

  // Something that waits may fire when this plan's fire is settled, which it may be at once.
  bool FiredBeforeOthers() const { return !plan_.fires.empty() && !plan_.state.waiting.empty(); }

  FirePlan&& Take() && { return std::move(plan_); }

 private:
  // The newest undecided instant at or before `at`.
  std::optional<WallTime> Last(WallTime at) const {
    const std::optional<WallTime> last = schedule_.LastThrough(at, before_.anchor);
    return last.has_value() && *last > before_.decided_through ? last : std::nullopt;
  }

  void Skip(WallTime after, WallTime through, SkipReason reason) {
    const std::uint64_t count = schedule_.CountBetween(after, through, before_.anchor);
    if (count == 0) return;
    const std::optional<WallTime> first = schedule_.NextAfter(after, before_.anchor);
    const std::optional<WallTime> last = schedule_.LastThrough(through, before_.anchor);
    TOCSIN_CHECK(first.has_value() && last.has_value(), "a schedule counts what it cannot find");
    plan_.skips.push_back({*first, *last, count, reason});
  }

  // Decides the instants of (decided_through, newest].
  void PlanDue(WallTime newest) {
    const bool on_time =
        newest + std::chrono::floor<microseconds>(JitterOf(schedule_, newest, before_.anchor)) >=
        Earlier(now_, kOnTimeMax);
    const std::optional<WallTime> missed =
        on_time ? Last(newest - kTick) : std::optional<WallTime>(newest);
    if (missed.has_value()) PlanMissed(*missed, on_time);
    if (!on_time) return;
    if (busy_ && schedule_.overlap() == OverlapPolicy::kSkip) {
      Skip(newest - kTick, newest, SkipReason::kOverlap);
    } else {
      plan_.fires.push_back(newest);
    }
  }

  void DropWaiting(SkipReason reason) {
    for (const InstantRange& range : std::exchange(plan_.state.waiting, {})) {
      Skip(range.first - kTick, range.last, reason);
    }
  }

  // What is to fire takes its place behind what waits; the first of all fires if nothing runs.
  void Queue() {
    std::vector<InstantRange>& waiting = plan_.state.waiting;
    if (!plan_.fires.empty()) {
      const InstantRange added{plan_.fires.front(), plan_.fires.back()};
      plan_.fires.clear();
      if (!waiting.empty() &&
          schedule_.NextAfter(waiting.back().last, before_.anchor) == added.first) {
        waiting.back().last = added.last;
      } else if (waiting.size() < kWaitingRangesMax) {
        waiting.push_back(added);
      } else {
        Skip(added.first - kTick, added.last, SkipReason::kOverlap);
      }
    }
    if (!busy_) FireFirst();
    if (schedule_.overlap() == OverlapPolicy::kQueueAll || waiting.empty()) return;
    Skip(waiting.front().first, waiting.front().last, SkipReason::kOverlap);
    waiting.front().last = waiting.front().first;
    for (std::size_t i = 1; i < waiting.size(); ++i) {
      Skip(waiting[i].first - kTick, waiting[i].last, SkipReason::kOverlap);
    }
    waiting.resize(1);
  }

  void FireFirst() {
    std::vector<InstantRange>& waiting = plan_.state.waiting;
    while (!waiting.empty()) {
      // Of a schedule that was changed meanwhile, what is no instant any more.
      const std::optional<WallTime> first =
          schedule_.NextAfter(waiting.front().first - kTick, before_.anchor);
      if (!first.has_value() || *first > waiting.front().last) {
        waiting.erase(waiting.begin());
        continue;
      }
      waiting.front().first = *first;
      if (*first > now_) return;  // the clock was set back
      plan_.fires.push_back(*first);
      const std::optional<WallTime> next = schedule_.NextAfter(*first, before_.anchor);
      if (next.has_value() && *next <= waiting.front().last) {
        waiting.front().first = *next;
      } else {
        waiting.erase(waiting.begin());
      }
      return;
    }
  }

  // Decides the instants of (decided_through, newest], all of them missed.
  void PlanMissed(WallTime newest, bool newer_is_on_time) {
    const WallTime decided = before_.decided_through;
    // Instants at or before it are too old to fire.
    const WallTime window =
        std::clamp(Earlier(now_, schedule_.missed_window()) - kTick, decided, newest);
    std::size_t limit = 0;
    switch (schedule_.missed()) {
      case MissedPolicy::kSkip:
        break;
      case MissedPolicy::kLast:
        limit = newer_is_on_time ? 0 : 1;
        break;
      case MissedPolicy::kAll:
        limit = schedule_.missed_max();
        break;
    }
    std::optional<WallTime> instant = newest;
    while (plan_.fires.size() < limit && instant.has_value() && *instant > window) {
      plan_.fires.push_back(*instant);
      instant = Last(*instant - kTick);
    }
    std::reverse(plan_.fires.begin(), plan_.fires.end());

    Skip(decided, window, SkipReason::kMissedWindow);
    const WallTime unfired = plan_.fires.empty() ? newest : plan_.fires.front() - kTick;
    if (unfired > window) {
      const bool all = schedule_.missed() == MissedPolicy::kAll;
      Skip(window, unfired, all ? SkipReason::kMissedMax : SkipReason::kMissedPolicy);
    }
    if (!plan_.skips.empty()) {
      plan_.state.jumped_from = decided;
      plan_.state.jumped_through = unfired;
    }
  }

  const Schedule& schedule_;
  const ScheduleState& before_;
  const WallTime now_;
  const WallTime through_;
  const bool busy_;
  const bool paused_;
  const std::size_t fires_max_;
  FirePlan plan_;
};

// The first instant that `state` leaves undecided.
std::optional<WallTime> NextUndecided(const Schedule& schedule, const ScheduleState& state) {
  std::optional<WallTime> next = schedule.NextAfter(state.decided_through, state.anchor);
  if (next.has_value() && IsAhead(state) && *next > state.ahead_from) {
    next = schedule.NextAfter(std::max(*next - kTick, state.ahead_through), state.anchor);
  }
  return next;
}

// The clock was set back among instants that never fired: they are undecided again.
ScheduleState Rewound(const ScheduleState& state, WallTime now) {
  if (now >= state.decided_through || IsAhead(state)) return state;
  if (now < state.jumped_from || now >= state.jumped_through) return state;
  ScheduleState rewound = state;
  rewound.ahead_from = state.jumped_through;
  rewound.ahead_through = state.decided_through;
  rewound.decided_through = now;
  rewound.jumped_through = now;
  rewound.anchor = std::min(state.anchor, now);
  return rewound;
}

}  // namespace

ScheduleState StartSchedule(WallTime now, Duration spread) {
  // Nothing before the first start has fired: if its clock was ahead, that one is taken back too.
  const WallTime never = std::min(now, WallTime());
  const WallTime decided = Earlier(now, spread);
  ScheduleState state;
  state.anchor = now;
  state.decided_through = decided;
  state.jumped_from = std::min(never, decided);
  state.jumped_through = decided;
  state.ahead_from = decided;
  state.ahead_through = decided;
  return state;
}

ScheduleState StartForBoot(WallTime now, std::uint64_t boot, bool fire) {
  ScheduleState state = StartSchedule(now);
  state.boot = boot;
  if (!fire) state.decided_through = now + kTick;
  return state;
}

std::string EncodeScheduleState(const ScheduleState& state) {
  const bool plain = state.waiting.empty() && state.boot == 0;
  std::string bytes(1, static_cast<char>(plain ? kPlainVersion : kWaitingVersion));
  const auto put = [&bytes](WallTime time) {
    PutU64(bytes, static_cast<std::uint64_t>(time.time_since_epoch().count()));
  };
  for (const WallTime time : {state.anchor, state.decided_through, state.jumped_from,
                              state.jumped_through, state.ahead_from, state.ahead_through}) {
    put(time);
  }
  if (plain) return bytes;
  PutU64(bytes, state.boot);
  PutU64(bytes, state.waiting.size());
  for (const InstantRange& range : state.waiting) {
    put(range.first);
    put(range.last);
  }
  return bytes;
}

absl::StatusOr<ScheduleState> DecodeScheduleState(std::string_view bytes) {
  const std::uint8_t version = bytes.empty() ? 0 : static_cast<std::uint8_t>(bytes[0]);
  if (version != kPlainVersion && version != kWaitingVersion) {
    return absl::DataLossError("a schedule's state has an unknown version");
  }
  WireReader reader(bytes.substr(1));
  ScheduleState state;
  bool whole = true;
  const auto get = [&](WallTime& time) {
    std::uint64_t count = 0;
    whole = whole && reader.ReadU64(count);
    time = WallTime(microseconds(static_cast<std::int64_t>(count)));
  };
  for (WallTime* time : {&state.anchor, &state.decided_through, &state.jumped_from,
                         &state.jumped_through, &state.ahead_from, &state.ahead_through}) {
    get(*time);
  }
  if (version == kWaitingVersion) {
    std::uint64_t ranges = 0;
    whole = whole && reader.ReadU64(state.boot) && reader.ReadU64(ranges);
    if (whole && ranges > kWaitingRangesMax) {
      return absl::DataLossError("a schedule's state has too many ranges that wait");
    }
    for (std::uint64_t i = 0; whole && i < ranges; ++i) {
      InstantRange& range = state.waiting.emplace_back();
      get(range.first);
      get(range.last);
      if (range.last < range.first) {
        return absl::DataLossError("a schedule's state has a range that falls");
      }
    }
    if (whole && state.boot == 0 && ranges == 0) {
      return absl::DataLossError("a schedule's state has a version that it does not need");
    }
  }
  if (!whole) return absl::DataLossError("a schedule's state is too short");
  if (!reader.AtEnd()) return absl::DataLossError("a schedule's state is too long");
  return state;
}

std::string_view SkipReasonName(SkipReason reason) {
  switch (reason) {
    case SkipReason::kMissedWindow:
      return "missed_window";
    case SkipReason::kMissedPolicy:
      return "missed_policy";
    case SkipReason::kMissedMax:
      return "missed_max";
    case SkipReason::kOverlap:
      return "overlap";
    case SkipReason::kPaused:
      return "paused";
  }
  return "unknown";
}

FirePlan PlanFires(const Schedule& schedule, const ScheduleState& state, WallTime now, bool busy,
                   std::size_t fires_max, bool paused) {
  TOCSIN_CHECK(fires_max > 0);
  // All below in nominal time, which the spread shifts as a whole.
  const WallTime nominal_now = now - schedule.spread();
  const ScheduleState start = Rewound(state, nominal_now);
  const bool reaches_ahead = IsAhead(start) && nominal_now >= start.ahead_from;
  WallTime through = reaches_ahead ? start.ahead_from : nominal_now;
  bool held_back = false;
  if (schedule.has_jitter()) {
    const std::optional<WallTime> newest = schedule.LastThrough(through, start.anchor);
    held_back = newest.has_value() && *newest > start.decided_through &&
                *newest + JitterOf(schedule, *newest, start.anchor) > nominal_now;
    if (held_back) through = *newest - kTick;
  }
  Planner planner(schedule, start, nominal_now, through, busy, paused, fires_max);
  const bool cut = planner.Run();
  const bool more_waits = planner.FiredBeforeOthers();
  FirePlan plan = std::move(planner).Take();
  if (reaches_ahead && !held_back && !cut) {
    plan.state.decided_through = std::max(plan.state.decided_through, start.ahead_through);
    plan.state.ahead_from = start.ahead_through;
  }
  plan.next = NextUndecided(schedule, plan.state);
  if (plan.next.has_value()) {
    plan.next = *plan.next +
                std::chrono::floor<microseconds>(schedule.DelayOf(*plan.next, plan.state.anchor));
  }
  const std::vector<InstantRange>& waiting = plan.state.waiting;
  if (!busy && !waiting.empty()) {
    const WallTime due = more_waits ? now : waiting.front().first + schedule.spread();
    plan.next = std::min(plan.next.value_or(due), due);
  }
  return plan;
}

}  // namespace tocsin
