// KeyQueue: the deliveries of one key inside a TriggerQueue, in the order in which they are given
// out, and what of the key was skipped. KeyTable: the keys that are present. Internal to dispatch.
//
//   entries:  [head] [redriven ...] [by offset, rising ...]      head alone may be LEASED, DELAYED
//   skipped:  from `skipped_first` on, `skipped_count` events      or DEAD; the others wait
//
// All entries that are not redriven lie below skipped_first.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dispatch/intrusive_list.h"
#include "dispatch/queue_entry.h"

namespace tocsin {

struct KeyQueue {
  std::string key;
  std::uint64_t hash = 0;
  KeyList entries;

  Offset skipped_first;  // a lower bound of the first skipped one; counts if skipped_count > 0
  std::uint64_t skipped_count = 0;
  std::uint64_t pass = 0;  // the scan that may admit of this key; 0: none
  bool open = false;       // skipped, with room: wants a scan
  bool parked = false;
  bool held_back = false;  // gave its places up: no scan before its head is settled
  bool whole = false;      // all of the partition's events are this one's; in no table

  KeyQueue* bucket_next = nullptr;
  KeyQueue* skipped_prev = nullptr;
  KeyQueue* skipped_next = nullptr;
};

using SkippedList = IntrusiveList<KeyQueue, &KeyQueue::skipped_prev, &KeyQueue::skipped_next>;

class KeyTable {
 public:
  // `seed` keeps senders from choosing keys that collide.
  explicit KeyTable(std::uint64_t seed) : seed_(seed) {}

  std::size_t size() const { return size_; }
  KeyQueue* Find(std::string_view key) const;
  KeyQueue& FindOrAdd(std::string_view key);
  void Remove(KeyQueue& queue);

  // `visit` must not add or remove keys.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (KeyQueue* queue : buckets_) {
      for (; queue != nullptr; queue = queue->bucket_next) visit(*queue);
    }
  }

 private:
  KeyQueue* FindHashed(std::string_view key, std::uint64_t hash) const;
  void GrowBuckets();

  std::uint64_t seed_;
  std::size_t size_ = 0;
  Slab<KeyQueue, &KeyQueue::bucket_next> slab_;
  std::vector<KeyQueue*> buckets_;
};

}  // namespace tocsin
