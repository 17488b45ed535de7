#include "broker/schedule/time_zone.h"

#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <vector>

#include "broker/base/mutex.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr std::int64_t kForever = std::numeric_limits<std::int64_t>::max() / 4;

// The instant at which civil time goes from `from` to `to`.
std::int64_t InstantOf(const absl::TimeZone& zone,
                       const absl::TimeZone::CivilTransition& transition) {
  const absl::TimeZone::TimeInfo at_from = zone.At(transition.from);
  if (at_from.kind == absl::TimeZone::TimeInfo::SKIPPED) return absl::ToUnixSeconds(at_from.trans);
  const absl::TimeZone::TimeInfo at_to = zone.At(transition.to);
  if (at_to.kind == absl::TimeZone::TimeInfo::REPEATED) return absl::ToUnixSeconds(at_to.trans);
  return absl::ToUnixSeconds(at_to.pre);  // only the zone's name changed
}

bool IsZoneName(std::string_view name) {
  if (name.empty() || name.size() > 64 || name.front() == '/' || name.front() == '.') return false;
  if (name.find("..") != std::string_view::npos || name == "localtime") return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '/' || c == '_' || c == '-' ||
           c == '+';
  });
}

std::string DatabaseDir() {
  const char* dir = std::getenv("TZDIR");  // NOLINT: like libc does
  return dir != nullptr ? dir : "/usr/share/zoneinfo";
}

// What tells one version of a zone's file from another. Packages replace it by renaming.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::int64_t bytes = 0;
  std::int64_t modified_ns = 0;

  bool exists() const { return inode != 0; }
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

FileIdentity Identify(const std::string& path) {
  struct stat facts {};
  if (stat(path.c_str(), &facts) != 0 || !S_ISREG(facts.st_mode)) return {};
  return {facts.st_dev, facts.st_ino, facts.st_size,
          std::int64_t{facts.st_mtim.tv_sec} * 1'000'000'000 + facts.st_mtim.tv_nsec};
}

struct KnownZone {
  FileIdentity identity;
  std::uint32_t version = 0;
};

// absl keeps what it has read by the name it was given, for ever. So each version of a file gets a
// name of its own: the same path with one more slash.
class ZoneFiles {
 public:
  bool Load(const std::string& name, absl::TimeZone& zone) ABSL_LOCKS_EXCLUDED(mutex_) {
    const std::string dir = DatabaseDir();
    const std::string path = dir + "/" + name;
    MutexLock lock(mutex_);
    const FileIdentity identity = Identify(path);
    KnownZone& known = zones_[path];
    if (known.identity != identity) {
      if (known.identity.exists()) ++known.version;
      known.identity = identity;
    }
    // Also where there is no database.
    if (!identity.exists()) return name == "UTC" && absl::LoadTimeZone(name, &zone);
    return absl::LoadTimeZone(dir + std::string(1 + known.version, '/') + name, &zone);
  }

  bool Changed(const std::string& name) ABSL_LOCKS_EXCLUDED(mutex_) {
    const std::string path = DatabaseDir() + "/" + name;
    MutexLock lock(mutex_);
    const auto known = zones_.find(path);
    // While a package is being replaced there may be none for a moment.
    const FileIdentity identity = Identify(path);
    return identity.exists() && known != zones_.end() && known->second.identity != identity;
  }

 private:
  Mutex mutex_;
  std::map<std::string, KnownZone> zones_ ABSL_GUARDED_BY(mutex_);  // by path
};

ZoneFiles& Files() {
  static auto& files = *new ZoneFiles();
  return files;
}

// The names in the tz database's own text form; empty where it is not installed.
std::vector<std::string> KnownNames() {
  std::ifstream file(DatabaseDir() + "/tzdata.zi");
  std::vector<std::string> names;
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with("Z ")) {
      names.push_back(line.substr(2, line.find(' ', 2) - 2));
    } else if (line.starts_with("L ")) {
      names.push_back(line.substr(line.rfind(' ') + 1));
    }
  }
  return names;
}

std::size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const bool same = std::tolower(static_cast<unsigned char>(a[i])) ==
                        std::tolower(static_cast<unsigned char>(b[j]));
      const std::size_t best = std::min({diagonal + (same ? 0U : 1U), row[j] + 1, row[j + 1] + 1});
      diagonal = row[j + 1];
      row[j + 1] = best;
    }
  }
  return row.back();
}

std::string Suggestion(std::string_view name) {
  std::string best;
  std::size_t best_distance = std::max<std::size_t>(3, name.size() / 3);
  for (const std::string& known : KnownNames()) {
    std::size_t distance = EditDistance(name, known);
    // `Berlin` means Europe/Berlin.
    const std::size_t slash = known.rfind('/');
    if (slash != std::string::npos) {
      distance = std::min(distance, EditDistance(name, known.substr(slash + 1)) + 1);
    }
    if (distance < best_distance) {
      best_distance = distance;
      best = known;
    }
  }
  return best;
}

}  // namespace

absl::StatusOr<TimeZone> TimeZone::Find(const std::string& name) {
  absl::TimeZone zone;
  if (IsZoneName(name) && Files().Load(name, zone)) return TimeZone(zone);
  const std::string suggestion = Suggestion(name);
  if (suggestion.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("unknown time zone '{}'; use an IANA name such as Europe/Berlin", name));
  }
  return absl::InvalidArgumentError(
      fmt::format("unknown time zone '{}'; did you mean '{}'?", name, suggestion));
}

std::vector<std::string> TimeZone::Changed(const std::vector<std::string>& names) {
  std::vector<std::string> changed;
  for (const std::string& name : names) {
    if (IsZoneName(name) && Files().Changed(name)) changed.push_back(name);
  }
  return changed;
}

ZonePeriod TimeZone::PeriodAt(std::int64_t utc) const {
  const auto offset_at = [this](std::int64_t second) {
    return std::int64_t{zone_.At(absl::FromUnixSeconds(second)).offset};
  };
  ZonePeriod period{-kForever, kForever, offset_at(utc), 0};
  period.offset_before = period.offset;
  absl::TimeZone::CivilTransition transition;
  if (zone_.PrevTransition(absl::FromUnixSeconds(utc + 1), &transition)) {
    period.begin = InstantOf(zone_, transition);
    period.offset_before = offset_at(period.begin - 1);
  }
  if (zone_.NextTransition(absl::FromUnixSeconds(utc), &transition)) {
    period.end = InstantOf(zone_, transition);
  }
  return period;
}

}  // namespace tocsin
