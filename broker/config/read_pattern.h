// `pattern:` and `transform:` of a trigger, from YAML with the places of their errors.

#pragma once

#include "broker/config/section.h"
#include "broker/routing/pattern.h"
#include "broker/routing/transform.h"

namespace tocsin {

// nullptr after an error. Words in quotes are strings; others are what JSON takes them for
// (numbers, true, false, null), else strings.
PatternPtr ReadPattern(ConfigReader& reader, YamlNode node);

// nullptr after an error. Words as above.
TransformPtr ReadTransform(ConfigReader& reader, YamlNode node);

}  // namespace tocsin
