// tocsin explain: what every trigger of a configuration says of one event.

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "broker/base/event_json.h"
#include "broker/base/status.h"
#include "broker/cli/commands.h"
#include "broker/cli/event_input.h"
#include "broker/cli/session.h"
#include "broker/config/load.h"
#include "broker/routing/route_table.h"

namespace tocsin::cli {
namespace {

struct Flags {
  std::string config;
  std::string event;
  std::string source;
  std::string trigger;
  OutputFlags output;
};

// What the function of a trigger that matches gets; nullopt if it is the event as it is.
std::optional<absl::StatusOr<std::string>> Transformed(const RouteSpec& route,
                                                       const Verdict& verdict,
                                                       const EventView& event,
                                                       const EventLimits& limits) {
  if (!verdict.matched || route.transform == nullptr) return std::nullopt;
  absl::StatusOr<std::string> made = route.transform->Apply(event, limits);
  if (!made.ok()) return made;
  return EventToJson(Event::FromTrustedBytes(*std::move(made)).View());
}

void AppendJson(JsonWriter& json, const RouteSpec& route, const Verdict& verdict,
                const std::optional<absl::StatusOr<std::string>>& transformed) {
  const auto raw_or_null = [&json](std::string_view name, const std::string& text) {
    json.Key(name);
    if (text.empty()) {
      json.Null();
    } else {
      json.Raw(text);
    }
  };
  json.Object().Field("trigger", route.name).Field("matched", verdict.matched).Key("clause");
  if (verdict.clause.empty()) {
    json.Null();
  } else {
    json.Value(verdict.clause);
  }
  raw_or_null("expected", verdict.expected);
  raw_or_null("actual", verdict.actual);
  json.Field("reason", verdict.reason).Key("errors").Array();
  for (const CesqlError& error : verdict.errors) {
    json.Object().Field("kind", CesqlErrorName(error.kind)).Field("message", error.message).End();
  }
  json.End();
  if (transformed) {
    json.Key("receives");
    if (transformed->ok()) {
      json.Raw(**transformed);
    } else {
      json.Null().Field("refused", MessageOf(transformed->status()));
    }
  }
  json.End();
}

int Explain(Console& console, const Flags& flags) {
  std::vector<ConfigError> errors;
  const auto config = LoadConfig(flags.config, SystemConfigEnvironment(), &errors);
  if (!config.ok()) {
    for (const ConfigError& error : errors) console.Note(error.ToString());
    return errors.empty() ? console.Fail(config.status()) : kExitFailed;
  }
  if (!flags.source.empty() &&
      std::none_of(config->sources.begin(), config->sources.end(),
                   [&](const SourceConfig& source) { return source.name == flags.source; })) {
    return console.Fail(fmt::format("there is no source '{}' in {}", flags.source, flags.config));
  }
  const absl::StatusOr<Event> event = ReadOneEvent(flags.event);
  if (!event.ok()) return console.Fail(event.status());
  std::vector<RouteSpec> routes;
  for (const TriggerConfig& trigger : config->triggers) {
    if (flags.trigger.empty() || trigger.route.name == flags.trigger) {
      routes.push_back(trigger.route);
    }
  }
  if (!flags.trigger.empty() && routes.empty()) {
    return console.Fail(fmt::format("there is no trigger '{}' in {}", flags.trigger, flags.config));
  }
  const auto table = RouteTable::Build(std::move(routes));
  if (flags.output.json()) {
    JsonWriter json;
    json.Array();
    for (std::uint32_t i = 0; i < table->size(); ++i) {
      const Verdict verdict = table->Explain(i, event->View(), flags.source);
      AppendJson(json, table->route(i), verdict,
                 Transformed(table->route(i), verdict, event->View(), config->broker.event_limits));
    }
    json.End();
    console.Out(json);
    return kExitOk;
  }
  if (table->size() == 0) {
    console.Note("no triggers");
    return kExitOk;
  }
  Table rows({{"TRIGGER"}, {"MATCHED"}, {"WHY NOT"}}, console.table_look(), console.Sink());
  for (std::uint32_t i = 0; i < table->size(); ++i) {
    const Verdict verdict = table->Explain(i, event->View(), flags.source);
    if (!rows.Row({table->route(i).name, verdict.matched ? "yes" : "no", verdict.reason})) break;
  }
  rows.Finish();
  for (std::uint32_t i = 0; i < table->size(); ++i) {
    const auto made = Transformed(table->route(i), table->Explain(i, event->View(), flags.source),
                                  event->View(), config->broker.event_limits);
    if (!made) continue;
    console.Note(made->ok()
                     ? fmt::format("{} gives its function {}", table->route(i).name, Clean(**made))
                     : fmt::format("{} gives its function nothing, a dead letter takes it: {}",
                                   table->route(i).name, Clean(MessageOf(made->status()))));
  }
  return kExitOk;
}

}  // namespace

void AddExplain(Command& root) {
  Command& command = root.Add("explain", "why an event matches a trigger or does not",
                              "tocsin explain -c tocsin.yaml --event event.json\n"
                              "tocsin explain -c tocsin.yaml --event - --source inbox -o json");
  auto flags = std::make_shared<Flags>();
  command.options.push_back({.names = "-c,--config",
                             .target = &flags->config,
                             .value = "FILE",
                             .help = "the configuration with the triggers",
                             .required = true,
                             .is_file = true});
  command.options.push_back({.names = "--event",
                             .target = &flags->event,
                             .value = "FILE",
                             .help = "an event in JSON; - is standard input",
                             .required = true,
                             .is_file = true});
  command.options.push_back(
      {.names = "--source",
       .target = &flags->source,
       .value = "NAME",
       .help = "the configured source that brings it; none: it is published"});
  command.options.push_back({.names = "--trigger",
                             .target = &flags->trigger,
                             .value = "NAME",
                             .help = "of this trigger only"});
  AddOutput(command, flags->output);
  command.run = [flags](Console& console) { return Explain(console, *flags); };
}

}  // namespace tocsin::cli
