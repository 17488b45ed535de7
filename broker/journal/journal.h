// Journal: the durable, ordered record of what happened to one or more partitions, and the port
// between a partition and whatever keeps it (files here; on paper a Kafka topic partition).
//
//   start ......... checkpoint.replay_from ......... durable end
//     | trimmed up to here when every floor allows |   | appended, not yet synced
//
// A RecordBatch is atomic: after a crash all of its records are there or none. Dead letters travel
// with the batch that settles their deliveries, in a log of their own that is synced first.
//
// Threading: every method may be called from any thread and returns at once; `done` runs once, on
// the executor the partition was opened with, in the order of the calls of one kind. A batch's
// `notify` functions run first, on the engine's own thread, in order, so that a publisher is
// answered without another hand-over; they must not block.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "broker/base/executor.h"
#include "broker/base/ids.h"

namespace tocsin {

// Where a dead letter lies in the dead log. Opaque and rising.
using LetterPosition = StrongId<struct LetterPositionTag, std::uint64_t>;

// A dead letter on its way to the dead log. Letters of one id may exist more than once after a
// crash; the one at the highest position counts.
struct LetterPut {
  DeliveryId id;
  std::string bytes;  // opaque to the journal
};

using Notify = absl::AnyInvocable<void(const absl::Status&)>;

// `body` holds `record_count` records, each `type u8 | varint length | bytes` (record.h), of which
// `event_count` are events at base_offset, base_offset + 1, ... It is shared, not copied: the
// partition keeps serving events from it.
struct RecordBatch {
  PartitionId partition;
  Epoch epoch;
  Offset base_offset;
  std::uint32_t event_count = 0;
  std::uint32_t record_count = 0;
  std::int64_t append_time_us = 0;
  std::shared_ptr<const std::string> body;
  std::vector<LetterPut> letters;
  std::vector<Notify> notify;          // when durable
  std::vector<Notify> notify_written;  // when handed to the operating system, before the sync
  // May be written when the disk is nearly full, as a batch without events always may: for what
  // settles or emits, not for what comes in.
  bool may_use_reserve = false;
};

struct AppendResult {
  JournalPosition position;             // of the batch
  JournalPosition end;                  // just after it
  std::vector<LetterPosition> letters;  // parallel to RecordBatch::letters
};

// One table of a checkpoint (ids, schedules, lane state, queues ...) is a set of pages; a delta
// replaces pages whole. An empty page is absent. Pages are at most 256 KiB, as a rule.
struct CheckpointPage {
  std::uint32_t table = 0;
  std::uint64_t page = 0;
  std::string bytes;
};

struct CheckpointDelta {
  PartitionId partition;
  Epoch epoch;
  bool base = false;  // replaces every earlier page; otherwise pages are merged over them
  std::vector<CheckpointPage> pages;
};

struct Checkpoint {
  JournalPosition replay_from;
  std::vector<CheckpointPage> pages;  // merged, ascending by (table, page)
};

struct OpenResult {
  Epoch epoch;                           // above every earlier one, durable
  std::optional<Checkpoint> checkpoint;  // newest readable
  JournalPosition start;                 // oldest batch still there
  JournalPosition end;                   // where the next batch will be
  // Above every offset that was ever given out; damage may leave a hole below it.
  Offset next_offset;
  std::vector<std::string> warnings;  // what an operator must hear: an older checkpoint was used
};

struct StoredBatch {
  JournalPosition position;
  Epoch epoch;
  Offset base_offset;
  std::uint32_t event_count = 0;
  std::uint32_t record_count = 0;
  std::int64_t append_time_us = 0;
  std::shared_ptr<const std::string> body;
};

// A range that could not be read. Reading goes on at ReadResult::next.
struct Unreadable {
  JournalPosition from;
  std::optional<Offset> first_offset;  // if a header told
  std::uint64_t event_count = 0;
  std::string reason;
};

struct ReadResult {
  std::vector<StoredBatch> batches;    // of this partition, in order
  JournalPosition next;                // where to go on
  bool at_end = false;                 // `next` is the durable end
  std::vector<Unreadable> unreadable;  // kDataLoss of CONTRACTS, in place
};

struct LetterRef {
  DeliveryId id;
  LetterPosition position;
  std::uint32_t bytes = 0;
};

using OpenDone = absl::AnyInvocable<void(absl::StatusOr<OpenResult>)>;
using AppendDone = absl::AnyInvocable<void(absl::StatusOr<AppendResult>)>;
using ReadDone = absl::AnyInvocable<void(absl::StatusOr<ReadResult>)>;
using LettersDone = absl::AnyInvocable<void(absl::StatusOr<std::vector<LetterRef>>)>;
using LetterDone = absl::AnyInvocable<void(absl::StatusOr<std::string>)>;
using JournalDone = absl::AnyInvocable<void(absl::Status)>;

class Journal {
 public:
  virtual ~Journal() = default;

  // Fences every earlier owner: after OK no append of an older epoch completes. `owner` must
  // outlive the journal or Close().
  //   kDataLoss            checkpoints unreadable: nothing was changed; the text says what to do
  //   kFailedPrecondition  a segment is missing and degraded mode was not asked for
  virtual void Open(PartitionId partition, Executor& owner, OpenDone done) = 0;

  // Atomic, ordered. OK: durable, the dead letters too.
  //   kResourceExhausted  not written (no space, over the size limit); try again. What was
  //                       appended before this answer was heard is refused too, so that batches
  //                       are not reordered and offsets stay dense. If the process ends before
  //                       there was room again, the next one may find it all the same
  //   kAborted            fenced: stop and answer nothing
  //   kInvalidArgument    base_offset was used before; a bug of the caller
  //   kUnavailable        the journal failed earlier; not written
  //   kUnknown            the outcome is not known: stop, answer UNAVAILABLE, Open again
  virtual void Append(RecordBatch batch, AppendDone done) = 0;

  // Whole durable batches of the partition from `from` on, at least one if there is one, then up
  // to `bytes_max` of body.
  //   kOutOfRange  trimmed; the text names the start
  virtual void Read(PartitionId partition, JournalPosition from, std::size_t bytes_max,
                    ReadDone done) = 0;

  // The position of a batch at or before the one that holds `offset` (the start if it was
  // trimmed). From memory; does not wait. Sparse: at most 64 KiB of bodies too early.
  virtual JournalPosition Locate(PartitionId partition, Offset offset) const = 0;

  // Pages become readable together or not at all; replay starts at `replay_from` after it. Paced.
  // One at a time per partition.
  virtual void WriteCheckpoint(CheckpointDelta delta, JournalPosition replay_from,
                               JournalDone done) = 0;

  // A permission, not a command: nothing of this partition below is needed any more.
  virtual void TrimBelow(PartitionId partition, JournalPosition position) = 0;

  // Every letter still there from `from` on, without its bytes.
  virtual void ListLetters(PartitionId partition, LetterPosition from, LettersDone done) = 0;
  //   kNotFound, kDataLoss
  virtual void ReadLetter(PartitionId partition, LetterPosition position, LetterDone done) = 0;
  virtual void TrimLettersBelow(PartitionId partition, LetterPosition position) = 0;

  // False while the disk is so full that only settlements should be appended (into the reserve).
  virtual bool HasRoomForIngest() const { return true; }

  // What is appended and not answered yet, and what comes after it, will be here or behind.
  // Thread-safe, from memory; so are the next two.
  virtual JournalPosition end() const = 0;
  // The same of the dead letters.
  virtual LetterPosition letters_end() const = 0;
  // Where to trim so that at least `bytes` are free: from the start, by whole segments; the end of
  // what can be trimmed if that is less.
  virtual JournalPosition PositionToFree(std::uint64_t bytes) const = 0;

  // How old what is stored is, ascending: all events of the partition below `below` were appended
  // at `append_time_us` or before. One entry per segment or so.
  struct Age {
    std::int64_t append_time_us = 0;
    Offset below;
  };
  virtual std::vector<Age> Ages(PartitionId partition) const = 0;

  virtual std::size_t batch_bytes_max() const = 0;  // body bytes of one batch
  // Bytes on disk now, thread-safe, from memory.
  virtual std::uint64_t log_bytes() const = 0;
  virtual std::uint64_t letter_bytes() const = 0;
};

}  // namespace tocsin
