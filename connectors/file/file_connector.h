// FileConnector: the source of kind `file`: complete new files of a directory, each one event,
// across restarts, lost notifications and hours of downtime.
//
// Its one lane remembers each file it is done with as an entry (seen_file.h); the position is the
// identity of the watched directory. Whatever happens in between, every Connect() lists the whole
// tree and compares it with what is remembered. While it runs, inotify tells of changes and the
// tree is listed again every `rescan`, after an overflow of inotify's queue, and when directories
// moved; where inotify cannot be had (network file systems, its limit of watches), listing alone
// finds things.
//
// Another directory in the old one's place (a file system that is not mounted, or one made anew) is
// taken over once there are files in it; while it is empty the connector waits, so that a missing
// mount does not make it forget everything.
//
// `after: move | delete` acts when Settled() says that an event was acked, if the file is still as
// it was when the event was made.
//
// Threading: as SourceConnector says; all work that blocks is done on `lane`, a thread of its own.
// counts() from any thread.

#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "broker/base/executor.h"
#include "broker/base/mutex.h"
#include "connectors/file/directory_tree.h"
#include "connectors/file/file_spec.h"
#include "connectors/file/file_tracker.h"
#include "connectors/source_connector.h"

namespace tocsin {

struct FileSourceCounts {
  std::uint64_t remembered = 0;  // files it is done with
  std::uint64_t waiting = 0;     // files not complete yet
  std::uint64_t skipped = 0;     // found in the last listing: no regular file, or an unusable name
  std::uint64_t moved = 0;       // `after`, since the start
  std::uint64_t listings = 0;
  bool watching = false;  // inotify reports every directory
  std::string note;       // why something is not as it should be; empty: nothing
};

class FileConnector final : public SourceConnector {
 public:
  struct Ports {
    DirectoryTree& tree;
    const Clock& clock;
    Executor& owner;  // of the runner
    Executor& lane;   // may be blocked for long
  };

  FileConnector(const FileSpec& spec, const Ports& ports);

  LaneTraits traits() const override;
  void Connect(const LaneState& restored, Done done) override;
  void Poll(Duration wait_max, PollDone done) override;
  void Commit(const SourcePosition& position, Done done) override;
  void Settled(std::span<const LaneEventRef> events, SettledAs as) override;
  void Cancel() override;

  LaneReport report() const override;

  FileSourceCounts counts() const;

 private:
  // All on the lane's thread.
  absl::Status ConnectNow(const LaneState& restored);
  absl::Status CheckRoot(const FileIdentity& root, const LaneState& restored);
  absl::StatusOr<SourceBatch> PollNow(Instant until);
  absl::Status TakeChanges(Instant until);
  absl::Status HandleAll(Instant now);  // changes_
  absl::Status Handle(const TreeChange& change, Instant now);
  void StartListing(Instant now);
  absl::Status ListSome(Instant now);
  absl::Status ListOne(const std::string& directory, Instant now, bool watch);
  void EndListing(Instant now);
  void Look(Instant now);
  void ActOnSettled();
  void Act(const std::string& event_id);
  SourceBatch TakeBatch();
  bool Excluded(const std::string& directory) const;
  void Note(std::string text);
  void Show();
  bool cancelled() const;

  // Set at construction.
  const FileSpec spec_;
  const Ports ports_;
  std::string inner_target_;  // `move_to` beneath the root: not watched

  // Of the lane's thread.
  FileTracker tracker_;
  std::string position_;
  std::vector<std::string> erase_unreadable_;  // entries that say nothing
  bool watch_ = false;                         // inotify is to be used at all
  bool fully_watched_ = false;
  bool disturbed_ = false;  // since the last listing began, it may have missed what is there
  Instant heard_;           // all that had happened before is known
  std::deque<std::string> to_list_;
  bool listing_ = false;              // of the whole tree
  std::set<std::string> unreadable_;  // of this listing
  Instant next_listing_;
  std::uint64_t skipped_in_listing_ = 0;
  std::vector<TreeChange> changes_;
  std::set<std::string> failed_acts_;  // event ids; tried with the next listing
  bool retry_acts_ = false;

  mutable Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::string> settled_ ABSL_GUARDED_BY(mutex_);
  FileSourceCounts counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tocsin
