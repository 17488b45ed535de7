// CheckpointStore: the checkpoints of one partition.
//
//   checkpoint/<partition, 8 hex digits>-<sequence, 16 hex digits>.ckpt
//   | pages ... | commit (base) | pages ... | commit (delta) | pages ... | commit (delta) |
//
// The batches are those of the log, their log_position is the place in the file. A commit makes
// the pages since the one before it count. Two files are kept, so that damage in one leaves the
// other: the log is trimmed below the last commit of the older one only. A file gets its name when
// its base is durable (written as `.tmp`, renamed), so one with a name and no readable commit is
// damaged, not unfinished. Deltas become a new base when there are many of them.
//
// Threading: Recover() alone at first, then one thread at a time.

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/file_system.h"
#include "broker/base/large_array.h"
#include "broker/journal/journal.h"
#include "broker/journal/quarantine.h"

namespace tocsin {

class CheckpointStore {
 public:
  CheckpointStore(FileSystem& fs, Quarantine& quarantine, PartitionId partition,
                  std::size_t piece_bytes);

  // Reads what is there; removes unfinished temp files. A file that cannot be read is no error: it
  // is as one that is damaged.
  // Keeps the newest file for Load() if it has at most `keep_bytes`, which it takes off.
  absl::Status Recover(std::size_t& keep_bytes);

  // Of all readable commits: the highest position of the log that was durable when one was made,
  // and the highest epoch.
  std::uint64_t log_synced() const;
  std::uint32_t epoch_max() const;

  // The newest readable checkpoint that does not begin below `log_start`; nullopt if there never
  // was one. Appends to `warnings` if it is not the newest; what is newer counts no more then: what
  // is written next goes on from the one that was loaded.
  //   kDataLoss  there are files, but no usable commit in any
  absl::StatusOr<std::optional<Checkpoint>> Load(std::uint64_t log_start,
                                                 std::vector<std::string>& warnings);

  // The log below is not needed by either checkpoint; 0 while there are not two.
  std::uint64_t trim_limit() const;

  struct Request {
    CheckpointDelta delta;
    std::uint64_t replay_from = 0;
    std::uint64_t log_synced = 0;
  };
  // Starts a write; Step() goes on with it. One at a time.
  absl::Status Begin(Request request);

  struct Progress {
    bool finished = false;
    std::size_t bytes = 0;  // written by this step, at most about one piece
  };
  // Writes and syncs one piece. After an error the write is over, and the checkpoints are as they
  // were before.
  absl::StatusOr<Progress> Step();
  // Gives a write up; as after an error.
  void Cancel();

 private:
  using Pages = std::map<std::pair<std::uint32_t, std::uint64_t>, std::string>;
  struct Commit {
    std::uint64_t end = 0;  // in the file
    std::uint64_t replay_from = 0;
    std::uint64_t log_synced = 0;
    std::uint32_t epoch = 0;
  };
  struct StoredFile {
    std::uint64_t sequence = 0;
    std::vector<Commit> commits;
    std::string error;             // of reading the file, if it failed; no commits then
    bool clean = true;             // nothing behind the last commit
    std::uint64_t base_bytes = 0;  // end of the first commit
    std::uint32_t last_header_crc = 0;
  };
  // The newest readable file as Recover() read it, until Load() has used it.
  struct Kept {
    std::uint64_t sequence = 0;
    LargeBuffer content;
  };
  struct Write {
    bool new_file = false;
    std::unique_ptr<File> file;
    std::vector<std::string> batches;  // whole, header included
    std::size_t next = 0;
    std::uint64_t position = 0;
    std::uint64_t sequence = 0;
    Commit commit;
    std::uint32_t last_header_crc = 0;
  };

  std::string Path(std::uint64_t sequence, const char* suffix) const;
  static StoredFile Parse(std::string_view content, Pages* pages);
  absl::StatusOr<LargeBuffer> ReadFile(std::uint64_t sequence) const;
  void Keep(std::uint64_t sequence, LargeBuffer content, std::size_t& bytes);
  // `kept`: the file as it was read before, if it was.
  absl::StatusOr<Pages> LoadPages(const StoredFile& file, std::optional<Kept> kept) const;
  bool MustRebase(const CheckpointDelta& delta) const;
  void AddBatch(Write& write, std::uint8_t flags, const CheckpointDelta& delta,
                const std::string& body);
  absl::Status Finish();

  FileSystem& fs_;
  Quarantine& quarantine_;
  const PartitionId partition_;
  const std::size_t piece_bytes_;

  std::vector<StoredFile> files_;  // ascending
  std::optional<Kept> kept_;
  bool appendable_ = false;  // the newest file was written by this process, without an error
  std::optional<Write> write_;
};

}  // namespace tocsin
