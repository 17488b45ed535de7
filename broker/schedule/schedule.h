// Schedule: when a timer fires, and what to do about the instants that were missed. Pure: it reads
// no clock; the caller says what time it is.
//
//   ... fired or recorded as skipped ...)|(... due, undecided ...|... not yet due ...
//                                        decided_through         now
//
// Invariants, whatever the clock does:
//   * PlanFires() never returns an instant that an earlier plan returned (each instant fires at
//   most
//     once), provided the state of every applied plan is kept.
//   * An instant that became due and is not fired lies in exactly one SkippedRange of its plan.
//   * A plan costs O(missed_max + fires_max + days between decided_through and now), however many
//     instants were missed.
//   * Instants that wait for an earlier run (overlap: queue_one, queue_all) are kept as ranges:
//   memory
//     does not grow with their number.
//   * Nothing before the anchor (the first start) fires.
//
// Instants are nominal: whole microseconds of UTC, at most kScheduleLastYear. An instant is due at
// itself plus DelayOf(): the schedule's spread and the instant's jitter. A clock set forward by
// mistake decides instants of the future as skipped; set back, the schedule goes on with them
// instead of standing still (ScheduleState::ahead_from).
//
// Threading: a Schedule is immutable and may be shared by threads. Time zones come from the
// system's tz database (IANA), as it is when Parse() is called.

#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/clock.h"

namespace tocsin {

// Instants after the end of this year do not exist.
inline constexpr int kScheduleLastYear = 2199;

enum class MissedPolicy : std::uint8_t {
  kLast,  // of the missed instants only the newest fires
  kAll,   // the newest missed_max of them fire
  kSkip,  // none does
};

// A fixed time that does not exist because the clocks went forward.
enum class DstGap : std::uint8_t {
  kNext,  // fires once, at the gap's end
  kSkip,
};

// A fixed time that exists twice because the clocks went back.
enum class DstOverlap : std::uint8_t { kFirst, kBoth };

// An instant comes while an earlier fire of the same schedule is not settled by every trigger.
enum class OverlapPolicy : std::uint8_t {
  kSkip,            // it does not fire
  kQueueOne,        // the first such one fires when that is settled, further ones do not
  kQueueAll,        // each fires when the one before is settled
  kCancelPrevious,  // it fires; what is pending of earlier ones is dropped, its workers are told
  kAllow,           // it fires
};
std::string_view OverlapPolicyName(OverlapPolicy policy);

// What the configuration says. One struct, every default.
struct ScheduleSpec {
  std::string name;  // seeds `H`, spread and jitter
  // 5 fields; 6 with seconds first; 7 with seconds first and the year last; @hourly @daily
  // @midnight @weekly @monthly @yearly @annually @every_minute @every_second; `@every 90s`;
  // `@at 2026-03-29T02:30:00` (wall clock of `timezone`, or with an offset or Z); @reboot.
  std::string cron;
  std::string timezone = "UTC";
  MissedPolicy missed = MissedPolicy::kLast;
  Duration missed_window = std::chrono::hours(24);  // older missed instants never fire
  std::uint32_t missed_max = 100;                   // for kAll
  DstGap dst_gap = DstGap::kNext;
  DstOverlap dst_overlap = DstOverlap::kFirst;
  OverlapPolicy overlap = OverlapPolicy::kSkip;
  Duration spread{};  // every instant is late by a part of it that the name decides
  Duration jitter{};  // and by a random part of this, but never until the instant after
  bool paused = false;

  friend bool operator==(const ScheduleSpec&, const ScheduleSpec&) = default;
};

class Schedule {
 public:
  // kInvalidArgument: what is wrong, with the 1-based column in `spec.cron` where there is one:
  // a malformed or impossible expression (Feb 30, */0, a value out of range), an unknown time zone
  // (with the nearest known name), an @every below 100 ms or above 100 years, a missed_window below
  // zero or above 10 years, a missed_max of 0 or above 10,000, a spread or jitter below zero or
  // above 24 hours.
  static absl::StatusOr<std::shared_ptr<const Schedule>> Parse(const ScheduleSpec& spec);

  virtual ~Schedule() = default;

  // The first nominal instant strictly after `after`; nullopt: never again. `anchor`: the first
  // start; @every counts from it, and nothing at or before it is an instant.
  std::optional<WallTime> NextAfter(WallTime after, WallTime anchor) const;

  // The newest instant at or before `at`; nullopt: none after `anchor`.
  std::optional<WallTime> LastThrough(WallTime at, WallTime anchor) const;

  // How many instants lie in (after, through]. Exact.
  std::uint64_t CountBetween(WallTime after, WallTime through, WallTime anchor) const;

  // How much later than `instant` it is due. The same at every call, also after a restart.
  Duration DelayOf(WallTime instant, WallTime anchor) const;
  // The part of it that all instants share.
  std::chrono::microseconds spread() const { return spread_; }
  bool has_jitter() const { return jitter_ > std::chrono::microseconds(0); }
  // @reboot: one instant, right after the anchor; StartForBoot() sets that anew.
  virtual bool at_boot() const { return false; }
  // @every: without its first start it has no instants.
  virtual bool counts_from_anchor() const { return false; }

  OverlapPolicy overlap() const { return overlap_; }
  MissedPolicy missed() const { return missed_; }
  Duration missed_window() const { return missed_window_; }
  std::uint32_t missed_max() const { return missed_max_; }
  bool paused() const { return paused_; }

 protected:
  explicit Schedule(const ScheduleSpec& spec);

 private:
  // All in whole microseconds; `after` is not before the anchor.
  virtual std::optional<WallTime> Next(WallTime after, WallTime anchor) const = 0;
  virtual std::optional<WallTime> Last(WallTime at, WallTime anchor) const = 0;
  virtual std::uint64_t Count(WallTime after, WallTime through, WallTime anchor) const = 0;

  Duration missed_window_;
  std::uint64_t name_hash_;
  std::chrono::microseconds spread_;  // of this name
  std::chrono::microseconds jitter_;  // the most
  std::uint32_t missed_max_;
  MissedPolicy missed_;
  OverlapPolicy overlap_;
  bool paused_;
};

// All instants of a schedule from first to last.
struct InstantRange {
  WallTime first;
  WallTime last;

  friend bool operator==(const InstantRange&, const InstantRange&) = default;
};
inline constexpr std::size_t kWaitingRangesMax = 8;

// The cron expression that `cron` is or stands for (@hourly); empty for @every, @at, @reboot and
// unknown names.
std::string CronTextOf(std::string_view cron);

// What the partition keeps of a schedule, journaled whenever a plan changes it. A new schedule
// starts with StartSchedule().
struct ScheduleState {
  WallTime anchor;           // the first start
  WallTime decided_through;  // every instant at or before it has fired or been recorded as skipped

  // The last instants that were skipped because the clock jumped: (jumped_from, jumped_through].
  // None of them fired, so a clock that is set back among them may still fire them.
  WallTime jumped_from;
  WallTime jumped_through;

  // After the clock was set back: (ahead_from, ahead_through] is decided too, and jumped over.
  WallTime ahead_from;
  WallTime ahead_through;

  // Decided to fire, but not before the run that is under way is settled. Rising, at most
  // kWaitingRangesMax: they are several only where missed instants between them were skipped.
  std::vector<InstantRange> waiting;

  std::uint64_t boot = 0;  // @reboot: the kernel's boot that it knows; 0: none

  friend bool operator==(const ScheduleState&, const ScheduleState&) = default;
};

// "The first start fires nothing of the past."
ScheduleState StartSchedule(WallTime now, Duration spread = Duration::zero());

// @reboot, under a boot that the state does not know: its instant is due right after `now`, or,
// with `fire` false, counts as decided.
ScheduleState StartForBoot(WallTime now, std::uint64_t boot, bool fire);

// The journal's form of a state: versioned, little-endian, at most 192 bytes.
std::string EncodeScheduleState(const ScheduleState& state);
// kDataLoss if `bytes` is not such a form.
absl::StatusOr<ScheduleState> DecodeScheduleState(std::string_view bytes);

enum class SkipReason : std::uint8_t {
  kMissedWindow = 1,  // missed, and older than missed_window
  kMissedPolicy = 2,  // missed, and the policy fires a newer one, or none
  kMissedMax = 3,     // missed, and missed_max newer ones fire
  kOverlap = 4,       // an earlier fire was not settled yet
  kPaused = 5,
};
std::string_view SkipReasonName(SkipReason reason);

// Instants that did not fire, first and last included.
struct SkippedRange {
  WallTime first;
  WallTime last;
  std::uint64_t count = 0;  // exact
  SkipReason reason = SkipReason::kMissedWindow;

  friend bool operator==(const SkippedRange&, const SkippedRange&) = default;
};

// Journal fires, skips and `state` in one batch. When `fires` is empty and `state` is the old one
// there is nothing to journal.
struct FirePlan {
  std::vector<WallTime> fires;      // rising, at most fires_max
  std::vector<SkippedRange> skips;  // at most 4 + kWaitingRangesMax
  ScheduleState state;              // after this plan
  // When to plan again, if no run is settled before: when the next instant is due, at or before
  // `now` if fires_max cut the plan short, or if the queue goes on once it is not busy; nullopt:
  // never.
  std::optional<WallTime> next;
};

// An instant noticed no later than this, with no newer one due, is on time: it is no missed one.
inline constexpr Duration kOnTimeMax = std::chrono::seconds(10);

// What to do at `now`. Of the instants that are due and undecided
//   * the newest, if on time, fires, unless `busy` (a delivery of an earlier fire of this schedule
//     is not settled yet) and the overlap policy says otherwise: kOverlap, or it waits;
//   * all others are missed: those within missed_window fire as the policy says. With kLast a
//   missed
//     one fires only if no instant is on time, because that one is newer. Being `busy` holds them
//     back only under queue_one and queue_all, which never give more than one fire.
// Instants that wait come first, once not `busy`: call it when a run is settled. While paused
// everything due, and all that waits, is skipped as kPaused; `paused` says so beside the schedule
// itself. `fires_max` > 0.
FirePlan PlanFires(const Schedule& schedule, const ScheduleState& state, WallTime now, bool busy,
                   std::size_t fires_max, bool paused = false);

}  // namespace tocsin
