#include "broker/base/time_text.h"

#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/numeric/int128.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Exactly `count` digits at the front of `text`, which they leave.
std::optional<int> TakeDigits(std::string_view& text, std::size_t count) {
  if (text.size() < count) return std::nullopt;
  int value = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (!IsDigit(text[i])) return std::nullopt;
    value = value * 10 + (text[i] - '0');
  }
  text.remove_prefix(count);
  return value;
}

bool TakeChar(std::string_view& text, char c) {
  if (text.empty() || text.front() != c) return false;
  text.remove_prefix(1);
  return true;
}

std::string FormatSeconds(std::int64_t seconds) {
  const std::chrono::sys_seconds time{std::chrono::seconds(seconds)};
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date{day};
  const std::chrono::hh_mm_ss<std::chrono::seconds> clock{time - day};
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", static_cast<int>(date.year()),
                     static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                     clock.hours().count(), clock.minutes().count(), clock.seconds().count());
}

// A decimal number: digits, and a fraction as numerator over a power of ten. Exact as far as
// int64 goes, so that `1.1s` is not a rounded double.
struct Decimal {
  std::uint64_t whole = 0;
  std::uint64_t fraction = 0;
  std::uint64_t fraction_scale = 1;
};

std::optional<Decimal> TakeDecimal(std::string_view& text) {
  Decimal number;
  std::size_t digits = 0;
  while (!text.empty() && IsDigit(text.front())) {
    const auto digit = static_cast<std::uint64_t>(text.front() - '0');
    if (number.whole > (std::numeric_limits<std::uint64_t>::max() - digit) / 10) {
      return std::nullopt;
    }
    number.whole = number.whole * 10 + digit;
    text.remove_prefix(1);
    ++digits;
  }
  if (digits == 0) return std::nullopt;
  if (TakeChar(text, '.')) {
    digits = 0;
    while (!text.empty() && IsDigit(text.front())) {
      if (digits < 9) {
        number.fraction = number.fraction * 10 + static_cast<std::uint64_t>(text.front() - '0');
        number.fraction_scale *= 10;
      }
      text.remove_prefix(1);
      ++digits;
    }
    if (digits == 0) return std::nullopt;
  }
  return number;
}

// number * unit, rounded down; nullopt above `max`.
std::optional<std::uint64_t> Times(const Decimal& number, std::uint64_t unit, std::uint64_t max) {
  if (number.whole > max / unit) return std::nullopt;
  const std::uint64_t fraction =
      absl::Uint128Low64(absl::uint128(unit) * number.fraction / number.fraction_scale);
  const std::uint64_t whole = number.whole * unit;
  if (fraction > max - whole) return std::nullopt;
  return whole + fraction;
}

struct Unit {
  std::string_view name;
  std::uint64_t size;
};

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kDay = 86'400 * kSecond;

// Longest first where one begins with another.
constexpr std::array<Unit, 8> kDurationUnits = {{{"ns", 1},
                                                 {"us", 1'000},
                                                 {"ms", 1'000'000},
                                                 {"s", kSecond},
                                                 {"m", 60 * kSecond},
                                                 {"h", 3600 * kSecond},
                                                 {"d", kDay},
                                                 {"w", 7 * kDay}}};

constexpr auto kDurationMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

absl::Status BadDuration(std::string_view text) {
  return absl::InvalidArgumentError(
      fmt::format("`{}` is not a duration; write for example 200ms, 30s, 1m30s, 12h or 7d", text));
}

absl::Status LongDuration(std::string_view text) {
  return absl::InvalidArgumentError(
      fmt::format("`{}` is longer than 292 years, the longest duration there is", text));
}

absl::StatusOr<Duration> ParseIsoDuration(std::string_view text) {
  std::string_view rest = text.substr(1);
  bool time_part = false;
  bool any = false;
  std::uint64_t total = 0;
  // Units must come in this order, each once.
  constexpr std::string_view kOrder = "WDThms";
  std::size_t reached = 0;
  while (!rest.empty()) {
    if (!time_part && TakeChar(rest, 'T')) {
      time_part = true;
      reached = kOrder.find('T') + 1;
      if (rest.empty()) return BadDuration(text);
      continue;
    }
    const std::optional<Decimal> number = TakeDecimal(rest);
    if (!number || rest.empty()) return BadDuration(text);
    const char letter = rest.front();
    rest.remove_prefix(1);
    std::uint64_t unit = 0;
    std::size_t place = std::string_view::npos;
    if (!time_part && letter == 'W') {
      unit = 7 * kDay;
      place = 0;
    } else if (!time_part && letter == 'D') {
      unit = kDay;
      place = 1;
    } else if (time_part && letter == 'H') {
      unit = 3600 * kSecond;
      place = 3;
    } else if (time_part && letter == 'M') {
      unit = 60 * kSecond;
      place = 4;
    } else if (time_part && letter == 'S') {
      unit = kSecond;
      place = 5;
    }
    if (place == std::string_view::npos || place < reached) return BadDuration(text);
    reached = place + 1;
    const std::optional<std::uint64_t> part = Times(*number, unit, kDurationMax);
    if (!part || *part > kDurationMax - total) return LongDuration(text);
    total += *part;
    any = true;
  }
  if (!any) return BadDuration(text);
  return Duration(static_cast<std::int64_t>(total));
}

constexpr std::array<Unit, 11> kByteUnits = {{{"B", 1},
                                              {"kB", 1'000},
                                              {"KB", 1'000},
                                              {"MB", 1'000'000},
                                              {"GB", 1'000'000'000},
                                              {"TB", 1'000'000'000'000},
                                              {"KiB", std::uint64_t{1} << 10},
                                              {"MiB", std::uint64_t{1} << 20},
                                              {"GiB", std::uint64_t{1} << 30},
                                              {"TiB", std::uint64_t{1} << 40},
                                              {"PiB", std::uint64_t{1} << 50}}};

}  // namespace

std::string FormatRfc3339(WallTime time) {
  const std::int64_t micros = time.time_since_epoch().count();
  std::int64_t seconds = micros / 1'000'000;
  std::int64_t fraction = micros % 1'000'000;
  if (fraction < 0) {
    fraction += 1'000'000;
    --seconds;
  }
  std::string text = FormatSeconds(seconds);
  if (fraction != 0) text += fmt::format(".{:06}", fraction);
  text += 'Z';
  return text;
}

std::string FormatRfc3339Nanos(std::int64_t seconds, std::int32_t nanos) {
  std::string text = FormatSeconds(seconds);
  if (nanos != 0) {
    if (nanos % 1'000'000 == 0) {
      text += fmt::format(".{:03}", nanos / 1'000'000);
    } else if (nanos % 1'000 == 0) {
      text += fmt::format(".{:06}", nanos / 1'000);
    } else {
      text += fmt::format(".{:09}", nanos);
    }
  }
  text += 'Z';
  return text;
}

absl::StatusOr<WallTime> ParseRfc3339(std::string_view text) {
  const auto refuse = [&](std::string_view why) -> absl::Status {
    return absl::InvalidArgumentError(
        fmt::format("`{}` is not an RFC 3339 time ({}); write for example 2026-03-29T01:00:00Z",
                    text.substr(0, 64), why));
  };
  std::string_view rest = text;
  const std::optional<int> year = TakeDigits(rest, 4);
  if (!year || !TakeChar(rest, '-')) return refuse("the year");
  const std::optional<int> month = TakeDigits(rest, 2);
  if (!month || !TakeChar(rest, '-')) return refuse("the month");
  const std::optional<int> day = TakeDigits(rest, 2);
  if (!day) return refuse("the day");
  if (!TakeChar(rest, 'T') && !TakeChar(rest, 't')) return refuse("no T after the date");
  const std::optional<int> hour = TakeDigits(rest, 2);
  if (!hour || *hour > 23 || !TakeChar(rest, ':')) return refuse("the hour");
  const std::optional<int> minute = TakeDigits(rest, 2);
  if (!minute || *minute > 59 || !TakeChar(rest, ':')) return refuse("the minute");
  const std::optional<int> second = TakeDigits(rest, 2);
  if (!second || *second > 59) return refuse("the second");
  std::int64_t micros = 0;
  if (TakeChar(rest, '.')) {
    std::size_t digits = 0;
    std::int64_t scale = 100'000;
    while (!rest.empty() && IsDigit(rest.front())) {
      micros += scale * (rest.front() - '0');
      scale /= 10;
      rest.remove_prefix(1);
      ++digits;
    }
    if (digits == 0) return refuse("the fraction");
  }
  int offset_minutes = 0;
  if (!TakeChar(rest, 'Z') && !TakeChar(rest, 'z')) {
    const bool negative = !rest.empty() && rest.front() == '-';
    if (!negative && (rest.empty() || rest.front() != '+')) return refuse("no offset");
    rest.remove_prefix(1);
    const std::optional<int> hours = TakeDigits(rest, 2);
    if (!hours || !TakeChar(rest, ':')) return refuse("the offset");
    const std::optional<int> minutes = TakeDigits(rest, 2);
    if (!minutes || *minutes > 59 || *hours * 60 + *minutes > 14 * 60) return refuse("the offset");
    offset_minutes = (*hours * 60 + *minutes) * (negative ? -1 : 1);
  }
  if (!rest.empty()) return refuse("something follows");
  const std::chrono::year_month_day date{std::chrono::year(*year),
                                         std::chrono::month(static_cast<unsigned>(*month)),
                                         std::chrono::day(static_cast<unsigned>(*day))};
  if (!date.ok()) return refuse("no such day");
  return WallTime(std::chrono::sys_days(date)) + std::chrono::hours(*hour) +
         std::chrono::minutes(*minute - offset_minutes) + std::chrono::seconds(*second) +
         std::chrono::microseconds(micros);
}

absl::StatusOr<Duration> ParseDuration(std::string_view text) {
  if (text.empty()) return BadDuration(text);
  if (text == "0") return Duration::zero();
  if (text.front() == 'P') return ParseIsoDuration(text);
  std::string_view rest = text;
  std::uint64_t total = 0;
  std::uint64_t last_unit = std::numeric_limits<std::uint64_t>::max();
  while (!rest.empty()) {
    const std::optional<Decimal> number = TakeDecimal(rest);
    if (!number) return BadDuration(text);
    std::size_t letters = 0;
    while (letters < rest.size() && !IsDigit(rest[letters])) ++letters;
    const std::string_view name = rest.substr(0, letters);
    rest.remove_prefix(letters);
    const Unit* unit = nullptr;
    for (const Unit& candidate : kDurationUnits) {
      if (candidate.name == name) unit = &candidate;
    }
    // Units fall, so that a slip like `1s1h` is not read as meant.
    if (unit == nullptr || unit->size >= last_unit) return BadDuration(text);
    last_unit = unit->size;
    const std::optional<std::uint64_t> part = Times(*number, unit->size, kDurationMax);
    if (!part || *part > kDurationMax - total) return LongDuration(text);
    total += *part;
  }
  return Duration(static_cast<std::int64_t>(total));
}

std::string FormatDuration(Duration duration) {
  std::int64_t left = duration.count();
  if (left == 0) return "0s";
  std::string text;
  auto rest = static_cast<std::uint64_t>(left);
  if (left < 0) {
    text = "-";
    rest = 0 - rest;
  }
  // Weeks are left out: 7d is what people write.
  for (std::size_t i = kDurationUnits.size() - 1; i-- > 0;) {
    const Unit& unit = kDurationUnits[i];
    if (rest < unit.size) continue;
    text += fmt::format("{}{}", rest / unit.size, unit.name);
    rest %= unit.size;
  }
  return text;
}

absl::StatusOr<std::uint64_t> ParseBytes(std::string_view text) {
  std::string_view rest = text;
  const std::optional<Decimal> number = TakeDecimal(rest);
  const Unit* unit = nullptr;
  if (rest.empty()) rest = "B";
  for (const Unit& candidate : kByteUnits) {
    if (candidate.name == rest) unit = &candidate;
  }
  if (!number || unit == nullptr) {
    return absl::InvalidArgumentError(fmt::format(
        "`{}` is not a size in bytes; write for example 512, 64KiB, 10GiB or 5MB", text));
  }
  const std::optional<std::uint64_t> bytes = Times(*number, unit->size, kDurationMax);
  if (!bytes) return absl::InvalidArgumentError(fmt::format("`{}` is too large a size", text));
  return *bytes;
}

std::string FormatBytes(std::uint64_t bytes) {
  if (bytes == 0) return "0";
  const Unit* best = nullptr;
  for (const Unit& unit : kByteUnits) {
    if (unit.size > 1 && bytes % unit.size == 0 && unit.name != "KB") {
      // A binary unit beats a decimal one, the larger of a kind the smaller.
      const bool binary = unit.name.size() == 3;
      if (best == nullptr || binary || best->name.size() != 3) best = &unit;
    }
  }
  return best == nullptr ? fmt::format("{}", bytes)
                         : fmt::format("{}{}", bytes / best->size, best->name);
}

}  // namespace tocsin
