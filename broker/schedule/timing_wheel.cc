#include "broker/schedule/timing_wheel.h"

#include <algorithm>
#include <bit>

#include "broker/base/check.h"

namespace tocsin {
namespace {

constexpr std::int64_t kTickMicros = 1000;
constexpr std::int64_t kRebaseTicks = 1000;  // smaller steps back are waited out

std::int64_t FloorTick(std::int64_t micros) {
  const std::int64_t tick = micros / kTickMicros;
  return micros % kTickMicros < 0 ? tick - 1 : tick;
}

}  // namespace

TimingWheel::TimingWheel(WallTime now) : tick_(FloorTick(now.time_since_epoch().count())) {
  heads_.fill(kNone);
}

// The first tick that does not lie before it.
std::int64_t TimingWheel::TickOf(std::int64_t when_us) { return -FloorTick(-when_us); }

std::uint32_t TimingWheel::ChainFor(std::int64_t tick) const {
  if (tick <= tick_) return kOverdue;
  const auto difference = static_cast<std::uint64_t>(tick ^ tick_);
  const auto level = static_cast<std::uint32_t>(std::bit_width(difference) - 1) / kSlotBits;
  if (level >= kLevels) return kFar;
  return level * kSlots + static_cast<std::uint32_t>((tick >> (level * kSlotBits)) & (kSlots - 1));
}

void TimingWheel::Link(std::uint32_t id) {
  Node& node = nodes_[id];
  const std::uint32_t chain = ChainFor(TickOf(node.when_us));
  node.next = heads_[chain];
  node.previous = kHeadFlag | chain;
  if (node.next != kNone) nodes_[node.next].previous = id;
  heads_[chain] = id;
  if (chain < kFar) used_[chain / kSlots] |= std::uint64_t{1} << (chain % kSlots);
}

void TimingWheel::Unlink(std::uint32_t id) {
  Node& node = nodes_[id];
  if (node.next != kNone) nodes_[node.next].previous = node.previous;
  if ((node.previous & kHeadFlag) != 0) {
    const std::uint32_t chain = node.previous & ~kHeadFlag;
    heads_[chain] = node.next;
    if (node.next == kNone && chain < kFar) {
      used_[chain / kSlots] &= ~(std::uint64_t{1} << (chain % kSlots));
    }
  } else {
    nodes_[node.previous].next = node.next;
  }
  node.previous = kNone;
  node.next = kNone;
}

void TimingWheel::Arm(std::uint32_t id, WallTime when) {
  TOCSIN_CHECK(id < kHeadFlag, "timer id {} is too large", id);
  if (id >= nodes_.size()) nodes_.resize(std::size_t{id} + 1);
  if (nodes_[id].previous != kNone) {
    Unlink(id);
  } else {
    ++armed_;
  }
  nodes_[id].when_us = when.time_since_epoch().count();
  Link(id);
}

void TimingWheel::Disarm(std::uint32_t id) {
  if (id >= nodes_.size() || nodes_[id].previous == kNone) return;
  Unlink(id);
  --armed_;
}

std::optional<WallTime> TimingWheel::ArmedFor(std::uint32_t id) const {
  if (id >= nodes_.size() || nodes_[id].previous == kNone) return std::nullopt;
  return WallTime(std::chrono::microseconds(nodes_[id].when_us));
}

std::uint32_t TimingWheel::TakeChain(std::uint32_t chain) {
  const std::uint32_t head = heads_[chain];
  heads_[chain] = kNone;
  if (chain < kFar) used_[chain / kSlots] &= ~(std::uint64_t{1} << (chain % kSlots));
  return head;
}

void TimingWheel::RelinkChain(std::uint32_t chain) {
  std::uint32_t id = TakeChain(chain);
  while (id != kNone) {
    const std::uint32_t next = nodes_[id].next;
    Link(id);
    id = next;
  }
}

void TimingWheel::TakeOverdue(std::int64_t now_us, std::vector<std::uint32_t>& due) {
  std::uint32_t id = heads_[kOverdue];
  while (id != kNone) {
    const std::uint32_t next = nodes_[id].next;
    if (nodes_[id].when_us <= now_us) {
      Disarm(id);
      due.push_back(id);
    }
    id = next;
  }
}

void TimingWheel::Rebase(std::int64_t tick) {
  tick_ = tick;
  heads_.fill(kNone);
  used_.fill(0);
  for (std::uint32_t id = 0; id < nodes_.size(); ++id) {
    if (nodes_[id].previous != kNone) Link(id);
  }
}

std::optional<TimingWheel::Opening> TimingWheel::NextOpening() const {
  for (std::uint32_t level = 0; level < kLevels; ++level) {
    const std::uint32_t shift = level * kSlotBits;
    const auto present = static_cast<std::uint32_t>((tick_ >> shift) & (kSlots - 1));
    // Slots of a level lie after the present one: a tick in the present slot is at a lower level.
    const std::uint64_t later =
        present == kSlots - 1 ? 0 : used_[level] & (~std::uint64_t{0} << (present + 1));
    if (later == 0) continue;
    const auto slot = static_cast<std::uint32_t>(std::countr_zero(later));
    const std::int64_t window = (tick_ >> (shift + kSlotBits)) << (shift + kSlotBits);
    return Opening{window + (std::int64_t{slot} << shift), level * kSlots + slot};
  }
  if (heads_[kFar] == kNone) return std::nullopt;
  constexpr std::uint32_t kTop = kLevels * kSlotBits;
  return Opening{((tick_ >> kTop) + 1) << kTop, kFar};
}

void TimingWheel::Advance(WallTime now, std::vector<std::uint32_t>& due) {
  const std::int64_t now_us = now.time_since_epoch().count();
  const std::int64_t target = FloorTick(now_us);
  if (target + kRebaseTicks < tick_) Rebase(target);
  while (tick_ < target) {
    const std::optional<Opening> opening = NextOpening();
    if (!opening.has_value() || opening->tick > target) {
      tick_ = target;
      break;
    }
    tick_ = opening->tick;
    RelinkChain(opening->chain);
  }
  TakeOverdue(now_us, due);
}

std::optional<WallTime> TimingWheel::NextWake() const {
  std::optional<std::int64_t> wake_us;
  for (std::uint32_t id = heads_[kOverdue]; id != kNone; id = nodes_[id].next) {
    wake_us = std::min(wake_us.value_or(nodes_[id].when_us), nodes_[id].when_us);
  }
  if (const std::optional<Opening> opening = NextOpening(); opening.has_value()) {
    const std::int64_t opening_us = opening->tick * kTickMicros;
    wake_us = std::min(wake_us.value_or(opening_us), opening_us);
  }
  if (!wake_us.has_value()) return std::nullopt;
  return WallTime(std::chrono::microseconds(*wake_us));
}

}  // namespace tocsin
