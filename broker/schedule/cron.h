// CronExpression: a set of local date-times, parsed from a cron expression. Pure; knows nothing of
// time zones.
//
// Fields: minute hour day month weekday; six: second first; seven: second first, year last. Each is
// a list of `*`, values, names, ranges (which may wrap: 22-2, FRI-MON) and steps (`*/5`, `10/20`,
// `1-9/2`); `H`, `H(1-9)`, `H/10` put a stable value derived from the schedule's name. Days take
// `?`, `L`, `L-3`, `LW`, `L-3W`, `15W`; weekdays (0-7, SUN-SAT) `?`, `5L` (the last Friday) and
// `1#2` (the second Monday).
//
// Vixie's day rule: a field that begins with `*` or `?` is unrestricted; if both day fields are
// restricted a day matches either, else both.
//
// Local time is counted in seconds since 1970-01-01T00:00:00 of the wall clock.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tocsin {

class CronExpression {
 public:
  // `name` seeds `H`. kInvalidArgument: the rule broken and the 1-based column, or that no date can
  // ever match.
  static absl::StatusOr<CronExpression> Parse(std::string_view text, std::string_view name);

  // The first match in [from, end). Matches lie in the years 1970 to kScheduleLastYear.
  std::optional<std::int64_t> Next(std::int64_t from, std::int64_t end) const;
  // The newest match in [begin, through].
  std::optional<std::int64_t> Last(std::int64_t begin, std::int64_t through) const;
  // How many matches lie in [begin, end). O(months).
  std::uint64_t Count(std::int64_t begin, std::int64_t end) const;

  // Every hour of the day matches: the schedule follows the wall clock through a gap.
  bool every_hour() const { return hours_ == (1U << 24) - 1; }
  // Its second, minute or hour is a `*`, a range or a step: it means an interval, not fixed times,
  // so that it runs in both halves of an overlap.
  bool interval() const { return interval_; }

 private:
  friend class CronParser;

  // Bit d-1 for each matching day d of the month.
  std::uint32_t DaysOf(int year, unsigned month) const;
  bool YearMatches(int year) const;
  std::optional<std::int32_t> NextInDay(std::int32_t from) const;  // seconds of the day
  std::optional<std::int32_t> LastInDay(std::int32_t through) const;
  std::uint64_t CountInDay(std::int32_t begin, std::int32_t end) const;

  std::uint64_t seconds_ = 1;
  std::uint64_t minutes_ = 0;
  std::uint32_t hours_ = 0;
  std::uint32_t days_ = 0;                         // bit d-1
  std::uint32_t days_from_last_ = 0;               // bit n: L-n
  std::uint32_t weekday_from_last_ = 0;            // bit n: the weekday nearest to L-n (LW, L-nW)
  std::uint32_t nearest_weekday_ = 0;              // bit d-1: dW
  std::uint16_t months_ = 0;                       // bit m-1
  std::uint8_t weekdays_ = 0;                      // bit 0: Sunday
  std::uint8_t last_weekdays_ = 0;                 // nL
  std::array<std::uint8_t, 5> nth_weekdays_ = {};  // n#k in [k-1]
  bool any_day_ = false;
  bool any_weekday_ = false;
  bool interval_ = false;
  std::vector<bool> years_;  // index year - 1970; empty: any
};

}  // namespace tocsin
