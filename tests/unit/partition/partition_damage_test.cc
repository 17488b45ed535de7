// What a flipped bit of the log costs a partition: what its batch said and nothing else.

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "broker/base/crc32c.h"
#include "broker/journal/batch_header.h"
#include "broker/journal/segment.h"
#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

// The n-th batch of the log (or of `dir`), from its end if negative.
BatchHeader FindBatch(const PartitionRig& rig, int n, std::string* segment,
                      const std::string& dir = "log/") {
  std::vector<std::pair<std::string, BatchHeader>> all;
  for (const std::string& path : rig.fs.Paths()) {
    if (!path.starts_with(dir) || !path.ends_with(".seg")) continue;
    const std::uint64_t first = *ParseSegmentName(path.substr(dir.size()));
    for (const BatchHeader& header : ScanSegment(rig.fs.Bytes(path), first).batches) {
      all.emplace_back(path, header);
    }
  }
  const auto& [path, header] =
      all.at(static_cast<std::size_t>(n < 0 ? static_cast<int>(all.size()) + n : n));
  *segment = path;
  return header;
}

void FlipInBody(PartitionRig& rig, int n, const std::string& dir = "log/") {
  std::string path;
  const BatchHeader header = FindBatch(rig, n, &path, dir);
  ASSERT_GT(header.body_bytes, 0u);
  rig.fs.FlipBit(path,
                 header.log_position - *ParseSegmentName(path.substr(dir.size())) +
                     kBatchHeaderBytes + header.body_bytes / 2,
                 3);
}

void FlipInHeader(PartitionRig& rig, int n) {
  std::string path;
  const BatchHeader header = FindBatch(rig, n, &path);
  rig.fs.FlipBit(path, header.log_position - *ParseSegmentName(path.substr(4)) + 9, 3);
}

// Appends a batch behind the last one, so that that is no torn end of the log but was synced.
void AppendAnother(PartitionRig& rig) {
  TriggerSpec& spec = rig.triggers.front();
  spec.config_hash += "'";
  rig.Reload();
}

class LastBatchTest : public testing::TestWithParam<bool> {};

TEST_P(LastBatchTest, F7OffsetsOfADamagedBatchAreNotGivenOutAgain) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("lost").ok());
  AppendAnother(rig);
  AppendAnother(rig);
  rig.Kill();
  GetParam() ? FlipInHeader(rig, -3) : FlipInBody(rig, -3);
  ASSERT_TRUE(rig.Restart().ok());
  EXPECT_TRUE(rig.Warned("T0311"));
  ASSERT_TRUE(rig.Publish("later").ok());
  EXPECT_TRUE(rig.failure.ok()) << rig.failure;
  RigWorker& worker = rig.Attach();
  ASSERT_EQ(worker.held.size(), 1u);
  EXPECT_EQ(worker.held.front().event, "later");
  EXPECT_NE(worker.held.front().delivery, "0/0/0/0") << "that was the lost event's";
  (void)rig.DrainAll();
  EXPECT_EQ(rig.Books().pending, 0u);
}

INSTANTIATE_TEST_SUITE_P(Damage, LastBatchTest, testing::Bool(),
                         [](const auto& one) { return one.param ? "InTheHeader" : "InTheBody"; });

TEST(PartitionDamageTest, F7ATriggerWhoseDefinitionIsLostIsGivenTheEventsSince) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("a").ok());
  ASSERT_TRUE(rig.Publish("b").ok());
  ASSERT_TRUE(rig.Publish("c").ok());
  rig.Kill();
  FlipInBody(rig, 1);  // behind the opening: what defined 'all'
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  std::vector<std::string> delivered = rig.DrainAll();
  std::sort(delivered.begin(), delivered.end());
  EXPECT_EQ(delivered, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(rig.Books().pending, 0u);
  // It is over with: the next start knows.
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  EXPECT_TRUE(rig.DrainAll().empty());
}

TEST(PartitionDamageTest, F7ADefinitionThatIsLostAndCameAgainHasWhatItMatchedBefore) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("a").ok());
  AppendAnother(rig);  // defines it again
  ASSERT_TRUE(rig.Publish("b").ok());
  AppendAnother(rig);
  rig.Kill();
  FlipInBody(rig, 1);
  ASSERT_TRUE(rig.Restart().ok());
  RigWorker& worker = rig.Attach();
  std::set<std::string> deliveries;
  for (const RigWorker::Held& held : worker.held) deliveries.insert(held.delivery);
  EXPECT_EQ(deliveries, (std::set<std::string>{"0/0/0/0", "0/1/0/0"})) << "their first runs";
  EXPECT_EQ(rig.DrainAll().size(), 2u);
}

std::vector<LetterSummary> OpenLetters(PartitionRig& rig) {
  std::vector<LetterSummary> letters;
  rig.shards->Post(PartitionId(0),
                   [&](Partition& partition) { letters = partition.OpenLetters(); });
  rig.Run();
  return letters;
}

absl::Status Redrive(PartitionRig& rig, const DeliveryId& id) {
  absl::Status answer = absl::UnknownError("not answered");
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    partition.Redrive(id, [&answer](const absl::Status& status) { answer = status; });
  });
  rig.Run();
  return answer;
}

absl::Status ReadLetter(PartitionRig& rig, const DeliveryId& id) {
  absl::Status answer = absl::UnknownError("not answered");
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    partition.ReadLetter(
        id, [&answer](const absl::StatusOr<Letter>& letter) { answer = letter.status(); });
  });
  rig.Run();
  return answer;
}

void Die(PartitionRig& rig, const std::string& event, std::size_t bytes = 10) {
  ASSERT_TRUE(rig.Publish(event, "", bytes).ok());
  rig.Answer(Reject{"never"});
  rig.Run();
}

// The danger: another letter is written where it was, and is redriven instead of it.
TEST(PartitionDamageTest, F7ALostLetterIsNotTheOneThatIsWrittenInItsPlace) {
  PartitionRig rig;
  rig.partition_options.checkpoint_every = std::chrono::seconds(1);
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  Die(rig, "a");
  for (int i = 0; i < 3; ++i) rig.Advance(std::chrono::seconds(1));  // a checkpoint
  const std::vector<LetterSummary> before = OpenLetters(rig);
  ASSERT_EQ(before.size(), 1u);
  rig.Kill();
  FlipInBody(rig, -1, "dead/");
  ASSERT_TRUE(rig.Restart().ok());
  EXPECT_TRUE(rig.Warned("T0311"));
  rig.Attach();
  Die(rig, "b");
  const std::vector<LetterSummary> letters = OpenLetters(rig);
  ASSERT_EQ(letters.size(), 2u);
  ASSERT_EQ(letters[0].id, before[0].id);
  ASSERT_EQ(letters[1].position, before[0].position) << "in its place";
  EXPECT_EQ(ReadLetter(rig, letters[0].id).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Redrive(rig, letters[0].id).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(rig.DrainAll().empty());
  EXPECT_EQ(OpenLetters(rig).size(), 2u);
  EXPECT_EQ(Redrive(rig, letters[1].id), absl::OkStatus());
  EXPECT_EQ(rig.DrainAll(), std::vector<std::string>{"b"});
}

// The danger: a place that never comes is waited for, by a redrive and by what makes room.
TEST(PartitionDamageTest, F7ALetterThatWasLostBeforeACheckpointIsNotWaitedFor) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  Die(rig, "a");
  rig.Kill();
  FlipInBody(rig, -1, "dead/");
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  for (int i = 0; i < 10; ++i) Die(rig, fmt::format("e{}", i), 9'000);
  const std::vector<LetterSummary> letters = OpenLetters(rig);
  ASSERT_EQ(letters.size(), 11u);
  const absl::Status redriven = Redrive(rig, letters[0].id);
  EXPECT_EQ(redriven.code(), absl::StatusCode::kDataLoss) << redriven;
  const std::uint64_t full = rig.journal->letter_bytes();
  ASSERT_GT(full, 90'000u);
  const auto discard = [&](std::size_t n) {
    rig.shards->Post(PartitionId(0), [&](Partition& partition) {
      partition.Discard(letters[n].id,
                        [](const absl::Status& status) { EXPECT_TRUE(status.ok()); });
    });
    rig.Run();
  };
  for (std::size_t n = 1; n < letters.size(); ++n) discard(n);
  for (int i = 0; i < 3; ++i) rig.Advance(std::chrono::seconds(1));
  EXPECT_LT(rig.journal->letter_bytes(), full / 2);
  discard(0);
  EXPECT_TRUE(OpenLetters(rig).empty());
}

// A disk may also write a sector where another one belongs.
TEST(PartitionDamageTest, F7WhatIsReadOfALetterMustBeThatLetter) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  Die(rig, "a");
  Die(rig, "b");
  std::string path;
  BatchHeader first = FindBatch(rig, 0, &path, "dead/");
  const BatchHeader second = FindBatch(rig, 1, &path, "dead/");
  ASSERT_EQ(first.body_bytes, second.body_bytes);
  const std::uint64_t begin = *ParseSegmentName(path.substr(5));
  const std::string body =
      rig.fs.Bytes(path).substr(second.log_position - begin + kBatchHeaderBytes, second.body_bytes);
  first.body_crc = Crc32c(AsBytes(body));
  std::string batch(kBatchHeaderBytes, '\0');
  EncodeBatchHeader(first, reinterpret_cast<std::byte*>(batch.data()));
  auto file = rig.fs.Open(path);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(WriteOne(**file, first.log_position - begin, batch + body).ok());
  const std::vector<LetterSummary> letters = OpenLetters(rig);
  ASSERT_EQ(letters.size(), 2u);
  EXPECT_EQ(ReadLetter(rig, letters[0].id).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Redrive(rig, letters[0].id).code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(rig.DrainAll().empty());
  EXPECT_EQ(ReadLetter(rig, letters[1].id), absl::OkStatus());
}

TEST(PartitionDamageTest, ParkedKeysLeaveRoomAmongThoseThatWaitInTheJournal) {
  PartitionRig rig;
  rig.partition_options.queues.entries_max = 8;
  rig.partition_options.queues.key_entries_max = 2;
  rig.partition_options.queues.skipped_keys_max = 4;
  rig.triggers[0].policy.on_exhausted = OnExhausted::kPark;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  // As many keys fail as would fill what the queue remembers, and events wait behind each.
  for (int key = 0; key < 4; ++key) {
    ASSERT_TRUE(rig.Publish(fmt::format("bad{}", key), fmt::format("k{}", key)).ok());
    rig.Answer(Reject{"never"});
    rig.Run();
  }
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), fmt::format("k{}", i % 4)).ok());
  }
  (void)rig.DrainAll();
  EXPECT_EQ(rig.Books().parked_keys, 2u);
  EXPECT_TRUE(rig.Warned("T0309"));
  // Redriven, then a crash: that the key may go on lies behind everything that waits.
  rig.shards->Post(PartitionId(0), [](Partition& partition) {
    for (const LetterSummary& letter : partition.OpenLetters()) {
      partition.Redrive(letter.id, [](const absl::Status& status) { EXPECT_TRUE(status.ok()); });
    }
  });
  rig.Run();
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  for (int i = 0; i < 5; ++i) {
    (void)rig.DrainAll();
    rig.Advance(std::chrono::seconds(1));
  }
  EXPECT_EQ(rig.Books().pending, 0u);
}

}  // namespace
}  // namespace tocsin
