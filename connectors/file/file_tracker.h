// FileTracker: decides which files are complete and new. Pure: it is told what was seen of the disk
// and when, and says what to look at next; it never looks itself.
//
//            Observe                 unchanged for `settle`, closed by its writer
//   (disk) ----------> candidate ------------------------------------------------> seen (+ event)
//                        ^    |                                                      |
//              changed   +----+ vanished: forgotten       gone for good: erased <----+ (+ event)
//
// * A file is known by its identity, not its name: what is renamed makes no second event, and a
//   name that comes back with another file in it does.
// * A file that a writer was seen to open is complete only when it was seen to close it, or when
// the
//   tree knows that nobody has it open.
// * What is gone is erased only after it was looked for twice, more often if a listing may have
// missed
//   what is there: a file that is being renamed while the tree is listed is not forgotten and found
//   anew.
//
// Where a file system does not tell when a file was born, its inode may be another file's by now:
// if its name, and its size or time differ from what is remembered, it is taken for a new one.
//
// Threading: one thread.

#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "broker/base/clock.h"
#include "connectors/file/directory_tree.h"
#include "connectors/file/file_event.h"
#include "connectors/file/file_spec.h"
#include "connectors/file/seen_file.h"
#include "connectors/source_connector.h"

namespace tocsin {

class FileTracker {
 public:
  // How long something gone may still turn up under another name.
  static constexpr Duration kGoneGrace = std::chrono::milliseconds(500);

  // `spec` outlives it.
  explicit FileTracker(const FileSpec& spec) : spec_(spec) {}

  // What the lane remembered; nothing else is remembered afterwards. Returns the keys of entries
  // that cannot be read.
  std::vector<std::string> Restore(const std::map<std::string, std::string>& entries);

  // --- what is seen ---
  // Only of regular files whose names are usable; `what` is kTouched, kComplete, or nothing: it was
  // found by listing.
  void Observe(const std::string& path, const FileFacts& facts, std::optional<TreeChangeKind> what,
               Instant now);
  // A file of this name was removed or moved away.
  void Gone(const std::string& path, Instant now);
  // Changes were lost: nothing is known of open writers any more.
  void ForgetWriters();

  // How much it says that a listing did not find something.
  enum class Listing : std::uint8_t {
    kWatched,    // what was moved meanwhile was Observe()d: twice is enough
    kUnwatched,  // nothing tells of moves: three times
    kDisturbed,  // directories were moved, or changes were lost: only many times
  };
  // A whole listing: everything found is Observe()d between the two. `unreadable` are directories
  // that could not be listed: what is beneath them is not gone. True: something is missing and not
  // erased yet, list again after kGoneGrace.
  void BeginListing();
  [[nodiscard]] bool EndListing(Listing how, const std::set<std::string>& unreadable);

  // --- what to look at ---
  // When a candidate or something gone is due; nullopt: nothing is.
  std::optional<Instant> Due() const;
  std::optional<std::string> NextCandidate(Instant now);  // due
  std::optional<std::string> NextGone(Instant now);       // due: look whether it is there

  // What was found at NextCandidate()'s path; nullopt: nothing of that name.
  void Decide(const std::string& path, const std::optional<FileFacts>& facts, WriterState writer,
              Instant now);
  // What was found at NextGone()'s path. `certain`: a file that was moved within the tree would
  // have been Observe()d by now; if not, only listings erase.
  void DecideGone(const std::string& path, const std::optional<FileFacts>& facts, bool certain);

  // --- what came of it ---
  // What happened to one file. Whoever keeps a beginning of the changes remembers what came of it
  // and nothing else, so they may be handed on in pieces.
  struct Change {
    FileIdentity identity;
    std::optional<SeenFile> seen;  // as it is remembered then; nullopt: not any more
    std::optional<FileOccurrence> occurrence;
  };
  bool HasOutput() const { return !output_.empty(); }
  std::size_t output_count() const { return output_.size(); }
  // The oldest change that was not taken yet; there is one.
  Change Take();

  const SeenFile* FindSeen(const FileIdentity& identity) const;
  std::size_t seen_count() const { return seen_.size(); }
  std::size_t candidate_count() const { return candidates_.size(); }

 private:
  struct Seen {
    SeenFile file;
    std::uint32_t listing = 0;  // in which it was found last
    int missed = 0;             // by the last listings in a row, weighed
  };
  struct Candidate {
    FileFacts facts;
    Instant due;
    bool open = false;  // a writer was seen to make it or write to it, and not to close it
    bool written = false;
  };

  bool Matches(const std::string& path) const;
  Seen* Known(const std::string& path, const FileFacts& facts);
  void Remember(const std::string& path, const FileFacts& facts);
  void Erase(const FileIdentity& identity, bool deleted);
  void Schedule(const std::string& path, Candidate& candidate, Instant due);
  void DropCandidate(const std::string& path);
  void Put(Change change);

  const FileSpec& spec_;
  absl::flat_hash_map<FileIdentity, Seen> seen_;
  absl::flat_hash_map<std::string, FileIdentity> by_path_;
  absl::flat_hash_map<std::string, Candidate> candidates_;
  std::set<std::pair<Instant, std::string>> candidate_dues_;
  std::map<std::string, Instant> gone_;  // by path; all have the same grace
  std::set<std::pair<Instant, std::string>> gone_dues_;
  std::uint32_t listing_ = 0;
  std::deque<Change> output_;
};

}  // namespace tocsin
