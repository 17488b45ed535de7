#include "broker/config/lint_config.h"

#include <fmt/format.h>

#include "broker/routing/lint.h"

namespace tocsin {

std::string ConfigWarning::ToString() const {
  return fmt::format("trigger `{}`: {} [{}]", trigger, message, kind);
}

std::vector<ConfigWarning> LintConfig(const Config& config) {
  std::vector<RouteSpec> routes;
  std::vector<std::string_view> functions;
  routes.reserve(config.triggers.size());
  functions.reserve(config.triggers.size());
  for (const TriggerConfig& trigger : config.triggers) {
    routes.push_back(trigger.route);
    functions.push_back(trigger.spec.policy.function);
  }
  std::vector<ConfigWarning> warnings;
  for (LintFinding& finding : Lint(routes, functions)) {
    const TriggerConfig& trigger = config.triggers[finding.route];
    warnings.push_back({trigger.location, trigger.spec.name, std::string(LintName(finding.kind)),
                        std::move(finding.message)});
  }
  return warnings;
}

}  // namespace tocsin
