// What a flipped bit of the log costs a partition: what its batch said and nothing else.

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "broker/journal/batch_header.h"
#include "broker/journal/segment.h"
#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

// The n-th batch of the log, from its end if negative.
BatchHeader FindBatch(const PartitionRig& rig, int n, std::string* segment) {
  std::vector<std::pair<std::string, BatchHeader>> all;
  for (const std::string& path : rig.fs.Paths()) {
    if (!path.starts_with("log/") || !path.ends_with(".seg")) continue;
    const std::uint64_t first = *ParseSegmentName(path.substr(4));
    for (const BatchHeader& header : ScanSegment(rig.fs.Bytes(path), first).batches) {
      all.emplace_back(path, header);
    }
  }
  const auto& [path, header] =
      all.at(static_cast<std::size_t>(n < 0 ? static_cast<int>(all.size()) + n : n));
  *segment = path;
  return header;
}

void FlipInBody(PartitionRig& rig, int n) {
  std::string path;
  const BatchHeader header = FindBatch(rig, n, &path);
  ASSERT_GT(header.body_bytes, 0u);
  rig.fs.FlipBit(path,
                 header.log_position - *ParseSegmentName(path.substr(4)) + kBatchHeaderBytes +
                     header.body_bytes / 2,
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
