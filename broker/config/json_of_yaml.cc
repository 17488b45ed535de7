#include "broker/config/json_of_yaml.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "absl/container/flat_hash_set.h"
#include "broker/base/json_scan.h"

namespace tocsin {

bool JsonOfYaml::Append(YamlNode node) {
  places_.push_back({json_.size(), node.location()});
  if (json_.size() > bytes_max_) return true;  // the parser says so
  switch (node.kind()) {
    case YamlKind::kNull:
      json_ += "null";
      return true;
    case YamlKind::kScalar:
      return Scalar(node);
    case YamlKind::kList:
      return List(node);
    case YamlKind::kMap:
      return Map(node);
  }
  return false;
}

YamlLocation JsonOfYaml::At(std::size_t offset) const {
  const auto behind =
      std::upper_bound(places_.begin(), places_.end(), offset,
                       [](std::size_t value, const Place& place) { return value < place.offset; });
  return behind == places_.begin() ? places_.front().location : std::prev(behind)->location;
}

bool JsonOfYaml::Scalar(YamlNode node) {
  const std::optional<ConfigText> text = reader_.Interpolate(node);
  if (!text) return false;
  if (node.plain() && !text->interpolated) {
    JsonValue value;
    const bool is_json = JsonScanner(text->value).ReadDocument(value).ok();
    if (is_json && value.raw.size() == text->value.size() && value.kind != JsonKind::kString) {
      json_ += text->value;
      return true;
    }
  }
  AppendJsonString(json_, text->value);
  return true;
}

bool JsonOfYaml::List(YamlNode node) {
  json_ += '[';
  bool first = true;
  for (const YamlNode& element : node.Elements()) {
    if (!first) json_ += ',';
    first = false;
    if (!Append(element)) return false;
  }
  json_ += ']';
  return true;
}

bool JsonOfYaml::Map(YamlNode node) {
  json_ += '{';
  bool first = true;
  absl::flat_hash_set<std::string_view> names;
  for (const YamlEntry& entry : node.Entries()) {
    if (entry.key.kind() != YamlKind::kScalar) {
      reader_.Error(entry.key.location(), config_code::kBadValue, "a key is a word");
      return false;
    }
    if (!names.insert(entry.key.text()).second) {
      reader_.Error(entry.key.location(), config_code::kDuplicateKey,
                    fmt::format("`{}` is given twice", entry.key.text().substr(0, 64)));
      return false;
    }
    if (!first) json_ += ',';
    first = false;
    AppendJsonString(json_, entry.key.text());
    json_ += ':';
    if (!Append(entry.value)) return false;
  }
  json_ += '}';
  return true;
}

}  // namespace tocsin
