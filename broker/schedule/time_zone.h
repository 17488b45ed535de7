// TimeZone: an IANA zone as periods of constant offset from UTC. Seconds since 1970 throughout.
//
// Read by absl's time zones, which follow a zone's rules beyond the years its file lists (the date
// library stops changing clocks in 2037).

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tocsin {

// UTC instants [begin, end) share an offset: local = UTC + offset.
struct ZonePeriod {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t offset;
  std::int64_t offset_before;  // of the period that ends at `begin`; the same if there is none

  bool BeginsWithGap() const { return offset_before < offset; }
  bool BeginsWithOverlap() const { return offset_before > offset; }
};

// A value; copies share the zone's data, which lives as long as the process. It is that of the tz
// database when Find() was called: an update of the database is seen by the next Find().
class TimeZone {
 public:
  // kInvalidArgument: no zone of that name; names the nearest known one. Thread-safe.
  static absl::StatusOr<TimeZone> Find(const std::string& name);

  // Which of these names would be found with other data than when they were found last.
  // Thread-safe.
  static std::vector<std::string> Changed(const std::vector<std::string>& names);

  ZonePeriod PeriodAt(std::int64_t utc) const;

 private:
  explicit TimeZone(absl::TimeZone zone) : zone_(zone) {}

  absl::TimeZone zone_;
};

}  // namespace tocsin
