// tocsin simulate -c FILE.

#include <fmt/format.h>

#include <memory>

#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "broker/base/time_text.h"
#include "broker/cli/commands.h"
#include "broker/cli/session.h"
#include "broker/config/load.h"
#include "broker/schedule/explain.h"
#include "broker/server/simulation.h"

namespace tocsin::cli {
namespace {

struct Flags {
  OutputFlags output;
  std::string file;
  std::string from;
  std::string span = "24h";
  std::string source;
  bool boots = false;
};

void WriteFire(JsonWriter& json, const SimulatedFire& fire) {
  json.Object()
      .Field("at", FormatRfc3339(fire.nominal))
      .Field("actual", FormatRfc3339(fire.actual))
      .Field("source", fire.source)
      .Field("id", fire.id)
      .Field("type", fire.type)
      .Key("triggers")
      .Array();
  for (const std::string& trigger : fire.triggers) json.Value(trigger);
  json.End().Key("refused").Array();
  for (const auto& [trigger, message] : fire.refused) {
    json.Object().Field("trigger", trigger).Field("message", message).End();
  }
  json.End().End();
}

std::string TriggersText(const SimulatedFire& fire) {
  if (fire.triggers.empty()) return "none: nothing takes it";
  std::string text = fmt::format("{}", fmt::join(fire.triggers, ", "));
  for (const auto& [trigger, message] : fire.refused) {
    text += fmt::format(" ({}: dead letter, {})", trigger, message);
  }
  return text;
}

int Run(Console& console, const Flags& flags) {
  std::vector<ConfigError> errors;
  const auto config = LoadConfig(flags.file, SystemConfigEnvironment(), &errors);
  if (!config.ok()) {
    for (const ConfigError& error : errors) console.Note(error.ToString());
    return errors.empty() ? console.Fail(config.status()) : kExitFailed;
  }
  SimulationOptions options;
  options.from = SystemClock().Wall();
  options.boots = flags.boots;
  if (!flags.from.empty()) {
    const absl::StatusOr<WallTime> from = ParseInZone(flags.from, "UTC");
    if (!from.ok()) return console.Fail(from.status());
    options.from = *from;
  }
  const absl::StatusOr<Duration> span = ParseDuration(flags.span);
  if (!span.ok())
    return console.FailUsage("simulate", fmt::format("--for: {}", MessageOf(span.status())));
  options.span = *span;

  JsonWriter json;
  if (flags.output.json()) {
    json.Object()
        .Field("from", FormatRfc3339(options.from))
        .Field("for", FormatDuration(options.span))
        .Key("fires")
        .Array();
  }
  Table table({{"AT"}, {"SOURCE"}, {"LATE", true}, {"TRIGGERS"}}, console.table_look(),
              console.Sink());
  const auto result = Simulate(*config, options, [&](const SimulatedFire& fire) {
    if (!flags.source.empty() && fire.source != flags.source) return true;
    if (flags.output.json()) {
      WriteFire(json, fire);
      return console.Out(json);
    }
    const Duration late = fire.actual - fire.nominal;
    return table.Row({FormatRfc3339(fire.nominal), fire.source,
                      late < std::chrono::milliseconds(1) ? "" : FormatDuration(late),
                      TriggersText(fire)});
  });
  if (!result.ok()) return console.Fail(result.status());
  if (flags.output.json()) {
    json.End().Key("skipped").Array();
    for (const SimulatedSkip& skip : result->skips) {
      json.Object().Field("source", skip.source).Field("count", skip.count).End();
    }
    json.End().End();
    console.Out(json);
    return kExitOk;
  }
  table.Finish();
  for (const SimulatedSkip& skip : result->skips) {
    console.Note(
        fmt::format("{}: {} instants do not fire (paused, or missed)", skip.source, skip.count));
  }
  if (result->fires == 0) console.Note("nothing fires");
  return kExitOk;
}

}  // namespace

void AddSimulate(Command& root) {
  auto flags = std::make_shared<Flags>();
  Command& command =
      root.Add("simulate", "what a configuration's schedules will fire, and which triggers take it",
               "tocsin simulate -c tocsin.yaml --from 2026-03-28T12:00:00Z --for 24h");
  command.options.push_back({.names = "-c,--config",
                             .target = &flags->file,
                             .value = "FILE",
                             .help = "the configuration",
                             .required = true,
                             .is_file = true});
  command.options.push_back({.names = "--from",
                             .target = &flags->from,
                             .value = "TIME",
                             .help = "the first start, RFC 3339 (default now)"});
  command.options.push_back({.names = "--for",
                             .target = &flags->span,
                             .value = "TIME",
                             .help = "how long (default 24h)"});
  command.options.push_back({.names = "--source",
                             .target = &flags->source,
                             .value = "NAME",
                             .help = "this source alone"});
  command.options.push_back({.names = "--boot",
                             .target = &flags->boots,
                             .value = "",
                             .help = "it is the first start after a boot: @reboot fires"});
  AddOutput(command, flags->output);
  command.run = [flags](Console& console) { return Run(console, *flags); };
}

}  // namespace tocsin::cli
