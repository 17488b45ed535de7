// Any bytes as tocsin.yaml: errors with places and codes, or a configuration whose triggers have
// canonical JSON that reads back.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "broker/base/check.h"
#include "broker/base/json_scan.h"
#include "broker/config/load.h"

namespace {

class Environment final : public tocsin::ConfigEnvironment {
 public:
  std::optional<std::string> Variable(const std::string& name) const override { return name; }
  absl::StatusOr<std::string> ReadFile(const std::string& path, std::size_t) const override {
    return path;
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Environment environment;
  std::vector<tocsin::ConfigError> errors;
  const auto config = tocsin::ParseConfig(
      std::string_view(reinterpret_cast<const char*>(data), size), "f", environment, &errors);
  TOCSIN_CHECK(config.ok() == errors.empty());
  for (const tocsin::ConfigError& error : errors) {
    TOCSIN_CHECK(error.line >= 1 && error.column >= 1 && error.code.size() == 5);
  }
  if (!config.ok()) return 0;
  for (const tocsin::TriggerConfig& trigger : config->triggers) {
    tocsin::JsonValue value;
    TOCSIN_CHECK(tocsin::JsonScanner(trigger.spec.config_json).ReadDocument(value).ok());
    TOCSIN_CHECK(trigger.spec.config_hash.size() == 64);
  }
  return 0;
}
