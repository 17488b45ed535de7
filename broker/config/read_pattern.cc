#include "broker/config/read_pattern.h"

#include "broker/config/json_of_yaml.h"

namespace tocsin {

PatternPtr ReadPattern(ConfigReader& reader, YamlNode node) {
  JsonOfYaml json(reader, kPatternBytesMax);
  if (!json.Append(node)) return nullptr;
  PatternFault fault;
  PatternPtr pattern = Pattern::FromJson(json.json(), fault);
  if (pattern == nullptr) {
    reader.Error(json.At(fault.offset), config_code::kBadValue, std::move(fault.message));
  }
  return pattern;
}

TransformPtr ReadTransform(ConfigReader& reader, YamlNode node) {
  JsonOfYaml json(reader, kTransformBytesMax);
  if (!json.Append(node)) return nullptr;
  TransformFault fault;
  TransformPtr transform = Transform::FromJson(json.json(), fault);
  if (transform == nullptr) {
    reader.Error(json.At(fault.offset), config_code::kBadValue, "transform: " + fault.message);
  }
  return transform;
}

}  // namespace tocsin
