#include "broker/partition/event_cache.h"

#include <chrono>
#include <utility>

#include "broker/journal/record.h"
#include "broker/partition/records.h"

namespace tocsin {
namespace {

// What it takes in memory: a body that grew piece by piece has room to spare.
std::size_t BytesOf(const CachedBatch& batch) {
  return batch.body->capacity() + batch.events.capacity() * sizeof(EventSlot);
}

}  // namespace

std::shared_ptr<const CachedBatch> EventCache::Add(CachedBatch batch) {
  const auto found = batches_.find(batch.base);
  if (found != batches_.end()) return found->second;
  const Offset base = batch.base;
  bytes_ += BytesOf(batch);
  auto shared = std::make_shared<const CachedBatch>(std::move(batch));
  batches_.emplace(base, shared);
  order_.push_back(base);
  while (bytes_ > bytes_max_ && order_.size() > 1) {
    const auto oldest = batches_.find(order_.front());
    order_.pop_front();
    bytes_ -= BytesOf(*oldest->second);
    batches_.erase(oldest);
  }
  return shared;
}

std::shared_ptr<const CachedBatch> EventCache::Find(Offset offset) const {
  auto next = batches_.upper_bound(offset);
  if (next == batches_.begin()) return nullptr;
  --next;
  return offset < next->second->end() ? next->second : nullptr;
}

absl::Status IndexEvents(std::string_view body, std::vector<EventSlot>& events) {
  RecordReader reader(body);
  RecordView record;
  EventRecord event;
  while (reader.Next(record)) {
    if (record.type != RecordType::kEvent) continue;
    if (!DecodeEvent(record.body, event).ok()) event.event = std::string_view();
    events.push_back({static_cast<std::uint32_t>(record.body.data() - body.data()),
                      static_cast<std::uint32_t>(record.body.size()),
                      static_cast<std::uint32_t>(record.body.size() - event.event.size())});
  }
  return reader.status();
}

std::optional<CachedBatch> IndexBatch(const StoredBatch& stored) {
  if (stored.event_count == 0) return std::nullopt;
  CachedBatch batch;
  batch.base = stored.base_offset;
  batch.recorded = WallTime(std::chrono::microseconds(stored.append_time_us));
  batch.body = stored.body;
  if (!IndexEvents(*stored.body, batch.events).ok()) return std::nullopt;
  return batch;
}

}  // namespace tocsin
