// Case of UTF-8 text, for comparisons that ignore it and for LOWER and UPPER of CESQL.
//
// One code point becomes one of the same number of bytes, so offsets stay what they were: the
// simple mappings of Latin (Latin-1, Extended-A, Extended Additional), Greek, Cyrillic, Armenian
// and full-width letters. Others (and those whose mapping has another length) compare as they are.
// Bytes that are not UTF-8 are left alone.
//
// Threading: pure functions.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tocsin {

// Both write text.size() bytes to `out`.
void LowerCase(std::string_view text, char* out);
void UpperCase(std::string_view text, char* out);

std::string LowerCase(std::string_view text);

// `lower` is in lower case already. Allocates nothing.
bool EqualsLowered(std::string_view text, std::string_view lower);

// The code point at `position` and its bytes; a byte that begins none counts as one.
struct CodePoint {
  std::uint32_t value = 0;
  std::size_t bytes = 1;
};
CodePoint CodePointAt(std::string_view text, std::size_t position);

std::size_t CountCodePoints(std::string_view text);

}  // namespace tocsin
