// What records say of schedules: those of the configuration, those by command or API, and events
// that were published for later.

#include <algorithm>
#include <chrono>

#include "broker/base/check.h"
#include "broker/base/hash.h"
#include "broker/base/status.h"
#include "broker/base/wire.h"
#include "broker/partition/partition_state.h"

namespace tocsin {
namespace {

constexpr std::uint32_t kScheduleNoteTable = 12;

WallTime ToTime(std::int64_t us) { return WallTime(std::chrono::microseconds(us)); }

}  // namespace

UnfiredRanges ScheduleRecordState::Unfired() const {
  if (unfired) return *unfired;
  const absl::StatusOr<ScheduleState> decoded = DecodeScheduleState(state);
  return UnfiredRanges(decoded.ok() ? decoded->anchor : WallTime());
}

void PartitionState::ApplySchedule(RecordType type, const ScheduleRecord& record) {
  const std::string name(record.name);
  dirty_schedule_buckets_.insert(HashKey(name) & 0xff);
  if (record.state.empty()) {
    const auto found = schedules_.find(name);
    if (found == schedules_.end()) return;
    schedule_notes_dirty_ = schedule_notes_dirty_ || found->second.paused || found->second.unfired;
    schedules_.erase(found);
    return;
  }
  ScheduleRecordState& state = schedules_[name];
  state.state = std::string(record.state);
  switch (type) {
    case RecordType::kScheduleFired:
      ++state.fired;
      if (record.reason == kScheduleBackfill) {
        if (!state.unfired) state.unfired = state.Unfired();
        state.unfired->Remove(ToTime(record.first_us), ToTime(record.last_us));
      } else {
        state.last_fire = record.offset;
        if (state.unfired) state.unfired->Fired(ToTime(record.last_us));
      }
      schedule_notes_dirty_ = schedule_notes_dirty_ || state.unfired;
      break;
    case RecordType::kScheduleSkipped:
      state.skipped += record.count;
      if (!state.unfired) {
        state.unfired = state.Unfired();
        // What fired before is not known any more, but that it was decided.
        const absl::StatusOr<ScheduleState> decided = DecodeScheduleState(state.state);
        if (state.fired > 0 && decided.ok()) state.unfired->Fired(decided->decided_through);
      }
      state.unfired->Skipped(ToTime(record.first_us), ToTime(record.last_us));
      schedule_notes_dirty_ = true;
      break;
    default:
      if (record.reason != kSchedulePause && record.reason != kScheduleResume) break;
      state.paused = record.reason == kSchedulePause;
      schedule_notes_dirty_ = true;
      break;
  }
}

absl::Status PartitionState::ApplyDynamic(const RecordView& record) {
  switch (record.type) {
    case RecordType::kDynamicSet: {
      DynamicSetRecord set;
      TOCSIN_RETURN_IF_ERROR(DecodeDynamicSet(record.body, set));
      ApplyDynamicSet(set);
      return absl::OkStatus();
    }
    case RecordType::kDynamicFired: {
      DynamicFiredRecord fired;
      TOCSIN_RETURN_IF_ERROR(DecodeDynamicFired(record.body, fired));
      ApplyDynamicFired(fired);
      return absl::OkStatus();
    }
    case RecordType::kDynamicSkipped: {
      DynamicSkippedRecord skipped;
      TOCSIN_RETURN_IF_ERROR(DecodeDynamicSkipped(record.body, skipped));
      ApplyDynamicSkipped(skipped);
      return absl::OkStatus();
    }
    case RecordType::kDelayed: {
      DelayedRecord delayed;
      TOCSIN_RETURN_IF_ERROR(DecodeDelayed(record.body, delayed));
      const std::string name = DelayedName(delayed.identity);
      ScheduleDefinition definition;
      definition.name = name;
      definition.at_us = delayed.at_us;
      definition.data = delayed.event;
      definition.hops = delayed.hops;
      (void)dynamic_.Set(definition);
      return absl::OkStatus();
    }
    default: {
      DelayedFiredRecord fired;
      TOCSIN_RETURN_IF_ERROR(DecodeDelayedFired(record.body, fired));
      const auto id = dynamic_.Find(DelayedName(fired.identity));
      TOCSIN_CHECK(id || lenient_, "partition {}: a delayed event fired that is not known",
                   id_.value());
      if (id) dynamic_.Remove(*id);
      return absl::OkStatus();
    }
  }
}

void PartitionState::ApplyDynamicSet(const DynamicSetRecord& record) {
  if (record.what == DynamicChange::kDefined) {
    ScheduleDefinition definition;
    definition.name = record.name;
    definition.at_us = record.at_us;
    definition.decided_us = record.decided_us;
    definition.rule = record.rule;
    definition.head = record.head;
    definition.data = record.data;
    definition.paused = record.paused;
    definition.text_data = record.text_data;
    (void)dynamic_.Set(definition);
    return;
  }
  const auto id = dynamic_.Find(record.name);
  TOCSIN_CHECK(id || lenient_, "partition {}: schedule '{}' is not known", id_.value(),
               record.name);
  if (!id) return;
  switch (record.what) {
    case DynamicChange::kRemoved:
      dynamic_.Remove(*id);
      break;
    case DynamicChange::kPaused:
      dynamic_.SetPaused(*id, true);
      break;
    case DynamicChange::kResumed:
      dynamic_.SetPaused(*id, false);
      if (dynamic_.IsRecurring(*id)) dynamic_.SetState(*id, record.state, record.decided_us);
      break;
    default:
      dynamic_.SetState(*id, record.state, record.decided_us);
      break;
  }
}

void PartitionState::ApplyDynamicFired(const DynamicFiredRecord& record) {
  const auto id = dynamic_.Find(record.name);
  TOCSIN_CHECK(id || lenient_, "partition {}: schedule '{}' is not known", id_.value(),
               record.name);
  if (!id) return;
  if (record.once) {
    dynamic_.Remove(*id);
    return;
  }
  if (record.backfill) {
    dynamic_.Backfilled(*id, record.first_us, record.instant_us);
  } else {
    dynamic_.SetState(*id, record.state, record.decided_us);
    dynamic_.Fired(*id, record.instant_us, record.offset);
  }
}

void PartitionState::ApplyDynamicSkipped(const DynamicSkippedRecord& record) {
  const auto id = dynamic_.Find(record.name);
  TOCSIN_CHECK(id || lenient_, "partition {}: schedule '{}' is not known", id_.value(),
               record.name);
  if (!id) return;
  dynamic_.SetState(*id, record.state, record.decided_us);
  dynamic_.Skipped(*id, record.first_us, record.last_us, record.count);
}

// Beside the pages of schedules, whose form is older.
void PartitionState::SaveScheduleNotes(CheckpointDelta& delta) {
  std::string out;
  for (const auto& [name, schedule] : schedules_) {
    if (!schedule.paused && !schedule.unfired) continue;
    PutBytes(out, name);
    PutVarint(out, schedule.paused ? 1 : 0);
    std::string unfired;
    if (schedule.unfired) schedule.unfired->EncodeTo(unfired);
    PutBytes(out, unfired);
  }
  SavePages(kScheduleNoteTable, 0, out, delta);
  schedule_notes_dirty_ = false;
}

absl::Status PartitionState::LoadScheduleNotes(std::string_view bytes) {
  WireReader reader(bytes);
  while (!reader.AtEnd()) {
    std::string_view name;
    std::uint64_t paused = 0;
    std::string_view unfired;
    bool whole = reader.ReadBytes(name) && reader.ReadVarint(paused) && reader.ReadBytes(unfired);
    const auto found = schedules_.find(name);
    whole = whole && found != schedules_.end();
    if (whole && !unfired.empty()) {
      found->second.unfired.emplace(WallTime());
      whole = found->second.unfired->DecodeFrom(unfired);
    }
    if (!whole) return absl::DataLossError("checkpoint: what is noted of schedules is malformed");
    found->second.paused = paused != 0;
  }
  schedule_notes_dirty_ = false;
  return absl::OkStatus();
}

}  // namespace tocsin
