// What a start accepts and refuses: checkpoints, manifest, lock, format.

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/journal/journal_rig.h"

namespace tocsin {
namespace {

// A journal with two checkpoint files, "old" and "new".
void WriteTwo(JournalRig& rig) {
  const OpenResult opened = rig.StartAndOpen();
  ASSERT_TRUE(rig.WriteCheckpoint("old", opened.end).ok());
  const auto appended = rig.Append("event");
  ASSERT_TRUE(appended.ok());
  ASSERT_TRUE(rig.WriteCheckpoint("new", appended->end).ok());
  ASSERT_EQ(rig.Paths("checkpoint/").size(), 2u);
  rig.Kill();
}

// A page of which only a part is written is read from the disk first, if it is not in memory. Of a
// log that is appended to that is the page where it ends at the start, and no other.
TEST(JournalWriteTest, NoPageIsReadToBeWritten) {
  JournalRig rig;
  rig.StartAndOpen();
  rig.fs.CountPageReads();
  std::vector<std::string> texts;
  for (const std::size_t bytes : {10u, 3000u, 1200u, 4000u, 7000u, 1u, 5000u, 2000u}) {
    texts.emplace_back(bytes, 't');
    const auto appended = rig.Append(texts.back());
    ASSERT_TRUE(appended.ok()) << appended.status();
  }
  EXPECT_EQ(rig.fs.page_reads(), 1u);
  ASSERT_TRUE(rig.Restart().ok());
  ASSERT_TRUE(rig.Open().ok());
  EXPECT_EQ(rig.Texts(), texts);
}

// A group that was refused for want of room must not be there later, whatever of it was written.
TEST(JournalWriteTest, WhatWasRefusedForWantOfRoomIsNotThere) {
  for (int skip = 0; skip < 4; ++skip) {
    JournalRig rig;
    rig.StartAndOpen();
    ASSERT_TRUE(rig.Append("before").ok());
    rig.fs.Fail(SimFileSystem::Call::kWrite, "log/", absl::ResourceExhaustedError("full"), 3, skip);
    bool refused = false;
    std::vector<std::string> texts = {"before"};
    for (int i = 0; i < 4; ++i) {
      const std::string text(5000, static_cast<char>('a' + i));
      if (rig.Append(text).ok()) {
        texts.push_back(text);
      } else {
        refused = true;
        break;
      }
    }
    EXPECT_TRUE(refused) << skip;
    ASSERT_TRUE(rig.Restart().ok());
    ASSERT_TRUE(rig.Open().ok());
    EXPECT_EQ(rig.Texts(), texts) << skip;
  }
}

TEST(JournalFaultsTest, F9TheOlderCheckpointIsUsedLoudly) {
  JournalRig rig;
  WriteTwo(rig);
  const std::string newest = rig.Paths("checkpoint/")[1];
  const std::uint64_t size = rig.fs.Bytes(newest).size();
  for (std::uint64_t byte = 0; byte < size; byte += 7) {
    JournalRig copy;
    for (const std::string& path : rig.fs.Paths()) {
      if (path != "lock") copy.fs.Put(path, rig.fs.Bytes(path));
    }
    copy.fs.FlipBit(newest, byte, 1);
    ASSERT_TRUE(copy.Start().ok());
    const auto opened = copy.Open();
    ASSERT_TRUE(opened.ok()) << opened.status();
    ASSERT_TRUE(opened->checkpoint.has_value());
    EXPECT_EQ(opened->checkpoint->pages[0].bytes, "old") << byte;
    EXPECT_FALSE(opened->warnings.empty()) << byte;
    // The next checkpoint puts what cannot be read aside, and does not delete it.
    ASSERT_TRUE(copy.WriteCheckpoint("newer", opened->end).ok());
    EXPECT_EQ(copy.Paths("quarantine/").size(), 1u);
  }
}

TEST(JournalFaultsTest, F9WithBothCheckpointsUnreadableTheOpeningIsRefused) {
  JournalRig rig;
  WriteTwo(rig);
  for (const std::string& path : rig.Paths("checkpoint/")) rig.fs.FlipBit(path, 3, 3);
  const auto before = rig.Paths("");
  ASSERT_TRUE(rig.Restart().ok());
  const auto opened = rig.Open();
  EXPECT_EQ(opened.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(MessageOf(opened.status()).find("restore"), std::string_view::npos);
  EXPECT_EQ(rig.Paths("checkpoint/").size(), 2u);
}

// Two checkpoints, the newer with a page that the older one does not have, of a log that is trimmed
// as far as the two allow.
void WriteTwoAndTrim(JournalRig& rig) {
  rig.StartAndOpen();
  JournalPosition end;
  const auto append = [&] {
    for (int i = 0; i < 20; ++i) end = rig.Append(std::string(6000, 'x'))->end;
  };
  append();
  ASSERT_TRUE(rig.WriteCheckpoint("old", end).ok());
  append();
  std::optional<absl::Status> written;
  rig.journal->WriteCheckpoint(
      CheckpointDelta{PartitionId(0), rig.epoch, true, {{1, 0, "new"}, {1, 5, "only here"}}}, end,
      [&](const absl::Status& status) { written = status; });
  rig.Run();
  ASSERT_EQ(written, absl::OkStatus());
  rig.journal->TrimBelow(PartitionId(0), end);
  rig.Run();
  ASSERT_GT(rig.journal->Info().start.value(), 0u);
  rig.Kill();
}

// The danger: a sector of the disk that cannot be read any more, and no broker in spite of two
// checkpoints. The other: what is written next goes on from one that was not loaded.
TEST(JournalFaultsTest, F9TheOlderCheckpointIsUsedIfTheDiskCannotReadTheNewest) {
  for (const int good : {0, 1}) {  // reads: one when the directory is looked through, one to load
    JournalRig rig;
    if (good == 1) rig.checkpoints_kept_max = 0;
    ASSERT_NO_FATAL_FAILURE(WriteTwoAndTrim(rig));
    const std::string newest = rig.Paths("checkpoint/")[1];
    rig.fs.Fail(SimFileSystem::Call::kRead, newest, absl::InternalError("EIO"), 1, good);
    ASSERT_EQ(rig.Start(), absl::OkStatus());
    const auto opened = rig.Open();
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_FALSE(rig.fs.HasFaults());
    ASSERT_TRUE(opened->checkpoint.has_value());
    ASSERT_EQ(opened->checkpoint->pages.size(), 1u);
    EXPECT_EQ(opened->checkpoint->pages[0].bytes, "old");
    EXPECT_GE(opened->checkpoint->replay_from, opened->start)
        << "what it needs of the log is there";
    ASSERT_EQ(opened->warnings.size(), 1u);
    EXPECT_NE(opened->warnings[0].find("EIO"), std::string::npos) << opened->warnings[0];
    rig.journal->TrimBelow(PartitionId(0), opened->end);
    rig.Run();
    EXPECT_EQ(rig.journal->Info().start, opened->start) << "there is one checkpoint";
    ASSERT_TRUE(rig.WriteCheckpoint("newer", opened->end, /*base=*/false).ok());
    EXPECT_EQ(rig.Paths("quarantine/").size(), 1u);
    ASSERT_EQ(rig.Restart(), absl::OkStatus());
    const auto again = rig.Open();
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(again->warnings.empty());
    ASSERT_EQ(again->checkpoint->pages.size(), 1u) << "a page of the one that was not loaded";
    EXPECT_EQ(again->checkpoint->pages[0].bytes, "newer");
  }
}

TEST(JournalFaultsTest, F9WithBothCheckpointsUnreadableByTheDiskNothingIsChanged) {
  JournalRig rig;
  ASSERT_NO_FATAL_FAILURE(WriteTwoAndTrim(rig));
  rig.fs.Fail(SimFileSystem::Call::kRead, "checkpoint/", absl::InternalError("EIO"), 100);
  ASSERT_EQ(rig.Start(), absl::OkStatus());
  const absl::Status refused = rig.Open().status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(MessageOf(refused).find("EIO"), std::string_view::npos) << refused;
  ASSERT_EQ(rig.Restart(), absl::OkStatus());  // the disk is well again
  const auto opened = rig.Open();
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->checkpoint->pages[0].bytes, "new");
  EXPECT_TRUE(opened->warnings.empty());
}

TEST(JournalFaultsTest, F9MissingCheckpointsOfATrimmedLogAreRefused) {
  JournalRig rig;
  rig.StartAndOpen();
  JournalPosition end;
  for (int i = 0; i < 20; ++i) end = rig.Append(std::string(6000, 'x'))->end;
  ASSERT_TRUE(rig.WriteCheckpoint("1", end).ok());
  ASSERT_TRUE(rig.WriteCheckpoint("2", end).ok());
  rig.journal->TrimBelow(PartitionId(0), end);
  rig.Run();
  ASSERT_GT(rig.journal->Info().start.value(), 0u);
  rig.Kill();
  for (const std::string& path : rig.Paths("checkpoint/")) rig.fs.Delete(path);
  ASSERT_TRUE(rig.Restart().ok());
  EXPECT_EQ(rig.Open().status().code(), absl::StatusCode::kDataLoss);
}

TEST(JournalFaultsTest, F9EveryFlippedBitOfTheManifestIsRefused) {
  JournalRig rig;
  rig.StartAndOpen();
  rig.Kill();
  const std::string good = rig.fs.Bytes("manifest.json");
  int refused = 0;
  for (std::uint64_t byte = 0; byte < good.size(); ++byte) {
    rig.fs.Crash();
    rig.fs.Put("manifest.json", good);
    rig.fs.FlipBit("manifest.json", byte, 1);
    const absl::Status status = rig.Start();
    rig.Kill();
    // White space may differ; a value may not.
    if (status.ok()) {
      EXPECT_TRUE(std::isspace(static_cast<unsigned char>(good[byte]))) << byte;
    } else {
      ++refused;
      EXPECT_TRUE(absl::IsDataLoss(status) || absl::IsFailedPrecondition(status)) << status;
    }
  }
  EXPECT_GT(refused, 150);
}

TEST(JournalFaultsTest, F9AMissingManifestNeverMakesDataAnOrphan) {
  JournalRig rig;
  rig.StartAndOpen();
  ASSERT_TRUE(rig.Append("kept").ok());
  rig.Kill();
  const std::string manifest = rig.fs.Bytes("manifest.json");
  rig.fs.Delete("manifest.json");
  EXPECT_EQ(rig.Restart().code(), absl::StatusCode::kDataLoss);
  rig.fs.Put("manifest.json", manifest);
  ASSERT_TRUE(rig.Restart().ok());
  ASSERT_TRUE(rig.Open().ok());
  EXPECT_EQ(rig.Texts(), std::vector<std::string>{"kept"});
}

TEST(JournalFaultsTest, F5NoSpaceForTheManifestLeavesAnEmptyDirectory) {
  JournalRig rig;
  rig.fs.SetCapacity(10);
  EXPECT_EQ(rig.Start().code(), absl::StatusCode::kResourceExhausted);
  rig.Kill();
  rig.fs.SetCapacity(std::uint64_t{1} << 40);
  EXPECT_TRUE(rig.Restart().ok());
}

TEST(JournalFaultsTest, F12ASecondJournalOnTheDirectoryIsRefused) {
  JournalRig rig;
  rig.StartAndOpen();
  VirtualClock clock;
  SeededRandom random(1);
  OneThreadExecutor executor(clock);
  const auto second = OpenFileJournal(
      rig.Options(), FileJournalPorts{rig.fs, clock, random, executor, executor, executor});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(second.status()).find("held by"), std::string_view::npos);
  EXPECT_TRUE(rig.Append("unharmed").ok());
}

TEST(JournalFaultsTest, F16ANewerFormatIsRefusedNamingBothVersions) {
  JournalRig rig;
  rig.fs.Put("manifest.json", R"({"format": 2, "created_by": "9.8.7", "other": true})");
  const absl::Status status = rig.Start();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(status).find("9.8.7"), std::string_view::npos) << status;
  EXPECT_NE(MessageOf(status).find("1.2.3"), std::string_view::npos) << status;
}

TEST(JournalStartTest, AnotherNumberOfPartitionsIsRefusedNamingBoth) {
  JournalRig rig;
  rig.StartAndOpen();
  rig.Kill();
  rig.partitions = 7;
  const absl::Status status = rig.Restart();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(status).find("has 1 partitions"), std::string_view::npos) << status;
  EXPECT_NE(MessageOf(status).find("says 7"), std::string_view::npos) << status;
}

TEST(JournalStartTest, ASegmentOfAnotherDirectoryIsRefused) {
  JournalRig rig;
  rig.StartAndOpen();
  rig.Kill();
  JournalRig other;
  other.random = SeededRandom(77);
  other.StartAndOpen();
  other.Kill();
  const std::string path = rig.Paths("log/", ".seg")[0];
  rig.fs.Put(path, other.fs.Bytes(path));
  const absl::Status status = rig.Restart();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(status).find("another data directory"), std::string_view::npos) << status;
}

TEST(JournalStartTest, AnUnfinishedCheckpointFileIsRemoved) {
  JournalRig rig;
  WriteTwo(rig);
  rig.fs.Put("checkpoint/00000000-0000000000000003.tmp", "half");
  ASSERT_TRUE(rig.Restart().ok());
  const auto opened = rig.Open();
  ASSERT_TRUE(opened.ok());
  EXPECT_TRUE(opened->warnings.empty());
  EXPECT_TRUE(rig.Paths("checkpoint/", ".tmp").empty());
}

TEST(JournalStartTest, DeltasBecomeANewBaseAndOldFilesGo) {
  JournalRig rig;
  const OpenResult opened = rig.StartAndOpen();
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(rig.WriteCheckpoint(fmt::format("{}", i), opened.end, /*base=*/false).ok());
    EXPECT_LE(rig.Paths("checkpoint/").size(), 2u);
  }
  ASSERT_TRUE(rig.Restart().ok());
  EXPECT_EQ(rig.Open()->checkpoint->pages[0].bytes, "39");
}

TEST(JournalStartTest, ACheckpointAheadOfTheLogIsRefused) {
  JournalRig rig;
  const OpenResult opened = rig.StartAndOpen();
  EXPECT_EQ(rig.WriteCheckpoint("x", JournalPosition(opened.end.value() + 1)).code(),
            absl::StatusCode::kFailedPrecondition);
}

// The danger: what a power cut left in a prepared segment is taken for nothing, and written behind.
TEST(SegmentTest, ReadsAsZerosSeesEveryByte) {
  JournalRig rig;
  constexpr std::uint64_t kBytes = (std::uint64_t{1} << 20) + 100;
  constexpr std::uint64_t kFrom = 64;
  constexpr std::uint64_t kPiece = std::uint64_t{256} << 10;
  const auto file = rig.fs.Create("zeros");
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(WriteOne(**file, 0, std::string(kBytes, '\0')).ok());
  EXPECT_TRUE(*ReadsAsZeros(**file, kFrom, kBytes));
  EXPECT_TRUE(*ReadsAsZeros(**file, kFrom, kFrom));
  EXPECT_FALSE(*ReadsAsZeros(**file, kFrom, kBytes + 1));  // not there
  for (const std::uint64_t at :
       {kFrom, kFrom + kPiece - 1, kFrom + kPiece, kBytes - 101, kBytes - 100, kBytes - 1}) {
    ASSERT_TRUE(WriteOne(**file, at, "x").ok());
    EXPECT_FALSE(*ReadsAsZeros(**file, kFrom, kBytes)) << at;
    ASSERT_TRUE(WriteOne(**file, at, std::string(1, '\0')).ok());
  }
  ASSERT_TRUE(WriteOne(**file, kFrom - 1, "x").ok());
  EXPECT_TRUE(*ReadsAsZeros(**file, kFrom, kBytes));
}

}  // namespace
}  // namespace tocsin
