// Lsn: a place in the write-ahead log of a PostgreSQL server, in bytes.

#pragma once

#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tocsin {

using Lsn = std::uint64_t;

// As PostgreSQL writes it: `16/B374D848`.
inline std::string FormatLsn(Lsn lsn) {
  return fmt::format("{:X}/{:X}", lsn >> 32, lsn & 0xffffffffU);
}

inline std::optional<Lsn> ParseLsn(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  std::uint32_t parts[2] = {};
  const std::string_view words[2] = {text.substr(0, slash), text.substr(slash + 1)};
  for (int i = 0; i < 2; ++i) {
    const char* end = words[i].data() + words[i].size();
    const auto [at, error] = std::from_chars(words[i].data(), end, parts[i], 16);
    if (error != std::errc() || at != end || words[i].empty()) return std::nullopt;
  }
  return (std::uint64_t{parts[0]} << 32) | parts[1];
}

}  // namespace tocsin
