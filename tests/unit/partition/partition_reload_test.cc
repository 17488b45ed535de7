// A trigger that is detached and comes back while something of its former queue is under way.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

// Takes the trigger away and puts it back; nothing else runs meanwhile.
void DetachAndReturn(PartitionRig& rig) {
  const std::vector<TriggerSpec> all = std::exchange(rig.triggers, {});
  rig.shards->ApplyPlan(rig.MakePlan());
  rig.owner.RunUntilIdle();
  rig.triggers = all;
  rig.shards->ApplyPlan(rig.MakePlan());
  rig.owner.RunUntilIdle();
}

// The danger: what another partition forwards meets one that knows its log's end only in part.
TEST(PartitionReloadTest, WhatAnotherPartitionForwardsWaitsUntilThisOneIsRecovered) {
  PartitionRig rig;
  rig.journal_options.batch_bytes_max = 256 * 1024;  // room for a lane's batch
  rig.journal_options.segment_bytes = 512 * 1024;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("before").ok());
  rig.Kill();
  std::optional<absl::Status> opened;
  ASSERT_TRUE(rig.Begin(opened).ok());
  std::optional<absl::Status> forwarded;
  LaneBatch batch;
  batch.lane.source = fmt::format("{}1", kPartitionLanePrefix);
  batch.events.push_back(PartitionRig::MakeEvent("emitted", "k", 10));
  batch.position = "1";
  batch.done = [&forwarded](absl::Status status) { forwarded = std::move(status); };
  rig.shards->Forward(PartitionId(0), std::move(batch));
  std::optional<absl::Status> paused;
  rig.shards->Post(PartitionId(0),
                   [&paused](Partition& partition) { paused = partition.SetPaused("all", true); });
  rig.owner.RunUntilIdle();
  EXPECT_FALSE(opened.has_value()) << "nothing was read yet";
  EXPECT_EQ(paused, absl::UnavailableError("partition 0 is being recovered: try again"));
  rig.Run();
  EXPECT_EQ(opened, absl::OkStatus());
  EXPECT_EQ(forwarded, absl::OkStatus());
  EXPECT_EQ(rig.failure, absl::OkStatus());
  rig.Attach();
  EXPECT_THAT(rig.DrainAll(), UnorderedElementsAre("before", "emitted"));
}

TEST(PartitionReloadTest, AReadForALeaseOfAFormerQueueSendsNothing) {
  PartitionRig rig;
  rig.partition_options.cache_bytes_max = 1;
  ASSERT_TRUE(rig.Start().ok());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), fmt::format("k{}", i), 1000).ok());
  }
  rig.BeginAttach(10);
  rig.owner.RunUntilIdle();  // leased; the disk is asked for the events
  ASSERT_LE(rig.worker->held.size(), 1u) << "what memory still has";
  rig.worker->held.clear();
  DetachAndReturn(rig);
  rig.Run();
  EXPECT_THAT(rig.DrainAll(), UnorderedElementsAre("e0", "e1", "e2")) << "each once";
  EXPECT_EQ(rig.Books().acked, 3u);
  EXPECT_EQ(rig.Books().dead, 0u);
}

// Or a crash would begin its attempts anew: more of them than the policy allows.
TEST(PartitionReloadTest, AFormerQueuesFailureIsDurableBeforeItsDeliveryIsTriedAgain) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("e", "k").ok());
  rig.Attach(1);
  ASSERT_THAT(rig.worker->held, SizeIs(1));
  rig.Answer(Retry{"flaky", "again", Duration::zero()});
  rig.owner.RunUntilIdle();
  DetachAndReturn(rig);
  while (rig.engine.RunUntilIdle() + rig.owner.RunUntilIdle() > 0) {  // all but the committer
  }
  EXPECT_THAT(rig.worker->held, SizeIs(0));
  rig.Run();
  ASSERT_THAT(rig.worker->held, SizeIs(1));
  EXPECT_EQ(rig.worker->held.front().attempt, 2u);
}

// The danger: what a worker that just came is granted for the others is lost with the one that
// goes, its credit for good.
TEST(PartitionReloadTest, ATriggerThatLeavesTakesNoCreditOfTheOthers) {
  PartitionRig rig;
  rig.AddTrigger("leaving");
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("e", "k").ok());
  rig.BeginAttach(1);  // the partition is woken, and has not exchanged yet
  rig.triggers.pop_back();
  rig.Reload();
  ASSERT_THAT(rig.worker->held, SizeIs(1));
  EXPECT_EQ(rig.worker->held.front().trigger, "all");
}

// The danger: the dispatcher counts what waits and what is in flight for the former name.
TEST(PartitionReloadTest, ARenamedTriggerKeepsItsPlaceAndItsConcurrency) {
  PartitionRig rig;
  rig.triggers[0].policy.concurrency = 1;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach(10);
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(rig.Publish(id).ok());
  ASSERT_THAT(rig.worker->held, SizeIs(1));
  rig.triggers[0].was = "all";
  rig.triggers[0].name = "every";
  rig.triggers[0].config_hash = "every";
  rig.Reload();
  EXPECT_THAT(rig.worker->held, SizeIs(1)) << "two at once";
  rig.Answer(Ack{});
  rig.Run();
  ASSERT_THAT(rig.worker->held, SizeIs(1));
  // And with another function, whose worker waits.
  rig.triggers[0].was = "every";
  rig.triggers[0].name = "each";
  rig.triggers[0].policy.function = "other";
  rig.triggers[0].config_hash = "each";
  rig.Answer(Ack{});
  rig.Reload();
  const std::shared_ptr<RigWorker> before = rig.worker;
  SessionHello hello;
  hello.worker = "rig";
  hello.functions = {"other"};
  hello.credit.events = 10;
  rig.worker = rig.workers.emplace_back(std::make_shared<RigWorker>());
  rig.worker->session = rig.dispatcher->Attach(hello, rig.worker, rig.clock.Monotonic());
  rig.Run();
  EXPECT_EQ(before->held.size() + rig.worker->held.size(), 1u);
}

TEST(PartitionReloadTest, ARenamedTriggersBacklogGoesToItsNewFunctionAtOnce) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(rig.Publish(id).ok());
  SessionHello hello;
  hello.worker = "rig";
  hello.functions = {"other"};
  hello.credit.events = 10;
  rig.worker = rig.workers.emplace_back(std::make_shared<RigWorker>());
  rig.worker->session = rig.dispatcher->Attach(hello, rig.worker, rig.clock.Monotonic());
  rig.Run();
  rig.triggers[0].was = "all";
  rig.triggers[0].name = "every";
  rig.triggers[0].policy.function = "other";
  rig.triggers[0].config_hash = "every";
  rig.Reload();
  EXPECT_THAT(rig.DrainAll(), UnorderedElementsAre("a", "b", "c"));
}

// FAULTS F29: never moves another worker's event.
TEST(PartitionReloadTest, F29AnAnswerToAFormerQueuesLeaseIsStale) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("e", "k").ok());
  rig.Attach(1);
  const std::shared_ptr<RigWorker> former = rig.worker;
  ASSERT_THAT(former->held, SizeIs(1));
  DetachAndReturn(rig);
  rig.Attach(1);
  ASSERT_THAT(rig.worker->held, SizeIs(1)) << "its delivery is free for another";
  FrameAnswers late;
  late.acked.push_back({former->held.front().handle, former->held.front().handle});
  (void)former->session->OnAnswers(late, rig.clock.Monotonic(), nullptr);
  rig.Run();
  EXPECT_EQ(rig.Books().acked, 0u) << "settled by one who does not hold it";
  EXPECT_EQ(rig.Books().leased, 1u);
  EXPECT_EQ(rig.Snapshot().stale_answers, 1u);
  rig.Answer(Ack{});
  rig.Run();
  EXPECT_EQ(rig.Books().acked, 1u);
  former->session.reset();
}

TEST(PartitionReloadTest, AReadForAFormerQueuesScanDoesNotMoveTheNewOne) {
  PartitionRig rig;
  rig.partition_options.cache_bytes_max = 1;
  rig.journal_options.batch_bytes_max = 48 * 1024;
  ASSERT_TRUE(rig.Start().ok());
  constexpr int kEvents = 120;  // more than two reads of a scan
  std::vector<std::string> all;
  for (int i = 0; i < kEvents; ++i) {
    all.push_back(fmt::format("e{:03d}", i));
    ASSERT_TRUE(rig.Publish(all.back(), "k", 12'000).ok());
  }
  ASSERT_TRUE(rig.Restart().ok());
  DetachAndReturn(rig);  // a new queue, which scans from the start
  rig.committer.RunUntilIdle();
  rig.owner.RunUntilIdle();
  ASSERT_TRUE(rig.engine.RunOne());
  rig.owner.RunUntilIdle();  // the first read came, the second one is under way
  DetachAndReturn(rig);
  rig.committer.RunUntilIdle();
  rig.owner.RunUntilIdle();  // the new queue's scan has begun
  rig.Run();
  rig.Attach();
  EXPECT_EQ(rig.DrainAll(), all);
  EXPECT_EQ(rig.Books().pending, 0u);
}

}  // namespace
}  // namespace tocsin
