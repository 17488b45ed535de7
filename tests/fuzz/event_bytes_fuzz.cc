// Any bytes as an encoded event: refused, or every attribute readable and the JSON form acceptable.

#include <cstddef>
#include <cstdint>
#include <string>

#include "broker/base/check.h"
#include "broker/base/event.h"
#include "broker/base/event_json.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  const auto event = tocsin::Event::FromBytes(std::move(bytes), tocsin::EventLimits());
  if (!event.ok()) return 0;
  const tocsin::EventView view = event->View();
  for (const auto& attribute : view.attributes) {
    TOCSIN_CHECK(tocsin::CanonicalAttribute(view, attribute.name).has_value());
  }
  const auto again = tocsin::EventFromJson(tocsin::EventToJson(view),
                                           tocsin::EventLimits{.event_bytes_max = 1 << 24});
  TOCSIN_CHECK(again.ok());
  TOCSIN_CHECK(again->View().id == view.id);
  return 0;
}
