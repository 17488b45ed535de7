// The rows of the fault table that concern the log itself; checkpoints, manifest, lock and format
// are in journal_start_test.cc, kill -9 of a real process in tests/integration.

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "tests/unit/journal/journal_rig.h"

namespace tocsin {
namespace {

using Coins = SimFileSystem::Coins;
using Call = SimFileSystem::Call;

std::string Big(char c) { return std::string(6000, c); }

TEST(JournalFaultsTest, F1WhatWasAnsweredSurvivesAKill) {
  JournalRig rig;
  rig.StartAndOpen();
  std::vector<std::string> answered;
  for (int i = 0; i < 30; ++i) {
    const std::string text = fmt::format("event {}", i);
    rig.journal->Append(rig.Batch(text), [&answered, text](const auto& result) {
      if (result.ok()) answered.push_back(text);
    });
    if (i % 3 == 0) rig.committer.RunUntilIdle(1);
    if (i % 5 == 0) rig.owner.RunUntilIdle();
  }
  rig.owner.RunUntilIdle();
  ASSERT_FALSE(answered.empty());
  ASSERT_LT(answered.size(), 30u);
  ASSERT_TRUE(rig.Restart().ok());
  ASSERT_TRUE(rig.Open().ok());
  const auto texts = rig.Texts();
  ASSERT_GE(texts.size(), answered.size());
  for (std::size_t i = 0; i < answered.size(); ++i) EXPECT_EQ(texts[i], answered[i]);
}

TEST(JournalFaultsTest, F2ThePowerCutKeepsEverythingAnsweredWhateverIsLost) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    JournalRig rig(seed);
    rig.StartAndOpen();
    ASSERT_TRUE(rig.Append("one").ok());
    ASSERT_TRUE(rig.Append("two").ok());
    // Written and not synced.
    rig.fs.Fail(Call::kSync, "log", absl::InternalError("EIO"));
    rig.journal->Append(rig.Batch(Big('x')), [](const auto&) {});
    rig.journal->Append(rig.Batch(Big('y')), [](const auto&) {});
    rig.Run();
    ASSERT_TRUE(rig.Restart(Coins::kFair).ok());
    ASSERT_TRUE(rig.Open().ok());
    const auto texts = rig.Texts();
    ASSERT_GE(texts.size(), 2u) << "seed " << seed;
    EXPECT_EQ(texts[0], "one");
    EXPECT_EQ(texts[1], "two");
    const std::vector<std::string> all = {"one", "two", Big('x'), Big('y')};
    ASSERT_LE(texts.size(), all.size());
    EXPECT_TRUE(std::equal(texts.begin(), texts.end(), all.begin())) << "seed " << seed;
  }
}

// The danger: half a batch served as data, or good batches thrown away with it.
TEST(JournalFaultsTest, F3TornBatchIsCutAtSyncedThroughAndQuarantined) {
  JournalRig rig;
  rig.StartAndOpen();
  const auto good = rig.Append("good");
  ASSERT_TRUE(good.ok());
  const auto torn = rig.Append(Big('t'));
  ASSERT_TRUE(torn.ok());
  rig.Kill();
  // The second batch's tail never reached the disk, as if its sync had not happened.
  const auto [path, place] = rig.Place(torn->position);
  std::string bytes = rig.fs.Bytes(path);
  const std::string before = bytes.substr(place, 512);
  std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(place) + 512, bytes.end(), '\0');
  rig.fs.Put(path, bytes);
  ASSERT_TRUE(rig.Restart().ok());
  const JournalInfo info = rig.journal->Info();
  EXPECT_GT(info.cut_bytes, 500u);
  EXPECT_EQ(info.quarantine_files, 1u);
  EXPECT_EQ(info.warnings.size(), 1u);
  EXPECT_EQ(info.durable_end, good->end);
  const auto kept = rig.Paths("quarantine/");
  ASSERT_EQ(kept.size(), 1u);
  EXPECT_EQ(rig.fs.Bytes(kept[0]).substr(0, 512), before.substr(0, rig.fs.Bytes(kept[0]).size()));
  ASSERT_TRUE(rig.Open().ok());
  EXPECT_EQ(rig.Texts(), std::vector<std::string>{"good"});
  EXPECT_TRUE(rig.ReadAll().unreadable.empty());
  // Told once: the next start finds a clean log.
  ASSERT_TRUE(rig.Restart().ok());
  EXPECT_TRUE(rig.journal->Info().warnings.empty());
}

TEST(JournalFaultsTest, F3QuarantineIsBounded) {
  JournalRig rig;
  rig.quarantine_bytes_max = 1000;
  rig.StartAndOpen();
  const auto torn = rig.Append(Big('t'));
  ASSERT_TRUE(torn.ok());
  rig.Kill();
  const auto [path, place] = rig.Place(torn->position);
  rig.fs.FlipBit(path, place, 0);
  ASSERT_TRUE(rig.Restart().ok());
  EXPECT_LE(rig.journal->Info().quarantine_bytes, 1000u);
  EXPECT_EQ(rig.journal->Info().warnings.size(), 2u);
}

TEST(JournalFaultsTest, F4AfterAFailedSyncNothingIsAnsweredOkAndTheProcessIsToldOnce) {
  for (const Call call : {Call::kSync, Call::kWrite}) {
    JournalRig rig;
    rig.StartAndOpen();
    ASSERT_TRUE(rig.Append("before").ok());
    rig.fs.Fail(call, "log", absl::InternalError("EIO"));  // once, then "succeeds"
    std::optional<absl::Status> told;
    RecordBatch batch = rig.Batch("during");
    batch.notify.push_back([&told](const absl::Status& status) { told = status; });
    EXPECT_EQ(rig.Append(std::move(batch)).status().code(), absl::StatusCode::kUnknown);
    ASSERT_TRUE(told.has_value());
    EXPECT_EQ(told->code(), absl::StatusCode::kUnknown);
    EXPECT_EQ(rig.Append("after").status().code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(rig.WriteCheckpoint("x", JournalPosition(0)).code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(rig.fatal_calls, 1);
    EXPECT_TRUE(rig.journal->Info().failed);
    EXPECT_EQ(rig.Texts(), std::vector<std::string>{"before"});  // reading goes on
    ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
    ASSERT_TRUE(rig.Open().ok());
    // What was not answered may be there.
    const std::vector<std::string> left = rig.Texts();
    EXPECT_EQ(left[0], "before");
    EXPECT_TRUE(left.size() == 1 || (left.size() == 2 && left[1] == "during"));
  }
}

// The kernel calls clean what it could not write: it is read, also by the next process, no later
// sync writes it, and when the power goes it is gone.
TEST(JournalFaultsTest, F4WhatAFailedSyncLeftInMemoryIsWrittenAgainBeforeItCounts) {
  for (std::uint64_t seed = 1; seed <= 16; ++seed) {
    JournalRig rig(seed);
    rig.StartAndOpen();
    ASSERT_TRUE(rig.Append("before").ok());
    rig.fs.Fail(Call::kSync, "log", absl::InternalError("EIO"));
    EXPECT_EQ(rig.Append("during").status().code(), absl::StatusCode::kUnknown);
    ASSERT_TRUE(rig.Restart(Coins::kAll).ok());
    ASSERT_TRUE(rig.Open().ok());
    ASSERT_EQ(rig.Texts(), (std::vector<std::string>{"before", "during"}));
    ASSERT_TRUE(rig.Append("after").ok());
    ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
    ASSERT_TRUE(rig.Open().ok());
    EXPECT_EQ(rig.Texts(), (std::vector<std::string>{"before", "during", "after"}));
    EXPECT_TRUE(rig.journal->Info().warnings.empty());
  }
}

TEST(JournalFaultsTest, F5NoSpaceInTheMiddleOfAWriteLeavesNothingBehind) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    JournalRig rig(seed);
    rig.StartAndOpen();
    ASSERT_TRUE(rig.Append("before").ok());
    rig.fs.Fail(Call::kWrite, "log", absl::ResourceExhaustedError("ENOSPC"));
    const std::uint64_t offset = rig.next_offset;
    EXPECT_EQ(rig.Append("refused").status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(rig.fatal_calls, 0);
    EXPECT_EQ(rig.journal->Info().appends_refused, 1u);
    if (seed % 2 == 0) {
      ASSERT_TRUE(rig.Restart(Coins::kFair).ok());
      ASSERT_TRUE(rig.Open().ok());
      EXPECT_EQ(rig.Texts(), std::vector<std::string>{"before"});
    }
    rig.next_offset = offset;
    ASSERT_TRUE(rig.Append("after").ok());
    ASSERT_TRUE(rig.Restart(Coins::kFair).ok());
    ASSERT_TRUE(rig.Open().ok());
    EXPECT_EQ(rig.Texts(), (std::vector<std::string>{"before", "after"}));
  }
}

// A file system that copies on writing: what was written half cannot even be undone. The danger: a
// full disk ends the process, again and again, or half a group lives on behind what comes later.
TEST(JournalFaultsTest, F5NoSpaceToUndoARefusedWriteIsWaitedFor) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    JournalRig rig(seed);
    rig.StartAndOpen();
    ASSERT_TRUE(rig.Append("before").ok());
    rig.fs.Fail(Call::kWrite, "log", absl::ResourceExhaustedError("ENOSPC"), 1000);
    const std::uint64_t offset = rig.next_offset;
    for (int i = 0; i < 3; ++i) {
      rig.next_offset = offset;
      EXPECT_EQ(rig.Append(Big('r')).status().code(), absl::StatusCode::kResourceExhausted);
    }
    EXPECT_EQ(rig.fatal_calls, 0);
    EXPECT_EQ(rig.Texts(), std::vector<std::string>{"before"});
    if (seed % 2 == 0) {
      ASSERT_TRUE(rig.Restart(Coins::kFair).ok());
      ASSERT_TRUE(rig.Open().ok());
      EXPECT_EQ(rig.Texts()[0], "before");
      continue;
    }
    rig.fs.ClearFaults();
    rig.next_offset = offset;
    ASSERT_TRUE(rig.Append("after").ok());
    ASSERT_TRUE(rig.Restart(Coins::kFair).ok());
    EXPECT_EQ(rig.journal->Info().cut_bytes, 0u) << "the remains were there still";
    ASSERT_TRUE(rig.Open().ok());
    EXPECT_EQ(rig.Texts(), (std::vector<std::string>{"before", "after"}));
  }
}

TEST(JournalFaultsTest, F5ATrialToUndoThatFailsOtherwiseEndsTheJournal) {
  JournalRig rig;
  rig.StartAndOpen();
  rig.fs.Fail(Call::kWrite, "log", absl::ResourceExhaustedError("ENOSPC"));
  rig.fs.Fail(Call::kSync, "log", absl::InternalError("EIO"));
  EXPECT_EQ(rig.Append("x").status().code(), absl::StatusCode::kUnknown);
  EXPECT_EQ(rig.fatal_calls, 1);
}

TEST(JournalFaultsTest, F5RoomIsLookedForOnceASecondAlsoWithoutAppends) {
  JournalRig rig;
  rig.reserve_bytes = 1 << 20;
  rig.StartAndOpen();
  EXPECT_TRUE(rig.journal->HasRoomForIngest());
  for (const bool room : {false, true}) {
    rig.fs.SetCapacity(room ? std::uint64_t{1} << 40 : 600 * 1024);
    rig.clock.Advance(std::chrono::seconds(1));
    rig.Run();
    EXPECT_EQ(rig.journal->HasRoomForIngest(), room);
  }
}

TEST(JournalFaultsTest, F5TheReserveTakesSettlementsAndLettersWhenEventsAreRefused) {
  JournalRig rig;
  rig.reserve_bytes = 1 << 20;
  rig.StartAndOpen();
  ASSERT_TRUE(rig.Append("before").ok());
  rig.fs.SetCapacity(600 * 1024);  // what is left is less than the reserve
  std::optional<absl::Status> refused;
  for (int i = 0; i < 20 && !(refused && !refused->ok()); ++i) {
    const std::uint64_t offset = rig.next_offset;
    refused = rig.Append(Big('e')).status();
    if (!refused->ok()) rig.next_offset = offset;
  }
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(refused->code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(rig.journal->Info().reserve_only);
  RecordBatch settled = rig.Batch("settled", 0);
  settled.letters.push_back({DeliveryId{}, "letter"});
  EXPECT_TRUE(rig.Append(std::move(settled)).ok());
  RecordBatch emitted = rig.Batch("emitted");
  emitted.may_use_reserve = true;
  EXPECT_TRUE(rig.Append(std::move(emitted)).ok());
  rig.fs.SetCapacity(std::uint64_t{1} << 40);
  const std::uint64_t offset = rig.next_offset;
  rig.Append("noticed").status().IgnoreError();  // a refusal makes it look
  rig.next_offset = offset;
  EXPECT_TRUE(rig.Append("again").ok());
}

TEST(JournalFaultsTest, F7AFlippedBitCostsOneBatchIsReportedAndNeverServed) {
  JournalRig clean;
  clean.StartAndOpen();
  std::vector<AppendResult> appended;
  for (int i = 0; i < 20; ++i) {
    const auto result = clean.Append(fmt::format("{:02d}", i) + std::string(4000, 'd'));
    ASSERT_TRUE(result.ok());
    appended.push_back(*result);
  }
  ASSERT_GT(clean.journal->Info().segments, 2u);
  SeededRandom random(5);
  for (std::size_t hit = 0; hit < appended.size() - 1; ++hit) {
    JournalRig rig;
    clean.Kill();
    for (const std::string& path : clean.fs.Paths()) {
      if (path != "lock") rig.fs.Put(path, clean.fs.Bytes(path));
    }
    const std::uint64_t position =
        appended[hit].position.value() +
        random.Below(appended[hit].end.value() - appended[hit].position.value());
    const auto [path, place] = rig.Place(JournalPosition(position));
    rig.fs.FlipBit(path, place, static_cast<unsigned>(random.Below(8)));
    ASSERT_TRUE(rig.Start().ok()) << "batch " << hit;
    ASSERT_TRUE(rig.Open().ok());
    EXPECT_EQ(rig.Texts().size(), 19u) << "batch " << hit;
    const ReadResult read = rig.ReadAll();
    ASSERT_EQ(read.unreadable.size(), 1u);
    EXPECT_EQ(read.unreadable[0].from, appended[hit].position);
    if (read.unreadable[0].first_offset) {
      EXPECT_EQ(*read.unreadable[0].first_offset, Offset(hit));
      EXPECT_EQ(read.unreadable[0].event_count, 1u);
    }
    EXPECT_TRUE(rig.Paths("quarantine/").empty());
    EXPECT_GT(rig.journal->Info().damaged_ranges, 0u);
  }
}

// An offset never means two events: what was given out stays given out, also when nothing that can
// be read says so.
TEST(JournalFaultsTest, F7OffsetsOfABatchWithoutAReadableHeaderAreNotGivenOutAgain) {
  JournalRig rig;
  rig.partitions = 2;
  rig.StartAndOpen();
  const auto lost = rig.Append("lost");
  ASSERT_TRUE(lost.ok());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(rig.Open(PartitionId(1)).ok());  // batches behind it
  rig.Kill();
  const auto [path, place] = rig.Place(lost->position);
  rig.fs.FlipBit(path, place, 0);
  ASSERT_TRUE(rig.Start().ok());
  const auto opened = rig.Open();
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_GT(opened->next_offset, Offset(0)) << "0 was the lost event's";
}

// Two faults side by side: without the border at S, batches that were never synced are served.
TEST(JournalFaultsTest, DamageThatRunsIntoATornTailIsCutAtSyncedThrough) {
  JournalRig rig;
  rig.StartAndOpen();
  const auto damaged = rig.Append("damaged");
  ASSERT_TRUE(damaged.ok());
  std::vector<AppendResult> group;
  for (int i = 0; i < 2; ++i) {
    rig.journal->Append(rig.Batch("unsynced"), [&group](auto r) { group.push_back(*r); });
  }
  rig.Run();
  ASSERT_EQ(group.size(), 2u);
  rig.Kill();
  for (const JournalPosition position : {damaged->position, group[0].position}) {
    const auto [path, place] = rig.Place(position);
    rig.fs.FlipBit(path, place + 9, 0);
  }
  ASSERT_TRUE(rig.Restart().ok());
  EXPECT_EQ(rig.journal->Info().durable_end, damaged->end);
  EXPECT_GT(rig.journal->Info().cut_bytes, 0u);
  ASSERT_TRUE(rig.Open().ok());
  EXPECT_TRUE(rig.Texts().empty());
  EXPECT_EQ(rig.ReadAll().unreadable.size(), 1u);
}

TEST(JournalFaultsTest, F8AnIndexIsRebuiltFromTheLogAndNeverTrustedOverIt) {
  JournalRig rig;
  rig.StartAndOpen();
  for (int i = 0; i < 30; ++i) ASSERT_TRUE(rig.Append(Big('i')).ok());
  const auto indexes = rig.Paths("log/", ".idx");
  ASSERT_GT(indexes.size(), 2u);
  rig.Kill();
  rig.fs.FlipBit(indexes[0], 30, 3);                 // damaged
  rig.fs.Put(indexes[1], rig.fs.Bytes(indexes[2]));  // whole, of another segment
  rig.fs.Put(indexes[2], "");                        // empty
  ASSERT_TRUE(rig.Restart().ok());
  EXPECT_EQ(rig.journal->Info().warnings.size(), 3u);
  ASSERT_TRUE(rig.Open().ok());
  EXPECT_EQ(rig.Texts().size(), 30u);
  for (std::uint64_t offset = 0; offset < 30; ++offset) {
    const JournalPosition found = rig.journal->Locate(PartitionId(0), Offset(offset));
    const auto read = rig.ReadAll();
    const auto holder = std::find_if(read.batches.begin(), read.batches.end(), [&](const auto& b) {
      return b.base_offset == Offset(offset) && b.event_count == 1;
    });
    ASSERT_NE(holder, read.batches.end());
    EXPECT_LE(found, holder->position);
  }
  rig.Run();
  ASSERT_TRUE(rig.Restart().ok());
  EXPECT_TRUE(rig.journal->Info().warnings.empty());  // saved again
}

TEST(JournalFaultsTest, F10AMissingSegmentIsRefusedUnlessDegraded) {
  JournalRig rig;
  rig.StartAndOpen();
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(rig.Append(Big('m')).ok());
  rig.Kill();
  const auto segments = rig.Paths("log/", ".seg");
  ASSERT_GT(segments.size(), 3u);
  rig.fs.Delete(segments[1]);
  const absl::Status refused = rig.Restart();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(refused).find(segments[1]), std::string_view::npos) << refused;
  EXPECT_NE(MessageOf(refused).find("--degraded"), std::string_view::npos);
  rig.degraded = true;
  ASSERT_TRUE(rig.Restart().ok());
  const auto opened = rig.Open();
  ASSERT_TRUE(opened.ok()) << opened.status();
  const ReadResult read = rig.ReadAll();
  ASSERT_EQ(read.unreadable.size(), 1u);
  EXPECT_GT(read.batches.size(), 10u);
  EXPECT_TRUE(read.at_end);
  EXPECT_GE(opened->next_offset, Offset(20));
  rig.next_offset = opened->next_offset.value();
  EXPECT_TRUE(rig.Append("goes on").ok());
}

// The danger: an offset that was answered becomes another event.
class LostOffsetsTest : public testing::Test {
 protected:
  // Partition 0's batches go on behind the one of partition 1 that is lost.
  void WriteBoth(int before) {
    rig.partitions = 2;
    rig.StartAndOpen();
    const Epoch first = rig.epoch;
    ASSERT_TRUE(rig.Open(PartitionId(1)).ok());
    const Epoch second = std::exchange(rig.epoch, first);
    for (int i = 0; i < before; ++i) ASSERT_TRUE(rig.Append(Big('b')).ok());
    older_path = rig.Place(JournalPosition(rig.journal->end())).first;
    older_bytes = rig.fs.Bytes(older_path);
    RecordBatch batch = rig.Batch(std::string(20, 'l'), 5);
    rig.next_offset -= 5;
    batch.partition = PartitionId(1);
    batch.epoch = second;
    batch.base_offset = Offset(0);
    const auto appended = rig.Append(std::move(batch));
    ASSERT_TRUE(appended.ok()) << appended.status();
    lost = appended->position;
    for (int i = 0; i < 12; ++i) ASSERT_TRUE(rig.Append(Big('a')).ok());
    rig.Kill();
  }
  void ExpectNotGivenOutAgain() {
    EXPECT_EQ(rig.Start().code(), absl::StatusCode::kFailedPrecondition);
    rig.degraded = true;
    ASSERT_EQ(rig.Restart(), absl::OkStatus());
    const auto opened = rig.Open(PartitionId(1));
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_GE(opened->next_offset, Offset(5));
    RecordBatch batch = rig.Batch("goes on");
    batch.partition = PartitionId(1);
    batch.base_offset = opened->next_offset;
    EXPECT_TRUE(rig.Append(std::move(batch)).ok());
  }

  JournalRig rig;
  JournalPosition lost;
  std::string older_path, older_bytes;  // before what is lost was written
};

TEST_F(LostOffsetsTest, F10OfAMissingSegmentAreNotGivenOutAgain) {
  ASSERT_NO_FATAL_FAILURE(WriteBoth(6));
  const std::string path = rig.Place(lost).first;
  ASSERT_NE(path, rig.Paths("log/", ".seg")[0]);
  rig.fs.Delete(path);
  ExpectNotGivenOutAgain();
}

TEST_F(LostOffsetsTest, F11OfAnOlderCopyAreNotGivenOutAgain) {
  ASSERT_NO_FATAL_FAILURE(WriteBoth(2));
  ASSERT_EQ(rig.Place(lost).first, older_path);
  rig.fs.Put(older_path, older_bytes);
  ExpectNotGivenOutAgain();
}

// What was appended behind the last position that anything readable calls durable is lost, too.
TEST(JournalFaultsTest, F10OffsetsOfALostEndAreNotGivenOutAgain) {
  for (const bool also_prepared : {false, true}) {
    JournalRig rig;
    rig.StartAndOpen();
    JournalPosition end;
    while (rig.journal->Info().segments < 2) end = rig.Append(Big('b'))->end;
    ASSERT_TRUE(rig.WriteCheckpoint("state", end).ok());
    JournalPosition last;
    for (int i = 0; i < 3; ++i) last = rig.Append(rig.Batch(std::string(14, 's'), 450))->position;
    ASSERT_EQ(rig.journal->Info().segments, 2u);
    rig.Kill();
    const std::string newest = rig.Place(last).first;
    for (const std::string& path : rig.Paths("log/", ".seg")) {
      if (path == newest || (also_prepared && path > newest)) rig.fs.Delete(path);
    }
    EXPECT_EQ(rig.Start().code(), absl::StatusCode::kFailedPrecondition);
    rig.degraded = true;
    ASSERT_EQ(rig.Restart(), absl::OkStatus());
    const auto opened = rig.Open();
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_GE(opened->next_offset, Offset(rig.next_offset));
    rig.next_offset = opened->next_offset.value();
    EXPECT_TRUE(rig.Append("goes on").ok());
  }
}

// The danger: the one behind it is removed instead, and the next start finds a hole.
TEST(JournalFaultsTest, F4ASegmentThatCannotBeRemovedHoldsTheTrim) {
  for (const int failures : {1, 2}) {
    JournalRig rig;
    rig.StartAndOpen();
    JournalPosition end;
    for (int i = 0; i < 20; ++i) end = rig.Append(Big('t'))->end;
    for (int i = 0; i < 2; ++i) ASSERT_TRUE(rig.WriteCheckpoint("state", end).ok());
    const auto segments = rig.Paths("log/", ".seg");
    ASSERT_GT(segments.size(), 4u);
    rig.fs.Fail(Call::kRemove, segments[0], absl::InternalError("EIO"), failures);
    const auto second = *ParseSegmentName(segments[1].substr(4));
    rig.journal->TrimBelow(PartitionId(0), JournalPosition(second));
    rig.Run();
    EXPECT_EQ(rig.journal->Info().start, JournalPosition(0)) << "it is there";
    rig.journal->TrimBelow(PartitionId(0), end);
    rig.Run();
    EXPECT_FALSE(rig.fs.HasFaults()) << "it was tried again";
    EXPECT_EQ(rig.journal->Info().start.value() > second, failures == 1);
    ASSERT_EQ(rig.Restart(), absl::OkStatus());
    ASSERT_TRUE(rig.Open().ok());
    EXPECT_TRUE(rig.ReadAll().unreadable.empty());
    EXPECT_EQ(rig.fs.Exists(segments[1]), failures == 2);
  }
}

TEST(JournalFaultsTest, F4ARemovalThatCouldNotBeSyncedIsSyncedByTheNextTrim) {
  JournalRig rig;
  rig.StartAndOpen();
  JournalPosition end;
  for (int i = 0; i < 20; ++i) end = rig.Append(Big('t'))->end;
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(rig.WriteCheckpoint("state", end).ok());
  const auto segments = rig.Paths("log/", ".seg");
  rig.fs.Fail(Call::kSync, "log", absl::InternalError("EIO"));
  rig.journal->TrimBelow(PartitionId(0), JournalPosition(end.value() - 1));
  rig.Run();
  EXPECT_FALSE(rig.fs.HasFaults());
  EXPECT_TRUE(rig.fs.Exists(segments[1])) << "nothing behind it is removed before";
  rig.journal->TrimBelow(PartitionId(0), end);
  rig.Run();
  EXPECT_FALSE(rig.fs.Exists(segments[1]));
  ASSERT_EQ(rig.Restart(Coins::kNone), absl::OkStatus());
  ASSERT_TRUE(rig.Open().ok());
  EXPECT_FALSE(rig.fs.Exists(segments[0]));
}

// The danger: what is appended after such a start chains to nothing, and the next start refuses it.
TEST(JournalFaultsTest, F10AMissingSegmentThatWasNeverUsedCostsNothingAlsoLater) {
  JournalRig rig;
  rig.StartAndOpen();
  ASSERT_TRUE(rig.Append("before").ok());
  rig.Kill();
  const auto segments = rig.Paths("log/", ".seg");
  ASSERT_GT(segments.size(), 2u);
  rig.fs.Delete(segments[1]);
  ASSERT_TRUE(rig.Restart().ok());
  ASSERT_TRUE(rig.Open().ok());
  ASSERT_TRUE(rig.Append("after").ok());
  ASSERT_EQ(rig.Restart(), absl::OkStatus());
  ASSERT_TRUE(rig.Open().ok());
  EXPECT_TRUE(rig.ReadAll().unreadable.empty());
}

TEST(JournalFaultsTest, F11ASegmentOfAnOlderCopyIsFound) {
  JournalRig rig;
  rig.StartAndOpen();
  ASSERT_TRUE(rig.Append(Big('1')).ok());
  const std::string path = rig.Paths("log/", ".seg")[0];
  const std::string older = rig.fs.Bytes(path);
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(rig.Append(Big('2')).ok());
  rig.Kill();
  rig.fs.Put(path, older);
  const absl::Status refused = rig.Restart();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(MessageOf(refused).find("older copy"), std::string_view::npos) << refused;
}

TEST(JournalFaultsTest, F13ACrashInRecoveryChangesNothingOfItsResult) {
  // The log with a torn tail that holds a whole batch behind a broken one.
  JournalRig first;
  first.StartAndOpen();
  ASSERT_TRUE(first.Append("good").ok());
  std::vector<absl::StatusOr<AppendResult>> torn;
  for (const char c : {'a', 'b'}) {
    first.journal->Append(first.Batch(Big(c)), [&torn](auto r) { torn.push_back(std::move(r)); });
  }
  first.Run();
  ASSERT_EQ(torn.size(), 2u);
  first.Kill();
  const auto [path, place] = first.Place(torn[0]->position);
  first.fs.FlipBit(path, place + 100, 0);
  for (std::uint64_t cut = 0; cut < 25; ++cut) {
    JournalRig rig(cut + 1);
    for (const std::string& name : first.fs.Paths()) {
      if (name != "lock") rig.fs.Put(name, first.fs.Bytes(name));
    }
    for (std::uint64_t again = 0; again < 3; ++again) {
      rig.fs.PowerOffAfter(cut + again);
      rig.Start().IgnoreError();
      rig.Kill();
      rig.fs.Crash(Coins::kFair);
    }
    ASSERT_TRUE(rig.Start().ok()) << cut;
    ASSERT_TRUE(rig.Open().ok());
    EXPECT_EQ(rig.Texts(), std::vector<std::string>{"good"}) << cut;
    EXPECT_FALSE(rig.Paths("quarantine/").empty()) << cut;
  }
}

}  // namespace
}  // namespace tocsin
