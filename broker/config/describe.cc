#include <algorithm>
#include <memory>

#include "broker/base/json_scan.h"
#include "broker/config/load.h"
#include "broker/config/read_model.h"

namespace tocsin {
namespace {

std::string Quoted(std::string_view text) {
  std::string out;
  AppendJsonString(out, text);
  return out;
}

// Keys by their paths; `*` and `[]` are children of their own.
struct KeyNode {
  std::string name;
  const ConfigKey* key = nullptr;
  std::vector<std::unique_ptr<KeyNode>> children;

  KeyNode& Child(std::string_view wanted) {
    for (const auto& child : children) {
      if (child->name == wanted) return *child;
    }
    children.push_back(std::make_unique<KeyNode>());
    children.back()->name = std::string(wanted);
    return *children.back();
  }
};

void Insert(KeyNode& root, const ConfigKey& key) {
  KeyNode* node = &root;
  std::string_view rest = key.path;
  while (!rest.empty()) {
    const std::size_t dot = std::min(rest.find('.'), rest.size());
    std::string_view part = rest.substr(0, dot);
    rest.remove_prefix(std::min(dot + 1, rest.size()));
    const bool element = part.size() > 2 && part.substr(part.size() - 2) == "[]";
    if (element) part.remove_suffix(2);
    node = &node->Child(part);
    if (element) node = &node->Child("[]");
  }
  node->key = &key;
}

std::string ObjectSchema(const KeyNode& node);

std::string DefaultMember(const ConfigKey& key) {
  const std::string& value = key.default_value;
  if (value.empty() || value == "required" || value.front() == '[' || value.front() == '{') {
    return {};
  }
  JsonValue parsed;
  const bool literal =
      key.type != "text" && key.type != "size" && JsonScanner(value).ReadDocument(parsed).ok();
  return fmt::format(R"(,"default":{})", literal ? value : Quoted(value));
}

std::string NodeSchema(const KeyNode& node) {
  const ConfigKey& key = *node.key;
  const std::string notes =
      fmt::format(R"("description":{}{})", Quoted(key.description), DefaultMember(key));
  if (key.type == "map of names") {
    std::string value = R"({"type":["object","null"],"additionalProperties":false})";
    if (!node.children.empty()) value = ObjectSchema(*node.children.front());
    return fmt::format(R"({{{},"type":["object","null"],"propertyNames":{{"pattern":{}}},)"
                       R"("additionalProperties":{}}})",
                       notes, Quoted("^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"), value);
  }
  if (key.type == "map") {
    const std::string object = ObjectSchema(node);
    return fmt::format("{{{},{}", notes, object.substr(1));
  }
  if (key.type == "list of maps") {
    return fmt::format(R"({{{},"type":["array","null"],"items":{}}})", notes,
                       ObjectSchema(*node.children.front()));
  }
  const bool may_be_text = key.type == "text" || key.type == "size" ||
                           key.type.substr(0, 8) == "duration" || key.schema == "{}" ||
                           key.type.substr(0, 4) == "list" || key.type.substr(0, 3) == "map";
  if (may_be_text) {
    return fmt::format("{{{}{}{}", notes, key.schema == "{}" ? "" : ",", key.schema.substr(1));
  }
  // Any value may come from outside.
  return fmt::format(R"({{{},"anyOf":[{},{{"type":"string","pattern":{}}}]}})", notes, key.schema,
                     Quoted(R"(\$\{(env|file):)"));
}

std::string ObjectSchema(const KeyNode& node) {
  std::string properties;
  std::string required;
  for (const auto& child : node.children) {
    properties += fmt::format("{}{}:{}", properties.empty() ? "" : ",", Quoted(child->name),
                              NodeSchema(*child));
    if (child->key->default_value == "required") {
      required += fmt::format("{}{}", required.empty() ? "" : ",", Quoted(child->name));
    }
  }
  return fmt::format(R"({{"type":{},"additionalProperties":false{},"properties":{{{}}}}})",
                     required.empty() ? R"(["object","null"])" : R"("object")",
                     required.empty() ? "" : fmt::format(R"(,"required":[{}])", required),
                     properties);
}

constexpr std::string_view kFilterDefinition =
    R"({"type":"object","minProperties":1,"maxProperties":1,"additionalProperties":false,)"
    R"("properties":{"exact":{"$ref":"#/$defs/conditions"},)"
    R"("prefix":{"$ref":"#/$defs/conditions"},"suffix":{"$ref":"#/$defs/conditions"},)"
    R"("all":{"$ref":"#/$defs/filters"},"any":{"$ref":"#/$defs/filters"},)"
    R"("not":{"$ref":"#/$defs/filter"},"cesql":{"type":"string"},"sql":{"type":"string"}}})";
constexpr std::string_view kFiltersDefinition =
    R"({"type":"array","minItems":1,"items":{"$ref":"#/$defs/filter"}})";
constexpr std::string_view kConditionsDefinition =
    R"({"type":"object","minProperties":1,"propertyNames":{"pattern":"^[a-z][a-z0-9]*$"},)"
    R"("additionalProperties":{"type":["string","number","boolean"]}})";

// Well-formed, compact JSON with two spaces per level.
std::string Indented(std::string_view json) {
  std::string out;
  std::size_t depth = 0;
  const auto line = [&] {
    out.push_back('\n');
    out.append(depth * 2, ' ');
  };
  for (std::size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (c == '"') {
      const std::size_t start = i;
      for (++i; json[i] != '"'; ++i) {
        if (json[i] == '\\') ++i;
      }
      out += json.substr(start, i + 1 - start);
    } else if ((c == '{' || c == '[') && (json[i + 1] == '}' || json[i + 1] == ']')) {
      out += json.substr(i++, 2);
    } else if (c == '{' || c == '[') {
      out.push_back(c);
      ++depth;
      line();
    } else if (c == '}' || c == ']') {
      --depth;
      line();
      out.push_back(c);
    } else if (c == ',') {
      out.push_back(c);
      line();
    } else {
      out.push_back(c);
      if (c == ':') out.push_back(' ');
    }
  }
  out.push_back('\n');
  return out;
}

class NoEnvironment final : public ConfigEnvironment {
 public:
  std::optional<std::string> Variable(const std::string&) const override { return std::nullopt; }
  absl::StatusOr<std::string> ReadFile(const std::string&, std::size_t) const override {
    return absl::NotFoundError("no files");
  }
};

}  // namespace

std::vector<ConfigKey> DescribeConfig() {
  const NoEnvironment environment;
  ConfigReader reader("", environment);
  std::vector<ConfigKey> keys;
  reader.describing = &keys;
  Config config;
  ReadFileModel(reader, {}, config);
  return keys;
}

std::string ConfigSchema() {
  const std::vector<ConfigKey> keys = DescribeConfig();
  KeyNode root;
  for (const ConfigKey& key : keys) Insert(root, key);
  const std::string object = ObjectSchema(root);
  return Indented(fmt::format(
      R"({{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"tocsin.yaml",)"
      R"("$defs":{{"filter":{},"filters":{},"conditions":{}}},{})",
      kFilterDefinition, kFiltersDefinition, kConditionsDefinition, object.substr(1)));
}

std::string ConfigReferenceTable() {
  std::string table = "| key | default | value | what it is |\n|---|---|---|---|\n";
  for (const ConfigKey& key : DescribeConfig()) {
    std::string shown;
    if (key.default_value == "required") {
      shown = "required";
    } else if (!key.default_value.empty() && key.default_value != "{}" &&
               key.default_value != "[]") {
      shown = fmt::format("`{}`", key.default_value);
    }
    table += fmt::format("| `{}` | {} | {} | {} |\n", key.path, shown, key.type, key.description);
  }
  return table;
}

}  // namespace tocsin
