// Partition::Impl: private to broker/partition. Its functions are spread over partition*.cc by
// what they are about.

#pragma once

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <queue>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "broker/partition/body_pool.h"
#include "broker/partition/event_cache.h"
#include "broker/partition/partition.h"
#include "broker/partition/partition_state.h"
#include "broker/partition/turn_batch.h"
#include "broker/schedule/timing_wheel.h"
#include "dispatch/trigger_queue.h"
#include "dispatch/worker_session.h"

namespace tocsin {

// What a publisher is told while nothing can be appended.
inline absl::Status DiskIsFull() {
  return absl::ResourceExhaustedError("the disk is full; send again later with the same id");
}

struct Partition::Impl {
  // What may be forgotten of a trigger.
  struct Runtime {
    TriggerOrdinal ordinal;
    std::size_t route = 0;  // the one in force: see SpecOf()
    TriggerNumber number;
    std::unique_ptr<TriggerQueue> queue;  // null while nothing is pending
    std::uint64_t queue_number = 0;  // of this life's queues: what comes late is of another one
    std::size_t offered = 0;         // what the dispatcher believes is ready
    std::size_t offered_alone = 0;
    bool touched = false;
    bool refusal_told = false;  // T0330
    bool scanning = false;
    Offset scan_cursor;
    std::uint64_t scan_number = 0;
    std::uint64_t scan_after = 0;  // the batch that must be durable first; 0: none
    std::uint64_t catch_up = 0;    // number of the read or append under way; 0: none
    std::optional<Instant> due;    // the queue's next Tick(), or `gather_until` before it
    // While less than a batch is ready: when it goes all the same.
    std::optional<Instant> gather_until;
  };

  struct InFlight {
    Offset base;
    std::uint32_t event_count = 0;
    std::uint32_t record_count = 0;
    std::int64_t append_time_us = 0;
    std::shared_ptr<const std::string> body;
    std::vector<EventSlot> slots;
    std::vector<OfferedEvent> offers;
    std::vector<Match> matches;
    std::vector<FailedAttemptRef> attempts;
    std::vector<LetterPut> letters;  // kept for a second try
    std::vector<std::function<void()>> confirmed;
    std::vector<DurableWaiter> done;
    std::vector<std::pair<PartitionId, std::uint64_t>> outgoing;  // the last of each home in it
    bool may_use_reserve = false;
    bool submitted = false;
    std::uint64_t number = 0;
  };

  // Which matches still have an event in the log, after some could not be read.
  struct Audit {
    bool wanted = false;
    bool active = false;
    bool reading = false;
    Offset end;                          // of what is looked at
    JournalPosition next;                // where to read on
    std::vector<std::uint64_t> matched;  // by ordinal, as of `end`
    std::vector<SettledSet> present;     // by ordinal: the indexes that were met
    std::set<JournalPosition> gaps;      // that were met in this life
  };

  struct WaitingFor {
    Offset offset;  // durable_end must be above
    absl::AnyInvocable<void(const absl::Status&)> done;
  };

  // An answer batch whose dead letters wait for bytes from the journal, or for room.
  struct Confirmation {
    std::size_t letters = 0;  // to be written
    std::function<void()> then;
  };

  // What an answer emits, checked.
  struct EmittedEvents {
    std::vector<std::string> events;
    std::uint32_t hops = 1;
    std::size_t bytes = 0;  // in a batch, at most
  };

  // A delivery that dies when its letter can be written, with what its last answer emitted.
  struct HeldDead {
    TriggerOrdinal trigger;
    std::uint64_t queue_number = 0;
    DeadAction action;
    EmittedEvents emitted;
    std::shared_ptr<Confirmation> confirmation;
  };

  struct PendingCheckpoint {
    CheckpointDelta delta;
    std::uint64_t after = 0;  // number of the in-flight batch that must be durable
    std::optional<JournalPosition> replay_from;  // when it is
  };

  struct ScheduleRuntime {
    std::size_t binding = 0;  // in plan->schedules
    ScheduleState state;
    std::optional<WallTime> next;
    bool paused = false;  // by command
  };

  // Deliveries whose events are being read from the journal.
  struct Fetch {
    Grant grant;
    std::vector<Lease> leases;
    TriggerOrdinal trigger;
    int reads_failed = 0;
    // What was read for it: the cache may have let it go again.
    std::vector<std::shared_ptr<const CachedBatch>> batches;
  };

  // A delivery of which its trigger's transform can make nothing.
  struct Refusal {
    Lease lease;
    std::string message;
  };

  // Stored events that a catching-up trigger looks at.
  struct CatchUpBatch {
    Offset base;
    std::shared_ptr<const std::string> body;
    std::vector<EventSlot> slots;
  };

  // A replay, as far as it may be forgotten.
  struct ReplayRuntime {
    ReplayProgress progress;
    std::string where_text;
    std::shared_ptr<const Filter> where;
    std::uint64_t reading = 0;  // number of the read or append under way; 0: none
    std::uint64_t allowed = 0;  // events of this read
    double tokens = 0;
    Instant filled{};
  };
  struct DryReplay;

  Impl(const PartitionOptions& options_in, const Ports& ports_in);

  // --- partition.cc: turns and appending ---
  void BeginIfNeeded();
  // Wall time that never goes back, also over restarts: a delay that a record promises is not
  // longer for a clock that was set back.
  std::int64_t LogTime() const {
    return std::max(last_append_us, std::int64_t{wall.time_since_epoch().count()});
  }
  std::size_t MatchBytes(const EventView& view, std::string_view source, std::size_t events);
  std::size_t MatchBytes(const LaneBatch& batch);
  std::size_t BodySlack() const;  // kept for settlements encoded at the end of a batch
  // Flushes what the turn holds if `bytes` of records, and of letters, would be too much with it.
  void EnsureRoom(std::size_t bytes, std::size_t letter_bytes = 0);
  void AddLetter(const DeliveryId& id, std::string bytes);
  void AddRecord(RecordType type, std::string_view body);
  // Appends an event and applies it; `view` is of `event`. Returns its offset.
  Offset AddEvent(EventRecord& record, const EventView& view, const Hash128* identity,
                  bool first_of_key);
  void EncodeSettlements();
  void Flush();
  void FlushUnlessSettlementsWait();
  std::shared_ptr<const std::string> TakeBody();
  void Submit(InFlight& flight, std::vector<Notify> notify, std::vector<Notify> notify_written);
  void OnAppended(std::uint64_t number, absl::StatusOr<AppendResult> result);
  void OnDurable(InFlight& flight, const AppendResult& result);
  void ResubmitAll();
  void Fail(const absl::Status& status);
  void Warn(std::string_view code, const std::string& message);
  std::optional<Instant> EndTurn(bool on_loan);
  // What a thread that has other things to do leaves to the shard's.
  bool HasLongWork() const;
  void Housekeep();
  void TellSettled();
  void CheckpointIfDue();
  void StartCheckpoint(bool base);
  // Takes the next piece of the schedule table; writes the checkpoint when it is whole and durable.
  void PumpCheckpoint();
  void WriteCheckpoint(JournalPosition replay_from);
  void TellWhetherRefusing();
  bool IsQuiet() const;
  // All that is below `end` is at least as old as `at`.
  void NoteSample(WallTime at, Offset end);
  Offset StartForSize(Offset floor) const;
  void Trim();
  void TrimLetters();
  // `then` when all that the state has so far is durable: it may be at once. See DurableWaiter.
  void WhenDurable(absl::AnyInvocable<void(const absl::Status&)> then, bool asked = false);
  std::vector<DurableWaiter> TakeWaiters(const std::function<bool(const DurableWaiter&)>& which);
  // Nothing can be appended: those who are not to be kept for it are told, and a stop ends.
  void TellNoRoom();
  // All are told, and all that come later.
  void TellFailed();
  // Whether a read at `offset` is to come again in a moment: the journal answers a publisher before
  // this partition hears that its event is durable, and what was answered must be found.
  bool NotKnownYet(Offset offset) const;
  Offset Floor(std::string* pinned_by) const;

  // --- partition_ingest.cc ---
  void Publish(PublishBatch batch);
  void AppendLane(LaneBatch batch);
  // Which triggers match; false: a full backlog refuses it (`refusal` says so).
  bool MatchEvent(const EventView& view, std::string_view source, EventRecord& record,
                  absl::Status* refusal);
  void CountUnmatched(const EventView& view, Offset offset);
  void DropOverBacklog(const EventRecord& record);
  void AddLetterWithoutTrigger(const LaneId& lane, std::string_view bytes, LetterReason reason,
                               const std::string& message);
  void ForwardOutgoing();

  // --- partition_schedules.cc ---
  bool SchedulesRun() const;  // there is room for their events
  void RunSchedules();
  void LoadSchedules();
  // What is known of it, or its first state; `changed`: to be journaled.
  ScheduleState RestoreSchedule(const ScheduleBinding& binding, bool& changed);
  void PlanScheduleAt(std::size_t index, std::optional<WallTime> when);
  std::size_t FireSchedule(std::size_t index, std::size_t fires_max);  // how many fired
  // `reached` is the schedule's state when this instant has fired.
  void FireInstant(const ScheduleBinding& binding, WallTime instant, const ScheduleState& reached);
  void RecordSchedule(RecordType type, const ScheduleRecord& record);
  // What is pending of its fires before `newest` is to be dropped.
  void Supersede(std::string_view name, std::optional<Offset> newest);
  void DropSuperseded();
  // Appends the event of a fire; nullopt: it is not valid, which was told.
  std::optional<Offset> AppendFire(std::string_view name, std::string_view bytes, bool tracked);
  void FireByCommand(std::size_t index, WallTime instant);
  void RecordSkips(std::size_t index, const FirePlan& fire);

  // --- partition_dynamic.cc: schedules by command or API, delayed events ---
  void LoadDynamic();
  void ReplanDynamic();  // every recurring one, in pieces
  void RunDynamic(std::size_t fires_left);
  std::size_t FireDynamic(ScheduleTable::Id id, std::size_t fires_max);  // how many fired
  std::size_t PlanRecurring(ScheduleTable::Id id, std::size_t fires_max, bool paused);
  void FireOnce(ScheduleTable::Id id);
  void FireDelayed(ScheduleTable::Id id);
  std::string DynamicEvent(ScheduleTable::Id id, WallTime nominal) const;
  void ArmDynamic(ScheduleTable::Id id, std::optional<WallTime> when);
  void AddDelayed(const PublishedEvent& event, std::string_view bytes, std::int64_t at_us);

  // --- partition_schedule_admin.cc ---
  absl::Status AddSchedule(const NewSchedule& schedule);
  absl::Status RoomForSchedules(std::size_t bytes) const;
  std::optional<std::size_t> ConfiguredSchedule(std::string_view name) const;
  absl::Status ControlConfigured(std::size_t index, ScheduleAction action);
  absl::Status ControlDynamic(ScheduleTable::Id id, ScheduleAction action);
  ScheduleInfo Describe(ScheduleTable::Id id) const;
  ScheduleInfo DescribeConfigured(std::size_t index) const;
  absl::StatusOr<BackfillStep> Backfill(const std::string& name, WallTime from, WallTime to,
                                        std::size_t instants_max, bool dry_run);
  // `key` makes its id one with what it tells of.
  void RaiseScheduleEvent(std::string_view name, std::string_view what, std::string_view key,
                          std::string_view data);
  void RaiseSkipped(std::string_view name, const SkippedRange& skip);
  // `delay`: of its fires, by spread and jitter.
  void RaiseOverdue(const std::string& name, const FirePlan& fire, Duration delay, bool busy);
  void RaiseFailed(std::string_view name, std::string_view event_id, std::string_view trigger,
                   const Letter& letter);

  // --- partition_dispatch.cc ---
  Runtime* RuntimeOf(TriggerOrdinal ordinal);
  TriggerQueue& QueueOf(Runtime& runtime, Offset admit_from);
  void Touch(Runtime& runtime);
  void Offer(const InFlight& flight, const OfferedEvent& event);
  void OnAnswers(AnswerBatch batch);
  void PrefetchAnswered(const std::vector<DeliveryRef>& acked, std::size_t at);
  // partition_emitted.cc
  absl::StatusOr<EmittedEvents> CheckEmitted(const DeliveryRef& delivery,
                                             std::vector<std::string> emitted);
  void WriteEmitted(const EmittedEvents& emitted);  // there is room in this turn
  void Forwarded(PartitionId home, std::uint64_t last, std::size_t count,
                 const absl::Status& status);
  void RunActions(Runtime& runtime, std::vector<Action>& actions);
  void ConfirmWhenDurable(std::function<void()> confirmed);
  void LetterDone(const std::shared_ptr<Confirmation>& confirmation);
  // partition_dead.cc
  void Die(Runtime& runtime, DeadAction action);
  void Bury(HeldDead dead);
  void ReadForLetter(HeldDead dead, int read_number);
  void WriteLetterOf(HeldDead& dead, const absl::StatusOr<ReadResult>& read);
  void WriteLetter(Runtime& runtime, const HeldDead& dead, const EventRecord* event);
  bool LettersFull() const;
  void TickQueues();
  std::size_t ReadyToGo(Runtime& runtime) const;
  void SetDue(Runtime& runtime);
  void ExchangeAndDeliver();
  void DeliverTo(const Fetch& fetch);
  void FetchMissing(Fetch fetch);
  void ReadFor(Fetch fetch);
  void Fetched(Fetch fetch, Offset first, absl::StatusOr<ReadResult> result);
  Outcome NotRead(const Lease& lease, const absl::Status& status) const;
  Grant ResizedGrant(const Fetch& fetch, const Fetch& missing, const std::vector<Refusal>& refusals,
                     const std::vector<OutgoingDelivery>& out) const;
  absl::StatusOr<std::string> Transformed(const Transform& transform, std::string_view event) const;
  void RefuseDeliveries(Runtime& runtime, const Grant& grant, std::vector<Refusal> refusals);
  void DropEndedLeases(Fetch& fetch);
  const PriorAttempts* PriorOf(const TriggerRecord& trigger, std::uint64_t index,
                               PriorAttempts& prior);
  void PumpScans();
  void ContinueScan(Runtime& runtime);
  bool ScanBatch(Runtime& runtime, const CachedBatch& batch);  // false: nothing more has room
  void EndScan(Runtime& runtime);
  void OnScanRead(Runtime& runtime, absl::StatusOr<ReadResult> result);
  void ReadOn(Runtime& runtime, JournalPosition from);
  bool SettledInTurn(TriggerOrdinal ordinal, std::uint64_t index);
  void DropRuntimeQueue(Runtime& runtime);

  // --- partition_audit.cc ---
  void PumpAudit();
  void OnAuditRead(const absl::StatusOr<ReadResult>& result);
  void FinishAudit();

  // --- partition_catch_up.cc ---
  void PumpCatchUps();
  void ReadForCatchUp(Runtime& runtime, JournalPosition from);
  void OnCatchUpRead(Runtime& runtime, absl::StatusOr<ReadResult> result);
  // Copies what matches of the batch from `next` on and raises it; false: enough for one append.
  bool CopyMatches(Runtime& runtime, const CatchUpBatch& batch, Offset& next);
  void FinishCatchUp(Runtime& runtime);
  void RecordCatchUp(Runtime& runtime, Offset next, bool done);

  // --- partition_admin.cc ---
  void Open(absl::AnyInvocable<void(absl::Status)> done);
  // Not OK: nothing may be written: it failed, or is not recovered yet.
  absl::Status Usable() const;
  // The same, and there is room on the disk to write it.
  absl::Status Writable() const;
  void Replay(JournalPosition from);
  void FinishOpen(const absl::Status& status);
  std::string DescribeGap(const Unreadable& gap) const;
  void AddAndApply(RecordType type, std::string_view body);
  bool PageBatch(const CachedBatch& batch, std::size_t events_max, std::size_t bytes_max,
                 EventPage& page);  // false: the page is full
  // `then` runs when every letter made so far is durable, or never will be.
  void WaitUntilWritten(const OpenLetter& letter,
                        absl::AnyInvocable<void(const absl::Status&)> then);
  void Redrive(const DeliveryId& id, absl::AnyInvocable<void(absl::Status)> done);
  void CloseLetter(const OpenLetter& letter, LetterClosedAs how, Offset redriven_as,
                   std::uint64_t index);
  void ReadPage(JournalPosition at, std::size_t events_max, std::size_t bytes_max, EventPage page,
                absl::AnyInvocable<void(absl::StatusOr<EventPage>)> done);
  void ReadEvents(Offset from, std::size_t events_max, std::size_t bytes_max, EventPage page,
                  absl::AnyInvocable<void(absl::StatusOr<EventPage>)> done);
  PartitionSnapshot Snapshot() const;

  // --- partition_routes.cc: routes are counted through the plan and then the overlay ---
  const TriggerSpec& SpecOf(std::size_t route) const;
  const RouteSpec& RouteOf(std::size_t route) const;
  TriggerNumber NumberOf(std::size_t route) const;
  bool InForce(std::size_t route) const;  // false: its trigger has a newer one, or is gone
  // Those in force that match, into match_routes.
  void MatchRoutes(const EventView& view, std::string_view source);
  void Define(const TriggerRecord& known, const TriggerSpec& spec, TriggerOrdinal ordinal,
              bool paused);
  TriggerOrdinal DefineRoute(const TriggerSpec& spec);
  void PutInForce(std::size_t route);
  void TakeOutOfForce(const TriggerRecord& trigger);  // detached
  void ApplyPlan(std::shared_ptr<const RoutePlan> new_plan);
  void ChangePlan(const PlanChange& change);
  void RebasePlan(const PlanRebase& rebase);

  // --- partition_replay.cc ---
  absl::Status CheckReplay(std::string_view name, TriggerRecord** trigger);
  void RecordReplay(TriggerOrdinal ordinal, std::uint32_t number, const ReplayState& reached,
                    bool over);
  std::optional<Instant> PumpReplays();  // when there are tokens again
  void ReadForReplay(TriggerOrdinal ordinal, JournalPosition from);
  void OnReplayRead(TriggerOrdinal ordinal, absl::StatusOr<ReadResult> result);
  bool ReplayTakes(const Runtime& runtime, const ReplayState& order, const Filter* where,
                   const EventRecord& record, const EventView& view, std::int64_t append_time_us);
  // Copies what is taken of the batch from `reached.next` on; false: enough for one append.
  bool CopyForReplay(Runtime& runtime, const CatchUpBatch& batch, std::int64_t append_time_us,
                     ReplayState& reached);
  void CountForReplay(std::shared_ptr<DryReplay> dry, JournalPosition from);

  // --- partition_explain.cc ---
  struct Explaining;
  void Explain(Offset offset, absl::AnyInvocable<void(absl::StatusOr<EventStory>)> done);
  void ReadForExplain(std::shared_ptr<Explaining> look, JournalPosition from);
  void OnExplainRead(std::shared_ptr<Explaining> look, absl::StatusOr<ReadResult> result);
  void ReadStory(Explaining& look, const StoredBatch& stored);
  void FinishStory(Explaining& look);

  // --- set at construction ---
  const PartitionOptions options;
  const Ports ports;

  // --- owned by the partition's executor ---
  PartitionState state;
  EventCache cache;
  Epoch epoch;
  Instant now{};
  WallTime wall{};
  std::int64_t last_append_us = 0;
  bool open = false;
  bool failed = false;
  bool closing = false;
  bool stalled = false;      // the journal refused for want of room; to be tried again
  bool resubmitted = false;  // tried again, not known yet
  std::set<LaneId> leaving;  // LeaveLane()
  Offset start;
  bool start_known = false;  // set once something was trimmed in this life
  Offset durable_end;
  // Below it publishers were told that their events are durable; written by the committer.
  std::shared_ptr<std::atomic<std::uint64_t>> answered_end =
      std::make_shared<std::atomic<std::uint64_t>>(0);
  JournalPosition last_end;  // of the newest durable batch
  TurnBatch turn;
  std::optional<Instant> settle_by;  // when settlements that wait in `turn` go all the same
  std::shared_ptr<BodyPool> bodies = std::make_shared<BodyPool>();
  TurnBatch spare;  // memory of its vectors alone: for the next turn's
  std::deque<InFlight> in_flight;
  std::uint64_t next_number = 1;
  std::size_t flight_bytes = 0;
  std::vector<WaitingFor> waiting;
  std::vector<LaneBatch> early_lanes;  // of partitions that were recovered before this one

  std::shared_ptr<const RoutePlan> plan;
  std::shared_ptr<const RoutePlan> overlay;        // what was applied since; may be null
  bool backlog_refuses = false;                    // of some trigger, when it is full
  bool patched = false;                            // some routes may not be in force
  std::vector<TriggerOrdinal> route_ordinals;      // by route
  std::vector<std::unique_ptr<Runtime>> runtimes;  // by ordinal; null: not in the plan
  absl::flat_hash_map<std::uint32_t, TriggerOrdinal> by_number;
  std::vector<TriggerOrdinal> touched;
  absl::flat_hash_set<std::uint32_t> ready;  // ordinals with something ready
  bool woken = false;
  std::optional<Instant> rates_due;  // when it exchanges again for what a rate keeps back
  std::set<std::pair<Instant, std::uint32_t>> dues;
  absl::flat_hash_map<std::uint64_t, std::weak_ptr<WorkerSession>> sessions;
  // By trigger and offset, only above 0.
  absl::flat_hash_map<std::pair<std::uint32_t, std::uint64_t>, std::uint32_t> leased_hops;
  std::vector<HeldDead> held_dead;
  std::shared_ptr<Confirmation> confirming;  // of the answers that are being applied
  Audit audit;
  std::size_t fetches = 0;
  std::set<std::uint32_t> catching_up;                        // ordinals in the plan
  std::set<std::uint32_t> replaying;                          // ordinals in the plan
  absl::flat_hash_map<std::uint32_t, ReplayRuntime> replays;  // by ordinal
  std::set<std::uint32_t> scan_wanted;                        // ordinals that may want one
  std::size_t scans = 0;
  std::uint64_t next_scan = 1;     // never reused: an answer of the disk may come late
  std::uint32_t tokens_given = 0;  // by queues that are gone
  std::uint64_t queues_made = 0;

  std::vector<ScheduleRuntime> schedules;
  absl::flat_hash_map<std::string, std::size_t> schedule_numbers;  // by name, in `schedules`
  std::set<std::pair<WallTime, std::size_t>> schedule_dues;
  bool schedules_loaded = false;     // once in this life
  std::optional<TimingWheel> wheel;  // of the schedule table's ids, once opened
  std::vector<ScheduleTable::Id> dynamic_due;
  std::size_t dynamic_due_next = 0;
  Instant fires_after{};  // the next of `dynamic_due` do
  // Whose runs were settled: what waits for them may fire. Not behind a burst.
  std::vector<ScheduleTable::Id> dynamic_released;
  std::vector<std::pair<std::int64_t, ScheduleTable::Id>> due_order;  // scratch
  std::optional<ScheduleTable::Id> replan_next;  // of the recurring ones, planned in pieces
  std::int64_t last_command_us = 0;              // of the fires by command: each has its instant
  absl::flat_hash_map<std::string, std::uint64_t> overdue_told;  // by schedule: the run's offset
  std::set<Offset> superseded;  // fires of which something may be pending
  Instant superseded_next{};    // when to look at them again
  Duration wall_offset{};       // wall minus monotonic, to notice that the wall clock was set
  std::map<PartitionId, std::uint64_t> forwarding;        // home -> last sequence under way
  std::map<PartitionId, std::size_t> forward_events_max;  // where fewer fit into a batch
  std::map<PartitionId, std::uint64_t> outgoing_durable;  // home -> last sequence that is durable
  bool with_emitted = false;    // the answer that is applied has brought events: one batch for both
  EmittedEvents dying_emitted;  // of the rejection that is applied
  bool choked = false;          // nothing is offered until more is durable

  std::map<LaneId, LaneListener*> listeners;
  MatchScratch match_scratch;
  std::vector<std::uint32_t> match_routes;
  std::vector<std::uint32_t> overlay_routes;
  EventRecord record_scratch;
  std::string prefix_scratch;
  std::vector<Action> action_scratch;

  std::optional<PendingCheckpoint> checkpoint;
  bool checkpoint_writing = false;
  std::uint64_t bytes_since_checkpoint = 0;
  Instant last_checkpoint{};
  std::uint32_t deltas_since_base = 0;
  Instant last_housekeeping{};
  Duration housekeep_every = std::chrono::seconds(1);
  Duration checkpoint_took{};                       // the last one
  JournalPosition newer_replay_from;                // of the newest checkpoint
  JournalPosition older_replay_from;                // of the newest one before its base
  std::deque<std::pair<WallTime, Offset>> samples;  // for retention by age: ends at a time
  JournalPosition trimmed_below;
  LetterPosition letters_trimmed_below;
  absl::AnyInvocable<void(absl::Status)> close_done;
  absl::AnyInvocable<void(absl::Status)> open_done;
  OpenResult opened;
  bool letters_full_told = false;
  bool refusing = false;  // events, for want of room; told

  std::uint64_t unmatched = 0, duplicates = 0, refused = 0, stale_answers = 0;
  absl::flat_hash_map<std::string, std::uint64_t> unmatched_by;
  std::string unmatched_name;                                  // scratch
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);  // guards callbacks after destruction
};

// How much later than itself the first fire was due.
Duration DelayOfFirst(const FirePlan& fire, const Schedule& schedule);

inline std::int64_t Micros(WallTime time) { return time.time_since_epoch().count(); }
inline WallTime FromMicros(std::int64_t us) { return WallTime(std::chrono::microseconds(us)); }

}  // namespace tocsin
