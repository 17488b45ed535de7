// QueueEntry: one delivery held by a TriggerQueue. EntryTable: all of a queue's entries, by offset.
// Internal to dispatch.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "broker/base/clock.h"
#include "broker/base/ids.h"
#include "dispatch/intrusive_list.h"
#include "dispatch/trigger_queue.h"

namespace tocsin {

struct KeyQueue;

enum class EntryState : std::uint8_t { kReady, kLeased, kDelayed, kDead };

// Which list of the queue an entry is linked into. A READY one in none waits for its key.
enum class EntryList : std::uint8_t { kNone, kReady, kReadyAlone, kDoomed, kLeases };

struct QueueEntry {
  Candidate candidate;
  FencingToken token;  // of its last lease
  SessionId holder;
  std::uint64_t handle = 0;
  Instant lease_start{};
  Instant due{};  // LEASED: the lease's end; DELAYED: the delay's
  Instant first_started{};

  KeyQueue* key = nullptr;  // null: waits for nobody
  QueueEntry* list_prev = nullptr;
  QueueEntry* list_next = nullptr;
  QueueEntry* key_prev = nullptr;
  QueueEntry* key_next = nullptr;
  QueueEntry* offset_prev = nullptr;
  QueueEntry* offset_next = nullptr;
  QueueEntry* bucket_next = nullptr;

  std::uint32_t attempts = 0;  // failed ones
  std::uint32_t timer_generation = 0;
  EntryState state = EntryState::kReady;
  EntryList list = EntryList::kNone;
  bool has_started = false;    // first_started is set
  bool alone = false;          // its last attempt ended in its worker's death
  bool first = false;          // redriven: goes before the others of its key
  bool durable = true;         // DELAYED: the failure is journaled
  bool delay_over = true;      // DELAYED: only durability is waited for
  bool delay_pending = false;  // READY, restored: `due` counts once it is its key's turn
};

using StateList = IntrusiveList<QueueEntry, &QueueEntry::list_prev, &QueueEntry::list_next>;
using KeyList = IntrusiveList<QueueEntry, &QueueEntry::key_prev, &QueueEntry::key_next>;
using OffsetList = IntrusiveList<QueueEntry, &QueueEntry::offset_prev, &QueueEntry::offset_next>;

// Owns the entries; finds by offset; knows the lowest.
class EntryTable {
 public:
  std::size_t size() const { return by_offset_.size(); }
  QueueEntry* lowest() const { return by_offset_.front(); }
  QueueEntry* Find(Offset offset) const;
  // Fetches what Find(offset) will look at, in two steps some calls apart.
  void PrefetchBucket(Offset offset) const;
  void PrefetchEntry(Offset offset) const;

  // `candidate.offset` must not be held.
  QueueEntry* Add(const Candidate& candidate);
  // The entry's place may be given to another at once.
  void Remove(QueueEntry* entry);

  // Additions below the highest offset will rise from the lowest on: a scan begins.
  void RewindHint() { hint_ = nullptr; }

 private:
  std::size_t BucketOf(Offset offset) const;
  void GrowBuckets();

  Slab<QueueEntry, &QueueEntry::bucket_next> slab_;
  std::vector<QueueEntry*> buckets_;  // a power of two, chained by bucket_next
  OffsetList by_offset_;
  QueueEntry* hint_ = nullptr;  // where the last addition below the highest went
};

}  // namespace tocsin
