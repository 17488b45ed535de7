#include "connectors/file/system_tree.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "broker/base/system_clock.h"

namespace tocsin {
namespace {

namespace fs = std::filesystem;

class SystemTreeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tocsin-tree-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    outside_ = name;
    root_ = outside_ + "/root";
    fs::create_directory(root_);
    auto made = MakeSystemTree(root_, clock_);
    ASSERT_TRUE(made.ok()) << made.status();
    tree_ = *std::move(made);
    const auto opened = tree_->Open();
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_FALSE(opened->remote);
    EXPECT_EQ(opened->identity.device, 0U);
  }
  void TearDown() override { fs::remove_all(outside_); }

  static int Write(const std::string& path, const std::string& text, bool close_it = true) {
    const int file = ::open(path.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
    EXPECT_GE(file, 0) << path;
    EXPECT_EQ(::write(file, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    if (close_it) ::close(file);
    return file;
  }

  // What comes until a change of this kind and path has come, or 10 s are over.
  bool Sees(TreeChangeKind kind, const std::string& path) {
    const Instant end = clock_.Monotonic() + std::chrono::seconds(10);
    while (clock_.Monotonic() < end) {
      const auto found = std::find_if(seen_.begin(), seen_.end(), [&](const TreeChange& change) {
        return change.kind == kind && change.path == path;
      });
      if (found != seen_.end()) {
        seen_.erase(seen_.begin(), found + 1);
        return true;
      }
      std::vector<TreeChange> changes;
      tree_->Wait(end, changes);
      seen_.insert(seen_.end(), changes.begin(), changes.end());
    }
    return false;
  }

  SystemClock clock_;
  std::string outside_, root_;
  std::unique_ptr<DirectoryTree> tree_;
  std::vector<TreeChange> seen_;
};

TEST_F(SystemTreeTest, ListsWhatIsThereWithItsKind) {
  Write(root_ + "/a", "123");
  fs::create_directory(root_ + "/d");
  Write(root_ + "/d/b", "1");
  fs::create_symlink(root_ + "/a", root_ + "/link");
  ASSERT_EQ(::mkfifo((root_ + "/fifo").c_str(), 0600), 0);
  auto entries = tree_->List("");
  ASSERT_TRUE(entries.ok()) << entries.status();
  std::sort(entries->begin(), entries->end(),
            [](const TreeEntry& x, const TreeEntry& y) { return x.path < y.path; });
  ASSERT_EQ(entries->size(), 4U);
  EXPECT_EQ((*entries)[0].path, "a");
  EXPECT_EQ((*entries)[0].facts.size, 3U);
  EXPECT_EQ((*entries)[0].facts.kind, FileKind::kRegular);
  EXPECT_EQ((*entries)[1].facts.kind, FileKind::kDirectory);
  EXPECT_EQ((*entries)[2].facts.kind, FileKind::kOther);  // fifo
  EXPECT_EQ((*entries)[3].facts.kind, FileKind::kOther);  // link
  entries = tree_->List("d");
  ASSERT_TRUE(entries.ok() && entries->size() == 1);
  EXPECT_EQ((*entries)[0].path, "d/b");
  EXPECT_EQ((*entries)[0].facts, *tree_->Facts("d/b"));
  EXPECT_TRUE(absl::IsNotFound(tree_->List("no").status()));
}

// A link that a stranger puts there leads nowhere.
TEST_F(SystemTreeTest, F43NothingLeadsOutOfTheRoot) {
  Write(outside_ + "/secret", "x");
  fs::create_directory_symlink(outside_, root_ + "/out");
  EXPECT_FALSE(tree_->List("out").ok());
  EXPECT_FALSE(tree_->Facts("out/secret").ok());
  EXPECT_FALSE(tree_->Facts("../secret").ok());
  EXPECT_FALSE(tree_->List("..").ok());
  EXPECT_FALSE(tree_->Watch("out").ok());
  EXPECT_NE(tree_->Writer("out/secret"), WriterState::kNone);
}

TEST_F(SystemTreeTest, IdentitySurvivesARenameAndNotARemoval) {
  Write(root_ + "/a", "1");
  const FileFacts before = *tree_->Facts("a");
  fs::rename(root_ + "/a", root_ + "/b");
  EXPECT_EQ(tree_->Facts("b")->identity, before.identity);
  fs::remove(root_ + "/b");
  Write(root_ + "/b", "1");
  EXPECT_NE(tree_->Facts("b")->identity, before.identity);
}

TEST_F(SystemTreeTest, F41KnowsWhetherAFileIsBeingWritten) {
  const int file = Write(root_ + "/a", "1", false);
  EXPECT_EQ(tree_->Writer("a"), WriterState::kWriting);
  ::close(file);
  EXPECT_EQ(tree_->Writer("a"), WriterState::kNone);
  const int reader = ::open((root_ + "/a").c_str(), O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(tree_->Writer("a"), WriterState::kNone);
  ::close(reader);
  EXPECT_EQ(tree_->Writer("none"), WriterState::kUnknown);
}

TEST_F(SystemTreeTest, TellsOfEveryKindOfChange) {
  ASSERT_TRUE(tree_->Watch("").ok());
  const int file = Write(root_ + "/a", "1", false);
  EXPECT_TRUE(Sees(TreeChangeKind::kTouched, "a"));
  ::close(file);
  EXPECT_TRUE(Sees(TreeChangeKind::kComplete, "a"));
  fs::rename(root_ + "/a", root_ + "/b");
  EXPECT_TRUE(Sees(TreeChangeKind::kGone, "a"));
  EXPECT_TRUE(Sees(TreeChangeKind::kComplete, "b"));
  fs::remove(root_ + "/b");
  EXPECT_TRUE(Sees(TreeChangeKind::kGone, "b"));
  fs::create_directory(root_ + "/d");
  EXPECT_TRUE(Sees(TreeChangeKind::kDirectory, "d"));
  ASSERT_TRUE(tree_->Watch("d").ok());
  ASSERT_TRUE(tree_->Watch("d").ok());  // again: nothing twice
  Write(root_ + "/d/x", "1");
  EXPECT_TRUE(Sees(TreeChangeKind::kComplete, "d/x"));
  fs::rename(root_ + "/d", root_ + "/e");
  EXPECT_TRUE(Sees(TreeChangeKind::kDirectoryMoved, "d"));
  fs::rename(root_, outside_ + "/elsewhere");
  EXPECT_TRUE(Sees(TreeChangeKind::kRootGone, ""));
}

// F42: the kernel drops what nobody reads in time, and says so once.
TEST_F(SystemTreeTest, F42OverflowOfTheKernelsQueueIsTold) {
  ASSERT_TRUE(tree_->Watch("").ok());
  // 16,384 by default (fs.inotify.max_queued_events); each round makes four.
  for (int i = 0; i < 6000; ++i) {
    Write(root_ + "/a", "1");
    fs::remove(root_ + "/a");
  }
  EXPECT_TRUE(Sees(TreeChangeKind::kOverflow, ""));
}

TEST_F(SystemTreeTest, InterruptEndsAWaitBeforeOrDuringIt) {
  tree_->Interrupt();
  std::vector<TreeChange> changes;
  const Instant began = clock_.Monotonic();
  tree_->Wait(began + std::chrono::seconds(30), changes);
  EXPECT_LT(clock_.Monotonic() - began, std::chrono::seconds(15));
  EXPECT_TRUE(changes.empty());
}

TEST_F(SystemTreeTest, MovesWithoutOverwritingAndKeepsThePath) {
  fs::create_directories(root_ + "/in/deep");
  Write(root_ + "/in/deep/a", "1");
  EXPECT_TRUE(tree_->MoveTo("in/deep/a", *tree_->Facts("in/deep/a"), outside_ + "/done").ok());
  EXPECT_TRUE(fs::exists(outside_ + "/done/in/deep/a"));
  Write(root_ + "/in/deep/a", "22");
  EXPECT_TRUE(tree_->MoveTo("in/deep/a", *tree_->Facts("in/deep/a"), outside_ + "/done").ok());
  EXPECT_EQ(fs::file_size(outside_ + "/done/in/deep/a"), 1U);
  EXPECT_EQ(fs::file_size(outside_ + "/done/in/deep/a.1"), 2U);
  Write(root_ + "/b", "1");
  EXPECT_TRUE(tree_->MoveTo("b", *tree_->Facts("b"), "inner/done").ok());
  EXPECT_TRUE(fs::exists(root_ + "/inner/done/b"));
}

TEST_F(SystemTreeTest, WhatWasChangedIsNeitherMovedNorRemoved) {
  Write(root_ + "/a", "1");
  const FileFacts before = *tree_->Facts("a");
  Write(root_ + "/a", "2");
  EXPECT_TRUE(absl::IsFailedPrecondition(tree_->Remove("a", before)));
  EXPECT_TRUE(absl::IsFailedPrecondition(tree_->MoveTo("a", before, outside_ + "/done")));
  EXPECT_TRUE(fs::exists(root_ + "/a"));
  EXPECT_TRUE(tree_->Remove("a", *tree_->Facts("a")).ok());
  EXPECT_FALSE(fs::exists(root_ + "/a"));
}

TEST_F(SystemTreeTest, MissingRootIsSaidByName) {
  auto made = MakeSystemTree(outside_ + "/none", clock_);
  ASSERT_TRUE(made.ok());
  const absl::Status missing = (*made)->Open().status();
  EXPECT_TRUE(absl::IsNotFound(missing));
  EXPECT_NE(std::string(missing.message()).find(outside_ + "/none"), std::string::npos);
  Write(outside_ + "/file", "1");
  made = MakeSystemTree(outside_ + "/file", clock_);
  EXPECT_TRUE(absl::IsFailedPrecondition((*made)->Open().status()));
}

}  // namespace
}  // namespace tocsin
