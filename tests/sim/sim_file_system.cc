#include "tests/sim/sim_file_system.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/status.h"

namespace tocsin {

struct SimFileSystem::Inode {
  std::string data;
  std::uint64_t durable_size = 0;
  using Sectors = std::unordered_map<std::uint64_t, std::array<char, kSector>>;
  Sectors old;  // of unsynced sectors, what the disk has
  // What the disk has of sectors whose sync failed: they are clean, so that no later sync writes
  // them, and read as they were written for as long as they are in memory.
  Sectors stale;

  std::set<std::uint64_t> cached_pages;  // while page reads are counted

  void Write(std::uint64_t position, const char* bytes, std::size_t size) {
    if (size == 0) return;
    if (data.size() < position + size) data.resize(position + size, '\0');
    for (std::uint64_t sector = position / kSector; sector <= (position + size - 1) / kSector;
         ++sector) {
      const auto [entry, added] = old.try_emplace(sector);
      if (!added) continue;
      if (const auto known = stale.find(sector); known != stale.end()) {
        entry->second = known->second;
        stale.erase(known);
        continue;
      }
      entry->second.fill('\0');
      const std::uint64_t from = sector * kSector;
      if (from < durable_size) {
        std::memcpy(entry->second.data(), data.data() + from,
                    std::min<std::uint64_t>(kSector, data.size() - from));
      }
    }
    std::memcpy(data.data() + position, bytes, size);
  }

  void Sync() {
    old.clear();
    durable_size = data.size();
  }

  // Some sectors were written, the others are given up.
  void FailSync(SimFileSystem& fs) {
    std::vector<std::uint64_t> sectors;
    for (const auto& [sector, bytes] : old) sectors.push_back(sector);
    std::sort(sectors.begin(), sectors.end());
    for (const std::uint64_t sector : sectors) {
      if (fs.Survives(Coins::kFair)) continue;
      stale.emplace(sector, old[sector]);
    }
    old.clear();
    durable_size = data.size();
  }

  // The disk's content shows.
  void Revert(Sectors& sectors, std::uint64_t sector) {
    const std::uint64_t from = sector * kSector;
    if (from >= data.size()) return;
    std::memcpy(data.data() + from, sectors[sector].data(),
                std::min<std::uint64_t>(kSector, data.size() - from));
  }
};

void SimFileSystem::CountPageReads() {
  counts_page_reads_ = true;
  page_reads_ = 0;
  for (const auto& [path, inode] : names_) inode->cached_pages.clear();
}

class SimFileSystem::SimFile final : public File {
 public:
  SimFile(SimFileSystem& fs, std::string path, std::shared_ptr<Inode> inode)
      : fs_(fs), path_(std::move(path)), inode_(std::move(inode)), generation_(fs.generation_) {}

  absl::StatusOr<std::size_t> ReadAt(std::uint64_t position,
                                     std::span<std::byte> buffer) const override {
    TOCSIN_RETURN_IF_ERROR(Alive());
    if (const auto error = fs_.Injected(Call::kRead, path_)) return *error;
    if (position >= inode_->data.size()) return std::size_t{0};
    const std::size_t size = std::min(buffer.size(), inode_->data.size() - position);
    if (size > 0) std::memcpy(buffer.data(), inode_->data.data() + position, size);
    return size;
  }

  absl::Status WriteAt(std::uint64_t position,
                       std::span<const std::span<const std::byte>> pieces) override {
    TOCSIN_RETURN_IF_ERROR(Alive());
    bool cut = false;
    const absl::Status power = fs_.Operate(cut);
    if (!power.ok() && !cut) return power;
    std::string bytes;
    for (const auto& piece : pieces) {
      bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    }
    if (fs_.counts_page_reads_) CountPages(position, bytes.size());
    absl::Status status = power;
    std::size_t size = bytes.size();
    if (const auto error = fs_.Injected(Call::kWrite, path_)) {
      status = *error;
      size = static_cast<std::size_t>(fs_.random_.Below(size + 1));
    } else if (position + size > inode_->data.size()) {
      const std::uint64_t growth = position + size - inode_->data.size();
      const std::uint64_t used = fs_.Used();
      const std::uint64_t room = fs_.capacity_ > used ? fs_.capacity_ - used : 0;
      if (growth > room) {
        status = absl::ResourceExhaustedError(fmt::format("cannot write {}: no space", path_));
        size -= static_cast<std::size_t>(std::min<std::uint64_t>(size, growth - room));
      }
    }
    inode_->Write(position, bytes.data(), size);
    return status;
  }

  absl::StatusOr<std::uint64_t> Size() const override {
    TOCSIN_RETURN_IF_ERROR(Alive());
    return inode_->data.size();
  }

  void CountPages(std::uint64_t position, std::uint64_t size) {
    for (std::uint64_t page = position / kPage; page * kPage < position + size; ++page) {
      const bool whole = position <= page * kPage && (page + 1) * kPage <= position + size;
      if (inode_->cached_pages.insert(page).second && !whole) ++fs_.page_reads_;
    }
  }

  absl::Status SyncData() override {
    TOCSIN_RETURN_IF_ERROR(Alive());
    bool cut = false;
    TOCSIN_RETURN_IF_ERROR(fs_.Operate(cut));
    if (const auto error = fs_.Injected(Call::kSync, path_)) {
      inode_->FailSync(fs_);
      return *error;
    }
    if (!fs_.lie_files_) inode_->Sync();
    return absl::OkStatus();
  }

  absl::Status Truncate(std::uint64_t bytes) override {
    TOCSIN_RETURN_IF_ERROR(Alive());
    bool cut = false;
    TOCSIN_RETURN_IF_ERROR(fs_.Operate(cut));
    inode_->data.resize(static_cast<std::size_t>(bytes), '\0');
    return absl::OkStatus();
  }

  absl::Status Preallocate(std::uint64_t bytes, Fill) override {
    TOCSIN_RETURN_IF_ERROR(Alive());
    bool cut = false;
    const absl::Status power = fs_.Operate(cut);
    if (!power.ok() && !cut) return power;
    const std::uint64_t size = inode_->data.size();
    if (size >= bytes) return power;
    if (cut) {
      inode_->data.resize(static_cast<std::size_t>(size + fs_.random_.Below(bytes - size)), '\0');
      return power;
    }
    absl::Status status;
    if (const auto error = fs_.Injected(Call::kPreallocate, path_)) {
      status = *error;
    } else if (fs_.Used() + (bytes - size) > fs_.capacity_) {
      status = absl::ResourceExhaustedError(fmt::format("cannot preallocate {}: no space", path_));
    }
    if (!status.ok()) {
      inode_->data.resize(static_cast<std::size_t>(size + fs_.random_.Below(bytes - size)), '\0');
      return status;
    }
    inode_->data.resize(static_cast<std::size_t>(bytes), '\0');
    inode_->durable_size = bytes;
    return absl::OkStatus();
  }

 private:
  absl::Status Alive() const {
    if (generation_ == fs_.generation_) return absl::OkStatus();
    return absl::InternalError(fmt::format("{} was opened before the crash", path_));
  }

  SimFileSystem& fs_;
  const std::string path_;
  const std::shared_ptr<Inode> inode_;
  const std::uint64_t generation_;
};

class SimFileSystem::SimLock final : public FileLock {
 public:
  SimLock(SimFileSystem& fs, std::string path)
      : fs_(fs), path_(std::move(path)), generation_(fs.generation_) {}
  ~SimLock() override {
    if (generation_ == fs_.generation_) fs_.locks_.erase(path_);
  }

 private:
  SimFileSystem& fs_;
  const std::string path_;
  const std::uint64_t generation_;
};

SimFileSystem::SimFileSystem(std::uint64_t seed) : random_(seed) {}
SimFileSystem::~SimFileSystem() = default;

std::string SimFileSystem::DirOf(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash);
}

absl::Status SimFileSystem::Operate(bool& cut) {
  const absl::Status off = absl::InternalError("the power is off");
  if (powered_off_) return off;
  if (!operations_left_) return absl::OkStatus();
  if (*operations_left_ > 0) {
    --*operations_left_;
    return absl::OkStatus();
  }
  powered_off_ = true;
  cut = true;
  return off;
}

std::optional<absl::Status> SimFileSystem::Injected(Call call, const std::string& path) {
  for (Fault& fault : faults_) {
    if (fault.call != call || fault.count == 0 || !path.starts_with(fault.prefix)) continue;
    if (fault.skip > 0) {
      --fault.skip;
      continue;
    }
    --fault.count;
    return fault.status;
  }
  return std::nullopt;
}

void SimFileSystem::Fail(Call call, std::string path_prefix, absl::Status status, int count,
                         int skip) {
  faults_.push_back({call, std::move(path_prefix), std::move(status), count, skip});
}

bool SimFileSystem::HasFaults() const {
  return std::any_of(faults_.begin(), faults_.end(),
                     [](const Fault& fault) { return fault.count > 0; });
}

std::uint64_t SimFileSystem::Used() const {
  std::uint64_t used = 0;
  for (const auto& [path, inode] : names_) used += inode->data.size();
  return used;
}

absl::StatusOr<std::unique_ptr<File>> SimFileSystem::Create(const std::string& path) {
  bool cut = false;
  const absl::Status power = Operate(cut);
  if (!power.ok() && !cut) return power;
  if (!dirs_.contains(DirOf(path)) && !DirOf(path).empty()) {
    return absl::NotFoundError(fmt::format("no directory for {}", path));
  }
  if (names_.contains(path)) return absl::AlreadyExistsError(path);
  if (const auto error = Injected(Call::kCreate, path)) return *error;
  auto inode = std::make_shared<Inode>();
  names_[path] = inode;
  changes_.push_back({NameChange::Kind::kCreate, path, {}, inode});
  if (cut) return power;
  return std::unique_ptr<File>(std::make_unique<SimFile>(*this, path, std::move(inode)));
}

absl::StatusOr<std::unique_ptr<File>> SimFileSystem::Open(const std::string& path) {
  const auto found = names_.find(path);
  if (found == names_.end()) return absl::NotFoundError(fmt::format("no file {}", path));
  return std::unique_ptr<File>(std::make_unique<SimFile>(*this, path, found->second));
}

absl::StatusOr<std::unique_ptr<FileLock>> SimFileSystem::Lock(const std::string& path) {
  if (!locks_.insert(path).second) {
    return absl::FailedPreconditionError(
        fmt::format("{} is held by another process (pid 1)", path));
  }
  return std::unique_ptr<FileLock>(std::make_unique<SimLock>(*this, path));
}

absl::Status SimFileSystem::CreateDir(const std::string& dir) {
  if (dirs_.contains(dir)) return absl::OkStatus();
  bool cut = false;
  const absl::Status power = Operate(cut);
  if (!power.ok() && !cut) return power;
  dirs_.insert(dir);
  changes_.push_back({NameChange::Kind::kDirectory, dir, {}, nullptr});
  return power;
}

absl::StatusOr<std::vector<std::string>> SimFileSystem::List(const std::string& dir) {
  if (!dir.empty() && !dirs_.contains(dir)) {
    return absl::NotFoundError(fmt::format("no directory {}", dir));
  }
  std::vector<std::string> names;
  const std::string prefix = dir.empty() ? "" : dir + "/";
  for (auto at = names_.lower_bound(prefix); at != names_.end(); ++at) {
    if (!at->first.starts_with(prefix)) break;
    const std::string name = at->first.substr(prefix.size());
    if (name.find('/') == std::string::npos) names.push_back(name);
  }
  return names;
}

absl::Status SimFileSystem::Rename(const std::string& from, const std::string& to) {
  bool cut = false;
  const absl::Status power = Operate(cut);
  if (!power.ok() && !cut) return power;
  const auto found = names_.find(from);
  if (found == names_.end()) return absl::NotFoundError(fmt::format("no file {}", from));
  std::shared_ptr<Inode> inode = found->second;
  names_.erase(found);
  names_[to] = inode;
  changes_.push_back({NameChange::Kind::kRename, from, to, std::move(inode)});
  return power;
}

absl::Status SimFileSystem::Remove(const std::string& path) {
  if (!names_.contains(path)) return absl::NotFoundError(fmt::format("no file {}", path));
  bool cut = false;
  const absl::Status power = Operate(cut);
  if (!power.ok() && !cut) return power;
  if (const auto error = Injected(Call::kRemove, path)) return *error;
  names_.erase(path);
  changes_.push_back({NameChange::Kind::kRemove, path, {}, nullptr});
  return power;
}

void SimFileSystem::ApplyDurably(const NameChange& change) {
  switch (change.kind) {
    case NameChange::Kind::kCreate:
      durable_names_[change.path] = change.inode;
      break;
    case NameChange::Kind::kRemove:
      durable_names_.erase(change.path);
      break;
    case NameChange::Kind::kRename:
      durable_names_.erase(change.path);
      durable_names_[change.to] = change.inode;
      break;
    case NameChange::Kind::kDirectory:
      durable_dirs_.insert(change.path);
      break;
  }
}

absl::Status SimFileSystem::SyncDir(const std::string& dir) {
  bool cut = false;
  TOCSIN_RETURN_IF_ERROR(Operate(cut));
  if (const auto error = Injected(Call::kSync, dir)) return *error;
  if (lie_directories_) return absl::OkStatus();
  std::vector<NameChange> left;
  for (NameChange& change : changes_) {
    const bool here = DirOf(change.path) == dir ||
                      (change.kind == NameChange::Kind::kRename && DirOf(change.to) == dir);
    if (here) {
      ApplyDurably(change);
    } else {
      left.push_back(std::move(change));
    }
  }
  changes_ = std::move(left);
  return absl::OkStatus();
}

absl::StatusOr<std::uint64_t> SimFileSystem::FreeBytes() {
  const std::uint64_t used = Used();
  return capacity_ > used ? capacity_ - used : 0;
}

bool SimFileSystem::Survives(Coins coins) {
  switch (coins) {
    case Coins::kFair:
      return (random_.Next() & 1) != 0;
    case Coins::kAll:
      return true;
    case Coins::kNone:
      return false;
    case Coins::kMost:
      return random_.Below(16) != 0;
    case Coins::kFew:
      return random_.Below(16) == 0;
  }
  return false;
}

void SimFileSystem::Crash(Coins coins) {
  for (const NameChange& change : changes_) {
    if (Survives(coins)) ApplyDurably(change);
  }
  changes_.clear();
  for (auto at = durable_names_.begin(); at != durable_names_.end();) {
    const std::string dir = DirOf(at->first);
    at = dir.empty() || durable_dirs_.contains(dir) ? std::next(at) : durable_names_.erase(at);
  }
  for (auto& [path, inode] : durable_names_) {
    std::vector<std::uint64_t> sectors;
    for (const auto& [sector, bytes] : inode->old) sectors.push_back(sector);
    std::sort(sectors.begin(), sectors.end());
    if (inode->data.size() != inode->durable_size && !Survives(coins)) {
      inode->data.resize(static_cast<std::size_t>(inode->durable_size), '\0');
    }
    for (const std::uint64_t sector : sectors) {
      if (!Survives(coins)) inode->Revert(inode->old, sector);
    }
    if (coins != Coins::kAll) {  // the memory is gone
      for (const auto& [sector, bytes] : inode->stale) inode->Revert(inode->stale, sector);
      inode->stale.clear();
    }
    inode->Sync();
  }
  names_ = durable_names_;
  dirs_ = durable_dirs_;
  locks_.clear();
  faults_.clear();
  operations_left_.reset();
  powered_off_ = false;
  ++generation_;
}

std::string SimFileSystem::Bytes(const std::string& path) const {
  const auto found = names_.find(path);
  return found == names_.end() ? std::string() : found->second->data;
}

void SimFileSystem::FlipBit(const std::string& path, std::uint64_t byte, unsigned bit) {
  const auto found = names_.find(path);
  TOCSIN_CHECK(found != names_.end() && byte < found->second->data.size(), "{} has no byte {}",
               path, byte);
  char& at = found->second->data[static_cast<std::size_t>(byte)];
  at = static_cast<char>(at ^ (1 << bit));
}

void SimFileSystem::Put(const std::string& path, std::string bytes) {
  auto inode = std::make_shared<Inode>();
  inode->data = std::move(bytes);
  inode->Sync();
  names_[path] = inode;
  durable_names_[path] = inode;
  if (const std::string dir = DirOf(path); !dir.empty()) {
    dirs_.insert(dir);
    durable_dirs_.insert(dir);
  }
}

void SimFileSystem::Delete(const std::string& path) {
  names_.erase(path);
  durable_names_.erase(path);
}

std::vector<std::string> SimFileSystem::Paths() const {
  std::vector<std::string> paths;
  for (const auto& [path, inode] : names_) paths.push_back(path);
  return paths;
}

}  // namespace tocsin
