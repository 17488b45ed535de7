// FakeTree: a DirectoryTree in memory. Waiting advances the virtual clock, or gives what the test
// did to the files; each change makes the notifications that inotify would make.

#pragma once

#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "broker/virtual/virtual_clock.h"
#include "connectors/file/directory_tree.h"

namespace tocsin {

class FakeTree final : public DirectoryTree {
 public:
  explicit FakeTree(VirtualClock& clock) : clock_(clock) {}

  // --- what the test does ---
  void MakeDirectory(const std::string& path) {
    nodes_[path] = Node{FileKind::kDirectory, NextIdentity(), 0, Now(), 1, false};
    Tell(TreeChangeKind::kDirectory, path);
  }
  void MakeOther(const std::string& path) {
    nodes_[path] = Node{FileKind::kOther, NextIdentity(), 0, Now(), 1, false};
  }
  // A writer makes it, writes and keeps it open.
  void Begin(const std::string& path, std::uint64_t size = 1) {
    const bool fresh = !nodes_.contains(path);
    Node& node = nodes_[path];
    if (fresh) node.identity = NextIdentity();
    node.kind = FileKind::kRegular;
    node.size = size;
    node.modified_ns = Now();
    node.open = true;
    Tell(TreeChangeKind::kTouched, path);
    Tell(TreeChangeKind::kTouched, path);
  }
  void Grow(const std::string& path, std::uint64_t by) {
    nodes_.at(path).size += by;
    nodes_.at(path).modified_ns = Now();
    Tell(TreeChangeKind::kTouched, path);
  }
  void End(const std::string& path) {
    nodes_.at(path).open = false;
    Tell(TreeChangeKind::kComplete, path);
  }
  void Write(const std::string& path, std::uint64_t size = 1) {
    Begin(path, size);
    End(path);
  }
  void Delete(const std::string& path) {
    nodes_.erase(path);
    Tell(TreeChangeKind::kGone, path);
  }
  void Rename(const std::string& from, const std::string& to) {
    const Node node = nodes_.at(from);
    nodes_.erase(from);
    nodes_[to] = node;
    Tell(TreeChangeKind::kGone, from);
    Tell(TreeChangeKind::kComplete, to);
  }
  void RenameDirectory(const std::string& from, const std::string& to) {
    std::map<std::string, Node> renamed;
    for (auto it = nodes_.begin(); it != nodes_.end();) {
      if (it->first == from || it->first.starts_with(from + "/")) {
        renamed[to + it->first.substr(from.size())] = it->second;
        it = nodes_.erase(it);
      } else {
        ++it;
      }
    }
    nodes_.merge(renamed);
    Tell(TreeChangeKind::kDirectoryMoved, from);
    Tell(TreeChangeKind::kDirectory, to);
  }
  void Link(const std::string& from, const std::string& to) {
    Node node = nodes_.at(from);
    node.links = 2;
    nodes_[from] = nodes_[to] = node;
    Tell(TreeChangeKind::kTouched, to);
  }
  // Deletes `from` and makes `to` of the same inode.
  void Reuse(const std::string& from, const std::string& to, std::uint64_t size) {
    Node node = nodes_.at(from);
    nodes_.erase(from);
    node.size = size;
    node.modified_ns = Now();
    nodes_[to] = node;
  }
  void Overflow() {
    pending_.clear();
    pending_.push_back({TreeChangeKind::kOverflow, ""});
  }
  void ReplaceRoot() {
    nodes_.clear();
    root_ = NextIdentity();
    pending_.push_back({TreeChangeKind::kRootGone, ""});
  }
  FileFacts facts(const std::string& path) const { return ToFacts(nodes_.at(path)); }
  bool exists(const std::string& path) const { return nodes_.contains(path); }

  // What `during` does when the first directory of this name is listed, before its entries are
  // read.
  void OnList(const std::string& directory, std::function<void()> during) {
    on_list_[directory] = std::move(during);
  }

  bool knows_writers = true;
  bool births = true;
  bool notifies = true;  // false: as on a network file system
  bool remote = false;
  std::size_t watches_max = 1'000'000;
  std::set<std::string> unreadable;
  absl::Status open_error;
  int lists = 0;

  // --- DirectoryTree ---
  absl::StatusOr<TreeRoot> Open() override {
    ForgetWatches();
    pending_.clear();
    if (!open_error.ok()) return open_error;
    return TreeRoot{root_, remote};
  }
  absl::StatusOr<std::vector<TreeEntry>> List(const std::string& directory) override {
    ++lists;
    if (unreadable.contains(directory))
      return absl::PermissionDeniedError("not ours: " + directory);
    if (auto hook = on_list_.extract(directory); !hook.empty()) hook.mapped()();
    if (!directory.empty() && !nodes_.contains(directory)) return absl::NotFoundError(directory);
    std::vector<TreeEntry> entries;
    for (const auto& [path, node] : nodes_) {
      if (Parent(path) == directory) entries.push_back({path, ToFacts(node)});
    }
    return entries;
  }
  absl::StatusOr<FileFacts> Facts(const std::string& path) override {
    const auto found = nodes_.find(path);
    if (found == nodes_.end()) return absl::NotFoundError(path);
    return ToFacts(found->second);
  }
  WriterState Writer(const std::string& path) override {
    if (!knows_writers) return WriterState::kUnknown;
    return nodes_.at(path).open ? WriterState::kWriting : WriterState::kNone;
  }
  absl::Status Watch(const std::string& directory) override {
    if (!watched_.contains(directory) && watched_.size() >= watches_max) {
      return absl::ResourceExhaustedError("no more watches");
    }
    watched_.insert(directory);
    return absl::OkStatus();
  }
  void ForgetWatches() override {
    watched_.clear();
    pending_.clear();
  }
  void Wait(Instant until, std::vector<TreeChange>& changes) override {
    // What the test planned for this time happens while we wait.
    while (pending_.empty() && !plan_.empty() && plan_.begin()->first <= until) {
      auto step = plan_.extract(plan_.begin());
      if (step.key() > clock_.Monotonic()) clock_.Advance(step.key() - clock_.Monotonic());
      step.mapped()();
    }
    if (pending_.empty() && !interrupted_ && until > clock_.Monotonic()) {
      clock_.Advance(until - clock_.Monotonic());
    }
    interrupted_ = false;
    changes.assign(pending_.begin(), pending_.end());
    pending_.clear();
  }
  void Interrupt() override { interrupted_ = true; }
  absl::Status Remove(const std::string& path, const FileFacts& facts) override {
    const absl::Status same = CheckSame(path, facts);
    if (same.ok()) Delete(path);
    return same;
  }
  absl::Status MoveTo(const std::string& path, const FileFacts& facts,
                      const std::string& directory) override {
    const absl::Status same = CheckSame(path, facts);
    if (same.ok()) {
      moved.emplace_back(path, directory);
      Delete(path);
    }
    return same;
  }

  // `what` happens at that time, while the connector waits.
  void At(Instant when, std::function<void()> what) { plan_.emplace(when, std::move(what)); }

  std::vector<std::pair<std::string, std::string>> moved;

 private:
  struct Node {
    FileKind kind = FileKind::kRegular;
    FileIdentity identity;
    std::uint64_t size = 0;
    std::int64_t modified_ns = 0;
    std::uint32_t links = 1;
    bool open = false;
  };

  static std::string Parent(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    return slash == std::string::npos ? "" : path.substr(0, slash);
  }
  FileFacts ToFacts(const Node& node) const {
    FileFacts facts{node.kind, node.identity, node.size, node.modified_ns, node.links};
    if (!births) facts.identity.born_ns = 0;
    return facts;
  }
  absl::Status CheckSame(const std::string& path, const FileFacts& facts) {
    const auto found = nodes_.find(path);
    if (found == nodes_.end()) return absl::NotFoundError(path);
    const FileFacts now = ToFacts(found->second);
    if (now.identity != facts.identity || now.size != facts.size ||
        now.modified_ns != facts.modified_ns) {
      return absl::FailedPreconditionError("changed: " + path);
    }
    return absl::OkStatus();
  }
  FileIdentity NextIdentity() {
    ++inode_;
    return FileIdentity{0, inode_, Now() + static_cast<std::int64_t>(inode_)};
  }
  std::int64_t Now() const {
    return std::chrono::nanoseconds(clock_.Wall().time_since_epoch()).count();
  }
  void Tell(TreeChangeKind kind, const std::string& path) {
    if (notifies && watched_.contains(Parent(path))) pending_.push_back({kind, path});
  }

  VirtualClock& clock_;
  std::map<std::string, Node> nodes_;
  FileIdentity root_{0, 2, 1};
  std::uint64_t inode_ = 10;
  std::set<std::string> watched_;
  std::deque<TreeChange> pending_;
  std::multimap<Instant, std::function<void()>> plan_;
  std::map<std::string, std::function<void()>> on_list_;
  bool interrupted_ = false;
};

}  // namespace tocsin
