// What a schedule means, in words: for `tocsin cron`. Pure.

#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/schedule/schedule.h"

namespace tocsin {

struct FieldMeaning {
  std::string field;    // "minute"
  std::string text;     // "*/15"
  std::string meaning;  // "every 15th minute"
};

struct ScheduleMeaning {
  std::string summary;               // "at 02:30, Monday to Friday"
  std::vector<FieldMeaning> fields;  // of a cron expression, in its order; else empty
  std::vector<std::string> notes;    // the day rule, what clocks that change do
};

// kInvalidArgument: as Schedule::Parse().
absl::StatusOr<ScheduleMeaning> ExplainSchedule(const ScheduleSpec& spec);

// What a change of the clocks did to `instant`, one of the schedule's; empty: nothing.
//   kInvalidArgument: as Schedule::Parse()
absl::StatusOr<std::string> ClockChangeNote(const ScheduleSpec& spec, WallTime instant);

// `2026-03-29T03:00:00+02:00` in the zone.
//   kInvalidArgument: no such zone
absl::StatusOr<std::string> FormatInZone(WallTime time, const std::string& zone);

// RFC 3339, or without an offset the wall clock of `zone`.
//   kInvalidArgument: neither, or no such zone
absl::StatusOr<WallTime> ParseInZone(std::string_view text, const std::string& zone);

}  // namespace tocsin
