#include "dispatch/key_queue.h"

#include "broker/base/hash.h"

namespace tocsin {
namespace {

constexpr std::size_t kBucketsMin = 16;
constexpr std::size_t kBucketsKept = 256;  // by an empty table
constexpr std::size_t kKeyBytesKept = 256;

}  // namespace

KeyQueue* KeyTable::FindHashed(std::string_view key, std::uint64_t hash) const {
  if (buckets_.empty()) return nullptr;
  KeyQueue* queue = buckets_[static_cast<std::size_t>(hash) & (buckets_.size() - 1)];
  while (queue != nullptr && (queue->hash != hash || queue->key != key)) {
    queue = queue->bucket_next;
  }
  return queue;
}

KeyQueue* KeyTable::Find(std::string_view key) const {
  return size_ == 0 ? nullptr : FindHashed(key, HashKey(key, seed_));
}

KeyQueue& KeyTable::FindOrAdd(std::string_view key) {
  const std::uint64_t hash = HashKey(key, seed_);
  if (KeyQueue* found = FindHashed(key, hash); found != nullptr) return *found;
  if (size_ >= buckets_.size()) GrowBuckets();
  KeyQueue* queue = slab_.Take();
  queue->key.assign(key);
  queue->hash = hash;
  KeyQueue*& bucket = buckets_[static_cast<std::size_t>(hash) & (buckets_.size() - 1)];
  queue->bucket_next = bucket;
  bucket = queue;
  ++size_;
  return *queue;
}

void KeyTable::Remove(KeyQueue& queue) {
  KeyQueue** link = &buckets_[static_cast<std::size_t>(queue.hash) & (buckets_.size() - 1)];
  while (*link != &queue) link = &(*link)->bucket_next;
  *link = queue.bucket_next;
  std::string memory = std::move(queue.key);  // keeps its capacity: the next key needs no heap
  if (memory.capacity() > kKeyBytesKept) memory = std::string();
  queue = KeyQueue{};
  queue.key = std::move(memory);
  slab_.Give(&queue);
  if (--size_ > 0) return;
  slab_.Shrink();
  if (buckets_.size() > kBucketsKept) std::vector<KeyQueue*>().swap(buckets_);
}

void KeyTable::GrowBuckets() {
  const std::size_t count = buckets_.empty() ? kBucketsMin : buckets_.size() * 2;
  std::vector<KeyQueue*> grown(count, nullptr);
  for (KeyQueue* queue : buckets_) {
    while (queue != nullptr) {
      KeyQueue* next = queue->bucket_next;
      KeyQueue*& bucket = grown[static_cast<std::size_t>(queue->hash) & (count - 1)];
      queue->bucket_next = bucket;
      bucket = queue;
      queue = next;
    }
  }
  buckets_ = std::move(grown);
}

}  // namespace tocsin
