#include "broker/schedule/schedule.h"

#include <algorithm>
#include <utility>

#include "broker/base/hash.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/schedule/cron.h"
#include "broker/schedule/time_zone.h"

namespace tocsin {
namespace {

using std::chrono::microseconds;

constexpr Duration kEveryMin = std::chrono::milliseconds(100);
constexpr Duration kEveryMax = std::chrono::hours(24) * 36'525;
constexpr Duration kWindowMax = std::chrono::hours(24) * 3'653;
constexpr std::uint32_t kMissedMaxMax = 10'000;
constexpr Duration kDelayMax = std::chrono::hours(24);
constexpr std::int64_t kSpreadStepUs = 1000;

// Whole seconds at or before `time`.
std::int64_t FloorSeconds(WallTime time) {
  return std::chrono::floor<std::chrono::seconds>(time).time_since_epoch().count();
}
WallTime FromSeconds(std::int64_t seconds) {
  return WallTime(std::chrono::duration_cast<microseconds>(std::chrono::seconds(seconds)));
}

WallTime Horizon() {
  const std::chrono::year_month_day end(std::chrono::year(kScheduleLastYear + 1),
                                        std::chrono::month(1), std::chrono::day(1));
  return WallTime(std::chrono::sys_days(end));
}

class CronSchedule final : public Schedule {
 public:
  CronSchedule(const ScheduleSpec& spec, CronExpression cron, TimeZone zone)
      : Schedule(spec),
        cron_(std::move(cron)),
        zone_(zone),
        gap_(spec.dst_gap),
        overlap_(spec.dst_overlap) {}

 private:
  std::optional<WallTime> Next(WallTime after, WallTime /*anchor*/) const override {
    const std::int64_t horizon = FloorSeconds(Horizon());
    std::int64_t second = std::max<std::int64_t>(FloorSeconds(after) + 1, 0);
    while (second < horizon) {
      const ZonePeriod period = zone_.PeriodAt(second);
      if (second == period.begin && FiresAtGapEnd(period)) return FromSeconds(second);
      const std::int64_t from = std::max(second + period.offset, LocalBegin(period));
      const std::optional<std::int64_t> local = cron_.Next(from, period.end + period.offset);
      if (local.has_value()) return FromSeconds(*local - period.offset);
      second = period.end;
    }
    return std::nullopt;
  }

  std::optional<WallTime> Last(WallTime at, WallTime anchor) const override {
    std::int64_t second = std::min(FloorSeconds(at), FloorSeconds(Horizon()) - 1);
    const std::int64_t first = std::max<std::int64_t>(FloorSeconds(anchor) + 1, 0);
    while (second >= first) {
      const ZonePeriod period = zone_.PeriodAt(second);
      const std::optional<std::int64_t> local =
          cron_.Last(std::max(LocalBegin(period), first + period.offset), second + period.offset);
      if (local.has_value()) return FromSeconds(*local - period.offset);
      if (period.begin >= first && FiresAtGapEnd(period)) return FromSeconds(period.begin);
      second = period.begin - 1;
    }
    return std::nullopt;
  }

  std::uint64_t Count(WallTime after, WallTime through, WallTime /*anchor*/) const override {
    std::int64_t second = std::max<std::int64_t>(FloorSeconds(after) + 1, 0);
    const std::int64_t end = std::min(FloorSeconds(through) + 1, FloorSeconds(Horizon()));
    std::uint64_t count = 0;
    while (second < end) {
      const ZonePeriod period = zone_.PeriodAt(second);
      const std::int64_t begin_local = std::max(second + period.offset, LocalBegin(period));
      count += cron_.Count(begin_local, std::min(end, period.end) + period.offset);
      if (second == period.begin && FiresAtGapEnd(period) &&
          cron_.Count(second + period.offset, second + period.offset + 1) == 0) {
        ++count;
      }
      second = period.end;
    }
    return count;
  }

  // Where the period's local times begin that are not repeats of the period before.
  std::int64_t LocalBegin(const ZonePeriod& period) const {
    const bool once =
        period.BeginsWithOverlap() && overlap_ == DstOverlap::kFirst && !cron_.interval();
    return period.begin + (once ? period.offset_before : period.offset);
  }

  // A fixed time lies in the gap before this period.
  bool FiresAtGapEnd(const ZonePeriod& period) const {
    return period.BeginsWithGap() && gap_ == DstGap::kNext && !cron_.every_hour() &&
           cron_.Next(period.begin + period.offset_before, period.begin + period.offset)
               .has_value();
  }

  CronExpression cron_;
  TimeZone zone_;
  DstGap gap_;
  DstOverlap overlap_;
};

class EverySchedule final : public Schedule {
 public:
  EverySchedule(const ScheduleSpec& spec, microseconds period) : Schedule(spec), period_(period) {}

  bool counts_from_anchor() const override { return true; }

 private:
  std::optional<WallTime> Next(WallTime after, WallTime anchor) const override {
    const WallTime next = anchor + ((after - anchor) / period_ + 1) * period_;
    if (next >= Horizon()) return std::nullopt;
    return next;
  }

  std::optional<WallTime> Last(WallTime at, WallTime anchor) const override {
    const std::int64_t periods = (std::min(at, Horizon() - microseconds(1)) - anchor) / period_;
    if (periods < 1) return std::nullopt;
    return anchor + periods * period_;
  }

  std::uint64_t Count(WallTime after, WallTime through, WallTime anchor) const override {
    through = std::min(through, Horizon() - microseconds(1));
    if (through <= after) return 0;
    return static_cast<std::uint64_t>((through - anchor) / period_ - (after - anchor) / period_);
  }

  microseconds period_;
};

class AtSchedule final : public Schedule {
 public:
  AtSchedule(const ScheduleSpec& spec, WallTime instant) : Schedule(spec), instant_(instant) {}

 private:
  std::optional<WallTime> Next(WallTime after, WallTime /*anchor*/) const override {
    return instant_ > after ? std::optional<WallTime>(instant_) : std::nullopt;
  }
  std::optional<WallTime> Last(WallTime at, WallTime /*anchor*/) const override {
    return instant_ <= at ? std::optional<WallTime>(instant_) : std::nullopt;
  }
  std::uint64_t Count(WallTime after, WallTime through, WallTime /*anchor*/) const override {
    return instant_ > after && instant_ <= through ? 1 : 0;
  }

  WallTime instant_;
};

class RebootSchedule final : public Schedule {
 public:
  explicit RebootSchedule(const ScheduleSpec& spec) : Schedule(spec) {}

  bool at_boot() const override { return true; }

 private:
  static WallTime InstantOf(WallTime anchor) { return anchor + microseconds(1); }

  std::optional<WallTime> Next(WallTime after, WallTime anchor) const override {
    return after < InstantOf(anchor) ? std::optional<WallTime>(InstantOf(anchor)) : std::nullopt;
  }
  std::optional<WallTime> Last(WallTime at, WallTime anchor) const override {
    return at >= InstantOf(anchor) ? std::optional<WallTime>(InstantOf(anchor)) : std::nullopt;
  }
  std::uint64_t Count(WallTime after, WallTime through, WallTime anchor) const override {
    return after < InstantOf(anchor) && InstantOf(anchor) <= through ? 1 : 0;
  }
};

std::string_view Trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// The cron expression of a macro; empty if there is none of that name.
std::string_view MacroExpression(std::string_view name) {
  constexpr std::pair<std::string_view, std::string_view> kMacros[] = {
      {"@every_second", "* * * * * *"}, {"@every_minute", "* * * * *"}, {"@hourly", "0 * * * *"},
      {"@daily", "0 0 * * *"},          {"@midnight", "0 0 * * *"},     {"@weekly", "0 0 * * 0"},
      {"@monthly", "0 0 1 * *"},        {"@yearly", "0 0 1 1 *"},       {"@annually", "0 0 1 1 *"},
  };
  const auto same = [name](const auto& macro) {
    return std::equal(macro.first.begin(), macro.first.end(), name.begin(), name.end(),
                      [](char a, char b) { return a == (b >= 'A' && b <= 'Z' ? b + 32 : b); });
  };
  const auto* found = std::find_if(std::begin(kMacros), std::end(kMacros), same);
  return found == std::end(kMacros) ? std::string_view() : found->second;
}

// `at` in UTC; a time in a gap is moved to its end or refused, one in an overlap is the first.
absl::StatusOr<WallTime> ParseAt(std::string_view text, const TimeZone& zone, DstGap gap) {
  const absl::StatusOr<WallTime> absolute = ParseRfc3339(text);
  if (absolute.ok()) return *absolute;
  const absl::StatusOr<WallTime> as_utc = ParseRfc3339(std::string(text) + "Z");
  if (!as_utc.ok()) {
    return absl::InvalidArgumentError(
        fmt::format("column 5: @at takes a time such as 2026-03-29T02:30:00, with Z, an offset or "
                    "neither (then "
                    "it is the wall clock of `timezone`); '{}' is none",
                    text));
  }
  const std::int64_t local = FloorSeconds(*as_utc);
  const microseconds fraction = *as_utc - FromSeconds(local);
  // Offsets are at most 26 hours apart from UTC, so the right period is one of those around it.
  constexpr std::int64_t kOffsetMax = 26 * 3600;
  ZonePeriod period = zone.PeriodAt(local - kOffsetMax);
  while (period.end + period.offset <= local) {
    period = zone.PeriodAt(period.end);
    if (local < period.begin + period.offset) {
      if (gap == DstGap::kNext) return FromSeconds(period.begin);
      return absl::InvalidArgumentError(fmt::format(
          "column 5: {} does not exist: the clocks go forward over it, and dst.gap is skip", text));
    }
  }
  return FromSeconds(local - period.offset) + fraction;
}

absl::Status CheckPolicy(const ScheduleSpec& spec) {
  if (spec.missed_window < Duration::zero() || spec.missed_window > kWindowMax) {
    return absl::InvalidArgumentError("missed.window is between 0s and 10 years");
  }
  if (spec.missed_max < 1 || spec.missed_max > kMissedMaxMax) {
    return absl::InvalidArgumentError(
        fmt::format("missed.max is between 1 and {}, not {}", kMissedMaxMax, spec.missed_max));
  }
  for (const auto& [name, delay] :
       {std::pair("spread", spec.spread), std::pair("jitter", spec.jitter)}) {
    if (delay < Duration::zero() || delay > kDelayMax) {
      return absl::InvalidArgumentError(fmt::format("{} is between 0s and 24h", name));
    }
  }
  return absl::OkStatus();
}

// A stable part of `most`, in whole milliseconds; `most` itself is never reached.
microseconds PartOf(Duration most, std::uint64_t hash) {
  const std::int64_t steps = std::chrono::floor<microseconds>(most).count() / kSpreadStepUs;
  if (steps <= 0) return microseconds(0);
  return microseconds(static_cast<std::int64_t>(hash % static_cast<std::uint64_t>(steps)) *
                      kSpreadStepUs);
}

}  // namespace

std::string_view OverlapPolicyName(OverlapPolicy policy) {
  switch (policy) {
    case OverlapPolicy::kSkip:
      return "skip";
    case OverlapPolicy::kQueueOne:
      return "queue_one";
    case OverlapPolicy::kQueueAll:
      return "queue_all";
    case OverlapPolicy::kCancelPrevious:
      return "cancel_previous";
    case OverlapPolicy::kAllow:
      return "allow";
  }
  return "";
}

Schedule::Schedule(const ScheduleSpec& spec)
    : missed_window_(spec.missed_window),
      name_hash_(HashKey(spec.name, HashKey("spread"))),
      spread_(PartOf(spec.spread, name_hash_)),
      jitter_(std::chrono::floor<microseconds>(spec.jitter)),
      missed_max_(spec.missed_max),
      missed_(spec.missed),
      overlap_(spec.overlap),
      paused_(spec.paused) {}

Duration Schedule::DelayOf(WallTime instant, WallTime anchor) const {
  if (!has_jitter()) return spread_;
  // Less than to the next instant: they keep their order, and only the newest can be held back.
  microseconds most = jitter_;
  if (const std::optional<WallTime> next = NextAfter(instant, anchor); next.has_value()) {
    most = std::min(most, *next - instant);
  }
  const std::string text = fmt::format("{}", instant.time_since_epoch().count());
  return spread_ + PartOf(most, HashKey(text, name_hash_));
}

absl::StatusOr<std::shared_ptr<const Schedule>> Schedule::Parse(const ScheduleSpec& spec) {
  using Result = std::shared_ptr<const Schedule>;
  TOCSIN_RETURN_IF_ERROR(CheckPolicy(spec));
  TOCSIN_ASSIGN_OR_RETURN(const TimeZone zone, TimeZone::Find(spec.timezone));
  const std::string_view text = Trim(spec.cron);
  if (text.starts_with("@every ")) {
    const std::string_view period_text = Trim(text.substr(7));
    const absl::StatusOr<Duration> period = ParseDuration(period_text);
    if (!period.ok()) {
      return absl::InvalidArgumentError(
          fmt::format("column 8: @every takes a duration such as 90s or 1h30m; '{}' is none ({})",
                      period_text, MessageOf(period.status())));
    }
    if (*period < kEveryMin || *period > kEveryMax) {
      return absl::InvalidArgumentError("column 8: @every is between 100ms and 100 years");
    }
    if (*period % std::chrono::microseconds(1) != Duration::zero()) {
      return absl::InvalidArgumentError("column 8: @every counts whole microseconds");
    }
    return Result(
        std::make_shared<EverySchedule>(spec, std::chrono::duration_cast<microseconds>(*period)));
  }
  if (text.starts_with("@at ")) {
    TOCSIN_ASSIGN_OR_RETURN(const WallTime instant,
                            ParseAt(Trim(text.substr(4)), zone, spec.dst_gap));
    if (instant < WallTime() || instant >= Horizon()) {
      return absl::InvalidArgumentError(
          fmt::format("column 5: @at lies between 1970 and {}", kScheduleLastYear));
    }
    return Result(std::make_shared<AtSchedule>(spec, instant));
  }
  if (text == "@reboot") return Result(std::make_shared<RebootSchedule>(spec));
  const std::string expression = CronTextOf(spec.cron);
  if (text.starts_with("@")) {
    if (expression.empty()) {
      return absl::InvalidArgumentError(fmt::format(
          "column 1: unknown '{}'; known are @hourly, @daily, @midnight, @weekly, @monthly, "
          "@yearly, @annually, @every_minute, @every_second, @reboot, @every <duration> and "
          "@at <time>",
          text));
    }
  }
  TOCSIN_ASSIGN_OR_RETURN(CronExpression cron, CronExpression::Parse(expression, spec.name));
  return Result(std::make_shared<CronSchedule>(spec, std::move(cron), zone));
}

std::string CronTextOf(std::string_view cron) {
  const std::string_view text = Trim(cron);
  // As it was given, so that columns in errors are right.
  return std::string(text.starts_with("@") ? MacroExpression(text) : cron);
}

std::optional<WallTime> Schedule::NextAfter(WallTime after, WallTime anchor) const {
  return Next(std::max(after, anchor), anchor);
}

std::optional<WallTime> Schedule::LastThrough(WallTime at, WallTime anchor) const {
  if (at <= anchor) return std::nullopt;
  const std::optional<WallTime> last = Last(at, anchor);
  return last.has_value() && *last > anchor ? last : std::nullopt;
}

std::uint64_t Schedule::CountBetween(WallTime after, WallTime through, WallTime anchor) const {
  after = std::max(after, anchor);
  return through <= after ? 0 : Count(after, through, anchor);
}

}  // namespace tocsin
