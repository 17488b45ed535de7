// UnfiredRanges: of a schedule, which stretches of time hold instants that never fired: all before
// its first start, and what was skipped. A backfill may fire these, each once.
//
//   (-inf .. anchor] ........ [skipped] ...... [skipped ........ skipped]
//
// Invariant: rising, disjoint, at most kUnfiredRangesMax. When there would be more, the oldest
// skipped ones are forgotten: they can be backfilled no longer, which never repeats an instant.
//
// Pure; not thread-safe.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "broker/base/clock.h"
#include "broker/schedule/schedule.h"

namespace tocsin {

inline constexpr std::size_t kUnfiredRangesMax = 64;

class UnfiredRanges {
 public:
  // Nothing at or before `anchor` has fired.
  explicit UnfiredRanges(WallTime anchor);

  // An instant fired; all of [first, last] did not. Those of one plan may come in any order.
  void Fired(WallTime instant);
  void Skipped(WallTime first, WallTime last);

  // A backfill has fired what is in it.
  void Remove(WallTime first, WallTime last);

  const std::vector<InstantRange>& ranges() const { return ranges_; }

  // Varints. False from DecodeFrom: malformed, nothing is changed then.
  void EncodeTo(std::string& out) const;
  bool DecodeFrom(std::string_view bytes);

  friend bool operator==(const UnfiredRanges&, const UnfiredRanges&) = default;

 private:
  std::vector<InstantRange> ranges_;
  WallTime last_fired_;  // none later than this one has fired
};

}  // namespace tocsin
