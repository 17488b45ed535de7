// tocsin sources [list|check|snapshot|forget].

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "broker/base/system_clock.h"
#include "broker/cli/commands.h"
#include "broker/cli/session.h"
#include "broker/config/load.h"
#include "broker/server/source_check.h"

namespace tocsin::cli {
namespace {

struct ForgetFlags : SessionFlags {
  std::string name;
  bool dry_run = false;
  bool yes = false;
};

struct SnapshotFlags : SessionFlags {
  std::string name;
  std::vector<std::string> tables;
  bool after_gap = false;
};

struct CheckFlags {
  std::string config = "tocsin.yaml";
  std::vector<std::string> names;
  OutputFlags output;
};

int List(Console& console, const SessionFlags& flags) {
  return WithClient(console, flags.connection, [&](Client& client) {
    const auto answer = client.ListSources();
    if (!answer.ok()) return console.Fail(answer.status());
    if (flags.output.json()) {
      WriteSourcesJson(*answer, console.Sink());
    } else if (answer->sources().empty()) {
      console.Note("no sources");
    } else {
      WriteSources(*answer, console.table_look(), console.Sink());
    }
    return kExitOk;
  });
}

void Report(Console& console, const ForgetFlags& flags, const v1::ForgetSourceResponse& answer) {
  if (flags.output.json()) {
    JsonWriter json;
    json.Object()
        .Field("name", flags.name)
        .Field("dry_run", flags.dry_run)
        .Field("lanes", static_cast<std::uint64_t>(answer.lanes()))
        .Field("entries", answer.entries())
        .Field("configured", answer.configured())
        .End();
    console.Out(json);
    return;
  }
  console.Out(fmt::format("{}: {} of {} lanes {}, {} entries{}\n", Clean(flags.name), "positions",
                          answer.lanes(), flags.dry_run ? "would be forgotten" : "forgotten",
                          answer.entries(), answer.configured() ? "; it begins anew" : ""));
}

int Forget(Console& console, const ForgetFlags& flags) {
  if (!flags.dry_run && !flags.yes) {
    if (!console.in_is_terminal() || !console.err_is_terminal()) {
      return console.FailUsage("sources forget",
                               "a source that is forgotten begins anew and may bring events again: "
                               "look with --dry-run, then give --yes");
    }
    if (!console.Confirm(fmt::format("Forget how far source {} has come? It begins anew, and may "
                                     "bring events again.",
                                     Clean(flags.name)))) {
      return console.Fail("nothing was forgotten");
    }
  }
  return WithClient(console, flags.connection, [&](Client& client) {
    v1::ForgetSourceRequest request;
    request.set_name(flags.name);
    request.set_dry_run(flags.dry_run);
    const auto answer = client.ForgetSource(request);
    if (!answer.ok()) return console.Fail(answer.status());
    Report(console, flags, *answer);
    return kExitOk;
  });
}

template <typename Names>
std::string Joined(const Names& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : ", ") + Clean(name);
  return out;
}

void Report(Console& console, const SnapshotFlags& flags,
            const v1::SnapshotSourceResponse& answer) {
  if (flags.output.json()) {
    JsonWriter json;
    json.Object().Field("name", flags.name).Key("tables").Array();
    for (const std::string& table : answer.tables()) json.Value(table);
    json.End().Key("keyless").Array();
    for (const std::string& table : answer.keyless()) json.Value(table);
    json.End().Field("after_gap", flags.after_gap).End();
    console.Out(json);
    return;
  }
  console.Out(fmt::format("{}: {}reads {} again\n", Clean(flags.name),
                          flags.after_gap ? "goes on behind the gap and " : "",
                          Joined(answer.tables())));
  if (!answer.keyless().empty()) {
    console.Note(fmt::format("without a primary key and not read: {}", Joined(answer.keyless())));
  }
}

int Snapshot(Console& console, const SnapshotFlags& flags) {
  if (flags.after_gap && !flags.tables.empty()) {
    return console.FailUsage("sources snapshot",
                             "--after-gap reads every table: leave --table out");
  }
  return WithClient(console, flags.connection, [&](Client& client) {
    v1::SnapshotSourceRequest request;
    request.set_name(flags.name);
    for (const std::string& table : flags.tables) request.add_tables(table);
    request.set_after_gap(flags.after_gap);
    const auto answer = client.SnapshotSource(request);
    if (!answer.ok()) return console.Fail(answer.status());
    Report(console, flags, *answer);
    return kExitOk;
  });
}

int Check(Console& console, const CheckFlags& flags) {
  std::vector<ConfigError> errors;
  const auto config = LoadConfig(flags.config, SystemConfigEnvironment(), &errors);
  if (!config.ok()) {
    for (const ConfigError& error : errors) console.Note(error.ToString());
    return errors.empty() ? console.Fail(config.status()) : kExitFailed;
  }
  SystemClock clock;
  bool all = true;
  JsonWriter json;
  json.Array();
  std::size_t looked = 0;
  for (const SourceConfig& source : config->sources) {
    const bool wanted = flags.names.empty() || std::find(flags.names.begin(), flags.names.end(),
                                                         source.name) != flags.names.end();
    if (!wanted) continue;
    ++looked;
    const absl::StatusOr<std::string> found = CheckSource(source, clock);
    all = all && found.ok();
    const std::string text = found.ok() ? *found : std::string(found.status().message());
    if (flags.output.json()) {
      json.Object()
          .Field("name", source.name)
          .Field("kind", KindOfSource(source.spec))
          .Field("ok", found.ok())
          .Field("message", text)
          .End();
    } else {
      console.Out(fmt::format("{:<5} {} ({}): {}\n", found.ok() ? "ok" : "FAIL", Clean(source.name),
                              KindOfSource(source.spec), Clean(text)));
    }
  }
  json.End();
  if (flags.output.json()) console.Out(json);
  if (looked < flags.names.size()) return console.Fail("a source that was named is not configured");
  if (looked == 0 && !flags.output.json()) console.Note("no sources");
  return all ? kExitOk : kExitFailed;
}

}  // namespace

void AddSources(Command& root) {
  Command& command =
      root.Add("sources", "show the sources and how far they have come; check, snapshot, forget",
               "tocsin sources -o json\ntocsin sources check -c tocsin.yaml");
  auto flags = std::make_shared<SessionFlags>();
  AddSession(command, *flags);
  command.run = [flags](Console& console) { return List(console, *flags); };

  Command& list =
      command.Add("list", "show the sources and how far they have come", "tocsin sources list");
  auto list_flags = std::make_shared<SessionFlags>();
  AddSession(list, *list_flags);
  list.run = [list_flags](Console& console) { return List(console, *list_flags); };

  Command& check = command.Add("check",
                               "try every connection of a configuration, without a broker; exit "
                               "status 1 if one fails",
                               "tocsin sources check -c tocsin.yaml");
  auto check_flags = std::make_shared<CheckFlags>();
  check.options.push_back({.names = "-c,--config",
                           .target = &check_flags->config,
                           .value = "FILE",
                           .help = "the configuration (default tocsin.yaml)",
                           .is_file = true});
  check.positionals.push_back({.name = "NAME",
                               .target = &check_flags->names,
                               .help = "only these sources",
                               .required = false});
  AddOutput(check, check_flags->output);
  check.run = [check_flags](Console& console) { return Check(console, *check_flags); };

  Command& snapshot = command.Add(
      "snapshot", "read the tables of a postgres source again, as events, beside their changes",
      "tocsin sources snapshot shop --table public.orders\n"
      "tocsin sources snapshot shop --after-gap");
  auto snapshot_flags = std::make_shared<SnapshotFlags>();
  snapshot.positionals.push_back({"NAME", &snapshot_flags->name, "the source", {}, true, false});
  snapshot.options.push_back({"--table", &snapshot_flags->tables, "SCHEMA.TABLE",
                              "only this table; may be given again (default all of the source)"});
  snapshot.options.push_back({"--after-gap", &snapshot_flags->after_gap, "",
                              "of a source that stands at a gap: go on behind it, this once, and "
                              "read every table"});
  AddSession(snapshot, *snapshot_flags);
  snapshot.run = [snapshot_flags](Console& console) { return Snapshot(console, *snapshot_flags); };

  Command& forget =
      command.Add("forget", "forget how far a source has come; if it is configured, it begins anew",
                  "tocsin sources forget old-inbox --dry-run");
  auto forget_flags = std::make_shared<ForgetFlags>();
  forget.positionals.push_back({"NAME", &forget_flags->name, "the source", {}, true, false});
  forget.options.push_back(
      {"--dry-run", &forget_flags->dry_run, "", "only say what would be forgotten"});
  forget.options.push_back({"--yes", &forget_flags->yes, "", "do not ask"});
  AddSession(forget, *forget_flags);
  forget.run = [forget_flags](Console& console) { return Forget(console, *forget_flags); };
}

}  // namespace tocsin::cli
