// `pattern:` of a trigger, from YAML to Pattern with the places of its errors.

#pragma once

#include "broker/config/section.h"
#include "broker/routing/pattern.h"

namespace tocsin {

// nullptr after an error. Words in quotes are strings; others are what JSON takes them for
// (numbers, true, false, null), else strings.
PatternPtr ReadPattern(ConfigReader& reader, YamlNode node);

}  // namespace tocsin
