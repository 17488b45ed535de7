#include "broker/config/read_pattern.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

// The node as JSON, remembering where each value of the text came from.
class JsonOfYaml {
 public:
  explicit JsonOfYaml(ConfigReader& reader) : reader_(reader) {}

  bool Append(YamlNode node) {
    places_.push_back({json_.size(), node.location()});
    if (json_.size() > kPatternBytesMax) return true;  // the parser says so
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

  const std::string& json() const { return json_; }

  // Of the innermost value round the byte.
  YamlLocation At(std::size_t offset) const {
    const auto behind = std::upper_bound(
        places_.begin(), places_.end(), offset,
        [](std::size_t value, const Place& place) { return value < place.offset; });
    return behind == places_.begin() ? places_.front().location : std::prev(behind)->location;
  }

 private:
  struct Place {
    std::size_t offset;
    YamlLocation location;
  };

  bool Scalar(YamlNode node) {
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

  bool List(YamlNode node) {
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

  bool Map(YamlNode node) {
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

  ConfigReader& reader_;
  std::string json_;
  std::vector<Place> places_;
};

}  // namespace

PatternPtr ReadPattern(ConfigReader& reader, YamlNode node) {
  JsonOfYaml json(reader);
  if (!json.Append(node)) return nullptr;
  PatternFault fault;
  PatternPtr pattern = Pattern::FromJson(json.json(), fault);
  if (pattern == nullptr) {
    reader.Error(json.At(fault.offset), config_code::kBadValue, std::move(fault.message));
  }
  return pattern;
}

}  // namespace tocsin
