// JournalShadow: what the outside knows of a journal, and what must therefore be true of it after a
// crash. The first violation found is kept, with words.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/journal/journal.h"

namespace tocsin {

class JournalShadow {
 public:
  explicit JournalShadow(std::uint32_t partitions) : partitions_(partitions) {}

  enum class Fate { kPending, kAnswered, kRefused, kUnknown, kSeen, kGone, kDamaged };
  using PageKey = std::pair<std::uint32_t, std::uint64_t>;
  using Pages = std::map<PageKey, std::string>;

  struct Batch {
    std::uint64_t id = 0;
    Epoch epoch;
    Offset base_offset;
    std::uint32_t event_count = 0;
    std::string body;
    std::vector<LetterPut> letters;
    bool stale = false;  // of an epoch that was over when it was submitted
    Fate fate = Fate::kPending;
    JournalPosition position;
    JournalPosition end;
    std::vector<LetterPosition> letter_positions;
  };

  struct PendingCheckpoint {
    Pages pages;
    JournalPosition replay_from;
  };

  struct Partition {
    std::vector<Batch> batches;  // in the order submitted
    std::uint32_t epoch_answered = 0;
    std::uint64_t next_offset = 0;
    std::uint64_t outstanding = 0;
    std::optional<std::uint64_t> resume_offset;  // after a refusal, once nothing is outstanding
    JournalPosition durable_end;                 // of the last answered batch
    JournalPosition trim_below;
    LetterPosition trim_letters_below;
    bool checkpointed = false;
    Pages pages;  // of the last answered checkpoint
    JournalPosition replay_from;
    std::optional<PendingCheckpoint> pending;
  };

  Partition& at(PartitionId id) { return partitions_[id.value()]; }
  std::size_t count() const { return partitions_.size(); }

  RecordBatch Submit(PartitionId id, Epoch epoch, std::uint32_t events, std::size_t bytes,
                     std::size_t letters);
  // The answer to the batch that Submit numbered `id`.
  void Answered(PartitionId partition, std::uint64_t id,
                const absl::StatusOr<AppendResult>& result);
  // `restarted`: the process is new, so a checkpoint that failed is there now, or never.
  void Opened(PartitionId id, const OpenResult& result, bool restarted);
  // Everything of the partition, read from its start. What is seen now must stay.
  void Observe(PartitionId id, const OpenResult& opened, const ReadResult& read);
  void ObserveLetters(PartitionId id, const std::vector<LetterRef>& letters);
  // The batches of these bytes may be missing from now on.
  bool MarkDamaged(JournalPosition from, JournalPosition to);
  // The process is gone: nothing more is answered.
  void Forget();

  void Violate(std::string what) {
    if (violation_.empty()) violation_ = std::move(what);
  }
  const std::string& violation() const { return violation_; }
  std::uint64_t answered() const { return answered_; }

  static std::uint64_t NextId(const RecordBatch& batch);

 private:
  std::vector<Partition> partitions_;
  std::uint64_t next_id_ = 1;
  std::uint64_t answered_ = 0;
  std::string violation_;
};

}  // namespace tocsin
