// EventCache: bodies of durable batches, kept so that deliveries, scans and tail need no disk while
// they are close behind the end. Bounded by bytes; the batch added longest ago goes first.
//
// Owned by one partition; not thread-safe.

#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "broker/base/clock.h"
#include "broker/base/ids.h"
#include "broker/journal/journal.h"

namespace tocsin {

// Where an Event record's body lies inside the batch's body.
struct EventSlot {
  std::uint32_t position = 0;
  std::uint32_t bytes = 0;
  std::uint32_t event = 0;  // where the event itself begins in the record; `bytes`: malformed
};

struct CachedBatch {
  Offset base;
  WallTime recorded;
  std::shared_ptr<const std::string> body;
  std::vector<EventSlot> events;  // of base, base + 1, ...

  Offset end() const { return Offset(base.value() + events.size()); }
  // The encoded Event record of `offset`, which must lie in [base, end()).
  std::string_view Record(Offset offset) const {
    const EventSlot& slot = events[offset.value() - base.value()];
    return std::string_view(*body).substr(slot.position, slot.bytes);
  }
  // The event in it, empty if the record is malformed. What precedes it is as long as there are
  // triggers that match: it is not read again for each of them.
  std::string_view Event(Offset offset) const {
    return Record(offset).substr(events[offset.value() - base.value()].event);
  }
};

class EventCache {
 public:
  explicit EventCache(std::size_t bytes_max) : bytes_max_(bytes_max) {}

  // Takes `batch` (with at least one event) unless it is there already. Batches do not overlap.
  std::shared_ptr<const CachedBatch> Add(CachedBatch batch);
  // The batch that holds `offset`, or null.
  std::shared_ptr<const CachedBatch> Find(Offset offset) const;

  std::size_t bytes() const { return bytes_; }

 private:
  const std::size_t bytes_max_;
  std::size_t bytes_ = 0;
  std::map<Offset, std::shared_ptr<const CachedBatch>> batches_;  // by base
  std::deque<Offset> order_;                                      // bases, oldest first
};

// Walks a stored body and notes where its events are.
//   kDataLoss, kFailedPrecondition  as RecordReader
absl::Status IndexEvents(std::string_view body, std::vector<EventSlot>& events);

// What the journal gave back, with its events found. nullopt: it has none, or cannot be read.
std::optional<CachedBatch> IndexBatch(const StoredBatch& stored);

}  // namespace tocsin
