// Times on the command line.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tocsin::cli {

// Microseconds since 1970 of an RFC 3339 time, or of `1h` for an hour ago; 0 for an empty text.
//   kInvalidArgument  names `option`
absl::StatusOr<std::int64_t> ParseMoment(const std::string& text, std::string_view option);

}  // namespace tocsin::cli
