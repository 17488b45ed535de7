// tocsin filter eval: a sandbox for conditions, without a broker.

#include <fmt/format.h>

#include <memory>
#include <utility>
#include <vector>

#include "broker/base/event_json.h"
#include "broker/base/status.h"
#include "broker/cli/commands.h"
#include "broker/cli/event_input.h"
#include "broker/cli/session.h"
#include "broker/routing/route_table.h"

namespace tocsin::cli {
namespace {

struct Flags {
  std::string cesql;
  std::string pattern;
  std::string filters;
  std::string event;
  OutputFlags output;
};

struct Evaluation {
  std::string value = "false";  // JSON
  bool matched = false;
  std::vector<CesqlError> errors;
  std::string reason;  // of filters and patterns
};

Evaluation NotParsed(const absl::Status& status) {
  Evaluation evaluation;
  evaluation.errors.push_back({CesqlErrorKind::kParse, std::string(MessageOf(status))});
  return evaluation;
}

Evaluation OfRoute(RouteSpec route, const Event& event) {
  Verdict verdict = RouteTable::Build({std::move(route)})->Explain(0, event.View(), "");
  Evaluation evaluation;
  evaluation.value = verdict.matched ? "true" : "false";
  evaluation.matched = verdict.matched;
  evaluation.errors = std::move(verdict.errors);
  evaluation.reason = std::move(verdict.reason);
  return evaluation;
}

Evaluation Evaluate(const Flags& flags, const Event& event) {
  RouteSpec route;
  route.name = "filter";
  if (!flags.cesql.empty()) {
    const absl::StatusOr<CesqlPtr> cesql = Cesql::Parse(flags.cesql);
    if (!cesql.ok()) return NotParsed(cesql.status());
    CesqlResult result = (*cesql)->Evaluate(event.View());
    const bool matched = result.matched();
    return {result.value.ToJson(), matched, std::move(result.errors), ""};
  }
  if (!flags.pattern.empty()) {
    absl::StatusOr<PatternPtr> pattern = Pattern::FromJson(flags.pattern);
    if (!pattern.ok()) return NotParsed(pattern.status());
    route.pattern = *std::move(pattern);
  } else {
    absl::StatusOr<FilterPtr> filter = FilterFromJson(flags.filters);
    if (!filter.ok()) return NotParsed(filter.status());
    route.filter = *std::move(filter);
  }
  return OfRoute(std::move(route), event);
}

int Show(Console& console, const Flags& flags, const Evaluation& evaluation) {
  const bool parsed =
      evaluation.errors.empty() || evaluation.errors.front().kind != CesqlErrorKind::kParse;
  if (flags.output.json()) {
    JsonWriter json(JsonWriter::Layout::kLine);
    json.Object().Key("value").Raw(evaluation.value).Field("matched", evaluation.matched);
    json.Key("errors").Array();
    for (const CesqlError& error : evaluation.errors) {
      json.Object().Field("kind", CesqlErrorName(error.kind)).Field("message", error.message).End();
    }
    json.End().End();
    console.Out(json);
    return parsed ? kExitOk : kExitFailed;
  }
  if (!parsed) return console.Fail(evaluation.errors.front().message);
  console.Out(fmt::format("value    {}\nmatched  {}\n", Clean(evaluation.value),
                          evaluation.matched ? "yes" : "no"));
  if (!evaluation.reason.empty()) {
    console.Out(fmt::format("because  {}\n", Clean(evaluation.reason)));
    return kExitOk;
  }
  for (const CesqlError& error : evaluation.errors) {
    console.Out(fmt::format("error    {}: {}\n", CesqlErrorName(error.kind), Clean(error.message)));
  }
  return kExitOk;
}

}  // namespace

void AddFilter(Command& root) {
  Command& filter = root.Add("filter", "try out conditions of triggers", "");
  Command& command =
      filter.Add("eval", "evaluate one condition on one event, without a broker",
                 "tocsin filter eval --cesql \"type LIKE 'order.%'\" --event event.json\n"
                 "tocsin filter eval --pattern '{\"data\": {\"total\": [{\"numeric\": [\">\", "
                 "10]}]}}' --event -");
  auto flags = std::make_shared<Flags>();
  command.options.push_back({.names = "--cesql",
                             .target = &flags->cesql,
                             .value = "EXPR",
                             .help = "an expression in CloudEvents SQL"});
  command.options.push_back({.names = "--pattern",
                             .target = &flags->pattern,
                             .value = "JSON",
                             .help = "a pattern, as a trigger's `pattern`"});
  command.options.push_back({.names = "--filters",
                             .target = &flags->filters,
                             .value = "JSON",
                             .help = "a filter or a list of them, as a trigger's `filters`"});
  command.options.push_back({.names = "--event",
                             .target = &flags->event,
                             .value = "FILE",
                             .help = "an event in JSON; - is standard input",
                             .required = true,
                             .is_file = true});
  AddOutput(command, flags->output);
  command.run = [flags](Console& console) {
    const int given = (flags->cesql.empty() ? 0 : 1) + (flags->pattern.empty() ? 0 : 1) +
                      (flags->filters.empty() ? 0 : 1);
    if (given != 1) {
      return console.FailUsage("tocsin filter eval",
                               "give one of --cesql, --pattern and --filters");
    }
    const absl::StatusOr<Event> event = ReadOneEvent(flags->event);
    if (!event.ok()) return console.Fail(event.status());
    return Show(console, *flags, Evaluate(*flags, *event));
  };
}

}  // namespace tocsin::cli
