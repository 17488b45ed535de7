#include "dispatch/rate_limit.h"

#include <algorithm>
#include <chrono>
#include <limits>

namespace tocsin {
namespace {

constexpr std::int64_t kKept = 100'000'000;  // nanoseconds
// Not for each delivery of a fast trigger: for this part of what is kept.
constexpr std::int64_t kLookAgain = 4;

}  // namespace

void RateLimit::Set(const Rate& rate, Instant now) {
  if (rate == rate_) return;
  const bool began = limited();
  const std::int64_t level = began ? LevelAt(now) : 0;
  const std::int64_t per_before = rate_.per.count();
  const std::uint32_t before = rate_.count;
  const std::int64_t per = rate.per.count();
  rate_ = rate;
  // Not quite one more than that: a turn that comes late by less loses nothing.
  level_max_ = per + rate.count * kKept - 1;
  if (began && level < 0) {
    // What was taken too early is paid back in the time that it would have taken.
    level_ = static_cast<std::int64_t>(static_cast<double>(level) * rate.count / before);
  } else if (began) {
    const double part = static_cast<double>(level % per_before) / static_cast<double>(per_before);
    level_ = std::min(level_max_, level / per_before * per +
                                      static_cast<std::int64_t>(part * static_cast<double>(per)));
  } else {
    level_ = level_max_ / per * per;
  }
  at_ = std::max(at_, now);
}

std::int64_t RateLimit::LevelAt(Instant now) const {
  // Until it is used for the first time it stays as it began.
  if (at_ == Instant() || now <= at_) return level_;
  const std::int64_t passed = (now - at_).count();
  // Full long before the product is too large.
  if (passed > (level_max_ - level_) / rate_.count) return level_max_;
  return std::min(level_max_, level_ + passed * rate_.count);
}

std::uint64_t RateLimit::Left(Instant now) const {
  if (!limited()) return std::numeric_limits<std::uint64_t>::max();
  return static_cast<std::uint64_t>(std::max<std::int64_t>(LevelAt(now), 0) / rate_.per.count());
}

void RateLimit::Take(std::uint64_t count, Instant now) {
  if (!limited()) return;
  level_ = LevelAt(now) - static_cast<std::int64_t>(count) * rate_.per.count();
  at_ = std::max(at_, now);
}

void RateLimit::GiveBack(std::uint64_t count) {
  if (!limited()) return;
  const std::int64_t per = rate_.per.count();
  const auto room = static_cast<std::uint64_t>((level_max_ - level_) / per + 1);
  level_ = std::min(level_max_, level_ + static_cast<std::int64_t>(std::min(count, room)) * per);
}

Instant RateLimit::Next(Instant now) const {
  const std::int64_t per = rate_.per.count();
  const std::int64_t wanted = std::max(per, level_max_ / kLookAgain / per * per);
  const std::int64_t missing = std::max<std::int64_t>(wanted - LevelAt(now), 1);
  return now + Duration((missing + rate_.count - 1) / rate_.count);
}

}  // namespace tocsin
