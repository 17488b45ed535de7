// FileJournalEngine: what the background executor does: checkpoints, segments ahead, trimming.

#include <algorithm>
#include <utility>

#include "broker/base/status.h"
#include "broker/journal/file_journal_engine.h"

namespace tocsin {

void FileJournalEngine::WriteCheckpoint(CheckpointDelta delta, JournalPosition replay_from,
                                        JournalDone done) {
  Executor* owner = &OwnerOf(delta.partition);
  background_.Post(
      [this, owner, delta = std::move(delta), replay_from, done = std::move(done)]() mutable {
        const PartitionId id = delta.partition;
        const std::uint32_t epoch = delta.epoch.value();
        const std::uint64_t durable_end = main_->durable_end();
        absl::Status status;
        CheckpointStore* store = nullptr;
        {
          const MutexLock lock(mutex_);
          Partition& partition = Find(id);
          store = partition.checkpoints.get();
          if (delta.epoch.value() != partition.epoch || partition.openings > 0) {
            status = absl::AbortedError(fmt::format(
                "partition {} was opened again: the checkpoint is of an older epoch", id.value()));
          } else if (replay_from.value() > durable_end) {
            status = absl::FailedPreconditionError(
                fmt::format("a checkpoint from {} is ahead of what is durable ({})",
                            replay_from.value(), durable_end));
          }
        }
        if (status.ok() && failed_) {
          status = absl::UnavailableError("the journal failed and is read-only until the restart");
        }
        if (status.ok()) {
          status = store->Begin({std::move(delta), replay_from.value(), durable_end});
        }
        if (!status.ok()) {
          owner->Post([done = std::move(done), status]() mutable { done(status); });
          return;
        }
        StepCheckpoint(id, epoch, owner, std::move(done));
      });
}

void FileJournalEngine::StepCheckpoint(PartitionId id, std::uint32_t epoch, Executor* owner,
                                       JournalDone done) {
  CheckpointStore* store = nullptr;
  bool fenced = false;
  {
    const MutexLock lock(mutex_);
    Partition& partition = Find(id);
    store = partition.checkpoints.get();
    fenced = partition.openings > 0 || epoch != partition.epoch;
  }
  if (fenced) {
    store->Cancel();
    owner->Post([done = std::move(done)]() mutable {
      done(absl::AbortedError("the partition was opened again while its checkpoint was written"));
    });
    return;
  }
  const auto progress = store->Step();
  if (!progress.ok() || progress->finished) {
    if (progress.ok()) TrimNow();
    owner->Post([done = std::move(done), status = progress.status()]() mutable { done(status); });
    return;
  }
  auto next = [this, id, epoch, owner, done = std::move(done)]() mutable {
    StepCheckpoint(id, epoch, owner, std::move(done));
  };
  if (options_.checkpoint_bytes_per_second == 0) {
    background_.Post(std::move(next));
    return;
  }
  const std::uint64_t pause_ns =
      progress->bytes * 1'000'000'000 / options_.checkpoint_bytes_per_second;
  background_.PostAt(clock_.Monotonic() + Duration(static_cast<std::int64_t>(pause_ns)),
                     std::move(next));
}

void FileJournalEngine::TrimBelow(PartitionId id, JournalPosition position) {
  {
    const MutexLock lock(mutex_);
    Partition& partition = Find(id);
    if (position.value() <= partition.trim_below) return;
    partition.trim_below = position.value();
  }
  background_.Post([this] { TrimNow(); });
}

void FileJournalEngine::TrimLettersBelow(PartitionId id, LetterPosition position) {
  {
    const MutexLock lock(mutex_);
    Partition& partition = Find(id);
    if (position.value() <= partition.trim_letters_below) return;
    partition.trim_letters_below = position.value();
  }
  background_.Post([this] { TrimNow(); });
}

void FileJournalEngine::TrimNow() {
  if (failed_) return;
  std::uint64_t below = UINT64_MAX;
  std::uint64_t letters_below = UINT64_MAX;
  {
    const MutexLock lock(mutex_);
    for (const auto& [id, partition] : partitions_) {
      below = std::min({below, partition.trim_below, partition.checkpoints->trim_limit()});
      letters_below = std::min(letters_below, partition.trim_letters_below);
    }
  }
  // What cannot be removed now is tried again with the next segment.
  main_->TrimBelow(below).IgnoreError();
  dead_->TrimBelow(letters_below).IgnoreError();
  if (reserve_only_) CheckSpace();
}

absl::Status FileJournalEngine::PrepareChain(Chain& chain) {
  absl::Status status = chain.Prepare(Fill::kNone);  // the committer waits for it
  CheckSpace();
  return status;
}

void FileJournalEngine::PrepareNow() {
  if (failed_) return;
  // An error shows when a segment is needed; until then there is nothing to refuse.
  main_->Prepare(rolls_fast_ ? Fill::kNone : Fill::kZeros).IgnoreError();
  if (dead_->segments() > 1) dead_->Prepare(Fill::kZeros).IgnoreError();
  main_->SaveIndexes();
  dead_->SaveIndexes();
  CheckSpace();
}

// Others fill the disk, and make room on it, without telling.
void FileJournalEngine::WatchSpace() {
  CheckSpace();
  background_.PostAt(clock_.Monotonic() + options_.space_check_every, [this] { WatchSpace(); });
}

void FileJournalEngine::CheckSpace() {
  const auto free = fs_.FreeBytes();
  if (!free.ok()) return;
  free_bytes_ = *free;
  reserve_only_ = *free < options_.reserve_bytes;
}

}  // namespace tocsin
