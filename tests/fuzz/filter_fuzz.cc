// Any bytes as a filter in JSON: refused, or canonical: what it writes reads back as itself and
// decides the same.

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/event.h"
#include "broker/routing/filter.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const tocsin::Event* const kEvent = [] {
    tocsin::EventBuilder builder("1", "/shop", "order");
    builder.Attribute("subject", "eu/42.csv");
    return new tocsin::Event(tocsin::Event::FromTrustedBytes(std::move(builder).Encode()));
  }();
  const auto filter =
      tocsin::FilterFromJson(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!filter.ok() || *filter == nullptr) return 0;
  const std::string json = (*filter)->ToJson();
  const auto again = tocsin::FilterFromJson(json);
  TOCSIN_CHECK(again.ok());
  TOCSIN_CHECK((*again)->ToJson() == json);
  const tocsin::EventView view = kEvent->View();
  const bool matches = (*filter)->Matches(view);
  TOCSIN_CHECK((*again)->Matches(view) == matches);
  TOCSIN_CHECK((*filter)->Explain(view, "").matched == matches);
  return 0;
}
