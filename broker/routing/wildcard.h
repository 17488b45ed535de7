// Wildcard: a text with gaps, compiled once and matched in time linear in the text.
//
//   wildcard of patterns   a*.csv    `*` any bytes, `\*` and `\\` escaped, no `**`
//   LIKE of CESQL          a%b_c     `%` any characters, `_` one character, `\%` and `\_` escaped
//
// The literal before the first gap is a prefix, the one behind the last a suffix; what stands
// between is searched from left to right, each part where it occurs first. A part without `_` is
// found by memmem, one with `_` by a bit-parallel automaton, which is why it has a limit.
//
// Threading: immutable.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace tocsin {

inline constexpr std::size_t kWildcardBytesMax = 4096;
inline constexpr std::size_t kWildcardGapsMax = 64;
inline constexpr std::size_t kWildcardPartMax = 64;  // characters between two gaps, if one is `_`

class Wildcard {
 public:
  //   kInvalidArgument  names the place or the limit
  static absl::StatusOr<Wildcard> FromPattern(std::string_view text);
  static absl::StatusOr<Wildcard> FromLike(std::string_view text);

  bool Matches(std::string_view text) const;

  // What every matching text begins and ends with; empty if there is a gap or `_` at once.
  std::string_view prefix() const;
  std::string_view suffix() const;
  bool has_gap() const { return parts_.size() > 1; }

 private:
  struct Part {
    std::string text;                                            // with `_` as a byte 0xFF
    std::vector<std::pair<std::uint32_t, std::uint64_t>> masks;  // by code point, ascending
    std::uint64_t any = 0;                                       // positions that are `_`
    std::size_t characters = 0;
    bool has_any = false;
  };

  absl::Status Finish();
  static std::size_t MatchAt(const Part& part, std::string_view text);
  static bool EndsWith(const Part& part, std::string_view text);
  static std::size_t Find(const Part& part, std::string_view text);

  std::vector<Part> parts_;  // at least one; a gap between any two
};

}  // namespace tocsin
