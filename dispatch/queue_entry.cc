#include "dispatch/queue_entry.h"

#include "broker/base/check.h"

namespace tocsin {
namespace {

constexpr std::size_t kBucketsMin = 16;
constexpr std::size_t kBucketsKept = 256;  // by an empty table

}  // namespace

std::size_t EntryTable::BucketOf(Offset offset) const {
  // Fibonacci hashing: a trigger's offsets often lie at one stride.
  const std::uint64_t mixed = offset.value() * std::uint64_t{0x9E3779B97F4A7C15};
  return static_cast<std::size_t>(mixed >> 32) & (buckets_.size() - 1);
}

QueueEntry* EntryTable::Find(Offset offset) const {
  if (buckets_.empty()) return nullptr;
  QueueEntry* entry = buckets_[BucketOf(offset)];
  while (entry != nullptr && entry->candidate.offset != offset) entry = entry->bucket_next;
  return entry;
}

void EntryTable::PrefetchBucket(Offset offset) const {
  if (!buckets_.empty()) __builtin_prefetch(&buckets_[BucketOf(offset)]);
}

void EntryTable::PrefetchEntry(Offset offset) const {
  if (!buckets_.empty()) __builtin_prefetch(buckets_[BucketOf(offset)]);
}

QueueEntry* EntryTable::Add(const Candidate& candidate) {
  if (size() >= buckets_.size()) GrowBuckets();
  QueueEntry* entry = slab_.Take();
  const std::uint32_t generation = entry->timer_generation + 1;  // timers of its past are void
  *entry = QueueEntry{};
  entry->timer_generation = generation;
  entry->candidate = candidate;

  QueueEntry*& bucket = buckets_[BucketOf(candidate.offset)];
  entry->bucket_next = bucket;
  bucket = entry;

  QueueEntry* last = by_offset_.back();
  if (last == nullptr || last->candidate.offset < candidate.offset) {
    by_offset_.PushBack(entry);
    return entry;
  }
  QueueEntry* place =
      hint_ != nullptr && hint_->candidate.offset < candidate.offset ? hint_ : nullptr;
  QueueEntry* next = place == nullptr ? by_offset_.front() : place->offset_next;
  while (next->candidate.offset < candidate.offset) {
    place = next;
    next = next->offset_next;
  }
  TOCSIN_CHECK(next->candidate.offset != candidate.offset, "offset {} is held already",
               candidate.offset.value());
  by_offset_.InsertAfter(place, entry);
  hint_ = entry;
  return entry;
}

void EntryTable::Remove(QueueEntry* entry) {
  QueueEntry** link = &buckets_[BucketOf(entry->candidate.offset)];
  while (*link != entry) link = &(*link)->bucket_next;
  *link = entry->bucket_next;
  if (hint_ == entry) hint_ = entry->offset_prev;
  by_offset_.Remove(entry);
  ++entry->timer_generation;
  slab_.Give(entry);
  if (by_offset_.empty()) {
    slab_.Shrink();
    if (buckets_.size() > kBucketsKept) std::vector<QueueEntry*>().swap(buckets_);
  }
}

void EntryTable::GrowBuckets() {
  buckets_.assign(buckets_.empty() ? kBucketsMin : buckets_.size() * 2, nullptr);
  for (QueueEntry* entry = by_offset_.front(); entry != nullptr; entry = entry->offset_next) {
    QueueEntry*& bucket = buckets_[BucketOf(entry->candidate.offset)];
    entry->bucket_next = bucket;
    bucket = entry;
  }
}

}  // namespace tocsin
