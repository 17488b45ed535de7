// Deliveries: offers to queues, answers, dead letters, grants. Sending is in partition_deliver.cc.

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/canary.h"
#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/journal/record.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

constexpr std::size_t kQueuesKept = 1024;  // idle queue objects, beyond which they are dropped
constexpr std::size_t kFetchBytes = 256 * 1024;
constexpr std::size_t kEmittedMax = 256;
constexpr std::size_t kEmittedBytesMax = std::size_t{2} << 20;
constexpr int kLetterReadsMax = 5;          // a second apart; then a letter goes without its event
constexpr std::size_t kAnswerBytes = 4096;  // kept beside what it emits for the answer itself

}  // namespace

Partition::Impl::Runtime* Partition::Impl::RuntimeOf(TriggerOrdinal ordinal) {
  return ordinal.value() < runtimes.size() ? runtimes[ordinal.value()].get() : nullptr;
}

TriggerQueue& Partition::Impl::QueueOf(Runtime& runtime, Offset admit_from) {
  if (runtime.queue != nullptr) return *runtime.queue;
  runtime.queue =
      std::make_unique<TriggerQueue>(options.id, runtime.ordinal, epoch, admit_from, options.queues,
                                     SpecOf(runtime.route).policy, ports.random.Next());
  runtime.queue_number = ++queues_made;
  runtime.queue->ContinueTokens(tokens_given);
  const TriggerRecord* trigger = state.FindTrigger(runtime.ordinal);
  runtime.queue->SetPaused(trigger->paused);
  for (const auto& [key, parked] : trigger->parked) runtime.queue->Park(key);
  return *runtime.queue;
}

void Partition::Impl::Touch(Runtime& runtime) {
  if (runtime.touched) return;
  runtime.touched = true;
  touched.push_back(runtime.ordinal);
  scan_wanted.insert(runtime.ordinal.value());
}

void Partition::Impl::DropRuntimeQueue(Runtime& runtime) {
  if (runtime.due) dues.erase({*runtime.due, runtime.ordinal.value()});
  runtime.due.reset();
  tokens_given = std::max(tokens_given, runtime.queue->tokens_given());
  runtime.queue.reset();
  if (runtime.scanning) --scans;
  runtime.scanning = false;
  ready.erase(runtime.ordinal.value());
}

const PriorAttempts* Partition::Impl::PriorOf(const TriggerRecord& trigger, std::uint64_t index,
                                              PriorAttempts& prior) {
  if (trigger.attempts.empty()) return nullptr;
  const auto found = trigger.attempts.find(index);
  if (found == trigger.attempts.end()) return nullptr;
  const AttemptHistory& history = found->second;
  prior.count = history.failed;
  const std::int64_t left_us = std::max<std::int64_t>(0, history.due_us - LogTime());
  prior.delay = std::chrono::microseconds(left_us);
  prior.alone = history.alone;
  prior.first_started_ago =
      std::chrono::microseconds(std::max<std::int64_t>(0, LogTime() - history.first_us));
  return &prior;
}

void Partition::Impl::Offer(const InFlight& flight, const OfferedEvent& event) {
  Candidate candidate;
  candidate.offset = event.offset;
  candidate.origin = event.origin;
  candidate.run = event.run;
  candidate.event_bytes = event.event_bytes;
  candidate.appended = FromMicros(flight.append_time_us);
  if (event.expires_us != 0) candidate.expires = FromMicros(event.expires_us);
  const std::string_view key =
      std::string_view(*flight.body).substr(event.key_position, event.key_bytes);
  for (std::uint32_t i = 0; i < event.match_count; ++i) {
    const Match& match = flight.matches[event.first_match + i];
    Runtime* runtime = RuntimeOf(match.trigger);
    if (runtime == nullptr) continue;  // dropped over its backlog, or detached meanwhile
    if (Planted(Canary::kMatchLost) && match.index % 32 == 31) continue;
    candidate.match_index = match.index;
    if (event.first_of_key) {
      if (runtime->queue == nullptr) QueueOf(*runtime, event.offset).CaughtUp(event.offset);
      runtime->queue->OfferFirst(candidate, key, now);
    } else {
      if (runtime->queue == nullptr) QueueOf(*runtime, event.offset).CaughtUp(event.offset);
      (void)runtime->queue->Offer(candidate, key, nullptr, now);
    }
    Touch(*runtime);
  }
}

bool Partition::Impl::ApplyEmitted(const DeliveryRef& delivery, std::vector<std::string>& emitted,
                                   std::string* error) {
  if (emitted.size() > kEmittedMax) {
    *error = fmt::format("{} events emitted, at most {} are allowed", emitted.size(), kEmittedMax);
    return false;
  }
  std::uint32_t hops = 1;
  const auto parent = leased_hops.find({delivery.trigger.value(), delivery.offset.value()});
  if (parent != leased_hops.end()) hops = parent->second + 1;
  if (hops >= options.hops_max) {
    *error = fmt::format("emitted events would have gone round {} times: a loop", hops);
    return false;
  }
  std::size_t bytes = 0;
  std::vector<std::string> stripped(emitted.size());
  for (std::size_t i = 0; i < emitted.size(); ++i) {
    EventView view;
    absl::Status valid = ParseEvent(emitted[i], view);
    if (valid.ok()) valid = ValidateEvent(view, emitted[i].size(), options.event_limits);
    if (!valid.ok()) {
      *error = fmt::format("emitted event {}: {}", i, MessageOf(valid));
      return false;
    }
    if (view.Find(kDeliverAtAttribute) != nullptr || view.Find(kDeliverInAttribute) != nullptr) {
      *error = fmt::format(
          "emitted event {}: T0344: what is emitted cannot wait for a time: publish it with {} or "
          "{}, or add a schedule",
          i, kDeliverAtAttribute, kDeliverInAttribute);
      return false;
    }
    if (auto without = StripReserved(view)) emitted[i] = std::move(*without);
    bytes += emitted[i].size() + 512;
  }
  if (bytes > kEmittedBytesMax + emitted.size() * 512) {
    *error = fmt::format("{} of emitted events, at most {} are allowed", FormatBytes(bytes),
                         FormatBytes(kEmittedBytesMax));
    return false;
  }
  EnsureRoom(bytes + kAnswerBytes);
  for (const std::string& event : emitted) {
    EventView view;
    (void)ParseEvent(event, view);
    const PartitionId home = PartitionOfEvent(view, options.partitions);
    if (home != options.id) {
      OutgoingRecord outgoing;
      outgoing.home = home;
      const auto lane = state.outgoing().find(home);
      outgoing.sequence = lane == state.outgoing().end() ? 1 : lane->second.next_sequence;
      const std::string stored = std::string(1, static_cast<char>(hops)) + event;
      outgoing.event = stored;
      std::string body;
      EncodeOutgoing(outgoing, body);
      AddRecord(RecordType::kOutgoing, body);
      const RecordView record{RecordType::kOutgoing, body, 0};
      const absl::Status applied = state.Apply(record, state.end(), turn.append_time_us);
      TOCSIN_CHECK(applied.ok(), "{}", MessageOf(applied));
      turn.outgoing = true;
      continue;
    }
    EventRecord record;
    (void)MatchEvent(view, "", record, nullptr);
    record.hops = hops;
    record.event = event;
    const Offset at = AddEvent(record, view, nullptr, false);
    if (record.matches.empty()) CountUnmatched(view, at);
    DropOverBacklog(record);
  }
  return true;
}

void Partition::Impl::OnAnswers(AnswerBatch batch) {
  BeginIfNeeded();
  if (failed || !open) return;
  if (batch.confirmed) confirming = std::make_shared<Confirmation>();
  std::vector<Action>& actions = action_scratch;
  const auto count = [&](AnswerResult result) {
    if (result != AnswerResult::kApplied) ++stale_answers;
  };
  for (const DeliveryRef& ref : batch.acked) {
    Runtime* runtime = RuntimeOf(ref.trigger);
    if (runtime == nullptr || runtime->queue == nullptr) {
      ++stale_answers;
      continue;
    }
    count(runtime->queue->Answer(ref.offset, ref.token, Ack{}, now, actions));
    Touch(*runtime);
    if (!actions.empty()) RunActions(*runtime, actions);
  }
  for (DeliveryAnswer& answer : batch.others) {
    Runtime* runtime = RuntimeOf(answer.delivery.trigger);
    if (runtime == nullptr || runtime->queue == nullptr) {
      ++stale_answers;
      continue;
    }
    Outcome outcome = std::move(answer.outcome);
    if (!answer.emitted.empty()) {
      // Only an answer that will be applied may emit: a stale one must leave nothing behind.
      std::string error;
      if (!runtime->queue->Holds(answer.delivery.offset, answer.delivery.token)) {
        ++stale_answers;
        continue;
      }
      if (!ApplyEmitted(answer.delivery, answer.emitted, &error)) {
        outcome = Retry{"emit_invalid", error, std::nullopt};
      } else {
        with_emitted = true;
      }
    }
    count(runtime->queue->Answer(answer.delivery.offset, answer.delivery.token, std::move(outcome),
                                 now, actions));
    Touch(*runtime);
    RunActions(*runtime, actions);
    with_emitted = false;
  }
  for (const ExtendRequest& extend : batch.extends) {
    Runtime* runtime = RuntimeOf(extend.delivery.trigger);
    if (runtime == nullptr || runtime->queue == nullptr) {
      ++stale_answers;
      continue;
    }
    count(runtime->queue->Extend(extend.delivery.offset, extend.delivery.token, extend.by, now));
    Touch(*runtime);
  }
  for (const LostLease& lost : batch.lost) {
    Runtime* runtime = RuntimeOf(lost.delivery.trigger);
    if (runtime == nullptr || runtime->queue == nullptr) continue;
    (void)runtime->queue->LeaseLost(lost.delivery.offset, lost.delivery.token, lost.started, now,
                                    actions);
    Touch(*runtime);
    RunActions(*runtime, actions);
  }
  if (!batch.confirmed) return;
  const std::shared_ptr<Confirmation> mine = std::exchange(confirming, nullptr);
  if (Planted(Canary::kConfirmedEarly)) return batch.confirmed();
  if (mine->letters > 0) {
    mine->then = std::move(batch.confirmed);
  } else {
    ConfirmWhenDurable(std::move(batch.confirmed));
  }
}

void Partition::Impl::ConfirmWhenDurable(std::function<void()> confirmed) {
  if (!turn.empty()) {
    turn.confirmed.push_back(std::move(confirmed));
  } else if (!in_flight.empty()) {
    in_flight.back().confirmed.push_back(std::move(confirmed));
  } else {
    confirmed();
  }
}

void Partition::Impl::LetterDone(const std::shared_ptr<Confirmation>& confirmation) {
  if (confirmation == nullptr || --confirmation->letters > 0) return;
  if (confirmation->then) ConfirmWhenDurable(std::move(confirmation->then));
}

void Partition::Impl::RunActions(Runtime& runtime, std::vector<Action>& actions) {
  for (Action& action : actions) {
    if (auto* settled = std::get_if<SettledAction>(&action)) {
      if (!leased_hops.empty()) {
        leased_hops.erase({runtime.ordinal.value(), settled->candidate.offset.value()});
      }
      auto& by_trigger = settled->kind == SettleKind::kDropped ? turn.dropped : turn.acked;
      by_trigger[runtime.ordinal.value()].push_back(settled->candidate.match_index);
      ++turn.settled_count;
    } else if (auto* attempt = std::get_if<AttemptFailedAction>(&action)) {
      const std::size_t bytes = attempt->message.size() + attempt->code.size() + 128;
      if (!with_emitted || bytes > kAnswerBytes) EnsureRoom(bytes);
      AttemptFailedRecord record;
      record.trigger = runtime.ordinal;
      record.index = attempt->candidate.match_index;
      record.offset = attempt->candidate.offset;
      record.attempt = Planted(Canary::kAttemptForgotten) ? 1 : attempt->attempt;
      record.at_us = LogTime();
      record.due_us = record.at_us +
                      std::chrono::duration_cast<std::chrono::microseconds>(attempt->delay).count();
      record.worker_died = attempt->worker_died;
      record.code = attempt->code;
      record.message = attempt->message;
      std::string body;
      EncodeAttemptFailed(record, body);
      AddRecord(RecordType::kAttemptFailed, body);
      const RecordView view{RecordType::kAttemptFailed, body, 0};
      const absl::Status applied = state.Apply(view, state.end(), turn.append_time_us);
      TOCSIN_CHECK(applied.ok(), "{}", MessageOf(applied));
      turn.attempts.push_back({runtime.ordinal, record.offset, attempt->attempt});
    } else if (auto* dead = std::get_if<DeadAction>(&action)) {
      Die(runtime, std::move(*dead));
    } else if (auto* cancel = std::get_if<CancelAction>(&action)) {
      const auto session = sessions.find(cancel->session.value());
      if (session == sessions.end()) continue;
      if (const auto held = session->second.lock()) {
        held->LeaseEnded({&cancel->handle, 1});
      } else {
        sessions.erase(session);
      }
    }
  }
  actions.clear();
}

bool Partition::Impl::LettersFull() const {
  return state.letters().size() >= options.letters_max ||
         ports.journal.letter_bytes() >= options.letters_bytes;
}

void Partition::Impl::Die(Runtime& runtime, DeadAction action) {
  if (LettersFull()) {
    if (!letters_full_told) {
      letters_full_told = true;
      Warn("T0308",
           fmt::format("the dead log is at its quota (dead_letters.size, {} open letters): "
                       "deliveries that should die wait; redrive or discard letters",
                       state.letters().size()));
    }
    held_dead.push_back({runtime.ordinal, runtime.queue_number, std::move(action)});
    return;
  }
  const Offset offset = action.candidate.offset;
  if (const auto batch = cache.Find(offset)) {
    EventRecord record;
    if (DecodeEvent(batch->Record(offset), record).ok()) {
      WriteLetter(runtime, action, &record);
      return;
    }
  }
  if (confirming != nullptr) ++confirming->letters;
  ++fetches;
  ReadForLetter({runtime.ordinal, runtime.queue_number, std::move(action)}, confirming, 1);
}

void Partition::Impl::ReadForLetter(HeldDead dead, std::shared_ptr<Confirmation> confirmation,
                                    int read_number) {
  const Offset offset = dead.action.candidate.offset;
  ports.journal.Read(
      options.id, ports.journal.Locate(options.id, offset), kFetchBytes,
      [this, dead = std::move(dead), confirmation = std::move(confirmation), read_number,
       guard = std::weak_ptr(alive)](absl::StatusOr<ReadResult> result) mutable {
        if (guard.expired()) return;
        BeginIfNeeded();
        if (!failed && !result.ok() && read_number < kLetterReadsMax) {
          ports.executor.PostAt(
              now + std::chrono::seconds(1),
              [this, dead = std::move(dead), confirmation = std::move(confirmation), read_number,
               guard = std::move(guard)]() mutable {
                if (guard.expired()) return;
                BeginIfNeeded();
                ReadForLetter(std::move(dead), std::move(confirmation), read_number + 1);
                ports.wake();
              });
          return;
        }
        --fetches;
        if (failed) return;
        WriteLetterOf(dead.trigger, dead.queue_number, std::move(dead.action), result);
        LetterDone(confirmation);
        ports.wake();
      });
}

void Partition::Impl::WriteLetterOf(TriggerOrdinal ordinal, std::uint64_t queue_number,
                                    DeadAction action, const absl::StatusOr<ReadResult>& read) {
  Runtime* owner = RuntimeOf(ordinal);
  // Another queue, after the trigger was away: it has the delivery as one that is pending.
  if (owner == nullptr || owner->queue == nullptr || owner->queue_number != queue_number) return;
  const Offset at = action.candidate.offset;
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
      return WriteLetter(*owner, action, &record);
    }
  }
  // The letter must not be lost for want of its event.
  action.message +=
      fmt::format(" (event {}/{} can no longer be read{}{})", options.id.value(), at.value(),
                  read.ok() ? "" : ": ", read.ok() ? std::string_view() : MessageOf(read.status()));
  WriteLetter(*owner, action, nullptr);
}

void Partition::Impl::WriteLetter(Runtime& runtime, const DeadAction& action,
                                  const EventRecord* event) {
  TriggerRecord* trigger = state.FindTrigger(runtime.ordinal);
  const Candidate& candidate = action.candidate;
  Letter letter;
  letter.id = DeliveryId{options.id, candidate.origin, runtime.ordinal, candidate.run};
  letter.reason = action.reason;
  letter.message = action.message;
  letter.trigger = trigger->name;
  letter.config_hash = trigger->config_hash;
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
  EnsureRoom(256 + letter.key.size(), bytes.size());
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

void Partition::Impl::TickQueues() {
  std::vector<Action>& actions = action_scratch;
  while (!dues.empty() && dues.begin()->first <= now) {
    Runtime* runtime = RuntimeOf(TriggerOrdinal(dues.begin()->second));
    dues.erase(dues.begin());
    if (runtime == nullptr || runtime->queue == nullptr) continue;
    runtime->due = runtime->queue->Tick(now, wall, actions);
    if (runtime->due && *runtime->due <= now) runtime->due = now + std::chrono::milliseconds(1);
    if (runtime->due) dues.emplace(*runtime->due, runtime->ordinal.value());
    Touch(*runtime);
    RunActions(*runtime, actions);
  }
}

void Partition::Impl::ExchangeAndDeliver() {
  std::vector<ReadyOffer> offers;
  const auto offer = [&](Runtime& runtime) {
    ReadyOffer one;
    one.trigger = runtime.number;
    if (runtime.queue != nullptr) {
      one.ready = runtime.queue->ready_count();
      one.ready_alone = runtime.queue->ready_alone_count();
    }
    runtime.offered = one.ready;
    runtime.offered_alone = one.ready_alone;
    if (one.ready + one.ready_alone > 0) {
      ready.insert(runtime.ordinal.value());
    } else {
      ready.erase(runtime.ordinal.value());
    }
    offers.push_back(one);
  };
  for (const TriggerOrdinal ordinal : std::exchange(touched, {})) {
    Runtime* runtime = RuntimeOf(ordinal);
    if (runtime == nullptr) continue;
    runtime->touched = false;
    TriggerQueue* queue = runtime->queue.get();
    if (queue != nullptr) {
      const std::optional<Instant> due = queue->NextDue();
      if (due != runtime->due) {
        if (runtime->due) dues.erase({*runtime->due, ordinal.value()});
        runtime->due = due;
        if (due) dues.emplace(*due, ordinal.value());
      }
      if (queue->entry_count() == 0 && !queue->behind() && queue->skipped_key_count() == 0 &&
          queue->parked_key_count() == 0 && !runtime->scanning && runtimes.size() > kQueuesKept) {
        DropRuntimeQueue(*runtime);
        queue = nullptr;
      }
    }
    const std::size_t count = queue == nullptr ? 0 : queue->ready_count();
    const std::size_t alone = queue == nullptr ? 0 : queue->ready_alone_count();
    if (count != runtime->offered || alone != runtime->offered_alone || woken) offer(*runtime);
  }
  const bool was_woken = std::exchange(woken, false);
  if (was_woken) {
    std::vector<std::uint32_t> ordinals(ready.begin(), ready.end());
    std::sort(ordinals.begin(), ordinals.end());  // the same order in every run
    for (const std::uint32_t ordinal : ordinals) {
      Runtime* runtime = RuntimeOf(TriggerOrdinal(ordinal));
      if (runtime != nullptr) offer(*runtime);
    }
  }
  // Woken, it comes also with nothing: who wakes it believes otherwise, and wakes nobody else.
  const bool rate_due = rates_due && *rates_due <= now;
  if (offers.empty() && !was_woken && !rate_due) return;
  std::vector<Grant> grants;
  rates_due = ports.dispatcher.Exchange(options.id, offers, now, grants);
  for (Grant& grant : grants) {
    const auto ordinal = by_number.find(grant.trigger.value());
    Runtime* runtime = ordinal == by_number.end() ? nullptr : RuntimeOf(ordinal->second);
    if (runtime == nullptr || runtime->queue == nullptr) {
      ports.dispatcher.Release(grant, grant.count, grant.bytes);
      continue;
    }
    std::size_t& told = grant.alone ? runtime->offered_alone : runtime->offered;
    told -= std::min<std::size_t>(told, grant.count);
    Fetch fetch;
    fetch.trigger = runtime->ordinal;
    std::vector<Action> actions;
    runtime->queue->TakeReady(grant.count, grant.bytes, grant.alone, now, wall, fetch.leases,
                              actions);
    Touch(*runtime);
    RunActions(*runtime, actions);
    std::uint64_t bytes = 0;
    for (const Lease& lease : fetch.leases) bytes += lease.candidate.event_bytes;
    const std::uint32_t unused = grant.count - static_cast<std::uint32_t>(fetch.leases.size());
    const std::uint64_t unused_bytes = grant.bytes > bytes ? grant.bytes - bytes : 0;
    if (unused > 0 || unused_bytes > 0) ports.dispatcher.Release(grant, unused, unused_bytes);
    if (unused > 0) runtime->offered = runtime->offered_alone = 0;
    grant.count -= unused;
    grant.bytes -= unused_bytes;
    fetch.grant = std::move(grant);
    if (!fetch.leases.empty()) DeliverTo(fetch);
  }
  for (const TriggerOrdinal ordinal : touched) {
    Runtime* runtime = RuntimeOf(ordinal);
    if (runtime == nullptr || runtime->queue == nullptr) continue;
    const std::size_t count = runtime->queue->ready_count();
    const std::size_t alone = runtime->queue->ready_alone_count();
    // What expired while it was taken was offered, too.
    if (count != runtime->offered || alone != runtime->offered_alone) ports.wake();
    const std::optional<Instant> due = runtime->queue->NextDue();
    if (due != runtime->due) {
      if (runtime->due) dues.erase({*runtime->due, ordinal.value()});
      runtime->due = due;
      if (due) dues.emplace(*due, ordinal.value());
    }
    if (count + alone == 0) ready.erase(ordinal.value());
  }
}

}  // namespace tocsin
