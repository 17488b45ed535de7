// tocsin cron next|explain.

#include <fmt/format.h>

#include <memory>

#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "broker/base/time_text.h"
#include "broker/cli/commands.h"
#include "broker/cli/session.h"
#include "broker/schedule/explain.h"
#include "broker/schedule/schedule.h"

namespace tocsin::cli {
namespace {

constexpr std::uint64_t kCountMax = 1'000'000;

struct Flags {
  OutputFlags output;
  std::vector<std::string> expression;  // one argument, or a field each
  std::string zone = "UTC";
  std::string name;
  std::string gap = "next";
  std::string overlap = "first";
  std::string from;
  std::uint64_t count = 5;
};

ScheduleSpec SpecOf(const Flags& flags) {
  ScheduleSpec spec;
  spec.name = flags.name;
  spec.cron = fmt::format("{}", fmt::join(flags.expression, " "));
  spec.timezone = flags.zone;
  spec.dst_gap = flags.gap == "skip" ? DstGap::kSkip : DstGap::kNext;
  spec.dst_overlap = flags.overlap == "both" ? DstOverlap::kBoth : DstOverlap::kFirst;
  return spec;
}

int Next(Console& console, const Flags& flags) {
  const ScheduleSpec spec = SpecOf(flags);
  const auto schedule = Schedule::Parse(spec);
  if (!schedule.ok()) return console.Fail(schedule.status());
  if (flags.count == 0 || flags.count > kCountMax) {
    return console.FailUsage("cron next", fmt::format("-n is between 1 and {}", kCountMax));
  }
  WallTime from = SystemClock().Wall();
  if (!flags.from.empty()) {
    const absl::StatusOr<WallTime> given = ParseInZone(flags.from, flags.zone);
    if (!given.ok()) return console.Fail(given.status());
    from = *given;
  }
  if ((*schedule)->at_boot()) {
    console.Note("@reboot has no instants of its own: it fires at the first start after a boot");
  }
  // @every counts from `from`; what cron fires does not depend on the anchor.
  JsonWriter json;
  if (flags.output.json()) json.Array();
  Table table({{"LOCAL"}, {"UTC"}, {"IN", true}, {"NOTE"}}, console.table_look(), console.Sink());
  std::optional<WallTime> at = from;
  for (std::uint64_t i = 0; i < flags.count && !(*schedule)->at_boot(); ++i) {
    at = (*schedule)->NextAfter(*at, from);
    if (!at.has_value()) break;
    if (flags.output.json()) {
      json.Value(FormatRfc3339(*at));
      if (!console.Out(json)) return kExitOk;
      continue;
    }
    const absl::StatusOr<std::string> note = ClockChangeNote(spec, *at);
    const absl::StatusOr<std::string> local = FormatInZone(*at, spec.timezone);
    if (!note.ok()) return console.Fail(note.status());
    if (!local.ok()) return console.Fail(local.status());
    const auto away = std::chrono::floor<std::chrono::seconds>(*at - from);
    if (!table.Row({*local, FormatRfc3339(*at), FormatDuration(away), *note})) return kExitOk;
  }
  if (flags.output.json()) {
    json.End();
    console.Out(json);
  } else {
    table.Finish();
  }
  return kExitOk;
}

int Explain(Console& console, const Flags& flags) {
  const absl::StatusOr<ScheduleMeaning> meaning = ExplainSchedule(SpecOf(flags));
  if (!meaning.ok()) return console.Fail(meaning.status());
  if (flags.output.json()) {
    JsonWriter json;
    json.Object().Field("summary", meaning->summary).Field("timezone", flags.zone);
    json.Key("fields").Array();
    for (const FieldMeaning& field : meaning->fields) {
      json.Object()
          .Field("field", field.field)
          .Field("text", field.text)
          .Field("meaning", field.meaning)
          .End();
    }
    json.End().Key("notes").Array();
    for (const std::string& note : meaning->notes) json.Value(note);
    json.End().End();
    console.Out(json);
    return kExitOk;
  }
  console.Out(fmt::format("{} ({})\n", meaning->summary, flags.zone));
  Table table({{"FIELD"}, {"TEXT"}, {"MEANS"}}, console.table_look(), console.Sink());
  for (const FieldMeaning& field : meaning->fields) {
    table.Row({field.field, field.text, field.meaning});
  }
  table.Finish();
  for (const std::string& note : meaning->notes) console.Out(fmt::format("{}\n", note));
  return kExitOk;
}

void AddCommon(Command& command, const std::shared_ptr<Flags>& flags) {
  command.positionals.push_back({.name = "EXPR",
                                 .target = &flags->expression,
                                 .help = "a cron expression in one argument or a field each, or "
                                         "@hourly, `@every 90s`, `@at <time>`"});
  command.options.push_back({.names = "--tz",
                             .target = &flags->zone,
                             .value = "ZONE",
                             .help = "time zone (default UTC)"});
  command.options.push_back({.names = "--name",
                             .target = &flags->name,
                             .value = "NAME",
                             .help = "the schedule's name, which decides H"});
  command.options.push_back({.names = "--dst-gap",
                             .target = &flags->gap,
                             .value = "WHAT",
                             .help = "a time that does not exist (default next)",
                             .choices = {"next", "skip"}});
  command.options.push_back({.names = "--dst-overlap",
                             .target = &flags->overlap,
                             .value = "WHAT",
                             .help = "a time that comes twice (default first)",
                             .choices = {"first", "both"}});
  AddOutput(command, flags->output);
}

}  // namespace

void AddCron(Command& root) {
  Command& cron = root.Add("cron", "what a cron expression means and when it fires",
                           "tocsin cron next '30 2 * * *' --tz Europe/Berlin");
  {
    auto flags = std::make_shared<Flags>();
    Command& next = cron.Add("next", "the next instants of an expression; JSON: a list of times",
                             "tocsin cron next '30 2 * * *' --tz Europe/Berlin -n 3\n"
                             "tocsin cron next @hourly --from 2026-03-29T00:00:00 -o json");
    AddCommon(next, flags);
    next.options.push_back({.names = "-n,--count",
                            .target = &flags->count,
                            .value = "N",
                            .help = "how many (default 5)"});
    next.options.push_back(
        {.names = "--from",
         .target = &flags->from,
         .value = "TIME",
         .help = "instants after this: RFC 3339, or the zone's wall clock (default now)"});
    next.run = [flags](Console& console) { return Next(console, *flags); };
  }
  auto flags = std::make_shared<Flags>();
  Command& explain =
      cron.Add("explain", "an expression in words", "tocsin cron explain '0 9 * * MON-FRI'");
  AddCommon(explain, flags);
  explain.run = [flags](Console& console) { return Explain(console, *flags); };
}

}  // namespace tocsin::cli
