// MemoryJournal: a Journal that keeps everything in memory: for `tocsin test`, `simulate` and the
// tests of a partition. It works like the file engine (the same contract suite runs against both):
// appends become durable group by group, on the engine's executor.
//
//   Append -> pending -> [group commit on the engine's executor] -> durable, notify, done
//                  \ Hold() keeps it here; Crash() drops it
//
// A broker's restart is: destroy its owners, Crash(), Open again; what was durable is there.
//
// Threading: as Journal says, given an engine executor of its own; with OneThreadExecutors
// everything happens on one thread. The journal must outlive tasks on its executor.

#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/mutex.h"
#include "broker/journal/journal.h"

namespace tocsin {

struct MemoryJournalOptions {
  std::size_t batch_bytes_max = std::size_t{4} << 20;
  std::uint64_t log_bytes_max = UINT64_MAX;  // beyond it Append is kResourceExhausted
  std::size_t read_bytes_max = SIZE_MAX;     // a read gives no more, whatever was asked for
  std::string version = "memory";            // in OwnerOpened
};

class MemoryJournal final : public Journal {
 public:
  explicit MemoryJournal(Executor& engine, MemoryJournalOptions options = {});

  void Open(PartitionId partition, Executor& owner, OpenDone done) override;
  void Append(RecordBatch batch, AppendDone done) override;
  void Read(PartitionId partition, JournalPosition from, std::size_t bytes_max,
            ReadDone done) override;
  JournalPosition Locate(PartitionId partition, Offset offset) const override;
  void WriteCheckpoint(CheckpointDelta delta, JournalPosition replay_from,
                       JournalDone done) override;
  void TrimBelow(PartitionId partition, JournalPosition position) override;
  void ListLetters(PartitionId partition, LetterPosition from, LettersDone done) override;
  void ReadLetter(PartitionId partition, LetterPosition position, LetterDone done) override;
  void TrimLettersBelow(PartitionId partition, LetterPosition position) override;
  JournalPosition end() const override;
  LetterPosition letters_end() const override;
  JournalPosition PositionToFree(std::uint64_t bytes) const override;
  std::vector<Age> Ages(PartitionId partition) const override;
  std::size_t batch_bytes_max() const override { return options_.batch_bytes_max; }
  std::uint64_t log_bytes() const override;
  std::uint64_t letter_bytes() const override;

  // While held, appends wait undurable; Release() commits them as one group.
  void Hold();
  void Release();

  // Appends that are not durable yet are lost, their callbacks never run. Owners posted to before
  // may still hear of what was durable; drop their tasks too.
  void Crash();

  // The next `count` appends are answered with `status` and not written.
  void FailAppends(int count, absl::Status status);

  // Changes MemoryJournalOptions::log_bytes_max, as if space came back or went.
  void SetLogBytesMax(std::uint64_t bytes);

 private:
  struct Pending {
    RecordBatch batch;
    AppendDone done;
    std::uint64_t refusals_heard = 0;
  };
  struct Letter {
    DeliveryId id;
    std::string bytes;
  };
  struct Partition {
    Executor* owner = nullptr;
    Epoch epoch;
    std::map<std::uint64_t, StoredBatch> batches;        // by position
    std::map<std::uint64_t, std::uint64_t> position_of;  // by base offset: the last such batch
    std::map<std::uint64_t, Letter> letters;             // by position
    std::map<std::pair<std::uint32_t, std::uint64_t>, std::string> pages;
    std::optional<JournalPosition> replay_from;
    std::uint64_t next_offset = 0;
    std::int64_t append_time_us = 0;
    // As in the file engine: what was appended before a refusal was heard is refused too.
    std::uint64_t refusals = 0;
    std::shared_ptr<std::atomic<std::uint64_t>> refusals_heard =
        std::make_shared<std::atomic<std::uint64_t>>(0);
    std::uint64_t trim_below = 0;
    std::uint64_t start = 0;
  };
  struct Answer;

  void Commit();
  Answer CommitOne(Pending pending) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  JournalPosition Put(Partition& partition, StoredBatch batch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<ReadResult> ReadNow(PartitionId id, JournalPosition from, std::size_t bytes_max);
  void Trim(Partition& partition) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Set at construction.
  Executor& engine_;
  const std::string version_;

  mutable Mutex mutex_;
  MemoryJournalOptions options_;  // batch_bytes_max never changes
  std::map<PartitionId, Partition> partitions_ ABSL_GUARDED_BY(mutex_);
  std::vector<Pending> pending_ ABSL_GUARDED_BY(mutex_);
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  bool commit_posted_ ABSL_GUARDED_BY(mutex_) = false;
  int failures_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::uint64_t end_ ABSL_GUARDED_BY(mutex_) = 0;
  // Not 0: to an owner that is the position of a letter which is not durable yet.
  std::uint64_t letter_end_ ABSL_GUARDED_BY(mutex_) = 1;
  std::uint64_t log_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::uint64_t letter_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tocsin
