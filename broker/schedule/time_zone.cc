#include "broker/schedule/time_zone.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

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

// The names in the tz database's own text form; empty where it is not installed.
std::vector<std::string> KnownNames() {
  const char* dir = std::getenv("TZDIR");  // NOLINT: read once at load, like libc does
  std::ifstream file(std::string(dir != nullptr ? dir : "/usr/share/zoneinfo") + "/tzdata.zi");
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
  if (IsZoneName(name) && absl::LoadTimeZone(name, &zone)) return TimeZone(zone);
  const std::string suggestion = Suggestion(name);
  if (suggestion.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("unknown time zone '{}'; use an IANA name such as Europe/Berlin", name));
  }
  return absl::InvalidArgumentError(
      fmt::format("unknown time zone '{}'; did you mean '{}'?", name, suggestion));
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
