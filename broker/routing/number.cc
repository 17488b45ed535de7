#include "broker/routing/number.h"

#include <fmt/format.h>

#include <charconv>
#include <system_error>

namespace tocsin {

std::optional<Number> Number::Parse(std::string_view json) {
  const char* end = json.data() + json.size();
  std::int64_t whole = 0;
  const auto [stopped, error] = std::from_chars(json.data(), end, whole);
  if (error == std::errc() && stopped == end) return Of(whole);
  double value = 0;
  // The same value as the one below, sooner; what is out of range or odd is left to it.
  const auto [behind, fault] = std::from_chars(json.data(), end, value);
  if (fault == std::errc() && behind == end && std::isfinite(value)) return Of(value);
  const absl::from_chars_result result = absl::from_chars(json.data(), end, value);
  if (result.ptr != end || !std::isfinite(value)) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range && std::fabs(value) > 1) return std::nullopt;
  return Of(value);
}

std::string Number::ToJson() const {
  return whole ? fmt::format("{}", bits) : fmt::format("{}", AsDouble());
}

}  // namespace tocsin
