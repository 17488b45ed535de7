// RFC 3339 text <-> WallTime, and durations and sizes as people write them.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "broker/base/clock.h"

namespace tocsin {

// `2026-03-29T01:00:00Z`, microseconds only if not zero; UTC.
std::string FormatRfc3339(WallTime time);

// Seconds and nanoseconds since 1970; 3, 6 or 9 digits of fraction, none if zero; UTC.
std::string FormatRfc3339Nanos(std::int64_t seconds, std::int32_t nanos);

// Any offset up to 14 hours, upper- or lower-case T and Z, fractions of any length (cut to
// microseconds). A leap second is refused.
absl::StatusOr<WallTime> ParseRfc3339(std::string_view text);

// `1m30s`, `200ms`, `1h`, `7d`, `2w`, `1.5s`, ISO 8601 `PT90S`. Never negative.
absl::StatusOr<Duration> ParseDuration(std::string_view text);
std::string FormatDuration(Duration duration);

// `64MiB`, `10GiB`, `1kB`, `512` (bytes).
absl::StatusOr<std::uint64_t> ParseBytes(std::string_view text);
std::string FormatBytes(std::uint64_t bytes);

}  // namespace tocsin
