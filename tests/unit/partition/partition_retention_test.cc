// Retention by age and size, and the quota of dead letters: what makes room, what keeps the log,
// and that nothing is forgotten before it may be.

#include <gtest/gtest.h>

#include <ctime>
#include <string>
#include <vector>

#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

using Coins = SimFileSystem::Coins;

constexpr Duration kASecond = std::chrono::seconds(1);
constexpr std::uint64_t kRetention = 400'000;

// Until the log is at its size; how many were taken.
int Fill(PartitionRig& rig, const std::string& prefix = "e") {
  for (int i = 0; i < 1000; ++i) {
    const absl::Status status = rig.Publish(fmt::format("{}{}", prefix, i), "", 9'000);
    if (status.ok()) continue;
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    return i;
  }
  ADD_FAILURE() << "the log never became full";
  return 0;
}

struct SizeCase {
  std::string name;
  std::uint32_t partitions;
  bool restart;
};

class FullLogTest : public testing::TestWithParam<SizeCase> {};

// The danger: what holds the log (the events in use, the older checkpoint, a partition to which
// nothing happens) never moves on, because nothing is accepted that would move it.
TEST_P(FullLogTest, AFullLogTakesEventsSecondsAfterItWasDrained) {
  PartitionRig rig;
  rig.partition_options.retention_bytes = kRetention;
  rig.journal_options.partitions = rig.partition_options.partitions = GetParam().partitions;
  ASSERT_TRUE(rig.Start().ok());
  for (int round = 0; round < 3; ++round) {
    const int taken = Fill(rig, fmt::format("r{}-", round));
    ASSERT_GT(taken, 5);
    if (round == 0 || GetParam().restart) rig.Attach();
    ASSERT_EQ(rig.DrainAll().size(), static_cast<std::size_t>(taken));
    if (GetParam().restart) {
      ASSERT_TRUE(rig.Restart().ok());
    }
    for (int i = 0; i < 5; ++i) rig.Advance(kASecond);
    EXPECT_LE(rig.journal->log_bytes(), kRetention / 10 * 9);
  }
  EXPECT_GT(rig.journal->log_bytes(), kRetention / 2) << "no more is forgotten than must be";
}

INSTANTIATE_TEST_SUITE_P(All, FullLogTest,
                         testing::Values(SizeCase{"OnePartition", 1, false},
                                         SizeCase{"OneOfFourIsUsed", 4, false},
                                         SizeCase{"AfterARestart", 1, true},
                                         SizeCase{"OneOfFourAfterARestart", 4, true}),
                         [](const auto& one) { return one.param.name; });

TEST(PartitionRetentionTest, AWriterAsFastAsItsWorkersIsNeverRefusedForLong) {
  PartitionRig rig;
  rig.partition_options.retention_bytes = kRetention;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  int refused = 0;
  int in_a_row = 0;
  for (int i = 0; i < 2000; ++i) {
    in_a_row = rig.Publish(fmt::format("e{}", i), "", 9'000).ok() ? 0 : in_a_row + 1;
    refused += in_a_row > 0 ? 1 : 0;
    ASSERT_LE(in_a_row, 4) << "two seconds";
    (void)rig.DrainAll();
    rig.Advance(std::chrono::milliseconds(500));
  }
  EXPECT_LE(refused, 20);
}

TEST(PartitionRetentionTest, WhatIsNotSettledStaysHoweverFullTheLogIs) {
  PartitionRig rig;
  rig.partition_options.retention_bytes = kRetention;
  ASSERT_TRUE(rig.Start().ok());
  const int taken = Fill(rig);
  for (int i = 0; i < 200; ++i) rig.Advance(kASecond);
  EXPECT_EQ(rig.Publish("more").code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
  rig.Attach();
  EXPECT_EQ(rig.DrainAll().size(), static_cast<std::size_t>(taken));
}

// The danger: the events' bytes are gone, then the power fails, and they are pending again.
TEST(PartitionRetentionTest, WhatIsSettledIsKeptUntilThatIsDurable) {
  PartitionRig rig;
  rig.partition_options.retention_bytes = kRetention;
  ASSERT_TRUE(rig.Start().ok());
  const int taken = Fill(rig);
  for (int i = 0; i < 10; ++i) rig.Advance(kASecond);  // the checkpoints are behind the events
  rig.Attach(1000);
  ASSERT_EQ(rig.worker->held.size(), static_cast<std::size_t>(taken));
  while (!rig.worker->held.empty()) rig.Answer(Ack{});
  rig.clock.Advance(2 * kASecond);  // housekeeping is in the same turn
  while (rig.owner.RunUntilIdle() + rig.engine.RunUntilIdle() > 0) {
  }
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  EXPECT_EQ(rig.DrainAll().size(), static_cast<std::size_t>(taken));
}

// The danger: it keeps the log full, and a full log keeps it from going on.
TEST(PartitionRetentionTest, ATriggerFromTheStartGetsThroughALogThatIsFullBecauseOfIt) {
  PartitionRig rig;
  rig.partition_options.retention_bytes = kRetention;
  ASSERT_TRUE(rig.Start().ok());
  const int taken = Fill(rig);
  rig.AddTrigger("late").from_start = true;
  rig.Reload();
  rig.Attach();
  for (int i = 0; i < 60; ++i) {
    (void)rig.DrainAll();
    rig.Advance(kASecond);
  }
  EXPECT_EQ(rig.Books("late").acked, static_cast<std::uint64_t>(taken));
  EXPECT_LE(rig.journal->log_bytes(), kRetention);
  EXPECT_TRUE(rig.Publish("later").ok());
}

// Found by the simulator; here `retention.size` was lowered.
TEST(PartitionRetentionTest, ATriggerFromTheStartGetsThroughALogFarAboveItsSize) {
  PartitionRig rig;
  rig.partition_options.retention_bytes = kRetention;
  ASSERT_TRUE(rig.Start().ok());
  const int taken = Fill(rig);
  rig.AddTrigger("late").from_start = true;
  rig.partition_options.retention_bytes = kRetention / 2;
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  for (int i = 0; i < 120; ++i) {
    (void)rig.DrainAll();
    rig.Advance(kASecond);
  }
  EXPECT_EQ(rig.Books("late").acked, static_cast<std::uint64_t>(taken));
  EXPECT_LE(rig.journal->log_bytes(), kRetention / 2);
  EXPECT_TRUE(rig.Publish("later").ok());
}

TEST(PartitionRetentionTest, ByAgeTheLogShrinksAlsoWhereAPartitionIsIdleAndAfterARestart) {
  PartitionRig rig;
  rig.partition_options.retention_age = std::chrono::hours(1);
  rig.journal_options.partitions = rig.partition_options.partitions = 3;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  const auto publish = [&](int from, int count) {
    for (int i = from; i < from + count; ++i) {
      ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), "", 20'000).ok());
      (void)rig.DrainAll();
    }
  };
  publish(0, 100);
  const std::uint64_t full = rig.journal->log_bytes();
  ASSERT_GT(full, 2'000'000u);
  for (int i = 0; i < 20; ++i) rig.Advance(std::chrono::minutes(2));
  EXPECT_GE(rig.journal->log_bytes(), full) << "nothing is an hour old";
  // Whoever holds the log lets it go when it is an hour old, also if no life is as long.
  for (int i = 0; i < 60; ++i) {
    if (i % 10 == 0) {
      ASSERT_TRUE(rig.Restart().ok());
      rig.Attach();
    }
    ASSERT_TRUE(rig.Publish(fmt::format("later{}", i)).ok());
    (void)rig.DrainAll();
    rig.Advance(std::chrono::minutes(2));
  }
  EXPECT_LT(rig.journal->log_bytes(), full / 4);
}

// --- dead letters ---
void RejectAll(PartitionRig& rig) {
  for (rig.Run(); !rig.worker->held.empty(); rig.Run()) rig.Answer(Reject{"no"});
}

std::vector<DeliveryId> Letters(PartitionRig& rig, std::uint32_t partition = 0) {
  std::vector<DeliveryId> ids;
  rig.shards->Post(PartitionId(partition), [&](Partition& one) {
    for (const LetterSummary& letter : one.OpenLetters()) ids.push_back(letter.id);
  });
  rig.Run();
  return ids;
}

void Discard(PartitionRig& rig, const DeliveryId& id) {
  rig.shards->Post(PartitionId(0), [id](Partition& partition) {
    partition.Discard(id, [](const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; });
  });
}

class ClosedLettersTest : public testing::TestWithParam<std::uint32_t> {};

TEST_P(ClosedLettersTest, MakeRoomForThoseThatWait) {
  PartitionRig rig;
  rig.partition_options.letters_bytes = 4 * rig.journal_options.letter_segment_bytes;
  rig.journal_options.partitions = rig.partition_options.partitions = GetParam();
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), "", 9'000).ok());
  RejectAll(rig);
  std::vector<DeliveryId> letters = Letters(rig);
  ASSERT_LT(letters.size(), 20u);
  ASSERT_TRUE(rig.Warned("T0308"));
  std::size_t discarded = 0;
  for (int round = 0; round < 10 && discarded < 40; ++round) {
    letters = Letters(rig);
    for (const DeliveryId& id : letters) Discard(rig, id);
    discarded += letters.size();
    rig.Advance(2 * kASecond);
    rig.Advance(2 * kASecond);
  }
  EXPECT_EQ(discarded, 40u);
  EXPECT_EQ(rig.Books().pending, 0u);
  EXPECT_LE(rig.journal->letter_bytes(), rig.journal_options.letter_segment_bytes);
}

INSTANTIATE_TEST_SUITE_P(Partitions, ClosedLettersTest, testing::Values(1u, 3u));

// The danger: the letter's bytes are gone, then the power fails, and the letter is open again.
TEST(PartitionRetentionTest, ALetterIsKeptUntilItIsDurableThatItIsClosed) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), "", 9'000).ok());
  RejectAll(rig);
  const std::vector<DeliveryId> letters = Letters(rig);
  ASSERT_EQ(letters.size(), 12u);
  for (const DeliveryId& id : letters) Discard(rig, id);
  rig.clock.Advance(2 * kASecond);  // housekeeping is in the same turn
  while (rig.owner.RunUntilIdle() + rig.engine.RunUntilIdle() > 0) {
  }
  ASSERT_TRUE(rig.Restart(Coins::kAll).ok());
  const std::vector<DeliveryId> open = Letters(rig);
  ASSERT_EQ(open.size(), 12u) << "the closing was not written";
  int read = 0;
  for (const DeliveryId& id : open) {
    rig.shards->Post(PartitionId(0), [&, id](Partition& partition) {
      partition.ReadLetter(id, [&](absl::StatusOr<Letter> letter) {
        EXPECT_TRUE(letter.ok()) << letter.status();
        ++read;
      });
    });
  }
  rig.Run();
  EXPECT_EQ(read, 12);
}

// The danger: what waited for room closes a delivery of the trigger's next queue, where it is
// pending.
TEST(PartitionRetentionTest, ADeathThatWaitsForRoomEndsWithItsQueue) {
  PartitionRig rig;
  rig.partition_options.letters_bytes = 2 * rig.journal_options.letter_segment_bytes;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), "", 9'000).ok());
  RejectAll(rig);
  ASSERT_TRUE(rig.Warned("T0308"));
  const TriggerSpec all = rig.triggers[0];
  const std::uint64_t waiting = rig.Books().pending;
  ASSERT_GT(waiting, 0u);
  rig.triggers.clear();
  rig.filters.clear();
  rig.Reload();
  rig.triggers.push_back(all);
  rig.filters.push_back(nullptr);
  rig.Reload();
  for (const DeliveryId& id : Letters(rig)) Discard(rig, id);
  for (int i = 0; i < 5; ++i) rig.Advance(kASecond);
  EXPECT_EQ(rig.DrainAll().size(), waiting);
  EXPECT_EQ(rig.Books().pending, 0u);
}

// The danger: together they are larger than a segment of the dead log, so that what would write
// them is refused for ever.
TEST(PartitionRetentionTest, ManyLargeLettersAtOnceAreWrittenPieceByPiece) {
  PartitionRig rig;
  rig.journal_options.segment_bytes = 8 << 20;
  rig.journal_options.batch_bytes_max = 4 << 20;
  rig.journal_options.letter_segment_bytes = 2 << 20;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  for (int i = 0; i < 9; ++i) ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), "", 900'000).ok());
  rig.Run();
  ASSERT_EQ(rig.worker->held.size(), 9u);
  while (!rig.worker->held.empty()) rig.Answer(Reject{"no"});
  rig.Run();
  EXPECT_EQ(Letters(rig).size(), 9u);
  EXPECT_FALSE(rig.Warned("T0301"));
  EXPECT_TRUE(rig.Publish("next").ok());
}

absl::Status FeedUndecodable(PartitionRig& rig, int count) {
  LaneBatch batch;
  batch.lane = {"lane", "0"};
  for (int i = 0; i < count; ++i) batch.undecodable.push_back({"?", "no event"});
  absl::Status answer = absl::UnknownError("not answered");
  batch.done = [&answer](const absl::Status& status) { answer = status; };
  EXPECT_TRUE(rig.shards->TryAppendLane(PartitionId(0), batch).ok());
  rig.Run();
  return answer;
}

// The danger: each looks at all before it, and a file of such records takes hours.
TEST(PartitionRetentionTest, AnUndecodableRecordCostsTheSameHoweverManyWereBefore) {
  constexpr int kRecords = 20'000;
  PartitionRig rig;
  rig.journal_options.batch_bytes_max = 256 * 1024;
  rig.journal_options.segment_bytes = 1024 * 1024;
  rig.journal_options.letter_segment_bytes = 1024 * 1024;
  ASSERT_TRUE(rig.Start().ok());
  const std::clock_t begun = std::clock();
  for (int i = 0; i < kRecords; i += 100) ASSERT_EQ(FeedUndecodable(rig, 100), absl::OkStatus());
  const double seconds = static_cast<double>(std::clock() - begun) / CLOCKS_PER_SEC;
  EXPECT_LT(seconds, 5) << "of the processor";
  // Behind the last, not in the first place that is free: an id is not used again meanwhile.
  const auto letters = [&rig] {
    std::vector<LetterSummary> open;
    rig.shards->Post(PartitionId(0),
                     [&open](Partition& partition) { open = partition.OpenLetters(); });
    rig.Run();
    return open;
  };
  const std::vector<LetterSummary> before = letters();
  ASSERT_EQ(before.size(), static_cast<std::size_t>(kRecords));
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    partition.Discard(before[1].id, [](const absl::Status& status) { EXPECT_TRUE(status.ok()); });
  });
  rig.Run();
  ASSERT_EQ(FeedUndecodable(rig, 1), absl::OkStatus());
  EXPECT_EQ(letters().back().id.run, before.back().id.run + 1);
}

}  // namespace
}  // namespace tocsin
