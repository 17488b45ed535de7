#include "broker/schedule/unfired.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>

#include "broker/base/wire.h"

namespace tocsin {
namespace {

constexpr std::chrono::microseconds kTick(1);
constexpr WallTime kEver{std::chrono::microseconds(std::numeric_limits<std::int64_t>::min())};

}  // namespace

UnfiredRanges::UnfiredRanges(WallTime anchor) : ranges_{{kEver, anchor}}, last_fired_(kEver) {}

void UnfiredRanges::Fired(WallTime instant) {
  // Inside of one only if the clock was set back among what had been skipped.
  if (!ranges_.empty() && instant <= ranges_.back().last) Remove(instant, instant);
  last_fired_ = std::max(last_fired_, instant);
}

void UnfiredRanges::Skipped(WallTime first, WallTime last) {
  // Nothing between the last range and this one has fired.
  if (!ranges_.empty() && first > ranges_.back().last && last_fired_ <= ranges_.back().last) {
    ranges_.back().last = last;
    return;
  }
  InstantRange added{first, last};
  auto begin = std::find_if(ranges_.begin(), ranges_.end(),
                            [&](const InstantRange& range) { return range.last >= first; });
  auto end = begin;
  for (; end != ranges_.end() && end->first <= last; ++end) {
    added.first = std::min(added.first, end->first);
    added.last = std::max(added.last, end->last);
  }
  ranges_.insert(ranges_.erase(begin, end), added);
  if (ranges_.size() <= kUnfiredRangesMax) return;
  ranges_.erase(ranges_.begin() + (ranges_.front().first == kEver ? 1 : 0));
}

void UnfiredRanges::Remove(WallTime first, WallTime last) {
  std::vector<InstantRange> left;
  left.reserve(ranges_.size() + 1);
  for (const InstantRange& range : ranges_) {
    if (range.last < first || range.first > last) {
      left.push_back(range);
      continue;
    }
    if (range.first < first) left.push_back({range.first, first - kTick});
    if (range.last > last) left.push_back({last + kTick, range.last});
  }
  // One more than there may be, if the middle of one was taken.
  if (left.size() > kUnfiredRangesMax) {
    left.erase(left.begin() + (left.front().first == kEver ? 1 : 0));
  }
  ranges_ = std::move(left);
}

void UnfiredRanges::EncodeTo(std::string& out) const {
  PutVarint(out, static_cast<std::uint64_t>(last_fired_.time_since_epoch().count()));
  PutVarint(out, ranges_.size());
  for (const InstantRange& range : ranges_) {
    PutVarint(out, static_cast<std::uint64_t>(range.first.time_since_epoch().count()));
    PutVarint(out, static_cast<std::uint64_t>(range.last.time_since_epoch().count()));
  }
}

bool UnfiredRanges::DecodeFrom(std::string_view bytes) {
  WireReader reader(bytes);
  std::uint64_t fired = 0;
  std::uint64_t count = 0;
  if (!reader.ReadVarint(fired) || !reader.ReadVarint(count) || count > kUnfiredRangesMax) {
    return false;
  }
  std::vector<InstantRange> ranges;
  for (std::uint64_t i = 0; i < count; ++i) {
    std::uint64_t first = 0;
    std::uint64_t last = 0;
    if (!reader.ReadVarint(first) || !reader.ReadVarint(last)) return false;
    const InstantRange range{WallTime(std::chrono::microseconds(static_cast<std::int64_t>(first))),
                             WallTime(std::chrono::microseconds(static_cast<std::int64_t>(last)))};
    if (range.last < range.first || (!ranges.empty() && range.first <= ranges.back().last)) {
      return false;
    }
    ranges.push_back(range);
  }
  if (!reader.AtEnd()) return false;
  ranges_ = std::move(ranges);
  last_fired_ = WallTime(std::chrono::microseconds(static_cast<std::int64_t>(fired)));
  return true;
}

}  // namespace tocsin
