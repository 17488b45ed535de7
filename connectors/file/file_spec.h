// FileSpec: what a source of kind `file` says in the configuration.

#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "broker/base/clock.h"
#include "connectors/event_overrides.h"

namespace tocsin {

enum class WatchMode : std::uint8_t {
  kAuto,     // inotify where it works, else polling
  kInotify,  // refused where inotify does not work
  kPoll,     // rescans only
};

enum class AfterFile : std::uint8_t { kKeep, kMove, kDelete };

struct FileSpec {
  std::string name;                  // the source's name
  std::string path;                  // the watched directory
  std::vector<std::string> include;  // globs; empty: every file
  std::vector<std::string> exclude;  // wins over include
  bool recursive = false;
  Duration settle = std::chrono::seconds(1);   // a file unchanged for so long is complete
  Duration rescan = std::chrono::seconds(60);  // in poll mode the poll interval
  WatchMode mode = WatchMode::kAuto;

  bool on_created = true;
  bool on_modified = false;
  bool on_deleted = false;

  AfterFile after = AfterFile::kKeep;
  std::string move_to;  // for kMove: a directory, absolute or beneath `path`

  std::uint32_t files_max =
      1'000'000;  // remembered files; beyond it the source stops with an error

  EventOverrides event;

  friend bool operator==(const FileSpec&, const FileSpec&) = default;
};

// kInvalidArgument names the option and the rule: an empty path, a bad glob, settle above 1 h,
// rescan outside 100 ms to 1 d, move without move_to or the other way round, nothing in `on`.
absl::Status ValidateFileSpec(const FileSpec& spec);

// Globs: `*` and `?` do not cross `/`, `**` does, `[a-z]`, `[!a-z]`, `\` escapes. A pattern without
// `/` is matched against the file's name, one with `/` against the whole path beneath the root.
absl::Status ValidateGlob(const std::string& pattern);
bool GlobMatches(const std::string& pattern, const std::string& relative_path);

}  // namespace tocsin
