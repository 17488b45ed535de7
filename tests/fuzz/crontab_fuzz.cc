// Any text as a crontab, in each form: every line is an entry, a setting or a note, and the
// configuration that comes of it is one that loads.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "broker/base/check.h"
#include "broker/cli/crontab.h"
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
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  tocsin::cli::CrontabOptions options;
  options.form =
      (data[0] & 1) != 0 ? tocsin::cli::CrontabForm::kSystem : tocsin::cli::CrontabForm::kUser;
  options.strict = (data[0] & 2) != 0;
  const auto imported = tocsin::cli::ImportCrontab({{"crontab", text}}, options);
  if (imported.entries.empty()) return 0;
  const Environment environment;
  const auto config = tocsin::ParseConfig(imported.yaml, "f", environment);
  TOCSIN_CHECK(config.ok(), "{}", config.status().ToString());
  TOCSIN_CHECK(config->triggers.size() == imported.entries.size());
  return 0;
}
