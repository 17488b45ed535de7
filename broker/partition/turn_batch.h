// TurnBatch: what one turn of a partition has to append, and what has to happen when it is durable.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "broker/base/ids.h"
#include "broker/journal/journal.h"
#include "broker/partition/event_cache.h"
#include "broker/partition/lane.h"
#include "broker/partition/records.h"

namespace tocsin {

// An appended event that its triggers' queues are offered when it is durable.
struct OfferedEvent {
  Offset offset;
  Offset origin;
  std::uint32_t run = 0;
  std::uint32_t key_position = 0;  // in the batch's body
  std::uint32_t key_bytes = 0;
  std::uint32_t event_bytes = 0;
  std::int64_t expires_us = 0;    // 0: never
  std::uint32_t first_match = 0;  // in TurnBatch::matches
  std::uint32_t match_count = 0;
  bool first_of_key = false;  // a redriven letter of a parked key
};

struct FailedAttemptRef {
  TriggerOrdinal trigger;
  Offset offset;
  std::uint32_t attempt = 0;
};

// Told on the executor, once: OK when a batch is durable, kUnavailable if the partition fails.
// While there is no room on the disk only those are told (kResourceExhausted) whom somebody waits
// for.
struct DurableWaiter {
  absl::AnyInvocable<void(const absl::Status&)> then;
  bool asked = false;  // a command waits
  LaneId lane{};       // whose batch it is; its source may be stopped
};

struct TurnBatch {
  std::string body;
  Offset base;
  std::uint32_t event_count = 0;
  std::uint32_t record_count = 0;
  std::int64_t append_time_us = 0;
  std::vector<EventSlot> slots;
  std::vector<OfferedEvent> offers;
  std::vector<Match> matches;
  std::vector<FailedAttemptRef> attempts;
  std::vector<LetterPut> letters;
  std::size_t letter_bytes = 0;
  std::vector<Notify> notify;          // when durable
  std::vector<Notify> notify_written;  // when written
  std::vector<std::function<void()>> confirmed;
  std::vector<DurableWaiter> done;
  bool outgoing = false;  // has Outgoing records to forward
  bool ingest = false;    // has events that came in: published, of a lane, of a schedule

  // Settlements not encoded yet, by trigger: match indexes, sorted and joined into ranges at the
  // end.
  absl::flat_hash_map<std::uint32_t, std::vector<std::uint64_t>> acked;
  absl::flat_hash_map<std::uint32_t, std::vector<std::uint64_t>> dropped;
  std::size_t settled_count = 0;
  std::uint32_t settled_records = 0;  // of `record_count`: what was encoded of them

  // Empty again; `body` keeps its memory.
  void Clear() {
    std::string kept = std::move(body);
    kept.clear();
    *this = TurnBatch();
    body = std::move(kept);
  }

  bool empty() const { return body.empty() && settled_count == 0; }
  // Holds settlements, or nothing, and nobody waits for it.
  bool only_settlements() const {
    return record_count == settled_records && letters.empty() && notify.empty() &&
           notify_written.empty() && confirmed.empty() && done.empty();
  }
};

// Joins indexes (unsorted, each once) into ascending ranges.
std::vector<IndexRange> JoinIndexes(std::vector<std::uint64_t>& indexes);

}  // namespace tocsin
