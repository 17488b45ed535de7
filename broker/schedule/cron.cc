#include "broker/schedule/cron.h"

#include <algorithm>
#include <bit>
#include <chrono>

#include "broker/schedule/schedule.h"

namespace tocsin {
namespace {

using std::chrono::days;
using std::chrono::sys_days;

constexpr std::int64_t kDaySeconds = 86'400;
constexpr int kFirstYear = 1970;

std::int64_t FloorDay(std::int64_t local) {
  return local >= 0 ? local / kDaySeconds : -((-local + kDaySeconds - 1) / kDaySeconds);
}

std::int64_t FirstDayOf(int year, unsigned month) {
  const std::chrono::year_month_day date(std::chrono::year(year), std::chrono::month(month),
                                         std::chrono::day(1));
  return sys_days(date).time_since_epoch().count();
}

unsigned DaysInMonth(int year, unsigned month) {
  const std::chrono::year_month_day_last last{
      std::chrono::year(year), std::chrono::month_day_last{std::chrono::month(month)}};
  return static_cast<unsigned>(last.day());
}

struct CivilDay {
  int year;
  unsigned month;
  unsigned day;
};

CivilDay ToCivil(std::int64_t day) {
  const std::chrono::year_month_day date{sys_days(days(day))};
  return {int(date.year()), unsigned(date.month()), unsigned(date.day())};
}

std::int64_t HorizonEnd() { return FirstDayOf(kScheduleLastYear + 1, 1) * kDaySeconds; }

// Bits from..63; `from` may be 64.
std::uint64_t MaskFrom(unsigned from) { return from >= 64 ? 0 : ~std::uint64_t{0} << from; }
// Bits 0..through.
std::uint64_t MaskThrough(unsigned through) {
  return through >= 63 ? ~std::uint64_t{0} : (std::uint64_t{1} << (through + 1)) - 1;
}

int Lowest(std::uint64_t bits) { return std::countr_zero(bits); }
int Highest(std::uint64_t bits) { return 63 - std::countl_zero(bits); }

// The day of a weekday (Monday to Friday) nearest to `day` without leaving the month.
unsigned NearestWeekday(unsigned day, unsigned first_weekday, unsigned length) {
  const unsigned weekday = (first_weekday + day - 1) % 7;
  if (weekday == 6) return day > 1 ? day - 1 : day + 2;
  if (weekday == 0) return day < length ? day + 1 : day - 2;
  return day;
}

}  // namespace

bool CronExpression::YearMatches(int year) const {
  if (year < kFirstYear || year > kScheduleLastYear) return false;
  return years_.empty() || years_[static_cast<std::size_t>(year - kFirstYear)];
}

std::uint32_t CronExpression::DaysOf(int year, unsigned month) const {
  if (((months_ >> (month - 1)) & 1) == 0 || !YearMatches(year)) return 0;
  const unsigned length = DaysInMonth(year, month);
  const auto first_weekday = static_cast<unsigned>((FirstDayOf(year, month) + 4) % 7);
  const auto all = static_cast<std::uint32_t>(MaskThrough(length - 1));

  std::uint32_t by_day = days_;
  for (std::uint32_t bits = days_from_last_; bits != 0; bits &= bits - 1) {
    const auto back = static_cast<unsigned>(Lowest(bits));
    if (back < length) by_day |= 1U << (length - back - 1);
  }
  for (std::uint32_t bits = weekday_from_last_; bits != 0; bits &= bits - 1) {
    const auto back = static_cast<unsigned>(Lowest(bits));
    if (back < length) by_day |= 1U << (NearestWeekday(length - back, first_weekday, length) - 1);
  }
  for (std::uint32_t bits = nearest_weekday_; bits != 0; bits &= bits - 1) {
    const auto day = static_cast<unsigned>(Lowest(bits)) + 1;
    if (day <= length) by_day |= 1U << (NearestWeekday(day, first_weekday, length) - 1);
  }

  std::uint32_t by_weekday = 0;
  for (unsigned day = 1; day <= length; ++day) {
    const unsigned weekday = (first_weekday + day - 1) % 7;
    const auto bit = static_cast<std::uint8_t>(1U << weekday);
    const bool match = (weekdays_ & bit) != 0 || (nth_weekdays_[(day - 1) / 7] & bit) != 0 ||
                       ((last_weekdays_ & bit) != 0 && day + 7 > length);
    if (match) by_weekday |= 1U << (day - 1);
  }
  const bool either = !any_day_ && !any_weekday_;
  return (either ? by_day | by_weekday : by_day & by_weekday) & all;
}

std::optional<std::int32_t> CronExpression::NextInDay(std::int32_t from) const {
  auto hour = static_cast<unsigned>(from / 3600);
  auto minute = static_cast<unsigned>(from / 60 % 60);
  const auto second = static_cast<unsigned>(from % 60);
  const auto at = [](unsigned h, int m, int s) {
    return static_cast<std::int32_t>(h) * 3600 + m * 60 + s;
  };
  if (((hours_ >> hour) & 1) != 0) {
    const std::uint64_t seconds = seconds_ & MaskFrom(second);
    if (((minutes_ >> minute) & 1) != 0 && seconds != 0) {
      return at(hour, static_cast<int>(minute), Lowest(seconds));
    }
    const std::uint64_t minutes = minutes_ & MaskFrom(minute + 1);
    if (minutes != 0) return at(hour, Lowest(minutes), Lowest(seconds_));
  }
  const std::uint64_t hours = hours_ & MaskFrom(hour + 1);
  if (hours == 0) return std::nullopt;
  return at(static_cast<unsigned>(Lowest(hours)), Lowest(minutes_), Lowest(seconds_));
}

std::optional<std::int32_t> CronExpression::LastInDay(std::int32_t through) const {
  const auto hour = static_cast<unsigned>(through / 3600);
  const auto minute = static_cast<unsigned>(through / 60 % 60);
  const auto second = static_cast<unsigned>(through % 60);
  const auto at = [](int h, int m, int s) { return h * 3600 + m * 60 + s; };
  if (((hours_ >> hour) & 1) != 0) {
    const std::uint64_t seconds = seconds_ & MaskThrough(second);
    if (((minutes_ >> minute) & 1) != 0 && seconds != 0) {
      return at(static_cast<int>(hour), static_cast<int>(minute), Highest(seconds));
    }
    const std::uint64_t minutes = minute == 0 ? 0 : minutes_ & MaskThrough(minute - 1);
    if (minutes != 0) return at(static_cast<int>(hour), Highest(minutes), Highest(seconds_));
  }
  const std::uint64_t hours = hour == 0 ? 0 : hours_ & MaskThrough(hour - 1);
  if (hours == 0) return std::nullopt;
  return at(Highest(hours), Highest(minutes_), Highest(seconds_));
}

std::uint64_t CronExpression::CountInDay(std::int32_t begin, std::int32_t end) const {
  // Matches before `second_of_day`.
  const auto before = [this](std::int32_t second_of_day) -> std::uint64_t {
    const auto per_minute = static_cast<std::uint64_t>(std::popcount(seconds_));
    const std::uint64_t per_hour = per_minute * static_cast<std::uint64_t>(std::popcount(minutes_));
    const auto popcount_below = [](std::uint64_t bits, unsigned below) {
      return below == 0 ? std::uint64_t{0}
                        : static_cast<std::uint64_t>(std::popcount(bits & MaskThrough(below - 1)));
    };
    const auto hour = static_cast<unsigned>(second_of_day / 3600);
    const auto minute = static_cast<unsigned>(second_of_day / 60 % 60);
    const auto second = static_cast<unsigned>(second_of_day % 60);
    std::uint64_t count = popcount_below(hours_, hour) * per_hour;
    if (hour < 24 && ((hours_ >> hour) & 1) != 0) {
      count += popcount_below(minutes_, minute) * per_minute;
      if (((minutes_ >> minute) & 1) != 0) count += popcount_below(seconds_, second);
    }
    return count;
  };
  return before(end) - before(begin);
}

std::optional<std::int64_t> CronExpression::Next(std::int64_t from, std::int64_t end) const {
  from = std::max<std::int64_t>(from, 0);
  end = std::min(end, HorizonEnd());
  if (from >= end) return std::nullopt;
  std::int64_t day = FloorDay(from);
  auto second = static_cast<std::int32_t>(from - day * kDaySeconds);
  CivilDay civil = ToCivil(day);
  while (day * kDaySeconds < end) {
    std::uint32_t bits = DaysOf(civil.year, civil.month);
    bits &= static_cast<std::uint32_t>(MaskFrom(civil.day - 1));
    const std::int64_t month_begin = FirstDayOf(civil.year, civil.month);
    if (bits != 0 && second > 0 && Lowest(bits) == static_cast<int>(civil.day) - 1 &&
        !NextInDay(second).has_value()) {
      bits &= bits - 1;  // nothing is left of the first day
      second = 0;
    }
    if (bits != 0) {
      const std::int64_t found_day = month_begin + Lowest(bits);
      const std::int64_t found =
          found_day * kDaySeconds + *NextInDay(found_day == day ? second : 0);
      if (found >= end) return std::nullopt;
      return found;
    }
    civil.year += civil.month == 12 ? 1 : 0;
    civil.month = civil.month == 12 ? 1 : civil.month + 1;
    civil.day = 1;
    day = FirstDayOf(civil.year, civil.month);
    second = 0;
  }
  return std::nullopt;
}

std::optional<std::int64_t> CronExpression::Last(std::int64_t begin, std::int64_t through) const {
  begin = std::max<std::int64_t>(begin, 0);
  through = std::min(through, HorizonEnd() - 1);
  if (begin > through) return std::nullopt;
  std::int64_t day = FloorDay(through);
  auto second = static_cast<std::int32_t>(through - day * kDaySeconds);
  constexpr std::int32_t kLastSecond = kDaySeconds - 1;
  CivilDay civil = ToCivil(day);
  while ((day + 1) * kDaySeconds > begin) {
    std::uint32_t bits = DaysOf(civil.year, civil.month);
    bits &= static_cast<std::uint32_t>(MaskThrough(civil.day - 1));
    const std::int64_t month_begin = FirstDayOf(civil.year, civil.month);
    if (bits != 0 && second < kLastSecond && Highest(bits) == static_cast<int>(civil.day) - 1 &&
        !LastInDay(second).has_value()) {
      bits &= ~(1U << (civil.day - 1));
      second = kLastSecond;
    }
    if (bits != 0) {
      const std::int64_t found_day = month_begin + Highest(bits);
      const std::int64_t found =
          found_day * kDaySeconds + *LastInDay(found_day == day ? second : kLastSecond);
      if (found < begin) return std::nullopt;
      return found;
    }
    if (civil.year <= kFirstYear && civil.month == 1) return std::nullopt;
    civil.year -= civil.month == 1 ? 1 : 0;
    civil.month = civil.month == 1 ? 12 : civil.month - 1;
    civil.day = DaysInMonth(civil.year, civil.month);
    day = month_begin - 1;
    second = kLastSecond;
  }
  return std::nullopt;
}

std::uint64_t CronExpression::Count(std::int64_t begin, std::int64_t end) const {
  begin = std::max<std::int64_t>(begin, 0);
  end = std::min(end, HorizonEnd());
  if (begin >= end) return 0;
  const std::int64_t first_day = FloorDay(begin);
  const std::int64_t last_day = FloorDay(end - 1);
  const std::uint64_t whole = CountInDay(0, kDaySeconds);
  std::uint64_t count = 0;
  CivilDay civil = ToCivil(first_day);
  for (std::int64_t month_begin = first_day - civil.day + 1; month_begin <= last_day;) {
    const unsigned length = DaysInMonth(civil.year, civil.month);
    std::uint64_t bits = DaysOf(civil.year, civil.month);
    if (month_begin < first_day) bits &= MaskFrom(static_cast<unsigned>(first_day - month_begin));
    if (month_begin + length > last_day) {
      bits &= MaskThrough(static_cast<unsigned>(last_day - month_begin));
    }
    count += static_cast<std::uint64_t>(std::popcount(bits)) * whole;
    const auto has = [&](std::int64_t day) {
      return day >= month_begin && day < month_begin + length &&
             ((bits >> (day - month_begin)) & 1) != 0;
    };
    if (has(first_day)) {
      count -= CountInDay(0, static_cast<std::int32_t>(begin - first_day * kDaySeconds));
    }
    if (has(last_day)) {
      count -= CountInDay(static_cast<std::int32_t>(end - last_day * kDaySeconds), kDaySeconds);
    }
    month_begin += length;
    civil.year += civil.month == 12 ? 1 : 0;
    civil.month = civil.month == 12 ? 1 : civil.month + 1;
  }
  return count;
}

}  // namespace tocsin
