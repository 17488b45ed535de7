#include "dispatch/settled_set.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "broker/base/check.h"
#include "broker/base/wire.h"

namespace tocsin {

std::uint64_t SettledSet::Add(std::uint64_t first, std::uint64_t last) {
  TOCSIN_CHECK(first <= last && last < std::numeric_limits<std::uint64_t>::max(), "[{}, {}]", first,
               last);
  if (last < floor_) return 0;
  first = std::max(first, floor_);
  if (first == floor_ && (runs_.empty() || last + 1 < runs_.begin()->first)) {  // the common case
    floor_ = last + 1;
    return last - first + 1;
  }

  // Every run that touches [first, last] becomes one with it.
  std::uint64_t added = last - first + 1;
  auto run = runs_.upper_bound(first);
  if (run != runs_.begin() && std::prev(run)->second + 1 >= first) --run;
  std::uint64_t from = first;
  std::uint64_t to = last;
  while (run != runs_.end() && run->first <= last + 1) {
    const std::uint64_t overlap_first = std::max(run->first, first);
    const std::uint64_t overlap_last = std::min(run->second, last);
    if (overlap_first <= overlap_last) added -= overlap_last - overlap_first + 1;
    from = std::min(from, run->first);
    to = std::max(to, run->second);
    run = runs_.erase(run);
  }
  if (from == floor_) {
    floor_ = to + 1;
  } else {
    runs_.emplace_hint(run, from, to);
  }
  return added;
}

bool SettledSet::Contains(std::uint64_t index) const {
  if (index < floor_) return true;
  auto run = runs_.upper_bound(index);
  return run != runs_.begin() && std::prev(run)->second >= index;
}

// floor, run count, then per run its distance from the end of the one before and its length - 1.
void SettledSet::EncodeTo(std::string& out) const {
  PutVarint(out, floor_);
  PutVarint(out, runs_.size());
  std::uint64_t end = floor_;
  for (const auto& [first, last] : runs_) {
    PutVarint(out, first - end);
    PutVarint(out, last - first);
    end = last + 1;
  }
}

bool SettledSet::DecodeFrom(std::string_view bytes) {
  WireReader reader(bytes);
  SettledSet decoded;
  std::uint64_t count = 0;
  if (!reader.ReadVarint(decoded.floor_) || !reader.ReadVarint(count)) return false;
  constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max() - 1;
  if (decoded.floor_ > kMax) return false;
  std::uint64_t end = decoded.floor_;
  for (std::uint64_t i = 0; i < count; ++i) {
    std::uint64_t gap = 0;
    std::uint64_t more = 0;
    if (!reader.ReadVarint(gap) || !reader.ReadVarint(more)) return false;
    if (gap == 0 || gap > kMax - end) return false;
    const std::uint64_t first = end + gap;
    if (more >= kMax - first) return false;
    decoded.runs_.emplace_hint(decoded.runs_.end(), first, first + more);
    end = first + more + 1;
  }
  if (!reader.AtEnd()) return false;
  *this = std::move(decoded);
  return true;
}

}  // namespace tocsin
