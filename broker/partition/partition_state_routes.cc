// The state of what is said of triggers beside their deliveries: those of the API, former
// configurations, replays; and its checkpoint form.

#include <map>
#include <utility>

#include "broker/base/canary.h"
#include "broker/base/check.h"
#include "broker/base/hash.h"
#include "broker/partition/checkpoint_fields.h"
#include "broker/partition/partition_state.h"

namespace tocsin {
namespace {

constexpr std::uint64_t kStoredBuckets = 256;

std::uint64_t BucketOf(std::string_view name) { return HashKey(name) % kStoredBuckets; }

}  // namespace

void PartitionState::ApplyStored(const TriggerStoredRecord& record) {
  const std::string name(record.name);
  dirty_stored_buckets_.insert(BucketOf(name));
  if (record.text.empty()) {
    stored_triggers_.erase(name);
  } else {
    stored_triggers_[name] = std::string(record.text);
  }
}

void PartitionState::ApplyReplay(const ReplayRecord& record) {
  TriggerRecord* trigger = FindTrigger(record.trigger);
  if (lenient_ && trigger == nullptr) return;
  TOCSIN_CHECK(trigger != nullptr, "unknown trigger {} is replayed", record.trigger.value());
  trigger->dirty = true;
  trigger->replays = record.number;
  trigger->replay.reset();
  if (record.over) return;
  trigger->replay = std::make_unique<ReplayState>(
      ReplayState{record.next, record.end, record.from_us, record.until_us, record.rate_millis,
                  record.copied, std::string(record.where)});
}

// Before the triggers' own pages: those clear what is dirty.
void PartitionState::TakeRoutePages(bool every, CheckpointDelta& delta) {
  for (const auto& trigger : triggers_) {
    const bool saved =
        saved_parts_.contains({kTriggerPastTable, std::uint64_t{trigger->ordinal.value()}});
    const bool any = !trigger->former.empty() || trigger->replays > 0;
    if (!(every || trigger->dirty) || !(any || saved)) continue;
    std::string out;
    if (any) {
      PutVarint(out, trigger->former.size());
      for (const FormerConfig& former : trigger->former) {
        PutVarint(out, former.until.value());
        PutBytes(out, former.config_json.str());
      }
      PutVarint(out, trigger->replays);
      PutVarint(out, trigger->replay ? 1 : 0);
    }
    if (trigger->replay) {
      const ReplayState& replay = *trigger->replay;
      PutVarint(out, replay.next.value());
      PutVarint(out, replay.end.value());
      PutI64(out, replay.from_us);
      PutI64(out, replay.until_us);
      PutVarint(out, replay.rate_millis);
      PutVarint(out, replay.copied);
      PutBytes(out, replay.where);
    }
    SavePages(kTriggerPastTable, trigger->ordinal.value(), out, delta);
  }
  if (every) {
    for (const auto& [name, text] : stored_triggers_) {
      dirty_stored_buckets_.insert(BucketOf(name));
    }
  }
  std::map<std::uint64_t, std::string> buckets;
  for (const std::uint64_t bucket : std::exchange(dirty_stored_buckets_, {})) buckets[bucket];
  if (buckets.empty()) return;
  for (const auto& [name, text] : stored_triggers_) {
    if (Planted(Canary::kStoredForgotten)) break;
    const auto bucket = buckets.find(BucketOf(name));
    if (bucket == buckets.end()) continue;
    PutBytes(bucket->second, name);
    PutBytes(bucket->second, text);
  }
  for (auto& [bucket, out] : buckets) SavePages(kStoredTriggerTable, bucket, out, delta);
}

absl::Status PartitionState::LoadPast(std::uint64_t item, std::string_view bytes) {
  if (item >= triggers_.size()) return MalformedItem(kTriggerPastTable, item);
  TriggerRecord& trigger = *triggers_[item];
  PageReader reader(bytes);
  for (std::uint64_t left = reader.U64(); reader.ok() && left > 0; --left) {
    FormerConfig& former = trigger.former.emplace_back();
    former.until = Offset(reader.U64());
    former.config_json = SharedText(reader.View());
  }
  trigger.replays = reader.U32();
  if (reader.Flag()) {
    trigger.replay = std::make_unique<ReplayState>();
    ReplayState& replay = *trigger.replay;
    replay.next = Offset(reader.U64());
    replay.end = Offset(reader.U64());
    replay.from_us = reader.I64();
    replay.until_us = reader.I64();
    replay.rate_millis = reader.U64();
    replay.copied = reader.U64();
    replay.where = reader.Text();
  }
  return reader.ok() ? absl::OkStatus() : MalformedItem(kTriggerPastTable, item);
}

absl::Status PartitionState::LoadStored(std::string_view bytes) {
  PageReader reader(bytes);
  while (reader.More()) {
    const std::string name = reader.Text();
    stored_triggers_[name] = reader.Text();
  }
  return reader.ok() ? absl::OkStatus() : MalformedItem(kStoredTriggerTable, 0);
}

}  // namespace tocsin
