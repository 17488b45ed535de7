// Deliveries of a trigger that has batches: which come together, and when.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::SizeIs;

class PartitionBatchTest : public ::testing::Test {
 protected:
  PartitionBatchTest() { rig_.triggers[0].policy.batch = {4, seconds(1)}; }
  void Publish(int count) {
    for (int i = 0; i < count; ++i) {
      ASSERT_TRUE(rig_.Publish(fmt::format("e{}", published_++)).ok());
    }
  }

  PartitionRig rig_;
  int published_ = 0;
};

TEST_F(PartitionBatchTest, WholeOnesGoAtOnceAndWhatIsLessAfterItsWait) {
  ASSERT_TRUE(rig_.Start().ok());
  rig_.Attach(100);
  Publish(3);
  rig_.GoOn(milliseconds(500));
  EXPECT_THAT(rig_.worker->held, SizeIs(0));
  Publish(1);
  EXPECT_THAT(rig_.worker->together, ElementsAre(4));
  Publish(5);
  EXPECT_THAT(rig_.worker->together, ElementsAre(4, 4));
  rig_.GoOn(milliseconds(999));
  EXPECT_THAT(rig_.worker->together, ElementsAre(4, 4));
  rig_.GoOn(milliseconds(1));
  EXPECT_THAT(rig_.worker->together, ElementsAre(4, 4, 1));
  rig_.GoOn(seconds(5));
  EXPECT_THAT(rig_.worker->held, SizeIs(9)) << "each once";
}

// The danger: time counts from when a worker comes, or every delivery waits again.
TEST_F(PartitionBatchTest, WhatHasWaitedGoesToAWorkerThatComesLate) {
  ASSERT_TRUE(rig_.Start().ok());
  Publish(3);
  rig_.GoOn(seconds(2));
  rig_.Attach(2);
  EXPECT_THAT(rig_.worker->together, ElementsAre(2)) << "as far as its credit goes";
  rig_.Answer(Ack{});
  rig_.Run();
  EXPECT_THAT(rig_.worker->together, ElementsAre(2, 1));
}

TEST_F(PartitionBatchTest, EachHasAnAnswerOfItsOwnAndARepeatGathersAgain) {
  rig_.triggers[0].policy.retry.backoff = milliseconds(10);
  rig_.triggers[0].policy.retry.jitter = Jitter::kNone;
  ASSERT_TRUE(rig_.Start().ok());
  rig_.Attach(100);
  Publish(4);
  ASSERT_THAT(rig_.worker->held, SizeIs(4));
  rig_.Answer(Retry{"flaky", "again", std::nullopt});
  for (int i = 0; i < 3; ++i) rig_.Answer(Ack{});
  rig_.Run();
  EXPECT_EQ(rig_.Books().acked, 3u);
  rig_.GoOn(milliseconds(1000));
  EXPECT_THAT(rig_.worker->held, SizeIs(0));
  rig_.GoOn(milliseconds(20));
  ASSERT_THAT(rig_.worker->held, SizeIs(1));
  EXPECT_EQ(rig_.worker->held.front().attempt, 2u);
  EXPECT_EQ(rig_.worker->held.front().event, "e0");
}

TEST_F(PartitionBatchTest, WithoutBatchesWhatWaitedGoesAtOnce) {
  ASSERT_TRUE(rig_.Start().ok());
  rig_.Attach(100);
  Publish(2);
  EXPECT_THAT(rig_.worker->held, SizeIs(0));
  rig_.triggers[0].policy.batch = {};
  rig_.triggers[0].config_hash = "alone";
  rig_.Reload();
  EXPECT_THAT(rig_.worker->held, SizeIs(2));
}

// The danger: what was offered and not taken is gathered anew each time, beside an idle worker.
TEST_F(PartitionBatchTest, WhatAWorkerHadNoCreditForDoesNotWaitAgain) {
  ASSERT_TRUE(rig_.Start().ok());
  rig_.Attach(1);
  Publish(4);
  for (int left = 4; left > 0; --left) {
    ASSERT_THAT(rig_.worker->held, SizeIs(1));
    rig_.Answer(Ack{});
    rig_.Run();
  }
  EXPECT_EQ(rig_.Books().acked, 4u);
}

// The danger: a batch is torn for the rate, or passes it for good.
TEST_F(PartitionBatchTest, ABatchGoesAsAWholeAndTheRateHoldsOverTime) {
  rig_.triggers[0].policy.rate = {2};
  ASSERT_TRUE(rig_.Start().ok());
  rig_.Attach(100);
  Publish(12);
  EXPECT_THAT(rig_.worker->together, ElementsAre(4));
  rig_.GoOn(milliseconds(1999));
  EXPECT_THAT(rig_.worker->together, ElementsAre(4));
  rig_.GoOn(milliseconds(1));
  EXPECT_THAT(rig_.worker->together, ElementsAre(4, 4));
  rig_.GoOn(milliseconds(2000));
  EXPECT_THAT(rig_.worker->together, ElementsAre(4, 4, 4));
}

}  // namespace
}  // namespace tocsin
