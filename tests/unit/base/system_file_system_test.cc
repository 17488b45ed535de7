#include "broker/base/system_file_system.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "broker/base/status.h"

namespace tocsin {
namespace {

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span<const char>(text.data(), text.size()));
}

class SystemFileSystemTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "tocsin-fs-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir_ = name;
    auto opened = OpenSystemFileSystem(dir_ + "/a/b");
    ASSERT_TRUE(opened.ok()) << opened.status();
    fs_ = *std::move(opened);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  static std::string ReadAll(const File& file) {
    std::string text(1 << 16, '\0');
    const auto got = file.ReadAt(0, std::as_writable_bytes(std::span<char>(text)));
    EXPECT_TRUE(got.ok()) << got.status();
    text.resize(got.value_or(0));
    return text;
  }

  std::string dir_;
  std::unique_ptr<FileSystem> fs_;
};

TEST_F(SystemFileSystemTest, WritesManyPiecesAndReadsThemBack) {
  auto file = fs_->Create("f");
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<std::string> texts;
  std::string all = "..";
  for (int i = 0; i < 300; ++i) texts.push_back(std::string(static_cast<std::size_t>(i % 5), 'a'));
  std::vector<std::span<const std::byte>> pieces;
  for (const std::string& text : texts) {
    pieces.push_back(Bytes(text));
    all += text;
  }
  const std::string head_text = "..";
  const std::array<std::span<const std::byte>, 1> head = {Bytes(head_text)};
  ASSERT_TRUE((*file)->WriteAt(0, head).ok());
  ASSERT_TRUE((*file)->WriteAt(2, pieces).ok());
  ASSERT_TRUE((*file)->SyncData().ok());
  EXPECT_EQ(ReadAll(**file), all);
  EXPECT_EQ(*(*file)->Size(), all.size());
  ASSERT_TRUE((*file)->Truncate(3).ok());
  EXPECT_EQ(ReadAll(**file), "..a");
}

TEST_F(SystemFileSystemTest, CreateRefusesWhatExistsAndOpenWhatDoesNot) {
  ASSERT_TRUE(fs_->Create("f").ok());
  EXPECT_EQ(fs_->Create("f").status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(fs_->Open("g").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(fs_->Remove("g").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(fs_->List("nowhere").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(SystemFileSystemTest, PathsCannotLeaveTheRoot) {
  for (const std::string path : {"../x", "/etc/passwd", "a/../../x", "", ".", "a//b", "a/"}) {
    EXPECT_EQ(fs_->Create(path).status().code(), absl::StatusCode::kInvalidArgument) << path;
  }
  ASSERT_EQ(symlink("/etc/passwd", (dir_ + "/a/b/link").c_str()), 0);
  EXPECT_FALSE(fs_->Open("link").ok());
}

class SystemFileSystemFillTest : public SystemFileSystemTest,
                                 public testing::WithParamInterface<Fill> {};
INSTANTIATE_TEST_SUITE_P(Fills, SystemFileSystemFillTest,
                         testing::Values(Fill::kZeros, Fill::kNone));

TEST_P(SystemFileSystemFillTest, PreallocatedReadsAsZerosBehindWhatIsThere) {
  auto file = fs_->Create("f");
  ASSERT_TRUE(file.ok());
  const std::string head_text = "head";
  const std::array<std::span<const std::byte>, 1> head = {Bytes(head_text)};
  ASSERT_TRUE((*file)->WriteAt(0, head).ok());
  ASSERT_TRUE((*file)->Preallocate(3 * 4096 + 5, GetParam()).ok());
  std::string expected(3 * 4096 + 5, '\0');
  std::memcpy(expected.data(), "head", 4);
  EXPECT_EQ(ReadAll(**file), expected);
  ASSERT_TRUE((*file)->Preallocate(10, GetParam()).ok());
  EXPECT_EQ(*(*file)->Size(), expected.size());
}

TEST_F(SystemFileSystemTest, DirectoriesAreCreatedListedAndSynced) {
  ASSERT_TRUE(fs_->CreateDir("log").ok());
  ASSERT_TRUE(fs_->CreateDir("log").ok());
  ASSERT_TRUE(fs_->Create("log/b").ok());
  ASSERT_TRUE(fs_->Create("log/a").ok());
  ASSERT_TRUE(fs_->Rename("log/b", "log/c").ok());
  ASSERT_TRUE(fs_->SyncDir("log").ok());
  ASSERT_TRUE(fs_->SyncDir("").ok());
  EXPECT_EQ(*fs_->List("log"), (std::vector<std::string>{"a", "c"}));
  EXPECT_EQ(*fs_->List(""), (std::vector<std::string>{"log"}));
  EXPECT_GT(*fs_->FreeBytes(), 0u);
}

TEST_F(SystemFileSystemTest, F12ASecondHolderOfTheLockIsRefusedAndToldWho) {
  auto lock = fs_->Lock("lock");
  ASSERT_TRUE(lock.ok()) << lock.status();
  const absl::Status second = fs_->Lock("lock").status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(second).find(fmt::format("pid {} boot ", getpid())), std::string::npos)
      << second;

  // A child that ends must not release its parent's lock.
  const pid_t child = fork();
  if (child == 0) _exit(fs_->Lock("lock").ok() ? 1 : 0);
  int result = 0;
  ASSERT_EQ(waitpid(child, &result, 0), child);
  EXPECT_EQ(result, 0);
  EXPECT_FALSE(fs_->Lock("lock").ok());

  lock->reset();
  EXPECT_TRUE(fs_->Lock("lock").ok());
}

TEST_F(SystemFileSystemTest, AFileInPlaceOfTheRootIsRefused) {
  ASSERT_TRUE(fs_->Create("f").ok());
  EXPECT_EQ(OpenSystemFileSystem(dir_ + "/a/b/f").status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(SystemFileSystemTest, F5AFullDeviceIsResourceExhausted) {
  auto root = OpenSystemFileSystem("/dev");
  ASSERT_TRUE(root.ok()) << root.status();
  auto full = (*root)->Open("full");
  ASSERT_TRUE(full.ok()) << full.status();
  const std::string text_text = "x";
  const std::array<std::span<const std::byte>, 1> text = {Bytes(text_text)};
  EXPECT_EQ((*full)->WriteAt(0, text).code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace tocsin
