// Opening, the route plan, lanes, stored events and what status shows.

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/journal/record.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

constexpr std::size_t kReplayBytes = std::size_t{1} << 20;
constexpr std::size_t kReadEventsBytes = 512 * 1024;
constexpr std::size_t kUnmatchedShown = 32;

std::string LostLetters(PartitionId partition, std::size_t count) {
  return fmt::format(
      "{} open dead letters of partition {} are lost: the dead log is damaged; "
      "`tocsin dead list` names them, they can only be discarded",
      count, partition.value());
}

}  // namespace

void Partition::Impl::AddAndApply(RecordType type, std::string_view body) {
  AddRecord(type, body);
  const RecordView view{type, body, 0};
  const absl::Status applied = state.Apply(view, state.end(), turn.append_time_us);
  TOCSIN_CHECK(applied.ok(), "{}", MessageOf(applied));
}

std::string Partition::Impl::DescribeGap(const Unreadable& gap) const {
  if (!gap.first_offset) {
    return fmt::format("events of partition {} may be lost, it cannot be told which: {}",
                       options.id.value(), gap.reason);
  }
  return fmt::format("{} events from {}/{} cannot be read: {}", gap.event_count, options.id.value(),
                     gap.first_offset->value(), gap.reason);
}

void Partition::Impl::Open(absl::AnyInvocable<void(absl::Status)> done) {
  now = ports.clock.Monotonic();
  wall = ports.clock.Wall();
  open_done = std::move(done);
  ports.journal.Open(options.id, ports.executor,
                     [this, guard = std::weak_ptr(alive)](absl::StatusOr<OpenResult> result) {
                       if (guard.expired()) return;
                       if (!result.ok()) {
                         FinishOpen(result.status());
                         return;
                       }
                       opened = std::move(*result);
                       epoch = opened.epoch;
                       for (const std::string& warning : opened.warnings) Warn("T0312", warning);
                       JournalPosition from = opened.start;
                       if (opened.checkpoint) {
                         from = opened.checkpoint->replay_from;
                         newer_replay_from = from;
                         const absl::Status loaded = state.LoadPages(opened.checkpoint->pages);
                         opened.checkpoint.reset();
                         if (!loaded.ok()) {
                           FinishOpen(loaded);
                           return;
                         }
                       }
                       start = state.end();
                       Replay(from);
                     });
}

void Partition::Impl::Replay(JournalPosition from) {
  ports.journal.Read(
      options.id, from, kReplayBytes,
      [this, guard = std::weak_ptr(alive)](absl::StatusOr<ReadResult> result) {
        if (guard.expired()) return;
        if (!result.ok()) {
          FinishOpen(result.status());
          return;
        }
        for (const Unreadable& gap : result->unreadable) {
          state.SetLenient();
          Warn("T0311", fmt::format("{}; their deliveries are counted as dropped, what follows is "
                                    "served",
                                    DescribeGap(gap)));
        }
        for (const StoredBatch& batch : result->batches) {
          const absl::Status applied =
              state.ApplyBatch(*batch.body, batch.base_offset, batch.append_time_us);
          if (!applied.ok()) {
            FinishOpen(Annotate(applied, fmt::format("partition {}, batch at {}",
                                                     options.id.value(), batch.position.value())));
            return;
          }
          last_append_us = std::max(last_append_us, batch.append_time_us);
          bytes_since_checkpoint += batch.body->size();
        }
        if (!result->at_end) {
          Replay(result->next);
          return;
        }
        last_end = result->next;
        ports.journal.ListLetters(options.id, LetterPosition(),
                                  [this, guard](absl::StatusOr<std::vector<LetterRef>> letters) {
                                    if (guard.expired()) return;
                                    if (!letters.ok()) {
                                      FinishOpen(letters.status());
                                      return;
                                    }
                                    if (const auto lost = state.PlaceLetters(*letters); lost > 0) {
                                      Warn("T0311", LostLetters(options.id, lost));
                                    }
                                    FinishOpen(absl::OkStatus());
                                  });
      });
}

void Partition::Impl::FinishOpen(const absl::Status& status) {
  now = ports.clock.Monotonic();
  wall = ports.clock.Wall();
  if (status.ok()) {
    open = true;
    state.SkipTo(opened.next_offset);
    durable_end = state.end();
    last_housekeeping = now;
    // Those of the partitions come in turn: what they hold in memory, too.
    last_checkpoint = now - options.checkpoint_every / options.partitions * options.id.value() / 2;
    for (const Journal::Age& age : ports.journal.Ages(options.id)) {
      if (age.below < durable_end) NoteSample(FromMicros(age.append_time_us), age.below);
    }
    NoteSample(wall, durable_end);
    wall_offset = wall.time_since_epoch() - now.time_since_epoch();
    for (const auto& [home, lane] : state.outgoing()) {
      outgoing_durable[home] = lane.next_sequence - 1;
    }
    ForwardOutgoing();
  }
  auto done = std::move(open_done);
  done(status);
}

absl::Status Partition::Impl::Usable() const {
  if (failed) return absl::UnavailableError("the journal failed; the broker is stopping");
  if (plan == nullptr) {
    return absl::UnavailableError(
        fmt::format("partition {} is being recovered: try again", options.id.value()));
  }
  return absl::OkStatus();
}

absl::Status Partition::Impl::Writable() const {
  TOCSIN_RETURN_IF_ERROR(Usable());
  if (stalled || resubmitted) {
    return absl::ResourceExhaustedError(
        "there is no room on the disk: nothing was done; make room and try again");
  }
  return absl::OkStatus();
}

StoredLaneState Partition::AttachLane(const LaneId& lane, LaneListener* listener) {
  impl_->leaving.erase(lane);
  impl_->listeners[lane] = listener;
  impl_->state.TellAgain(lane);
  return StoredLane(lane);
}

StoredLaneState Partition::StoredLane(const LaneId& lane) const {
  StoredLaneState restored;
  if (const LaneRecord* record = impl_->state.FindLane(lane)) {
    restored.position = record->position;
    for (const auto& bucket : record->buckets)
      restored.entries.insert(bucket.begin(), bucket.end());
  }
  return restored;
}

void Partition::LeaveLane(const LaneId& lane) {
  impl_->BeginIfNeeded();
  impl_->leaving.insert(lane);
}

void Partition::DetachLane(const LaneId& lane) {
  impl_->listeners.erase(lane);
  impl_->leaving.erase(lane);
}

absl::Status Partition::SetPaused(std::string_view name, bool paused) {
  Impl& impl = *impl_;
  TOCSIN_RETURN_IF_ERROR(impl.Writable());
  impl.BeginIfNeeded();
  TriggerRecord* trigger = impl.state.FindTrigger(name);
  if (trigger == nullptr) {
    return absl::NotFoundError(fmt::format("there is no trigger '{}'", name));
  }
  if (trigger->paused == paused) return absl::OkStatus();
  impl.EnsureRoom(trigger->config_json.size() + 256);
  const bool detached = trigger->detached;
  TriggerDefinedRecord record;
  record.trigger = trigger->ordinal;
  record.generation = trigger->generation;
  record.paused = paused;
  const std::string own_name = trigger->name;
  const SharedText hash = trigger->config_hash;
  const SharedText json = trigger->config_json;
  record.name = own_name;
  record.config_hash = hash.str();
  record.config_json = json.str();
  std::string body;
  EncodeTriggerDefined(record, body);
  const std::int64_t detached_us = trigger->detached_us;
  impl.AddAndApply(RecordType::kTriggerDefined, body);
  if (detached) {
    body.clear();
    EncodeTriggerDetached({trigger->ordinal, detached_us, false}, body);
    impl.AddAndApply(RecordType::kTriggerDetached, body);
  }
  Impl::Runtime* runtime = impl.RuntimeOf(trigger->ordinal);
  if (runtime != nullptr && runtime->queue != nullptr) {
    runtime->queue->SetPaused(paused);
    impl.Touch(*runtime);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::uint64_t> Partition::Forget(std::string_view name, bool dry_run) {
  Impl& impl = *impl_;
  TOCSIN_RETURN_IF_ERROR(dry_run ? impl.Usable() : impl.Writable());
  impl.BeginIfNeeded();
  impl.EncodeSettlements();
  TriggerRecord* trigger = impl.state.FindTrigger(name);
  if (trigger == nullptr) {
    return absl::NotFoundError(fmt::format("there is no trigger '{}'", name));
  }
  if (!trigger->detached) {
    return absl::FailedPreconditionError(fmt::format(
        "trigger '{}' is in the configuration; remove it there and reload, then forget it", name));
  }
  const std::uint64_t pending = trigger->pending();
  if (dry_run) return pending;
  impl.EnsureRoom(64);
  std::string body;
  EncodeTriggerDetached({trigger->ordinal, Micros(impl.wall), true}, body);
  impl.AddAndApply(RecordType::kTriggerDetached, body);
  return pending;
}

void Partition::ReadEvents(Offset from, std::size_t events_max, std::size_t bytes_max,
                           absl::AnyInvocable<void(absl::StatusOr<EventPage>)> done) {
  EventPage page;
  page.next = std::max(from, impl_->start_known ? impl_->start : Offset());
  const Offset next = page.next;
  if (!impl_->NotKnownYet(next)) {
    impl_->ReadEvents(next, events_max, bytes_max, std::move(page), std::move(done));
    return;
  }
  impl_->waiting.push_back(
      {next, [impl = impl_.get(), next, events_max, bytes_max, page = std::move(page),
              done = std::move(done)](const absl::Status&) mutable {
         impl->ReadEvents(next, events_max, bytes_max, std::move(page), std::move(done));
       }});
}

bool Partition::Impl::PageBatch(const CachedBatch& batch, std::size_t events_max,
                                std::size_t bytes_max, EventPage& page) {
  EventRecord record;
  std::size_t bytes = 0;
  for (const EventRecordInfo& event : page.events) bytes += event.bytes.size();
  for (Offset offset = std::max(page.next, batch.base); offset < batch.end();
       offset = Next(offset)) {
    if (!(offset < durable_end)) return false;
    if (page.events.size() >= events_max || bytes >= bytes_max) return false;
    page.next = Next(offset);
    if (!DecodeEvent(batch.Record(offset), record).ok()) continue;
    EventRecordInfo info;
    info.offset = offset;
    info.origin = record.new_run ? record.origin : offset;
    info.run = record.run;
    info.recorded = batch.recorded;
    for (const Match& match : record.matches) {
      info.matched.push_back(match.trigger);
      const TriggerRecord* trigger = state.FindTrigger(match.trigger);
      info.triggers.push_back(trigger == nullptr ? std::string() : trigger->name);
    }
    info.bytes = std::string(record.event);
    bytes += info.bytes.size();
    page.events.push_back(std::move(info));
  }
  return true;
}

void Partition::Impl::ReadEvents(Offset from, std::size_t events_max, std::size_t bytes_max,
                                 EventPage page,
                                 absl::AnyInvocable<void(absl::StatusOr<EventPage>)> done) {
  page.durable_end = durable_end;
  page.next = std::max(page.next, from);
  while (page.next < durable_end) {
    const auto batch = cache.Find(page.next);
    if (batch == nullptr) break;
    if (!PageBatch(*batch, events_max, bytes_max, page)) {
      done(std::move(page));
      return;
    }
  }
  if (!(page.next < durable_end)) {
    done(std::move(page));
    return;
  }
  const JournalPosition at = ports.journal.Locate(options.id, page.next);
  ReadPage(at, events_max, bytes_max, std::move(page), std::move(done));
}

void Partition::Impl::ReadPage(JournalPosition at, std::size_t events_max, std::size_t bytes_max,
                               EventPage page,
                               absl::AnyInvocable<void(absl::StatusOr<EventPage>)> done) {
  ports.journal.Read(
      options.id, at, kReadEventsBytes,
      [this, at, events_max, bytes_max, page = std::move(page), done = std::move(done),
       guard = std::weak_ptr(alive)](absl::StatusOr<ReadResult> result) mutable {
        if (guard.expired()) return;
        if (!result.ok()) {
          // Trimmed meanwhile: from the new start.
          const JournalPosition moved = ports.journal.Locate(options.id, page.next);
          if (absl::IsOutOfRange(result.status()) && at < moved) {
            return ReadPage(moved, events_max, bytes_max, std::move(page), std::move(done));
          }
          done(result.status());
          return;
        }
        for (const Unreadable& gap : result->unreadable) page.gaps.push_back(gap.reason);
        const Offset before = page.next;
        for (const StoredBatch& stored : result->batches) {
          const std::optional<CachedBatch> batch = IndexBatch(stored);
          if (!batch || !(page.next < batch->end())) continue;
          if (!PageBatch(*batch, events_max, bytes_max, page)) break;
        }
        if (page.next == before && page.events.empty()) {
          // Settlements, or what is damaged: on behind it.
          if (!result->at_end) {
            return ReadPage(result->next, events_max, bytes_max, std::move(page), std::move(done));
          }
          page.next = durable_end;
        }
        done(std::move(page));
      });
}

PartitionSnapshot Partition::Impl::Snapshot() const {
  PartitionSnapshot snapshot;
  snapshot.id = options.id;
  snapshot.epoch = epoch;
  snapshot.start = start_known ? start : Offset();
  snapshot.durable_end = durable_end;
  snapshot.end = state.end();
  snapshot.open_letters = state.letters().size();
  snapshot.unmatched = unmatched;
  snapshot.duplicates = duplicates;
  snapshot.refused = refused;
  snapshot.stale_answers = stale_answers;
  snapshot.deduped_ids = state.dedupe().size();
  for (const auto& [home, lane] : state.outgoing()) snapshot.outgoing += lane.pending.size();
  snapshot.in_flight_bytes = flight_bytes;
  snapshot.cache_bytes = cache.bytes();
  snapshot.letters_full = LettersFull();
  const Offset floor = Floor(&snapshot.pinned_by);
  snapshot.pinned_bytes = ports.journal.Locate(options.id, durable_end).value() -
                          ports.journal.Locate(options.id, floor).value();
  for (const auto& trigger : state.triggers()) {
    if (trigger->forgotten) continue;
    TriggerBooks books;
    books.name = trigger->name;
    books.config_hash = trigger->config_hash.str();
    books.ordinal = trigger->ordinal;
    books.matched = trigger->matched;
    books.acked = trigger->acked;
    books.dead = trigger->dead;
    books.dropped = trigger->dropped;
    books.expired = trigger->expired;
    books.pending = trigger->pending();
    books.parked_keys = trigger->parked.size();
    books.state = trigger->detached ? TriggerState::kDetached
                  : trigger->paused ? TriggerState::kPaused
                                    : TriggerState::kActive;
    books.floor = trigger->floor;
    const Runtime* runtime = trigger->ordinal.value() < runtimes.size()
                                 ? runtimes[trigger->ordinal.value()].get()
                                 : nullptr;
    if (runtime != nullptr) {
      books.function = SpecOf(runtime->route).policy.function;
      if (const TriggerQueue* queue = runtime->queue.get()) {
        books.ready = queue->ready_count() + queue->ready_alone_count();
        books.leased = queue->leased_count();
        books.delayed = queue->delayed_count();
        books.skipped_keys = queue->skipped_key_count();
        books.floor = queue->Floor(durable_end);
        if (queue->blocked_by_key() && books.state == TriggerState::kActive) {
          books.state = TriggerState::kBlockedByKey;
          books.blocking_key = queue->BlockingKey();
        }
      }
    }
    if (books.pending > 0) {
      if (const auto batch = cache.Find(books.floor)) books.oldest = batch->recorded;
    }
    snapshot.triggers.push_back(std::move(books));
  }
  for (const ScheduleRuntime& schedule : schedules) {
    ScheduleStatus status;
    status.name = plan->schedules[schedule.binding].name;
    status.next = schedule.next;
    const auto known = state.schedules().find(status.name);
    if (known != state.schedules().end()) {
      status.fired = known->second.fired;
      status.skipped = known->second.skipped;
    }
    status.busy = state.ScheduleBusy(status.name);
    status.paused = schedule.paused;
    snapshot.schedules.push_back(std::move(status));
  }
  snapshot.dynamic_schedules = state.dynamic().schedules();
  snapshot.delayed_events = state.dynamic().delayed();
  snapshot.schedule_bytes = state.dynamic().bytes();
  for (const auto& [id, lane] : state.lanes()) {
    if (lane->position.empty() && lane->entry_count == 0) continue;  // forgotten
    snapshot.lanes.push_back({id, lane->position, lane->events, lane->entry_count});
  }
  for (const auto& [name, count] : unmatched_by) snapshot.unmatched_by.emplace_back(name, count);
  std::sort(snapshot.unmatched_by.begin(), snapshot.unmatched_by.end(),
            [](const auto& a, const auto& b) { return a.second > b.second; });
  if (snapshot.unmatched_by.size() > kUnmatchedShown) snapshot.unmatched_by.resize(kUnmatchedShown);
  return snapshot;
}

}  // namespace tocsin
