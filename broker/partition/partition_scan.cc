// Scans: what queues want to be read again from the journal.

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/partition/expiry.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

constexpr std::size_t kScanBytes = 512 * 1024;
constexpr std::size_t kScansMax = 8;  // reads under way per partition

}  // namespace

void Partition::Impl::PumpScans() {
  // Those that could not begin are still in the set.
  for (auto wanted = scan_wanted.begin(); wanted != scan_wanted.end() && scans < kScansMax;) {
    Runtime* runtime = RuntimeOf(TriggerOrdinal(*wanted));
    const std::uint32_t ordinal = *wanted;
    if (runtime == nullptr || runtime->queue == nullptr || runtime->scanning) {
      wanted = scan_wanted.erase(wanted);
      continue;
    }
    if (!in_flight.empty() && in_flight.front().number <= runtime->scan_after) {
      ++wanted;
      continue;
    }
    const std::optional<Offset> from = runtime->queue->ScanWanted();
    if (!from) {
      wanted = scan_wanted.erase(wanted);
      continue;
    }
    if (!(*from < durable_end)) {
      // Nothing was appended since: it has seen everything.
      runtime->queue->BeginScan();
      runtime->queue->EndScan(durable_end, durable_end);
      wanted = scan_wanted.erase(wanted);
      Touch(*runtime);
      continue;
    }
    scan_wanted.erase(wanted);
    runtime->queue->BeginScan();
    runtime->scanning = true;
    runtime->scan_number = next_scan++;
    runtime->scan_cursor = *from;
    ++scans;
    ContinueScan(*runtime);
    wanted = scan_wanted.upper_bound(ordinal);
  }
}

void Partition::Impl::EndScan(Runtime& runtime) {
  runtime.scanning = false;
  --scans;
  runtime.queue->EndScan(runtime.scan_cursor, durable_end);
  Touch(runtime);
  scan_wanted.insert(runtime.ordinal.value());
}

// From memory as long as it goes, then one read.
void Partition::Impl::ContinueScan(Runtime& runtime) {
  while (runtime.scan_cursor < durable_end) {
    const auto batch = cache.Find(runtime.scan_cursor);
    if (batch == nullptr) break;
    if (!ScanBatch(runtime, *batch)) {
      EndScan(runtime);
      return;
    }
  }
  if (!(runtime.scan_cursor < durable_end)) {
    EndScan(runtime);
    return;
  }
  ports.journal.Read(options.id, ports.journal.Locate(options.id, runtime.scan_cursor), kScanBytes,
                     [this, ordinal = runtime.ordinal, number = runtime.scan_number,
                      guard = std::weak_ptr(alive)](absl::StatusOr<ReadResult> result) {
                       if (guard.expired()) return;
                       BeginIfNeeded();
                       Runtime* owner = RuntimeOf(ordinal);
                       if (failed || owner == nullptr || owner->queue == nullptr ||
                           !owner->scanning || owner->scan_number != number) {
                         return;
                       }
                       OnScanRead(*owner, std::move(result));
                       ports.wake();
                     });
}

void Partition::Impl::OnScanRead(Runtime& runtime, absl::StatusOr<ReadResult> result) {
  if (!result.ok()) {
    if (result.status().code() == absl::StatusCode::kOutOfRange) {
      // Trimmed beneath the cursor: nothing pending can be there.
      runtime.scan_cursor = std::max(runtime.scan_cursor, start);
      EndScan(runtime);
      return;
    }
    Warn("T0310", fmt::format("reading for trigger '{}' failed: {}; trying again",
                              SpecOf(runtime.route).name, MessageOf(result.status())));
    ports.executor.PostAt(now + std::chrono::seconds(1),
                          [this, ordinal = runtime.ordinal, number = runtime.scan_number,
                           guard = std::weak_ptr(alive)] {
                            if (guard.expired() || failed) return;
                            Runtime* owner = RuntimeOf(ordinal);
                            if (owner == nullptr || owner->queue == nullptr || !owner->scanning ||
                                owner->scan_number != number) {
                              return;
                            }
                            BeginIfNeeded();
                            EndScan(*owner);
                            ports.wake();
                          });
    return;
  }
  for (const Unreadable& gap : result->unreadable) {
    Warn("T0311", fmt::format("{}; what follows is served", DescribeGap(gap)));
    if (audit.gaps.insert(gap.from).second) audit.wanted = true;
  }
  const Offset before = runtime.scan_cursor;
  for (StoredBatch& stored : result->batches) {
    std::optional<CachedBatch> cached = IndexBatch(stored);
    if (!cached || !(runtime.scan_cursor < cached->end())) continue;
    runtime.scan_cursor = std::max(runtime.scan_cursor, cached->base);
    const auto batch = cache.Add(*std::move(cached));
    if (!ScanBatch(runtime, *batch)) {
      EndScan(runtime);
      return;
    }
  }
  if (runtime.scan_cursor == before) {
    // What should be here is gone (damage up to the end): go on behind it.
    if (result->at_end) {
      runtime.scan_cursor = durable_end;
    } else {
      ReadOn(runtime, result->next);
      return;
    }
  }
  ContinueScan(runtime);
}

// The batch at the cursor could not be read: reads from where the journal says it goes on.
void Partition::Impl::ReadOn(Runtime& runtime, JournalPosition from) {
  ports.journal.Read(options.id, from, kScanBytes,
                     [this, ordinal = runtime.ordinal, number = runtime.scan_number,
                      guard = std::weak_ptr(alive)](absl::StatusOr<ReadResult> result) {
                       if (guard.expired()) return;
                       BeginIfNeeded();
                       Runtime* owner = RuntimeOf(ordinal);
                       if (failed || owner == nullptr || owner->queue == nullptr ||
                           !owner->scanning || owner->scan_number != number) {
                         return;
                       }
                       OnScanRead(*owner, std::move(result));
                       ports.wake();
                     });
}

bool Partition::Impl::ScanBatch(Runtime& runtime, const CachedBatch& batch) {
  const TriggerRecord* trigger = state.FindTrigger(runtime.ordinal);
  EventRecord record;
  PriorAttempts prior;
  for (Offset offset = runtime.scan_cursor; offset < batch.end() && offset < durable_end;
       offset = Next(offset), runtime.scan_cursor = offset) {
    if (!DecodeEvent(batch.Record(offset), record).ok()) continue;
    const auto match = std::find_if(record.matches.begin(), record.matches.end(),
                                    [&](const Match& m) { return m.trigger == runtime.ordinal; });
    if (match == record.matches.end() || trigger->settled.Contains(match->index)) continue;
    if (SettledInTurn(runtime.ordinal, match->index)) continue;
    EventView view;
    if (!ParseEvent(record.event, view).ok()) continue;
    Candidate candidate;
    candidate.offset = offset;
    candidate.match_index = match->index;
    candidate.origin = record.new_run ? record.origin : offset;
    candidate.run = record.run;
    candidate.event_bytes = static_cast<std::uint32_t>(record.event.size());
    candidate.appended = batch.recorded;
    const std::int64_t expires_us = ExpiryMicros(view, record.redriven);
    if (expires_us != 0) candidate.expires = FromMicros(expires_us);
    const std::string_view key = view.PartitionKey();
    if (!trigger->redriving.empty() && trigger->redriving.contains(match->index)) {
      // A redriven letter of a parked key, met again after a restart.
      runtime.queue->OfferFirst(candidate, key, now, PriorOf(*trigger, match->index, prior));
      continue;
    }
    if (runtime.queue->OfferScanned(candidate, key, PriorOf(*trigger, match->index, prior), now) ==
        ScanResult::kStop) {
      return false;
    }
  }
  return true;
}

// Settled, and not yet in the settled set: its ranges are written at the end of the turn.
bool Partition::Impl::SettledInTurn(TriggerOrdinal ordinal, std::uint64_t index) {
  if (turn.settled_count == 0) return false;
  EncodeSettlements();
  return state.FindTrigger(ordinal)->settled.Contains(index);
}

}  // namespace tocsin
