#include "dispatch/rate_limit.h"

#include <algorithm>
#include <chrono>
#include <limits>

namespace tocsin {
namespace {

constexpr std::uint64_t kKept = 100'000'000;  // nanoseconds
// Not for each delivery of a fast trigger: for this part of what is kept.
constexpr std::uint64_t kLookAgain = 4;

}  // namespace

void RateLimit::Set(const Rate& rate, Instant now) {
  if (rate == rate_) return;
  const bool began = limited();
  const std::uint64_t level = began ? LevelAt(now) : 0;
  const auto per_before = static_cast<std::uint64_t>(rate_.per.count());
  const auto per = static_cast<std::uint64_t>(rate.per.count());
  rate_ = rate;
  // Not quite one more than that: a turn that comes late by less loses nothing.
  level_max_ = per + rate.count * kKept - 1;
  if (began) {
    const double part = static_cast<double>(level % per_before) / static_cast<double>(per_before);
    level_ = std::min(level_max_, level / per_before * per +
                                      static_cast<std::uint64_t>(part * static_cast<double>(per)));
  } else {
    level_ = level_max_ / per * per;
  }
  at_ = std::max(at_, now);
}

std::uint64_t RateLimit::LevelAt(Instant now) const {
  if (now <= at_) return level_;
  const auto passed = static_cast<std::uint64_t>((now - at_).count());
  // Full long before the product is too large.
  if (passed > level_max_ / rate_.count) return level_max_;
  return std::min(level_max_, level_ + passed * rate_.count);
}

std::uint64_t RateLimit::Left(Instant now) const {
  if (!limited()) return std::numeric_limits<std::uint64_t>::max();
  return LevelAt(now) / static_cast<std::uint64_t>(rate_.per.count());
}

void RateLimit::Take(std::uint64_t count, Instant now) {
  if (!limited()) return;
  level_ = LevelAt(now);
  at_ = std::max(at_, now);
  level_ -= std::min(level_, count * static_cast<std::uint64_t>(rate_.per.count()));
}

void RateLimit::GiveBack(std::uint64_t count) {
  if (!limited()) return;
  const auto per = static_cast<std::uint64_t>(rate_.per.count());
  level_ = std::min(level_max_, level_ + std::min(count, level_max_ / per + 1) * per);
}

Instant RateLimit::Next(Instant now) const {
  const auto per = static_cast<std::uint64_t>(rate_.per.count());
  const std::uint64_t wanted = std::max(per, level_max_ / kLookAgain / per * per);
  const std::uint64_t level = LevelAt(now);
  const std::uint64_t missing = wanted > level ? wanted - level : 1;
  return now + Duration(static_cast<Duration::rep>((missing + rate_.count - 1) / rate_.count));
}

}  // namespace tocsin
