// tocsin schedule add|list|show|pause|resume|remove|fire|backfill.

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "broker/base/time_text.h"
#include "broker/cli/commands.h"
#include "broker/cli/input.h"
#include "broker/cli/schedule_output.h"
#include "broker/cli/session.h"
#include "broker/schedule/explain.h"

namespace tocsin::cli {
namespace {

using Control = v1::ControlScheduleRequest;

constexpr std::size_t kDataBytesMax = 3 * 1024 * 1024;

struct AddFlags : SessionFlags {
  std::string name;
  std::string cron, every, at, in;
  std::string zone = "UTC";
  std::string missed, window, overlap, spread, jitter, gap, twice;
  std::uint64_t missed_max = 0;
  std::string source, type, subject, key, data, content_type;
  std::vector<std::string> attributes;
  bool paused = false;
  bool replace = false;
};

struct NameFlags : SessionFlags {
  std::string name;
};

struct ListFlags : SessionFlags {
  bool delayed = false;
};

struct BackfillFlags : NameFlags {
  std::string from, to;
  std::string zone = "UTC";
  bool dry_run = false;
};

absl::StatusOr<std::int64_t> Micros(const std::string& option, const std::string& text) {
  const auto duration = ParseDuration(text);
  if (!duration.ok()) return Annotate(duration.status(), option);
  return std::chrono::duration_cast<std::chrono::microseconds>(*duration).count();
}

absl::Status SetWhen(const AddFlags& flags, v1::Schedule& schedule) {
  const int given = (flags.cron.empty() ? 0 : 1) + (flags.every.empty() ? 0 : 1) +
                    (flags.at.empty() ? 0 : 1) + (flags.in.empty() ? 0 : 1);
  if (given != 1) {
    return absl::InvalidArgumentError("one of --cron, --every, --at and --in says when it fires");
  }
  if (!flags.cron.empty()) schedule.set_cron(flags.cron);
  if (!flags.every.empty()) schedule.set_cron("@every " + flags.every);
  if (!flags.at.empty()) {
    const auto at = ParseInZone(flags.at, flags.zone);
    if (!at.ok()) return Annotate(at.status(), "--at");
    schedule.set_at_us(at->time_since_epoch().count());
  }
  if (!flags.in.empty()) {
    TOCSIN_ASSIGN_OR_RETURN(const std::int64_t in, Micros("--in", flags.in));
    schedule.set_in_us(in);
  }
  schedule.set_timezone(flags.zone);
  return absl::OkStatus();
}

absl::StatusOr<v1::Schedule> Build(const AddFlags& flags) {
  v1::Schedule schedule;
  schedule.set_name(flags.name);
  TOCSIN_RETURN_IF_ERROR(SetWhen(flags, schedule));
  schedule.set_missed(flags.missed);
  schedule.set_overlap(flags.overlap);
  schedule.set_dst_gap(flags.gap);
  schedule.set_dst_overlap(flags.twice);
  schedule.set_missed_max(static_cast<std::uint32_t>(flags.missed_max));
  if (!flags.window.empty()) {
    TOCSIN_ASSIGN_OR_RETURN(const std::int64_t us, Micros("--missed-window", flags.window));
    schedule.set_missed_window_us(us);
  }
  if (!flags.spread.empty()) {
    TOCSIN_ASSIGN_OR_RETURN(const std::int64_t us, Micros("--spread", flags.spread));
    schedule.set_spread_us(us);
  }
  if (!flags.jitter.empty()) {
    TOCSIN_ASSIGN_OR_RETURN(const std::int64_t us, Micros("--jitter", flags.jitter));
    schedule.set_jitter_us(us);
  }
  schedule.set_source(flags.source);
  schedule.set_type(flags.type);
  schedule.set_subject(flags.subject);
  schedule.set_datacontenttype(flags.content_type);
  schedule.set_paused(flags.paused);
  if (!flags.key.empty()) (*schedule.mutable_attributes())["partitionkey"] = flags.key;
  for (const std::string& attribute : flags.attributes) {
    const std::size_t equals = attribute.find('=');
    if (equals == 0 || equals == std::string::npos) {
      return absl::InvalidArgumentError(
          fmt::format("--attribute: '{}' is not NAME=VALUE", Clean(attribute)));
    }
    (*schedule.mutable_attributes())[attribute.substr(0, equals)] = attribute.substr(equals + 1);
  }
  if (flags.data.empty()) return schedule;
  std::string data = flags.data;
  if (data == "-" || data.front() == '@') {
    auto read = ReadWhole(data == "-" ? "-" : data.substr(1), kDataBytesMax);
    if (!read.ok()) return Annotate(read.status(), "--data");
    data = std::move(*read);
  }
  schedule.set_text_data(std::move(data));
  return schedule;
}

void Report(Console& console, const SessionFlags& flags, std::string_view done,
            const v1::ScheduleStatus& status) {
  if (flags.output.json()) {
    JsonWriter json;
    AppendSchedule(json, status);
    console.Out(json);
    return;
  }
  const std::string next =
      status.next_us() == 0 ? "" : fmt::format("; next {}", TimeText(status.next_us()));
  console.Out(fmt::format("{}: {}{}\n", Clean(status.schedule().name()), done, next));
}

int Run(Console& console, const NameFlags& flags, Control::Action action, std::string_view done) {
  return WithClient(console, flags.connection, [&](Client& client) {
    Control request;
    request.set_name(flags.name);
    request.set_action(action);
    auto answer = client.ControlSchedule(request);
    if (!answer.ok()) return console.Fail(answer.status());
    if (action == Control::REMOVE) answer->clear_next_us();
    if (action == Control::SHOW && !flags.output.json()) {
      console.Out(ScheduleText(*answer));
    } else {
      Report(console, flags, done, *answer);
    }
    return kExitOk;
  });
}

int Add(Console& console, const AddFlags& flags) {
  const auto schedule = Build(flags);
  if (!schedule.ok()) return console.FailUsage("schedule add", MessageOf(schedule.status()));
  return WithClient(console, flags.connection, [&](Client& client) {
    v1::AddSchedulesRequest request;
    *request.add_schedules() = *schedule;
    request.set_replace(flags.replace);
    const auto answer = client.AddSchedules(request);
    if (!answer.ok()) return console.Fail(answer.status());
    if (!answer->refusals().empty()) return console.Fail(answer->refusals(0).error());
    Control show;
    show.set_name(flags.name);
    show.set_action(Control::SHOW);
    const auto added = client.ControlSchedule(show);
    if (added.ok()) {
      Report(console, flags, "added", *added);
    } else if (!flags.output.json()) {
      console.Out(fmt::format("{}: added\n", Clean(flags.name)));  // it has fired already
    }
    return kExitOk;
  });
}

int List(Console& console, const ListFlags& flags) {
  return WithClient(console, flags.connection, [&](Client& client) {
    v1::ListSchedulesRequest request;
    request.set_delayed(flags.delayed);
    std::vector<v1::ScheduleStatus> all;
    const absl::Status status =
        client.ListSchedules(request, [&all](const v1::ScheduleStatus& one) {
          all.push_back(one);
          return true;
        });
    if (!status.ok()) return console.Fail(status);
    std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) {
      return a.schedule().name() < b.schedule().name();
    });
    if (flags.output.json()) {
      JsonWriter json;
      json.Array();
      for (const v1::ScheduleStatus& one : all) {
        AppendSchedule(json, one);
        if (!console.Out(json)) return kExitOk;
      }
      json.End();
      console.Out(json);
    } else if (all.empty()) {
      console.Note(flags.delayed ? "no event waits for its time" : "no schedules");
    } else {
      Table table(ScheduleColumns(), console.table_look(), console.Sink());
      for (const v1::ScheduleStatus& one : all) {
        if (!table.Row(ScheduleRow(one))) return kExitOk;
      }
      table.Finish();
    }
    return kExitOk;
  });
}

int Backfill(Console& console, const BackfillFlags& flags) {
  v1::BackfillScheduleRequest request;
  request.set_name(flags.name);
  request.set_dry_run(flags.dry_run);
  const auto from = ParseInZone(flags.from, flags.zone);
  if (!from.ok()) {
    return console.FailUsage("schedule backfill", MessageOf(Annotate(from.status(), "--from")));
  }
  request.set_from_us(from->time_since_epoch().count());
  WallTime to = SystemClock().Wall();
  if (!flags.to.empty()) {
    const auto given = ParseInZone(flags.to, flags.zone);
    if (!given.ok()) {
      return console.FailUsage("schedule backfill", MessageOf(Annotate(given.status(), "--to")));
    }
    to = *given;
  }
  request.set_to_us(to.time_since_epoch().count());
  return WithClient(console, flags.connection, [&](Client& client) {
    CatchInterrupts();
    JsonWriter json;
    if (flags.output.json()) json.Object().Key("instants").Array();
    std::uint64_t count = 0;
    const absl::Status status =
        client.BackfillSchedule(request, [&](const v1::BackfillProgress& progress) {
          count = progress.count();
          for (const std::int64_t us : progress.instants_us()) {
            if (flags.output.json()) {
              json.Value(TimeText(us));
              if (!console.Out(json)) return false;
            } else if (!console.Out(TimeText(us) + "\n")) {
              return false;
            }
          }
          return true;
        });
    if (flags.output.json()) {
      json.End().Field("name", flags.name).Field("dry_run", flags.dry_run).Field("count", count);
      json.End();
      console.Out(json);
    } else {
      console.Out(fmt::format("{}: {} instants {}\n", Clean(flags.name), count,
                              flags.dry_run ? "would fire" : "fired"));
    }
    return status.ok() ? kExitOk : console.Fail(status);
  });
}

void AddControl(Command& schedule, const std::string& name, const char* summary,
                Control::Action action, std::string done) {
  Command& command =
      schedule.Add(name, summary, fmt::format("tocsin schedule {} nightly-report", name));
  auto flags = std::make_shared<NameFlags>();
  command.positionals.push_back({"NAME", &flags->name, "the schedule", {}, true, false});
  AddSession(command, *flags);
  command.run = [flags, action, done = std::move(done)](Console& console) {
    return Run(console, *flags, action, done);
  };
}

void AddAdd(Command& schedule) {
  Command& command = schedule.Add(
      "add", "add a schedule: its events come until it is removed, or once",
      "tocsin schedule add report --cron '30 2 * * *' --timezone Europe/Berlin --type report.due\n"
      "tocsin schedule add remind-17 --in 3d --type reminder --data '{\"order\": 17}'");
  auto flags = std::make_shared<AddFlags>();
  command.positionals.push_back(
      {"NAME", &flags->name, "letters, digits and ._:@-", {}, true, false});
  command.options = {
      {"--cron", &flags->cron, "EXPR", "when: a cron expression, or @hourly and the like"},
      {"--every", &flags->every, "DURATION", "when: again and again, from now on"},
      {"--at", &flags->at, "TIME", "when: once, at this time"},
      {"--in", &flags->in, "DURATION", "when: once, so long from now"},
      {"--timezone", &flags->zone, "ZONE", "of --cron and --at (default: UTC)"},
      {"--missed", &flags->missed, "POLICY", "of instants that were missed (default: last)"},
      {"--missed-window", &flags->window, "DURATION", "missed ones older than this never fire"},
      {"--missed-max", &flags->missed_max, "N", "with --missed all: at most so many"},
      {"--overlap", &flags->overlap, "POLICY", "while the run before is not done (default: skip)"},
      {"--spread", &flags->spread, "DURATION", "late by a part of this that the name decides"},
      {"--jitter", &flags->jitter, "DURATION", "late by a random part of this"},
      {"--dst-gap", &flags->gap, "POLICY", "a time that the clocks leave out (default: next)"},
      {"--dst-overlap", &flags->twice, "POLICY", "a time that comes twice (default: first)"},
      {"--type", &flags->type, "TYPE", "of its events (default: dev.tocsin.timer.fired)"},
      {"--source", &flags->source, "URI", "of its events (default: /schedules/NAME)"},
      {"--subject", &flags->subject, "TEXT", "of its events"},
      {"--key", &flags->key, "KEY", "of its events (partitionkey)"},
      {"--data", &flags->data, "JSON|@FILE|-", "of its events"},
      {"--content-type", &flags->content_type, "TYPE", "of the data (default: application/json)"},
      {"--attribute", &flags->attributes, "NAME=VALUE", "another attribute; may be given again"},
      {"--paused", &flags->paused, "", "it fires nothing until it is resumed"},
      {"--replace", &flags->replace, "", "in place of one of the same name"},
  };
  const auto choices = [&command](std::string_view name, std::vector<std::string> words) {
    for (Option& option : command.options) {
      if (option.names == name) option.choices = words;
    }
  };
  choices("--missed", {"last", "all", "skip"});
  choices("--overlap", {"skip", "queue_one", "queue_all", "cancel_previous", "allow"});
  choices("--dst-gap", {"next", "skip"});
  choices("--dst-overlap", {"first", "both"});
  AddSession(command, *flags);
  command.run = [flags](Console& console) { return Add(console, *flags); };
}

}  // namespace

void AddSchedule(Command& root) {
  Command& schedule =
      root.Add("schedule", "show and control schedules; add some beside those of the configuration",
               "tocsin schedule add report --cron '30 2 * * *'\ntocsin schedule list -o json");
  const auto add_list = [](Command& command) {
    auto list = std::make_shared<ListFlags>();
    command.options.push_back(
        {"--delayed", &list->delayed, "", "the events that were published for later, instead"});
    AddSession(command, *list);
    command.run = [list](Console& console) { return List(console, *list); };
  };
  AddAdd(schedule);
  add_list(schedule.Add("list", "show the schedules, also those of the configuration",
                        "tocsin schedule list\ntocsin schedule list --delayed"));
  AddControl(schedule, "show", "show all that is known of a schedule", Control::SHOW, "");
  AddControl(schedule, "pause", "fire nothing until it is resumed; what is missed is recorded",
             Control::PAUSE, "paused");
  AddControl(schedule, "resume", "fire again; what was missed does not fire", Control::RESUME,
             "resumed");
  AddControl(schedule, "remove", "remove a schedule that was added", Control::REMOVE, "removed");
  AddControl(schedule, "fire", "fire now, once, beside its instants", Control::FIRE, "fired");

  Command& backfill =
      schedule.Add("backfill", "fire instants of the past that never fired, each once",
                   "tocsin schedule backfill nightly-report --from 2026-03-01T00:00:00Z --dry-run");
  auto flags = std::make_shared<BackfillFlags>();
  backfill.positionals.push_back({"NAME", &flags->name, "the schedule", {}, true, false});
  Option from{"--from", &flags->from, "TIME", "the first instant"};
  from.required = true;
  backfill.options.push_back(from);
  backfill.options.push_back({"--to", &flags->to, "TIME", "the last instant (default: now)"});
  backfill.options.push_back(
      {"--timezone", &flags->zone, "ZONE", "of --from and --to (default: UTC)"});
  backfill.options.push_back(
      {"--dry-run", &flags->dry_run, "", "only say how many would fire, and the first ones"});
  AddSession(backfill, *flags);
  backfill.run = [flags](Console& console) { return Backfill(console, *flags); };
}

}  // namespace tocsin::cli
