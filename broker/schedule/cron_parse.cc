#include <algorithm>
#include <cctype>
#include <optional>
#include <span>
#include <string>

#include "broker/base/hash.h"
#include "broker/base/status.h"
#include "broker/schedule/cron.h"
#include "broker/schedule/schedule.h"

namespace tocsin {
namespace {

constexpr std::size_t kExpressionBytesMax = 1024;

constexpr std::string_view kMonthNames[] = {"JAN", "FEB", "MAR", "APR", "MAY", "JUN",
                                            "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"};
constexpr std::string_view kWeekdayNames[] = {"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"};

struct FieldRules {
  std::string_view name;
  int min;
  int max;
  std::span<const std::string_view> names;  // of min, min + 1, ...
};

constexpr FieldRules kSecond = {"second", 0, 59, {}};
constexpr FieldRules kMinute = {"minute", 0, 59, {}};
constexpr FieldRules kHour = {"hour", 0, 23, {}};
constexpr FieldRules kDay = {"day of month", 1, 31, {}};
constexpr FieldRules kMonth = {"month", 1, 12, kMonthNames};
constexpr FieldRules kWeekday = {"day of week", 0, 7, kWeekdayNames};
constexpr FieldRules kYear = {"year", 1970, kScheduleLastYear, {}};

struct Field {
  std::string_view text;
  std::size_t column;  // 1-based
};

std::vector<Field> Split(std::string_view text) {
  std::vector<Field> fields;
  std::size_t position = 0;
  while (position < text.size()) {
    if (text[position] == ' ' || text[position] == '\t') {
      ++position;
      continue;
    }
    const std::size_t end = std::min(text.find_first_of(" \t", position), text.size());
    fields.push_back({text.substr(position, end - position), position + 1});
    position = end;
  }
  return fields;
}

char Upper(char c) { return static_cast<char>(std::toupper(static_cast<unsigned char>(c))); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

// Reads one field after the other; the first error ends it.
class CronParser {
 public:
  explicit CronParser(std::string_view name) : name_(name) {}

  absl::StatusOr<CronExpression> Parse(std::string_view text) {
    if (text.size() > kExpressionBytesMax) {
      return absl::InvalidArgumentError(
          fmt::format("a cron expression has at most {} characters", kExpressionBytesMax));
    }
    const std::vector<Field> fields = Split(text);
    if (fields.size() < 5 || fields.size() > 7) {
      return absl::InvalidArgumentError(fmt::format(
          "a cron expression has 5 fields (minute hour day month weekday), 6 with seconds first or "
          "7 with the year last; this one has {}",
          fields.size()));
    }
    std::size_t next = 0;
    if (fields.size() > 5) {
      std::vector<bool> seconds;
      TOCSIN_RETURN_IF_ERROR(ReadSet(fields[next++], kSecond, seconds));
      cron_.seconds_ = Bits(seconds, 0);
      cron_.interval_ = IsInterval(fields[0].text);
    }
    std::vector<bool> set;
    cron_.interval_ =
        cron_.interval_ || IsInterval(fields[next].text) || IsInterval(fields[next + 1].text);
    TOCSIN_RETURN_IF_ERROR(ReadSet(fields[next++], kMinute, set));
    cron_.minutes_ = Bits(set, 0);
    TOCSIN_RETURN_IF_ERROR(ReadSet(fields[next++], kHour, set));
    cron_.hours_ = static_cast<std::uint32_t>(Bits(set, 0));
    TOCSIN_RETURN_IF_ERROR(ReadDays(fields[next++]));
    TOCSIN_RETURN_IF_ERROR(ReadSet(fields[next++], kMonth, set));
    cron_.months_ = static_cast<std::uint16_t>(Bits(set, 1));
    TOCSIN_RETURN_IF_ERROR(ReadWeekdays(fields[next++]));
    if (next < fields.size()) {
      const Field& field = fields[next];
      TOCSIN_RETURN_IF_ERROR(ReadSet(field, kYear, set));
      if (field.text != "*") cron_.years_.assign(set.begin() + kYear.min, set.end());
    }
    if (!cron_.Next(0, INT64_MAX).has_value()) {
      return absl::InvalidArgumentError(fmt::format(
          "'{}' can never occur: no date between 1970 and {} matches", text, kScheduleLastYear));
    }
    return cron_;
  }

 private:
  static bool IsInterval(std::string_view text) {
    return text.find_first_of("*-/") != std::string_view::npos;
  }

  static std::uint64_t Bits(const std::vector<bool>& set, std::size_t first) {
    std::uint64_t bits = 0;
    for (std::size_t value = first; value < set.size(); ++value) {
      if (set[value]) bits |= std::uint64_t{1} << (value - first);
    }
    return bits;
  }

  absl::Status Error(std::string_view rule) const {
    return absl::InvalidArgumentError(fmt::format(
        "column {}: {} field '{}': {}", field_.column + at_, rules_->name, field_.text, rule));
  }

  bool AtEnd() const { return at_ == field_.text.size(); }
  char Peek() const { return AtEnd() ? '\0' : Upper(field_.text[at_]); }
  bool Take(char c) {
    if (Peek() != c) return false;
    ++at_;
    return true;
  }

  void Begin(const Field& field, const FieldRules& rules) {
    field_ = field;
    rules_ = &rules;
    at_ = 0;
  }

  // A number of at most nine digits, or nullopt without moving.
  std::optional<int> TakeNumber() {
    std::size_t end = at_;
    int value = 0;
    while (end < field_.text.size() && IsDigit(field_.text[end])) {
      if (end - at_ >= 9) return std::nullopt;
      value = value * 10 + (field_.text[end] - '0');
      ++end;
    }
    if (end == at_) return std::nullopt;
    at_ = end;
    return value;
  }

  // A value or a name of the field.
  absl::Status ReadValue(int& value) {
    const std::size_t begin = at_;
    if (const std::optional<int> number = TakeNumber(); number.has_value()) {
      value = *number;
    } else {
      std::string word;
      for (std::size_t i = at_; i < field_.text.size() && word.size() < 3; ++i) {
        word.push_back(Upper(field_.text[i]));
      }
      const auto found = std::find(rules_->names.begin(), rules_->names.end(), word);
      if (found == rules_->names.end()) {
        return Error(fmt::format("a value from {} to {} is expected", rules_->min, rules_->max));
      }
      value = rules_->min + static_cast<int>(found - rules_->names.begin());
      at_ += 3;
      if (!AtEnd() && std::isalnum(static_cast<unsigned char>(field_.text[at_])) != 0 &&
          Peek() != 'L') {
        at_ = begin;
        return Error("names have three letters");
      }
    }
    if (value < rules_->min || value > rules_->max) {
      at_ = begin;
      return Error(fmt::format("{} is out of range {} to {}", value, rules_->min, rules_->max));
    }
    return absl::OkStatus();
  }

  absl::Status ReadStep(int& step) {
    const std::size_t begin = at_;
    const std::optional<int> number = TakeNumber();
    if (!number.has_value()) return Error("a step of one to nine digits is expected after '/'");
    const int span = rules_ == &kYear ? rules_->max - rules_->min : rules_->max;
    if (*number < 1 || *number > span) {
      at_ = begin;
      return Error(fmt::format("a step is between 1 and {}", span));
    }
    step = *number;
    return absl::OkStatus();
  }

  // Marks from, from + step, ... through; wraps when through < from.
  void Mark(int from, int through, int step, std::vector<bool>& set) const {
    const int min = rules_->min;
    const int size = rules_ == &kWeekday ? 7 : rules_->max - min + 1;
    int length = through - from;
    if (length < 0) length += size;
    for (int i = 0; i <= length; i += step) {
      set[static_cast<std::size_t>((from - min + i) % size + min)] = true;
    }
  }

  absl::Status ReadHash(std::vector<bool>& set) {
    int from = rules_->min;
    // The 29th to 31st do not exist in every month, and 7 is Sunday again.
    int through = rules_ == &kDay ? 28 : rules_ == &kWeekday ? 6 : rules_->max;
    if (Take('(')) {
      TOCSIN_RETURN_IF_ERROR(ReadValue(from));
      if (!Take('-')) return Error("'-' is expected in H(from-through)");
      TOCSIN_RETURN_IF_ERROR(ReadValue(through));
      if (!Take(')')) return Error("')' is expected");
      if (through < from) return Error("H(from-through) must rise");
    }
    int step = through - from + 1;
    const bool repeated = Take('/');
    if (repeated) TOCSIN_RETURN_IF_ERROR(ReadStep(step));
    step = std::min(step, through - from + 1);
    const std::uint64_t hash = HashKey(name_, HashKey(rules_->name));
    const int first = from + static_cast<int>(hash % static_cast<std::uint64_t>(step));
    Mark(first, repeated ? through : first, step, set);
    return absl::OkStatus();
  }

  // One element of a list: *, value, range, step, H.
  absl::Status ReadElement(std::vector<bool>& set) {
    int from = rules_->min;
    int through = rules_->max;
    int step = 1;
    if (Take('H')) return ReadHash(set);
    const bool star = Take('*');
    if (star) {
      if (rules_ == &kWeekday) through = 6;
    } else {
      TOCSIN_RETURN_IF_ERROR(ReadValue(from));
      if (Take('-')) {
        TOCSIN_RETURN_IF_ERROR(ReadValue(through));
      } else if (Peek() == '/') {
        if (rules_ == &kWeekday) through = std::max(from, 6);
      } else {
        through = from;
      }
    }
    if (Take('/')) TOCSIN_RETURN_IF_ERROR(ReadStep(step));
    if (rules_ == &kYear && through < from) return Error("a range of years must rise");
    Mark(from, through, step, set);
    return absl::OkStatus();
  }

  absl::Status Unexpected() const {
    if (AtEnd()) return Error("it ends too early");
    return Error(fmt::format("unexpected '{}'", field_.text[at_]));
  }

  absl::Status ReadSet(const Field& field, const FieldRules& rules, std::vector<bool>& set) {
    Begin(field, rules);
    set.assign(static_cast<std::size_t>(rules.max) + 1, false);
    do {
      TOCSIN_RETURN_IF_ERROR(ReadElement(set));
    } while (Take(','));
    return AtEnd() ? absl::OkStatus() : Unexpected();
  }

  // L, L-3, LW, L-3W; what was read so far is the L.
  absl::Status ReadLast() {
    int back = 0;
    if (Take('-')) {
      const std::size_t begin = at_;
      const std::optional<int> number = TakeNumber();
      if (!number.has_value() || *number > 30) {
        at_ = begin;
        return Error("L-n takes 0 to 30 days before the last");
      }
      back = *number;
    }
    (Take('W') ? cron_.weekday_from_last_ : cron_.days_from_last_) |= 1U << back;
    return AtEnd() ? absl::OkStatus() : Error("L stands alone in its field");
  }

  absl::Status ReadDays(const Field& field) {
    Begin(field, kDay);
    cron_.any_day_ = Peek() == '*' || Peek() == '?';
    if (Take('?')) {
      cron_.days_ = 0x7fffffff;
      return AtEnd() ? absl::OkStatus() : Unexpected();
    }
    if (Take('L')) return ReadLast();
    if (IsDigit(Peek()) && Upper(field.text.back()) == 'W') {
      int day = 0;
      TOCSIN_RETURN_IF_ERROR(ReadValue(day));
      if (Take('W') && AtEnd()) {
        cron_.nearest_weekday_ = 1U << (day - 1);
        return absl::OkStatus();
      }
      return Error("W goes with one day alone in its field");
    }
    std::vector<bool> set;
    TOCSIN_RETURN_IF_ERROR(ReadSet(field, kDay, set));
    cron_.days_ = static_cast<std::uint32_t>(Bits(set, 1));
    return absl::OkStatus();
  }

  absl::Status ReadWeekdays(const Field& field) {
    Begin(field, kWeekday);
    cron_.any_weekday_ = Peek() == '*' || Peek() == '?';
    if (Take('?')) {
      cron_.weekdays_ = 0x7f;
      return AtEnd() ? absl::OkStatus() : Unexpected();
    }
    std::vector<bool> set(8, false);
    do {
      const std::size_t begin = at_;
      int weekday = 0;
      if (Peek() != '*' && Peek() != 'H') {
        TOCSIN_RETURN_IF_ERROR(ReadValue(weekday));
        const auto bit = static_cast<std::uint8_t>(1U << (weekday % 7));
        if (Take('L')) {
          cron_.last_weekdays_ = static_cast<std::uint8_t>(cron_.last_weekdays_ | bit);
          continue;
        }
        if (Take('#')) {
          const std::size_t digit = at_;
          const std::optional<int> nth = TakeNumber();
          if (!nth.has_value() || *nth < 1 || *nth > 5 || at_ - digit != 1) {
            at_ = digit;
            return Error("# takes 1 to 5");
          }
          std::uint8_t& weekdays = cron_.nth_weekdays_[static_cast<std::size_t>(*nth - 1)];
          weekdays = static_cast<std::uint8_t>(weekdays | bit);
          continue;
        }
        at_ = begin;
      }
      TOCSIN_RETURN_IF_ERROR(ReadElement(set));
    } while (Take(','));
    if (!AtEnd()) return Unexpected();
    cron_.weekdays_ = static_cast<std::uint8_t>(Bits(set, 0));
    return absl::OkStatus();
  }

  std::string_view name_;
  CronExpression cron_;
  Field field_;
  const FieldRules* rules_ = nullptr;
  std::size_t at_ = 0;
};

absl::StatusOr<CronExpression> CronExpression::Parse(std::string_view text, std::string_view name) {
  return CronParser(name).Parse(text);
}

}  // namespace tocsin
