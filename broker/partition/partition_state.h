// PartitionState: everything a partition must remember about its past, and nothing else. It changes
// only by Apply(), one record at a time, live and in recovery by the same code, so that what a
// crash leaves in the journal is what the next process knows.
//
// Pure: no I/O, no clock (`append_time_us` of the record's batch is the only time). Owned by one
// partition; not thread-safe.
//
// Invariant, for each trigger: matched = acked + dead + dropped + expired + pending.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "broker/base/ids.h"
#include "broker/base/shared_text.h"
#include "broker/journal/journal.h"
#include "broker/journal/record.h"
#include "broker/partition/dedupe_table.h"
#include "broker/partition/lane.h"
#include "broker/partition/letter.h"
#include "broker/partition/records.h"
#include "broker/partition/schedule_table.h"
#include "broker/schedule/schedule.h"
#include "broker/schedule/unfired.h"
#include "dispatch/settled_set.h"

namespace tocsin {

struct AttemptHistory {
  Offset offset;
  std::uint32_t failed = 0;
  std::int64_t first_us = 0;  // when the first failed attempt was journaled
  std::int64_t due_us = 0;
  bool alone = false;
  std::vector<AttemptNote> notes;  // first 4, last 12
};

struct ParkedKey {
  DeliveryId letter;
  std::optional<Offset> redriven_as;  // its letter was redriven: this event goes first
};

// What a trigger's configuration was, for events below `until`.
struct FormerConfig {
  Offset until;
  SharedText config_json;
};

struct ReplayState {
  Offset next;
  Offset end;
  std::int64_t from_us = 0;
  std::int64_t until_us = 0;
  std::uint64_t rate_millis = 0;
  std::uint64_t copied = 0;
  std::string where;
};

struct TriggerRecord {
  TriggerOrdinal ordinal;
  std::string name;
  std::uint64_t generation = 0;
  SharedText config_hash;  // the same in every partition, one for all of them
  SharedText config_json;
  bool paused = false;
  bool detached = false;
  bool forgotten = false;
  std::int64_t detached_us = 0;
  // `from: start`, not caught up: the next stored event to look at. Until it is, new events are not
  // matched either: they are stored events when their turn comes, so that keys keep their order.
  std::optional<Offset> catch_up;

  std::uint64_t matched = 0, acked = 0, dead = 0, dropped = 0, expired = 0;
  SettledSet settled;
  Offset floor;  // nothing below is pending; a hint from the last checkpoint, raised by the owner
  absl::flat_hash_map<std::uint64_t, AttemptHistory> attempts;  // by match index, unsettled only
  std::map<std::string, ParkedKey> parked;
  std::map<std::uint64_t, std::string> redriving;  // match index of a redriven event -> parked key
  std::vector<FormerConfig> former;                // the last few, oldest first
  std::uint32_t replays = 0;                       // begun so far
  std::unique_ptr<ReplayState> replay;             // under way
  bool dirty = true;                               // since the last checkpoint

  std::uint64_t pending() const { return matched - acked - dead - dropped - expired; }
};

struct OpenLetter {
  DeliveryId id;
  bool parked = false;
  std::string key;          // of a parked one
  LetterPosition position;  // 0: not known yet
  std::int64_t died_us = 0;
  bool lost = false;  // the dead log does not have it; in memory only
};

// A lane's or schedule's event that is not done with yet.
struct TrackedEvent {
  Offset offset;
  bool schedule = false;
  std::string source;
  std::string lane;
  std::string event_id;
  std::uint32_t remaining = 0;  // deliveries not settled
  std::uint32_t acked = 0;
  std::uint32_t dead_open = 0;
  bool told = false;          // in memory only
  std::uint64_t told_at = 0;  // checkpoints taken before it was told
};

struct LaneRecord {
  LaneId id;
  std::uint32_t number = 0;  // of its pages
  std::string position;
  std::uint64_t events = 0;
  std::vector<absl::flat_hash_map<std::string, std::string>> buckets;
  std::size_t entry_count = 0;
  std::vector<bool> dirty_buckets;
  bool dirty = true;
};

// Of a schedule of the configuration.
struct ScheduleRecordState {
  std::string state;  // EncodeScheduleState()
  std::uint64_t fired = 0;
  std::uint64_t skipped = 0;
  std::optional<Offset> last_fire;
  bool paused = false;                   // by command
  std::optional<UnfiredRanges> unfired;  // absent: nothing was skipped or backfilled

  UnfiredRanges Unfired() const;
};

struct OutgoingLane {
  std::uint64_t next_sequence = 1;
  std::map<std::uint64_t, std::string> pending;  // by sequence
};

class PartitionState {
 public:
  PartitionState(PartitionId id, std::uint64_t hash_seed, std::int64_t dedupe_window_us,
                 std::size_t dedupe_ids_max);

  // Everything a batch says. `base` is the offset of its first event.
  absl::Status ApplyBatch(std::string_view body, Offset base, std::int64_t append_time_us);

  // One record; `offset` is an Event's. kDataLoss: its matches do not continue those before, as if
  // a file were of another time.
  absl::Status Apply(const RecordView& record, Offset offset, std::int64_t append_time_us);
  // As Apply() of an Event record; `identity` saves hashing (source, id) again.
  void ApplyEvent(const EventRecord& record, Offset offset, std::int64_t append_time_us,
                  const Hash128* identity);

  // --- what is known ---
  Offset end() const { return end_; }
  TriggerRecord* FindTrigger(TriggerOrdinal ordinal);
  TriggerRecord* FindTrigger(std::string_view name);
  const std::vector<std::unique_ptr<TriggerRecord>>& triggers() const { return triggers_; }
  const DedupeTable& dedupe() const { return dedupe_; }
  const LaneRecord* FindLane(const LaneId& lane) const;
  const std::map<LaneId, std::unique_ptr<LaneRecord>>& lanes() const { return lanes_; }
  const std::map<std::string, ScheduleRecordState, std::less<>>& schedules() const {
    return schedules_;
  }
  ScheduleTable& dynamic() { return dynamic_; }
  const ScheduleTable& dynamic() const { return dynamic_; }
  const std::map<DeliveryId, OpenLetter>& letters() const { return letters_; }
  void SetLetterPosition(const DeliveryId& id, LetterPosition position);
  // In recovery: all that the dead log has. The other open letters are lost; how many.
  std::size_t PlaceLetters(const std::vector<LetterRef>& stored);
  const std::map<PartitionId, OutgoingLane>& outgoing() const { return outgoing_; }
  std::size_t outgoing_bytes() const { return outgoing_bytes_; }  // of what is pending
  // Triggers of the API, by name, as they were given. Of partition 0 alone.
  const std::map<std::string, std::string, std::less<>>& stored_triggers() const {
    return stored_triggers_;
  }
  std::map<std::uint64_t, TrackedEvent>& tracked() { return tracked_; }
  const std::map<std::uint64_t, TrackedEvent>& tracked() const { return tracked_; }
  // A delivery of a fire of this schedule is pending.
  bool ScheduleBusy(std::string_view name) const { return open_fires_.contains(name); }
  std::optional<Offset> LastFire(std::string_view name) const;
  // Offsets of the fires with pending deliveries, rising.
  std::set<std::uint64_t> OpenFires(std::string_view name) const;
  // The deliveries of a tracked event that are not settled.
  std::vector<Match> PendingOf(Offset offset) const;
  // Schedules that stopped being busy, each maybe more than once; taken by the owner.
  std::vector<std::string> TakeReleasedSchedules() {
    return std::exchange(released_schedules_, {});
  }
  bool has_released_schedules() const { return !released_schedules_.empty(); }
  void RaiseFloor(TriggerOrdinal ordinal, Offset floor);
  // Everything of this lane that is settled is to be told (again).
  void TellAgain(const LaneId& lane);
  // The lane was told about a settled event at a checkpoint count; it is forgotten two later.
  void MarkTold(std::uint64_t offset);

  // Tracked events whose last delivery was just settled, or that nothing matched; taken by the
  // owner.
  std::vector<std::uint64_t> TakeSettledEvents() { return std::exchange(settled_events_, {}); }

  // --- checkpoints ---
  // All but the schedule table, whose snapshot is begun: dynamic().NextPages() takes it in pieces.
  void TakePages(bool every, CheckpointDelta& delta);
  absl::Status LoadPages(const std::vector<CheckpointPage>& pages);
  std::uint64_t checkpoints_taken() const { return checkpoints_taken_; }

  // Damage was found in what recovery replays: what refers to lost records is tolerated, counted as
  // dropped, and no longer a bug.
  void SetLenient() { lenient_ = true; }
  // The journal says that all offsets below were given out; nothing below is still to come.
  void SkipTo(Offset end) { end_ = std::max(end_, end); }
  // The first event that was matched by a trigger whose definition is lost: those that are defined
  // now and were not known may be it. Until DefinedAgain().
  std::optional<Offset> undefined_from() const { return undefined_from_; }
  void DefinedAgain() { undefined_from_.reset(); }

  // A digest of all that would go into a checkpoint: equal states give equal digests. For tests.
  std::string Digest();

 private:
  void ApplySettledIndex(TriggerRecord& trigger, std::uint64_t index, SettleKind kind);
  void ApplyRanges(const RangesRecord& record, SettleKind kind);
  absl::Status CheckMatches(const EventRecord& record, Offset offset);
  TriggerRecord* Known(TriggerOrdinal ordinal);
  void ApplyDead(const DeadRecord& record, SettleKind kind, std::int64_t append_time_us);
  void ApplyAttempt(const AttemptFailedRecord& record);
  void ApplyDeadClosed(const DeadClosedRecord& record);
  void ApplyLane(const LaneStateRecord& record);
  void ApplyDefined(const TriggerDefinedRecord& record);
  void ApplyDetached(const TriggerDetachedRecord& record);
  void ApplyCatchUp(const TriggerCatchUpRecord& record);
  void ApplyStored(const TriggerStoredRecord& record);
  void ApplyReplay(const ReplayRecord& record);
  void TakeRoutePages(bool every, CheckpointDelta& delta);  // of what the two above change
  absl::Status LoadPast(std::uint64_t item, std::string_view bytes);
  absl::Status LoadStored(std::string_view bytes);
  // partition_state_schedules.cc
  void ApplySchedule(RecordType type, const ScheduleRecord& record);
  void ApplyDynamicSet(const DynamicSetRecord& record);
  void ApplyDynamicFired(const DynamicFiredRecord& record);
  void ApplyDynamicSkipped(const DynamicSkippedRecord& record);
  absl::Status ApplyDynamic(const RecordView& record);
  void SaveScheduleNotes(CheckpointDelta& delta);
  absl::Status LoadScheduleNotes(std::string_view bytes);
  LaneRecord& LaneOf(std::string_view source, std::string_view key);
  void TouchTracked(std::uint64_t offset, SettleKind kind);
  void CloseFire(const TrackedEvent& event);
  void FinishTracked(std::map<std::uint64_t, TrackedEvent>::iterator event);
  void SavePages(std::uint32_t table, std::uint64_t item, std::string_view bytes,
                 CheckpointDelta& delta);
  absl::Status LoadItem(std::uint32_t table, std::uint64_t item, std::string_view bytes);

  const PartitionId id_;
  const std::uint64_t hash_seed_;
  Offset end_;
  std::vector<std::unique_ptr<TriggerRecord>> triggers_;  // by ordinal
  absl::flat_hash_map<std::string, TriggerOrdinal> trigger_names_;
  DedupeTable dedupe_;
  std::map<LaneId, std::unique_ptr<LaneRecord>> lanes_;
  std::vector<LaneRecord*> lane_numbers_;
  std::map<std::string, ScheduleRecordState, std::less<>> schedules_;
  bool schedule_notes_dirty_ = true;
  ScheduleTable dynamic_;
  std::map<DeliveryId, OpenLetter> letters_;
  std::set<std::uint64_t> dirty_letter_pages_;
  std::map<PartitionId, OutgoingLane> outgoing_;
  std::size_t outgoing_bytes_ = 0;
  bool outgoing_dirty_ = true;
  std::map<std::uint64_t, TrackedEvent> tracked_;
  absl::flat_hash_map<std::pair<std::uint32_t, std::uint64_t>, std::uint64_t> tracked_matches_;
  std::set<std::uint64_t> dirty_tracked_pages_;
  std::set<std::uint64_t> dirty_schedule_buckets_;
  std::map<std::string, std::string, std::less<>> stored_triggers_;
  std::set<std::uint64_t> dirty_stored_buckets_;
  std::vector<std::uint64_t> settled_events_;
  std::map<std::string, std::set<std::uint64_t>, std::less<>> open_fires_;  // from `tracked_`
  std::vector<std::string> released_schedules_;
  std::map<std::pair<std::uint32_t, std::uint64_t>, std::uint32_t> saved_parts_;  // item -> parts
  std::uint64_t checkpoints_taken_ = 0;
  bool force_every_ = false;
  bool lenient_ = false;
  std::optional<Offset> undefined_from_;
  EventRecord scratch_;
};

}  // namespace tocsin
