#include "broker/partition/partition_state.h"

#include <algorithm>

#include "broker/base/canary.h"
#include "broker/base/check.h"
#include "broker/base/event.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr std::size_t kNotesFirst = 4;
constexpr std::size_t kNotesLast = 12;
constexpr std::size_t kBucketEntries = 512;
constexpr std::size_t kFormerConfigs = 4;        // per trigger, for explaining stored events
constexpr std::uint32_t kTriggersMax = 1 << 20;  // what a record that damage left may speak of

}  // namespace

PartitionState::PartitionState(PartitionId id, std::uint64_t hash_seed,
                               std::int64_t dedupe_window_us, std::size_t dedupe_ids_max)
    : id_(id), hash_seed_(hash_seed), dedupe_(dedupe_window_us, dedupe_ids_max) {}

TriggerRecord* PartitionState::FindTrigger(TriggerOrdinal ordinal) {
  return ordinal.value() < triggers_.size() ? triggers_[ordinal.value()].get() : nullptr;
}

TriggerRecord* PartitionState::FindTrigger(std::string_view name) {
  const auto found = trigger_names_.find(std::string(name));
  return found == trigger_names_.end() ? nullptr : FindTrigger(found->second);
}

const LaneRecord* PartitionState::FindLane(const LaneId& lane) const {
  const auto found = lanes_.find(lane);
  return found == lanes_.end() ? nullptr : found->second.get();
}

void PartitionState::SetLetterPosition(const DeliveryId& id, LetterPosition position) {
  const auto found = letters_.find(id);
  if (found == letters_.end() || found->second.position == position) return;
  found->second.position = position;
  dirty_letter_pages_.insert(id.offset.value() >> 10);
}

std::size_t PartitionState::PlaceLetters(const std::vector<LetterRef>& stored) {
  for (auto& [id, letter] : letters_) letter.lost = true;
  std::size_t lost = letters_.size();
  for (const LetterRef& ref : stored) {
    const auto found = letters_.find(ref.id);
    if (found == letters_.end()) continue;
    if (std::exchange(found->second.lost, false)) --lost;
    SetLetterPosition(ref.id, ref.position);
  }
  return lost;
}

std::optional<Offset> PartitionState::LastFire(std::string_view name) const {
  const auto found = schedules_.find(name);
  return found == schedules_.end() ? std::nullopt : found->second.last_fire;
}

std::set<std::uint64_t> PartitionState::OpenFires(std::string_view name) const {
  const auto found = open_fires_.find(name);
  return found == open_fires_.end() ? std::set<std::uint64_t>() : found->second;
}

std::vector<Match> PartitionState::PendingOf(Offset offset) const {
  std::vector<Match> pending;
  for (const auto& [match, event] : tracked_matches_) {
    if (event == offset.value()) pending.push_back({TriggerOrdinal(match.first), match.second});
  }
  std::sort(pending.begin(), pending.end());  // a hash map's order may change from run to run
  return pending;
}

void PartitionState::CloseFire(const TrackedEvent& event) {
  const auto found = open_fires_.find(event.source);
  if (found == open_fires_.end()) return;
  found->second.erase(event.offset.value());
  if (!found->second.empty()) return;
  open_fires_.erase(found);
  released_schedules_.push_back(event.source);
}

void PartitionState::RaiseFloor(TriggerOrdinal ordinal, Offset floor) {
  TriggerRecord* trigger = FindTrigger(ordinal);
  if (trigger == nullptr || trigger->floor >= floor) return;
  trigger->floor = floor;
  trigger->dirty = true;
}

void PartitionState::TellAgain(const LaneId& lane) {
  for (auto& [offset, event] : tracked_) {
    if (event.schedule || event.remaining > 0 || event.source != lane.source ||
        event.lane != lane.key) {
      continue;
    }
    event.told = false;
    settled_events_.push_back(offset);
  }
}

void PartitionState::MarkTold(std::uint64_t offset) {
  const auto found = tracked_.find(offset);
  if (found == tracked_.end() || found->second.told) return;
  found->second.told = true;
  found->second.told_at = checkpoints_taken_;
}

absl::Status PartitionState::ApplyBatch(std::string_view body, Offset base,
                                        std::int64_t append_time_us) {
  RecordReader reader(body);
  RecordView record;
  Offset offset = base;
  while (reader.Next(record)) {
    TOCSIN_RETURN_IF_ERROR(Apply(record, offset, append_time_us));
    if (record.type == RecordType::kEvent) offset = Next(offset);
  }
  return reader.status();
}

absl::Status PartitionState::Apply(const RecordView& record, Offset offset,
                                   std::int64_t append_time_us) {
  switch (record.type) {
    case RecordType::kEvent: {
      TOCSIN_RETURN_IF_ERROR(DecodeEvent(record.body, scratch_));
      TOCSIN_RETURN_IF_ERROR(CheckMatches(scratch_, offset));
      ApplyEvent(scratch_, offset, append_time_us, nullptr);
      return absl::OkStatus();
    }
    case RecordType::kLaneState: {
      LaneStateRecord lane;
      TOCSIN_RETURN_IF_ERROR(DecodeLaneState(record.body, lane));
      ApplyLane(lane);
      return absl::OkStatus();
    }
    case RecordType::kSettled:
    case RecordType::kDropped: {
      // A Settled body begins with its kind; see EncodeSettled in turn_batch.
      if (record.type == RecordType::kSettled && !record.body.empty() && record.body[0] == 1) {
        DeadRecord dead;
        TOCSIN_RETURN_IF_ERROR(DecodeDead(record.body.substr(1), dead));
        ApplyDead(dead, SettleKind::kDead, append_time_us);
        return absl::OkStatus();
      }
      RangesRecord ranges;
      const bool settled = record.type == RecordType::kSettled;
      TOCSIN_RETURN_IF_ERROR(DecodeRanges(
          settled ? record.body.substr(record.body.empty() ? 0 : 1) : record.body, ranges));
      ApplyRanges(ranges, settled ? SettleKind::kAcked : SettleKind::kDropped);
      return absl::OkStatus();
    }
    case RecordType::kExpired: {
      DeadRecord dead;
      TOCSIN_RETURN_IF_ERROR(DecodeDead(record.body, dead));
      ApplyDead(dead, SettleKind::kExpired, append_time_us);
      return absl::OkStatus();
    }
    case RecordType::kAttemptFailed: {
      AttemptFailedRecord attempt;
      TOCSIN_RETURN_IF_ERROR(DecodeAttemptFailed(record.body, attempt));
      ApplyAttempt(attempt);
      return absl::OkStatus();
    }
    case RecordType::kDeadClosed: {
      DeadClosedRecord closed;
      TOCSIN_RETURN_IF_ERROR(DecodeDeadClosed(record.body, closed));
      ApplyDeadClosed(closed);
      return absl::OkStatus();
    }
    case RecordType::kTriggerDefined: {
      TriggerDefinedRecord defined;
      TOCSIN_RETURN_IF_ERROR(DecodeTriggerDefined(record.body, defined));
      ApplyDefined(defined);
      return absl::OkStatus();
    }
    case RecordType::kTriggerDetached: {
      TriggerDetachedRecord detached;
      TOCSIN_RETURN_IF_ERROR(DecodeTriggerDetached(record.body, detached));
      ApplyDetached(detached);
      return absl::OkStatus();
    }
    case RecordType::kTriggerCatchUp: {
      TriggerCatchUpRecord catch_up;
      TOCSIN_RETURN_IF_ERROR(DecodeTriggerCatchUp(record.body, catch_up));
      ApplyCatchUp(catch_up);
      return absl::OkStatus();
    }
    case RecordType::kScheduleSet:
    case RecordType::kScheduleFired:
    case RecordType::kScheduleSkipped: {
      ScheduleRecord schedule;
      TOCSIN_RETURN_IF_ERROR(DecodeSchedule(record.body, schedule));
      ApplySchedule(record.type, schedule);
      return absl::OkStatus();
    }
    case RecordType::kDynamicSet:
    case RecordType::kDynamicFired:
    case RecordType::kDynamicSkipped:
    case RecordType::kDelayed:
    case RecordType::kDelayedFired:
      return ApplyDynamic(record);
    case RecordType::kOutgoing: {
      OutgoingRecord outgoing;
      TOCSIN_RETURN_IF_ERROR(DecodeOutgoing(record.body, outgoing));
      OutgoingLane& lane = outgoing_[outgoing.home];
      std::string& pending = lane.pending[outgoing.sequence];
      outgoing_bytes_ += outgoing.event.size() - pending.size();
      pending = std::string(outgoing.event);
      lane.next_sequence = std::max(lane.next_sequence, outgoing.sequence + 1);
      outgoing_dirty_ = true;
      return absl::OkStatus();
    }
    case RecordType::kOutgoingDone: {
      OutgoingDoneRecord done;
      TOCSIN_RETURN_IF_ERROR(DecodeOutgoingDone(record.body, done));
      OutgoingLane& lane = outgoing_[done.home];
      const auto end = lane.pending.upper_bound(done.through);
      for (auto one = lane.pending.begin(); one != end; ++one)
        outgoing_bytes_ -= one->second.size();
      lane.pending.erase(lane.pending.begin(), end);
      lane.next_sequence = std::max(lane.next_sequence, done.through + 1);
      outgoing_dirty_ = true;
      return absl::OkStatus();
    }
    case RecordType::kTriggerStored: {
      TriggerStoredRecord stored;
      TOCSIN_RETURN_IF_ERROR(DecodeTriggerStored(record.body, stored));
      ApplyStored(stored);
      return absl::OkStatus();
    }
    case RecordType::kReplay: {
      ReplayRecord replay;
      TOCSIN_RETURN_IF_ERROR(DecodeReplay(record.body, replay));
      ApplyReplay(replay);
      return absl::OkStatus();
    }
    case RecordType::kOwnerOpened:
    case RecordType::kIdle:
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

// After damage the definition of a trigger may be lost and what concerns it is not: it has no name
// then, until a later definition gives it one.
TriggerRecord* PartitionState::Known(TriggerOrdinal ordinal) {
  while (lenient_ && ordinal.value() >= triggers_.size() && ordinal.value() < kTriggersMax) {
    triggers_.push_back(std::make_unique<TriggerRecord>());
    triggers_.back()->ordinal = TriggerOrdinal(static_cast<std::uint32_t>(triggers_.size() - 1));
    triggers_.back()->detached = triggers_.back()->forgotten = true;
  }
  return FindTrigger(ordinal);
}

absl::Status PartitionState::CheckMatches(const EventRecord& record, Offset offset) {
  for (const Match& match : record.matches) {
    const TriggerRecord* trigger = Known(match.trigger);
    if (lenient_ && (trigger == nullptr || trigger->matched <= match.index)) continue;
    if (trigger != nullptr && trigger->matched == match.index) continue;
    const std::string counted =
        trigger == nullptr ? "which is not defined" : fmt::format("which had {}", trigger->matched);
    return absl::DataLossError(fmt::format(
        "event {} says it is match {} of trigger {}, {}: these files are of different times (an "
        "older copy, or a disk that lost what it had promised to keep); restore all of the data "
        "directory from one copy",
        offset.value(), match.index, match.trigger.value(), counted));
  }
  return absl::OkStatus();
}

void PartitionState::ApplyEvent(const EventRecord& record, Offset offset,
                                std::int64_t append_time_us, const Hash128* identity) {
  end_ = Next(offset);
  if (record.deduped) {
    if (identity != nullptr) {
      dedupe_.Insert(*identity, offset, append_time_us);
    } else {
      EventView view;
      if (ParseEvent(record.event, view).ok()) {
        dedupe_.Insert(HashSourceAndId(view.source, view.id, hash_seed_), offset, append_time_us);
      }
    }
  }
  for (const Match& match : record.matches) {
    TriggerRecord* trigger = Known(match.trigger);
    if (lenient_ && trigger == nullptr) continue;
    if (lenient_ && trigger->name.empty() && !undefined_from_) undefined_from_ = offset;
    if (lenient_ && trigger->matched < match.index) {
      // Their events are lost with the damaged batch; nothing will ever deliver them.
      trigger->dropped += trigger->settled.Add(trigger->matched, match.index - 1);
      trigger->matched = match.index;
    }
    TOCSIN_CHECK(trigger != nullptr && trigger->matched == match.index,
                 "partition {}: event {} says match {} of trigger {}", id_.value(), offset.value(),
                 match.index, match.trigger.value());
    // The floor stays where it is while something is pending; with nothing pending it is here.
    if (trigger->pending() == 0) trigger->floor = std::max(trigger->floor, offset);
    ++trigger->matched;
    trigger->dirty = true;
  }
  if (!record.tracked) return;
  TrackedEvent event;
  event.offset = offset;
  event.schedule = record.from_schedule;
  event.source = std::string(record.lane_source);
  event.lane = std::string(record.lane_key);
  EventView view;
  if (ParseEvent(record.event, view).ok()) event.event_id = std::string(view.id);
  event.remaining = static_cast<std::uint32_t>(record.matches.size());
  for (const Match& match : record.matches) {
    tracked_matches_[{match.trigger.value(), match.index}] = offset.value();
  }
  dirty_tracked_pages_.insert(offset.value() >> 10);
  const auto inserted = tracked_.insert_or_assign(offset.value(), std::move(event)).first;
  if (inserted->second.remaining == 0) {
    FinishTracked(inserted);
  } else if (inserted->second.schedule) {
    open_fires_[inserted->second.source].insert(offset.value());
  }
}

void PartitionState::FinishTracked(std::map<std::uint64_t, TrackedEvent>::iterator event) {
  dirty_tracked_pages_.insert(event->first >> 10);
  if (event->second.schedule) {
    if (event->second.dead_open == 0) tracked_.erase(event);
    return;
  }
  settled_events_.push_back(event->first);
}

void PartitionState::TouchTracked(std::uint64_t offset, SettleKind kind) {
  const auto found = tracked_.find(offset);
  if (found == tracked_.end()) return;
  TrackedEvent& event = found->second;
  dirty_tracked_pages_.insert(offset >> 10);
  if (event.remaining > 0) --event.remaining;
  if (kind == SettleKind::kAcked) ++event.acked;
  if (kind == SettleKind::kDead || kind == SettleKind::kExpired) ++event.dead_open;
  if (event.schedule) {
    // A schedule asks only whether deliveries are pending; letters do not keep it busy.
    if (event.remaining > 0) return;
    CloseFire(event);
    tracked_.erase(found);
    return;
  }
  if (event.remaining == 0) FinishTracked(found);
}

void PartitionState::ApplySettledIndex(TriggerRecord& trigger, std::uint64_t index,
                                       SettleKind kind) {
  if (!trigger.attempts.empty()) trigger.attempts.erase(index);
  if (!trigger.redriving.empty()) {
    // Acked, dropped, or dead without being parked again: what the key held goes on.
    const auto redriven = trigger.redriving.find(index);
    if (redriven != trigger.redriving.end()) {
      const auto parked = trigger.parked.find(redriven->second);
      if (parked != trigger.parked.end() && parked->second.redriven_as)
        trigger.parked.erase(parked);
      trigger.redriving.erase(redriven);
    }
  }
  if (tracked_matches_.empty()) return;
  const auto found = tracked_matches_.find({trigger.ordinal.value(), index});
  if (found == tracked_matches_.end()) return;
  const std::uint64_t offset = found->second;
  tracked_matches_.erase(found);
  TouchTracked(offset, kind);
}

void PartitionState::ApplyRanges(const RangesRecord& record, SettleKind kind) {
  TriggerRecord* trigger = Known(record.trigger);
  if (lenient_ && trigger == nullptr) return;
  TOCSIN_CHECK(trigger != nullptr, "settled ranges of unknown trigger {}", record.trigger.value());
  trigger->dirty = true;
  for (const IndexRange& range : record.ranges) {
    if (lenient_ && trigger->matched <= range.last) {
      trigger->dropped += trigger->settled.Add(trigger->matched, range.last);
      trigger->matched = range.last + 1;
    }
    const std::uint64_t count = trigger->settled.Add(range.first, range.last);
    TOCSIN_CHECK(lenient_ || count == range.last - range.first + 1,
                 "partition {}: trigger '{}': matches {}..{} settled twice", id_.value(),
                 trigger->name, range.first, range.last);
    (kind == SettleKind::kAcked ? trigger->acked : trigger->dropped) +=
        Planted(Canary::kBooksWrong) ? 2 * count : count;
    if (trigger->attempts.empty() && tracked_matches_.empty() && trigger->redriving.empty()) {
      continue;
    }
    for (std::uint64_t index = range.first; index <= range.last; ++index) {
      ApplySettledIndex(*trigger, index, kind);
    }
  }
}

void PartitionState::ApplyDead(const DeadRecord& record, SettleKind kind,
                               std::int64_t append_time_us) {
  DeliveryId id{id_, record.origin, record.trigger, record.run};
  OpenLetter& letter = letters_[id];
  letter.id = id;
  letter.parked = record.parked;
  letter.key = record.parked ? std::string(record.key) : std::string();
  letter.died_us = append_time_us;
  letter.lost = false;
  dirty_letter_pages_.insert(id.offset.value() >> 10);
  if (record.trigger == kNoTrigger) return;
  TriggerRecord* trigger = Known(record.trigger);
  if (lenient_ && (trigger == nullptr || trigger->settled.Contains(record.index))) return;
  if (lenient_) trigger->matched = std::max(trigger->matched, record.index + 1);
  TOCSIN_CHECK(trigger != nullptr, "dead letter of unknown trigger {}", record.trigger.value());
  trigger->dirty = true;
  TOCSIN_CHECK(trigger->settled.Add(record.index, record.index) == 1,
               "partition {}: trigger '{}': match {} settled twice", id_.value(), trigger->name,
               record.index);
  ++(kind == SettleKind::kDead ? trigger->dead : trigger->expired);
  ApplySettledIndex(*trigger, record.index, kind);
  if (record.parked) trigger->parked[std::string(record.key)] = ParkedKey{id, std::nullopt};
}

void PartitionState::ApplyAttempt(const AttemptFailedRecord& record) {
  TriggerRecord* trigger = Known(record.trigger);
  if (lenient_ && (trigger == nullptr || trigger->settled.Contains(record.index))) return;
  TOCSIN_CHECK(trigger != nullptr, "attempt of unknown trigger {}", record.trigger.value());
  trigger->dirty = true;
  AttemptHistory& history = trigger->attempts[record.index];
  history.offset = record.offset;
  if (history.failed == 0) history.first_us = record.at_us;
  history.failed = record.attempt;
  history.due_us = record.due_us;
  history.alone = record.worker_died;
  AttemptNote note;
  note.attempt = record.attempt;
  note.at = WallTime(std::chrono::microseconds(record.at_us));
  note.code = std::string(record.code);
  note.message = std::string(record.message);
  note.worker_died = record.worker_died;
  if (history.notes.size() >= kNotesFirst + kNotesLast) {
    history.notes.erase(history.notes.begin() + kNotesFirst);
  }
  history.notes.push_back(std::move(note));
}

void PartitionState::ApplyDeadClosed(const DeadClosedRecord& record) {
  const DeliveryId id{id_, record.origin, record.trigger, record.run};
  const auto found = letters_.find(id);
  if (found == letters_.end()) return;
  dirty_letter_pages_.insert(id.offset.value() >> 10);
  TriggerRecord* trigger = FindTrigger(record.trigger);
  if (trigger != nullptr && found->second.parked) {
    trigger->dirty = true;
    const auto parked = trigger->parked.find(found->second.key);
    if (parked != trigger->parked.end() && parked->second.letter == id) {
      if (record.how == LetterClosedAs::kRedriven) {
        parked->second.redriven_as = record.redriven_as;
        trigger->redriving[record.index] = parked->first;
      } else {
        trigger->parked.erase(parked);
      }
    }
  }
  const auto event = tracked_.find(record.origin.value());
  if (event != tracked_.end() && record.trigger != kNoTrigger) {
    dirty_tracked_pages_.insert(event->first >> 10);
    if (event->second.dead_open > 0) --event->second.dead_open;
    if (record.how == LetterClosedAs::kRedriven) {
      ++event->second.remaining;
      event->second.told = false;
      tracked_matches_[{record.trigger.value(), record.index}] = event->first;
    } else if (event->second.remaining == 0) {
      event->second.told = false;
      FinishTracked(event);
    }
  }
  letters_.erase(found);
}

LaneRecord& PartitionState::LaneOf(std::string_view source, std::string_view key) {
  std::unique_ptr<LaneRecord>& lane = lanes_[LaneId{std::string(source), std::string(key)}];
  if (lane == nullptr) {
    lane = std::make_unique<LaneRecord>();
    lane->id = LaneId{std::string(source), std::string(key)};
    lane->number = static_cast<std::uint32_t>(lane_numbers_.size());
    lane->buckets.resize(1);
    lane->dirty_buckets.assign(1, true);
    lane_numbers_.push_back(lane.get());
  }
  return *lane;
}

void PartitionState::ApplyLane(const LaneStateRecord& record) {
  LaneRecord& lane = LaneOf(record.source, record.key);
  lane.position = std::string(record.position);
  lane.events += record.events;
  lane.dirty = true;
  for (const auto& [key, value] : record.puts) {
    const std::size_t bucket = HashKey(key) & (lane.buckets.size() - 1);
    const bool inserted =
        lane.buckets[bucket].insert_or_assign(std::string(key), std::string(value)).second;
    lane.entry_count += inserted ? 1 : 0;
    lane.dirty_buckets[bucket] = true;
  }
  for (const std::string_view key : record.erases) {
    const std::size_t bucket = HashKey(key) & (lane.buckets.size() - 1);
    lane.entry_count -= lane.buckets[bucket].erase(std::string(key));
    lane.dirty_buckets[bucket] = true;
  }
  if (lane.entry_count <= lane.buckets.size() * kBucketEntries) return;
  std::vector<absl::flat_hash_map<std::string, std::string>> buckets(lane.buckets.size() * 4);
  for (auto& bucket : lane.buckets) {
    for (auto& [key, value] : bucket) {
      buckets[HashKey(key) & (buckets.size() - 1)].emplace(key, std::move(value));
    }
  }
  lane.buckets = std::move(buckets);
  lane.dirty_buckets.assign(lane.buckets.size(), true);
}

void PartitionState::ApplyDefined(const TriggerDefinedRecord& record) {
  const std::size_t ordinal = record.trigger.value();
  if (lenient_ && ordinal > 0) (void)Known(TriggerOrdinal(record.trigger.value() - 1));
  TOCSIN_CHECK(ordinal <= triggers_.size(), "trigger ordinal {} leaves a hole", ordinal);
  if (ordinal == triggers_.size()) {
    triggers_.push_back(std::make_unique<TriggerRecord>());
    triggers_.back()->ordinal = record.trigger;
    triggers_.back()->floor = end_;
  }
  TriggerRecord& trigger = *triggers_[ordinal];
  if (trigger.name.empty()) trigger.forgotten = false;  // it was only not known yet, see Known()
  if (!trigger.name.empty() && trigger.name != record.name) trigger_names_.erase(trigger.name);
  if (!trigger.name.empty() && trigger.config_hash != record.config_hash) {
    if (trigger.former.size() >= kFormerConfigs) trigger.former.erase(trigger.former.begin());
    trigger.former.push_back({end_, trigger.config_json});
  }
  trigger.name = std::string(record.name);
  trigger.generation = record.generation;
  trigger.config_hash = SharedText(record.config_hash);
  trigger.config_json = SharedText(record.config_json);
  trigger.paused = record.paused;
  trigger.detached = false;
  trigger.detached_us = 0;
  trigger.dirty = true;
  trigger_names_[trigger.name] = record.trigger;
}

void PartitionState::ApplyDetached(const TriggerDetachedRecord& record) {
  TriggerRecord* trigger = FindTrigger(record.trigger);
  if (lenient_ && trigger == nullptr) return;
  TOCSIN_CHECK(trigger != nullptr, "unknown trigger {} detached", record.trigger.value());
  trigger->dirty = true;
  if (!trigger->detached) trigger->detached_us = record.at_us;
  trigger->detached = true;
  if (!record.forgotten) return;
  const std::uint64_t pending = trigger->pending();
  trigger->dropped += pending;
  std::vector<std::uint64_t> tracked;
  for (const auto& [match, offset] : tracked_matches_) {
    if (match.first == record.trigger.value()) tracked.push_back(match.second);
  }
  std::sort(tracked.begin(), tracked.end());
  for (const std::uint64_t index : tracked)
    ApplySettledIndex(*trigger, index, SettleKind::kDropped);
  trigger->attempts.clear();
  trigger->parked.clear();
  trigger->redriving.clear();
  trigger->settled = SettledSet();
  if (trigger->matched > 0) trigger->settled.Add(0, trigger->matched - 1);
  trigger->floor = end_;
  trigger->forgotten = true;
  trigger->catch_up.reset();
  trigger->replay.reset();
  const auto named = trigger_names_.find(trigger->name);
  if (named != trigger_names_.end() && named->second == trigger->ordinal) {
    trigger_names_.erase(named);
  }
}

void PartitionState::ApplyCatchUp(const TriggerCatchUpRecord& record) {
  TriggerRecord* trigger = FindTrigger(record.trigger);
  if (lenient_ && trigger == nullptr) return;
  TOCSIN_CHECK(trigger != nullptr, "unknown trigger {} catches up", record.trigger.value());
  trigger->dirty = true;
  trigger->catch_up.reset();
  if (!record.done) trigger->catch_up = record.next;
}

}  // namespace tocsin
