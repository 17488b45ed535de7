// Text for people: colours, widths, and text of strangers made safe for a terminal. Pure.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tocsin::cli {

enum class Tint : std::uint8_t { kNone, kBold, kDim, kRed, kGreen, kYellow, kCyan };

// `text` in the tint if `colored`, else `text` as it is. An empty text stays empty.
std::string Paint(bool colored, Tint tint, std::string_view text);

// The tint of a state or a reason that the broker names: green is well, yellow waits, red needs
// you.
Tint TintOfState(std::string_view state);

// Control characters and bytes that are not UTF-8 written as `\n`, `\x1b` and the like: what
// strangers put into events must neither move the cursor nor break a line.
std::string Clean(std::string_view text);

// Columns on a terminal, counted as code points. `text` is clean.
std::size_t DisplayWidth(std::string_view text);

// At most `width` columns, the last an ellipsis if something was cut. Width 0 cuts nothing.
std::string Clip(std::string_view text, std::size_t width);

// `850ms`, `12s`, `3m20s`, `2h5m`, `4d3h`; `-` below zero.
std::string ShortAge(std::int64_t milliseconds);

struct Progress {
  std::uint64_t done = 0;
  std::uint64_t total = 0;  // 0: not known
  std::int64_t elapsed_ms = 0;
  std::string_view unit;  // plural: events, letters
};

// One line, no line end: a bar, the share, the count, the rate and the time left. At most `width`
// columns. Without a total: the count and the rate.
std::string ProgressLine(const Progress& progress, bool colored, std::size_t width);

}  // namespace tocsin::cli
