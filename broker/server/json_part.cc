#include "broker/server/json_part.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "broker/base/check.h"
#include "broker/base/json_scan.h"
#include "broker/routing/number.h"

namespace tocsin {
namespace {

std::string Compact(const JsonValue& value) {
  std::string text;
  AppendJsonCompact(text, value.raw);
  return text;
}

std::optional<std::string> Differ(const JsonValue& part, const JsonValue& whole,
                                  const std::string& path) {
  const auto differs = [&] {
    return fmt::format("{}: expected {}, was {}", path.empty() ? "the event" : path, Compact(part),
                       Compact(whole));
  };
  if (part.kind != whole.kind) return differs();
  switch (part.kind) {
    case JsonKind::kNull:
      return std::nullopt;
    case JsonKind::kBoolean:
      if (part.raw == whole.raw) return std::nullopt;
      return differs();
    case JsonKind::kNumber: {
      const std::optional<Number> a = Number::Parse(part.raw);
      const std::optional<Number> b = Number::Parse(whole.raw);
      if (a && b && Number::Compare(*a, *b) == 0) return std::nullopt;
      return differs();
    }
    case JsonKind::kString:
      if (JsonString(part) == JsonString(whole)) return std::nullopt;
      return differs();
    case JsonKind::kArray: {
      const std::vector<JsonValue> wanted = JsonElements(part);
      const std::vector<JsonValue> there = JsonElements(whole);
      if (wanted.size() != there.size()) return differs();
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        auto difference = Differ(wanted[i], there[i], fmt::format("{}[{}]", path, i));
        if (difference) return difference;
      }
      return std::nullopt;
    }
    case JsonKind::kObject: {
      const std::vector<JsonMember> there = JsonMembers(whole);
      for (const JsonMember& member : JsonMembers(part)) {
        const std::string name = path.empty() ? member.name : path + "." + member.name;
        const auto found = std::find_if(there.begin(), there.end(), [&](const JsonMember& other) {
          return other.name == member.name;
        });
        if (found == there.end()) {
          return fmt::format("{}: expected {}, is absent", name, Compact(member.value));
        }
        auto difference = Differ(member.value, found->value, name);
        if (difference) return difference;
      }
      return std::nullopt;
    }
  }
  return std::nullopt;
}

JsonValue Root(std::string_view json) {
  JsonValue root;
  const absl::Status status = JsonScanner(json).ReadDocument(root);
  TOCSIN_CHECK(status.ok(), "{}", json.substr(0, 256));
  return root;
}

}  // namespace

std::optional<std::string> JsonDifference(std::string_view part, std::string_view whole) {
  return Differ(Root(part), Root(whole), "");
}

}  // namespace tocsin
