// Replays: stored events that a trigger matches are appended again as new runs for it alone, in the
// same batch as how far it has looked, so that a crash repeats none and the next life goes on.

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/canary.h"
#include "broker/base/status.h"
#include "broker/partition/partition_impl.h"
#include "broker/routing/filter.h"

namespace tocsin {
namespace {

constexpr std::size_t kReadBytes = 512 * 1024;
constexpr std::size_t kCopiedBytesMax = 256 * 1024;  // of one append, or one event
constexpr std::uint64_t kCopiedAtOnce = 4096;        // events of one read
constexpr double kBurstSeconds = 0.1;

}  // namespace

// Of one look at stored events. `dry` counts and changes nothing.
struct Partition::Impl::DryReplay {
  ReplayState order;
  std::shared_ptr<const Filter> where;
  TriggerOrdinal trigger;
  absl::AnyInvocable<void(absl::StatusOr<ReplayProgress>)> done;
};

absl::Status Partition::Impl::CheckReplay(std::string_view name, TriggerRecord** trigger) {
  TOCSIN_RETURN_IF_ERROR(Usable());
  *trigger = state.FindTrigger(name);
  if (*trigger == nullptr) {
    return absl::NotFoundError(fmt::format("there is no trigger '{}'", name));
  }
  if (RuntimeOf((*trigger)->ordinal) == nullptr) {
    return absl::FailedPreconditionError(
        fmt::format("trigger '{}' is detached: put it back into the configuration first", name));
  }
  return absl::OkStatus();
}

void Partition::Replay(std::string_view name, const ReplayOrder& order,
                       absl::AnyInvocable<void(absl::StatusOr<ReplayProgress>)> done) {
  Impl& impl = *impl_;
  TriggerRecord* trigger = nullptr;
  if (const absl::Status checked = impl.CheckReplay(name, &trigger); !checked.ok()) {
    return done(checked);
  }
  absl::StatusOr<FilterPtr> where =
      order.where.empty() ? absl::StatusOr<FilterPtr>(nullptr) : FilterFromJson(order.where);
  if (!where.ok()) return done(Annotate(where.status(), "where"));
  impl.BeginIfNeeded();
  ReplayState wanted;
  wanted.end = std::min(order.end, impl.state.end());
  wanted.next =
      std::min(std::max(order.from, impl.start_known ? impl.start : Offset()), wanted.end);
  wanted.from_us = order.from_us;
  wanted.until_us = order.until_us;
  wanted.rate_millis = order.rate_millis;
  wanted.where = order.where;
  if (order.from_us > 0) {
    wanted.next =
        std::min(wanted.end, std::max(wanted.next, OffsetSince(FromMicros(order.from_us))));
  }
  if (order.dry_run) {
    auto dry = std::make_shared<Impl::DryReplay>();
    dry->order = std::move(wanted);
    dry->where = *std::move(where);
    dry->trigger = trigger->ordinal;
    dry->done = std::move(done);
    const auto begin = [&impl, dry](const absl::Status&) {
      const JournalPosition at = impl.ports.journal.Locate(impl.options.id, dry->order.next);
      impl.CountForReplay(dry, at);
    };
    const Offset last(dry->order.end.value() > 0 ? dry->order.end.value() - 1 : 0);
    if (dry->order.next < dry->order.end && impl.NotKnownYet(last)) {
      impl.waiting.push_back({last, begin});
    } else {
      begin(absl::OkStatus());
    }
    return;
  }
  if (const absl::Status writable = impl.Writable(); !writable.ok()) return done(writable);
  if (trigger->replay) {
    return done(absl::FailedPreconditionError(fmt::format(
        "a replay of trigger '{}' is under way; --watch shows it, --stop ends it", name)));
  }
  if (trigger->catch_up) {
    return done(absl::FailedPreconditionError(
        fmt::format("trigger '{}' (from: start) still looks at the stored events", name)));
  }
  Impl::ReplayRuntime& replay = impl.replays[trigger->ordinal.value()];
  replay.progress = ReplayProgress();
  replay.progress.from = wanted.next;
  replay.tokens = 1;
  replay.filled = impl.now;
  // What is still read for one that was stopped is not of this one's span.
  replay.reading = 0;
  impl.EnsureRoom(wanted.where.size() + 256);
  impl.RecordReplay(trigger->ordinal, trigger->replays + 1, wanted, false);
  impl.replaying.insert(trigger->ordinal.value());
  auto answer = [this, ordinal = trigger->ordinal, begun = replay.progress,
                 done = std::move(done)](const absl::Status& status) mutable {
    if (!status.ok()) return done(status);
    const ReplayProgress& now = impl_->replays[ordinal.value()].progress;
    if (now.number == begun.number) return done(now);
    begun.active = false;  // stopped meanwhile, and another one has begun
    begun.stopped = true;
    done(begun);
  };
  impl.WhenDurable(std::move(answer), true);
}

absl::Status Partition::StopReplay(std::string_view name) {
  Impl& impl = *impl_;
  TOCSIN_RETURN_IF_ERROR(impl.Writable());
  impl.BeginIfNeeded();
  const TriggerRecord* trigger = impl.state.FindTrigger(name);
  if (trigger == nullptr) {
    return absl::NotFoundError(fmt::format("there is no trigger '{}'", name));
  }
  if (!trigger->replay) return absl::OkStatus();
  const ReplayState reached = *trigger->replay;
  impl.EnsureRoom(reached.where.size() + 256);
  impl.RecordReplay(trigger->ordinal, trigger->replays, reached, true);
  impl.replays[trigger->ordinal.value()].progress.stopped = true;
  impl.replaying.erase(trigger->ordinal.value());
  return absl::OkStatus();
}

ReplayProgress Partition::ReplayOf(std::string_view name) const {
  const TriggerRecord* trigger = impl_->state.FindTrigger(name);
  if (trigger == nullptr) return {};
  ReplayProgress progress;
  const auto known = impl_->replays.find(trigger->ordinal.value());
  if (known != impl_->replays.end()) progress = known->second.progress;
  if (trigger->replay) {
    progress.number = trigger->replays;
    progress.active = true;
    progress.next = trigger->replay->next;
    progress.end = trigger->replay->end;
    progress.copied = trigger->replay->copied;
  }
  return progress;
}

void Partition::Impl::RecordReplay(TriggerOrdinal ordinal, std::uint32_t number,
                                   const ReplayState& reached, bool over) {
  ReplayRecord record;
  record.trigger = ordinal;
  record.number = number;
  record.next = reached.next;
  record.end = reached.end;
  record.from_us = reached.from_us;
  record.until_us = reached.until_us;
  record.rate_millis = reached.rate_millis;
  record.copied = reached.copied;
  record.where = reached.where;
  record.over = over;
  std::string body;
  EncodeReplay(record, body);
  ReplayProgress& progress = replays[ordinal.value()].progress;
  if (Planted(Canary::kReplayRepeats) && !over) {
    // In the log alone: this life goes on as it should, or it would never end.
    record.next = std::min(reached.next, progress.from);
    std::string forgotten;
    EncodeReplay(record, forgotten);
    AddRecord(RecordType::kReplay, forgotten);
    (void)state.Apply(RecordView{RecordType::kReplay, body, 0}, state.end(), turn.append_time_us);
  } else {
    AddAndApply(RecordType::kReplay, body);
  }
  progress.number = number;
  progress.active = !over;
  progress.next = reached.next;
  progress.end = reached.end;
  progress.copied = reached.copied;
}

std::optional<Instant> Partition::Impl::PumpReplays() {
  std::optional<Instant> again;
  if (replaying.empty() || closing || stalled || resubmitted || !ports.journal.HasRoomForIngest()) {
    return again;
  }
  const bool full = ports.journal.log_bytes() >= options.retention_bytes;
  for (const std::uint32_t ordinal : std::vector(replaying.begin(), replaying.end())) {
    Runtime* runtime = RuntimeOf(TriggerOrdinal(ordinal));
    const TriggerRecord* trigger = state.FindTrigger(TriggerOrdinal(ordinal));
    if (runtime == nullptr || !trigger->replay) {
      replaying.erase(ordinal);
      continue;
    }
    ReplayRuntime& replay = replays[ordinal];
    if (replay.reading != 0) continue;
    const ReplayState& order = *trigger->replay;
    if (!(order.next < order.end)) {
      const ReplayState reached = order;
      EnsureRoom(reached.where.size() + 256);
      RecordReplay(trigger->ordinal, trigger->replays, reached, true);
      replaying.erase(ordinal);
      Warn("", fmt::format("the replay of trigger '{}' is through: {} events", trigger->name,
                           reached.copied));
      continue;
    }
    if (!(order.next < durable_end)) continue;  // it becomes durable first
    const auto& backlog_max = SpecOf(runtime->route).policy.backlog.size_max;
    if (backlog_max && trigger->pending() >= *backlog_max) continue;
    if (start_known && order.next < start) {
      ReplayState reached = order;
      reached.next = std::min(start, reached.end);
      Warn("T0324", fmt::format("the replay of trigger '{}' came too late for the events {}/{} to "
                                "{}/{}: retention.size has removed them",
                                trigger->name, options.id.value(), order.next.value(),
                                options.id.value(), reached.next.value() - 1));
      EnsureRoom(reached.where.size() + 256);
      RecordReplay(trigger->ordinal, trigger->replays, reached, false);
      again = now;
      continue;
    }
    if (full) continue;
    replay.allowed = kCopiedAtOnce;
    if (order.rate_millis > 0) {
      const double per_second = static_cast<double>(order.rate_millis) / 1000 / options.partitions;
      const double most = std::max(2.0, per_second * kBurstSeconds);
      const double passed = std::chrono::duration<double>(now - replay.filled).count();
      replay.tokens = std::min(most, replay.tokens + passed * per_second);
      replay.filled = now;
      if (replay.tokens < 1) {
        const Instant then = now +
                             std::chrono::duration_cast<Duration>(
                                 std::chrono::duration<double>((1 - replay.tokens) / per_second)) +
                             std::chrono::milliseconds(1);
        again = again ? std::min(*again, then) : then;
        continue;
      }
      replay.allowed = static_cast<std::uint64_t>(replay.tokens);
    }
    if (order.where.empty()) {
      replay.where = nullptr;
    } else if (replay.where == nullptr || replay.where_text != order.where) {
      const absl::StatusOr<FilterPtr> where = FilterFromJson(order.where);
      if (!where.ok()) {  // journaled by a version that knew more
        const ReplayState reached = order;
        EnsureRoom(reached.where.size() + 256);
        RecordReplay(trigger->ordinal, trigger->replays, reached, true);
        replay.progress.stopped = true;
        Warn("T0323", fmt::format("the replay of trigger '{}' is stopped, its `where` cannot be "
                                  "read: {}",
                                  trigger->name, MessageOf(where.status())));
        continue;
      }
      replay.where_text = order.where;
      replay.where = *where;
    }
    replay.reading = next_scan++;
    ReadForReplay(TriggerOrdinal(ordinal), ports.journal.Locate(options.id, order.next));
  }
  return again;
}

void Partition::Impl::ReadForReplay(TriggerOrdinal ordinal, JournalPosition from) {
  ports.journal.Read(options.id, from, kReadBytes,
                     [this, ordinal, number = replays[ordinal.value()].reading,
                      guard = std::weak_ptr(alive)](absl::StatusOr<ReadResult> result) {
                       if (guard.expired()) return;
                       BeginIfNeeded();
                       if (failed || replays[ordinal.value()].reading != number) return;
                       OnReplayRead(ordinal, std::move(result));
                       ports.wake();
                     });
}

bool Partition::Impl::ReplayTakes(const Runtime& runtime, const ReplayState& order,
                                  const Filter* where, const EventRecord& record,
                                  const EventView& view, std::int64_t append_time_us) {
  // A run of an event that is, or was, in the log itself.
  if (record.new_run || append_time_us < order.from_us ||
      (order.until_us > 0 && append_time_us >= order.until_us)) {
    return false;
  }
  if (where != nullptr && !where->Matches(view)) return false;
  MatchRoutes(view, record.lane_source);
  return std::find(match_routes.begin(), match_routes.end(), runtime.route) != match_routes.end();
}

void Partition::Impl::OnReplayRead(TriggerOrdinal ordinal, absl::StatusOr<ReadResult> result) {
  const auto let_go = [this, ordinal, number = replays[ordinal.value()].reading,
                       guard = std::weak_ptr(alive)] {
    if (guard.expired()) return;
    ReplayRuntime& replay = replays[ordinal.value()];
    if (replay.reading != number) return;
    replay.reading = 0;
    ports.wake();
  };
  const TriggerRecord* trigger = state.FindTrigger(ordinal);
  Runtime* runtime = RuntimeOf(ordinal);
  if (runtime == nullptr || !trigger->replay) {
    let_go();
    return;
  }
  if (!result.ok()) {
    Warn("T0310", fmt::format("reading for a replay of trigger '{}' failed: {}; trying again",
                              trigger->name, MessageOf(result.status())));
    ports.executor.PostAt(now + std::chrono::seconds(1), let_go);
    return;
  }
  for (const Unreadable& gap : result->unreadable) {
    Warn("T0311", fmt::format("{}; the replay of trigger '{}' goes on without them",
                              DescribeGap(gap), trigger->name));
  }
  ReplayState reached = *trigger->replay;
  const Offset before = reached.next;
  bool more = true;
  for (StoredBatch& stored : result->batches) {
    if (!more) break;
    CatchUpBatch batch{stored.base_offset, stored.body, {}};
    if (stored.event_count == 0 || !IndexEvents(*stored.body, batch.slots).ok()) continue;
    more = CopyForReplay(*runtime, batch, stored.append_time_us, reached);
  }
  if (reached.next == before) {
    if (!result->at_end) {
      ReadForReplay(ordinal, result->next);  // nothing to be read here: on behind it
      return;
    }
    reached.next = reached.end;
  }
  reached.next = std::min(reached.next, reached.end);
  if (trigger->replay->next < reached.next) {
    EnsureRoom(reached.where.size() + 256);
    RecordReplay(ordinal, trigger->replays, reached, false);
    turn.ingest = true;
  }
  // The next read when this is durable: what is under way stays bounded.
  WhenDurable([let_go](const absl::Status&) { let_go(); });
}

bool Partition::Impl::CopyForReplay(Runtime& runtime, const CatchUpBatch& batch,
                                    std::int64_t append_time_us, ReplayState& reached) {
  struct Found {
    EventRecord record;
    EventView view;
    Offset offset;
  };
  const TriggerRecord* trigger = state.FindTrigger(runtime.ordinal);
  ReplayRuntime& replay = replays[runtime.ordinal.value()];
  std::vector<Found> found;
  std::size_t bytes = 0;
  const std::size_t bytes_max = std::min(kCopiedBytesMax, ports.journal.batch_bytes_max() / 4);
  // A backlog may be exceeded by one event, or nothing would ever move.
  const auto& backlog_max = SpecOf(runtime.route).policy.backlog.size_max;
  const std::uint64_t pending = trigger->pending();
  std::uint64_t events_max = replay.allowed;
  if (backlog_max) {
    events_max = std::min(
        events_max, std::max<std::uint64_t>(1, *backlog_max - std::min(*backlog_max, pending)));
  }
  bool enough = false;
  Offset next = std::max(reached.next, batch.base);
  const Offset end = std::min(Offset(batch.base.value() + batch.slots.size()), reached.end);
  for (; next < end; next = Next(next)) {
    const EventSlot& slot = batch.slots[next.value() - batch.base.value()];
    Found one;
    one.offset = next;
    if (!DecodeEvent(std::string_view(*batch.body).substr(slot.position, slot.bytes), one.record)
             .ok() ||
        !ParseEvent(one.record.event, one.view).ok() ||
        !ReplayTakes(runtime, reached, replay.where.get(), one.record, one.view, append_time_us)) {
      continue;
    }
    enough = found.size() >= events_max || (!found.empty() && bytes + slot.bytes > bytes_max);
    if (enough) break;
    bytes += slot.bytes;
    found.push_back(std::move(one));
  }
  reached.next = std::max(reached.next, next);
  if (found.empty()) return reached.next < reached.end;
  // The copies and how far they reach are one batch.
  EnsureRoom(bytes + found.size() * 64 + reached.where.size() + 256);
  for (Found& one : found) {
    EventRecord copy;
    copy.matches.push_back({runtime.ordinal, trigger->matched});
    copy.new_run = true;
    copy.origin = one.offset;
    copy.run = trigger->replays * kRunsPerReplay;
    copy.hops = one.record.hops;
    copy.has_lane = one.record.has_lane;
    copy.lane_source = one.record.lane_source;
    copy.lane_key = one.record.lane_key;
    copy.event = one.record.event;
    (void)AddEvent(copy, one.view, nullptr, false);
  }
  reached.copied += found.size();
  replay.allowed -= std::min<std::uint64_t>(replay.allowed, found.size());
  if (reached.rate_millis > 0) replay.tokens -= static_cast<double>(found.size());
  const ReplayState so_far = reached;
  RecordReplay(runtime.ordinal, trigger->replays, so_far, false);
  turn.ingest = true;
  return !enough && replay.allowed > 0 && bytes < bytes_max / 2;
}

void Partition::Impl::CountForReplay(std::shared_ptr<DryReplay> dry, JournalPosition from) {
  if (!(dry->order.next < dry->order.end) || !(dry->order.next < durable_end)) {
    ReplayProgress progress;
    progress.end = progress.next = dry->order.end;
    progress.copied = dry->order.copied;
    dry->done(progress);
    return;
  }
  ports.journal.Read(
      options.id, from, kReadBytes,
      [this, dry = std::move(dry),
       guard = std::weak_ptr(alive)](absl::StatusOr<ReadResult> result) mutable {
        if (guard.expired()) return;
        BeginIfNeeded();
        const Runtime* runtime = RuntimeOf(dry->trigger);
        if (!result.ok() || runtime == nullptr) {
          dry->done(result.ok() ? absl::UnavailableError("the trigger was detached meanwhile")
                                : result.status());
          return;
        }
        ReplayState& order = dry->order;
        EventRecord record;
        EventView view;
        for (const StoredBatch& stored : result->batches) {
          const std::optional<CachedBatch> batch = IndexBatch(stored);
          if (!batch) continue;
          for (Offset next = std::max(order.next, batch->base);
               next < batch->end() && next < order.end; next = Next(next)) {
            order.next = Next(next);
            if (DecodeEvent(batch->Record(next), record).ok() &&
                ParseEvent(record.event, view).ok() &&
                ReplayTakes(*runtime, order, dry->where.get(), record, view,
                            stored.append_time_us)) {
              ++order.copied;
            }
          }
        }
        if (result->at_end) order.next = order.end;
        CountForReplay(std::move(dry), result->next);
      });
}

}  // namespace tocsin
