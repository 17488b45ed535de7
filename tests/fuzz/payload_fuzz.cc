// Any text as a payload: what the two fast readers take is what the scanner takes, and they show
// the same tokens.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "broker/base/check.h"
#include "broker/routing/json_bitmap.h"
#include "broker/routing/json_tokens.h"
#include "tests/support/json_texts.h"

namespace tocsin {
namespace {

void Read(std::string_view text) {
  static JsonBitmap bitmap;
  static JsonTokens tokens;
  const bool json = IsJson(text);
  std::string by_bitmap;
  std::string by_tokens;
  if (ShowTokens(bitmap, text, by_bitmap)) {
    TOCSIN_CHECK(json, "the bitmap takes what is no JSON: {}", text);
    TOCSIN_CHECK(ShowTokens(tokens, text, by_tokens) && by_tokens == by_bitmap, "other tokens: {}",
                 text);
    TOCSIN_CHECK(bitmap.Begin(text) && bitmap.Skip(1) && bitmap.at_end(), "not passed: {}", text);
    static_cast<void>(bitmap.Begin(text));
    if (bitmap.Take('{') && bitmap.First() == '"') {
      const auto none = [](std::string_view) { return false; };
      TOCSIN_CHECK(bitmap.PassMembers(none) || (bitmap.Take('}') && bitmap.at_end()),
                   "members not passed: {}", text);
    }
  }
  // Its tokens alone prove no grammar.
  const bool taken = tokens.Begin(text) && tokens.Skip(kJsonDepthMax - 1) && tokens.at_end();
  TOCSIN_CHECK(json || !taken, "the tokens take what is no JSON: {}", text);
}

}  // namespace
}  // namespace tocsin

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  tocsin::Read(std::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
