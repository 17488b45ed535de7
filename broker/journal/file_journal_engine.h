// The engine behind FileJournal: see file_journal.h. Its parts: file_journal.cc opens and closes,
// file_journal_commit.cc writes, file_journal_read.cc reads, file_journal_checkpoint.cc keeps
// checkpoints, segments and trims.

#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/mutex.h"
#include "broker/base/thread_executor.h"
#include "broker/journal/chain.h"
#include "broker/journal/checkpoint_store.h"
#include "broker/journal/file_journal.h"
#include "broker/journal/manifest.h"
#include "broker/journal/quarantine.h"

namespace tocsin {

// The body of a dead letter: varints offset, trigger, run, then the letter's bytes.
std::string EncodeLetter(const LetterPut& letter);
// nullopt: malformed. `bytes` points into `body`.
std::optional<DeliveryId> DecodeLetter(PartitionId partition, std::string_view body,
                                       std::string_view& bytes);

// Threads that belong to the journal.
struct JournalThreads {
  explicit JournalThreads(const Clock& clock)
      : committer("committer", clock), reader("reader", clock), background("journal", clock) {}
  ~JournalThreads() {
    // All are stopped before any is gone: they post to each other.
    committer.Stop();
    reader.Stop();
    background.Stop();
  }
  ThreadExecutor committer;
  ThreadExecutor reader;
  ThreadExecutor background;
};

class FileJournalEngine final : public FileJournal {
 public:
  FileJournalEngine(FileJournalOptions options, FileJournalPorts ports);
  ~FileJournalEngine() override;

  absl::Status Recover();
  void Own(std::unique_ptr<JournalThreads> threads) { threads_ = std::move(threads); }

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
  bool HasRoomForIngest() const override { return !reserve_only_ && !failed_; }
  JournalPosition end() const override { return JournalPosition(main_->durable_end()); }
  LetterPosition letters_end() const override { return LetterPosition(dead_->durable_end()); }
  JournalPosition PositionToFree(std::uint64_t bytes) const override {
    return JournalPosition(main_->PositionToFree(bytes));
  }
  std::vector<Age> Ages(PartitionId partition) const override {
    return main_->Ages(partition.value());
  }
  std::size_t batch_bytes_max() const override { return options_.batch_bytes_max; }
  std::uint64_t log_bytes() const override { return main_->bytes_used(); }
  std::uint64_t letter_bytes() const override { return dead_->bytes_used(); }
  JournalInfo Info() const override;

 private:
  struct Partition {
    Executor* owner = nullptr;
    std::uint32_t epoch = 0;  // of the last opening
    std::uint64_t next_offset = 0;
    std::int64_t append_time_us = 0;
    // Openings between the loading of the checkpoint and their answer: no checkpoint is written
    // then, or the new owner would get an older one than was answered.
    std::uint32_t openings = 0;
    // Refusals for space so far, and how many of them the owner had heard of: what it appended
    // before it heard is refused too, so that batches are neither reordered nor leave gaps.
    std::uint64_t refusals = 0;
    std::shared_ptr<std::atomic<std::uint64_t>> refusals_heard =
        std::make_shared<std::atomic<std::uint64_t>>(0);
    std::uint64_t trim_below = 0;
    std::uint64_t trim_letters_below = 0;
    std::unique_ptr<CheckpointStore> checkpoints;  // used by the background executor
  };

  // An append or an opening on its way through the committer.
  struct Item {
    Executor* owner = nullptr;
    RecordBatch batch;
    std::uint32_t body_crc = 0;
    AppendDone done;
    OpenDone open_done;                // an opening: not empty
    OpenResult opened;                 // for open_done
    std::vector<std::string> letters;  // encoded
    std::uint64_t refusals_heard = 0;  // when it was appended; when it was refused, that refusal
    std::shared_ptr<std::atomic<std::uint64_t>> heard;  // set if it was refused: raised by its done
    absl::StatusOr<AppendResult> result = AppendResult{};
  };

  enum class Fate { kTaken, kRefused, kGroupFull, kWait };

  Partition& Find(PartitionId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Executor& OwnerOf(PartitionId id);

  // Commit, on the committer.
  void Enqueue(Item item);
  void Commit();
  Fate Admit(Item& item);
  absl::Status CheckItem(Item& item);
  absl::Status CheckSpaceFor(const Item& item);
  void NoteRoll();
  bool MakeRoom(Chain& chain, std::uint64_t bytes, Fate& fate);
  static void Refuse(Partition& partition, Item& item, const absl::Status& status);
  void PutLetters(Item& item);
  void TakeBack(std::vector<Item>& group, const absl::Status& status);
  absl::Status WriteGroup(std::vector<Item>& group);
  void RefuseBacklog(const absl::Status& status);
  // `small`: their owners may be told on this thread.
  void Answer(std::vector<Item> items, bool small);
  bool NothingWaits();
  void Fail(const absl::Status& status);
  void WaitForSegment(Chain& chain);

  // Reading, on the reader.
  absl::StatusOr<ReadResult> ReadNow(PartitionId id, std::uint64_t from, std::size_t bytes_max);
  absl::StatusOr<std::vector<LetterRef>> ListLettersNow(PartitionId id, std::uint64_t from);
  absl::StatusOr<std::string> ReadLetterNow(PartitionId id, std::uint64_t position);

  // On the background executor.
  void OpenNow(PartitionId id, Executor& owner, OpenDone done);
  void StepCheckpoint(PartitionId id, std::uint32_t epoch, Executor* owner, JournalDone done);
  void PrepareNow();
  void TrimNow();
  void CheckSpace();
  void WatchSpace();
  absl::Status PrepareChain(Chain& chain);

  // Set at construction.
  FileJournalOptions options_;
  FileSystem& fs_;
  Clock& clock_;
  Random& random_;
  Executor& committer_;
  Executor& reader_;
  Executor& background_;

  // Set by Recover().
  std::unique_ptr<FileLock> lock_;
  Manifest manifest_;
  Quarantine quarantine_;
  std::unique_ptr<Chain> main_;
  std::unique_ptr<Chain> dead_;
  std::vector<std::string> warnings_;

  // Owned by the committer.
  std::deque<Item> backlog_;
  std::vector<Item> group_;
  std::size_t group_bytes_ = 0;
  bool waiting_ = false;  // for a segment
  std::optional<absl::Status> prepare_error_;
  bool fatal_told_ = false;
  Instant last_roll_{};

  std::atomic<bool> rolls_fast_{false};  // the last segment was full within kRollsFast

  std::atomic<bool> reserve_only_{false};
  std::atomic<bool> space_check_posted_{false};
  std::atomic<bool> failed_{false};
  std::atomic<std::uint64_t> free_bytes_{0};
  std::atomic<std::uint64_t> groups_{0};
  std::atomic<std::uint64_t> batches_{0};
  std::atomic<std::uint64_t> refused_{0};
  std::atomic<std::uint64_t> damaged_read_{0};

  mutable Mutex mutex_;
  std::map<PartitionId, Partition> partitions_ ABSL_GUARDED_BY(mutex_);
  std::vector<Item> pending_ ABSL_GUARDED_BY(mutex_);
  bool commit_posted_ ABSL_GUARDED_BY(mutex_) = false;

  std::unique_ptr<JournalThreads> threads_;  // last: they end first
};

}  // namespace tocsin
