// Deliveries of a trigger that has a rate: when they come, on one partition and on several.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <map>

#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::SizeIs;

void PublishMany(PartitionRig& rig, int count) {
  for (int i = 0; i < count; ++i) ASSERT_TRUE(rig.Publish(fmt::format("e{}", i)).ok());
}

// The danger: each partition keeps the rate for itself, or one has it alone.
TEST(PartitionRateTest, DeliveriesComeEvenlyOverAllPartitions) {
  PartitionRig rig;
  rig.journal_options.partitions = rig.partition_options.partitions = 3;
  rig.triggers[0].policy.rate = {10};
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach(100);
  for (int i = 0; i < 24; ++i) {
    rig.publish_to = PartitionId(static_cast<std::uint32_t>(i % 3));
    ASSERT_TRUE(rig.Publish(fmt::format("e{}", i)).ok());
  }
  EXPECT_THAT(rig.worker->held, SizeIs(1));
  for (std::size_t count = 1; count < 24; ++count) {
    rig.GoOn(milliseconds(99));
    ASSERT_THAT(rig.worker->held, SizeIs(count));
    rig.GoOn(milliseconds(1));
    ASSERT_THAT(rig.worker->held, SizeIs(count + 1));
    if (count != 8) continue;
    std::map<char, int> by_partition;  // nine so far
    for (const RigWorker::Held& held : rig.worker->held) ++by_partition[held.delivery[0]];
    for (const char partition : {'0', '1', '2'}) EXPECT_GE(by_partition[partition], 2);
  }
  rig.GoOn(seconds(5));
  EXPECT_THAT(rig.worker->held, SizeIs(24)) << "each once";
}

// As little happens as while a backlog waits for a worker.
TEST(PartitionRateTest, WhatWaitsForARateWakesNobodyMeanwhile) {
  PartitionRig unserved;
  ASSERT_TRUE(unserved.Start().ok());
  PublishMany(unserved, 2);
  const int usual = unserved.GoOn(minutes(59));
  PartitionRig rig;
  rig.triggers[0].policy.rate = {1, hours(1)};
  ASSERT_TRUE(rig.Start().ok());
  PublishMany(rig, 3);
  rig.Attach();
  ASSERT_THAT(rig.worker->held, SizeIs(1));
  rig.Answer(Ack{});
  EXPECT_LE(rig.GoOn(minutes(59)), usual + usual / 10 + 5);
  EXPECT_THAT(rig.worker->held, SizeIs(0));
  rig.GoOn(minutes(1));
  EXPECT_THAT(rig.worker->held, SizeIs(1));
}

TEST(PartitionRateTest, AWorkerThatComesAndAPauseThatEndsPassNoRate) {
  PartitionRig rig;
  rig.triggers[0].policy.rate = {10};
  ASSERT_TRUE(rig.Start().ok());
  PublishMany(rig, 9);
  rig.GoOn(seconds(1));
  rig.Attach(2);
  RigWorker& first = *rig.worker;
  EXPECT_THAT(first.held, SizeIs(1));
  rig.Attach(100);
  rig.GoOn(milliseconds(50));
  const auto begun = [&] { return first.held.size() + rig.worker->held.size(); };
  EXPECT_EQ(begun(), 1u) << "another worker brings no other rate";
  rig.GoOn(milliseconds(100));
  EXPECT_EQ(begun(), 2u);
  const auto pause = [&rig](bool paused) {
    rig.shards->Post(PartitionId(0), [paused](Partition& partition) {
      EXPECT_TRUE(partition.SetPaused("all", paused).ok());
    });
    rig.Run();
  };
  pause(true);
  rig.GoOn(seconds(1));
  EXPECT_EQ(begun(), 2u);
  EXPECT_FALSE(rig.dispatcher->Throttled("all"));
  pause(false);
  rig.GoOn(milliseconds(90));
  EXPECT_EQ(begun(), 4u) << "what is due and what was kept";
  rig.GoOn(milliseconds(20));
  EXPECT_EQ(begun(), 5u);
  EXPECT_TRUE(rig.dispatcher->Throttled("all"));
  rig.GoOn(seconds(2));
  EXPECT_EQ(begun(), 9u);
}

TEST(PartitionRateTest, AnotherRateAndAnotherNameGoOnWithWhatIsLeft) {
  PartitionRig rig;
  rig.triggers[0].policy.rate = {10};
  ASSERT_TRUE(rig.Start().ok());
  PublishMany(rig, 6);
  rig.Attach();
  EXPECT_THAT(rig.worker->held, SizeIs(1));
  rig.triggers[0].policy.rate = {2};
  rig.triggers[0].config_hash = "slower";
  rig.Reload();
  rig.GoOn(milliseconds(499));
  EXPECT_THAT(rig.worker->held, SizeIs(1));
  rig.GoOn(milliseconds(1));
  EXPECT_THAT(rig.worker->held, SizeIs(2));
  rig.triggers[0].name = "new";
  rig.triggers[0].was = "all";
  rig.triggers[0].config_hash = "renamed";
  rig.Reload();
  rig.GoOn(milliseconds(499));
  EXPECT_THAT(rig.worker->held, SizeIs(2));
  rig.GoOn(milliseconds(1));
  EXPECT_THAT(rig.worker->held, SizeIs(3));
  rig.triggers[0].policy.rate = {};
  rig.triggers[0].config_hash = "unlimited";
  rig.Reload();
  EXPECT_THAT(rig.worker->held, SizeIs(6));
}

TEST(PartitionRateTest, ATriggerThatLeavesWaitsNoMoreAndComesBackWithWhatItHadLeft) {
  PartitionRig rig;
  rig.triggers[0].policy.rate = {1, minutes(1)};
  ASSERT_TRUE(rig.Start().ok());
  PublishMany(rig, 3);
  rig.Attach();
  ASSERT_THAT(rig.worker->held, SizeIs(1));
  rig.Answer(Ack{});
  rig.Run();
  EXPECT_TRUE(rig.dispatcher->Throttled("all"));
  const std::vector<TriggerSpec> all = std::exchange(rig.triggers, {});
  rig.Reload();
  EXPECT_FALSE(rig.dispatcher->Throttled("all"));
  rig.triggers = all;
  rig.Reload();
  rig.GoOn(seconds(59));
  EXPECT_THAT(rig.worker->held, SizeIs(0));
  rig.GoOn(seconds(1));
  EXPECT_THAT(rig.worker->held, SizeIs(1));
}

// A repeated attempt begins, too; what a worker never got does not.
TEST(PartitionRateTest, RepeatsCountAndWhatWasNotSentDoesNot) {
  PartitionRig rig;
  rig.partition_options.cache_bytes_max = 1;
  rig.triggers[0].policy.rate = {1};
  rig.triggers[0].policy.retry.backoff = milliseconds(10);
  rig.triggers[0].policy.retry.jitter = Jitter::kNone;
  ASSERT_TRUE(rig.Start().ok());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), "", 1000).ok());
  }
  rig.BeginAttach(10);
  rig.owner.RunUntilIdle();  // granted; the disk is asked for the event
  rig.dispatcher->Detach(rig.worker->session, true);
  rig.Run();
  EXPECT_THAT(rig.worker->held, SizeIs(0)) << "memory has only what came last";
  rig.Attach(10);
  ASSERT_THAT(rig.worker->held, SizeIs(1)) << "at once";
  rig.Answer(Retry{"flaky", "again", std::nullopt});
  rig.GoOn(milliseconds(900));
  EXPECT_THAT(rig.worker->held, SizeIs(0));
  rig.GoOn(milliseconds(100));
  EXPECT_THAT(rig.worker->held, SizeIs(1));
}

}  // namespace
}  // namespace tocsin
