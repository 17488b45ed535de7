// Admission: what is held, what is skipped, and the scan that brings the skipped back.

#include <algorithm>

#include "broker/base/canary.h"
#include "dispatch/retry_policy.h"
#include "dispatch/trigger_queue_impl.h"

namespace tocsin {
namespace {

// A gap up to this long is read through rather than jumped over with another scan.
constexpr std::uint64_t kGapRead = 1024;

// A lease this old holds its key up, whatever its peers do.
constexpr Duration kLeaseIsLong = std::chrono::seconds(1);
// How soon a full window in which nothing was found is searched again.
constexpr Duration kRoomPause = std::chrono::milliseconds(250);

}  // namespace

void TriggerQueue::Impl::Admit(const Candidate& candidate, KeyQueue* key,
                               const PriorAttempts* prior) {
  QueueEntry& entry = *entries.Add(candidate);
  entry.key = key;
  if (candidate.expires.has_value()) ++expiring;
  if (prior != nullptr) Restore(entry, *prior);
  if (Planted(Canary::kPriorNotHeld) && prior != nullptr && key != nullptr && !key->whole) {
    key = entry.key = nullptr;
  }
  if (key == nullptr) {
    MakeReady(entry, false);
    return;
  }
  key->entries.PushBack(&entry);
  SkippedChanged(*key);
  WakeHead(*key);
}

void TriggerQueue::Impl::Restore(QueueEntry& entry, const PriorAttempts& prior) {
  entry.attempts = prior.count;
  entry.alone = prior.alone;
  if (prior.first_started_ago.has_value()) {
    entry.has_started = true;
    entry.first_started = now - *prior.first_started_ago;
  }
  entry.due = now + prior.delay;
  entry.delay_pending = prior.delay > Duration{0};
}

bool TriggerQueue::Impl::MustSkip(const KeyQueue* key) const {
  return key != nullptr &&
         (key->skipped_count > 0 || key->parked || key->entries.size() >= KeyLimit(*key));
}

void TriggerQueue::Impl::Skip(KeyQueue& key, Offset offset) {
  if (key.skipped_count++ == 0) {
    key.skipped_first = offset;
    key.pass = 0;
    skipped.PushBack(&key);
    if (!skipped_lowest.has_value() || offset < *skipped_lowest) skipped_lowest = offset;
    SkippedChanged(key);
  }
}

void TriggerQueue::Impl::Unskip(KeyQueue& key) {
  LeavePass(key);
  key.skipped_count = 0;
  skipped.Remove(&key);
  skipped_dirty = true;
  SkippedChanged(key);
  DropKey(key);
}

void TriggerQueue::Impl::SkippedChanged(KeyQueue& key) {
  const bool open = key.skipped_count > 0 && !key.parked && !key.held_back &&
                    key.entries.size() <= KeyLimit(key) / 2;
  if (open == key.open) return;
  key.open = open;
  open ? ++open_keys : --open_keys;
  skipped_dirty = true;
  // Nothing of it has gone by in the pass under way, so it can join.
  if (open && scanning && !stopped && key.pass != pass && key.skipped_first >= cursor) {
    key.pass = pass;
    ++pass_keys;
  }
}

void TriggerQueue::Impl::LeavePass(KeyQueue& key) {
  if (!scanning || key.pass != pass) return;
  key.pass = 0;
  --pass_keys;
}

// What waits in the key goes back to being skipped. What was tried stays, because its history is
// only here.
bool TriggerQueue::Impl::EvictWaiting(KeyQueue& key) {
  Offset lowest;
  std::uint64_t count = 0;
  for (QueueEntry* entry = key.entries.front(); entry != nullptr;) {
    QueueEntry* next = entry->key_next;
    const bool untried = entry->state == EntryState::kReady && !entry->first &&
                         entry->attempts == 0 && !entry->has_started && !entry->alone;
    if (untried) {
      if (count++ == 0) lowest = entry->candidate.offset;
      Unlink(*entry);
      if (entry->candidate.expires.has_value()) --expiring;
      key.entries.Remove(entry);
      entries.Remove(entry);
    }
    entry = next;
  }
  if (entries.size() == 0) timers.clear();
  if (count == 0) return false;
  LeavePass(key);
  if (key.skipped_count == 0) skipped.PushBack(&key);
  key.skipped_count += count;
  key.skipped_first = lowest;
  if (!skipped_lowest.has_value() || lowest < *skipped_lowest) skipped_lowest = lowest;
  skipped_dirty = true;
  return true;
}

// A key was parked: a thousand of them must not fill the window.
void TriggerQueue::Impl::Evict(KeyQueue& key) {
  EvictWaiting(key);
  for (QueueEntry* entry = key.entries.front(); entry != nullptr; entry = entry->key_next) {
    if (entry->state == EntryState::kReady && !entry->first) Unlink(*entry);  // until the release
  }
  LeavePass(key);
  skipped_dirty = true;
  SkippedChanged(key);
}

// It does not come to its end as its peers do: many that were leased after it were answered.
bool TriggerQueue::Impl::IsStuck(const QueueEntry& head) const {
  if (head.state == EntryState::kReady) return false;
  if (head.state != EntryState::kLeased) return true;
  const std::uint32_t since = token_counter - static_cast<std::uint32_t>(head.token.value());
  return since >= std::max(2 * leased, limits.entries_max / 8) ||
         now - head.lease_start >= kLeaseIsLong;
}

bool TriggerQueue::Impl::WantsRoom() const {
  return entries.size() >= limits.entries_max && (behind || open_keys > 0) &&
         policy.order == Order::kKey && leased + delayed + dead > 0;
}

// The window is full. Keys whose first delivery is stuck give the places of what waits behind it
// up, so that however many such keys there are, they hold one place each.
bool TriggerQueue::Impl::MakeRoom() {
  const std::size_t held = entries.size();
  if (held < limits.entries_max) return true;
  if (policy.order != Order::kKey || leased + delayed + dead == 0) return false;
  const auto until_due = static_cast<std::int32_t>(room_due_token - token_counter);
  if (now < room_due && until_due > 0) return false;
  keys.ForEach([this](KeyQueue& key) {
    if (key.entries.size() < 2 || !IsStuck(*key.entries.front())) return;
    if (key.skipped_count == 0 && skipped.size() >= limits.skipped_keys_max) return;
    if (!EvictWaiting(key)) return;
    key.held_back = true;
    SkippedChanged(key);
  });
  const bool full = entries.size() >= limits.entries_max;
  if (full || held - entries.size() < limits.entries_max / 8) {
    room_due = now + kRoomPause;
    room_due_token = token_counter + static_cast<std::uint32_t>(limits.entries_max / 2 + 1);
  }
  return !full;
}

OfferResult TriggerQueue::Impl::FallBehind(Offset offset) {
  behind = true;
  admit_from = offset;
  unseen_end = Next(offset);
  return OfferResult::kBehind;
}

// An offer below the horizon: a scan has been there already.
OfferResult TriggerQueue::Impl::LookedAt(Offset offset, std::string_view key) {
  if (entries.Find(offset) != nullptr) return OfferResult::kAdmitted;
  const KeyQueue* queue = FindKey(key);
  return queue != nullptr && queue->skipped_count > 0 && offset >= queue->skipped_first
             ? OfferResult::kSkipped
             : OfferResult::kAdmitted;
}

OfferResult TriggerQueue::Offer(const Candidate& candidate, std::string_view key,
                                const PriorAttempts* prior, Instant now) {
  Impl& q = *impl_;
  q.now = std::max(q.now, now);
  const Offset offset = candidate.offset;
  if (offset < q.horizon()) return q.LookedAt(offset, key);
  (void)q.MakeRoom();
  if (q.behind) {
    q.unseen_end = std::max(q.unseen_end, Next(offset));
    return OfferResult::kBehind;
  }
  if (q.SpreadReached(offset)) {
    q.blocked = true;
    return q.FallBehind(offset);
  }
  KeyQueue* queue = q.FindKey(key);
  if (q.MustSkip(queue)) {
    if (queue->skipped_count == 0 && q.skipped.size() >= q.limits.skipped_keys_max) {
      return q.FallBehind(offset);
    }
    q.Skip(*queue, offset);
    q.live_from = Next(offset);
    return OfferResult::kSkipped;
  }
  if (q.entries.size() >= q.limits.entries_max) return q.FallBehind(offset);
  q.live_from = Next(offset);
  // A redriven one of the same record is held already.
  if (q.entries.lowest() != nullptr && q.entries.Find(offset) != nullptr) {
    return OfferResult::kAdmitted;
  }
  q.Admit(candidate, queue != nullptr ? queue : q.KeyFor(key), prior);
  return OfferResult::kAdmitted;
}

void TriggerQueue::OfferFirst(const Candidate& candidate, std::string_view key, Instant now,
                              const PriorAttempts* prior) {
  Impl& q = *impl_;
  q.now = std::max(q.now, now);
  if (q.entries.Find(candidate.offset) != nullptr) return;
  KeyQueue* queue = q.KeyFor(key);
  QueueEntry& entry = *q.entries.Add(candidate);
  entry.first = true;
  if (prior != nullptr) q.Restore(entry, *prior);
  entry.key = queue;
  if (candidate.expires.has_value()) ++q.expiring;
  if (queue == nullptr) {
    q.MakeReady(entry, true);
    return;
  }
  // Behind what is under way and behind redriven ones that came before.
  QueueEntry* place = nullptr;
  for (QueueEntry* next = queue->entries.front();
       next != nullptr && (next->first || next->state != EntryState::kReady);
       next = next->key_next) {
    place = next;
  }
  if (place == nullptr) {
    if (QueueEntry* head = queue->entries.front(); head != nullptr) q.Unlink(*head);
  }
  queue->entries.InsertAfter(place, &entry);
  q.SkippedChanged(*queue);
  q.WakeHead(*queue);
}

bool TriggerQueue::behind() const { return impl_->behind; }

void TriggerQueue::CaughtUp(Offset durable_end) {
  Impl& q = *impl_;
  if (!q.behind) return;
  q.behind = false;
  q.blocked = false;
  q.live_from = std::max(q.admit_from, durable_end);
}

std::optional<Offset> TriggerQueue::ScanWanted() const {
  if (impl_->scanning) return std::nullopt;
  impl_->last_wanted = impl_->Wanted();
  return impl_->last_wanted;
}

void TriggerQueue::BeginScan() {
  Impl& q = *impl_;
  TOCSIN_CHECK(!q.scanning);
  TOCSIN_CHECK(q.last_wanted.has_value(), "no scan was wanted");
  q.scanning = true;
  q.stopped = false;
  q.cursor = *q.last_wanted;
  q.last_wanted.reset();
  q.pass_keys = 0;
  q.pass_new = 0;
  ++q.pass;
  q.entries.RewindHint();
  for (KeyQueue* key = q.skipped.front(); key != nullptr; key = key->skipped_next) {
    if (!key->open || key->skipped_first < q.cursor) continue;
    key->pass = q.pass;
    ++q.pass_keys;
  }
}

ScanResult TriggerQueue::OfferScanned(const Candidate& candidate, std::string_view key,
                                      const PriorAttempts* prior, Instant now) {
  Impl& q = *impl_;
  TOCSIN_CHECK(q.scanning);
  q.now = std::max(q.now, now);
  if (q.stopped) return ScanResult::kStop;
  const Offset offset = candidate.offset;
  q.cursor = std::max(q.cursor, offset);
  const ScanResult result = offset < q.horizon() ? q.ScanSkipped(candidate, key, prior)
                                                 : q.ScanNew(candidate, key, prior);
  if (result == ScanResult::kGoOn) q.cursor = std::max(q.cursor, Next(offset));
  return result;
}

ScanResult TriggerQueue::Impl::ScanSkipped(const Candidate& candidate, std::string_view key,
                                           const PriorAttempts* prior) {
  const Offset offset = candidate.offset;
  KeyQueue* queue = FindKey(key);
  (void)MakeRoom();
  const bool wanted = queue != nullptr && queue->skipped_count > 0 && queue->pass == pass &&
                      offset >= queue->skipped_first && entries.Find(offset) == nullptr;
  if (wanted && queue->entries.size() >= KeyLimit(*queue)) {
    queue->skipped_first = offset;
    skipped_dirty = true;
    LeavePass(*queue);
  } else if (wanted) {
    if (entries.size() >= limits.entries_max) return Stop(offset);
    queue->skipped_first = Next(offset);
    --queue->skipped_count;
    skipped_dirty = true;
    const bool last = queue->skipped_count == 0;
    Admit(candidate, queue, prior);
    if (last) {
      Unskip(*queue);
    } else if (queue->entries.size() >= KeyLimit(*queue)) {
      LeavePass(*queue);
    }
  }
  return PassDone() ? Stop(Next(offset)) : ScanResult::kGoOn;
}

ScanResult TriggerQueue::Impl::ScanNew(const Candidate& candidate, std::string_view key,
                                       const PriorAttempts* prior) {
  const Offset offset = candidate.offset;
  if (!behind) return Stop(offset);  // it will be offered live
  if (entries.Find(offset) != nullptr) {
    admit_from = Next(offset);
    return ScanResult::kGoOn;
  }
  if (SpreadReached(offset)) {
    blocked = true;
    return Stop(offset);
  }
  (void)MakeRoom();
  KeyQueue* queue = FindKey(key);
  if (MustSkip(queue)) {
    if (queue->skipped_count == 0 && skipped.size() >= limits.skipped_keys_max) {
      return Stop(offset);
    }
    Skip(*queue, offset);
  } else {
    if (entries.size() >= limits.entries_max) return Stop(offset);
    Admit(candidate, queue != nullptr ? queue : KeyFor(key), prior);
  }
  blocked = false;
  admit_from = Next(offset);
  // While keys below wait for the next pass, this one must end.
  return ++pass_new >= limits.entries_max && open_keys > pass_keys ? Stop(Next(offset))
                                                                   : ScanResult::kGoOn;
}

ScanResult TriggerQueue::Impl::Stop(Offset at) {
  stopped = true;
  stopped_at = at;
  return ScanResult::kStop;
}

// Nothing that this pass may admit lies ahead, or it lies so far that jumping is better.
bool TriggerQueue::Impl::PassDone() const {
  if (pass_keys > 0) return false;
  if (!behind || !RoomForNew()) return true;
  return admit_from.value() > cursor.value() + kGapRead;
}

void TriggerQueue::EndScan(Offset reached, Offset durable_end) {
  Impl& q = *impl_;
  TOCSIN_CHECK(q.scanning);
  if (q.stopped) reached = std::min(reached, q.stopped_at);
  const Offset horizon = q.horizon();
  for (KeyQueue* key = q.skipped.front(); key != nullptr;) {
    KeyQueue* next = key->skipped_next;
    if (key->pass == q.pass) {
      if (reached >= horizon) {
        // All of it went by, and what did not come is settled by other means.
        q.Unskip(*key);
      } else {
        key->skipped_first = std::max(key->skipped_first, reached);
      }
    }
    key = next;
  }
  q.scanning = false;
  q.skipped_dirty = true;
  // Above the horizon the elevator is at its top.
  q.elevator = reached >= horizon || q.pass_new > 0 ? Offset(0) : reached;
  if (!q.behind) return;
  q.admit_from = std::max(q.admit_from, reached);
  if (q.admit_from >= std::max(durable_end, q.unseen_end)) {
    q.behind = false;
    q.blocked = false;
    q.live_from = q.admit_from;
  }
}

// An eighth free, so that a scan is worth its while; any at all when there is nothing else to do.
bool TriggerQueue::Impl::RoomForEntries() const {
  const std::size_t max = limits.entries_max;
  if (entries.size() >= max) return false;
  return entries.size() <= max - max / 8 || (ready.empty() && ready_alone.empty());
}

bool TriggerQueue::Impl::RoomForNew() const {
  const std::size_t max = limits.skipped_keys_max;
  if (skipped.size() >= max || !RoomForEntries()) return false;
  return skipped.size() <= max - max / 8 || (ready.empty() && ready_alone.empty());
}

bool TriggerQueue::Impl::SpreadReached(Offset offset) const {
  const auto reached = [&] {
    const std::optional<Offset> lowest = Lowest();
    return lowest.has_value() && *lowest < offset &&
           offset.value() - lowest->value() >= limits.spread_max;
  };
  if (!reached()) return false;
  if (!skipped_dirty) return true;
  RefreshSkipped();
  return reached();
}

std::optional<Offset> TriggerQueue::Impl::Lowest() const {
  std::optional<Offset> lowest;
  if (const QueueEntry* entry = entries.lowest(); entry != nullptr) {
    lowest = entry->candidate.offset;
  }
  if (!skipped.empty() && skipped_lowest.has_value() &&
      (!lowest.has_value() || *skipped_lowest < *lowest)) {
    lowest = skipped_lowest;
  }
  return lowest;
}

void TriggerQueue::Impl::RefreshSkipped() const {
  if (!skipped_dirty) return;
  skipped_dirty = false;
  skipped_lowest.reset();
  open_lowest.reset();
  open_above.reset();
  const auto lower = [](std::optional<Offset>& to, Offset offset) {
    if (!to.has_value() || offset < *to) to = offset;
  };
  for (const KeyQueue* key = skipped.front(); key != nullptr; key = key->skipped_next) {
    lower(skipped_lowest, key->skipped_first);
    if (!key->open) continue;
    lower(open_lowest, key->skipped_first);
    if (key->skipped_first >= elevator) lower(open_above, key->skipped_first);
  }
}

std::optional<Offset> TriggerQueue::Impl::Wanted() const {
  std::optional<Offset> lowest;
  std::optional<Offset> above;
  if (!RoomForEntries()) return std::nullopt;
  if (open_keys > 0) {
    RefreshSkipped();
    lowest = open_lowest;
    above = open_above;
  }
  if (behind && RoomForNew() && !(blocked && SpreadStillReached())) {
    if (!lowest.has_value() || admit_from < *lowest) lowest = admit_from;
    if (admit_from >= elevator && (!above.has_value() || admit_from < *above)) above = admit_from;
  }
  return above.has_value() ? above : lowest;
}

// After it was blocked, an eighth of the spread must be free before it goes on.
bool TriggerQueue::Impl::SpreadStillReached() const {
  return SpreadReached(Offset(admit_from.value() + limits.spread_max / 8));
}

bool TriggerQueue::blocked_by_key() const {
  return impl_->behind && impl_->blocked && impl_->SpreadStillReached();
}

}  // namespace tocsin
