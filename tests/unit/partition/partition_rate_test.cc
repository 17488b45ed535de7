// Deliveries of a trigger that has a rate: when they come, on one partition and on several.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
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

// The clock goes on, from timer to timer. Returns how many there were.
int GoOn(PartitionRig& rig, Duration span) {
  const Instant end = rig.clock.Monotonic() + span;
  int timers = 0;
  for (; rig.clock.Monotonic() < end; ++timers) {
    Instant next = end;
    for (const OneThreadExecutor* thread : {&rig.owner, &rig.committer, &rig.engine}) {
      if (const auto timer = thread->NextTimer()) next = std::min(next, *timer);
    }
    rig.Advance(next - rig.clock.Monotonic());
  }
  return timers;
}

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
    GoOn(rig, milliseconds(99));
    ASSERT_THAT(rig.worker->held, SizeIs(count));
    GoOn(rig, milliseconds(1));
    ASSERT_THAT(rig.worker->held, SizeIs(count + 1));
    if (count != 8) continue;
    std::map<char, int> by_partition;  // nine so far
    for (const RigWorker::Held& held : rig.worker->held) ++by_partition[held.delivery[0]];
    for (const char partition : {'0', '1', '2'}) EXPECT_GE(by_partition[partition], 2);
  }
  GoOn(rig, seconds(5));
  EXPECT_THAT(rig.worker->held, SizeIs(24)) << "each once";
}

// As little happens as while a backlog waits for a worker.
TEST(PartitionRateTest, WhatWaitsForARateWakesNobodyMeanwhile) {
  PartitionRig unserved;
  ASSERT_TRUE(unserved.Start().ok());
  PublishMany(unserved, 2);
  const int usual = GoOn(unserved, minutes(59));
  PartitionRig rig;
  rig.triggers[0].policy.rate = {1, hours(1)};
  ASSERT_TRUE(rig.Start().ok());
  PublishMany(rig, 3);
  rig.Attach();
  ASSERT_THAT(rig.worker->held, SizeIs(1));
  rig.Answer(Ack{});
  EXPECT_LE(GoOn(rig, minutes(59)), usual + usual / 10 + 5);
  EXPECT_THAT(rig.worker->held, SizeIs(0));
  GoOn(rig, minutes(1));
  EXPECT_THAT(rig.worker->held, SizeIs(1));
}

TEST(PartitionRateTest, AWorkerThatComesAndAPauseThatEndsPassNoRate) {
  PartitionRig rig;
  rig.triggers[0].policy.rate = {10};
  ASSERT_TRUE(rig.Start().ok());
  PublishMany(rig, 9);
  GoOn(rig, seconds(1));
  rig.Attach(2);
  RigWorker& first = *rig.worker;
  EXPECT_THAT(first.held, SizeIs(1));
  rig.Attach(100);
  GoOn(rig, milliseconds(50));
  const auto begun = [&] { return first.held.size() + rig.worker->held.size(); };
  EXPECT_EQ(begun(), 2u) << "one was kept, by the worker that was late";
  GoOn(rig, milliseconds(100));
  EXPECT_EQ(begun(), 3u);
  const auto pause = [&rig](bool paused) {
    rig.shards->Post(PartitionId(0), [paused](Partition& partition) {
      EXPECT_TRUE(partition.SetPaused("all", paused).ok());
    });
    rig.Run();
  };
  pause(true);
  GoOn(rig, seconds(1));
  EXPECT_EQ(begun(), 3u);
  EXPECT_FALSE(rig.dispatcher->Throttled("all"));
  pause(false);
  GoOn(rig, milliseconds(90));
  EXPECT_EQ(begun(), 5u) << "what is due and what was kept";
  GoOn(rig, milliseconds(20));
  EXPECT_EQ(begun(), 6u);
  EXPECT_TRUE(rig.dispatcher->Throttled("all"));
  GoOn(rig, seconds(2));
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
  GoOn(rig, milliseconds(499));
  EXPECT_THAT(rig.worker->held, SizeIs(1));
  GoOn(rig, milliseconds(1));
  EXPECT_THAT(rig.worker->held, SizeIs(2));
  rig.triggers[0].name = "new";
  rig.triggers[0].was = "all";
  rig.triggers[0].config_hash = "renamed";
  rig.Reload();
  GoOn(rig, milliseconds(499));
  EXPECT_THAT(rig.worker->held, SizeIs(2));
  GoOn(rig, milliseconds(1));
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
  GoOn(rig, seconds(59));
  EXPECT_THAT(rig.worker->held, SizeIs(0));
  GoOn(rig, seconds(1));
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
  GoOn(rig, milliseconds(900));
  EXPECT_THAT(rig.worker->held, SizeIs(0));
  GoOn(rig, milliseconds(100));
  EXPECT_THAT(rig.worker->held, SizeIs(1));
}

}  // namespace
}  // namespace tocsin
