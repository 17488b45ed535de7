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
// Appended and not durable, and emitted and not at its home.
constexpr std::size_t kFlightBytesMax = std::size_t{64} << 20;
constexpr std::size_t kAnsweredAhead = 6;
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
  runtime.gather_until.reset();
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

// The queues' entries lie where nothing was for long; the loop over acks waits for little else.
void Partition::Impl::PrefetchAnswered(const std::vector<DeliveryRef>& acked, std::size_t at) {
  const auto queue_of = [&](std::size_t index) -> const TriggerQueue* {
    if (index >= acked.size()) return nullptr;
    const Runtime* runtime = RuntimeOf(acked[index].trigger);
    return runtime == nullptr ? nullptr : runtime->queue.get();
  };
  if (const TriggerQueue* queue = queue_of(at + 2 * kAnsweredAhead); queue != nullptr) {
    queue->Prefetch(acked[at + 2 * kAnsweredAhead].offset, false);
  }
  if (const TriggerQueue* queue = queue_of(at + kAnsweredAhead); queue != nullptr) {
    queue->Prefetch(acked[at + kAnsweredAhead].offset, true);
  }
}

void Partition::Impl::OnAnswers(AnswerBatch batch) {
  BeginIfNeeded();
  if (failed || !open) return;
  if (batch.confirmed) confirming = std::make_shared<Confirmation>();
  std::vector<Action>& actions = action_scratch;
  const auto count = [&](AnswerResult result) {
    if (result != AnswerResult::kApplied) ++stale_answers;
  };
  for (std::size_t i = 0; i < batch.acked.size(); ++i) {
    const DeliveryRef& ref = batch.acked[i];
    PrefetchAnswered(batch.acked, i);
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
      if (!runtime->queue->Holds(answer.delivery.offset, answer.delivery.token)) {
        ++stale_answers;
        continue;
      }
      absl::StatusOr<EmittedEvents> emitted =
          CheckEmitted(answer.delivery, std::move(answer.emitted));
      if (!emitted.ok()) {
        outcome = Retry{"emit_invalid", std::string(MessageOf(emitted.status())), std::nullopt};
      } else if (std::holds_alternative<Reject>(outcome)) {
        dying_emitted = *std::move(emitted);  // its letter may have to wait
      } else {
        EnsureRoom(emitted->bytes + kAnswerBytes);
        WriteEmitted(*emitted);
        with_emitted = true;
      }
    }
    count(runtime->queue->Answer(answer.delivery.offset, answer.delivery.token, std::move(outcome),
                                 now, actions));
    Touch(*runtime);
    RunActions(*runtime, actions);
    with_emitted = false;
    dying_emitted = EmittedEvents();
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

// Of what is ready, what may go now: whole batches, and less than one when it has waited for more.
std::size_t Partition::Impl::ReadyToGo(Runtime& runtime) const {
  const std::size_t count = runtime.queue == nullptr ? 0 : runtime.queue->ready_count();
  const BatchPolicy& batch = SpecOf(runtime.route).policy.batch;
  const std::size_t rest = batch.events_max == 1 ? 0 : count % batch.events_max;
  if (rest == 0) {
    runtime.gather_until.reset();
    return count;
  }
  const Instant latest = now + batch.wait_max;
  runtime.gather_until = std::min(runtime.gather_until.value_or(latest), latest);
  return *runtime.gather_until <= now ? count : count - rest;
}

void Partition::Impl::SetDue(Runtime& runtime) {
  std::optional<Instant> due = runtime.queue->NextDue();
  const std::optional<Instant>& gather = runtime.gather_until;
  if (gather && *gather > now && (!due || *gather < *due)) due = gather;
  if (due == runtime.due) return;
  if (runtime.due) dues.erase({*runtime.due, runtime.ordinal.value()});
  runtime.due = due;
  if (due) dues.emplace(*due, runtime.ordinal.value());
}

void Partition::Impl::ExchangeAndDeliver() {
  std::vector<ReadyOffer> offers;
  // What functions emit is refused by nobody: while the disk or its home lags, no more are called.
  const bool lags = flight_bytes + state.outgoing_bytes() > kFlightBytesMax;
  if (choked != lags) woken = true;
  choked = lags;
  const auto offer = [&](Runtime& runtime) {
    ReadyOffer one;
    one.trigger = runtime.number;
    if (runtime.queue != nullptr) {
      one.ready = ReadyToGo(runtime);
      one.ready_alone = runtime.queue->ready_alone_count();
    }
    if (one.ready + one.ready_alone > 0) {
      ready.insert(runtime.ordinal.value());
    } else {
      ready.erase(runtime.ordinal.value());
    }
    if (choked) one.ready = one.ready_alone = 0;
    runtime.offered = one.ready;
    runtime.offered_alone = one.ready_alone;
    offers.push_back(one);
  };
  for (const TriggerOrdinal ordinal : std::exchange(touched, {})) {
    Runtime* runtime = RuntimeOf(ordinal);
    if (runtime == nullptr) continue;
    runtime->touched = false;
    TriggerQueue* queue = runtime->queue.get();
    const std::size_t count = ReadyToGo(*runtime);
    if (queue != nullptr) {
      SetDue(*runtime);
      if (queue->entry_count() == 0 && !queue->behind() && queue->skipped_key_count() == 0 &&
          queue->parked_key_count() == 0 && !runtime->scanning && runtimes.size() > kQueuesKept) {
        DropRuntimeQueue(*runtime);
        queue = nullptr;
      }
    }
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
    if (unused > 0) {
      runtime->offered = runtime->offered_alone = 0;
      runtime->gather_until = now;  // what is left of it has waited
    }
    grant.count -= unused;
    grant.bytes -= unused_bytes;
    fetch.grant = std::move(grant);
    if (!fetch.leases.empty()) DeliverTo(fetch);
  }
  for (const TriggerOrdinal ordinal : touched) {
    Runtime* runtime = RuntimeOf(ordinal);
    if (runtime == nullptr || runtime->queue == nullptr) continue;
    // Of what was offered some was not granted: it has waited for its batch.
    if (runtime->offered > 0) runtime->gather_until = now;
    const std::size_t count = ReadyToGo(*runtime);
    const std::size_t alone = runtime->queue->ready_alone_count();
    // What expired while it was taken was offered, too.
    if (!choked && (count != runtime->offered || alone != runtime->offered_alone)) ports.wake();
    SetDue(*runtime);
    if (count + alone == 0) ready.erase(ordinal.value());
  }
}

}  // namespace tocsin
