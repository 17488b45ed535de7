// The bodies of the records a partition writes (journal format 1). Numbers are varints unless a
// width is given; text is a varint length and its bytes. Encoding appends to a string; decoding
// gives views into the body and fails with kDataLoss on malformed bytes.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "broker/base/hash.h"
#include "broker/base/ids.h"
#include "dispatch/trigger_queue.h"

namespace tocsin {

// One trigger that matched: its ordinal, and which of its matches on this partition this is.
struct Match {
  TriggerOrdinal trigger;
  std::uint64_t index = 0;
  friend auto operator<=>(const Match&, const Match&) = default;
};

// flags u8 | matches | [origin run] | [hops] | [lane source, lane key] | event bytes
struct EventRecord {
  absl::InlinedVector<Match, 4> matches;
  bool new_run = false;  // a redrive or replay: the delivery id's offset and run follow
  Offset origin;
  std::uint32_t run = 0;
  std::uint32_t hops = 0;
  bool deduped = false;  // its (source, id) entered the dedupe table
  bool has_lane = false;
  bool tracked = false;        // its lane or schedule is told when every trigger is done with it
  bool from_schedule = false;  // lane_source is the schedule's name
  bool redriven = false;       // does not expire by its expirytime
  std::string_view lane_source;
  std::string_view lane_key;
  std::string_view event;
};
void EncodeEventPrefix(const EventRecord& record, std::string& out);  // all but the event bytes
absl::Status DecodeEvent(std::string_view body, EventRecord& record);
// EventRecord::hops alone; 0 if malformed.
std::uint32_t HopsOf(std::string_view body);

struct IndexRange {
  std::uint64_t first = 0;
  std::uint64_t last = 0;  // inclusive
};

// Settled(acked), Dropped: runs of match indexes.
struct RangesRecord {
  TriggerOrdinal trigger;
  std::vector<IndexRange> ranges;
  std::string_view reason;
};
void EncodeRanges(TriggerOrdinal trigger, const std::vector<IndexRange>& ranges,
                  std::string_view reason, std::string& out);
absl::Status DecodeRanges(std::string_view body, RangesRecord& record);

// Settled(dead) and Expired: one delivery, whose letter is in the dead log.
struct DeadRecord {
  TriggerOrdinal trigger;  // kNoTrigger: a letter of something that never was an event
  std::uint64_t index = 0;
  Offset offset;  // of the event record
  Offset origin;
  std::uint32_t run = 0;
  LetterReason reason = LetterReason::kExhausted;
  bool parked = false;
  std::string_view key;
};
void EncodeDead(const DeadRecord& record, std::string& out);
absl::Status DecodeDead(std::string_view body, DeadRecord& record);

struct AttemptFailedRecord {
  TriggerOrdinal trigger;
  std::uint64_t index = 0;
  Offset offset;
  std::uint32_t attempt = 0;
  std::int64_t at_us = 0;
  std::int64_t due_us = 0;  // wall time at which its delay ends
  bool worker_died = false;
  std::string_view code;
  std::string_view message;
};
void EncodeAttemptFailed(const AttemptFailedRecord& record, std::string& out);
absl::Status DecodeAttemptFailed(std::string_view body, AttemptFailedRecord& record);

enum class LetterClosedAs : std::uint8_t { kRedriven = 0, kDiscarded = 1, kExpired = 2 };
struct DeadClosedRecord {
  TriggerOrdinal trigger;
  Offset origin;
  std::uint32_t run = 0;
  LetterClosedAs how = LetterClosedAs::kRedriven;
  Offset redriven_as;       // kRedriven: the offset of the new event record
  std::uint64_t index = 0;  // and its match index
};
void EncodeDeadClosed(const DeadClosedRecord& record, std::string& out);
absl::Status DecodeDeadClosed(std::string_view body, DeadClosedRecord& record);

struct LaneStateRecord {
  std::string_view source;
  std::string_view key;
  std::string_view position;
  std::uint64_t events = 0;  // of this batch
  std::vector<std::pair<std::string_view, std::string_view>> puts;
  std::vector<std::string_view> erases;
};
void EncodeLaneState(const LaneStateRecord& record, std::string& out);
absl::Status DecodeLaneState(std::string_view body, LaneStateRecord& record);

struct TriggerDefinedRecord {
  TriggerOrdinal trigger;
  std::uint64_t generation = 0;
  bool paused = false;
  std::string_view name;
  std::string_view config_hash;
  std::string_view config_json;
};
void EncodeTriggerDefined(const TriggerDefinedRecord& record, std::string& out);
absl::Status DecodeTriggerDefined(std::string_view body, TriggerDefinedRecord& record);

struct TriggerDetachedRecord {
  TriggerOrdinal trigger;
  std::int64_t at_us = 0;
  bool forgotten = false;  // everything pending is dropped, the ordinal is closed
};
void EncodeTriggerDetached(const TriggerDetachedRecord& record, std::string& out);
absl::Status DecodeTriggerDetached(std::string_view body, TriggerDetachedRecord& record);

// How far a trigger with `from: start` has looked at the stored events.
struct TriggerCatchUpRecord {
  TriggerOrdinal trigger;
  Offset next;        // everything below was looked at; what matched is in the log as a new run
  bool done = false;  // from here on its events are matched as they come
};
void EncodeTriggerCatchUp(const TriggerCatchUpRecord& record, std::string& out);
absl::Status DecodeTriggerCatchUp(std::string_view body, TriggerCatchUpRecord& record);

// A trigger that was applied by the API, as a value of the file's `triggers`; empty: removed.
struct TriggerStoredRecord {
  std::string_view name;
  std::string_view text;
};
void EncodeTriggerStored(const TriggerStoredRecord& record, std::string& out);
absl::Status DecodeTriggerStored(std::string_view body, TriggerStoredRecord& record);

// A replay of stored events for one trigger: what it was asked for and how far it has come. What
// matched below `next` is in the log as a new run.
struct ReplayRecord {
  TriggerOrdinal trigger;
  std::uint32_t number = 0;  // rises by one with each of the trigger
  Offset next;
  Offset end;                     // of what is looked at
  std::int64_t until_us = 0;      // events appended later are passed over; 0: none
  std::uint64_t rate_millis = 0;  // runs in a thousand seconds; 0: as fast as it goes
  std::uint64_t copied = 0;       // runs so far
  bool over = false;              // it is through, or was stopped
  std::string_view where;         // a list of filters in JSON; empty: all
  std::int64_t from_us = 0;       // events appended earlier are passed over
};
void EncodeReplay(const ReplayRecord& record, std::string& out);
absl::Status DecodeReplay(std::string_view body, ReplayRecord& record);

// ScheduleSet, ScheduleFired, ScheduleSkipped: each carries the state after it. `reason` is that of
// a skip; of ScheduleSet what was asked for, of ScheduleFired kScheduleBackfill or 0.
inline constexpr std::uint8_t kSchedulePause = 1;
inline constexpr std::uint8_t kScheduleResume = 2;
inline constexpr std::uint8_t kScheduleBackfill = 3;  // of (first_us .. last_us), which it ends
struct ScheduleRecord {
  std::string_view name;
  std::string_view state;  // EncodeScheduleState(); empty: the schedule is gone
  std::int64_t first_us = 0;
  std::int64_t last_us = 0;
  std::uint64_t count = 0;
  std::uint8_t reason = 0;
  Offset offset;  // of the fire's event
};
void EncodeSchedule(const ScheduleRecord& record, std::string& out);
absl::Status DecodeSchedule(std::string_view body, ScheduleRecord& record);

// A schedule that was added by command or API. What is given depends on `what`.
enum class DynamicChange : std::uint8_t {
  kDefined = 0,  // all but `state`
  kRemoved = 1,
  kPaused = 2,
  kResumed = 3,
  kState = 4,  // decided_us, state
};
struct DynamicSetRecord {
  DynamicChange what = DynamicChange::kDefined;
  std::string_view name;
  std::int64_t at_us = 0;  // once: when; recurring: the first start
  std::int64_t decided_us = 0;
  bool paused = false;
  bool text_data = false;
  std::string_view rule;  // EncodeRule(); empty: once
  std::string_view head;  // of its events: all but id, time and data
  std::string_view data;
  std::string_view state;  // EncodeScheduleState(), if it is not a plain one
};
void EncodeDynamicSet(const DynamicSetRecord& record, std::string& out);
absl::Status DecodeDynamicSet(std::string_view body, DynamicSetRecord& record);

// Its event is in the same batch. `decided_us` and `state` as above, of a recurring one.
struct DynamicFiredRecord {
  std::string_view name;
  std::int64_t instant_us = 0;
  Offset offset;
  bool once = false;      // and is gone with it
  bool backfill = false;  // of the stretch from `first_us`, in which nothing else is to fire
  std::int64_t first_us = 0;
  std::int64_t decided_us = 0;
  std::string_view state;
};
void EncodeDynamicFired(const DynamicFiredRecord& record, std::string& out);
absl::Status DecodeDynamicFired(std::string_view body, DynamicFiredRecord& record);

struct DynamicSkippedRecord {
  std::string_view name;
  std::int64_t first_us = 0;
  std::int64_t last_us = 0;
  std::uint64_t count = 0;
  std::uint8_t reason = 0;
  std::int64_t decided_us = 0;
  std::string_view state;
};
void EncodeDynamicSkipped(const DynamicSkippedRecord& record, std::string& out);
absl::Status DecodeDynamicSkipped(std::string_view body, DynamicSkippedRecord& record);

// An event that was published for later: HashSourceAndId() of it is its name in the table.
struct DelayedRecord {
  Hash128 identity;
  std::int64_t at_us = 0;
  std::uint32_t hops = 0;
  std::string_view event;
};
void EncodeDelayed(const DelayedRecord& record, std::string& out);  // all but the event
absl::Status DecodeDelayed(std::string_view body, DelayedRecord& record);

struct DelayedFiredRecord {
  Hash128 identity;
  Offset offset;
};
void EncodeDelayedFired(const DelayedFiredRecord& record, std::string& out);
absl::Status DecodeDelayedFired(std::string_view body, DelayedFiredRecord& record);

struct OutgoingRecord {
  std::uint64_t sequence = 0;  // rises by one per home partition
  PartitionId home;
  std::string_view event;
};
void EncodeOutgoing(const OutgoingRecord& record, std::string& out);
absl::Status DecodeOutgoing(std::string_view body, OutgoingRecord& record);

struct OutgoingDoneRecord {
  PartitionId home;
  std::uint64_t through = 0;
};
void EncodeOutgoingDone(const OutgoingDoneRecord& record, std::string& out);
absl::Status DecodeOutgoingDone(std::string_view body, OutgoingDoneRecord& record);

}  // namespace tocsin
