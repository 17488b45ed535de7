#include "broker/partition/expiry.h"

#include <algorithm>

#include "broker/base/time_text.h"

namespace tocsin {

std::int64_t ExpiryMicros(const EventView& event, bool redriven) {
  if (redriven) return 0;
  const AttributeView* attribute = event.Find("expirytime");
  if (attribute == nullptr) return 0;
  if (attribute->kind == AttributeKind::kTimestamp) {
    return std::max<std::int64_t>(attribute->integer * 1'000'000, 1);
  }
  const auto time = ParseRfc3339(attribute->text);
  return time.ok() ? std::max<std::int64_t>(time->time_since_epoch().count(), 1) : 0;
}

}  // namespace tocsin
