#include "broker/routing/text_case.h"

namespace tocsin {
namespace {

bool IsPairBlock(std::uint32_t c) {
  return (c >= 0x100 && c <= 0x12F) || (c >= 0x132 && c <= 0x137) || (c >= 0x14A && c <= 0x177) ||
         (c >= 0x460 && c <= 0x481) || (c >= 0x48A && c <= 0x4BF) || (c >= 0x4D0 && c <= 0x52F) ||
         (c >= 0x1E00 && c <= 0x1E95) || (c >= 0x1EA0 && c <= 0x1EFF);
}

// Blocks in which the capital is odd and the small letter follows it.
bool IsOddPairBlock(std::uint32_t c) {
  return (c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17E) || (c >= 0x4C1 && c <= 0x4CE);
}

std::uint32_t Lower(std::uint32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  if (c >= 0xC0 && c <= 0xDE && c != 0xD7) return c + 32;
  if (IsPairBlock(c)) return c | 1;
  if (IsOddPairBlock(c)) return c + (c & 1);
  if (c == 0x178) return 0xFF;
  if (c == 0x386) return 0x3AC;
  if (c >= 0x388 && c <= 0x38A) return c + 37;
  if (c == 0x38C) return 0x3CC;
  if (c == 0x38E || c == 0x38F) return c + 63;
  if (c >= 0x391 && c <= 0x3AB && c != 0x3A2) return c + 32;
  if (c >= 0x400 && c <= 0x40F) return c + 80;
  if (c >= 0x410 && c <= 0x42F) return c + 32;
  if (c == 0x4C0) return 0x4CF;
  if (c >= 0x531 && c <= 0x556) return c + 48;
  if (c >= 0xFF21 && c <= 0xFF3A) return c + 32;
  return c;
}

std::uint32_t Upper(std::uint32_t c) {
  if (c < 0x80) return c >= 'a' && c <= 'z' ? c - 32 : c;
  if (c >= 0xE0 && c <= 0xFE && c != 0xF7) return c - 32;
  if (IsPairBlock(c)) return c & ~std::uint32_t{1};
  if (IsOddPairBlock(c)) return c - (1 - (c & 1));
  if (c == 0xFF) return 0x178;
  if (c == 0x3AC) return 0x386;
  if (c >= 0x3AD && c <= 0x3AF) return c - 37;
  if (c == 0x3CC) return 0x38C;
  if (c == 0x3CD || c == 0x3CE) return c - 63;
  if (c >= 0x3B1 && c <= 0x3CB && c != 0x3C2) return c - 32;
  if (c >= 0x450 && c <= 0x45F) return c - 80;
  if (c >= 0x430 && c <= 0x44F) return c - 32;
  if (c == 0x4CF) return 0x4C0;
  if (c >= 0x561 && c <= 0x586) return c - 48;
  if (c >= 0xFF41 && c <= 0xFF5A) return c - 32;
  return c;
}

void Encode(std::uint32_t c, std::size_t bytes, char* out) {
  const auto put = [](std::uint32_t byte) { return static_cast<char>(byte); };
  if (bytes == 1) {
    out[0] = put(c);
  } else if (bytes == 2) {
    out[0] = put(0xC0 | c >> 6);
    out[1] = put(0x80 | (c & 0x3F));
  } else if (bytes == 3) {
    out[0] = put(0xE0 | c >> 12);
    out[1] = put(0x80 | (c >> 6 & 0x3F));
    out[2] = put(0x80 | (c & 0x3F));
  }
}

template <typename Map>
void Convert(std::string_view text, char* out, Map map) {
  for (std::size_t i = 0; i < text.size();) {
    const CodePoint point = CodePointAt(text, i);
    const std::uint32_t mapped = map(point.value);
    if (mapped == point.value) {
      text.copy(out + i, point.bytes, i);
    } else {
      Encode(mapped, point.bytes, out + i);
    }
    i += point.bytes;
  }
}

}  // namespace

CodePoint CodePointAt(std::string_view text, std::size_t position) {
  const auto byte = [&](std::size_t at) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(text[at]));
  };
  const std::uint32_t first = byte(position);
  // A stray byte gets a value that no code point has, so that it maps to itself.
  constexpr std::uint32_t kStray = 0x110000;
  if (first < 0x80) return {first, 1};
  const std::size_t bytes = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 0;
  if (bytes == 0 || text.size() - position < bytes) return {kStray + first, 1};
  std::uint32_t value = first & (0x7Fu >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(position + i) & 0xC0) != 0x80) return {kStray + first, 1};
    value = value << 6 | (byte(position + i) & 0x3F);
  }
  // Of overlong forms too: what they would map to has another length.
  if (value < (bytes == 2 ? 0x80u : bytes == 3 ? 0x800u : 0x10000u)) return {kStray + first, 1};
  return {value, bytes};
}

std::size_t CountCodePoints(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < text.size(); i += CodePointAt(text, i).bytes) ++count;
  return count;
}

void LowerCase(std::string_view text, char* out) { Convert(text, out, Lower); }
void UpperCase(std::string_view text, char* out) { Convert(text, out, Upper); }

std::string LowerCase(std::string_view text) {
  std::string out(text.size(), '\0');
  LowerCase(text, out.data());
  return out;
}

bool EqualsLowered(std::string_view text, std::string_view lower) {
  if (text.size() != lower.size()) return false;
  char mapped[4];
  for (std::size_t i = 0; i < text.size();) {
    const CodePoint point = CodePointAt(text, i);
    LowerCase(text.substr(i, point.bytes), mapped);
    if (lower.substr(i, point.bytes) != std::string_view(mapped, point.bytes)) return false;
    i += point.bytes;
  }
  return true;
}

}  // namespace tocsin
