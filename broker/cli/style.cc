#include "broker/cli/style.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace tocsin::cli {
namespace {

constexpr std::string_view Code(Tint tint) {
  switch (tint) {
    case Tint::kNone:
      return "";
    case Tint::kBold:
      return "1";
    case Tint::kDim:
      return "2";
    case Tint::kRed:
      return "31";
    case Tint::kGreen:
      return "32";
    case Tint::kYellow:
      return "33";
    case Tint::kCyan:
      return "36";
  }
  return "";
}

// The length of the UTF-8 sequence at the front of `text`; 0 if there is none.
std::size_t SequenceLength(std::string_view text) {
  auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  std::size_t length = 0;
  if (first < 0x80) {
    return 1;
  } else if (first >= 0xc2 && first < 0xe0) {
    length = 2;
  } else if (first >= 0xe0 && first < 0xf0) {
    length = 3;
  } else if (first >= 0xf0 && first < 0xf5) {
    length = 4;
  } else {
    return 0;
  }
  if (text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const bool overlong = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xf0 && byte(1) < 0x90);
  const bool beyond = (first == 0xed && byte(1) >= 0xa0) || (first == 0xf4 && byte(1) >= 0x90);
  return overlong || beyond ? 0 : length;
}

// U+0080 to U+009F are control characters too, and U+200E, U+200F, U+202A to U+202E, U+2066 to
// U+2069 turn the direction of what is shown.
bool IsUnsafe(std::string_view sequence) {
  auto byte = [&](std::size_t i) { return static_cast<unsigned char>(sequence[i]); };
  if (sequence.size() == 1) return byte(0) < 0x20 || byte(0) == 0x7f;
  if (sequence.size() == 2) return byte(0) == 0xc2 && byte(1) < 0xa0;
  if (sequence.size() != 3 || byte(0) != 0xe2) return false;
  if (byte(1) == 0x80)
    return byte(2) == 0x8e || byte(2) == 0x8f || (byte(2) >= 0xa8 && byte(2) <= 0xae);
  return byte(1) == 0x81 && byte(2) >= 0xa6 && byte(2) <= 0xa9;
}

}  // namespace

std::string Paint(bool colored, Tint tint, std::string_view text) {
  if (!colored || tint == Tint::kNone || text.empty()) return std::string(text);
  return fmt::format("\x1b[{}m{}\x1b[0m", Code(tint), text);
}

Tint TintOfState(std::string_view state) {
  static constexpr std::array<std::pair<std::string_view, Tint>, 18> kTints = {{
      {"active", Tint::kGreen},
      {"serving", Tint::kGreen},
      {"running", Tint::kGreen},
      {"attached", Tint::kGreen},
      {"starting", Tint::kYellow},
      {"paused", Tint::kYellow},
      {"detached", Tint::kYellow},
      {"throttled", Tint::kYellow},
      {"draining", Tint::kYellow},
      {"waiting", Tint::kYellow},
      {"expired", Tint::kYellow},
      {"blocked_by_key", Tint::kRed},
      {"read_only", Tint::kRed},
      {"failed", Tint::kRed},
      {"exhausted", Tint::kRed},
      {"rejected", Tint::kRed},
      {"undecodable", Tint::kRed},
      {"refused", Tint::kRed},
  }};
  for (const auto& [name, tint] : kTints) {
    if (name == state) return tint;
  }
  return Tint::kNone;
}

std::string Clean(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t length = SequenceLength(text);
    const std::string_view sequence = text.substr(0, std::max<std::size_t>(length, 1));
    if (length != 0 && !IsUnsafe(sequence)) {
      out.append(sequence);
    } else if (sequence == "\n") {
      out.append("\\n");
    } else if (sequence == "\r") {
      out.append("\\r");
    } else if (sequence == "\t") {
      out.append("\\t");
    } else {
      for (const char byte : sequence) {
        fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<unsigned char>(byte));
      }
    }
    text.remove_prefix(sequence.size());
  }
  return out;
}

std::size_t DisplayWidth(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char byte) {
    return (static_cast<unsigned char>(byte) & 0xc0) != 0x80;
  }));
}

std::string Clip(std::string_view text, std::size_t width) {
  if (width == 0 || DisplayWidth(text) <= width) return std::string(text);
  std::size_t end = 0;
  for (std::size_t columns = 0; columns + 1 < width; ++columns) {
    ++end;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) ++end;
  }
  return std::string(text.substr(0, end)) + "…";
}

std::string ShortAge(std::int64_t milliseconds) {
  if (milliseconds < 0) return "-";
  if (milliseconds < 1000) return fmt::format("{}ms", milliseconds);
  const std::int64_t seconds = milliseconds / 1000;
  if (seconds < 60) return fmt::format("{}s", seconds);
  auto two = [](std::int64_t big, char unit, std::int64_t small, char small_unit) {
    return small == 0 ? fmt::format("{}{}", big, unit)
                      : fmt::format("{}{}{}{}", big, unit, small, small_unit);
  };
  if (seconds < 3600) return two(seconds / 60, 'm', seconds % 60, 's');
  if (seconds < 86400) return two(seconds / 3600, 'h', seconds % 3600 / 60, 'm');
  return two(seconds / 86400, 'd', seconds % 86400 / 3600, 'h');
}

std::string ProgressLine(const Progress& progress, bool colored, std::size_t width) {
  const double seconds = static_cast<double>(progress.elapsed_ms) / 1000.0;
  const double rate = seconds > 0 ? static_cast<double>(progress.done) / seconds : 0;
  const std::string speed =
      rate >= 10 ? fmt::format("{:.0f}/s", rate) : fmt::format("{:.1f}/s", rate);
  if (progress.total == 0) {
    return Clip(fmt::format("{} {}, {}", progress.done, progress.unit, speed), width);
  }
  const std::uint64_t done = std::min(progress.done, progress.total);
  const double share = static_cast<double>(done) / static_cast<double>(progress.total);
  std::string tail = fmt::format(" {:3.0f} % {}/{} {}, {}", share * 100, done, progress.total,
                                 progress.unit, speed);
  if (rate > 0 && done < progress.total) {
    const double left_ms = static_cast<double>(progress.total - done) / rate * 1000;
    tail += fmt::format(", {} left", ShortAge(static_cast<std::int64_t>(left_ms)));
  }
  constexpr std::size_t kBarMax = 30;
  constexpr std::size_t kBarMin = 8;
  if (width < tail.size() + kBarMin) return Clip(std::string_view(tail).substr(1), width);
  const std::size_t bar = std::min(kBarMax, width - tail.size());
  const auto full = static_cast<std::size_t>(share * static_cast<double>(bar));
  std::string filled;
  std::string empty;
  for (std::size_t i = 0; i < bar; ++i) (i < full ? filled : empty) += i < full ? "█" : "░";
  return Paint(colored, Tint::kGreen, filled) + Paint(colored, Tint::kDim, empty) + tail;
}

}  // namespace tocsin::cli
