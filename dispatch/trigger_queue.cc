#include "dispatch/trigger_queue.h"

#include <algorithm>
#include <limits>

#include "dispatch/retry_policy.h"
#include "dispatch/trigger_queue_impl.h"

namespace tocsin {
namespace {

// How far from the front a returned lease looks for its place. Entries that may be leased are
// independent of each other, so the place is a courtesy, not a promise.
constexpr int kPlaceSteps = 64;

// How soon after the last search for expired entries the next may begin because of a new entry.
constexpr Duration kSweepPause = std::chrono::seconds(1);

std::string Seconds(Duration duration) {
  return fmt::format("{:.3f} s", std::chrono::duration<double>(duration).count());
}

}  // namespace

TriggerQueue::Impl::Impl(PartitionId partition_id, TriggerOrdinal trigger, Epoch own_epoch,
                         Offset from, const QueueLimits& queue_limits,
                         const TriggerPolicy& trigger_policy, std::uint64_t seed)
    : partition(partition_id),
      ordinal(trigger),
      epoch(own_epoch),
      limits(queue_limits),
      policy(trigger_policy),
      random(seed),
      keys(seed ^ 0x5851F42D4C957F2D),
      admit_from(from),
      live_from(from) {
  whole_key.whole = true;
}

KeyQueue* TriggerQueue::Impl::FindKey(std::string_view key) {
  if (policy.order == Order::kPartition) return &whole_key;
  if (policy.order == Order::kNone || key.empty()) return nullptr;
  return keys.Find(key);
}

KeyQueue* TriggerQueue::Impl::KeyFor(std::string_view key) {
  if (policy.order == Order::kPartition) return &whole_key;
  if (policy.order == Order::kNone || key.empty()) return nullptr;
  return &keys.FindOrAdd(key);
}

std::size_t TriggerQueue::Impl::KeyLimit(const KeyQueue& key) const {
  return key.whole ? std::numeric_limits<std::size_t>::max()
                   : std::max<std::size_t>(limits.key_entries_max, 1);
}

void TriggerQueue::Impl::DropKey(KeyQueue& key) {
  if (key.whole || !key.entries.empty() || key.skipped_count > 0 || key.parked) return;
  keys.Remove(key);
}

void TriggerQueue::Impl::Unlink(QueueEntry& entry) {
  if (sweep_next == &entry) sweep_next = entry.list_next;
  switch (entry.list) {
    case EntryList::kNone:
      return;
    case EntryList::kReady:
      ready.Remove(&entry);
      break;
    case EntryList::kReadyAlone:
      ready_alone.Remove(&entry);
      break;
    case EntryList::kDoomed:
      doomed.Remove(&entry);
      break;
    case EntryList::kLeases:
      leases.Remove(&entry);
      break;
  }
  entry.list = EntryList::kNone;
}

// Links an entry that nothing holds back into the list from which it is taken.
void TriggerQueue::Impl::MakeReady(QueueEntry& entry, bool at_its_place) {
  entry.state = EntryState::kReady;
  if (AttemptsUsedUp(policy.retry, entry.attempts)) {
    entry.list = EntryList::kDoomed;
    doomed.PushBack(&entry);
    return;
  }
  if (entry.delay_pending) {
    entry.delay_pending = false;
    if (entry.due > now) {
      entry.state = EntryState::kDelayed;
      entry.durable = true;
      entry.delay_over = false;
      ++delayed;
      PushTimer(entry);
      return;
    }
  }
  entry.list = entry.alone ? EntryList::kReadyAlone : EntryList::kReady;
  StateList& list = entry.alone ? ready_alone : ready;
  if (at_its_place) {
    QueueEntry* place = nullptr;
    QueueEntry* next = list.front();
    for (int step = 0;
         next != nullptr && step < kPlaceSteps && next->candidate.offset < entry.candidate.offset;
         ++step) {
      place = next;
      next = next->list_next;
    }
    list.InsertAfter(place, &entry);
  } else {
    list.PushBack(&entry);
  }
  NoteExpirable(entry);
}

void TriggerQueue::Impl::WakeHead(KeyQueue& key) {
  QueueEntry* head = key.entries.front();
  if (head == nullptr || head->state != EntryState::kReady || head->list != EntryList::kNone) {
    return;
  }
  if (key.parked && !head->first) return;
  MakeReady(*head, head->first || head->attempts > 0);
}

void TriggerQueue::Impl::Remove(QueueEntry& entry) {
  Unlink(entry);
  switch (entry.state) {
    case EntryState::kReady:
      break;
    case EntryState::kLeased:
      --leased;
      break;
    case EntryState::kDelayed:
      --delayed;
      break;
    case EntryState::kDead:
      --dead;
      break;
  }
  if (entry.candidate.expires.has_value()) --expiring;
  KeyQueue* key = entry.key;
  if (key != nullptr) {
    if (key->entries.front() == &entry) key->held_back = false;
    key->entries.Remove(&entry);
  }
  entries.Remove(&entry);
  if (entries.size() == 0) std::vector<Timer>().swap(timers);
  if (key == nullptr) return;
  SkippedChanged(*key);
  WakeHead(*key);
  DropKey(*key);
}

void TriggerQueue::Impl::PushTimer(QueueEntry& entry) {
  const auto later = [](const Timer& a, const Timer& b) { return a.due > b.due; };
  // Void ones are dropped when they are most of the heap: it stays proportional to the entries.
  if (timers.size() > 64 && timers.size() > 4 * entries.size()) {
    std::erase_if(timers, [](const Timer& t) { return t.entry->timer_generation != t.generation; });
    std::make_heap(timers.begin(), timers.end(), later);
  }
  timers.push_back(Timer{entry.due, &entry, ++entry.timer_generation});
  std::push_heap(timers.begin(), timers.end(), later);
}

// Leases nearly always share one timeout, so their ends rise: a list will do.
void TriggerQueue::Impl::SetTimer(QueueEntry& entry, Instant due) {
  Unlink(entry);
  VoidTimer(entry);
  entry.due = due;
  if (leases.empty() || leases.back()->due <= due) {
    entry.list = EntryList::kLeases;
    leases.PushBack(&entry);
  } else {
    PushTimer(entry);
  }
}

void TriggerQueue::Impl::NoteExpirable(const QueueEntry& entry) {
  if (!entry.candidate.expires.has_value() && !policy.backlog.age_max.has_value() &&
      !(policy.retry.age_max.has_value() && entry.has_started)) {
    return;
  }
  const Instant at = swept_once ? std::max(now, sweep_ended + kSweepPause) : now;
  if (!sweep_at.has_value() || *sweep_at > at) sweep_at = at;
}

// The order changed: what was never tried is read again and grouped anew; what was keeps its group
// until it is settled.
void TriggerQueue::Impl::ResetWindow() {
  std::optional<Offset> lowest = Lowest();
  for (QueueEntry* entry = entries.lowest(); entry != nullptr;) {
    QueueEntry* next = entry->offset_next;
    if (entry->state == EntryState::kReady && entry->attempts == 0 && !entry->has_started &&
        !entry->first) {
      Remove(*entry);
    }
    entry = next;
  }
  while (!skipped.empty()) Unskip(*skipped.front());
  if (scanning) {
    stopped = true;
    stopped_at = Offset(0);
  }
  elevator = Offset(0);
  if (!lowest.has_value() || *lowest >= horizon()) return;
  unseen_end = std::max(unseen_end, horizon());
  admit_from = *lowest;
  behind = true;
  blocked = false;
}

void TriggerQueue::Impl::ReleaseKey(KeyQueue& key) {
  if (!key.parked) return;
  key.parked = false;
  --parked;
  SkippedChanged(key);
  WakeHead(key);
  DropKey(key);
}

TriggerQueue::TriggerQueue(PartitionId partition, TriggerOrdinal ordinal, Epoch epoch,
                           Offset admit_from, const QueueLimits& limits,
                           const TriggerPolicy& policy, std::uint64_t jitter_seed)
    : impl_(std::make_unique<Impl>(partition, ordinal, epoch, admit_from, limits, policy,
                                   jitter_seed)) {}

TriggerQueue::~TriggerQueue() = default;

void TriggerQueue::ContinueTokens(std::uint32_t given) { impl_->token_counter = given; }
std::uint32_t TriggerQueue::tokens_given() const { return impl_->token_counter; }

void TriggerQueue::SetPolicy(const TriggerPolicy& policy) {
  const bool regroup = impl_->policy.order != policy.order;
  if (regroup) {
    impl_->ResetWindow();
    std::vector<KeyQueue*> parked;  // keys of the old grouping
    impl_->keys.ForEach([&](KeyQueue& key) {
      if (key.parked) parked.push_back(&key);
    });
    for (KeyQueue* key : parked) impl_->ReleaseKey(*key);
    impl_->ReleaseKey(impl_->whole_key);
  }
  impl_->policy = policy;
  // What the new limits forbid must not be leased, and what they allow again may be.
  for (StateList* list : {&impl_->ready, &impl_->ready_alone, &impl_->doomed}) {
    std::vector<QueueEntry*> members;
    for (QueueEntry* entry = list->front(); entry != nullptr; entry = entry->list_next) {
      if (AttemptsUsedUp(policy.retry, entry->attempts) != (entry->list == EntryList::kDoomed)) {
        members.push_back(entry);
      }
    }
    for (QueueEntry* entry : members) {
      impl_->Unlink(*entry);
      impl_->MakeReady(*entry, true);
    }
  }
  if (impl_->AnyExpires()) impl_->sweep_at = impl_->now;
}

void TriggerQueue::SetPaused(bool paused) { impl_->paused = paused; }

void TriggerQueue::Close(Offset offset, bool park) {
  QueueEntry* entry = impl_->entries.Find(offset);
  TOCSIN_CHECK(entry != nullptr && entry->state == EntryState::kDead, "offset {} is not dead",
               offset.value());
  KeyQueue* key = entry->key;
  const bool first = entry->first;
  if (key != nullptr && park && !key->parked) {
    key->parked = true;
    ++impl_->parked;
    impl_->Evict(*key);
  }
  // A redriven letter that is not to hold its key any more: nothing else would ever release it.
  if (key != nullptr && !park && first && key->parked) {
    key->parked = false;
    --impl_->parked;
  }
  impl_->Remove(*entry);
}

void TriggerQueue::Park(std::string_view key) {
  KeyQueue* queue = impl_->KeyFor(key);
  if (queue == nullptr || queue->parked) return;
  queue->parked = true;
  ++impl_->parked;
  impl_->Evict(*queue);
}

void TriggerQueue::Release(std::string_view key) {
  KeyQueue* queue = impl_->FindKey(key);
  if (queue != nullptr) impl_->ReleaseKey(*queue);
}

std::size_t TriggerQueue::ready_count() const { return impl_->paused ? 0 : impl_->ready.size(); }
std::size_t TriggerQueue::ready_alone_count() const {
  return impl_->paused ? 0 : impl_->ready_alone.size();
}
std::size_t TriggerQueue::leased_count() const { return impl_->leased; }
std::size_t TriggerQueue::delayed_count() const { return impl_->delayed; }
std::size_t TriggerQueue::dead_count() const { return impl_->dead; }
std::size_t TriggerQueue::entry_count() const { return impl_->entries.size(); }

std::vector<std::uint64_t> TriggerQueue::HeldMatches() const {
  std::vector<std::uint64_t> matches;
  matches.reserve(impl_->entries.size());
  for (const QueueEntry* entry = impl_->entries.lowest(); entry != nullptr;
       entry = entry->offset_next) {
    matches.push_back(entry->candidate.match_index);
  }
  return matches;
}
std::size_t TriggerQueue::skipped_key_count() const { return impl_->skipped.size(); }
std::size_t TriggerQueue::parked_key_count() const { return impl_->parked; }

std::uint64_t TriggerQueue::skipped_count(std::string_view key) const {
  const KeyQueue* queue = impl_->FindKey(key);
  return queue == nullptr ? 0 : queue->skipped_count;
}

Offset TriggerQueue::Floor(Offset durable_end) const {
  impl_->RefreshSkipped();
  Offset floor = durable_end;
  if (const std::optional<Offset> lowest = impl_->Lowest(); lowest.has_value()) {
    floor = std::min(floor, *lowest);
  }
  if (impl_->behind) floor = std::min(floor, impl_->admit_from);
  return floor;
}

std::string TriggerQueue::BlockingKey() const {
  const QueueEntry* lowest = impl_->entries.lowest();
  const KeyQueue* key = lowest == nullptr ? nullptr : lowest->key;
  std::optional<Offset> floor;
  if (lowest != nullptr) floor = lowest->candidate.offset;
  for (const KeyQueue* queue = impl_->skipped.front(); queue != nullptr;
       queue = queue->skipped_next) {
    if (!floor.has_value() || queue->skipped_first < *floor) {
      floor = queue->skipped_first;
      key = queue;
    }
  }
  return key == nullptr ? std::string() : key->key;
}

std::string TriggerQueue::Describe(Offset offset, Instant now) const {
  const QueueEntry* entry = impl_->entries.Find(offset);
  if (entry == nullptr) return {};
  const std::string failed =
      entry->attempts == 0 ? std::string() : fmt::format(", {} failed", entry->attempts);
  switch (entry->state) {
    case EntryState::kLeased:
      return fmt::format("LEASED attempt {}, session {}, ends in {}", entry->attempts + 1,
                         entry->holder.value(), Seconds(entry->due - now));
    case EntryState::kDelayed:
      if (entry->delay_over) return fmt::format("DELAYED until its failure is durable{}", failed);
      return fmt::format("DELAYED for {}{}", Seconds(std::max(entry->due - now, Duration{0})),
                         failed);
    case EntryState::kDead:
      return fmt::format("DEAD until its letter is written{}", failed);
    case EntryState::kReady:
      break;
  }
  if (entry->list == EntryList::kDoomed) return fmt::format("READY, attempts used up{}", failed);
  if (entry->list != EntryList::kNone) {
    return fmt::format("READY{}{}{}", impl_->paused ? ", paused" : "",
                       entry->alone ? ", to be leased alone" : "", failed);
  }
  if (entry->key->parked && !entry->first && entry->key->entries.front() == entry) {
    return fmt::format("READY, its key is parked{}", failed);
  }
  return fmt::format("READY, waits for {}/{} of its key{}", impl_->partition.value(),
                     entry->key->entries.front()->candidate.offset.value(), failed);
}

}  // namespace tocsin
