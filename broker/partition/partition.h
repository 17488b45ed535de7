// Partition: a small, complete broker. One journal stream, one state machine, one owner.
//
//   Publish, lanes, schedules --> dedupe -> match -> [TurnBatch] --Append--> Journal
//                                                                              | durable
//   sessions <-- Deliver <-- grants <-- Dispatcher <-- ready <-- TriggerQueue <-+
//   AnswerBatch --> TriggerQueue -> Settled, AttemptFailed, Outgoing -> [TurnBatch]
//
// What is remembered lives in PartitionState, which changes only by applying records, live and in
// recovery by the same code. What may be forgotten (queues, caches, leases) lives here.
//
// Threading: every method is called on the partition's executor, between BeginTurn-less calls; all
// work of one turn ends with EndTurn(), which appends at most once. It reads no clock but the one
// passed in and does no I/O but through the Journal port. The journal, dispatcher and executor
// outlive it.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "broker/base/clock.h"
#include "broker/base/event.h"
#include "broker/base/executor.h"
#include "broker/base/hash.h"
#include "broker/base/ids.h"
#include "broker/base/random.h"
#include "broker/journal/journal.h"
#include "broker/partition/explain.h"
#include "broker/partition/lane.h"
#include "broker/partition/letter.h"
#include "broker/partition/replay.h"
#include "broker/partition/route_plan.h"
#include "broker/partition/stream_order.h"
#include "dispatch/dispatcher.h"

namespace tocsin {

struct PartitionOptions {
  PartitionId id;
  std::uint32_t partitions = 1;
  std::uint64_t hash_seed = 0;  // of the data directory
  EventLimits event_limits;
  // Publishers are answered when their events are written, before they are synced. Nothing else
  // goes by it: dispatch, settlements and lanes wait for durability.
  bool answer_when_written = false;
  std::uint32_t hops_max = 16;
  Duration dedupe_window = std::chrono::minutes(10);
  std::size_t dedupe_ids_max = 1'000'000;
  QueueLimits queues;
  Duration retention_age = std::chrono::hours(7 * 24);
  std::uint64_t retention_bytes = std::uint64_t{10} << 30;  // of the whole log
  Duration letters_age = std::chrono::hours(30 * 24);
  std::uint64_t letters_bytes = std::uint64_t{2} << 30;  // of the whole dead log
  std::size_t letters_max = 1'000'000;                   // open letters of this partition
  Duration detached_retention = std::chrono::hours(7 * 24);
  std::size_t cache_bytes_max = std::size_t{8} << 20;  // event bytes kept for delivery
  std::uint64_t checkpoint_bytes = std::uint64_t{64} << 20;
  Duration checkpoint_every = std::chrono::seconds(60);
  std::size_t fires_max = 1024;  // schedules' fires per turn
  // Where very many fire at one instant, publishes and the processor have their turn in between.
  Duration between_fires = std::chrono::microseconds(500);
  // Settlements alone are worth no sync of their own: so long they wait for a batch that somebody
  // waits for (docs/adr/0017).
  Duration settlements_wait = std::chrono::milliseconds(5);
  std::uint64_t schedule_bytes_max = std::uint64_t{256} << 20;  // of those by API, delayed events
  std::uint64_t boot_id = 0;  // of the kernel, for @reboot; 0: not known, and that never fires
};

// What the partition tells its surroundings. Called on its executor; must not block.
class PartitionObserver {
 public:
  virtual ~PartitionObserver() = default;
  // An operator should hear this. `code` is of docs/errors ("T0301"), or empty.
  virtual void Warn(PartitionId partition, std::string_view code, const std::string& message) = 0;
  // The journal failed: nothing more is answered OK. The process ends with status 1.
  virtual void Failed(PartitionId partition, const absl::Status& status) = 0;
  // An event was not taken: `first` has the same source and id, or `why` says what is wrong. The
  // lane is empty for one that was published.
  virtual void NotTaken(PartitionId, const LaneId&, std::string_view /*event*/,
                        std::optional<Offset> /*first*/, std::string_view /*why*/) {}
};

// The way to other partitions, for events emitted here whose home they are. Never refuses.
class PartitionRouter {
 public:
  virtual ~PartitionRouter() = default;
  virtual void Forward(PartitionId home, LaneBatch batch) = 0;
};

// An event to publish, validated and reserved attributes stripped (by PreparePublished()).
struct PublishedEvent {
  std::string_view bytes;  // in PublishBatch::keep_alive or `own`
  std::string own;         // if it had to be re-encoded
  Hash128 identity;        // HashSourceAndId with the data directory's seed
  // When it is to be delivered: at a time, or so long after it came; 0: at once.
  std::int64_t deliver_at_us = 0;
  std::int64_t deliver_in_us = 0;
  std::uint32_t hops = 0;
  std::uint32_t index = 0;  // in the request
};

struct PublishVerdict {
  std::uint32_t index = 0;
  bool duplicate = false;
  bool delayed = false;  // it waits for its time and has no offset yet; so does a duplicate's first
  Offset first;          // of a duplicate
  absl::Status refusal;  // not OK: refused
  std::uint32_t retry_after_ms = 0;
};

// `status` not OK: no event of the batch is known to be accepted. Accepted ones that are not in
// `verdicts` have consecutive offsets from `base`.
struct PublishOutcome {
  absl::Status status;
  Offset base;
  std::vector<PublishVerdict> verdicts;
};

struct PublishBatch {
  std::shared_ptr<const void> keep_alive;
  std::vector<PublishedEvent> events;
  std::size_t bytes = 0;  // of all events, for the ingest budget
  // The caller's thread has nothing else to do: it does the partition's part and the journal's,
  // which blocks until the disk has synced, if nobody is at them.
  bool sync_here = false;
  std::shared_ptr<StreamOrder> order;  // null: it stands outside of a stream
  std::uint64_t order_epoch = 0;       // of `order`, when it was handed in
  // Once, on the committer's thread or the partition's executor. Must not block. OK: durable, or
  // written (PartitionOptions::answer_when_written).
  absl::AnyInvocable<void(PublishOutcome)> done;
};

// When a published event is to be delivered: a time (a timestamp, or RFC 3339 text), or a duration
// (text such as `90s`) after it came. Of both one.
inline constexpr std::string_view kDeliverAtAttribute = "tocsindeliverat";
inline constexpr std::string_view kDeliverInAttribute = "tocsindeliverin";

// Parses, validates, strips. The event's home is returned by PartitionOfEvent().
absl::Status PreparePublished(std::string_view bytes, const EventLimits& limits,
                              std::uint32_t hops_max, std::uint64_t hash_seed,
                              std::uint32_t partitions, PublishedEvent& event, PartitionId& home);

PartitionId PartitionOfEvent(const EventView& event, std::uint32_t partitions);

enum class TriggerState : std::uint8_t { kActive, kPaused, kDetached, kBlockedByKey };

struct TriggerBooks {
  std::string name;
  std::string function;
  std::string config_hash;
  TriggerOrdinal ordinal;
  TriggerState state = TriggerState::kActive;
  // matched = acked + dead + dropped + expired + pending, at all times.
  std::uint64_t matched = 0, acked = 0, dead = 0, dropped = 0, expired = 0, pending = 0;
  std::uint64_t ready = 0, leased = 0, delayed = 0, parked_keys = 0, skipped_keys = 0;
  std::optional<WallTime> oldest;  // append time of the floor, if something is pending
  Offset floor;
  std::string blocking_key;
};

struct ScheduleStatus {
  std::string name;
  std::optional<WallTime> next;
  std::uint64_t fired = 0, skipped = 0;
  bool busy = false;
  bool paused = false;
};

// A schedule by command or API, to be added.
struct NewSchedule {
  std::string name;
  std::optional<WallTime> at;  // once; else `rule`
  std::string rule;            // EncodeRule()
  std::string head;            // an encoded event without data; its id and time are not used
  std::string data;            // of the event
  bool text_data = false;
  bool paused = false;
  bool replace = false;  // one of the same name
};

enum class ScheduleAction : std::uint8_t { kPause, kResume, kRemove, kFire };

struct ScheduleInfo {
  std::string name;              // of a delayed event: its source and id
  bool configured = false;       // by the configuration
  bool delayed = false;          // an event that was published for later
  std::optional<WallTime> at;    // once, delayed
  std::optional<WallTime> next;  // nullopt: never, paused, or not planned yet
  ScheduleSpec spec;             // of a recurring one
  std::string head;              // see NewSchedule; of a delayed one the event
  std::string data;
  bool text_data = false;
  std::uint64_t fired = 0, skipped = 0;
  bool busy = false;
  bool paused = false;
};

struct SchedulePage {
  std::vector<ScheduleInfo> schedules;
  std::uint32_t next = 0;  // where to go on
  bool end = false;
};

// What one step of a backfill did, or would do.
struct BackfillStep {
  std::vector<WallTime> instants;  // in order; of a dry run the first ones
  std::uint64_t count = 0;         // a dry run: all; else instants.size()
  WallTime next;                   // where the next step begins
  bool end = false;                // nothing is left
};

struct LaneStatus {
  LaneId lane;
  std::string position;
  std::uint64_t events = 0;
  std::size_t entries = 0;
};

struct PartitionSnapshot {
  PartitionId id;
  Epoch epoch;
  Offset start, durable_end, end;
  std::uint64_t open_letters = 0, unmatched = 0, duplicates = 0, refused = 0, stale_answers = 0;
  std::uint64_t deduped_ids = 0, outgoing = 0, in_flight_bytes = 0, cache_bytes = 0;
  std::string pinned_by;
  std::uint64_t pinned_bytes = 0;
  bool letters_full = false;
  std::vector<TriggerBooks> triggers;
  std::vector<ScheduleStatus> schedules;
  std::uint64_t dynamic_schedules = 0, delayed_events = 0, schedule_bytes = 0;
  std::vector<LaneStatus> lanes;
  // Published events that nothing matched, by (source, type): the largest counts, bounded.
  std::vector<std::pair<std::string, std::uint64_t>> unmatched_by;
};

// One stored event, for tail, explain and replay.
struct EventRecordInfo {
  Offset offset;
  Offset origin;
  std::uint32_t run = 0;
  WallTime recorded;
  std::vector<TriggerOrdinal> matched;
  std::vector<std::string> triggers;  // names, parallel
  std::string bytes;
};
struct EventPage {
  std::vector<EventRecordInfo> events;
  Offset next;  // where to go on
  Offset durable_end;
  std::vector<std::string> gaps;  // what could not be read
};

// Of a command's answer: it is done, and written as soon as there is room on the disk; a process
// that ends before has not done it. Any other kResourceExhausted: nothing was done.
bool IsTakenWithoutRoom(const absl::Status& status);

class Partition {
 public:
  struct Ports {
    Journal& journal;
    Executor& executor;
    const Clock& clock;
    Random& random;
    Dispatcher& dispatcher;
    PartitionRouter& router;
    PartitionObserver& observer;
    // Asks for a turn of this partition soon (the shard's business). Thread-safe.
    std::function<void()> wake;
  };

  Partition(const PartitionOptions& options, const Ports& ports);
  ~Partition();
  Partition(const Partition&) = delete;
  Partition& operator=(const Partition&) = delete;

  // Recovers: newest checkpoint, then the tail. Before OK nothing else may be called.
  void Open(absl::AnyInvocable<void(absl::Status)> done);

  // --- ingest: may be refused, by `done` ---
  void Publish(PublishBatch batch);
  void AppendLane(LaneBatch batch);

  // --- control ---
  // While there is no room on the disk, what changes something answers kResourceExhausted; see
  // IsTakenWithoutRoom().
  void ApplyPlan(std::shared_ptr<const RoutePlan> plan);
  // The same triggers but for what the change says; what that costs does not grow with their
  // number. See route_plan.h.
  void ChangePlan(const PlanChange& change);
  // The same triggers, compiled anew.
  void RebasePlan(const PlanRebase& rebase);

  // Triggers of the API, as they were given, by name. Kept by partition 0 for the whole broker.
  std::map<std::string, std::string> StoredTriggers() const;
  // An empty text takes the name away. `done` on the executor when it is durable.
  void StoreTriggers(const std::vector<std::pair<std::string, std::string>>& triggers,
                     absl::AnyInvocable<void(absl::Status)> done);

  // Begins a replay, or counts what it would give. `done` on the executor when it is durable that
  // it began; it goes on by itself, also in the next life. One at a time per trigger.
  //   kNotFound            no such trigger
  //   kFailedPrecondition  it is detached, looks at the stored events, or is being replayed
  //   kInvalidArgument     `where`
  void Replay(std::string_view trigger, const ReplayOrder& order,
              absl::AnyInvocable<void(absl::StatusOr<ReplayProgress>)> done);
  // kNotFound. None under way is fine.
  absl::Status StopReplay(std::string_view trigger);
  ReplayProgress ReplayOf(std::string_view trigger) const;

  void OnAnswers(AnswerBatch batch);
  // The dispatcher may grant more now: everything ready is offered again at the turn's end.
  void Woken();
  // Restores a lane for its connector; `listener` (may be null) hears of settlements until
  // DetachLane(). Settlements of earlier lives are told again.
  StoredLaneState AttachLane(const LaneId& lane, LaneListener* listener);
  // What the state has of it now, durable or not.
  StoredLaneState StoredLane(const LaneId& lane) const;
  void DetachLane(const LaneId& lane);
  // Until it is attached or detached: its batches that wait for room on the disk are answered
  // kResourceExhausted, although they were taken.
  void LeaveLane(const LaneId& lane);
  // kNotFound.
  absl::Status SetPaused(std::string_view trigger, bool paused);
  // Discards what is pending of a detached trigger; gives how many that is (with `dry_run`: would
  // be). kNotFound, kFailedPrecondition (not detached).
  absl::StatusOr<std::uint64_t> Forget(std::string_view trigger, bool dry_run);

  // Dead letters. `done` runs on the executor.
  std::vector<LetterSummary> OpenLetters() const;  // from memory: id, trigger, position
  void ReadLetter(const DeliveryId& id, absl::AnyInvocable<void(absl::StatusOr<Letter>)> done);
  // Appends the event again as a new run for its trigger and closes the letter, in one batch.
  // kNotFound (no such open letter), kFailedPrecondition (its trigger is gone). Both wait until the
  // letter is durable.
  void Redrive(const DeliveryId& id, absl::AnyInvocable<void(absl::Status)> done);
  void Discard(const DeliveryId& id, absl::AnyInvocable<void(absl::Status)> done);

  // Schedules by command or API. They live on the partition of their name: PartitionOfLane({name,
  // ""}). Each `done` runs on the executor when what it tells is durable.
  //   kAlreadyExists       a schedule of that name, maybe of the configuration (T0336)
  //   kResourceExhausted   no room for it (T0338), or in the log
  //   kNotFound            no such schedule (T0337)
  //   kFailedPrecondition  the configuration's cannot be removed (T0343); a single instant that
  //                        has passed while paused
  using SchedulesAdded = absl::AnyInvocable<void(std::vector<absl::Status>)>;
  void AddSchedules(const std::vector<NewSchedule>& schedules, SchedulesAdded done);
  void ControlSchedule(const std::string& name, ScheduleAction action,
                       absl::AnyInvocable<void(absl::StatusOr<ScheduleInfo>)> done);
  absl::StatusOr<ScheduleInfo> DescribeSchedule(const std::string& name) const;
  // From number `from` on; with `delayed` delayed events, else schedules.
  SchedulePage ListSchedules(std::uint32_t from, std::size_t schedules_max, bool delayed) const;
  // Fires at most `instants_max` instants of [from, to] that never fired. kInvalidArgument: it has
  // no instants of the past (T0342).
  void Backfill(const std::string& name, WallTime from, WallTime to, std::size_t instants_max,
                bool dry_run, absl::AnyInvocable<void(absl::StatusOr<BackfillStep>)> done);

  // A page of stored events from `from` on; `done` runs on the executor, at once if memory has
  // them. An event whose publisher was answered is there. Any error is the journal's.
  void ReadEvents(Offset from, std::size_t events_max, std::size_t bytes_max,
                  absl::AnyInvocable<void(absl::StatusOr<EventPage>)> done);

  // What is stored of an event and what became of its deliveries, later runs of it included.
  // `done` runs on the executor.
  //   kNotFound  not there, not there any more, or not readable
  void Explain(Offset offset, absl::AnyInvocable<void(absl::StatusOr<EventStory>)> done);
  // Where the dedupe table has it.
  std::optional<Offset> FindRecent(const Hash128& identity) const;
  // When all that was done before is durable: on the executor, at once if nothing is under way.
  //   kResourceExhausted  there is no room on the disk, see IsTakenWithoutRoom()
  //   kUnavailable        the partition failed
  void OnceDurable(absl::AnyInvocable<void(absl::Status)> then);
  // Behind the last event that was appended, durable or not.
  Offset end() const;
  // No event below was appended at `time` or later; a lower bound, from memory.
  Offset OffsetSince(WallTime time) const;

  PartitionSnapshot Snapshot() const;

  // Ends the turn: due timers and schedules, one append, ready counts to the dispatcher, grants to
  // sessions, scans, checkpoint, trim. Returns when it must run again if nothing happens before;
  // nullopt: never. `on_loan`: the caller has other things to do, and what may take long is left to
  // the next turn.
  std::optional<Instant> EndTurn(bool on_loan);

  // Bytes appended and not yet durable, and those waiting in this turn: for the ingest budget.
  std::size_t in_flight_bytes() const;
  // The journal failed: nothing is answered OK any more.
  bool failed() const;
  // False while the disk or `retention` is full: publishes and lanes are refused.
  bool accepts_ingest() const;

  // Stops appending from schedules and lanes (SIGTERM); `done` when everything appended is durable
  // and a last checkpoint was written.
  void Close(absl::AnyInvocable<void(absl::Status)> done);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tocsin
