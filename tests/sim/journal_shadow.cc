#include "tests/sim/journal_shadow.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/journal/record.h"

namespace tocsin {
namespace {

// Records are `<id>:padding`.
std::uint64_t IdOf(const std::string& body) {
  RecordReader reader(body);
  RecordView record;
  if (!reader.Next(record) || record.type == RecordType::kOwnerOpened) return 0;
  std::uint64_t id = 0;
  std::from_chars(record.body.data(), record.body.data() + record.body.size(), id);
  return id;
}

}  // namespace

std::uint64_t JournalShadow::NextId(const RecordBatch& batch) { return IdOf(*batch.body); }

RecordBatch JournalShadow::Submit(PartitionId id, Epoch epoch, std::uint32_t events,
                                  std::size_t bytes, std::size_t letters) {
  Partition& partition = at(id);
  Batch batch;
  batch.id = next_id_++;
  batch.epoch = epoch;
  batch.base_offset = Offset(partition.next_offset);
  batch.event_count = events;
  batch.stale = epoch.value() < partition.epoch_answered;
  RecordWriter writer(batch.body);
  const std::string text =
      fmt::format("{}:", batch.id) + std::string(bytes, static_cast<char>('a' + batch.id % 26));
  for (std::uint32_t i = 0; i < std::max(events, 1u); ++i) {
    writer.Add(events > 0 ? RecordType::kEvent : RecordType::kSettled, text);
  }
  for (std::size_t i = 0; i < letters; ++i) {
    batch.letters.push_back(
        {{id, Offset(batch.id), TriggerOrdinal(1), static_cast<std::uint32_t>(i)},
         fmt::format("letter {}/{}", batch.id, i) + std::string(bytes / 2, 'l')});
  }
  RecordBatch out;
  out.partition = id;
  out.epoch = epoch;
  out.base_offset = batch.base_offset;
  out.event_count = events;
  out.record_count = writer.count();
  out.append_time_us = static_cast<std::int64_t>(batch.id);
  out.body = std::make_shared<const std::string>(batch.body);
  out.letters = batch.letters;
  partition.next_offset += events;
  ++partition.outstanding;
  partition.batches.push_back(std::move(batch));
  return out;
}

void JournalShadow::Answered(PartitionId id, std::uint64_t batch_id,
                             const absl::StatusOr<AppendResult>& result) {
  Partition& partition = at(id);
  const auto found =
      std::lower_bound(partition.batches.begin(), partition.batches.end(), batch_id,
                       [](const Batch& batch, std::uint64_t value) { return batch.id < value; });
  TOCSIN_CHECK(found != partition.batches.end() && found->id == batch_id);
  Batch& batch = *found;
  if (partition.outstanding > 0) --partition.outstanding;
  if (result.ok()) {
    if (batch.stale) Violate("an append of an older epoch completed");
    ++answered_;
    batch.fate = Fate::kAnswered;
    batch.position = result->position;
    batch.end = result->end;
    batch.letter_positions = result->letters;
    if (result->position < partition.durable_end) Violate("positions went back");
    partition.durable_end = result->end;
    if (result->letters.size() != batch.letters.size()) Violate("a letter has no position");
    return;
  }
  switch (result.status().code()) {
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kAborted:
      if (!batch.stale) {
        partition.resume_offset =
            std::min(partition.resume_offset.value_or(UINT64_MAX), batch.base_offset.value());
      }
      batch.fate = Fate::kRefused;
      break;
    case absl::StatusCode::kUnavailable:
      batch.fate = Fate::kRefused;
      break;
    case absl::StatusCode::kUnknown:
      batch.fate = Fate::kUnknown;
      break;
    default:
      Violate(fmt::format("append answered {}", result.status().ToString()));
  }
}

void JournalShadow::Opened(PartitionId id, const OpenResult& opened, bool restarted) {
  Partition& partition = at(id);
  if (opened.epoch.value() <= partition.epoch_answered) {
    Violate(fmt::format("partition {}: epoch {} after {}", id.value(), opened.epoch.value(),
                        partition.epoch_answered));
  }
  partition.epoch_answered = opened.epoch.value();
  partition.durable_end = opened.end;
  if (!opened.checkpoint) {
    if (partition.checkpointed) Violate("an answered checkpoint is gone");
    if (restarted) partition.pending.reset();
    return;
  }
  Pages pages;
  for (const CheckpointPage& page : opened.checkpoint->pages) {
    pages[{page.table, page.page}] = page.bytes;
  }
  const JournalPosition replay_from = opened.checkpoint->replay_from;
  const bool answered =
      partition.checkpointed && pages == partition.pages && replay_from == partition.replay_from;
  const bool pending = partition.pending && pages == partition.pending->pages &&
                       replay_from == partition.pending->replay_from;
  if (!answered && !pending) Violate("the checkpoint is none of those written");
  if (replay_from < opened.start) Violate("the log was trimmed above the checkpoint");
  partition.checkpointed = true;
  partition.pages = std::move(pages);
  partition.replay_from = replay_from;
  if (restarted) partition.pending.reset();
}

void JournalShadow::Observe(PartitionId id, const OpenResult& opened, const ReadResult& read) {
  Partition& partition = at(id);
  for (std::size_t i = 0; i < partitions_.size(); ++i) {
    // Segments are shared: the slowest partition's permission counts.
    if (opened.start.value() > 0 && opened.start > partitions_[i].trim_below) {
      Violate(fmt::format("trimmed to {} without partition {}'s permission ({})",
                          opened.start.value(), i, partitions_[i].trim_below.value()));
    }
  }
  std::map<std::uint64_t, const StoredBatch*> found;
  std::uint64_t last_id = 0;
  std::optional<std::uint64_t> next_offset;
  std::uint32_t epoch = 0;
  JournalPosition end = opened.start;
  for (const StoredBatch& stored : read.batches) {
    if (stored.position < end) Violate("batches overlap");
    end = JournalPosition(stored.position.value() + stored.body->size());
    if (stored.epoch.value() < epoch) Violate("epochs went back");
    epoch = stored.epoch.value();
    if (next_offset && stored.base_offset.value() != *next_offset && read.unreadable.empty()) {
      Violate(fmt::format("partition {}: offset {} where {} was expected", id.value(),
                          stored.base_offset.value(), *next_offset));
    }
    next_offset = stored.base_offset.value() + stored.event_count;
    const std::uint64_t batch_id = IdOf(*stored.body);
    if (batch_id == 0) continue;
    if (batch_id <= last_id) Violate("batches out of order, or twice");
    last_id = batch_id;
    found[batch_id] = &stored;
  }
  bool missing = false;
  for (Batch& batch : partition.batches) {
    const auto at_id = found.find(batch.id);
    const std::string name =
        fmt::format("partition {} batch {} (offset {}, position {})", id.value(), batch.id,
                    batch.base_offset.value(), batch.position.value());
    if (at_id == found.end()) {
      switch (batch.fate) {
        case Fate::kAnswered:
        case Fate::kSeen:
          if (batch.position >= opened.start) Violate(name + " was answered and is gone");
          break;
        case Fate::kPending:
        case Fate::kUnknown:
          batch.fate = Fate::kGone;
          missing = missing || !batch.stale;
          break;
        case Fate::kRefused:
        case Fate::kGone:
        case Fate::kDamaged:
          break;
      }
      continue;
    }
    const StoredBatch& stored = *at_id->second;
    found.erase(at_id);
    if (missing) Violate(name + " is there, but one before it is not");
    if (batch.fate == Fate::kRefused) Violate(name + " was refused and is there");
    if (batch.fate == Fate::kGone) Violate(name + " came back");
    if (batch.fate == Fate::kDamaged) Violate(name + " is damaged and was served");
    if ((batch.fate == Fate::kAnswered || batch.fate == Fate::kSeen) &&
        batch.position != stored.position) {
      Violate(name + " moved");
    }
    if (*stored.body != batch.body || stored.base_offset != batch.base_offset ||
        stored.event_count != batch.event_count || stored.epoch != batch.epoch) {
      Violate(name + " is not what was written");
    }
    batch.position = stored.position;
    batch.fate = Fate::kSeen;
  }
  if (!found.empty()) Violate("a batch that nobody wrote");
  if (!read.at_end) Violate("the read did not reach the end");
  if (next_offset) partition.next_offset = *next_offset;
  partition.resume_offset.reset();
}

void JournalShadow::ObserveLetters(PartitionId id, const std::vector<LetterRef>& letters) {
  const Partition& partition = at(id);
  std::map<LetterPosition, DeliveryId> there;
  std::set<DeliveryId> ids;
  for (const LetterRef& letter : letters) {
    there[letter.position] = letter.id;
    ids.insert(letter.id);
  }
  for (const Batch& batch : partition.batches) {
    // Whoever finds the settlement must find the letter, answered or not.
    if (batch.fate == Fate::kSeen && partition.trim_letters_below == LetterPosition()) {
      for (const LetterPut& letter : batch.letters) {
        if (!ids.contains(letter.id)) {
          Violate(fmt::format("batch {} is there without its letter", batch.id));
        }
      }
    }
    for (std::size_t i = 0; i < batch.letter_positions.size(); ++i) {
      const LetterPosition position = batch.letter_positions[i];
      if (position < partition.trim_letters_below) continue;
      const auto found = there.find(position);
      if (found == there.end() || found->second != batch.letters[i].id) {
        Violate(fmt::format("letter {} of batch {} is gone", i, batch.id));
      }
    }
  }
}

bool JournalShadow::MarkDamaged(JournalPosition from, JournalPosition to) {
  for (Partition& partition : partitions_) {
    for (Batch& batch : partition.batches) {
      if ((batch.fate == Fate::kAnswered || batch.fate == Fate::kSeen) && batch.position >= from &&
          batch.position < to) {
        batch.fate = Fate::kDamaged;
        return true;
      }
    }
  }
  return false;
}

void JournalShadow::Forget() {
  for (Partition& partition : partitions_) partition.outstanding = 0;
}

}  // namespace tocsin
