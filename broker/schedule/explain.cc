#include "broker/schedule/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>
#include <utility>

#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/schedule/cron.h"
#include "broker/schedule/time_zone.h"

namespace tocsin {
namespace {

constexpr std::string_view kMonths[] = {"January",   "February", "March",    "April",
                                        "May",       "June",     "July",     "August",
                                        "September", "October",  "November", "December"};
constexpr std::string_view kWeekdays[] = {"Sunday",   "Monday", "Tuesday",  "Wednesday",
                                          "Thursday", "Friday", "Saturday", "Sunday"};

enum class FieldKind { kSecond, kMinute, kHour, kDay, kMonth, kWeekday, kYear };

constexpr std::string_view kFieldNames[] = {"second", "minute",      "hour", "day of month",
                                            "month",  "day of week", "year"};

std::string_view NameOf(FieldKind kind) { return kFieldNames[static_cast<std::size_t>(kind)]; }

std::string_view Unit(FieldKind kind) {
  if (kind == FieldKind::kDay || kind == FieldKind::kWeekday) return "day";
  return NameOf(kind);
}

std::vector<std::string_view> SplitBy(std::string_view text, std::string_view separators) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t begin = text.find_first_not_of(separators);
    if (begin == std::string_view::npos) break;
    const std::size_t end = std::min(text.find_first_of(separators, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    text.remove_prefix(end);
  }
  return parts;
}

std::optional<int> NumberOf(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool SameLetters(std::string_view text, std::string_view start_of) {
  return text.size() == 3 &&
         std::equal(text.begin(), text.end(), start_of.begin(), [](char a, char b) {
           return std::tolower(static_cast<unsigned char>(a)) ==
                  std::tolower(static_cast<unsigned char>(b));
         });
}

// A value that the parser has accepted.
std::string Value(FieldKind kind, std::string_view text) {
  const std::optional<int> number = NumberOf(text);
  if (kind == FieldKind::kMonth) {
    for (std::size_t i = 0; i < std::size(kMonths); ++i) {
      if (number == static_cast<int>(i) + 1 || SameLetters(text, kMonths[i])) {
        return std::string(kMonths[i]);
      }
    }
  }
  if (kind == FieldKind::kWeekday) {
    for (std::size_t i = 0; i < std::size(kWeekdays); ++i) {
      if (number == static_cast<int>(i) || SameLetters(text, kWeekdays[i])) {
        return std::string(kWeekdays[i]);
      }
    }
  }
  return number ? fmt::format("{}", *number) : std::string(text);
}

std::string Ordinal(int n) {
  const bool teen = n % 100 / 10 == 1;
  const char* ending = teen          ? "th"
                       : n % 10 == 1 ? "st"
                       : n % 10 == 2 ? "nd"
                       : n % 10 == 3 ? "rd"
                                     : "th";
  return fmt::format("{}{}", n, ending);
}

std::string HashElement(FieldKind kind, std::string_view element) {
  const std::size_t slash = element.find('/');
  const std::string range(element.substr(1, slash == std::string_view::npos ? slash : slash - 1));
  std::string meaning =
      slash == std::string_view::npos
          ? fmt::format("one {} that the name decides", Unit(kind))
          : fmt::format("every {} {}, from one that the name decides",
                        Ordinal(NumberOf(element.substr(slash + 1)).value_or(1)), Unit(kind));
  if (!range.empty()) meaning += fmt::format(", within {}", range.substr(1, range.size() - 2));
  return meaning;
}

std::string LastDay(std::string_view element) {
  const bool weekday = std::toupper(static_cast<unsigned char>(element.back())) == 'W';
  if (weekday) element.remove_suffix(1);
  const std::string back(element.size() > 2 ? element.substr(2) : "0");
  const std::string day =
      back == "0" ? "the last day" : fmt::format("the {} before the last day", back + " days");
  return weekday ? fmt::format("the weekday nearest to {}", day) : day;
}

std::string Element(FieldKind kind, std::string_view element) {
  const char first = static_cast<char>(std::toupper(static_cast<unsigned char>(element.front())));
  const char last = static_cast<char>(std::toupper(static_cast<unsigned char>(element.back())));
  if (element == "*") return fmt::format("every {}", Unit(kind));
  if (element == "?") return "any";
  if (first == 'H') return HashElement(kind, element);
  if (kind == FieldKind::kDay && first == 'L') return LastDay(element);
  if (kind == FieldKind::kDay && last == 'W') {
    return fmt::format("the weekday nearest to the {}",
                       Ordinal(NumberOf(element.substr(0, element.size() - 1)).value_or(1)));
  }
  if (kind == FieldKind::kWeekday && last == 'L') {
    return fmt::format("the last {} of the month",
                       Value(kind, element.substr(0, element.size() - 1)));
  }
  const std::size_t hash = element.find('#');
  if (hash != std::string_view::npos) {
    return fmt::format("the {} {} of the month",
                       Ordinal(NumberOf(element.substr(hash + 1)).value_or(1)),
                       Value(kind, element.substr(0, hash)));
  }
  const std::size_t slash = element.find('/');
  const std::string_view range = element.substr(0, slash);
  std::string step;
  if (slash != std::string_view::npos) {
    const int every = NumberOf(element.substr(slash + 1)).value_or(1);
    step = every == 1 ? fmt::format("every {}", Unit(kind))
                      : fmt::format("every {} {}", Ordinal(every), Unit(kind));
    if (range == "*") return step;
  }
  const std::size_t dash = range.find('-');
  if (dash == std::string_view::npos) {
    const std::string value = Value(kind, range);
    return step.empty() ? value : fmt::format("{} from {} on", step, value);
  }
  const std::string span = fmt::format("{} to {}", Value(kind, range.substr(0, dash)),
                                       Value(kind, range.substr(dash + 1)));
  return step.empty() ? span : fmt::format("{} from {}", step, span);
}

std::string Meaning(FieldKind kind, std::string_view text) {
  std::string meaning;
  for (const std::string_view element : SplitBy(text, ",")) {
    if (!meaning.empty()) meaning += ", ";
    meaning += Element(kind, element);
  }
  return meaning;
}

struct Field {
  FieldKind kind;
  std::string_view text;
};

std::vector<Field> FieldsOf(std::string_view cron) {
  const std::vector<std::string_view> texts = SplitBy(cron, " \t");
  std::size_t kind = texts.size() > 5 ? 0 : 1;
  std::vector<Field> fields;
  fields.reserve(texts.size());
  for (const std::string_view text : texts) fields.push_back({FieldKind(kind++), text});
  return fields;
}

std::string_view TextOf(const std::vector<Field>& fields, FieldKind kind) {
  for (const Field& field : fields) {
    if (field.kind == kind) return field.text;
  }
  return kind == FieldKind::kSecond ? "0" : "*";
}

bool IsAny(std::string_view text) { return text == "*" || text == "?"; }

std::string TimeOfDay(const std::vector<Field>& fields) {
  const std::string_view second = TextOf(fields, FieldKind::kSecond);
  const std::string_view minute = TextOf(fields, FieldKind::kMinute);
  const std::string_view hour = TextOf(fields, FieldKind::kHour);
  const std::optional<int> at_second = NumberOf(second);
  const std::optional<int> at_minute = NumberOf(minute);
  if (at_second && at_minute && hour.find_first_not_of("0123456789,") == std::string_view::npos) {
    std::string times;
    for (const std::string_view one : SplitBy(hour, ",")) {
      times += fmt::format("{}{:02}:{:02}", times.empty() ? "at " : ", ", NumberOf(one).value_or(0),
                           *at_minute);
      if (*at_second != 0) times += fmt::format(":{:02}", *at_second);
    }
    return times;
  }
  std::vector<std::string> parts;
  if (second != "0") {
    parts.push_back(IsAny(second) ? "every second"
                                  : "at second " + Meaning(FieldKind::kSecond, second));
  }
  if (!IsAny(minute) || second == "0") {
    const std::string meaning = Meaning(FieldKind::kMinute, minute);
    parts.push_back(meaning.starts_with("every") ? meaning : "at minute " + meaning);
  }
  if (!IsAny(hour)) {
    const std::string meaning = Meaning(FieldKind::kHour, hour);
    parts.push_back(meaning.starts_with("every") ? "of " + meaning : "of hour " + meaning);
  } else if (at_minute) {
    parts.emplace_back("of every hour");
  }
  return fmt::format("{}", fmt::join(parts, " "));
}

std::string Days(const std::vector<Field>& fields) {
  const std::string_view day = TextOf(fields, FieldKind::kDay);
  const std::string_view weekday = TextOf(fields, FieldKind::kWeekday);
  const auto of_month = [&] {
    const std::string meaning = Meaning(FieldKind::kDay, day);
    const bool digit = std::isdigit(static_cast<unsigned char>(meaning.front())) != 0;
    return digit ? fmt::format("on day {} of the month", meaning)
                 : fmt::format("on {} of the month", meaning);
  };
  if (IsAny(day) && IsAny(weekday)) return "every day";
  if (IsAny(day)) return fmt::format("on {}", Meaning(FieldKind::kWeekday, weekday));
  if (IsAny(weekday)) return of_month();
  const bool either = day.front() != '*' && weekday.front() != '*';
  return fmt::format("{} {} {}", of_month(), either ? "or on" : "and only on",
                     Meaning(FieldKind::kWeekday, weekday));
}

void ExplainCron(std::string_view cron, const ScheduleSpec& spec, const CronExpression& parsed,
                 ScheduleMeaning& meaning) {
  const std::vector<Field> fields = FieldsOf(cron);
  for (const Field& field : fields) {
    meaning.fields.push_back({std::string(NameOf(field.kind)), std::string(field.text),
                              Meaning(field.kind, field.text)});
  }
  meaning.summary = fmt::format("{}, {}", TimeOfDay(fields), Days(fields));
  const std::string_view month = TextOf(fields, FieldKind::kMonth);
  const std::string_view year = TextOf(fields, FieldKind::kYear);
  if (!IsAny(month)) meaning.summary += ", in " + Meaning(FieldKind::kMonth, month);
  if (!IsAny(year)) meaning.summary += ", in " + Meaning(FieldKind::kYear, year);

  const std::string_view day = TextOf(fields, FieldKind::kDay);
  const std::string_view weekday = TextOf(fields, FieldKind::kWeekday);
  if (!IsAny(day) && !IsAny(weekday)) {
    const bool either = day.front() != '*' && weekday.front() != '*';
    meaning.notes.emplace_back(
        either ? "both day fields are restricted: a day that matches either is taken"
               : "a day field begins with `*`: a day must match both");
  }
  if (spec.timezone == "UTC") return;
  if (parsed.every_hour()) {
    meaning.notes.emplace_back(
        "when clocks change: every hour of the wall clock, both times of one "
        "that comes twice");
    return;
  }
  const char* gap =
      spec.dst_gap == DstGap::kNext ? "fires once, at the gap's end" : "does not fire";
  const bool twice = parsed.interval() || spec.dst_overlap == DstOverlap::kBoth;
  meaning.notes.push_back(fmt::format(
      "when clocks change: a time that does not exist {}; one that comes twice fires {}", gap,
      twice ? "both times" : "once, the first time"));
}

std::string Offset(std::int64_t seconds) {
  const std::int64_t minutes = (seconds < 0 ? -seconds : seconds) / 60;
  return fmt::format("{}{:02}:{:02}", seconds < 0 ? '-' : '+', minutes / 60, minutes % 60);
}

std::string LocalText(WallTime time, std::int64_t offset) {
  std::string text = FormatRfc3339(time + std::chrono::seconds(offset));
  text.pop_back();  // Z
  return text + Offset(offset);
}

std::string ClockText(std::int64_t local) {
  return FormatRfc3339(WallTime(std::chrono::seconds(local))).substr(11, 5);
}

std::int64_t SecondsOf(WallTime time) {
  return std::chrono::floor<std::chrono::seconds>(time).time_since_epoch().count();
}

}  // namespace

absl::StatusOr<ScheduleMeaning> ExplainSchedule(const ScheduleSpec& spec) {
  TOCSIN_RETURN_IF_ERROR(Schedule::Parse(spec).status());
  ScheduleMeaning meaning;
  const std::string cron = CronTextOf(spec.cron);
  if (!cron.empty()) {
    TOCSIN_ASSIGN_OR_RETURN(const CronExpression parsed, CronExpression::Parse(cron, spec.name));
    ExplainCron(cron, spec, parsed, meaning);
    return meaning;
  }
  const std::vector<std::string_view> words = SplitBy(spec.cron, " \t");
  if (words.front() == "@every") {
    meaning.summary = fmt::format("every {}", words.back());
    meaning.notes.emplace_back("counted from the schedule's first start, whatever clocks do");
  } else if (words.front() == "@at") {
    meaning.summary = fmt::format("once, at {}", words.back());
  } else {
    meaning.summary = "once, at the broker's first start after a boot of the machine";
  }
  return meaning;
}

absl::StatusOr<std::string> ClockChangeNote(const ScheduleSpec& spec, WallTime instant) {
  TOCSIN_ASSIGN_OR_RETURN(const TimeZone zone, TimeZone::Find(spec.timezone));
  const std::string cron = CronTextOf(spec.cron);
  if (cron.empty()) return std::string();
  TOCSIN_ASSIGN_OR_RETURN(const CronExpression parsed, CronExpression::Parse(cron, spec.name));
  const std::int64_t second = SecondsOf(instant);
  const ZonePeriod period = zone.PeriodAt(second);
  const std::int64_t local = second + period.offset;
  if (second == period.begin && period.BeginsWithGap() &&
      !parsed.Next(local, local + 1).has_value()) {
    return fmt::format("the clocks go from {} to {}: at the gap's end",
                       ClockText(second + period.offset_before), ClockText(local));
  }
  if (period.BeginsWithOverlap() && local < period.begin + period.offset_before) {
    return fmt::format("the clocks went back: the second {}", ClockText(local));
  }
  const ZonePeriod next = zone.PeriodAt(period.end);
  if (next.BeginsWithOverlap() && local >= next.begin + next.offset) {
    const bool again = parsed.interval() || spec.dst_overlap == DstOverlap::kBoth;
    return fmt::format("the clocks go back: the first {}{}", ClockText(local),
                       again ? "" : ", the second does not fire");
  }
  return std::string();
}

absl::StatusOr<std::string> FormatInZone(WallTime time, const std::string& zone) {
  TOCSIN_ASSIGN_OR_RETURN(const TimeZone found, TimeZone::Find(zone));
  return LocalText(time, found.PeriodAt(SecondsOf(time)).offset);
}

absl::StatusOr<WallTime> ParseInZone(std::string_view text, const std::string& zone) {
  ScheduleSpec spec;
  spec.cron = fmt::format("@at {}", text);
  spec.timezone = zone;
  TOCSIN_RETURN_IF_ERROR(TimeZone::Find(zone).status());
  const absl::StatusOr<std::shared_ptr<const Schedule>> schedule = Schedule::Parse(spec);
  const std::optional<WallTime> instant =
      schedule.ok() ? (*schedule)->NextAfter(WallTime(), WallTime()) : std::nullopt;
  if (instant.has_value()) return *instant;
  return absl::InvalidArgumentError(fmt::format(
      "`{}` is no time such as 2026-03-29T02:30:00, with Z, an offset or neither", text));
}

}  // namespace tocsin
