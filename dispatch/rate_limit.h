// RateLimit: how many deliveries of a trigger may begin now. A token bucket: it fills evenly, and
// what is not used is kept for a tenth of a second, beside the one delivery that is due.
//
//   In any span of time begin at most  1 + rate * (span + 100 ms).
//
// Who takes more than there is, because it goes together, waits the longer for the next.
//
// In integers, so that nothing drifts: a level of `per` (in nanoseconds) is one delivery, and each
// nanosecond adds `count`. Threading: none of its own.

#pragma once

#include <cstdint>

#include "broker/base/clock.h"
#include "dispatch/trigger_spec.h"

namespace tocsin {

class RateLimit {
 public:
  // Where there was no limit, it begins with what a tenth of a second gives, one at least. Another
  // rate goes on with what is left, as far as it keeps that. The same one changes nothing.
  void Set(const Rate& rate, Instant now);
  const Rate& rate() const { return rate_; }
  bool limited() const { return rate_.count != 0; }

  std::uint64_t Left(Instant now) const;  // the most there is if it is not limited
  // At most a thousand more than are left.
  void Take(std::uint64_t count, Instant now);
  void GiveBack(std::uint64_t count);  // taken, and did not begin
  // When it is worth to look again, with nothing left now: later than `now`.
  Instant Next(Instant now) const;

 private:
  std::int64_t LevelAt(Instant now) const;

  Rate rate_;
  std::int64_t level_ = 0;  // below zero: more was taken than there was
  std::int64_t level_max_ = 0;
  Instant at_{};  // as of when `level_` is
};

}  // namespace tocsin
