#include "broker/partition/partition.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "broker/base/canary.h"
#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/journal/record.h"
#include "broker/partition/expiry.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

constexpr Duration kRetryAppendAfter = std::chrono::milliseconds(200);
constexpr std::uint32_t kDeltasPerBase = 32;
constexpr Duration kBusyHousekeepEvery = std::chrono::seconds(1);
// A batch this long takes no more events: one that is still in the CPU's caches when its CRC is
// taken and when it is written is cheaper than the append that a longer one would save.
constexpr std::size_t kBodyTarget = 512 * 1024;
// Of the schedule table, in one turn.
constexpr std::size_t kTablePieceBytes = 256 * 1024;
constexpr std::size_t kSettlementBytesMax = 64 * 1024;  // of those that wait

}  // namespace

std::vector<IndexRange> JoinIndexes(std::vector<std::uint64_t>& indexes) {
  std::sort(indexes.begin(), indexes.end());
  std::vector<IndexRange> ranges;
  for (const std::uint64_t index : indexes) {
    if (!ranges.empty() && ranges.back().last + 1 == index) {
      ranges.back().last = index;
    } else {
      ranges.push_back({index, index});
    }
  }
  return ranges;
}

Partition::Impl::Impl(const PartitionOptions& options_in, const Ports& ports_in)
    : options(options_in),
      ports(ports_in),
      state(options.id, options.hash_seed,
            std::chrono::duration_cast<std::chrono::microseconds>(options.dedupe_window).count(),
            options.dedupe_ids_max),
      cache(options.cache_bytes_max) {}

void Partition::Impl::Warn(std::string_view code, const std::string& message) {
  ports.observer.Warn(options.id, code, message);
}

void Partition::Impl::Fail(const absl::Status& status) {
  if (failed) return;
  failed = true;
  ports.observer.Failed(options.id, status);
  ports.executor.Post([this, guard = std::weak_ptr(alive)] {
    if (!guard.expired()) TellFailed();
  });
}

// Reads the clock once per turn; append times never go back.
void Partition::Impl::BeginIfNeeded() {
  now = ports.clock.Monotonic();
  wall = ports.clock.Wall();
  // Settlements that wait have no time of their own: what comes into their batch has its own.
  if (turn.record_count > turn.settled_records) return;
  turn.base = state.end();
  last_append_us = std::max(last_append_us, Micros(wall));
  turn.append_time_us = last_append_us;
}

void Partition::Impl::EnsureRoom(std::size_t bytes, std::size_t letter_bytes) {
  // Not for each record: it reads the clocks.
  if (turn.record_count == turn.settled_records) BeginIfNeeded();
  if (turn.empty()) return;
  const std::size_t batch_max = ports.journal.batch_bytes_max();
  const std::size_t max = std::min(batch_max, kBodyTarget + BodySlack());
  const std::size_t held = turn.body.size() + turn.settled_count * 12 + BodySlack();
  // Segments of the dead log may be smaller than those of the log.
  const std::size_t letters_max = std::min(batch_max / 2, kBodyTarget);
  const bool letters_full = !turn.letters.empty() && turn.letter_bytes + letter_bytes > letters_max;
  if (held + bytes > max || letters_full) Flush();
}

void Partition::Impl::AddLetter(const DeliveryId& id, std::string bytes) {
  turn.letter_bytes += bytes.size();
  turn.letters.push_back({id, std::move(bytes)});
}

void Partition::Impl::AddRecord(RecordType type, std::string_view body) {
  RecordWriter writer(turn.body);
  writer.Add(type, body);
  ++turn.record_count;
}

Offset Partition::Impl::AddEvent(EventRecord& record, const EventView& view,
                                 const Hash128* identity, bool first_of_key) {
  const Offset offset = state.end();
  prefix_scratch.clear();
  EncodeEventPrefix(record, prefix_scratch);
  RecordWriter writer(turn.body);
  writer.Add(RecordType::kEvent, prefix_scratch, record.event);
  ++turn.record_count;
  ++turn.event_count;
  const std::size_t event_position = turn.body.size() - record.event.size();
  const std::size_t record_bytes = prefix_scratch.size() + record.event.size();
  turn.slots.push_back({static_cast<std::uint32_t>(turn.body.size() - record_bytes),
                        static_cast<std::uint32_t>(record_bytes),
                        static_cast<std::uint32_t>(prefix_scratch.size())});
  OfferedEvent offered;
  offered.offset = offset;
  offered.origin = record.new_run ? record.origin : offset;
  offered.run = record.run;
  offered.event_bytes = static_cast<std::uint32_t>(record.event.size());
  const std::string_view key = view.PartitionKey();
  if (!key.empty()) {
    offered.key_position = static_cast<std::uint32_t>(
        event_position + static_cast<std::size_t>(key.data() - record.event.data()));
    offered.key_bytes = static_cast<std::uint32_t>(key.size());
  }
  offered.expires_us = ExpiryMicros(view, record.redriven);
  offered.first_match = static_cast<std::uint32_t>(turn.matches.size());
  offered.match_count = static_cast<std::uint32_t>(record.matches.size());
  offered.first_of_key = first_of_key;
  turn.matches.insert(turn.matches.end(), record.matches.begin(), record.matches.end());
  if (offered.match_count > 0) turn.offers.push_back(offered);
  state.ApplyEvent(record, offset, turn.append_time_us, identity);
  return offset;
}

void Partition::Impl::EncodeSettlements() {
  if (turn.settled_count == 0) return;
  std::string body;
  const auto encode = [&](auto& by_trigger, RecordType type) {
    std::vector<std::uint32_t> ordinals;
    for (const auto& [ordinal, indexes] : by_trigger) ordinals.push_back(ordinal);
    std::sort(ordinals.begin(), ordinals.end());
    for (const std::uint32_t ordinal : ordinals) {
      const std::vector<IndexRange> ranges = JoinIndexes(by_trigger[ordinal]);
      body.clear();
      if (type == RecordType::kSettled) body.push_back('\0');
      EncodeRanges(TriggerOrdinal(ordinal), ranges, "", body);
      AddRecord(type, body);
      ++turn.settled_records;
      RecordView view;
      view.type = type;
      view.body = body;
      const absl::Status applied = state.Apply(view, state.end(), turn.append_time_us);
      TOCSIN_CHECK(applied.ok(), "{}", MessageOf(applied));
    }
    by_trigger.clear();
  };
  encode(turn.acked, RecordType::kSettled);
  encode(turn.dropped, RecordType::kDropped);
  turn.settled_count = 0;
}

// docs/adr/0017-settlements-ride-along.md
void Partition::Impl::FlushUnlessSettlementsWait() {
  EncodeSettlements();
  const std::size_t bytes_max = std::min(kSettlementBytesMax, ports.journal.batch_bytes_max() / 8);
  const bool may_wait = turn.only_settlements() && turn.body.size() < bytes_max && !closing &&
                        !stalled && !resubmitted;
  if (!may_wait || turn.body.empty()) return Flush();
  if (!settle_by) settle_by = now + options.settlements_wait;
  if (*settle_by <= now) Flush();
}

void Partition::Impl::Flush() {
  EncodeSettlements();
  settle_by.reset();
  if (turn.body.empty()) return;
  housekeep_every = std::min(housekeep_every, kBusyHousekeepEvery);
  InFlight flight;
  flight.number = next_number++;
  flight.base = turn.base;
  flight.event_count = turn.event_count;
  flight.record_count = turn.record_count;
  flight.append_time_us = turn.append_time_us;
  flight.body = TakeBody();
  flight.slots = std::move(turn.slots);
  flight.offers = std::move(turn.offers);
  flight.matches = std::move(turn.matches);
  flight.attempts = std::move(turn.attempts);
  flight.letters = std::move(turn.letters);
  flight.confirmed = std::move(turn.confirmed);
  flight.done = std::move(turn.done);
  if (turn.outgoing) {
    for (const auto& [home, lane] : state.outgoing()) {
      flight.outgoing.emplace_back(home, lane.next_sequence - 1);
    }
  }
  flight.may_use_reserve = !turn.ingest;
  std::vector<Notify> notify = std::move(turn.notify);
  std::vector<Notify> notify_written = std::move(turn.notify_written);
  turn.Clear();
  turn.slots = std::exchange(spare.slots, {});
  turn.offers = std::exchange(spare.offers, {});
  turn.matches = std::exchange(spare.matches, {});
  flight_bytes += flight.body->size();
  bytes_since_checkpoint += flight.body->size();
  in_flight.push_back(std::move(flight));
  if (stalled) {
    const absl::Status full = DiskIsFull();
    for (Notify& one : notify) one(full);
    for (Notify& one : notify_written) one(full);
    BeginIfNeeded();
    return;
  }
  Submit(in_flight.back(), std::move(notify), std::move(notify_written));
  if (Planted(Canary::kDispatchedEarly)) {
    CachedBatch cached;
    cached.base = in_flight.back().base;
    cached.body = in_flight.back().body;
    cached.events = in_flight.back().slots;
    if (!cached.events.empty()) cache.Add(std::move(cached));
    for (const OfferedEvent& event : in_flight.back().offers) Offer(in_flight.back(), event);
  }
  BeginIfNeeded();
}

// A long body is handed over and its memory comes back through the pool; of a short one a copy is,
// so that what is cached for delivery takes no more memory than it has bytes.
std::shared_ptr<const std::string> Partition::Impl::TakeBody() {
  if (turn.body.size() * 2 < turn.body.capacity()) {
    auto copy = std::make_shared<const std::string>(turn.body);
    turn.body.clear();
    return copy;
  }
  std::shared_ptr<const std::string> body = bodies->Share(std::move(turn.body));
  turn.body = bodies->Take();
  return body;
}

void Partition::Impl::Submit(InFlight& flight, std::vector<Notify> notify,
                             std::vector<Notify> notify_written) {
  RecordBatch batch;
  batch.partition = options.id;
  batch.epoch = epoch;
  batch.base_offset = flight.base;
  batch.event_count = flight.event_count;
  batch.record_count = flight.record_count;
  batch.append_time_us = flight.append_time_us;
  batch.body = flight.body;
  batch.letters = flight.letters;
  if (!notify.empty()) {
    notify.insert(notify.begin(),
                  [told = answered_end,
                   end = flight.base.value() + flight.event_count](const absl::Status& status) {
                    if (status.ok()) told->store(end);
                  });
  }
  batch.notify = std::move(notify);
  batch.notify_written = std::move(notify_written);
  batch.may_use_reserve = flight.may_use_reserve;
  flight.submitted = true;
  ports.journal.Append(std::move(batch),
                       [this, number = flight.number,
                        guard = std::weak_ptr(alive)](absl::StatusOr<AppendResult> result) {
                         if (guard.expired()) return;
                         OnAppended(number, std::move(result));
                         ports.wake();
                       });
}

void Partition::Impl::OnAppended(std::uint64_t number, absl::StatusOr<AppendResult> result) {
  now = ports.clock.Monotonic();
  wall = ports.clock.Wall();
  if (failed) return;
  if (!result.ok()) {
    if (result.status().code() != absl::StatusCode::kResourceExhausted) {
      Fail(result.status());
      return;
    }
    if (!stalled) {
      Warn("T0301", fmt::format("nothing can be appended: {}; trying again until there is room",
                                MessageOf(result.status())));
    }
    stalled = true;
    bool waiting_for_more = false;
    for (InFlight& flight : in_flight) {
      if (flight.number == number) flight.submitted = false;
      waiting_for_more = waiting_for_more || flight.submitted;
    }
    // It will be there some day: publishers of duplicates and readers are not kept for it.
    for (WaitingFor& one : std::exchange(waiting, {})) one.done(result.status());
    if (!waiting_for_more) {
      ports.executor.PostAt(now + kRetryAppendAfter, [this, guard = std::weak_ptr(alive)] {
        if (!guard.expired()) ResubmitAll();
      });
    }
    return;
  }
  TOCSIN_CHECK(!in_flight.empty() && in_flight.front().number == number,
               "partition {}: batch {} became durable out of order", options.id.value(), number);
  InFlight flight = std::move(in_flight.front());
  in_flight.pop_front();
  OnDurable(flight, *result);
}

// Every batch was refused alike: the journal takes them again in order.
void Partition::Impl::ResubmitAll() {
  if (!stalled || failed) return;
  for (const InFlight& flight : in_flight) {
    if (flight.submitted) return;
  }
  stalled = false;
  resubmitted = true;
  for (InFlight& flight : in_flight) {
    // What came in was refused and is not told again; it is bounded, and answers wait behind it.
    flight.may_use_reserve = true;
    Submit(flight, {}, {});
  }
}

void Partition::Impl::OnDurable(InFlight& flight, const AppendResult& result) {
  flight_bytes -= flight.body->size();
  resubmitted = false;
  last_end = result.end;
  durable_end = Offset(flight.base.value() + flight.event_count);
  if (!flight.slots.empty()) {
    CachedBatch cached;
    cached.base = flight.base;
    cached.recorded = FromMicros(flight.append_time_us);
    cached.body = flight.body;
    cached.events = std::move(flight.slots);
    cache.Add(std::move(cached));
  }
  if (!Planted(Canary::kDispatchedEarly)) {
    for (const OfferedEvent& event : flight.offers) Offer(flight, event);
  }
  for (const FailedAttemptRef& attempt : flight.attempts) {
    Runtime* runtime = RuntimeOf(attempt.trigger);
    if (runtime == nullptr || runtime->queue == nullptr) continue;
    runtime->queue->AttemptDurable(attempt.offset, attempt.attempt);
    Touch(*runtime);
  }
  for (std::size_t i = 0; i < flight.letters.size() && i < result.letters.size(); ++i) {
    state.SetLetterPosition(flight.letters[i].id, result.letters[i]);
  }
  for (DurableWaiter& one : flight.done) one.then(absl::OkStatus());
  for (auto& confirmed : flight.confirmed) confirmed();
  for (std::size_t i = 0; i < waiting.size();) {
    if (waiting[i].offset < durable_end) {
      waiting[i].done(absl::OkStatus());
      waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
  const auto recycle = [](auto& used, auto& kept) {
    used.clear();
    if (used.capacity() > kept.capacity()) kept.swap(used);
  };
  recycle(flight.slots, spare.slots);
  recycle(flight.offers, spare.offers);
  recycle(flight.matches, spare.matches);
  if (checkpoint && checkpoint->after == flight.number) checkpoint->replay_from = result.end;
  for (const auto& [home, last] : flight.outgoing) outgoing_durable[home] = last;
  if (!flight.outgoing.empty()) ForwardOutgoing();
}

void Partition::Impl::StartCheckpoint(bool base) {
  if (checkpoint || checkpoint_writing || stalled || failed) return;
  // Appended now, the snapshot is of exactly what the journal holds up to this batch's end; it is
  // written when that is durable.
  for (const auto& runtime : runtimes) {
    if (runtime != nullptr && runtime->queue != nullptr) {
      state.RaiseFloor(runtime->ordinal, runtime->queue->Floor(durable_end));
    }
  }
  Flush();
  checkpoint.emplace(PendingCheckpoint());
  checkpoint->after = in_flight.empty() ? 0 : in_flight.back().number;
  checkpoint->delta.partition = options.id;
  checkpoint->delta.epoch = epoch;
  checkpoint->delta.base = base || deltas_since_base >= kDeltasPerBase || deltas_since_base == 0;
  deltas_since_base = checkpoint->delta.base ? 1 : deltas_since_base + 1;
  state.TakePages(checkpoint->delta.base, checkpoint->delta);
  bytes_since_checkpoint = 0;
  last_checkpoint = now;
  NoteSample(wall, durable_end);
  if (in_flight.empty() || Planted(Canary::kCheckpointAhead)) checkpoint->replay_from = last_end;
  PumpCheckpoint();
}

void Partition::Impl::PumpCheckpoint() {
  if (!checkpoint || failed) return;
  const bool whole = state.dynamic().NextPages(kTablePieceBytes, checkpoint->delta);
  if (whole && checkpoint->replay_from) WriteCheckpoint(*checkpoint->replay_from);
}

void Partition::Impl::WriteCheckpoint(JournalPosition replay_from) {
  checkpoint_writing = true;
  CheckpointDelta delta = std::move(checkpoint->delta);
  const bool base = delta.base;
  checkpoint.reset();
  ports.journal.WriteCheckpoint(
      std::move(delta), replay_from,
      [this, base, replay_from, guard = std::weak_ptr(alive)](const absl::Status& status) {
        if (guard.expired()) return;
        checkpoint_writing = false;
        checkpoint_took = ports.clock.Monotonic() - last_checkpoint;
        if (status.ok() && base) older_replay_from = newer_replay_from;
        if (status.ok()) newer_replay_from = replay_from;
        if (!status.ok()) {
          Warn("T0302", fmt::format("checkpoint not written: {}", MessageOf(status)));
          deltas_since_base = kDeltasPerBase;
          // Due again although nothing more may come: until it is written nothing is trimmed, and
          // while nothing is trimmed a full log takes no events.
          bytes_since_checkpoint = std::max<std::uint64_t>(bytes_since_checkpoint, 1);
        }
        ports.wake();
      });
}

void Partition::Impl::TellSettled() {
  std::map<LaneId, std::vector<LaneSettled>> told;
  for (const std::uint64_t offset : state.TakeSettledEvents()) {
    const auto found = state.tracked().find(offset);
    if (found == state.tracked().end() || found->second.told) continue;
    const TrackedEvent& event = found->second;
    if (event.remaining > 0) continue;
    const LaneId lane{event.source, event.lane};
    const auto listener = listeners.find(lane);
    if (listener == listeners.end() || listener->second == nullptr) continue;
    LaneSettled settled;
    settled.offset = Offset(offset);
    settled.event_id = event.event_id;
    settled.as = event.dead_open > 0 ? LaneSettledAs::kDead
                 : event.acked > 0   ? LaneSettledAs::kAcked
                                     : LaneSettledAs::kUnmatched;
    told[lane].push_back(std::move(settled));
    state.MarkTold(offset);
  }
  for (auto& [lane, events] : told) {
    // Not before what settled them is durable.
    WhenDurable([this, lane = lane, events = std::move(events)](const absl::Status& status) {
      if (!status.ok()) return;
      const auto listener = listeners.find(lane);
      if (listener != listeners.end() && listener->second != nullptr) {
        listener->second->OnSettled(events);
      }
    });
  }
}

std::optional<Instant> Partition::Impl::EndTurn(bool on_loan) {
  if (!open || failed) return std::nullopt;
  BeginIfNeeded();
  const bool later = on_loan && HasLongWork();
  std::optional<Instant> replay_due;
  if (!later && !closing) RunSchedules();
  TickQueues();
  if (!later) {
    if (!superseded.empty()) DropSuperseded();
    // Not before the plan is there: what it puts back is not to be forgotten.
    if (plan != nullptr && now - last_housekeeping >= housekeep_every) Housekeep();
    PumpCheckpoint();
  }
  EncodeSettlements();
  TellSettled();
  PumpScans();
  if (!later) {
    PumpCatchUps();
    replay_due = PumpReplays();
    PumpAudit();
  }
  FlushUnlessSettlementsWait();
  ExchangeAndDeliver();
  FlushUnlessSettlementsWait();  // what expired while it was taken
  if (stalled || resubmitted) TellNoRoom();
  if (closing && close_done && in_flight.empty() && !checkpoint && !checkpoint_writing &&
      fetches == 0) {
    auto done = std::move(close_done);
    close_done = nullptr;
    done(absl::OkStatus());
    return std::nullopt;
  }
  const bool room =
      ports.journal.HasRoomForIngest() && ports.journal.log_bytes() < options.retention_bytes;
  if (!room) housekeep_every = std::min(housekeep_every, kBusyHousekeepEvery);
  Instant next = last_housekeeping + housekeep_every;
  if (replay_due) next = std::min(next, *replay_due);
  if (settle_by) next = std::min(next, *settle_by);
  if (!dues.empty()) next = std::min(next, dues.begin()->first);
  if (rates_due) next = std::min(next, *rates_due);
  // Without room nothing fires; housekeeping looks again.
  if (!closing && SchedulesRun()) {
    const auto wake = [&](WallTime when) {
      next = std::min(next, now + std::max<Duration>(when - wall, Duration::zero()));
    };
    if (!schedule_dues.empty()) wake(schedule_dues.begin()->first);
    // The wheel is not looked at before what it gave has fired.
    const bool due = dynamic_due_next < dynamic_due.size();
    if (!due && wheel && wheel->armed() > 0) wake(*wheel->NextWake());
    // A run was settled in this turn: what waits for it fires in the next one.
    const bool released = state.has_released_schedules() &&
                          (!schedule_dues.empty() || state.dynamic().schedules() > 0);
    if (due) next = std::min(next, fires_after);
    if (released || replan_next || !dynamic_released.empty()) next = now;
  }
  if (later || (checkpoint && state.dynamic().snapshot_under_way())) next = now;
  return next;
}

Partition::Partition(const PartitionOptions& options, const Ports& ports)
    : impl_(std::make_unique<Impl>(options, ports)) {}
Partition::~Partition() = default;

void Partition::Open(absl::AnyInvocable<void(absl::Status)> done) { impl_->Open(std::move(done)); }
void Partition::Publish(PublishBatch batch) { impl_->Publish(std::move(batch)); }
void Partition::AppendLane(LaneBatch batch) { impl_->AppendLane(std::move(batch)); }
void Partition::ApplyPlan(std::shared_ptr<const RoutePlan> plan) {
  impl_->ApplyPlan(std::move(plan));
}
void Partition::OnAnswers(AnswerBatch batch) { impl_->OnAnswers(std::move(batch)); }
void Partition::Woken() { impl_->woken = true; }
std::optional<Instant> Partition::EndTurn(bool on_loan) { return impl_->EndTurn(on_loan); }
PartitionSnapshot Partition::Snapshot() const { return impl_->Snapshot(); }

std::size_t Partition::in_flight_bytes() const {
  return impl_->flight_bytes + (impl_->settle_by ? 0 : impl_->turn.body.size());
}

bool Partition::failed() const { return impl_->failed; }

bool Partition::accepts_ingest() const {
  return impl_->open && impl_->plan != nullptr && !impl_->failed && !impl_->stalled &&
         !impl_->resubmitted && !impl_->closing && impl_->ports.journal.HasRoomForIngest() &&
         impl_->ports.journal.log_bytes() < impl_->options.retention_bytes;
}

void Partition::Close(absl::AnyInvocable<void(absl::Status)> done) {
  impl_->BeginIfNeeded();
  impl_->closing = true;
  impl_->close_done = std::move(done);
  if (!impl_->open || impl_->failed) {
    auto close_done = std::move(impl_->close_done);
    close_done(absl::FailedPreconditionError("the partition is not open"));
    return;
  }
  if (impl_->bytes_since_checkpoint > 0 || !impl_->turn.empty()) impl_->StartCheckpoint(false);
}

}  // namespace tocsin
