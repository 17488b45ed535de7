// SimFileSystem: a FileSystem in memory that knows what was synced.
//
// Fault model: at a power cut every unsynced 512-byte sector of a file holds its old or its new
// content, each by its own coin; a file's unsynced length likewise; every unsynced change of a
// directory entry (create, remove, rename, new directory) happened or did not, each by its own
// coin. Synced things survive. Sectors never tear. Further, when asked: the next calls of a kind
// fail, writes stop half way for lack of space, bits flip, and the disk lies about syncs.
//
// Deterministic from its seed. Not thread-safe: the simulation has one thread.

#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "broker/base/file_system.h"
#include "broker/base/random.h"

namespace tocsin {

class SimFileSystem final : public FileSystem {
 public:
  explicit SimFileSystem(std::uint64_t seed);
  ~SimFileSystem() override;

  absl::StatusOr<std::unique_ptr<File>> Create(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<FileLock>> Lock(const std::string& path) override;
  absl::Status CreateDir(const std::string& dir) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& dir) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status Remove(const std::string& path) override;
  absl::Status SyncDir(const std::string& dir) override;
  absl::StatusOr<std::uint64_t> FreeBytes() override;

  // --- the power -----------------------------------------------------------------------------
  // The operation that changes something after `operations` more of them is cut short (nobody
  // knows what of it happened), and every later one fails.
  void PowerOffAfter(std::uint64_t operations) { operations_left_ = operations; }
  void NoPowerOff() { operations_left_.reset(); }
  bool powered_off() const { return powered_off_; }

  // How the coins fall: the chance that something unsynced survives.
  enum class Coins { kFair, kAll, kNone, kMost, kFew };
  // The power comes back: the files are what the coins left, locks and open files are gone.
  void Crash(Coins coins = Coins::kFair);

  // --- faults --------------------------------------------------------------------------------
  enum class Call { kWrite, kSync, kPreallocate, kCreate, kRead, kRemove };
  // The calls of this kind on paths with this prefix, after `skip` good ones, fail `count` times.
  // A failing write has written a part. A failing sync of a file has written some sectors, and
  // forgets of the others that they are not on the disk, as Linux does: what was written of them
  // is read until the power goes.
  void Fail(Call call, std::string path_prefix, absl::Status status, int count = 1, int skip = 0);
  void ClearFaults() { faults_.clear(); }
  bool HasFaults() const;  // some are still to come
  // All files together may take this much; beyond it kResourceExhausted.
  void SetCapacity(std::uint64_t bytes) { capacity_ = bytes; }
  std::uint64_t Used() const;  // by all files together
  // SyncData (or SyncDir) answers OK without syncing.
  void LieAboutSyncs(bool files, bool directories) {
    lie_files_ = files;
    lie_directories_ = directories;
  }

  // --- what is on the disk -------------------------------------------------------------------
  bool Exists(const std::string& path) const { return names_.contains(path); }
  std::string Bytes(const std::string& path) const;  // empty if there is none
  // Behind everybody's back, durably.
  void FlipBit(const std::string& path, std::uint64_t byte, unsigned bit);
  void Put(const std::string& path, std::string bytes);
  void Delete(const std::string& path);
  std::vector<std::string> Paths() const;
  // How many pages of 4 KiB would have been read by WriteAt() since CountPageReads(): those of
  // which only a part was written, and that were neither read nor written before.
  void CountPageReads();
  std::uint64_t page_reads() const { return page_reads_; }

 private:
  static constexpr std::size_t kSector = 512;
  static constexpr std::uint64_t kPage = 4096;
  struct Inode;
  class SimFile;
  class SimLock;
  struct Fault {
    Call call;
    std::string prefix;
    absl::Status status;
    int count = 0;
    int skip = 0;
  };
  struct NameChange {
    enum class Kind { kCreate, kRemove, kRename, kDirectory } kind;
    std::string path;
    std::string to;
    std::shared_ptr<Inode> inode;
  };

  // Counts an operation; an error if the power is off, or goes off with this one (`cut`).
  absl::Status Operate(bool& cut);
  std::optional<absl::Status> Injected(Call call, const std::string& path);
  bool Survives(Coins coins);
  void ApplyDurably(const NameChange& change);
  static std::string DirOf(const std::string& path);

  SeededRandom random_;
  bool counts_page_reads_ = false;
  std::uint64_t page_reads_ = 0;
  std::uint64_t generation_ = 0;  // rises with every crash
  std::map<std::string, std::shared_ptr<Inode>> names_;
  std::set<std::string> dirs_;
  std::map<std::string, std::shared_ptr<Inode>> durable_names_;
  std::set<std::string> durable_dirs_;
  std::vector<NameChange> changes_;  // not synced yet
  std::set<std::string> locks_;
  std::vector<Fault> faults_;
  std::optional<std::uint64_t> operations_left_;
  bool powered_off_ = false;
  bool lie_files_ = false;
  bool lie_directories_ = false;
  std::uint64_t capacity_ = std::uint64_t{1} << 40;
};

}  // namespace tocsin
