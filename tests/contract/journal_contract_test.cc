// JournalContractTest on files (a real temp directory), on simulated files, and in memory.

#include "tests/contract/journal_contract.h"

#include <unistd.h>

#include <filesystem>

#include "broker/base/check.h"
#include "broker/base/system_file_system.h"
#include "broker/journal/file_journal.h"
#include "broker/virtual/memory_journal.h"
#include "broker/virtual/one_thread_executor.h"
#include "tests/sim/sim_file_system.h"

namespace tocsin {
namespace {

// The real file system with a lid on free space, for the case of the full disk.
class LiddedFileSystem final : public FileSystem {
 public:
  explicit LiddedFileSystem(std::unique_ptr<FileSystem> under) : under_(std::move(under)) {}
  absl::StatusOr<std::unique_ptr<File>> Create(const std::string& path) override {
    if (full_) return absl::ResourceExhaustedError("no space");
    return under_->Create(path);
  }
  absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path) override {
    return under_->Open(path);
  }
  absl::StatusOr<std::unique_ptr<FileLock>> Lock(const std::string& path) override {
    return under_->Lock(path);
  }
  absl::Status CreateDir(const std::string& dir) override { return under_->CreateDir(dir); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& dir) override {
    return under_->List(dir);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    return under_->Rename(from, to);
  }
  absl::Status Remove(const std::string& path) override { return under_->Remove(path); }
  absl::Status SyncDir(const std::string& dir) override { return under_->SyncDir(dir); }
  absl::StatusOr<std::uint64_t> FreeBytes() override { return full_ ? 0 : std::uint64_t{1} << 40; }
  void SetFull(bool full) { full_ = full; }

 private:
  std::unique_ptr<FileSystem> under_;
  bool full_ = false;
};

FileJournalOptions SmallOptions() {
  FileJournalOptions options;
  options.partitions = 2;
  options.segment_bytes = 64 * 1024;
  options.letter_segment_bytes = 32 * 1024;
  options.batch_bytes_max = 16 * 1024;
  options.checkpoint_bytes_per_second = 0;
  options.reserve_bytes = 0;
  return options;
}

class FilesUnderTest : public JournalUnderTest {
 public:
  ~FilesUnderTest() override { Stop(); }
  Journal& journal() override { return *journal_; }
  Executor& owner() override { return owner_; }
  void Run() override {
    while (engine_.RunUntilIdle() + owner_.RunUntilIdle() > 0) {
    }
  }
  void Restart() override {
    Stop();
    Start();
  }

 protected:
  virtual FileSystem& fs() = 0;
  void Stop() {
    Run();
    journal_.reset();
  }
  void Start() {
    auto opened = OpenFileJournal(
        SmallOptions(), FileJournalPorts{fs(), clock_, random_, engine_, engine_, engine_});
    TOCSIN_CHECK(opened.ok(), "{}", opened.status().ToString());
    journal_ = *std::move(opened);
    Run();
  }

 private:
  VirtualClock clock_;
  SeededRandom random_{1};
  OneThreadExecutor engine_{clock_};
  OneThreadExecutor owner_{clock_};
  std::unique_ptr<FileJournal> journal_;
};

class RealFilesUnderTest final : public FilesUnderTest {
 public:
  RealFilesUnderTest() {
    std::string name = (std::filesystem::temp_directory_path() / "tocsin-journal-XXXXXX").string();
    TOCSIN_CHECK(mkdtemp(name.data()) != nullptr);
    dir_ = name;
    fs_ = std::make_unique<LiddedFileSystem>(*OpenSystemFileSystem(dir_));
    Start();
  }
  ~RealFilesUnderTest() override {
    Stop();
    std::filesystem::remove_all(dir_);
  }
  void FillDisk() override { fs_->SetFull(true); }
  void FreeDisk() override { fs_->SetFull(false); }

 private:
  FileSystem& fs() override { return *fs_; }
  std::string dir_;
  std::unique_ptr<LiddedFileSystem> fs_;
};

class SimFilesUnderTest final : public FilesUnderTest {
 public:
  SimFilesUnderTest() { Start(); }
  ~SimFilesUnderTest() override { Stop(); }
  void FillDisk() override { fs_.SetCapacity(0); }
  void FreeDisk() override { fs_.SetCapacity(std::uint64_t{1} << 40); }

 private:
  FileSystem& fs() override { return fs_; }
  SimFileSystem fs_{1};
};

class MemoryUnderTest final : public JournalUnderTest {
 public:
  Journal& journal() override { return journal_; }
  Executor& owner() override { return owner_; }
  void Run() override {
    while (engine_.RunUntilIdle() + owner_.RunUntilIdle() > 0) {
    }
  }
  void Restart() override {
    Run();
    journal_.Crash();
  }
  void FillDisk() override { journal_.SetLogBytesMax(0); }
  void FreeDisk() override { journal_.SetLogBytesMax(UINT64_MAX); }

 private:
  VirtualClock clock_;
  OneThreadExecutor engine_{clock_};
  OneThreadExecutor owner_{clock_};
  MemoryJournal journal_{engine_, {.batch_bytes_max = 16 * 1024}};
};

template <typename T>
NamedJournal Named(const std::string& name) {
  return {name, [] { return std::make_unique<T>(); }};
}

INSTANTIATE_TEST_SUITE_P(Journals, JournalContractTest,
                         testing::Values(Named<RealFilesUnderTest>("Files"),
                                         Named<SimFilesUnderTest>("SimFiles"),
                                         Named<MemoryUnderTest>("Memory")),
                         [](const auto& made) { return made.param.name; });

}  // namespace
}  // namespace tocsin
