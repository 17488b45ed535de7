// tocsin explain: what every trigger says of one event: those of a configuration, or of a running
// broker, which also knows what became of it.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "broker/base/event_json.h"
#include "broker/base/status.h"
#include "broker/cli/commands.h"
#include "broker/cli/event_input.h"
#include "broker/cli/moment.h"
#include "broker/cli/session.h"
#include "broker/config/load.h"
#include "broker/routing/route_table.h"

namespace tocsin::cli {
namespace {

struct Flags : SessionFlags {
  std::string place;
  std::string id;
  std::string since;
  std::string config;
  std::string event;
  std::string source;
  std::string trigger;
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

void RawOrNull(JsonWriter& json, std::string_view name, const std::string& text) {
  json.Key(name);
  if (text.empty()) {
    json.Null();
  } else {
    json.Raw(text);
  }
}

void TextOrNull(JsonWriter& json, std::string_view name, const std::string& text) {
  json.Key(name);
  if (text.empty()) {
    json.Null();
  } else {
    json.Value(text);
  }
}

void AppendJson(JsonWriter& json, const RouteSpec& route, const Verdict& verdict,
                const std::optional<absl::StatusOr<std::string>>& transformed) {
  json.Object().Field("trigger", route.name).Field("matched", verdict.matched);
  TextOrNull(json, "clause", verdict.clause);
  RawOrNull(json, "expected", verdict.expected);
  RawOrNull(json, "actual", verdict.actual);
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

int ExplainFile(Console& console, const Flags& flags) {
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

void AppendJson(JsonWriter& json, const v1::ExplainedEvent& event,
                const v1::TriggerVerdict& verdict) {
  json.Object().Field("trigger", verdict.trigger()).Field("matched", verdict.matched());
  TextOrNull(json, "clause", verdict.clause());
  RawOrNull(json, "expected", verdict.expected());
  RawOrNull(json, "actual", verdict.actual());
  json.Field("reason", verdict.reason()).Key("errors").Array();
  for (const v1::VerdictError& error : verdict.errors()) {
    json.Object().Field("kind", error.kind()).Field("message", error.message()).End();
  }
  json.End();
  if (!verdict.receives().empty()) {
    json.Key("receives").Raw(EventToJson(Event::FromTrustedBytes(verdict.receives()).View()));
  } else if (!verdict.receives_refused().empty()) {
    json.Key("receives").Null().Field("refused", verdict.receives_refused());
  }
  TextOrNull(json, "event", event.has_ref() ? RefText(event.ref()) : "");
  TextOrNull(json, "state", verdict.state());
  TextOrNull(json, "function", verdict.function());
  json.Field("workers", verdict.workers()).Key("notes").Array();
  for (const std::string& note : verdict.notes()) json.Value(note);
  json.End().Key("deliveries").Array();
  for (const v1::DeliveryFate& delivery : verdict.deliveries()) {
    json.Object()
        .Field("id", delivery.id())
        .Field("event", RefText(delivery.ref()))
        .Field("state", delivery.state())
        .Field("failed", delivery.failed());
    TextOrNull(json, "next_attempt",
               delivery.next_attempt_us() == 0 ? "" : TimeText(delivery.next_attempt_us()));
    json.Field("detail", delivery.detail()).End();
  }
  json.End().End();
}

std::string Became(const v1::DeliveryFate& delivery) {
  return fmt::format("{}{}{}{}{}", delivery.state(), delivery.detail().empty() ? "" : ": ",
                     delivery.detail(), delivery.next_attempt_us() == 0 ? "" : "; next attempt ",
                     delivery.next_attempt_us() == 0 ? "" : TimeText(delivery.next_attempt_us()));
}

Tint TintOfFate(const std::string& state) {
  if (state == "dead" || state == "expired" || state == "dying") return Tint::kRed;
  return state == "delayed" || state == "dropped" ? Tint::kYellow : Tint::kNone;
}

bool AddRows(Table& rows, const v1::TriggerVerdict& verdict) {
  std::string why = verdict.reason();
  for (const std::string& note : verdict.notes()) {
    why += fmt::format("{}{}", why.empty() ? "" : "; ", note);
  }
  if (!verdict.receives_refused().empty()) {
    why += fmt::format("{}its transform makes nothing of it: {}", why.empty() ? "" : "; ",
                       Clean(verdict.receives_refused()));
  }
  const std::string matched = verdict.matched() ? "yes" : "no";
  if (verdict.deliveries().empty()) return rows.Row({verdict.trigger(), matched, "", why});
  for (const v1::DeliveryFate& delivery : verdict.deliveries()) {
    if (!rows.Row({verdict.trigger(), matched, delivery.id(),
                   Cell(Became(delivery) + (why.empty() ? "" : "; " + why),
                        TintOfFate(delivery.state()))})) {
      return false;
    }
  }
  return true;
}

void TellEvent(Console& console, const v1::ExplainedEvent& event) {
  EventView view;
  if (event.has_ref() && ParseEvent(event.event(), view).ok()) {
    console.Note(fmt::format(
        "{} id {} source {} type {}, stored {}, {}", RefText(event.ref()), Clean(view.id),
        Clean(view.source), Clean(view.type), TimeText(event.recorded_us()),
        event.source().empty() ? "published" : "brought by source " + Clean(event.source())));
  }
  for (const std::string& note : event.notes()) console.Note(Clean(note));
}

void TellRefused(Console& console, const v1::RefusedEvent& refused) {
  console.Note(
      fmt::format("{}: an event id {} source {} was not taken{}: {}", TimeText(refused.at_us()),
                  Clean(refused.id()), Clean(refused.event_source()),
                  refused.source().empty() ? "" : " from source " + Clean(refused.source()),
                  refused.has_first() ? "it is a duplicate of " + RefText(refused.first())
                                      : Clean(refused.reason())));
}

int ExplainRunning(Console& console, const Flags& flags) {
  v1::ExplainRequest request;
  const int named =
      (flags.place.empty() ? 0 : 1) + (flags.id.empty() ? 0 : 1) + (flags.event.empty() ? 0 : 1);
  if (named != 1) {
    return console.FailUsage("explain", "say which event: PARTITION/OFFSET, --id, or --event");
  }
  if (!flags.place.empty()) {
    const std::size_t slash = flags.place.find('/');
    std::uint32_t partition = 0;
    std::uint64_t offset = 0;
    const auto number = [](std::string_view digits, auto& value) {
      const auto [rest, error] =
          std::from_chars(digits.data(), digits.data() + digits.size(), value);
      return error == std::errc() && rest == digits.data() + digits.size();
    };
    const std::string_view place = flags.place;
    if (slash == std::string::npos || !number(place.substr(0, slash), partition) ||
        !number(place.substr(slash + 1), offset)) {
      return console.FailUsage("explain", fmt::format("'{}' is no <partition>/<offset>, as in "
                                                      "1/4711",
                                                      Clean(flags.place)));
    }
    request.mutable_ref()->set_partition(partition);
    request.mutable_ref()->set_offset(offset);
  } else if (!flags.id.empty()) {
    const auto since = ParseMoment(flags.since, "--since");
    if (!since.ok()) return console.FailUsage("explain", MessageOf(since.status()));
    request.set_id(flags.id);
    request.set_event_source(flags.source);
    request.set_since_us(*since);
  } else {
    absl::StatusOr<Event> event = ReadOneEvent(flags.event);
    if (!event.ok()) return console.Fail(event.status());
    request.set_event(std::move(*event).bytes());
    request.set_source(flags.source);
  }
  request.set_trigger(flags.trigger);
  return WithClient(console, flags.connection, [&](Client& client) {
    v1::ExplainedEvent event;
    JsonWriter json;
    Table rows({{"TRIGGER"}, {"MATCHED"}, {"DELIVERY"}, {"WHAT BECAME OF IT, OR WHY NOT"}},
               console.table_look(), console.Sink());
    std::size_t verdicts = 0;
    std::vector<v1::RefusedEvent> refused;
    std::vector<std::string> gives;
    if (flags.output.json()) json.Array();
    const absl::Status status = client.Explain(request, [&](const v1::ExplainItem& item) {
      if (item.has_event()) {
        event = item.event();
        TellEvent(console, event);
        return true;
      }
      if (item.has_refused()) {
        refused.push_back(item.refused());
        return true;
      }
      ++verdicts;
      if (!flags.output.json()) {
        if (!item.verdict().receives().empty()) {
          gives.push_back(fmt::format(
              "{} gives its function {}", item.verdict().trigger(),
              Clean(EventToJson(Event::FromTrustedBytes(item.verdict().receives()).View()))));
        }
        return AddRows(rows, item.verdict());
      }
      AppendJson(json, event, item.verdict());
      return console.Out(json);
    });
    if (!status.ok()) return console.Fail(status);
    if (flags.output.json()) {
      json.End();
      console.Out(json);
    } else {
      rows.Finish();
      if (verdicts == 0 && refused.empty()) console.Note("no triggers");
    }
    for (const std::string& one : gives) console.Note(one);
    for (const v1::RefusedEvent& one : refused) TellRefused(console, one);
    return kExitOk;
  });
}

int Explain(Console& console, const Flags& flags) {
  if (flags.config.empty()) return ExplainRunning(console, flags);
  if (flags.event.empty() || !flags.place.empty() || !flags.id.empty()) {
    return console.FailUsage("explain",
                             "with --config name the event with --event: what is "
                             "stored only the broker knows");
  }
  return ExplainFile(console, flags);
}

}  // namespace

void AddExplain(Command& root) {
  Command& command =
      root.Add("explain", "why an event came to a trigger or did not, and what became of it",
               "tocsin explain 1/4711\n"
               "tocsin explain --id 42 --source /shop --since 1d\n"
               "tocsin explain --event event.json\n"
               "tocsin explain -c tocsin.yaml --event - --source inbox -o json");
  auto flags = std::make_shared<Flags>();
  command.positionals.push_back(
      {"PLACE", &flags->place, "a stored event: <partition>/<offset>", {}, false, false});
  command.options.push_back({"--id", &flags->id, "ID", "the newest stored event of this id"});
  command.options.push_back(
      {"--since", &flags->since, "TIME",
       "with --id: how far back to look, RFC 3339 or 1h for an hour ago (default 1h)"});
  command.options.push_back({.names = "--event",
                             .target = &flags->event,
                             .value = "FILE",
                             .help = "an event in JSON that is not stored; - is standard input",
                             .is_file = true});
  command.options.push_back(
      {.names = "--source",
       .target = &flags->source,
       .value = "NAME",
       .help = "with --id the event's source attribute; with --event the configured source that "
               "brings it; none: it is published"});
  command.options.push_back({.names = "--trigger",
                             .target = &flags->trigger,
                             .value = "NAME",
                             .help = "of this trigger only"});
  command.options.push_back({.names = "-c,--config",
                             .target = &flags->config,
                             .value = "FILE",
                             .help = "the triggers of this configuration, without a broker",
                             .is_file = true});
  AddSession(command, *flags);
  command.run = [flags](Console& console) { return Explain(console, *flags); };
}

}  // namespace tocsin::cli
