// When the deliveries of an event expire by its attribute `expirytime`.

#pragma once

#include <cstdint>

#include "broker/base/event.h"

namespace tocsin {

// In microseconds since 1970, at least 1; 0: never, also if the attribute is no time. A redriven
// delivery does not expire: who redrives it wants it delivered.
std::int64_t ExpiryMicros(const EventView& event, bool redriven);

}  // namespace tocsin
