// `from: start`: a new trigger looks at the stored events. What matches is appended again as a new
// run for this trigger alone, in the same batch as how far it has looked, so that nothing is
// matched twice and a crash repeats nothing. New events wait for their turn as stored ones; when
// the trigger has looked at everything, also at what is not durable yet, it takes part in matching.

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

constexpr std::size_t kReadBytes = 512 * 1024;
constexpr std::size_t kCopiedBytesMax = std::size_t{1} << 20;  // of one append, or one event

}  // namespace

void Partition::Impl::PumpCatchUps() {
  if (catching_up.empty() || closing || stalled || resubmitted ||
      !ports.journal.HasRoomForIngest()) {
    return;
  }
  const std::uint64_t bytes = ports.journal.log_bytes();
  const bool full = bytes >= options.retention_bytes;
  for (const std::uint32_t ordinal : std::vector(catching_up.begin(), catching_up.end())) {
    Runtime* runtime = RuntimeOf(TriggerOrdinal(ordinal));
    const TriggerRecord* trigger = state.FindTrigger(TriggerOrdinal(ordinal));
    if (runtime == nullptr || !trigger->catch_up) {
      catching_up.erase(ordinal);
      continue;
    }
    const auto& backlog_max = SpecOf(runtime->route).policy.backlog.size_max;
    if (runtime->catch_up != 0 || (backlog_max && trigger->pending() >= *backlog_max)) continue;
    // If it is what keeps the log full, going on is what makes room: what it has copied goes. Far
    // above the size step by step, each when the one before is settled.
    const bool waits = bytes >= options.retention_bytes / 2 * 3 && trigger->pending() > 0;
    if (full && (waits || Floor(nullptr) < *trigger->catch_up)) continue;
    if (*trigger->catch_up < durable_end) {
      runtime->catch_up = next_scan++;
      ReadForCatchUp(*runtime, ports.journal.Locate(options.id, *trigger->catch_up));
    } else {
      FinishCatchUp(*runtime);
    }
  }
}

void Partition::Impl::ReadForCatchUp(Runtime& runtime, JournalPosition from) {
  ports.journal.Read(options.id, from, kReadBytes,
                     [this, ordinal = runtime.ordinal, number = runtime.catch_up,
                      guard = std::weak_ptr(alive)](absl::StatusOr<ReadResult> result) {
                       if (guard.expired()) return;
                       BeginIfNeeded();
                       Runtime* owner = RuntimeOf(ordinal);
                       if (failed || owner == nullptr || owner->catch_up != number) return;
                       OnCatchUpRead(*owner, std::move(result));
                       ports.wake();
                     });
}

void Partition::Impl::OnCatchUpRead(Runtime& runtime, absl::StatusOr<ReadResult> result) {
  const TriggerRecord* trigger = state.FindTrigger(runtime.ordinal);
  const auto let_go = [this, ordinal = runtime.ordinal, number = runtime.catch_up,
                       guard = std::weak_ptr(alive)] {
    if (guard.expired()) return;
    Runtime* owner = RuntimeOf(ordinal);
    if (owner == nullptr || owner->catch_up != number) return;
    owner->catch_up = 0;
    ports.wake();
  };
  if (!result.ok()) {
    Warn("T0310", fmt::format("reading for trigger '{}' failed: {}; trying again", trigger->name,
                              MessageOf(result.status())));
    ports.executor.PostAt(now + std::chrono::seconds(1), let_go);
    return;
  }
  for (const Unreadable& gap : result->unreadable) {
    Warn("T0311",
         fmt::format("{}; trigger '{}' starts without them", DescribeGap(gap), trigger->name));
  }
  const Offset before = *trigger->catch_up;
  Offset next = before;
  for (StoredBatch& stored : result->batches) {
    CatchUpBatch batch{stored.base_offset, stored.body, {}};
    if (stored.event_count == 0 || !IndexEvents(*stored.body, batch.slots).ok()) continue;
    if (!CopyMatches(runtime, batch, next)) break;
  }
  if (next == before) {
    if (!result->at_end) {
      ReadForCatchUp(runtime, result->next);  // nothing to be read here: on behind it
      return;
    }
    next = durable_end;
  }
  if (*trigger->catch_up < next) RecordCatchUp(runtime, next, false);
  // The next read when this is durable: what is under way stays bounded.
  turn.done.push_back({[let_go](const absl::Status&) { let_go(); }});
}

bool Partition::Impl::CopyMatches(Runtime& runtime, const CatchUpBatch& batch, Offset& next) {
  const TriggerRecord* trigger = state.FindTrigger(runtime.ordinal);
  struct Found {
    EventRecord record;
    EventView view;
    Offset offset;
  };
  std::vector<Found> found;
  std::size_t bytes = 0;
  const std::size_t bytes_max = std::min(kCopiedBytesMax, ports.journal.batch_bytes_max() / 4);
  // A backlog may be exceeded by one event, or nothing would ever move.
  const auto& backlog_max = SpecOf(runtime.route).policy.backlog.size_max;
  const std::uint64_t pending = trigger->pending();
  const std::uint64_t events_max =
      backlog_max ? std::max<std::uint64_t>(1, *backlog_max - std::min(*backlog_max, pending))
                  : UINT64_MAX;
  next = std::max(next, batch.base);
  const Offset end(batch.base.value() + batch.slots.size());
  for (; next < end; next = Next(next)) {
    const EventSlot& slot = batch.slots[next.value() - batch.base.value()];
    Found one;
    one.offset = next;
    if (!DecodeEvent(std::string_view(*batch.body).substr(slot.position, slot.bytes), one.record)
             .ok()) {
      continue;
    }
    // A run of an event that is, or was, in the log itself.
    if (one.record.new_run || !ParseEvent(one.record.event, one.view).ok()) continue;
    MatchRoutes(one.view, one.record.lane_source);
    if (std::find(match_routes.begin(), match_routes.end(), runtime.route) == match_routes.end()) {
      continue;
    }
    if (found.size() >= events_max || (!found.empty() && bytes + slot.bytes > bytes_max)) break;
    bytes += slot.bytes;
    found.push_back(std::move(one));
  }
  if (found.empty()) return true;
  // The copies and how far they reach are one batch.
  EnsureRoom(bytes + found.size() * 64 + 256);
  for (Found& one : found) {
    EventRecord copy;
    copy.matches.push_back({runtime.ordinal, trigger->matched});
    copy.new_run = true;
    copy.origin = one.offset;
    copy.run = 1;
    copy.hops = one.record.hops;
    copy.has_lane = one.record.has_lane;
    copy.lane_source = one.record.lane_source;
    copy.lane_key = one.record.lane_key;
    copy.event = one.record.event;
    (void)AddEvent(copy, one.view, nullptr, false);
  }
  RecordCatchUp(runtime, next, false);
  return next == end && bytes < bytes_max / 2 && found.size() < events_max;
}

void Partition::Impl::RecordCatchUp(Runtime& runtime, Offset next, bool done) {
  std::string body;
  EncodeTriggerCatchUp({runtime.ordinal, next, done}, body);
  AddAndApply(RecordType::kTriggerCatchUp, body);
  turn.ingest = true;
}

// Everything durable was looked at. What is under way is in memory; after it the trigger is live.
void Partition::Impl::FinishCatchUp(Runtime& runtime) {
  Flush();
  std::vector<CatchUpBatch> under_way;
  for (const InFlight& flight : in_flight) {
    if (!flight.slots.empty()) under_way.push_back({flight.base, flight.body, flight.slots});
  }
  const TriggerRecord* trigger = state.FindTrigger(runtime.ordinal);
  for (const CatchUpBatch& batch : under_way) {
    const Offset end(batch.base.value() + batch.slots.size());
    for (Offset next = *trigger->catch_up; next < end;) (void)CopyMatches(runtime, batch, next);
  }
  RecordCatchUp(runtime, state.end(), true);
  catching_up.erase(runtime.ordinal.value());
  Warn("", fmt::format("trigger '{}' has looked at all stored events: {} matched so far",
                       trigger->name, trigger->matched));
}

}  // namespace tocsin
