// What is most likely a mistake in a valid configuration: broker/routing/lint.h with places.

#pragma once

#include <string>
#include <vector>

#include "broker/config/config.h"

namespace tocsin {

struct ConfigWarning {
  ConfigLocation location;  // of the trigger's name
  std::string trigger;
  std::string kind;  // `never-matches`
  std::string message;

  std::string ToString() const;  // without the place
};

// In the order of the file.
std::vector<ConfigWarning> LintConfig(const Config& config);

}  // namespace tocsin
