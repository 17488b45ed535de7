// Any text as one of the small notations: times, durations, sizes, base64, delivery ids, globs.
// Refused, or what is written of it reads back as itself. The first byte says which notation.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "broker/base/base64.h"
#include "broker/base/check.h"
#include "broker/base/time_text.h"
#include "broker/partition/letter.h"
#include "connectors/file/file_spec.h"

namespace tocsin {
namespace {

void ReadGlob(std::string_view text) {
  const std::size_t cut = text.find('\n');
  if (cut == std::string_view::npos) return;
  const std::string pattern(text.substr(0, cut));
  if (!ValidateGlob(pattern).ok()) return;
  static_cast<void>(GlobMatches(pattern, std::string(text.substr(cut + 1))));
}

void Read(std::uint8_t what, std::string_view text) {
  switch (what % 6) {
    case 0:
      if (const auto time = ParseRfc3339(text); time.ok()) {
        TOCSIN_CHECK(*ParseRfc3339(FormatRfc3339(*time)) == *time, "{}", FormatRfc3339(*time));
      }
      break;
    case 1:
      if (const auto duration = ParseDuration(text); duration.ok()) {
        static_cast<void>(FormatDuration(*duration));
      }
      break;
    case 2:
      if (const auto bytes = ParseBytes(text); bytes.ok()) static_cast<void>(FormatBytes(*bytes));
      break;
    case 3:
      if (const auto bytes = DecodeBase64(text)) {
        TOCSIN_CHECK(EncodeBase64(*bytes) == text, "not canonical");
      }
      break;
    case 4:
      if (const auto id = ParseDeliveryId(text); id.ok()) {
        const std::string again = FormatDeliveryId(*id);
        const auto reread = ParseDeliveryId(again);
        TOCSIN_CHECK(reread.ok() && FormatDeliveryId(*reread) == again, "{}", again);
      }
      break;
    default:
      ReadGlob(text);
  }
}

}  // namespace
}  // namespace tocsin

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  tocsin::Read(data[0], std::string_view(reinterpret_cast<const char*>(data) + 1, size - 1));
  return 0;
}
