// Chain: one log made of segments, with one writer. The journal has two: `log` for the batches of
// all partitions, `dead` for dead letters.
//
//   | closed | closed | active: durable ... group being written | prepared | prepared |
//            ^ trimmed from the left                             ^ zero-filled in the background
//
// Invariants: positions never go back; a group is wholly in one segment; nothing is written behind
// a group that is not synced, so at most one group can be torn; what is read is below durable_end.
//
// Threading: Recover first, alone. Then the committer's thread calls the methods under "committer",
// the background executor those under "background"; the rest may be called from any thread.

#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "broker/base/file_system.h"
#include "broker/base/mutex.h"
#include "broker/journal/journal.h"
#include "broker/journal/quarantine.h"
#include "broker/journal/segment.h"
#include "broker/journal/segment_index.h"

namespace tocsin {

struct ChainOptions {
  std::string dir;
  std::string data_dir_id;  // raw
  std::uint64_t segment_bytes = 0;
  std::size_t segments_ahead = 2;
  bool degraded = false;  // go on although durable batches are missing
};

// What a reader needs of one segment; keeps the file open after a trim.
struct SegmentView {
  std::uint64_t first = 0;
  std::uint64_t bytes = 0;
  std::uint64_t end = 0;  // just after the last durable batch
  std::shared_ptr<const File> file;
};

struct PartitionEnd {
  std::uint32_t epoch = 0;
  std::uint64_t next_offset = 0;
  std::int64_t append_time_us = 0;
};

class Chain {
 public:
  Chain(FileSystem& fs, Quarantine& quarantine, ChainOptions options);

  // Finds the end of the log: cuts what is torn (into quarantine, then zeroed), keeps what is
  // damaged. `known_synced`: a position known to be durable from elsewhere. Idempotent.
  //   kFailedPrecondition  durable batches are missing, a file is from an older copy or another
  //                        directory, or the format is newer; nothing was changed
  absl::Status Recover(std::uint64_t known_synced);

  const std::vector<std::string>& warnings() const { return warnings_; }
  std::uint64_t cut_bytes() const { return cut_bytes_; }
  std::uint64_t damaged_ranges() const { return damaged_ranges_; }
  // Bytes that may have been batches, of which not even the header can be read: damaged, or in a
  // segment that is missing (degraded).
  std::uint64_t unknown_bytes() const { return unknown_bytes_; }

  // --- committer -----------------------------------------------------------------------------
  // Room in the active segment behind the group so far.
  bool Fits(std::uint64_t bytes) const;
  // The largest batch, header included, that any segment takes.
  std::uint64_t batch_bytes_max() const { return options_.segment_bytes - kSegmentHeaderBytes; }
  bool group_empty() const { return group_.empty(); }
  std::uint64_t group_bytes() const { return group_bytes_; }
  // Makes the next prepared segment the active one; false if none is prepared. Empty groups only.
  [[nodiscard]] bool Roll();
  // Puts a batch at the group's end; the position it will have. Fills the header's log_position,
  // synced_through, chain and CRCs (the body's must be there). `body` must live until Write().
  std::uint64_t Add(BatchHeader header, std::string_view body);
  // Writes the group; nothing if it is empty. Only after Clean() was OK.
  //   kResourceExhausted  not written: after the next Clean() nothing of it is there
  //   others              the chain must not be written any more
  absl::Status Write();
  // Undoes what a write that found no room left behind.
  //   kResourceExhausted  there is no room for that either: again later, before anything else
  //   others              the chain must not be written any more
  absl::Status Clean();
  // Forgets a group that was not written.
  void Abandon() { ClearGroup(); }
  // Makes what Write() wrote durable and readable. After an error, never kResourceExhausted, the
  // chain must not be written any more.
  absl::Status Sync();

  // --- background ----------------------------------------------------------------------------
  // Prepares segments until `segments_ahead` wait. Those filled with zeros are synced faster; those
  // that are not cost the disk half as much.
  absl::Status Prepare(Fill fill);
  // Saves the indexes of segments closed since. Errors are of no consequence.
  void SaveIndexes();
  // Removes closed segments that end at or below `position`, oldest first. After an error what is
  // left is tried again by the next call, and nothing behind it is removed before.
  absl::Status TrimBelow(std::uint64_t position);

  // --- any thread ----------------------------------------------------------------------------
  std::uint64_t start() const;        // first position of the oldest segment
  std::uint64_t durable_end() const;  // where the next batch will be, if it fits
  std::size_t prepared() const;
  std::size_t segments() const;
  // The first position to keep so that TrimBelow frees at least `bytes`, or all it can.
  std::uint64_t PositionToFree(std::uint64_t bytes) const;
  std::uint64_t bytes_used() const;  // from the first segment's start to the durable end
  // The segment that holds `position`, or the first one after it; nullopt at the end.
  std::optional<SegmentView> Find(std::uint64_t position) const;
  std::optional<std::uint64_t> Locate(std::uint32_t partition, std::uint64_t offset) const;
  std::map<std::uint32_t, PartitionEnd> PartitionEnds() const;
  std::vector<Journal::Age> Ages(std::uint32_t partition) const;

 private:
  struct Segment {
    std::uint64_t first = 0;
    std::uint64_t bytes = 0;
    std::shared_ptr<File> file;
    SegmentIndex index;
    std::uint64_t end = 0;
    bool index_saved = false;
    std::uint64_t limit() const { return first + bytes; }
  };
  struct Found;
  struct Cut;

  // Recovery's steps, in this order; the first four change nothing.
  absl::StatusOr<std::vector<Found>> Load();
  absl::Status ReadSegments(std::vector<Found>& found);
  absl::StatusOr<Cut> FindCut(std::vector<Found>& found, std::uint64_t known_synced);
  absl::Status CheckContiguous(const std::vector<Found>& found);
  std::uint64_t SegmentEnd(const std::vector<Found>& found, std::uint64_t position) const;
  absl::Status CutOff(std::vector<Found>& found, const Cut& cut);
  absl::Status Adopt(std::vector<Found>& found, const Cut& cut);
  absl::Status Refuse(const std::string& why);

  std::string Path(const std::string& name) const { return options_.dir + "/" + name; }
  SegmentHeader HeaderFor(std::uint64_t first) const;
  absl::Status BeginLastPage();
  void ClearGroup();

  // Set at construction.
  FileSystem& fs_;
  Quarantine& quarantine_;
  const ChainOptions options_;

  // Set by Recover().
  std::vector<std::string> warnings_;
  std::uint64_t cut_bytes_ = 0;
  std::uint64_t damaged_ranges_ = 0;
  std::uint64_t unknown_bytes_ = 0;

  // Owned by the committer.
  std::shared_ptr<Segment> active_;  // its index and end are guarded by mutex_
  std::uint64_t write_end_ = 0;      // durable end; the group begins here
  std::uint32_t prev_crc_ = 0;
  struct Pending {
    BatchHeader header;
    std::string_view body;
    std::size_t copied_at;  // where header (and a small body) are in copied_
  };
  std::vector<Pending> group_;
  std::string copied_;
  std::uint64_t group_bytes_ = 0;
  std::uint32_t group_crc_ = 0;
  std::uint64_t dirty_bytes_ = 0;  // behind write_end_, of a write that found no room

  mutable Mutex mutex_;
  std::map<std::uint64_t, std::shared_ptr<Segment>> segments_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::shared_ptr<Segment>> prepared_ ABSL_GUARDED_BY(mutex_);
  std::uint64_t durable_end_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tocsin
