// FileJournal: the Journal on files, one log for all partitions of a data directory.
//
//   Append (any thread) -> pending -> [committer: header, write, one sync per group] -> notify,
//   done Read, ListLetters, ReadLetter -> [reader] checkpoints, segments ahead, trimming, indexes
//   -> [background]
//
// Group commit: while a group is written and synced, appends collect; the next group is what came
// meanwhile. No timer. Dead letters of a group are written and synced before it.
//
// Failure: an error of a write or a sync ends all writing. The group and what follows is answered
// kUnknown and kUnavailable, `on_fatal` runs, and the process should exit; a restart finds out what
// is there. No space is not a failure: batches are refused with kResourceExhausted until there is.
//
// Lifetime: no task may run on the given executors when the journal is destroyed, or later. The
// threads of OpenFileJournal's second form belong to the journal and end with it.

#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/base/file_system.h"
#include "broker/base/random.h"
#include "broker/journal/journal.h"

namespace tocsin {

struct FileJournalOptions {
  std::uint32_t partitions = 4;  // must be the manifest's, once there is one
  std::string version = "0.1.0";
  std::uint64_t segment_bytes = std::uint64_t{64} << 20;
  std::uint64_t letter_segment_bytes = std::uint64_t{16} << 20;
  // Of all partitions' newest checkpoints, kept from recovery until each is loaded; else they are
  // read twice.
  std::size_t checkpoints_kept_max = std::size_t{64} << 20;
  std::size_t segments_ahead = 2;
  std::size_t batch_bytes_max = std::size_t{4} << 20;
  std::size_t group_bytes_max = std::size_t{4} << 20;  // bodies; one batch always fits
  std::uint64_t quarantine_bytes_max = std::uint64_t{64} << 20;
  // With less free space than this, only batches without events, or marked may_use_reserve, are
  // written.
  std::uint64_t reserve_bytes = std::uint64_t{256} << 20;
  Duration space_check_every = std::chrono::seconds(1);
  std::size_t checkpoint_piece_bytes = std::size_t{256} << 10;
  std::uint64_t checkpoint_bytes_per_second = 32'000'000;  // 0: not paced
  bool degraded = false;  // open although a segment is missing; Read names the gap
  // Runs once, on the committer, when the journal can write no more. May be empty.
  absl::AnyInvocable<void(const absl::Status&)> on_fatal;
};

// What `status` and the metrics show. Thread-safe to take at any time.
struct JournalInfo {
  std::string data_dir_id;
  std::uint32_t format = 0;
  std::string created_by;
  std::uint64_t hash_seed = 0;
  std::uint64_t segments = 0;
  std::uint64_t segments_prepared = 0;
  std::uint64_t log_bytes = 0;
  std::uint64_t letter_bytes = 0;
  JournalPosition start;
  JournalPosition durable_end;
  std::uint64_t groups = 0;           // synced since the start
  std::uint64_t batches = 0;          // durable since the start
  std::uint64_t appends_refused = 0;  // no space
  std::uint64_t quarantine_files = 0;
  std::uint64_t quarantine_bytes = 0;
  std::uint64_t cut_bytes = 0;        // by this start's recovery
  std::uint64_t damaged_ranges = 0;   // found by recovery and by reading
  std::uint64_t free_bytes = 0;       // when last looked at
  bool reserve_only = false;          // less than reserve_bytes are free
  double space_pressure_percent = 0;  // used of (used + what is free above the reserve)
  bool failed = false;                // read-only until the restart
  std::vector<std::string> warnings;  // of the recovery
};

class FileJournal : public Journal {
 public:
  virtual JournalInfo Info() const = 0;
};

struct FileJournalPorts {
  FileSystem& fs;
  Clock& clock;
  Random& random;
  Executor& committer;
  Executor& reader;
  Executor& background;  // must honour PostAt, for pacing
};

// Opens the data directory, or makes a new one: lock, manifest, recovery of both logs. Blocks.
//   kFailedPrecondition  held by another process (named); another number of partitions, or a newer
//                        format (both named); a segment is missing, from an older copy, or foreign
//   kDataLoss            manifest damaged, or missing although there is data
//   kResourceExhausted   no space for the first segment
//   others               of the file system
// After an error nothing of the data was changed.
absl::StatusOr<std::unique_ptr<FileJournal>> OpenFileJournal(FileJournalOptions options,
                                                             FileJournalPorts ports);

// The same, with three threads of its own.
absl::StatusOr<std::unique_ptr<FileJournal>> OpenFileJournal(FileJournalOptions options,
                                                             FileSystem& fs, Clock& clock,
                                                             Random& random);

}  // namespace tocsin
