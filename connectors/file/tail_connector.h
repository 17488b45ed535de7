// TailConnector: the source of kind `tail`: each line of a file that grows is one event, exactly
// once, across rotation and truncation.
//
//   position   `tail <inode> <born> <generation> <offset> <check> <mid>`: the file, which is known
//              by inode and time of birth, not by name; how often it was truncated; the offset
//              behind the last line; a hash of the bytes before it; 1 in the middle of an overlong
//              line
//   id         `<inode>-<born>-<generation>-<offset of the line>`
//
// Renamed (app.log -> app.log.1, a new app.log): the old file is read to its end, then the files
// that were born after it, whose names begin with the same name, in the order of their births;
// compressed ones are passed over. So rotation may happen any number of times while nobody reads,
// as long as the files are there. If the file that was read is gone: kFailedPrecondition, or with
// `on_gap: continue` counted and noted. Truncated (shorter than what was read, or other bytes
// before the offset): begun again at its start, counted and noted, because what was written just
// before may be lost.
//
// A line ends with a line feed; a carriage return before it is no part of it; empty lines are
// passed over. The last line of a file that was rotated away needs no end. Lines above 1 MiB are
// undecodable.
//
// Nothing of the system tells of growth everywhere, so the file is looked at every 100 ms.
//
// Threading: as BlockingConnector says.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "connectors/blocking_connector.h"
#include "connectors/file/tail_spec.h"

namespace tocsin {

struct TailPosition {
  std::uint64_t inode = 0;
  std::int64_t born_ns = 0;  // 0: the file system does not say
  std::uint64_t generation = 0;
  std::uint64_t offset = 0;
  std::uint64_t check = 0;
  bool mid = false;
};
std::string EncodeTailPosition(const TailPosition& position);
std::optional<TailPosition> DecodeTailPosition(std::string_view text);

class TailConnector final : public BlockingConnector {
 public:
  TailConnector(const TailSpec& spec, RecordMapper mapper, Ports ports);
  ~TailConnector() override;

 protected:
  absl::Status ConnectNow(const LaneState& restored) override;
  absl::StatusOr<SourceBatch> PollNow(Instant until) override;
  absl::Status CommitNow(const SourcePosition&) override { return absl::OkStatus(); }

 private:
  struct Candidate {
    std::string path;
    std::uint64_t inode = 0;
    std::int64_t born_ns = 0;   // 0: the file system does not say
    std::int64_t order_ns = 0;  // of its birth, else of its last change
    bool named = false;         // it has the name now
  };

  absl::Status Open(const Candidate& file);
  void CloseFile();
  // The regular files whose names begin with ours, in their order.
  std::vector<Candidate> Candidates() const;
  std::optional<Candidate> Named() const;  // the file that has the name now
  absl::StatusOr<std::uint64_t> CheckBefore(std::uint64_t offset) const;
  // Where the unfinished last line begins, else the end.
  std::uint64_t StartOfLastLine() const;
  absl::Status Resume();
  absl::Status BeginAgain(std::string why);
  // Lines that are there now, into the batch; true if there may be more at once.
  absl::StatusOr<bool> Read(SourceBatch& batch, std::size_t& bytes, bool to_the_end);
  void Add(std::string_view line, SourceBatch& batch, std::size_t& bytes);
  // Nothing more comes from this file: goes to the next one. False: there is none yet.
  absl::StatusOr<bool> Follow(SourceBatch& batch, std::size_t& bytes);
  void Show();

  const TailSpec spec_;
  const RecordMapper mapper_;
  int file_ = -1;
  TailPosition position_;
  bool announce_ = false;
  std::uint64_t skipped_ = 0;
  std::string buffer_;
  std::optional<Instant> rotated_;  // since when the name is another file's
  std::uint64_t size_then_ = 0;
};

absl::StatusOr<std::unique_ptr<SourceConnector>> MakeTailConnector(const TailSpec& spec,
                                                                   BlockingConnector::Ports ports);

}  // namespace tocsin
