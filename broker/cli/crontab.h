// Crontab files to a tocsin.yaml: a timer, an `exec` function and a trigger per entry, and what
// will be otherwise than under cron. Pure.
//
// Understood: user and system form, environment lines (quoted or not), SHELL, PATH, HOME, MAILTO,
// CRON_TZ, RANDOM_DELAY, `%` and `\%`, @reboot and the other names, `~` and a leading `-` (cronie),
// steps that exceed their field (which Vixie's cron takes).

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/clock.h"

namespace tocsin::cli {

enum class CrontabForm {
  kAuto,  // system: /etc/crontab and files in a cron.d
  kUser,
  kSystem,  // a user's name before the command
};

struct CrontabFile {
  std::string path;
  std::string text;
};

struct CrontabOptions {
  CrontabForm form = CrontabForm::kAuto;
  std::string zone = "UTC";  // of the machine that ran cron
  bool strict = false;       // as cron: nothing missed is made up for, runs overlap
  WallTime now;              // from where clock changes are looked at
};

struct CrontabNote {
  std::string file;
  std::uint32_t line = 0;  // 0: of all entries
  bool error = false;      // the line is not in the result
  std::string text;
};

struct ImportedEntry {
  std::string name;
  std::string file;
  std::uint32_t line = 0;
  std::string cron;
  std::string zone;
  std::string command;  // as the shell gets it
};

struct ImportedCrontab {
  std::string yaml;
  std::vector<ImportedEntry> entries;
  std::vector<CrontabNote> notes;  // in the order of the files
};

ImportedCrontab ImportCrontab(const std::vector<CrontabFile>& files, const CrontabOptions& options);

}  // namespace tocsin::cli
