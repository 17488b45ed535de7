#include "broker/cli/moment.h"

#include <fmt/format.h>

#include <chrono>

#include "broker/base/system_clock.h"
#include "broker/base/time_text.h"
#include "broker/cli/style.h"

namespace tocsin::cli {

absl::StatusOr<std::int64_t> ParseMoment(const std::string& text, std::string_view option) {
  if (text.empty()) return 0;
  if (const auto time = ParseRfc3339(text); time.ok()) return time->time_since_epoch().count();
  const auto ago = ParseDuration(text);
  if (!ago.ok()) {
    return absl::InvalidArgumentError(fmt::format(
        "{}: '{}' is neither a time such as 2026-03-29T01:00:00Z nor a duration such as 1h", option,
        Clean(text)));
  }
  const auto wall = SystemClock().Wall();
  return (wall - std::chrono::duration_cast<std::chrono::microseconds>(*ago))
      .time_since_epoch()
      .count();
}

}  // namespace tocsin::cli
