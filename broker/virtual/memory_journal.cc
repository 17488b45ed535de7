#include "broker/virtual/memory_journal.h"

#include <algorithm>
#include <iterator>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/journal/record.h"

namespace tocsin {
namespace {

constexpr std::uint64_t kBatchOverhead = 80;  // what a header takes on disk

StoredBatch Stored(const RecordBatch& batch) {
  return StoredBatch{JournalPosition(),  batch.epoch,          batch.base_offset, batch.event_count,
                     batch.record_count, batch.append_time_us, batch.body};
}

}  // namespace

struct MemoryJournal::Answer {
  Executor* owner = nullptr;
  std::vector<Notify> notify_written;
  std::vector<Notify> notify;
  AppendDone done;
  absl::StatusOr<AppendResult> result;
  std::uint64_t refusal = 0;
  std::shared_ptr<std::atomic<std::uint64_t>> heard;  // set if it was refused
};

MemoryJournal::MemoryJournal(Executor& engine, MemoryJournalOptions options)
    : engine_(engine), version_(options.version), options_(std::move(options)) {}

JournalPosition MemoryJournal::Put(Partition& partition, StoredBatch batch) {
  const JournalPosition position(end_);
  const std::uint64_t bytes = kBatchOverhead + batch.body->size();
  batch.position = position;
  end_ += bytes;
  log_bytes_ += bytes;
  partition.next_offset = batch.base_offset.value() + batch.event_count;
  partition.append_time_us = batch.append_time_us;
  partition.position_of[batch.base_offset.value()] = position.value();
  partition.batches.emplace(position.value(), std::move(batch));
  return position;
}

void MemoryJournal::Open(PartitionId id, Executor& owner, OpenDone done) {
  engine_.Post([this, id, &owner, done = std::move(done)]() mutable {
    OpenResult result;
    {
      const MutexLock lock(mutex_);
      Partition& partition = partitions_[id];
      partition.owner = &owner;
      partition.epoch = Epoch(partition.epoch.value() + 1);
      *partition.refusals_heard = partition.refusals;
      std::string body;
      RecordWriter(body).Add(RecordType::kOwnerOpened,
                             OwnerOpened{partition.epoch, version_}.Encode());
      StoredBatch batch;
      batch.epoch = partition.epoch;
      batch.base_offset = Offset(partition.next_offset);
      batch.append_time_us = partition.append_time_us;
      batch.record_count = 1;
      batch.body = std::make_shared<const std::string>(std::move(body));
      Put(partition, std::move(batch));
      result.epoch = partition.epoch;
      result.next_offset = Offset(partition.next_offset);
      if (partition.replay_from) {
        Checkpoint checkpoint{*partition.replay_from, {}};
        for (const auto& [key, bytes] : partition.pages) {
          checkpoint.pages.push_back({key.first, key.second, bytes});
        }
        result.checkpoint = std::move(checkpoint);
      }
      result.start = JournalPosition(partition.batches.begin()->first);
      result.end = JournalPosition(end_);
    }
    owner.Post([done = std::move(done), result = std::move(result)]() mutable {
      done(std::move(result));
    });
  });
}

void MemoryJournal::Append(RecordBatch batch, AppendDone done) {
  TOCSIN_CHECK(batch.body != nullptr, "a batch without a body");
  const MutexLock lock(mutex_);
  const std::uint64_t heard = *partitions_[batch.partition].refusals_heard;
  pending_.push_back(Pending{std::move(batch), std::move(done), heard});
  if (held_ || commit_posted_) return;
  commit_posted_ = true;
  engine_.Post([this] { Commit(); });
}

MemoryJournal::Answer MemoryJournal::CommitOne(Pending pending) {
  const auto found = partitions_.find(pending.batch.partition);
  TOCSIN_CHECK(found != partitions_.end() && found->second.owner != nullptr,
               "append to partition {}, which is not open", pending.batch.partition.value());
  Partition& partition = found->second;
  RecordBatch& batch = pending.batch;
  Answer answer{partition.owner,
                std::move(batch.notify_written),
                std::move(batch.notify),
                std::move(pending.done),
                AppendResult{},
                0,
                nullptr};
  std::uint64_t letter_bytes = 0;
  for (const LetterPut& letter : batch.letters) letter_bytes += letter.bytes.size();
  if (batch.epoch != partition.epoch) {
    answer.result = absl::AbortedError(
        fmt::format("partition {} was opened again: epoch {} is now {}", batch.partition.value(),
                    batch.epoch.value(), partition.epoch.value()));
  } else if (batch.base_offset.value() < partition.next_offset) {
    answer.result = absl::InvalidArgumentError(
        fmt::format("offset {} of partition {} is used: the next one is {}",
                    batch.base_offset.value(), batch.partition.value(), partition.next_offset));
  } else if (failures_ > 0) {
    --failures_;
    answer.result = failure_;
  } else if (batch.body->size() > options_.batch_bytes_max) {
    answer.result = absl::ResourceExhaustedError(fmt::format(
        "a batch of {} bytes is over {}", batch.body->size(), options_.batch_bytes_max));
  } else if (log_bytes_ + letter_bytes_ + batch.body->size() + letter_bytes >
             options_.log_bytes_max) {
    answer.result = absl::ResourceExhaustedError("the journal is full");
  } else if (pending.refusals_heard < partition.refusals) {
    answer.result = absl::ResourceExhaustedError("a batch before this one was refused");
  } else {
    AppendResult result;
    for (LetterPut& letter : batch.letters) {
      result.letters.emplace_back(letter_end_);
      letter_bytes_ += letter.bytes.size();
      const std::uint64_t bytes = kBatchOverhead + letter.bytes.size();
      partition.letters.emplace(letter_end_, Letter{letter.id, std::move(letter.bytes)});
      letter_end_ += bytes;
    }
    result.position = Put(partition, Stored(batch));
    result.end = JournalPosition(end_);
    answer.result = std::move(result);
  }
  if (absl::IsResourceExhausted(answer.result.status())) {
    if (pending.refusals_heard == partition.refusals) ++partition.refusals;
    answer.refusal = partition.refusals;
    answer.heard = partition.refusals_heard;
  }
  return answer;
}

void MemoryJournal::Commit() {
  std::vector<Answer> answers;
  {
    const MutexLock lock(mutex_);
    commit_posted_ = false;
    if (held_) return;
    answers.reserve(pending_.size());
    for (Pending& pending : pending_) answers.push_back(CommitOne(std::move(pending)));
    pending_.clear();
  }
  for (Answer& answer : answers) {
    for (Notify& notify : answer.notify_written) notify(answer.result.status());
    for (Notify& notify : answer.notify) notify(answer.result.status());
  }
  for (Answer& answer : answers) {
    Executor& owner = *answer.owner;
    owner.Post([answer = std::move(answer)]() mutable {
      if (answer.heard != nullptr) *answer.heard = answer.refusal;
      answer.done(std::move(answer.result));
    });
  }
}

absl::StatusOr<ReadResult> MemoryJournal::ReadNow(PartitionId id, JournalPosition from,
                                                  std::size_t bytes_max) {
  const MutexLock lock(mutex_);
  const Partition& partition = partitions_[id];
  if (from.value() < partition.start) {
    return absl::OutOfRangeError(
        fmt::format("position {} of partition {} was trimmed; it starts "
                    "at {}",
                    from.value(), id.value(), partition.start));
  }
  ReadResult result;
  std::size_t bytes = 0;
  auto at = partition.batches.lower_bound(from.value());
  for (; at != partition.batches.end(); ++at) {
    const std::size_t size = at->second.body->size();
    if (!result.batches.empty() && bytes + size > std::min(bytes_max, options_.read_bytes_max)) {
      break;
    }
    bytes += size;
    result.batches.push_back(at->second);
  }
  result.at_end = at == partition.batches.end();
  result.next = JournalPosition(result.at_end ? std::max(end_, from.value()) : at->first);
  return result;
}

void MemoryJournal::Read(PartitionId id, JournalPosition from, std::size_t bytes_max,
                         ReadDone done) {
  engine_.Post([this, id, from, bytes_max, done = std::move(done)]() mutable {
    auto result = ReadNow(id, from, bytes_max);
    const MutexLock lock(mutex_);
    partitions_[id].owner->Post([done = std::move(done), result = std::move(result)]() mutable {
      done(std::move(result));
    });
  });
}

JournalPosition MemoryJournal::Locate(PartitionId id, Offset offset) const {
  const MutexLock lock(mutex_);
  const auto found = partitions_.find(id);
  if (found == partitions_.end()) return JournalPosition();
  const Partition& partition = found->second;
  const auto behind = partition.position_of.upper_bound(offset.value());
  if (behind == partition.position_of.begin()) return JournalPosition(partition.start);
  return JournalPosition(std::max(partition.start, std::prev(behind)->second));
}

void MemoryJournal::WriteCheckpoint(CheckpointDelta delta, JournalPosition replay_from,
                                    JournalDone done) {
  engine_.Post([this, delta = std::move(delta), replay_from, done = std::move(done)]() mutable {
    absl::Status status;
    Executor* owner = nullptr;
    {
      const MutexLock lock(mutex_);
      Partition& partition = partitions_[delta.partition];
      owner = partition.owner;
      if (delta.epoch != partition.epoch) {
        status = absl::AbortedError("the checkpoint is of an older epoch");
      } else {
        if (delta.base) partition.pages.clear();
        for (CheckpointPage& page : delta.pages) {
          const std::pair key(page.table, page.page);
          if (page.bytes.empty()) {
            partition.pages.erase(key);
          } else {
            partition.pages[key] = std::move(page.bytes);
          }
        }
        partition.replay_from = replay_from;
        Trim(partition);
      }
    }
    owner->Post([done = std::move(done), status]() mutable { done(status); });
  });
}

void MemoryJournal::Trim(Partition& partition) {
  if (!partition.replay_from) return;
  const std::uint64_t below = std::min(partition.trim_below, partition.replay_from->value());
  while (!partition.batches.empty() && partition.batches.begin()->first < below) {
    const StoredBatch& oldest = partition.batches.begin()->second;
    log_bytes_ -= kBatchOverhead + oldest.body->size();
    const auto located = partition.position_of.find(oldest.base_offset.value());
    if (located->second == oldest.position.value()) partition.position_of.erase(located);
    partition.batches.erase(partition.batches.begin());
  }
  partition.start = std::max(partition.start, below);
}

void MemoryJournal::TrimBelow(PartitionId id, JournalPosition position) {
  const MutexLock lock(mutex_);
  Partition& partition = partitions_[id];
  partition.trim_below = std::max(partition.trim_below, position.value());
  Trim(partition);
}

void MemoryJournal::ListLetters(PartitionId id, LetterPosition from, LettersDone done) {
  engine_.Post([this, id, from, done = std::move(done)]() mutable {
    std::vector<LetterRef> letters;
    const MutexLock lock(mutex_);
    Partition& partition = partitions_[id];
    for (auto at = partition.letters.lower_bound(from.value()); at != partition.letters.end();
         ++at) {
      letters.push_back({at->second.id, LetterPosition(at->first),
                         static_cast<std::uint32_t>(at->second.bytes.size())});
    }
    partition.owner->Post([done = std::move(done), letters = std::move(letters)]() mutable {
      done(std::move(letters));
    });
  });
}

void MemoryJournal::ReadLetter(PartitionId id, LetterPosition position, LetterDone done) {
  engine_.Post([this, id, position, done = std::move(done)]() mutable {
    const MutexLock lock(mutex_);
    Partition& partition = partitions_[id];
    const auto found = partition.letters.find(position.value());
    absl::StatusOr<std::string> result = absl::NotFoundError(
        fmt::format("partition {} has no dead letter at {}", id.value(), position.value()));
    if (found != partition.letters.end()) result = found->second.bytes;
    partition.owner->Post([done = std::move(done), result = std::move(result)]() mutable {
      done(std::move(result));
    });
  });
}

void MemoryJournal::TrimLettersBelow(PartitionId id, LetterPosition position) {
  const MutexLock lock(mutex_);
  auto& letters = partitions_[id].letters;
  while (!letters.empty() && letters.begin()->first < position.value()) {
    letter_bytes_ -= letters.begin()->second.bytes.size();
    letters.erase(letters.begin());
  }
}

JournalPosition MemoryJournal::end() const {
  const MutexLock lock(mutex_);
  return JournalPosition(end_);
}

LetterPosition MemoryJournal::letters_end() const {
  const MutexLock lock(mutex_);
  return LetterPosition(letter_end_);
}

std::vector<Journal::Age> MemoryJournal::Ages(PartitionId id) const {
  const MutexLock lock(mutex_);
  std::vector<Age> ages;
  const auto found = partitions_.find(id);
  if (found == partitions_.end()) return ages;
  for (const auto& [position, batch] : found->second.batches) {
    ages.push_back({batch.append_time_us, Offset(batch.base_offset.value() + batch.event_count)});
  }
  return ages;
}

JournalPosition MemoryJournal::PositionToFree(std::uint64_t bytes) const {
  const MutexLock lock(mutex_);
  std::uint64_t first = end_;
  for (const auto& [id, partition] : partitions_) {
    if (!partition.batches.empty()) first = std::min(first, partition.batches.begin()->first);
  }
  return JournalPosition(std::min(end_, first + bytes));
}

std::uint64_t MemoryJournal::log_bytes() const {
  const MutexLock lock(mutex_);
  return log_bytes_;
}

std::uint64_t MemoryJournal::letter_bytes() const {
  const MutexLock lock(mutex_);
  return letter_bytes_;
}

void MemoryJournal::Hold() {
  const MutexLock lock(mutex_);
  held_ = true;
}

void MemoryJournal::Release() {
  const MutexLock lock(mutex_);
  held_ = false;
  if (pending_.empty() || commit_posted_) return;
  commit_posted_ = true;
  engine_.Post([this] { Commit(); });
}

void MemoryJournal::Crash() {
  std::vector<Pending> lost;
  const MutexLock lock(mutex_);
  lost.swap(pending_);
  held_ = false;
  commit_posted_ = false;  // the posted task may be dropped too; run late it does no harm
}

void MemoryJournal::FailAppends(int count, absl::Status status) {
  const MutexLock lock(mutex_);
  failures_ = count;
  failure_ = std::move(status);
}

void MemoryJournal::SetLogBytesMax(std::uint64_t bytes) {
  const MutexLock lock(mutex_);
  options_.log_bytes_max = bytes;
}

}  // namespace tocsin
