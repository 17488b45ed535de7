#include "tests/contract/source_contract.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "broker/virtual/one_thread_executor.h"
#include "connectors/file/file_connector.h"
#include "connectors/file/system_tree.h"
#include "connectors/file/tail_connector.h"
#include "tests/contract/source_mailbox.h"
#include "tests/unit/connectors/fake_tree.h"

namespace tocsin {
namespace {

FileSpec QuickSpec(const std::string& path) {
  FileSpec spec;
  spec.name = "contract";
  spec.path = path;
  spec.settle = std::chrono::milliseconds(20);
  spec.rescan = std::chrono::milliseconds(200);
  return spec;
}

class FakeFileRig final : public SourceRig {
 public:
  SourceConnector& Restart() override {
    executor_.RunUntilIdle();
    connector_ = std::make_unique<FileConnector>(
        QuickSpec("/in"), FileConnector::Ports{tree_, clock_, executor_, executor_});
    return *connector_;
  }
  void Produce(int count) override {
    for (int i = 0; i < count; ++i) tree_.Write("f" + std::to_string(made_++));
  }
  bool RunUntil(const std::function<bool()>& finished) override {
    executor_.RunUntilIdle();
    return finished();
  }

 private:
  VirtualClock clock_;
  OneThreadExecutor executor_{clock_};
  FakeTree tree_{clock_};
  std::unique_ptr<FileConnector> connector_;
  int made_ = 0;
};

// The real disk, with the lane's thread as in production; the test's thread is the owner.
class RealFileRig final : public SourceRig {
 public:
  RealFileRig() {
    std::string name = (std::filesystem::temp_directory_path() / "tocsin-source-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "no temporary directory";
    dir_ = name;
  }
  ~RealFileRig() override {
    lane_.reset();
    std::filesystem::remove_all(dir_);
  }
  SourceConnector& Restart() override {
    if (connector_ != nullptr) connector_->Cancel();
    lane_.reset();  // waits for what runs
    owner_.RunUntilIdle();
    tree_ = *MakeSystemTree(dir_, clock_);
    lane_ = std::make_unique<ThreadExecutor>("lane", clock_);
    connector_ = std::make_unique<FileConnector>(
        QuickSpec(dir_), FileConnector::Ports{*tree_, clock_, owner_, *lane_});
    return *connector_;
  }
  void Produce(int count) override {
    for (int i = 0; i < count; ++i) {
      const std::string path = dir_ + "/f" + std::to_string(made_++);
      const int file = ::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
      EXPECT_GE(file, 0);
      EXPECT_EQ(::write(file, "x", 1), 1);
      ::close(file);
    }
  }
  bool RunUntil(const std::function<bool()>& finished) override {
    return owner_.RunUntil(clock_, finished);
  }

 private:
  SystemClock clock_;
  std::string dir_;
  SourceMailbox owner_;
  std::unique_ptr<DirectoryTree> tree_;
  std::unique_ptr<ThreadExecutor> lane_;
  std::unique_ptr<FileConnector> connector_;
  int made_ = 0;
};

// A file that grows, and is rotated away with each restart but the first: a source without a
// position begins with the file that has the name.
class TailRig final : public SourceRig {
 public:
  TailRig() {
    std::string name = (std::filesystem::temp_directory_path() / "tocsin-tail-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "no temporary directory";
    dir_ = name;
    spec_.name = "contract";
    spec_.path = dir_ + "/app.log";
    Produce(0);
  }
  ~TailRig() override {
    connector_.reset();
    std::filesystem::remove_all(dir_);
  }
  SourceConnector& Restart() override {
    connector_.reset();
    owner_.RunUntilIdle();
    if (restarts_++ > 1) {
      std::filesystem::rename(spec_.path, spec_.path + "." + std::to_string(++rotated_));
      // Two that are born in one tick of the kernel's clock are not told apart.
      const Instant end = clock_.Monotonic() + std::chrono::milliseconds(20);
      (void)owner_.RunUntil(clock_, [&] { return clock_.Monotonic() > end; });
      Produce(0);
    }
    auto made = MakeTailConnector(
        spec_, {clock_, owner_, std::make_unique<ThreadExecutor>("lane", clock_)});
    EXPECT_TRUE(made.ok()) << made.status();
    connector_ = *std::move(made);
    return *connector_;
  }
  void Produce(int count) override {
    const int file = ::open(spec_.path.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    EXPECT_GE(file, 0);
    for (int i = 0; i < count; ++i) {
      const std::string line = "line " + std::to_string(made_++) + "\n";
      EXPECT_EQ(::write(file, line.data(), line.size()), static_cast<ssize_t>(line.size()));
    }
    ::close(file);
  }
  bool RunUntil(const std::function<bool()>& finished) override {
    return owner_.RunUntil(clock_, finished);
  }

 private:
  SystemClock clock_;
  std::string dir_;
  TailSpec spec_;
  SourceMailbox owner_;
  std::unique_ptr<SourceConnector> connector_;
  int made_ = 0, rotated_ = 0, restarts_ = 0;
};

std::unique_ptr<SourceRig> MakeTail() { return std::make_unique<TailRig>(); }
std::unique_ptr<SourceRig> MakeFake() { return std::make_unique<FakeFileRig>(); }
std::unique_ptr<SourceRig> MakeReal() { return std::make_unique<RealFileRig>(); }

INSTANTIATE_TEST_SUITE_P(FileInMemory, SourceContract, ::testing::Values(&MakeFake));
INSTANTIATE_TEST_SUITE_P(FileOnDisk, SourceContract, ::testing::Values(&MakeReal));

INSTANTIATE_TEST_SUITE_P(FileTail, SourceContract, ::testing::Values(&MakeTail));

}  // namespace
}  // namespace tocsin
