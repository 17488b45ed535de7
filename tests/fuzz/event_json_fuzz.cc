// Any bytes as CloudEvents JSON: refused, or an event whose JSON form reads back as the same JSON.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "broker/base/check.h"
#include "broker/base/event_json.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto events = tocsin::EventsFromJson(text, tocsin::EventLimits());
  if (!events.ok()) return 0;
  for (const tocsin::Event& event : *events) {
    const std::string json = tocsin::EventToJson(event.View());
    const auto again = tocsin::EventFromJson(json, tocsin::EventLimits());
    // Written out, an event may be longer than the limit it came in under.
    if (!again.ok() && json.size() > size) continue;
    TOCSIN_CHECK(again.ok());
    TOCSIN_CHECK(tocsin::EventToJson(again->View()) == json);
  }
  return 0;
}
