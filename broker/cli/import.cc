// tocsin import crontab FILE...

#include <fmt/format.h>
#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "broker/base/system_clock.h"
#include "broker/cli/commands.h"
#include "broker/cli/crontab.h"
#include "broker/cli/input.h"
#include "broker/cli/session.h"
#include "broker/schedule/time_zone.h"

namespace tocsin::cli {
namespace {

constexpr std::size_t kFileBytesMax = std::size_t{1} << 20;

struct Flags {
  OutputFlags output;
  std::vector<std::string> files;
  std::string form = "auto";
  std::string zone;
  bool strict = false;
};

// The zone that /etc/localtime links to.
std::string MachineZone() {
  char target[PATH_MAX];
  const ssize_t bytes = readlink("/etc/localtime", target, sizeof target);
  if (bytes <= 0) return "UTC";
  const std::string path(target, static_cast<std::size_t>(bytes));
  const std::string_view dir = "zoneinfo/";
  const std::size_t at = path.find(dir);
  if (at == std::string::npos) return "UTC";
  const std::string zone = path.substr(at + dir.size());
  if (zone == "Etc/UTC" || !TimeZone::Find(zone).ok()) return "UTC";
  return zone;
}

int Run(Console& console, const Flags& flags) {
  CrontabOptions options;
  options.form = flags.form == "user"     ? CrontabForm::kUser
                 : flags.form == "system" ? CrontabForm::kSystem
                                          : CrontabForm::kAuto;
  options.zone = flags.zone.empty() ? MachineZone() : flags.zone;
  options.strict = flags.strict;
  options.now = SystemClock().Wall();
  if (const auto zone = TimeZone::Find(options.zone); !zone.ok())
    return console.Fail(zone.status());
  std::vector<CrontabFile> files;
  for (const std::string& path : flags.files) {
    const absl::StatusOr<std::string> text = ReadWhole(path, kFileBytesMax);
    if (!text.ok()) return console.Fail(text.status());
    files.push_back({path, *text});
  }
  const ImportedCrontab imported = ImportCrontab(files, options);
  const bool whole = std::none_of(imported.notes.begin(), imported.notes.end(),
                                  [](const CrontabNote& note) { return note.error; });
  if (flags.output.json()) {
    JsonWriter json;
    json.Object().Field("ok", whole).Field("yaml", imported.yaml).Key("entries").Array();
    for (const ImportedEntry& entry : imported.entries) {
      json.Object()
          .Field("name", entry.name)
          .Field("file", entry.file)
          .Field("line", entry.line)
          .Field("cron", entry.cron)
          .Field("timezone", entry.zone)
          .Field("command", entry.command)
          .End();
    }
    json.End().Key("notes").Array();
    for (const CrontabNote& note : imported.notes) {
      json.Object()
          .Field("file", note.file)
          .Field("line", note.line)
          .Field("error", note.error)
          .Field("text", note.text)
          .End();
    }
    json.End().End();
    console.Out(json);
    return whole ? kExitOk : kExitFailed;
  }
  console.Out(imported.yaml);
  for (const CrontabNote& note : imported.notes) {
    const std::string place =
        note.line == 0 ? "all entries" : fmt::format("{}:{}", note.file, note.line);
    console.Note(fmt::format("{}: {}{}", place, note.error ? "not imported: " : "", note.text));
  }
  console.Note(fmt::format("{} entries imported", imported.entries.size()));
  return whole ? kExitOk : kExitFailed;
}

}  // namespace

void AddImport(Command& root) {
  Command& import = root.Add("import", "make a configuration from another program's",
                             "tocsin import crontab /etc/crontab > tocsin.yaml");
  auto flags = std::make_shared<Flags>();
  Command& crontab = import.Add(
      "crontab", "crontab files to a tocsin.yaml, and on standard error what will be different",
      "tocsin import crontab /etc/crontab /etc/cron.d/* > tocsin.yaml\n"
      "crontab -l | tocsin import crontab - > tocsin.yaml");
  crontab.positionals.push_back({.name = "FILE",
                                 .target = &flags->files,
                                 .help = "crontab files; - is standard input",
                                 .is_file = true});
  crontab.options.push_back({.names = "--form",
                             .target = &flags->form,
                             .value = "FORM",
                             .help = "with a user's name in each line or not (default: system for "
                                     "/etc/crontab and cron.d)",
                             .choices = {"auto", "user", "system"}});
  crontab.options.push_back({.names = "--tz",
                             .target = &flags->zone,
                             .value = "ZONE",
                             .help = "the time zone cron ran in (default: this machine's)"});
  crontab.options.push_back(
      {.names = "--strict",
       .target = &flags->strict,
       .value = "",
       .help = "as cron did: runs overlap, and nothing that was missed is made up for"});
  AddOutput(crontab, flags->output);
  crontab.run = [flags](Console& console) { return Run(console, *flags); };
}

}  // namespace tocsin::cli
