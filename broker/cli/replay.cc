// tocsin replay: stored events given to a trigger again.

#include <fmt/format.h>

#include <memory>
#include <string>

#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/cli/commands.h"
#include "broker/cli/moment.h"
#include "broker/cli/session.h"

namespace tocsin::cli {
namespace {

using Request = v1::ReplayRequest;

struct Flags : SessionFlags {
  std::string trigger;
  std::string from;
  std::string to;
  std::string where;
  double rate = 0;
  bool dry_run = false;
  bool watch = false;
  bool stop = false;
};

// An expression, unless it looks like filters in JSON.
std::string FiltersOf(const std::string& where) {
  const std::size_t first = where.find_first_not_of(" \t\n");
  if (first == std::string::npos) return "";
  if (where[first] == '{' || where[first] == '[') return where;
  std::string json = R"([{"cesql":)";
  AppendJsonString(json, where);
  return json + "}]";
}

absl::Status SetSpan(const Flags& flags, Request& request) {
  const auto set = [](const std::string& text, std::string_view option, auto place,
                      auto time) -> absl::Status {
    if (text.empty() || text == "start" || text == "end") return absl::OkStatus();
    if (text.find('/') != std::string::npos) {
      place(text);
      return absl::OkStatus();
    }
    TOCSIN_ASSIGN_OR_RETURN(const std::int64_t us, ParseMoment(text, option));
    time(us);
    return absl::OkStatus();
  };
  TOCSIN_RETURN_IF_ERROR(set(
      flags.from, "--from", [&](const std::string& text) { request.set_from(text); },
      [&](std::int64_t us) { request.set_from_us(us); }));
  return set(
      flags.to, "--to", [&](const std::string& text) { request.set_to(text); },
      [&](std::int64_t us) { request.set_until_us(us); });
}

int Report(Console& console, const Flags& flags, const v1::ReplayReport& report) {
  if (flags.output.json()) {
    JsonWriter json;
    json.Object()
        .Field("trigger", flags.trigger)
        .Field("dry_run", flags.dry_run)
        .Field("events", report.copied())
        .Field("over", report.over())
        .Field("stopped", report.stopped())
        .End();
    console.Out(json);
    return kExitOk;
  }
  console.Out(fmt::format("{}: {} events {}{}\n", Clean(flags.trigger), report.copied(),
                          flags.dry_run ? "would be replayed" : "replayed",
                          report.stopped() ? ", then it was stopped"
                          : report.over()  ? ""
                                           : " so far; it goes on"));
  return kExitOk;
}

int Replay(Console& console, const Flags& flags) {
  if (flags.watch && flags.stop) {
    return console.FailUsage("replay", "--watch and --stop exclude each other");
  }
  Request request;
  request.set_trigger(flags.trigger);
  request.set_action(flags.watch ? Request::WATCH : flags.stop ? Request::STOP : Request::START);
  if (flags.rate < 0) return console.FailUsage("replay", "--rate: at least 0");
  if (const absl::Status set = SetSpan(flags, request); !set.ok()) {
    return console.FailUsage("replay", MessageOf(set));
  }
  request.set_where(FiltersOf(flags.where));
  request.set_rate(flags.rate);
  request.set_dry_run(flags.dry_run);
  return WithClient(console, flags.connection, [&](Client& client) {
    CatchInterrupts();
    const std::int64_t began_ms = NowMs();
    v1::ReplayReport last;
    bool any = false;
    const absl::Status status = client.Replay(request, [&](const v1::ReplayReport& report) {
      last = report;
      any = true;
      console.ShowProgress({report.done(), report.total(), NowMs() - began_ms, "events looked at"});
      return true;
    });
    console.ClearProgress();
    if (absl::IsCancelled(status) && any) {
      console.Note("the replay goes on in the broker; --watch shows it, --stop ends it");
      return Report(console, flags, last);
    }
    if (!status.ok()) return console.Fail(status);
    return Report(console, flags, last);
  });
}

}  // namespace

void AddReplay(Command& root) {
  Command& command = root.Add("replay", "give stored events to a trigger again, as new deliveries",
                              "tocsin replay --trigger import --from 2h --dry-run\n"
                              "tocsin replay --trigger import --from 2026-03-29T01:00:00Z --to 1h "
                              "--where \"type = 'order.paid'\" --rate 100");
  auto flags = std::make_shared<Flags>();
  command.options.push_back({.names = "--trigger",
                             .target = &flags->trigger,
                             .value = "NAME",
                             .help = "whose filters decide, and who gets them",
                             .required = true});
  command.options.push_back(
      {"--from", &flags->from, "WHERE",
       "start (default), a time (RFC 3339, or 2h for two hours ago) or <partition>/<offset>"});
  command.options.push_back(
      {"--to", &flags->to, "WHERE", "end (default), a time or <partition>/<offset>, not included"});
  command.options.push_back(
      {"--where", &flags->where, "FILTER",
       "of these alone: a CESQL expression, or filters in JSON, beside the trigger's own"});
  command.options.push_back(
      {"--rate", &flags->rate, "N", "at most so many events a second (default: as it goes)"});
  command.options.push_back({"--dry-run", &flags->dry_run, "", "only count them"});
  command.options.push_back(
      {"--watch", &flags->watch, "", "show how far a replay is that is under way"});
  command.options.push_back({"--stop", &flags->stop, "", "end the replay that is under way"});
  AddSession(command, *flags);
  command.run = [flags](Console& console) { return Replay(console, *flags); };
}

}  // namespace tocsin::cli
