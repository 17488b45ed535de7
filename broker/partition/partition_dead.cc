// Deliveries that die: their letters, and what their last answer emitted.

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/canary.h"
#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/journal/record.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

constexpr std::size_t kFetchBytes = 256 * 1024;
constexpr int kLetterReadsMax = 5;  // a second apart; then a letter goes without its event

}  // namespace

bool Partition::Impl::LettersFull() const {
  return state.letters().size() >= options.letters_max ||
         ports.journal.letter_bytes() >= options.letters_bytes;
}

void Partition::Impl::Die(Runtime& runtime, DeadAction action) {
  HeldDead dead;
  dead.trigger = runtime.ordinal;
  dead.queue_number = runtime.queue_number;
  dead.action = std::move(action);
  dead.confirmation = confirming;
  dead.emitted = std::exchange(dying_emitted, EmittedEvents());
  if (confirming != nullptr) ++confirming->letters;
  Bury(std::move(dead));
}

void Partition::Impl::Bury(HeldDead dead) {
  if (LettersFull()) {
    if (!letters_full_told) {
      letters_full_told = true;
      Warn("T0308",
           fmt::format("the dead log is at its quota (dead_letters.size, {} open letters): "
                       "deliveries that should die wait; redrive or discard letters",
                       state.letters().size()));
    }
    held_dead.push_back(std::move(dead));
    return;
  }
  const Offset offset = dead.action.candidate.offset;
  Runtime* runtime = RuntimeOf(dead.trigger);
  if (const auto batch = cache.Find(offset); batch && runtime != nullptr) {
    EventRecord record;
    if (DecodeEvent(batch->Record(offset), record).ok()) {
      WriteLetter(*runtime, dead, &record);
      LetterDone(dead.confirmation);
      return;
    }
  }
  ++fetches;
  ReadForLetter(std::move(dead), 1);
}

void Partition::Impl::ReadForLetter(HeldDead dead, int read_number) {
  const Offset offset = dead.action.candidate.offset;
  ports.journal.Read(options.id, ports.journal.Locate(options.id, offset), kFetchBytes,
                     [this, dead = std::move(dead), read_number, guard = std::weak_ptr(alive)](
                         const absl::StatusOr<ReadResult>& result) mutable {
                       if (guard.expired()) return;
                       BeginIfNeeded();
                       if (!failed && !result.ok() && read_number < kLetterReadsMax) {
                         ports.executor.PostAt(now + std::chrono::seconds(1),
                                               [this, dead = std::move(dead), read_number,
                                                guard = std::move(guard)]() mutable {
                                                 if (guard.expired()) return;
                                                 BeginIfNeeded();
                                                 ReadForLetter(std::move(dead), read_number + 1);
                                                 ports.wake();
                                               });
                         return;
                       }
                       --fetches;
                       if (failed) return;
                       WriteLetterOf(dead, result);
                       ports.wake();
                     });
}

void Partition::Impl::WriteLetterOf(HeldDead& dead, const absl::StatusOr<ReadResult>& read) {
  Runtime* owner = RuntimeOf(dead.trigger);
  // Another queue, after the trigger was away: it has the delivery as one that is pending, and this
  // answer has become a late one, which nobody waits for.
  if (owner == nullptr || owner->queue == nullptr || owner->queue_number != dead.queue_number) {
    return LetterDone(dead.confirmation);
  }
  const Offset at = dead.action.candidate.offset;
  if (read.ok()) {
    for (const StoredBatch& stored : read->batches) {
      if (at < stored.base_offset ||
          at.value() >= stored.base_offset.value() + stored.event_count) {
        continue;
      }
      std::vector<EventSlot> slots;
      EventRecord record;
      if (!IndexEvents(*stored.body, slots).ok()) break;
      const EventSlot& slot = slots[at.value() - stored.base_offset.value()];
      const std::string_view body = *stored.body;
      if (!DecodeEvent(body.substr(slot.position, slot.bytes), record).ok()) break;
      WriteLetter(*owner, dead, &record);
      return LetterDone(dead.confirmation);
    }
  }
  // The letter must not be lost for want of its event.
  dead.action.message +=
      fmt::format(" (event {}/{} can no longer be read{}{})", options.id.value(), at.value(),
                  read.ok() ? "" : ": ", read.ok() ? std::string_view() : MessageOf(read.status()));
  WriteLetter(*owner, dead, nullptr);
  LetterDone(dead.confirmation);
}

void Partition::Impl::WriteLetter(Runtime& runtime, const HeldDead& dead,
                                  const EventRecord* event) {
  const DeadAction& action = dead.action;
  TriggerRecord* trigger = state.FindTrigger(runtime.ordinal);
  const Candidate& candidate = action.candidate;
  Letter letter;
  letter.id = DeliveryId{options.id, candidate.origin, runtime.ordinal, candidate.run};
  letter.reason = action.reason;
  letter.message = action.message;
  letter.trigger = trigger->name;
  letter.config_hash = trigger->config_hash.str();
  letter.died = wall;
  if (event != nullptr) {
    letter.event = std::string(event->event);
    letter.source = std::string(event->lane_source);
    letter.lane = std::string(event->lane_key);
    EventView view;
    if (ParseEvent(event->event, view).ok()) letter.key = std::string(view.PartitionKey());
  }
  const auto history = trigger->attempts.find(candidate.match_index);
  if (history != trigger->attempts.end()) {
    letter.attempts = history->second.failed;
    letter.history = history->second.notes;
  }
  bool park = SpecOf(runtime.route).policy.on_exhausted == OnExhausted::kPark &&
              !letter.key.empty() && action.reason != LetterReason::kExpired;
  // Parked keys must leave room among the keys whose deliveries wait in the journal: what would
  // release them may lie behind those of other keys.
  const std::size_t park_max =
      std::min(options.queues.park_max_keys, options.queues.skipped_keys_max / 2);
  if (park && !trigger->parked.contains(letter.key) && trigger->parked.size() >= park_max) {
    Warn("T0309",
         fmt::format("trigger '{}' has {} parked keys (park_max_keys): key '{}' is not held",
                     trigger->name, trigger->parked.size(), letter.key));
    park = false;
  }
  std::string bytes = EncodeLetter(letter);
  // One batch has all of it: what was emitted stands or falls with the death.
  EnsureRoom(256 + letter.key.size() + dead.emitted.bytes, bytes.size());
  WriteEmitted(dead.emitted);
  if (!Planted(Canary::kLetterLost)) AddLetter(letter.id, std::move(bytes));
  DeadRecord record;
  record.trigger = runtime.ordinal;
  record.index = candidate.match_index;
  record.offset = candidate.offset;
  record.origin = candidate.origin;
  record.run = candidate.run;
  record.reason = action.reason;
  record.parked = park;
  record.key = letter.key;
  const bool expired = action.reason == LetterReason::kExpired;
  std::string body;
  if (!expired) body.push_back('\1');
  EncodeDead(record, body);
  const RecordType type = expired ? RecordType::kExpired : RecordType::kSettled;
  AddRecord(type, body);
  const RecordView view{type, body, 0};
  const absl::Status applied = state.Apply(view, state.end(), turn.append_time_us);
  TOCSIN_CHECK(applied.ok(), "{}", MessageOf(applied));
  if (!leased_hops.empty()) {
    leased_hops.erase({runtime.ordinal.value(), candidate.offset.value()});
  }
  runtime.queue->Close(candidate.offset, park && !Planted(Canary::kParkIgnored));
  Touch(runtime);
  if (event == nullptr || !event->from_schedule) return;
  EventView fire;
  if (!ParseEvent(letter.event, fire).ok()) return;
  RaiseFailed(letter.source, fire.id, letter.trigger, letter);
}

}  // namespace tocsin
