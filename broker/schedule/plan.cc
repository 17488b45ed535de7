#include <algorithm>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/wire.h"
#include "broker/schedule/schedule.h"

namespace tocsin {
namespace {

using std::chrono::microseconds;

constexpr std::uint8_t kStateVersion = 1;
constexpr microseconds kTick(1);

WallTime Earlier(WallTime time, Duration by) { return time - std::chrono::ceil<microseconds>(by); }

// (ahead_from, ahead_through] is decided although it lies beyond decided_through.
bool IsAhead(const ScheduleState& state) { return state.ahead_through > state.ahead_from; }

// Plans the instants of (state.decided_through, through].
class Planner {
 public:
  Planner(const Schedule& schedule, const ScheduleState& state, WallTime now, WallTime through,
          bool busy, std::size_t fires_max)
      : schedule_(schedule),
        before_(state),
        now_(now),
        through_(through),
        busy_(busy),
        fires_max_(fires_max) {
    plan_.state = state;
  }

  // True if fires_max ended the plan before `through`.
  bool Run() {
    const std::optional<WallTime> newest = Last(through_);
    if (!newest.has_value()) return false;
    plan_.state.decided_through = *newest;
    if (schedule_.paused()) {
      Skip(before_.decided_through, *newest, SkipReason::kPaused);
      return false;
    }
    const bool on_time = *newest >= Earlier(now_, kOnTimeMax);
    const std::optional<WallTime> missed = on_time ? Last(*newest - kTick) : newest;
    if (missed.has_value()) PlanMissed(*missed, on_time);
    if (on_time && busy_) {
      Skip(*newest - kTick, *newest, SkipReason::kOverlap);
    } else if (on_time) {
      plan_.fires.push_back(*newest);
    }
    if (plan_.fires.size() <= fires_max_) return false;
    plan_.fires.resize(fires_max_);
    const WallTime decided = plan_.fires.back();
    plan_.state.decided_through = decided;
    std::erase_if(plan_.skips,
                  [decided](const SkippedRange& skip) { return skip.first > decided; });
    return true;
  }

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

ScheduleState StartSchedule(WallTime now) {
  // Nothing before the first start has fired: if its clock was ahead, that one is taken back too.
  const WallTime never = std::min(now, WallTime());
  return {now, now, never, now, now, now};
}

std::string EncodeScheduleState(const ScheduleState& state) {
  std::string bytes(1, static_cast<char>(kStateVersion));
  for (const WallTime time : {state.anchor, state.decided_through, state.jumped_from,
                              state.jumped_through, state.ahead_from, state.ahead_through}) {
    PutU64(bytes, static_cast<std::uint64_t>(time.time_since_epoch().count()));
  }
  return bytes;
}

absl::StatusOr<ScheduleState> DecodeScheduleState(std::string_view bytes) {
  if (bytes.empty() || static_cast<std::uint8_t>(bytes[0]) != kStateVersion) {
    return absl::DataLossError("a schedule's state has an unknown version");
  }
  WireReader reader(bytes.substr(1));
  ScheduleState state;
  for (WallTime* time : {&state.anchor, &state.decided_through, &state.jumped_from,
                         &state.jumped_through, &state.ahead_from, &state.ahead_through}) {
    std::uint64_t count = 0;
    if (!reader.ReadU64(count)) return absl::DataLossError("a schedule's state is too short");
    *time = WallTime(microseconds(static_cast<std::int64_t>(count)));
  }
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
                   std::size_t fires_max) {
  TOCSIN_CHECK(fires_max > 0);
  const ScheduleState start = Rewound(state, now);
  const bool reaches_ahead = IsAhead(start) && now >= start.ahead_from;
  const WallTime through = reaches_ahead ? start.ahead_from : now;
  Planner planner(schedule, start, now, through, busy, fires_max);
  const bool cut = planner.Run();
  FirePlan plan = std::move(planner).Take();
  if (reaches_ahead && !cut) {
    plan.state.decided_through = std::max(plan.state.decided_through, start.ahead_through);
    plan.state.ahead_from = start.ahead_through;
  }
  plan.next = NextUndecided(schedule, plan.state);
  return plan;
}

}  // namespace tocsin
