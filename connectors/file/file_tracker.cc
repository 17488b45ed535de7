#include "connectors/file/file_tracker.h"

#include <algorithm>
#include <utility>

#include "broker/base/check.h"

namespace tocsin {
namespace {

// What listings that do not find something say together, until it is gone. A tree whose directories
// move all the time is not remembered for ever.
constexpr int kMissedMax = 10;
int WeightOf(FileTracker::Listing how) {
  switch (how) {
    case FileTracker::Listing::kWatched:
      return 5;
    case FileTracker::Listing::kUnwatched:
      return 4;
    case FileTracker::Listing::kDisturbed:
      return 1;
  }
  return 0;
}

bool IsBeneath(const std::string& path, const std::string& directory) {
  return directory.empty() || (path.size() > directory.size() && path.starts_with(directory) &&
                               path[directory.size()] == '/');
}

}  // namespace

std::vector<std::string> FileTracker::Restore(const std::map<std::string, std::string>& entries) {
  seen_.clear();
  by_path_.clear();
  candidates_.clear();
  candidate_dues_.clear();
  gone_.clear();
  gone_dues_.clear();
  output_.clear();
  listing_ = 0;
  std::vector<std::string> unreadable;
  for (const auto& [key, value] : entries) {
    const auto identity = DecodeIdentity(key);
    auto file = DecodeSeenFile(value);
    if (!identity || !file) {
      unreadable.push_back(key);
      continue;
    }
    by_path_[file->path] = *identity;
    seen_[*identity].file = *std::move(file);
  }
  return unreadable;
}

bool FileTracker::Matches(const std::string& path) const {
  const auto matches = [&path](const std::string& glob) { return GlobMatches(glob, path); };
  if (std::any_of(spec_.exclude.begin(), spec_.exclude.end(), matches)) return false;
  return spec_.include.empty() || std::any_of(spec_.include.begin(), spec_.include.end(), matches);
}

FileTracker::Seen* FileTracker::Known(const std::string& path, const FileFacts& facts) {
  const auto found = seen_.find(facts.identity);
  if (found == seen_.end()) return nullptr;
  const SeenFile& file = found->second.file;
  const bool same = file.size == facts.size && file.modified_ns == facts.modified_ns;
  if (facts.identity.born_ns == 0 && !same && file.path != path) return nullptr;
  return &found->second;
}

void FileTracker::Observe(const std::string& path, const FileFacts& facts,
                          std::optional<TreeChangeKind> what, Instant now) {
  if (Seen* seen = Known(path, facts)) {
    seen->listing = listing_;
    seen->missed = 0;
    if (seen->file.path != path && facts.links == 1) {
      // Renamed. Of a file with several names the first one stays its own.
      const auto named = by_path_.find(seen->file.path);
      if (named != by_path_.end() && named->second == facts.identity) by_path_.erase(named);
      seen->file.path = path;
      by_path_[path] = facts.identity;
      Put({facts.identity, seen->file, std::nullopt});
    }
    if (seen->file.size == facts.size && seen->file.modified_ns == facts.modified_ns) {
      DropCandidate(path);
      return;
    }
  }
  if (!Matches(path)) return;
  Candidate& candidate = candidates_[path];
  const bool changed = candidate.due == Instant() || candidate.facts != facts || what.has_value();
  candidate.facts = facts;
  if (what == TreeChangeKind::kTouched) {
    // The first touch may be link(2) giving a finished file one more name; a second is a writer's.
    candidate.written = candidate.written || candidate.open || facts.links <= 1;
    candidate.open = true;
  } else if (what == TreeChangeKind::kComplete) {
    candidate.open = false;
  }
  if (changed) Schedule(path, candidate, now + spec_.settle);
}

void FileTracker::Gone(const std::string& path, Instant now) {
  DropCandidate(path);
  if (!by_path_.contains(path) || !gone_.emplace(path, now + kGoneGrace).second) return;
  gone_dues_.emplace(now + kGoneGrace, path);
}

void FileTracker::ForgetWriters() {
  for (auto& [path, candidate] : candidates_) candidate.open = false;
}

void FileTracker::BeginListing() { ++listing_; }

bool FileTracker::EndListing(Listing how, const std::set<std::string>& unreadable) {
  std::vector<FileIdentity> gone;
  bool missing = false;
  for (auto& [identity, seen] : seen_) {
    if (seen.listing == listing_) continue;
    const std::string& path = seen.file.path;
    const bool unknown =
        std::any_of(unreadable.begin(), unreadable.end(),
                    [&path](const std::string& directory) { return IsBeneath(path, directory); });
    if (unknown) continue;
    seen.missed += WeightOf(how);
    if (seen.missed >= kMissedMax) {
      gone.push_back(identity);
    } else {
      missing = true;
    }
  }
  std::sort(gone.begin(), gone.end());
  for (const FileIdentity& identity : gone) Erase(identity, true);
  return missing;
}

std::optional<Instant> FileTracker::Due() const {
  std::optional<Instant> due;
  if (!candidate_dues_.empty()) due = candidate_dues_.begin()->first;
  if (!gone_dues_.empty() && (!due || gone_dues_.begin()->first < *due)) {
    due = gone_dues_.begin()->first;
  }
  return due;
}

std::optional<std::string> FileTracker::NextCandidate(Instant now) {
  if (candidate_dues_.empty() || candidate_dues_.begin()->first > now) return std::nullopt;
  return candidate_dues_.begin()->second;
}

std::optional<std::string> FileTracker::NextGone(Instant now) {
  if (gone_dues_.empty() || gone_dues_.begin()->first > now) return std::nullopt;
  return gone_dues_.begin()->second;
}

void FileTracker::Decide(const std::string& path, const std::optional<FileFacts>& facts,
                         WriterState writer, Instant now) {
  const auto found = candidates_.find(path);
  if (found == candidates_.end()) return;
  Candidate& candidate = found->second;
  if (!facts || facts->kind != FileKind::kRegular) {
    DropCandidate(path);
    return;
  }
  // At `settle: 0` a writer is still asked after, but not in a busy loop.
  const Duration again = std::max<Duration>(spec_.settle, std::chrono::milliseconds(100));
  if (candidate.facts != *facts) {
    candidate.facts = *facts;
    Schedule(path, candidate, now + again);
    return;
  }
  const bool awaits_close = candidate.open && candidate.written;
  if (writer == WriterState::kWriting || (writer == WriterState::kUnknown && awaits_close)) {
    Schedule(path, candidate, now + again);
    return;
  }
  Remember(path, *facts);
  DropCandidate(path);
}

void FileTracker::Remember(const std::string& path, const FileFacts& facts) {
  const Seen* known = Known(path, facts);
  const FileHappened what = known == nullptr ? FileHappened::kCreated : FileHappened::kModified;
  const bool wanted = known == nullptr ? spec_.on_created : spec_.on_modified;
  // Under another name it was remembered already.
  const bool same = known != nullptr && known->file.size == facts.size &&
                    known->file.modified_ns == facts.modified_ns;
  Seen& seen = seen_[facts.identity];
  const auto named = by_path_.find(seen.file.path);
  if (known == nullptr && named != by_path_.end() && named->second == facts.identity) {
    by_path_.erase(named);  // the inode was another file's
  }
  if (known == nullptr || facts.links == 1) seen.file.path = path;
  seen.file.size = facts.size;
  seen.file.modified_ns = facts.modified_ns;
  seen.listing = listing_;
  seen.missed = 0;
  by_path_[seen.file.path] = facts.identity;
  Change change{facts.identity, seen.file, std::nullopt};
  if (wanted && !same) {
    change.occurrence = {what, path, facts.identity, facts.size, facts.modified_ns};
  }
  Put(std::move(change));
}

void FileTracker::DecideGone(const std::string& path, const std::optional<FileFacts>& facts,
                             bool certain) {
  const auto due = gone_.find(path);
  if (due == gone_.end()) return;
  gone_dues_.erase({due->second, path});
  gone_.erase(due);
  const auto named = by_path_.find(path);
  if (named == by_path_.end() || !certain) return;  // renamed meanwhile, or a listing will tell
  const FileIdentity identity = named->second;
  if (facts && facts->identity == identity) return;
  Erase(identity, !facts.has_value());
}

void FileTracker::Erase(const FileIdentity& identity, bool deleted) {
  const auto found = seen_.find(identity);
  if (found == seen_.end()) return;
  const SeenFile file = found->second.file;
  seen_.erase(found);
  const auto named = by_path_.find(file.path);
  const bool replaced = named != by_path_.end() && named->second != identity;
  if (named != by_path_.end() && !replaced) by_path_.erase(named);
  Change change{identity, std::nullopt, std::nullopt};
  if (spec_.on_deleted && deleted && !replaced && Matches(file.path)) {
    change.occurrence = {FileHappened::kDeleted, file.path, identity, file.size, file.modified_ns};
  }
  Put(std::move(change));
}

void FileTracker::Put(Change change) {
  // One that is renamed again and again is one change.
  if (!output_.empty() && output_.back().identity == change.identity &&
      !output_.back().occurrence) {
    output_.pop_back();
  }
  output_.push_back(std::move(change));
}

FileTracker::Change FileTracker::Take() {
  TOCSIN_CHECK(!output_.empty(), "there is no change to take");
  Change change = std::move(output_.front());
  output_.pop_front();
  return change;
}

void FileTracker::Schedule(const std::string& path, Candidate& candidate, Instant due) {
  if (candidate.due != Instant()) candidate_dues_.erase({candidate.due, path});
  candidate.due = due;
  candidate_dues_.emplace(due, path);
}

void FileTracker::DropCandidate(const std::string& path) {
  const auto found = candidates_.find(path);
  if (found == candidates_.end()) return;
  candidate_dues_.erase({found->second.due, path});
  candidates_.erase(found);
}

const SeenFile* FileTracker::FindSeen(const FileIdentity& identity) const {
  const auto found = seen_.find(identity);
  return found == seen_.end() ? nullptr : &found->second.file;
}

}  // namespace tocsin
