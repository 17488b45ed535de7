#include "connectors/file/file_connector.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "broker/base/status.h"
#include "broker/base/time_text.h"

namespace tocsin {
namespace {

// Reads of changes between two looks at what else is to be done.
constexpr int kReadAtOnce = 16;
// Directories listed between two looks at what else is to be done.
constexpr int kListedAtOnce = 32;
// About, of an entry of the lane without the file's name.
constexpr std::size_t kEntryBytes = 128;

std::string Trimmed(std::string directory) {
  while (directory.size() > 1 && directory.ends_with('/')) directory.pop_back();
  while (directory.starts_with("./")) directory.erase(0, 2);
  return directory;
}

// The part of `target` beneath `root`; empty: it is not beneath it.
std::string Beneath(const std::string& target, const std::string& root) {
  if (!target.starts_with('/')) return Trimmed(target);
  const std::string base = Trimmed(root) + "/";
  return target.starts_with(base) ? Trimmed(target.substr(base.size())) : "";
}

}  // namespace

FileConnector::FileConnector(const FileSpec& spec, const Ports& ports)
    : spec_(spec), ports_(ports), tracker_(spec_) {
  if (spec_.after == AfterFile::kMove) inner_target_ = Beneath(spec_.move_to, spec_.path);
}

LaneTraits FileConnector::traits() const {
  return {.dedupe = false, .wants_settled = spec_.after != AfterFile::kKeep};
}

void FileConnector::Connect(const LaneState& restored, Done done) {
  ports_.lane.Post([this, restored, done = std::move(done)]() mutable {
    absl::Status status = ConnectNow(restored);
    ports_.owner.Post([status = std::move(status), done = std::move(done)]() mutable {
      done(std::move(status));
    });
  });
}

void FileConnector::Poll(Duration wait_max, PollDone done) {
  ports_.lane.Post([this, wait_max, done = std::move(done)]() mutable {
    absl::StatusOr<SourceBatch> batch = PollNow(ports_.clock.Monotonic() + wait_max);
    Show();
    ports_.owner.Post(
        [batch = std::move(batch), done = std::move(done)]() mutable { done(std::move(batch)); });
  });
}

// There is nobody outside to tell.
void FileConnector::Commit(const SourcePosition&, Done done) {
  ports_.owner.Post([done = std::move(done)]() mutable { done(absl::OkStatus()); });
}

void FileConnector::Settled(std::span<const LaneEventRef> events, SettledAs as) {
  if (as != SettledAs::kAcked || spec_.after == AfterFile::kKeep) return;
  {
    MutexLock lock(mutex_);
    for (const LaneEventRef& event : events) settled_.push_back(event.event_id);
  }
  ports_.tree.Interrupt();
}

void FileConnector::Cancel() {
  {
    MutexLock lock(mutex_);
    cancelled_ = true;
  }
  ports_.tree.Interrupt();
}

bool FileConnector::cancelled() const {
  MutexLock lock(mutex_);
  return cancelled_;
}

FileSourceCounts FileConnector::counts() const {
  MutexLock lock(mutex_);
  return counts_;
}

LaneReport FileConnector::report() const {
  const FileSourceCounts shown = counts();
  LaneReport report;
  report.position =
      fmt::format("{} files seen{}", shown.remembered,
                  shown.waiting == 0 ? "" : fmt::format(", {} not complete", shown.waiting));
  report.skipped = shown.skipped;
  report.note = shown.note;
  return report;
}

void FileConnector::Show() {
  MutexLock lock(mutex_);
  counts_.remembered = tracker_.seen_count();
  counts_.waiting = tracker_.candidate_count();
  counts_.watching = fully_watched_;
}

void FileConnector::Note(std::string text) {
  MutexLock lock(mutex_);
  counts_.note = std::move(text);
}

absl::Status FileConnector::ConnectNow(const LaneState& restored) {
  if (cancelled()) return absl::CancelledError("cancelled");
  Note("");
  TOCSIN_ASSIGN_OR_RETURN(const TreeRoot root, ports_.tree.Open());
  if (spec_.mode == WatchMode::kInotify && root.remote) {
    return absl::FailedPreconditionError(
        fmt::format("{} is on a file system that does not report changes made elsewhere; say "
                    "`mode: poll` (or `auto`)",
                    spec_.path));
  }
  watch_ = spec_.mode == WatchMode::kInotify || (spec_.mode == WatchMode::kAuto && !root.remote);
  erase_unreadable_ = tracker_.Restore(restored.entries);
  TOCSIN_RETURN_IF_ERROR(CheckRoot(root.identity, restored));
  position_ = EncodeRoot(root.identity);
  heard_ = Instant();
  StartListing(ports_.clock.Monotonic());
  return absl::OkStatus();
}

// Another directory stands where the old one was: is there anything in it?
absl::Status FileConnector::CheckRoot(const FileIdentity& root, const LaneState& restored) {
  const std::optional<FileIdentity> before = DecodeRoot(restored.position.value);
  if (!before || restored.entries.empty()) return absl::OkStatus();
  if (before->inode == root.inode && before->born_ns == root.born_ns) return absl::OkStatus();
  TOCSIN_ASSIGN_OR_RETURN(const std::vector<TreeEntry> entries, ports_.tree.List(""));
  if (!entries.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "{} is empty and not the directory it was, whose {} files are remembered: if a file system "
      "belongs there, mount it; if the directory was made anew, it is taken as soon as there is a "
      "file in it",
      spec_.path, restored.entries.size()));
}

bool FileConnector::Excluded(const std::string& directory) const {
  return !inner_target_.empty() && directory == inner_target_;
}

void FileConnector::StartListing(Instant now) {
  to_list_.clear();
  fully_watched_ = watch_;
  disturbed_ = false;
  tracker_.BeginListing();
  unreadable_.clear();
  skipped_in_listing_ = 0;
  listing_ = true;
  to_list_.emplace_back();
  next_listing_ = now + spec_.rescan;
}

absl::Status FileConnector::ListOne(const std::string& directory, Instant now, bool watch) {
  if (watch && watch_) {
    // Before listing, so that nothing falls between the two.
    absl::Status watched = ports_.tree.Watch(directory);
    if (!watched.ok() && !absl::IsNotFound(watched)) {
      if (spec_.mode == WatchMode::kInotify && directory.empty()) return watched;
      fully_watched_ = false;
      Note(fmt::format("{}; until then changes in {} are found every {} only", MessageOf(watched),
                       directory.empty() ? spec_.path : directory, FormatDuration(spec_.rescan)));
    }
  }
  const absl::StatusOr<std::vector<TreeEntry>> entries = ports_.tree.List(directory);
  if (!entries.ok()) {
    if (directory.empty()) return entries.status();
    if (!absl::IsNotFound(entries.status())) {
      unreadable_.insert(directory);
      Note(std::string(MessageOf(entries.status())));
    }
    return absl::OkStatus();
  }
  for (const TreeEntry& entry : *entries) {
    switch (entry.facts.kind) {
      case FileKind::kDirectory:
        if (spec_.recursive && !Excluded(entry.path)) to_list_.push_back(entry.path);
        break;
      case FileKind::kOther:
        ++skipped_in_listing_;
        break;
      case FileKind::kRegular:
        if (FileNameIsUsable(entry.path)) {
          tracker_.Observe(entry.path, entry.facts, std::nullopt, now);
        } else {
          ++skipped_in_listing_;
        }
        break;
    }
  }
  return absl::OkStatus();
}

absl::Status FileConnector::ListSome(Instant now) {
  for (int i = 0; i < kListedAtOnce && !to_list_.empty(); ++i) {
    const std::string directory = std::move(to_list_.front());
    to_list_.pop_front();
    TOCSIN_RETURN_IF_ERROR(ListOne(directory, now, true));
  }
  if (to_list_.empty() && listing_) {
    // What was moved meanwhile is heard of first: it is not missing.
    TOCSIN_RETURN_IF_ERROR(TakeChanges(now));
    if (to_list_.empty() && heard_ >= now) EndListing(now);
  }
  if (tracker_.seen_count() + tracker_.candidate_count() > spec_.files_max) {
    return absl::FailedPreconditionError(fmt::format(
        "there are more than {} files in {} (`files_max`): move away what is done, or raise it",
        spec_.files_max, spec_.path));
  }
  return absl::OkStatus();
}

void FileConnector::EndListing(Instant now) {
  listing_ = false;
  retry_acts_ = !failed_acts_.empty();
  const auto how = disturbed_       ? FileTracker::Listing::kDisturbed
                   : fully_watched_ ? FileTracker::Listing::kWatched
                                    : FileTracker::Listing::kUnwatched;
  if (tracker_.EndListing(how, unreadable_)) {
    next_listing_ = std::min(next_listing_, now + FileTracker::kGoneGrace);
  }
  MutexLock lock(mutex_);
  ++counts_.listings;
  counts_.skipped = skipped_in_listing_;
}

absl::Status FileConnector::Handle(const TreeChange& change, Instant now) {
  switch (change.kind) {
    case TreeChangeKind::kRootGone:
      return absl::UnavailableError(fmt::format("{} was removed, moved or unmounted", spec_.path));
    case TreeChangeKind::kOverflow:
      tracker_.ForgetWriters();
      disturbed_ = true;
      next_listing_ = now;
      return absl::OkStatus();
    case TreeChangeKind::kDirectoryMoved:
      // The watches have the old names.
      ports_.tree.ForgetWatches();
      disturbed_ = true;
      tracker_.ForgetWriters();
      next_listing_ = now;
      return absl::OkStatus();
    case TreeChangeKind::kDirectory:
      if (spec_.recursive && !Excluded(change.path)) to_list_.push_back(change.path);
      return absl::OkStatus();
    case TreeChangeKind::kGone:
      tracker_.Gone(change.path, now);
      return absl::OkStatus();
    case TreeChangeKind::kTouched:
    case TreeChangeKind::kComplete:
      break;
  }
  const absl::StatusOr<FileFacts> facts = ports_.tree.Facts(change.path);
  if (!facts.ok() || facts->kind != FileKind::kRegular || !FileNameIsUsable(change.path)) {
    return absl::OkStatus();  // gone again, or nothing for us: a listing counts it
  }
  tracker_.Observe(change.path, *facts, change.kind, now);
  return absl::OkStatus();
}

absl::Status FileConnector::TakeChanges(Instant until) {
  for (int reads = 0; reads < kReadAtOnce; ++reads) {
    changes_.clear();
    const Instant before = ports_.clock.Monotonic();
    ports_.tree.Wait(reads == 0 ? until : before, changes_);
    if (changes_.empty()) {
      heard_ = std::max(heard_, before);
      break;
    }
    TOCSIN_RETURN_IF_ERROR(HandleAll(ports_.clock.Monotonic()));
  }
  return absl::OkStatus();
}

absl::Status FileConnector::HandleAll(Instant now) {
  for (std::size_t i = 0; i < changes_.size(); ++i) {
    // A writer of small pieces makes many like it in a row.
    const bool repeated = i > 0 && changes_[i].kind == TreeChangeKind::kTouched &&
                          changes_[i - 1].kind == changes_[i].kind &&
                          changes_[i - 1].path == changes_[i].path;
    if (!repeated) TOCSIN_RETURN_IF_ERROR(Handle(changes_[i], now));
  }
  return absl::OkStatus();
}

// Looks at what is due: complete, changed again, or gone.
void FileConnector::Look(Instant now) {
  while (tracker_.output_count() < kBatchEventsMax && !cancelled()) {
    if (const auto path = tracker_.NextCandidate(now)) {
      const absl::StatusOr<FileFacts> facts = ports_.tree.Facts(*path);
      const WriterState writer = facts.ok() ? ports_.tree.Writer(*path) : WriterState::kUnknown;
      // Looked at before and after: what changed meanwhile is not complete.
      const absl::StatusOr<FileFacts> after = facts.ok() ? ports_.tree.Facts(*path) : facts;
      tracker_.Decide(*path, after.ok() ? std::optional(*after) : std::nullopt, writer, now);
      continue;
    }
    // A file that was moved to where nothing is watched yet is found by the listing, and one whose
    // new name was not heard of yet is heard of.
    if (listing_ || !to_list_.empty() || disturbed_) return;
    const auto gone = tracker_.NextGone(std::min(now, heard_));
    if (!gone) return;
    const absl::StatusOr<FileFacts> facts = ports_.tree.Facts(*gone);
    const bool certain = fully_watched_ && (facts.ok() || absl::IsNotFound(facts.status()));
    tracker_.DecideGone(*gone, facts.ok() ? std::optional(*facts) : std::nullopt, certain);
  }
}

absl::StatusOr<SourceBatch> FileConnector::PollNow(Instant until) {
  while (true) {
    if (cancelled()) return absl::CancelledError("cancelled");
    ActOnSettled();
    Instant now = ports_.clock.Monotonic();
    if (!listing_ && now >= next_listing_) StartListing(now);
    TOCSIN_RETURN_IF_ERROR(ListSome(now));
    Look(now);
    if (tracker_.HasOutput() || !erase_unreadable_.empty()) return TakeBatch();
    const bool busy = listing_ || !to_list_.empty();
    if (!busy && now >= until) {
      SourceBatch nothing;
      nothing.position.value = position_;
      return nothing;
    }
    Instant wake = busy ? now : std::min(until, next_listing_);
    if (const auto due = tracker_.Due(); !busy && due) wake = std::min(wake, *due);
    TOCSIN_RETURN_IF_ERROR(TakeChanges(wake));
  }
}

// A directory that vanishes is many files at once: what does not fit is for the next batch.
SourceBatch FileConnector::TakeBatch() {
  SourceBatch batch;
  batch.position.value = position_;
  const WallTime now = ports_.clock.Wall();
  std::map<FileIdentity, std::optional<SeenFile>> changed;  // the last word counts
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < kBatchEventsMax && bytes < kBatchBytesMax; ++i) {
    if (!erase_unreadable_.empty()) {
      batch.erases.push_back(std::move(erase_unreadable_.back()));
      erase_unreadable_.pop_back();
      bytes += batch.erases.back().size();
      continue;
    }
    if (!tracker_.HasOutput()) break;
    FileTracker::Change change = tracker_.Take();
    if (change.occurrence) {
      batch.events.push_back(MakeFileEvent(spec_, *change.occurrence, now));
      bytes += batch.events.back().bytes().size();
    }
    bytes += kEntryBytes + (change.seen ? change.seen->path.size() : 0);
    changed.insert_or_assign(change.identity, std::move(change.seen));
  }
  for (const auto& [identity, seen] : changed) {
    if (seen) {
      batch.puts.push_back({EncodeIdentity(identity), EncodeSeenFile(*seen)});
    } else {
      batch.erases.push_back(EncodeIdentity(identity));
    }
  }
  return batch;
}

void FileConnector::ActOnSettled() {
  std::vector<std::string> settled;
  {
    MutexLock lock(mutex_);
    settled.swap(settled_);
  }
  if (retry_acts_) {
    retry_acts_ = false;
    settled.insert(settled.end(), failed_acts_.begin(), failed_acts_.end());
    failed_acts_.clear();
  }
  for (const std::string& event_id : settled) Act(event_id);
}

void FileConnector::Act(const std::string& event_id) {
  const std::optional<FileEventKey> key = ParseFileEventId(event_id);
  if (!key) return;  // of a file that is gone
  const SeenFile* seen = tracker_.FindSeen(key->identity);
  if (seen == nullptr || seen->size != key->size || seen->modified_ns != key->modified_ns) return;
  FileFacts facts;
  facts.identity = key->identity;
  facts.size = key->size;
  facts.modified_ns = key->modified_ns;
  const absl::Status status = spec_.after == AfterFile::kDelete
                                  ? ports_.tree.Remove(seen->path, facts)
                                  : ports_.tree.MoveTo(seen->path, facts, spec_.move_to);
  if (status.ok()) {
    MutexLock lock(mutex_);
    ++counts_.moved;
  } else if (!absl::IsNotFound(status)) {  // done by an earlier life, or by somebody else
    Note(std::string(MessageOf(status)));
    if (IsRetryable(status) || absl::IsPermissionDenied(status)) failed_acts_.insert(event_id);
  }
}

}  // namespace tocsin
