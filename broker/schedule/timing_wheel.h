// TimingWheel: which of many timers is due next. Hierarchical: six levels of 64 slots over ticks of
// one millisecond, so that arming, disarming and firing cost the same however many are armed.
//
//   level 0: the 64 ticks round now | level 1: 64 slots of 64 ticks | ... | level 5 | far (2.2
//   years)
//
// A timer lies at the level of the highest six-bit digit in which its tick differs from the present
// one, and moves down when the present enters its slot. A bitmap per level names the slots in use:
// the next wake-up is found without walking empty ones.
//
// Memory: 16 bytes per id. Ids are small and dense; the caller chooses them. Pure; not thread-safe.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "broker/base/clock.h"

namespace tocsin {

class TimingWheel {
 public:
  explicit TimingWheel(WallTime now);

  // Arms `id` for `when`, which may be in the past (then it is due at the next Advance). An armed
  // id is armed anew.
  void Arm(std::uint32_t id, WallTime when);
  void Disarm(std::uint32_t id);  // nothing if it is not armed

  // Appends the ids whose time is at or before `now` and disarms them; in no special order. None is
  // given early, and none more than a millisecond late. A clock that was set back by more than a
  // second re-sorts everything.
  void Advance(WallTime now, std::vector<std::uint32_t>& due);

  // When to call Advance() next: never after the millisecond in which a timer is due, but up to
  // five times per timer for nothing. nullopt: nothing is armed.
  std::optional<WallTime> NextWake() const;

  std::size_t armed() const { return armed_; }
  // When `id` is due; nullopt if it is not armed.
  std::optional<WallTime> ArmedFor(std::uint32_t id) const;

 private:
  static constexpr std::uint32_t kLevels = 6;
  static constexpr std::uint32_t kSlotBits = 6;
  static constexpr std::uint32_t kSlots = 1U << kSlotBits;
  static constexpr std::uint32_t kFar = kLevels * kSlots;  // beyond the top level
  static constexpr std::uint32_t kOverdue = kFar + 1;      // at or before the present tick
  static constexpr std::uint32_t kChains = kFar + 2;
  static constexpr std::uint32_t kNone = 0xffffffff;
  static constexpr std::uint32_t kHeadFlag = 0x80000000;  // in `previous`: head of that chain

  struct Node {
    std::int64_t when_us = 0;
    std::uint32_t next = kNone;
    std::uint32_t previous = kNone;  // kNone: not armed
  };

  static std::int64_t TickOf(std::int64_t when_us);
  std::uint32_t ChainFor(std::int64_t tick) const;
  void Link(std::uint32_t id);
  void Unlink(std::uint32_t id);
  std::uint32_t TakeChain(std::uint32_t chain);  // its first id; the chain is empty then
  void RelinkChain(std::uint32_t chain);
  void TakeOverdue(std::int64_t now_us, std::vector<std::uint32_t>& due);
  void Rebase(std::int64_t tick);
  // The next tick at which a slot must be opened, and that slot.
  struct Opening {
    std::int64_t tick;
    std::uint32_t chain;
  };
  std::optional<Opening> NextOpening() const;

  std::int64_t tick_;  // the present; rises, except by Rebase()
  std::size_t armed_ = 0;
  std::array<std::uint64_t, kLevels> used_ = {};
  std::array<std::uint32_t, kChains> heads_;
  std::vector<Node> nodes_;  // by id
};

}  // namespace tocsin
