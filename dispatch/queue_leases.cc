// Leases: taking, answering, failing, and what time does to deliveries.

#include <algorithm>
#include <utility>

#include "broker/base/canary.h"
#include "dispatch/retry_policy.h"
#include "dispatch/trigger_queue_impl.h"

namespace tocsin {
namespace {

constexpr std::size_t kMessageBytesMax = 1024;  // of an attempt's history
constexpr std::size_t kCodeBytesMax = 64;
constexpr std::size_t kSweepEntries = 512;                          // looked at per Tick()
constexpr Duration kSweepRestMin = std::chrono::milliseconds(100);  // ends are taken together
constexpr Duration kSweepRest = std::chrono::seconds(60);  // at most: the wall clock may jump
constexpr WallTime kNever = WallTime::max();

// At a character's start, because it ends in JSON and on terminals.
std::string Truncated(std::string text, std::size_t bytes_max) {
  if (text.size() <= bytes_max) return text;
  std::size_t end = bytes_max;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  text.resize(end);
  return text;
}

WallTime After(WallTime from, Duration by) {
  const auto micros = std::chrono::duration_cast<std::chrono::microseconds>(by);
  return from > kNever - micros ? kNever : from + micros;
}

}  // namespace

QueueEntry* TriggerQueue::Impl::FindLeased(Offset offset, FencingToken token) {
  QueueEntry* entry = entries.Find(offset);
  if (entry == nullptr || entry->state != EntryState::kLeased || entry->token != token) {
    return nullptr;
  }
  return entry;
}

AnswerResult TriggerQueue::Impl::NotLeased(FencingToken token) const {
  const auto counter = static_cast<std::uint32_t>(token.value());
  const bool of_this_epoch = token.value() >> 32 == epoch.value();
  const bool issued = counter != 0 && (tokens_wrapped || counter <= token_counter);
  return of_this_epoch && !issued ? AnswerResult::kUnknown : AnswerResult::kStale;
}

bool TriggerQueue::Impl::AnyExpires() const {
  return expiring > 0 || policy.backlog.age_max.has_value() || policy.retry.age_max.has_value();
}

const char* TriggerQueue::Impl::Expired(const QueueEntry& entry, WallTime wall) const {
  if (entry.candidate.expires.has_value() && wall >= *entry.candidate.expires) {
    return "the event's expirytime has passed";
  }
  if (policy.backlog.age_max.has_value() &&
      wall >= After(entry.candidate.appended, *policy.backlog.age_max)) {
    return "older than backlog.max_age";
  }
  if (policy.retry.age_max.has_value() && entry.has_started &&
      now - entry.first_started >= *policy.retry.age_max) {
    return "tried for longer than retry.max_age";
  }
  return nullptr;
}

std::optional<Duration> TriggerQueue::Impl::UntilExpiry(const QueueEntry& entry,
                                                        WallTime wall) const {
  std::optional<Duration> least;
  const auto consider = [&](Duration left) {
    if (!least.has_value() || left < *least) least = left;
  };
  // Through floating point, because the difference of far times overflows in nanoseconds.
  const auto until = [&](WallTime when) {
    const double seconds = std::chrono::duration<double>(when - wall).count();
    consider(seconds > 1e6 ? kSweepRest
                           : std::chrono::duration_cast<Duration>(
                                 std::chrono::duration<double>(std::max(seconds, 0.0))));
  };
  if (entry.candidate.expires.has_value()) until(*entry.candidate.expires);
  if (policy.backlog.age_max.has_value()) {
    until(After(entry.candidate.appended, *policy.backlog.age_max));
  }
  if (policy.retry.age_max.has_value() && entry.has_started) {
    consider(entry.first_started + *policy.retry.age_max - now);
  }
  return least;
}

void TriggerQueue::Impl::Grant(QueueEntry& entry, Instant at, std::vector<Lease>& granted) {
  if (++token_counter == 0) {
    tokens_wrapped = true;
    token_counter = 1;
  }
  entry.token = MakeToken(epoch, token_counter);
  entry.holder = SessionId();
  entry.handle = 0;
  entry.state = EntryState::kLeased;
  entry.lease_start = at;
  if (!entry.has_started) {
    entry.has_started = true;
    entry.first_started = at;
  }
  ++leased;
  SetTimer(entry, at + policy.timeout);  // unlinks it from its ready list
  Lease& lease = granted.emplace_back();
  lease.candidate = entry.candidate;
  lease.token = entry.token;
  lease.attempt = entry.attempts + 1;
  lease.duration = policy.timeout;
  lease.alone = entry.alone;
}

void TriggerQueue::TakeReady(std::size_t count_max, std::uint64_t bytes_max, bool alone,
                             Instant now, WallTime wall, std::vector<Lease>& leases,
                             std::vector<Action>& actions) {
  Impl& q = *impl_;
  q.now = std::max(q.now, now);
  if (q.paused) return;
  StateList& list = alone ? q.ready_alone : q.ready;
  const std::size_t count = alone ? std::min<std::size_t>(count_max, 1) : count_max;
  const bool any_expires = q.AnyExpires();
  std::uint64_t bytes = 0;
  std::size_t taken = 0;
  leases.reserve(leases.size() + std::min(count, list.size()));
  while (taken < count && !list.empty()) {
    QueueEntry& entry = *list.front();
    if (const char* why = any_expires ? q.Expired(entry, wall) : nullptr; why != nullptr) {
      q.Die(entry, LetterReason::kExpired, why, actions);
      continue;
    }
    if (taken > 0 && bytes + entry.candidate.event_bytes > bytes_max) break;
    bytes += entry.candidate.event_bytes;
    ++taken;
    q.Grant(entry, now, leases);
  }
}

void TriggerQueue::SetHolder(Offset offset, SessionId session, std::uint64_t handle) {
  QueueEntry* entry = impl_->entries.Find(offset);
  TOCSIN_CHECK(entry != nullptr && entry->state == EntryState::kLeased, "offset {} is not leased",
               offset.value());
  entry->holder = session;
  entry->handle = handle;
}

void TriggerQueue::ReturnUnsent(Offset offset, FencingToken token) {
  if (QueueEntry* entry = impl_->FindLeased(offset, token); entry != nullptr) {
    impl_->GiveBack(*entry);
  }
}

// READY again, as if it had not been leased.
void TriggerQueue::Impl::GiveBack(QueueEntry& entry) {
  Unlink(entry);
  VoidTimer(entry);
  --leased;
  if (entry.attempts == 0) entry.has_started = false;
  MakeReady(entry, true);
}

void TriggerQueue::Impl::Settle(QueueEntry& entry, SettleKind kind, std::string reason,
                                std::vector<Action>& actions) {
  actions.emplace_back(SettledAction{entry.candidate, kind, std::move(reason)});
  // The parked letter is resolved. Remove() wakes the key.
  if (entry.first && entry.key != nullptr && entry.key->parked) {
    entry.key->parked = false;
    --parked;
  }
  Remove(entry);
}

void TriggerQueue::Impl::Die(QueueEntry& entry, LetterReason reason, std::string message,
                             std::vector<Action>& actions) {
  Unlink(entry);
  VoidTimer(entry);
  if (entry.state == EntryState::kLeased) --leased;
  if (entry.state == EntryState::kDelayed) --delayed;
  entry.state = EntryState::kDead;
  ++dead;
  actions.emplace_back(DeadAction{entry.candidate, reason, std::move(message)});
}

void TriggerQueue::Impl::Fail(QueueEntry& entry, std::string code, std::string message,
                              bool worker_died, std::optional<Duration> after,
                              std::vector<Action>& actions) {
  ++entry.attempts;
  entry.alone = worker_died;
  const bool exhausted = AttemptsUsedUp(policy.retry, entry.attempts);
  const Duration tried_for = now - entry.first_started;
  const bool too_old = policy.retry.age_max.has_value() && tried_for >= *policy.retry.age_max;

  AttemptFailedAction failed;
  failed.candidate = entry.candidate;
  failed.attempt = entry.attempts;
  failed.code = Truncated(std::move(code), kCodeBytesMax);
  failed.message = Truncated(std::move(message), kMessageBytesMax);
  failed.worker_died = worker_died;
  if (exhausted || too_old) {
    std::string last = failed.message.empty() ? failed.code : failed.message;
    actions.emplace_back(std::move(failed));
    if (exhausted) {
      Die(entry, LetterReason::kExhausted, std::move(last), actions);
    } else {
      Die(entry, LetterReason::kExpired, "tried for longer than retry.max_age", actions);
    }
    return;
  }
  failed.delay = RetryDelay(policy.retry, entry.attempts, after, random);
  // It ends then in any case.
  if (policy.retry.age_max.has_value()) {
    failed.delay = std::min(failed.delay, *policy.retry.age_max - tried_for);
  }
  Unlink(entry);
  --leased;
  ++delayed;
  entry.state = EntryState::kDelayed;
  entry.durable = false;
  entry.delay_over = failed.delay <= Duration{0};
  entry.due = now + failed.delay;
  if (entry.delay_over) {
    VoidTimer(entry);
  } else {
    PushTimer(entry);
  }
  if (Planted(Canary::kKeyNotHeld) && entry.key != nullptr && !entry.key->whole) {
    KeyQueue* key = std::exchange(entry.key, nullptr);
    key->entries.Remove(&entry);
    WakeHead(*key);
  }
  actions.emplace_back(std::move(failed));
}

AnswerResult TriggerQueue::Answer(Offset offset, FencingToken token, Outcome outcome, Instant now,
                                  std::vector<Action>& actions) {
  Impl& q = *impl_;
  q.now = std::max(q.now, now);
  QueueEntry* entry = q.FindLeased(offset, token);
  if (entry == nullptr) return q.NotLeased(token);
  if (std::holds_alternative<Ack>(outcome)) {
    q.Settle(*entry, SettleKind::kAcked, {}, actions);
  } else if (auto* drop = std::get_if<Drop>(&outcome); drop != nullptr) {
    q.Settle(*entry, SettleKind::kDropped, Truncated(std::move(drop->reason), kMessageBytesMax),
             actions);
  } else if (auto* retry = std::get_if<Retry>(&outcome); retry != nullptr) {
    std::string code = retry->code.empty() ? "retry" : std::move(retry->code);
    q.Fail(*entry, std::move(code), std::move(retry->message), false, retry->after, actions);
  } else {
    std::string reason = Truncated(std::move(std::get<Reject>(outcome).reason), kMessageBytesMax);
    ++entry->attempts;
    entry->alone = false;
    AttemptFailedAction failed;
    failed.candidate = entry->candidate;
    failed.attempt = entry->attempts;
    failed.code = "rejected";
    failed.message = reason;
    actions.emplace_back(std::move(failed));
    q.Die(*entry, LetterReason::kRejected, std::move(reason), actions);
  }
  return AnswerResult::kApplied;
}

AnswerResult TriggerQueue::Refuse(Offset offset, FencingToken token, std::string message,
                                  Instant now, std::vector<Action>& actions) {
  Impl& q = *impl_;
  q.now = std::max(q.now, now);
  QueueEntry* entry = q.FindLeased(offset, token);
  if (entry == nullptr) return q.NotLeased(token);
  q.Die(*entry, LetterReason::kRefused, Truncated(std::move(message), kMessageBytesMax), actions);
  return AnswerResult::kApplied;
}

AnswerResult TriggerQueue::Extend(Offset offset, FencingToken token, Duration by, Instant now) {
  Impl& q = *impl_;
  q.now = std::max(q.now, now);
  QueueEntry* entry = q.FindLeased(offset, token);
  if (entry == nullptr) return q.NotLeased(token);
  if (by <= Duration{0}) by = q.policy.timeout;
  // Never later than timeout_max, never earlier than it is.
  const Duration whole = std::min(q.policy.timeout_max, Instant::max() - entry->lease_start);
  const Instant due = std::min(now + std::min(by, whole), entry->lease_start + whole);
  if (due > entry->due) q.SetTimer(*entry, due);
  return AnswerResult::kApplied;
}

AnswerResult TriggerQueue::LeaseLost(Offset offset, FencingToken token, bool started, Instant now,
                                     std::vector<Action>& actions) {
  Impl& q = *impl_;
  q.now = std::max(q.now, now);
  QueueEntry* entry = q.FindLeased(offset, token);
  if (entry == nullptr) return q.NotLeased(token);
  if (started) {
    q.Fail(*entry, "worker_lost", "the worker's session ended", true, std::nullopt, actions);
  } else {
    q.GiveBack(*entry);
  }
  return AnswerResult::kApplied;
}

bool TriggerQueue::Withdraw(Offset offset, std::string reason, Instant now,
                            std::vector<Action>& actions) {
  Impl& q = *impl_;
  q.now = std::max(q.now, now);
  QueueEntry* entry = q.entries.Find(offset);
  if (entry == nullptr) return false;
  if (entry->state == EntryState::kDead) return true;
  const bool told = entry->state == EntryState::kLeased && entry->holder != SessionId();
  const CancelAction cancel{entry->holder, entry->handle};
  q.VoidTimer(*entry);
  q.Settle(*entry, SettleKind::kDropped, Truncated(std::move(reason), kMessageBytesMax), actions);
  if (told) actions.emplace_back(cancel);
  return true;
}

void TriggerQueue::AttemptDurable(Offset offset, std::uint32_t attempt) {
  QueueEntry* entry = impl_->entries.Find(offset);
  if (entry == nullptr || entry->state != EntryState::kDelayed || entry->attempts != attempt) {
    return;
  }
  entry->durable = true;
  if (!entry->delay_over) return;
  --impl_->delayed;
  impl_->MakeReady(*entry, true);
}

void TriggerQueue::Impl::EndLease(QueueEntry& entry, std::vector<Action>& actions) {
  const SessionId holder = entry.holder;
  const std::uint64_t handle = entry.handle;
  Fail(entry, "timeout", "the lease ended without an answer", false, std::nullopt, actions);
  if (holder != SessionId()) actions.emplace_back(CancelAction{holder, handle});
}

// Looks at some READY entries; begins again when the earliest end found is due.
void TriggerQueue::Impl::Sweep(WallTime wall, std::vector<Action>& actions) {
  if (sweep_next == nullptr && !sweep_in_alone) {
    sweep_nearest.reset();
    sweep_next = ready.front();
  }
  for (std::size_t looked = 0;; ++looked) {
    if (sweep_next == nullptr) {
      if (sweep_in_alone) break;
      sweep_in_alone = true;
      sweep_next = ready_alone.front();
      if (sweep_next == nullptr) break;
    }
    if (looked == kSweepEntries) {
      sweep_at = now;
      return;
    }
    QueueEntry& entry = *sweep_next;
    sweep_next = entry.list_next;
    if (const char* why = Expired(entry, wall); why != nullptr) {
      Die(entry, LetterReason::kExpired, why, actions);
    } else if (const std::optional<Duration> left = UntilExpiry(entry, wall); left.has_value()) {
      if (!sweep_nearest.has_value() || *left < *sweep_nearest) sweep_nearest = left;
    }
  }
  sweep_next = nullptr;
  sweep_in_alone = false;
  swept_once = true;
  sweep_ended = now;
  sweep_at.reset();
  if (sweep_nearest.has_value()) {
    sweep_at = now + std::clamp(*sweep_nearest, kSweepRestMin, kSweepRest);
  }
}

std::optional<Instant> TriggerQueue::Tick(Instant now, WallTime wall,
                                          std::vector<Action>& actions) {
  Impl& q = *impl_;
  q.now = std::max(q.now, now);
  while (!q.leases.empty() && q.leases.front()->due <= q.now) {
    q.EndLease(*q.leases.front(), actions);
  }
  const auto later = [](const Impl::Timer& a, const Impl::Timer& b) { return a.due > b.due; };
  while (!q.timers.empty()) {
    const Impl::Timer timer = q.timers.front();
    const bool valid = timer.entry->timer_generation == timer.generation;
    if (valid && timer.due > q.now) break;
    std::pop_heap(q.timers.begin(), q.timers.end(), later);
    q.timers.pop_back();
    if (!valid) continue;
    QueueEntry& entry = *timer.entry;
    q.VoidTimer(entry);
    if (entry.state == EntryState::kLeased) {
      q.EndLease(entry, actions);
      continue;
    }
    TOCSIN_CHECK(entry.state == EntryState::kDelayed);
    entry.delay_over = true;
    if (!entry.durable) continue;
    if (const char* why = q.Expired(entry, wall); why != nullptr) {
      q.Die(entry, LetterReason::kExpired, why, actions);
      continue;
    }
    --q.delayed;
    q.MakeReady(entry, true);
  }
  while (!q.doomed.empty()) {
    q.Die(*q.doomed.front(), LetterReason::kExhausted, "its attempts are used up", actions);
  }
  if (q.sweep_at.has_value() && *q.sweep_at <= q.now) q.Sweep(wall, actions);
  if (q.WantsRoom()) (void)q.MakeRoom();

  std::optional<Instant> next = q.sweep_at;
  const auto sooner = [&next](Instant when) {
    if (!next.has_value() || when < *next) next = when;
  };
  if (!q.leases.empty()) sooner(q.leases.front()->due);
  if (!q.timers.empty()) sooner(q.timers.front().due);
  if (q.WantsRoom()) sooner(q.room_due);
  return next;
}

std::optional<Instant> TriggerQueue::NextDue() const {
  const Impl& q = *impl_;
  if (!q.doomed.empty()) return q.now;
  std::optional<Instant> next = q.sweep_at;
  if (!q.leases.empty() && (!next || q.leases.front()->due < *next)) next = q.leases.front()->due;
  if (!q.timers.empty() && (!next || q.timers.front().due < *next)) next = q.timers.front().due;
  if (q.WantsRoom() && (!next || q.room_due < *next)) next = q.room_due;
  return next;
}

void TriggerQueue::Prefetch(Offset offset, bool entry) const {
  if (entry) {
    impl_->entries.PrefetchEntry(offset);
  } else {
    impl_->entries.PrefetchBucket(offset);
  }
}

bool TriggerQueue::Holds(Offset offset, FencingToken token) const {
  return impl_->FindLeased(offset, token) != nullptr;
}

}  // namespace tocsin
