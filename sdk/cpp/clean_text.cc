// Text for a protobuf string, which must be UTF-8.

#include <algorithm>

#include "sdk/cpp/engine.h"

namespace tocsin::sdk::internal {
namespace {

// How many bytes the UTF-8 character at the front has; 0: it is not one.
std::size_t CharacterBytes(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const std::size_t size = lead < 0x80                   ? 1
                           : lead >= 0xc2 && lead < 0xe0 ? 2
                           : lead >= 0xe0 && lead < 0xf0 ? 3
                           : lead >= 0xf0 && lead < 0xf5 ? 4
                                                         : 0;
  if (size == 0 || size > text.size()) {
    return 0;
  }
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) {
      return 0;
    }
  }
  const bool bad_second = (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) > 0x9f) ||
                          (lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) > 0x8f);
  return size > 1 && bad_second ? 0 : size;
}

}  // namespace

std::string CleanText(std::string_view text) {
  constexpr std::size_t kBytesMax = 4096;
  std::string clean;
  while (!text.empty() && clean.size() < kBytesMax) {
    const std::size_t size = CharacterBytes(text);
    if (size == 0) {
      clean += '?';
    } else {
      clean += text.substr(0, size);
    }
    text.remove_prefix(std::max<std::size_t>(size, 1));
  }
  return clean;
}

}  // namespace tocsin::sdk::internal
