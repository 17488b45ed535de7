// tocsin validate FILE.

#include <fmt/format.h>

#include <memory>
#include <vector>

#include "broker/cli/commands.h"
#include "broker/cli/session.h"
#include "broker/config/lint_config.h"
#include "broker/config/load.h"

namespace tocsin::cli {

void AddValidate(Command& root) {
  struct Flags {
    std::string file;
    OutputFlags output;
  };
  Command& command =
      root.Add("validate", "check a configuration; every error at once, with its place",
               "tocsin validate tocsin.yaml");
  auto flags = std::make_shared<Flags>();
  command.positionals.push_back(
      {.name = "FILE", .target = &flags->file, .help = "the configuration", .is_file = true});
  AddOutput(command, flags->output);
  command.run = [flags](Console& console) {
    std::vector<ConfigError> errors;
    const auto config = LoadConfig(flags->file, SystemConfigEnvironment(), &errors);
    std::vector<ConfigWarning> warnings;
    if (config.ok()) warnings = LintConfig(*config);
    if (flags->output.json()) {
      JsonWriter json;
      json.Object().Field("ok", config.ok()).Key("errors").Array();
      for (const ConfigError& error : errors) {
        json.Object()
            .Field("file", error.file)
            .Field("line", static_cast<std::uint64_t>(error.line))
            .Field("column", static_cast<std::uint64_t>(error.column))
            .Field("code", error.code)
            .Field("message", error.message)
            .End();
      }
      json.End().Key("warnings").Array();
      for (const ConfigWarning& warning : warnings) {
        json.Object()
            .Field("file", flags->file)
            .Field("line", static_cast<std::uint64_t>(warning.location.line))
            .Field("column", static_cast<std::uint64_t>(warning.location.column))
            .Field("trigger", warning.trigger)
            .Field("kind", warning.kind)
            .Field("message", warning.message)
            .End();
      }
      json.End().End();
      console.Out(json);
      return config.ok() ? kExitOk : kExitFailed;
    }
    for (const ConfigWarning& warning : warnings) {
      console.Note(fmt::format("{}:{}:{}: warning: {}", flags->file, warning.location.line,
                               warning.location.column, warning.ToString()));
    }
    if (config.ok()) {
      console.Out(fmt::format("{}: ok: {} sources, {} functions, {} triggers\n", flags->file,
                              config->sources.size(), config->functions.size(),
                              config->triggers.size()));
      return kExitOk;
    }
    for (const ConfigError& error : errors) console.Note(error.ToString());
    if (errors.empty()) return console.Fail(config.status());
    return kExitFailed;
  };
}

}  // namespace tocsin::cli
