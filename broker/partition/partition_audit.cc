// The audit after damage: a batch that cannot be read takes its match lists with it, so no queue
// can tell whose deliveries they were. One pass over the log from the lowest floor finds which
// match indexes still have an event; those that are neither settled, nor there, nor held by a queue
// are recorded as dropped, or they would be pending for ever.

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/status.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

constexpr std::size_t kReadBytes = 512 * 1024;
constexpr std::uint64_t kRoomEvery = 256;  // indexes between two looks at the batch's size

}  // namespace

void Partition::Impl::PumpAudit() {
  if (closing || stalled || audit.reading || (!audit.wanted && !audit.active)) return;
  if (!audit.active) {
    audit.wanted = false;
    audit.active = true;
    audit.end = state.end();
    audit.matched.clear();
    Offset from = audit.end;
    for (const auto& trigger : state.triggers()) {
      audit.matched.push_back(trigger->matched);
      if (trigger->pending() > 0) from = std::min(from, trigger->floor);
    }
    audit.present.assign(audit.matched.size(), SettledSet());
    audit.next = ports.journal.Locate(options.id, from);
  }
  // What is matched but not durable yet is read when it is.
  if (durable_end < audit.end) return;
  audit.reading = true;
  ports.journal.Read(
      options.id, audit.next, kReadBytes,
      [this, guard = std::weak_ptr(alive)](const absl::StatusOr<ReadResult>& result) {
        if (guard.expired()) return;
        BeginIfNeeded();
        audit.reading = false;
        if (failed) return;
        OnAuditRead(result);
        ports.wake();
      });
}

void Partition::Impl::OnAuditRead(const absl::StatusOr<ReadResult>& result) {
  if (!result.ok()) {
    // Trimmed meanwhile, or not readable now: again from the beginning.
    audit.active = false;
    ports.executor.PostAt(now + std::chrono::seconds(1), [this, guard = std::weak_ptr(alive)] {
      if (guard.expired()) return;
      audit.wanted = true;
      ports.wake();
    });
    return;
  }
  EventRecord record;
  bool behind = false;
  for (const StoredBatch& stored : result->batches) {
    const std::optional<CachedBatch> batch = IndexBatch(stored);
    if (!batch) continue;
    behind = behind || !(batch->base < audit.end);
    for (Offset offset = batch->base; offset < batch->end(); offset = Next(offset)) {
      if (!DecodeEvent(batch->Record(offset), record).ok()) continue;
      for (const Match& match : record.matches) {
        if (match.trigger.value() >= audit.present.size()) continue;
        (void)audit.present[match.trigger.value()].Add(match.index, match.index);
      }
    }
  }
  audit.next = result->next;
  if (result->at_end || behind) FinishAudit();
}

void Partition::Impl::FinishAudit() {
  audit.active = false;
  EncodeSettlements();
  for (std::size_t ordinal = 0; ordinal < audit.matched.size(); ++ordinal) {
    const TriggerRecord* trigger =
        state.FindTrigger(TriggerOrdinal(static_cast<std::uint32_t>(ordinal)));
    if (trigger->pending() == 0) continue;
    // A queue finds out by itself what it holds and cannot be read: that becomes a dead letter.
    SettledSet held;
    const Runtime* runtime = RuntimeOf(trigger->ordinal);
    if (runtime != nullptr && runtime->queue != nullptr) {
      for (const std::uint64_t index : runtime->queue->HeldMatches()) (void)held.Add(index, index);
    }
    std::uint64_t dropped = 0;
    for (std::uint64_t index = trigger->settled.floor(); index < audit.matched[ordinal]; ++index) {
      if (trigger->settled.Contains(index) || audit.present[ordinal].Contains(index) ||
          held.Contains(index)) {
        continue;
      }
      if (dropped++ % kRoomEvery == 0) EnsureRoom(kRoomEvery * 12);
      turn.dropped[trigger->ordinal.value()].push_back(index);
      ++turn.settled_count;
    }
    if (dropped == 0) continue;
    Warn("T0311",
         fmt::format("trigger '{}': {} deliveries of events that cannot be read are counted "
                     "as dropped",
                     trigger->name, dropped));
  }
  audit.matched.clear();
  audit.present.clear();
}

}  // namespace tocsin
