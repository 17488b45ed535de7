// The checkpoint form of PartitionState: tables of pages (journal.h). An item of a table, e.g. a
// trigger, is cut into at most 256 parts; the page number is item << 8 | part.

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/canary.h"
#include "broker/base/hash.h"
#include "broker/base/status.h"
#include "broker/partition/checkpoint_fields.h"
#include "broker/partition/partition_state.h"

namespace tocsin {
namespace {

constexpr std::uint32_t kMetaTable = 0;
constexpr std::uint32_t kTriggerTable = 1;
constexpr std::uint32_t kDedupeTable = 2;
constexpr std::uint32_t kLaneTable = 3;
constexpr std::uint32_t kLaneEntryTable = 4;
constexpr std::uint32_t kLetterTable = 5;
constexpr std::uint32_t kOutgoingTable = 6;
constexpr std::uint32_t kScheduleTable = 7;
constexpr std::uint32_t kTrackedTable = 8;
// 9 to 11: ScheduleTable.
constexpr std::uint32_t kScheduleNoteTable = 12;

constexpr std::size_t kPartBytes = std::size_t{200} << 10;
constexpr int kPartBits = 8;
constexpr int kBucketBits = 20;
constexpr int kOffsetPageBits = 10;

void PutNotes(std::string& out, const std::vector<AttemptNote>& notes) {
  PutVarint(out, notes.size());
  for (const AttemptNote& note : notes) {
    PutVarint(out, note.attempt);
    PutI64(out, note.at.time_since_epoch().count());
    PutBytes(out, note.code);
    PutBytes(out, note.message);
    PutVarint(out, note.worker_died ? 1 : 0);
  }
}

void PutId(std::string& out, const DeliveryId& id) {
  PutVarint(out, id.offset.value());
  PutVarint(out, id.trigger.value());
  PutVarint(out, id.run);
}

DeliveryId GetId(PageReader& reader, PartitionId partition) {
  DeliveryId id;
  id.partition = partition;
  id.offset = Offset(reader.U64());
  id.trigger = TriggerOrdinal(reader.U32());
  id.run = reader.U32();
  return id;
}

std::string EncodeTrigger(const TriggerRecord& trigger) {
  std::string out;
  PutBytes(out, trigger.name);
  PutVarint(out, trigger.generation);
  PutBytes(out, trigger.config_hash.str());
  PutBytes(out, trigger.config_json.str());
  PutVarint(out, (trigger.paused ? 1u : 0u) | (trigger.detached ? 2u : 0u) |
                     (trigger.forgotten ? 4u : 0u));
  PutI64(out, trigger.detached_us);
  PutVarint(out, trigger.matched);
  PutVarint(out, trigger.acked);
  PutVarint(out, trigger.dead);
  PutVarint(out, trigger.dropped);
  PutVarint(out, trigger.expired);
  PutVarint(out, trigger.floor.value());
  std::string settled;
  (Planted(Canary::kSettledForgotten) ? SettledSet() : trigger.settled).EncodeTo(settled);
  PutBytes(out, settled);
  std::vector<std::uint64_t> indexes;
  for (const auto& [index, history] : trigger.attempts) indexes.push_back(index);
  std::sort(indexes.begin(), indexes.end());
  PutVarint(out, indexes.size());
  for (const std::uint64_t index : indexes) {
    const AttemptHistory& history = trigger.attempts.at(index);
    PutVarint(out, index);
    PutVarint(out, history.offset.value());
    PutVarint(out, history.failed);
    PutI64(out, history.first_us);
    PutI64(out, history.due_us);
    PutVarint(out, history.alone ? 1 : 0);
    PutNotes(out, history.notes);
  }
  PutVarint(out, trigger.parked.size());
  for (const auto& [key, parked] : trigger.parked) {
    PutBytes(out, key);
    PutId(out, parked.letter);
    PutVarint(out, parked.redriven_as ? parked.redriven_as->value() + 1 : 0);
  }
  PutVarint(out, trigger.redriving.size());
  for (const auto& [index, key] : trigger.redriving) {
    PutVarint(out, index);
    PutBytes(out, key);
  }
  if (trigger.catch_up) PutVarint(out, trigger.catch_up->value());
  return out;
}

bool DecodeTrigger(std::string_view bytes, PartitionId partition, TriggerRecord& trigger) {
  PageReader reader(bytes);
  trigger.name = reader.Text();
  trigger.generation = reader.U64();
  trigger.config_hash = SharedText(reader.View());
  trigger.config_json = SharedText(reader.View());
  const std::uint64_t flags = reader.U64();
  trigger.paused = (flags & 1) != 0;
  trigger.detached = (flags & 2) != 0;
  trigger.forgotten = (flags & 4) != 0;
  trigger.detached_us = reader.I64();
  trigger.matched = reader.U64();
  trigger.acked = reader.U64();
  trigger.dead = reader.U64();
  trigger.dropped = reader.U64();
  trigger.expired = reader.U64();
  trigger.floor = Offset(reader.U64());
  if (!trigger.settled.DecodeFrom(reader.View())) return false;
  for (std::uint64_t left = reader.U64(); reader.ok() && left > 0; --left) {
    AttemptHistory& history = trigger.attempts[reader.U64()];
    history.offset = Offset(reader.U64());
    history.failed = reader.U32();
    history.first_us = reader.I64();
    history.due_us = reader.I64();
    history.alone = reader.Flag();
    for (std::uint64_t notes = reader.U64(); reader.ok() && notes > 0; --notes) {
      AttemptNote note;
      note.attempt = reader.U32();
      note.at = WallTime(std::chrono::microseconds(reader.I64()));
      note.code = reader.Text();
      note.message = reader.Text();
      note.worker_died = reader.Flag();
      history.notes.push_back(std::move(note));
    }
  }
  for (std::uint64_t left = reader.U64(); reader.ok() && left > 0; --left) {
    const std::string key = reader.Text();
    ParkedKey& parked = trigger.parked[key];
    parked.letter = GetId(reader, partition);
    const std::uint64_t redriven = reader.U64();
    if (redriven > 0) parked.redriven_as = Offset(redriven - 1);
  }
  for (std::uint64_t left = reader.U64(); reader.ok() && left > 0; --left) {
    const std::uint64_t index = reader.U64();
    trigger.redriving[index] = reader.Text();
  }
  if (reader.More()) trigger.catch_up = Offset(reader.U64());
  return reader.ok();
}

}  // namespace

void PartitionState::SavePages(std::uint32_t table, std::uint64_t item, std::string_view bytes,
                               CheckpointDelta& delta) {
  // Of a very large item the parts are larger: their numbers must not run into the next item's.
  constexpr std::size_t kPartsMax = std::size_t{1} << kPartBits;
  const std::size_t part_bytes = std::max(kPartBytes, (bytes.size() + kPartsMax - 1) / kPartsMax);
  std::uint32_t part = 0;
  for (std::size_t position = 0; position < bytes.size(); position += part_bytes, ++part) {
    delta.pages.push_back(
        {table, (item << kPartBits) | part, std::string(bytes.substr(position, part_bytes))});
  }
  std::uint32_t& saved = saved_parts_[{table, item}];
  for (std::uint32_t gone = part; gone < saved; ++gone) {
    delta.pages.push_back({table, (item << kPartBits) | gone, ""});
  }
  saved = part;
  if (part == 0) saved_parts_.erase({table, item});
}

void PartitionState::TakePages(bool every, CheckpointDelta& delta) {
  ++checkpoints_taken_;
  every = every || std::exchange(force_every_, false);
  for (auto event = tracked_.begin(); event != tracked_.end();) {
    // Told two checkpoints ago and dead-letter free: the lane has had its time to act on it.
    if (event->second.told && event->second.remaining == 0 && event->second.dead_open == 0 &&
        event->second.told_at + 2 <= checkpoints_taken_) {
      dirty_tracked_pages_.insert(event->first >> kOffsetPageBits);
      event = tracked_.erase(event);
    } else {
      ++event;
    }
  }

  std::string meta;
  PutVarint(meta, 1);
  PutVarint(meta, end_.value());
  PutVarint(meta, triggers_.size());
  PutVarint(meta, lane_numbers_.size());
  SavePages(kMetaTable, 0, meta, delta);

  TakeRoutePages(every, delta);
  for (const auto& trigger : triggers_) {
    if (!every && !trigger->dirty) continue;
    SavePages(kTriggerTable, trigger->ordinal.value(), EncodeTrigger(*trigger), delta);
    trigger->dirty = false;
  }
  dedupe_.TakePages(every, [&](std::uint64_t page, std::string bytes) {
    delta.pages.push_back({kDedupeTable, page, std::move(bytes)});
  });
  for (LaneRecord* lane : lane_numbers_) {
    if (every || lane->dirty) {
      std::string out;
      PutBytes(out, lane->id.source);
      PutBytes(out, lane->id.key);
      PutBytes(out, lane->position);
      PutVarint(out, lane->events);
      PutVarint(out, lane->buckets.size());
      SavePages(kLaneTable, lane->number, out, delta);
      lane->dirty = false;
    }
    for (std::size_t bucket = 0; bucket < lane->buckets.size(); ++bucket) {
      if (!every && !lane->dirty_buckets[bucket]) continue;
      std::vector<std::pair<std::string_view, std::string_view>> sorted;
      for (const auto& [key, value] : lane->buckets[bucket]) sorted.emplace_back(key, value);
      std::sort(sorted.begin(), sorted.end());
      std::string out;
      for (const auto& [key, value] : sorted) {
        PutBytes(out, key);
        PutBytes(out, value);
      }
      SavePages(kLaneEntryTable, (std::uint64_t{lane->number} << kBucketBits) | bucket, out, delta);
      lane->dirty_buckets[bucket] = false;
    }
  }

  if (every) {
    for (const auto& [id, letter] : letters_) {
      dirty_letter_pages_.insert(id.offset.value() >> kOffsetPageBits);
    }
    for (const auto& [offset, event] : tracked_) {
      dirty_tracked_pages_.insert(offset >> kOffsetPageBits);
    }
    for (std::uint64_t bucket = 0; bucket < 256; ++bucket) dirty_schedule_buckets_.insert(bucket);
  }
  for (const std::uint64_t page : dirty_letter_pages_) {
    std::string out;
    for (auto letter =
             letters_.lower_bound(DeliveryId{id_, Offset(page << kOffsetPageBits), {}, 0});
         letter != letters_.end() && letter->first.offset.value() >> kOffsetPageBits == page;
         ++letter) {
      PutId(out, letter->first);
      PutVarint(out, letter->second.parked ? 1 : 0);
      PutBytes(out, letter->second.key);
      PutVarint(out, letter->second.position.value());
      PutI64(out, letter->second.died_us);
    }
    SavePages(kLetterTable, page, out, delta);
  }
  dirty_letter_pages_.clear();
  if (every || outgoing_dirty_) {
    std::string out;
    for (const auto& [home, lane] : outgoing_) {
      PutVarint(out, home.value());
      PutVarint(out, lane.next_sequence);
      PutVarint(out, lane.pending.size());
      for (const auto& [sequence, event] : lane.pending) {
        PutVarint(out, sequence);
        PutBytes(out, event);
      }
    }
    SavePages(kOutgoingTable, 0, out, delta);
    outgoing_dirty_ = false;
  }
  if (!dirty_schedule_buckets_.empty()) {
    std::map<std::uint64_t, std::string> buckets;
    for (const std::uint64_t bucket : dirty_schedule_buckets_) buckets[bucket];
    for (const auto& [name, schedule] : schedules_) {
      const auto bucket = buckets.find(HashKey(name) & 0xff);
      if (bucket == buckets.end()) continue;
      PutBytes(bucket->second, name);
      PutBytes(bucket->second, schedule.state);
      PutVarint(bucket->second, schedule.fired);
      PutVarint(bucket->second, schedule.skipped);
      PutVarint(bucket->second, schedule.last_fire ? schedule.last_fire->value() + 1 : 0);
    }
    for (auto& [bucket, out] : buckets) SavePages(kScheduleTable, bucket, out, delta);
    dirty_schedule_buckets_.clear();
  }
  if (every || schedule_notes_dirty_) SaveScheduleNotes(delta);
  dynamic_.BeginSnapshot(every);
  std::map<std::uint64_t, std::vector<Match>> matches;
  if (!dirty_tracked_pages_.empty()) {
    for (const auto& [match, offset] : tracked_matches_) {
      matches[offset].push_back({TriggerOrdinal(match.first), match.second});
    }
  }
  for (const std::uint64_t page : dirty_tracked_pages_) {
    std::string out;
    for (auto event = tracked_.lower_bound(page << kOffsetPageBits);
         event != tracked_.end() && event->first >> kOffsetPageBits == page; ++event) {
      const TrackedEvent& tracked = event->second;
      PutVarint(out, event->first);
      PutVarint(out, tracked.schedule ? 1 : 0);
      PutBytes(out, tracked.source);
      PutBytes(out, tracked.lane);
      PutBytes(out, tracked.event_id);
      PutVarint(out, tracked.remaining);
      PutVarint(out, tracked.acked);
      PutVarint(out, tracked.dead_open);
      std::vector<Match>& held = matches[event->first];
      std::sort(held.begin(), held.end());
      PutVarint(out, held.size());
      for (const Match& match : held) {
        PutVarint(out, match.trigger.value());
        PutVarint(out, match.index);
      }
    }
    SavePages(kTrackedTable, page, out, delta);
  }
  dirty_tracked_pages_.clear();
}

absl::Status PartitionState::LoadPages(const std::vector<CheckpointPage>& pages) {
  std::size_t ids = 0;
  for (const CheckpointPage& page : pages) {
    if (page.table == kDedupeTable) ids += DedupeTable::IdsIn(page.bytes);
  }
  dedupe_.Reserve(ids);
  for (std::size_t i = 0; i < pages.size();) {
    const CheckpointPage& first = pages[i];
    if (first.table == kDedupeTable) {
      if (!Planted(Canary::kRepeatForgotten)) {
        TOCSIN_RETURN_IF_ERROR(dedupe_.LoadPage(first.page, first.bytes));
      }
      ++i;
      continue;
    }
    if (ScheduleTable::OwnsTable(first.table)) {
      TOCSIN_RETURN_IF_ERROR(dynamic_.LoadPage(first));
      ++i;
      continue;
    }
    const std::uint64_t item = first.page >> kPartBits;
    std::string bytes;
    std::uint32_t parts = 0;
    for (; i < pages.size() && pages[i].table == first.table && pages[i].page >> kPartBits == item;
         ++i, ++parts) {
      bytes += pages[i].bytes;
    }
    saved_parts_[{first.table, item}] = parts;
    TOCSIN_RETURN_IF_ERROR(LoadItem(first.table, item, bytes));
  }
  TOCSIN_RETURN_IF_ERROR(dynamic_.FinishLoad());
  for (const auto& [offset, event] : tracked_) {
    if (!event.schedule && event.remaining == 0) settled_events_.push_back(offset);
  }
  return absl::OkStatus();
}

absl::Status PartitionState::LoadItem(std::uint32_t table, std::uint64_t item,
                                      std::string_view bytes) {
  PageReader reader(bytes);
  switch (table) {
    case kMetaTable: {
      const std::uint64_t version = reader.U64();
      if (version != 1) {
        return absl::FailedPreconditionError(fmt::format(
            "checkpoint of version {}, this program reads 1: use the newer program", version));
      }
      end_ = Offset(reader.U64());
      break;
    }
    case kTriggerTable: {
      if (item > triggers_.size()) return MalformedItem(table, item);
      auto trigger = std::make_unique<TriggerRecord>();
      trigger->ordinal = TriggerOrdinal(static_cast<std::uint32_t>(item));
      if (!DecodeTrigger(bytes, id_, *trigger)) return MalformedItem(table, item);
      trigger->dirty = false;
      if (!trigger->forgotten) trigger_names_[trigger->name] = trigger->ordinal;
      triggers_.push_back(std::move(trigger));
      return absl::OkStatus();
    }
    case kLaneTable: {
      const std::string source = reader.Text();
      const std::string key = reader.Text();
      LaneRecord& lane = LaneOf(source, key);
      if (lane.number != item) return MalformedItem(table, item);
      lane.position = reader.Text();
      lane.events = reader.U64();
      const std::uint64_t buckets = reader.U64();
      if (buckets == 0 || buckets > (std::uint64_t{1} << kBucketBits))
        return MalformedItem(table, item);
      lane.buckets.resize(buckets);
      lane.dirty_buckets.assign(buckets, false);
      lane.dirty = false;
      break;
    }
    case kLaneEntryTable: {
      const std::uint64_t number = item >> kBucketBits;
      const std::uint64_t bucket = item & ((std::uint64_t{1} << kBucketBits) - 1);
      if (number >= lane_numbers_.size()) return MalformedItem(table, item);
      LaneRecord& lane = *lane_numbers_[number];
      if (bucket >= lane.buckets.size()) return MalformedItem(table, item);
      while (reader.More()) {
        std::string key = reader.Text();
        lane.buckets[bucket][std::move(key)] = reader.Text();
        ++lane.entry_count;
      }
      break;
    }
    case kLetterTable:
      while (reader.More()) {
        OpenLetter letter;
        letter.id = GetId(reader, id_);
        letter.parked = reader.Flag();
        letter.key = reader.Text();
        letter.position = LetterPosition(reader.U64());
        letter.died_us = reader.I64();
        letters_[letter.id] = std::move(letter);
      }
      break;
    case kOutgoingTable:
      while (reader.More()) {
        OutgoingLane& lane = outgoing_[PartitionId(reader.U32())];
        lane.next_sequence = reader.U64();
        for (std::uint64_t left = reader.U64(); reader.ok() && left > 0; --left) {
          const std::uint64_t sequence = reader.U64();
          std::string& pending = lane.pending[sequence];
          pending = reader.Text();
          outgoing_bytes_ += pending.size();
        }
      }
      outgoing_dirty_ = false;
      break;
    case kScheduleTable:
      while (reader.More()) {
        ScheduleRecordState& schedule = schedules_[reader.Text()];
        schedule.state = reader.Text();
        schedule.fired = reader.U64();
        schedule.skipped = reader.U64();
        const std::uint64_t fire = reader.U64();
        if (fire > 0) schedule.last_fire = Offset(fire - 1);
      }
      break;
    case kScheduleNoteTable:
      return LoadScheduleNotes(bytes);
    case kTrackedTable:
      while (reader.More()) {
        TrackedEvent event;
        event.offset = Offset(reader.U64());
        event.schedule = reader.Flag();
        event.source = reader.Text();
        event.lane = reader.Text();
        event.event_id = reader.Text();
        event.remaining = reader.U32();
        event.acked = reader.U32();
        event.dead_open = reader.U32();
        for (std::uint64_t left = reader.U64(); reader.ok() && left > 0; --left) {
          const std::uint32_t ordinal = reader.U32();
          tracked_matches_[{ordinal, reader.U64()}] = event.offset.value();
        }
        if (event.schedule && event.remaining > 0) {
          open_fires_[event.source].insert(event.offset.value());
        }
        tracked_[event.offset.value()] = std::move(event);
      }
      break;
    case kTriggerPastTable:
      return LoadPast(item, bytes);
    case kStoredTriggerTable:
      return LoadStored(bytes);
    default:
      return absl::FailedPreconditionError(fmt::format(
          "checkpoint: unknown table {}: it was written by a newer program; use that one", table));
  }
  return reader.ok() ? absl::OkStatus() : MalformedItem(table, item);
}

std::string PartitionState::Digest() {
  CheckpointDelta delta;
  const std::uint64_t taken = checkpoints_taken_;
  TakePages(true, delta);
  while (!dynamic_.NextPages(SIZE_MAX, delta)) {
  }
  checkpoints_taken_ = taken;
  force_every_ = true;
  std::sort(delta.pages.begin(), delta.pages.end(), [](const auto& a, const auto& b) {
    return std::pair(a.table, a.page) < std::pair(b.table, b.page);
  });
  std::string all;
  for (const CheckpointPage& page : delta.pages) {
    if (page.bytes.empty() || page.table == kDedupeTable) continue;
    PutVarint(all, page.table);
    PutVarint(all, page.page);
    PutBytes(all, page.bytes);
  }
  return all;
}

}  // namespace tocsin
