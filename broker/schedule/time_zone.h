// TimeZone: an IANA zone as periods of constant offset from UTC. Seconds since 1970 throughout.
//
// Read by absl's time zones, which follow a zone's rules beyond the years its file lists (the date
// library stops changing clocks in 2037).

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

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

// A value; copies share the zone's data, which lives as long as the process.
class TimeZone {
 public:
  // kInvalidArgument: no zone of that name; names the nearest known one.
  static absl::StatusOr<TimeZone> Find(const std::string& name);

  ZonePeriod PeriodAt(std::int64_t utc) const;

 private:
  explicit TimeZone(absl::TimeZone zone) : zone_(zone) {}

  absl::TimeZone zone_;
};

}  // namespace tocsin
