#include <array>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include "broker/config/section.h"

namespace tocsin {

bool Section::PerTime(std::string_view name, std::uint32_t& count, Duration& per,
                      std::string_view description) {
  constexpr std::uint64_t kMost = 1'000'000;
  constexpr std::array<std::pair<std::string_view, std::chrono::seconds>, 4> kUnits = {
      {{"s", std::chrono::seconds(1)},
       {"m", std::chrono::minutes(1)},
       {"h", std::chrono::hours(1)},
       {"d", std::chrono::hours(24)}}};
  const YamlNode node =
      Take(name, "rate or `unlimited`", "unlimited",
           R"({"type":"string","pattern":"^(unlimited|[0-9]{1,7}/[smhd])$"})", description);
  const std::optional<ConfigText> text = Scalar(name, node);
  if (!text) return false;
  const std::string_view value = text->value;
  if (value == "unlimited") {
    count = 0;
    per = std::chrono::seconds(1);
    return true;
  }
  std::uint64_t number = 0;
  const auto [rest, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  const std::string_view unit = value.substr(static_cast<std::size_t>(rest - value.data()));
  for (const auto& [letter, span] : kUnits) {
    if (error != std::errc() || number == 0 || number > kMost || unit.size() != 2) break;
    if (unit[0] != '/' || unit.substr(1) != letter) continue;
    count = static_cast<std::uint32_t>(number);
    per = span;
    return true;
  }
  BadValue(name, node, *text,
           "so many per second, minute, hour or day, such as 20/s or 600/m (at most 1000000), or "
           "`unlimited`");
  return false;
}

}  // namespace tocsin
