// What a trigger's rate and batches let the Dispatcher grant, and when.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "dispatch/dispatcher.h"
#include "tests/unit/dispatch/dispatcher_fixture.h"

namespace tocsin {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class DispatcherLimitsTest : public DispatcherFixture {};

TEST_F(DispatcherLimitsTest, ARateIsOfTheWholeProcessAndSomebodyComesAgainForIt) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", {0, {10}});
  const Worker worker = Attach({"f"}, 100);
  EXPECT_EQ(Count(Exchange(0, {{trigger, 5, 0}})), 1u);
  EXPECT_EQ(again_, now_ + std::chrono::milliseconds(100));
  EXPECT_TRUE(dispatcher_.Throttled("t"));
  EXPECT_EQ(Count(Exchange(1, {{trigger, 5, 0}})), 0u);
  EXPECT_EQ(again_, std::nullopt) << "partition 0 comes for all";
  (void)Woken();
  now_ += std::chrono::milliseconds(99);
  EXPECT_EQ(Count(Exchange(0)), 0u);
  EXPECT_EQ(again_, now_ + std::chrono::milliseconds(1));
  now_ += std::chrono::milliseconds(1);
  EXPECT_EQ(Count(Exchange(0)), 1u) << "it waited longer";
  now_ += std::chrono::milliseconds(100);
  EXPECT_EQ(Count(Exchange(0)), 0u);
  EXPECT_THAT(Woken(), ::testing::Contains(1u));
  EXPECT_EQ(Count(Exchange(1)), 1u);
  // A second of nothing is not a second's worth at once.
  now_ += std::chrono::seconds(1);
  EXPECT_EQ(Count(Exchange(0)) + Count(Exchange(1)), 1u);
  dispatcher_.SetTrigger("t", "f", {0, {}});
  EXPECT_EQ(Count(Exchange(0)) + Count(Exchange(1)), 6u);
  EXPECT_FALSE(dispatcher_.Throttled("t"));
}

TEST_F(DispatcherLimitsTest, WhoComesAgainForARateComesForTheOthersToo) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", {0, {10}});
  const Worker worker = Attach({"f"}, 100);
  EXPECT_EQ(Count(Exchange(0, {{trigger, 5, 0}})), 1u);
  EXPECT_EQ(Count(Exchange(1, {{trigger, 5, 0}})), 0u);
  dispatcher_.Withdraw(PartitionId(0), trigger);
  (void)Woken();
  EXPECT_EQ(Count(Exchange(0)), 0u);
  EXPECT_EQ(again_, now_ + std::chrono::milliseconds(100));
  now_ += std::chrono::milliseconds(100);
  EXPECT_EQ(Count(Exchange(0)), 0u);
  EXPECT_EQ(again_, std::nullopt);
  EXPECT_THAT(Woken(), ElementsAre(1));
  EXPECT_EQ(Count(Exchange(1)), 1u);
  EXPECT_NE(again_, std::nullopt);
  EXPECT_THAT(Exchange(1, {{trigger, 0, 0}}), IsEmpty());
  EXPECT_EQ(again_, std::nullopt) << "nobody waits any more";
  EXPECT_FALSE(dispatcher_.Throttled("t"));
}

TEST_F(DispatcherLimitsTest, WhatIsWithdrawnWaitsForNoRate) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", {0, {10}});
  const Worker worker = Attach({"f"}, 100);
  EXPECT_EQ(Count(Exchange(0, {{trigger, 5, 0}})), 1u);
  ASSERT_TRUE(dispatcher_.Throttled("t"));
  dispatcher_.Withdraw(PartitionId(0), trigger);
  EXPECT_FALSE(dispatcher_.Throttled("t"));
  EXPECT_THAT(Exchange(0), IsEmpty());
  EXPECT_EQ(again_, std::nullopt);
  // Ready again, as after a pause: what it used counts still.
  EXPECT_THAT(Exchange(0, {{trigger, 4, 0}}), IsEmpty());
  EXPECT_EQ(again_, now_ + std::chrono::milliseconds(100));
}

TEST_F(DispatcherLimitsTest, AnotherRateAndAnotherNameGoOnWithWhatIsLeft) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", {0, {10}});
  const Worker worker = Attach({"f"}, 100);
  EXPECT_EQ(Count(Exchange(0, {{trigger, 5, 0}})), 1u);
  (void)Woken();
  EXPECT_EQ(dispatcher_.SetTrigger("t", "f", {0, {5}}), trigger);
  EXPECT_THAT(Woken(), ElementsAre(0)) << "it is to come at another time";
  EXPECT_THAT(Exchange(0), IsEmpty());
  EXPECT_EQ(again_, now_ + std::chrono::milliseconds(200));
  EXPECT_EQ(dispatcher_.SetTrigger("new", "f", {0, {5}}, "t"), trigger);
  EXPECT_TRUE(dispatcher_.Throttled("new"));
  EXPECT_FALSE(dispatcher_.Throttled("t"));
  EXPECT_THAT(Exchange(0, {{trigger, 4, 0}}), IsEmpty());
  now_ += std::chrono::milliseconds(200);
  EXPECT_EQ(Count(Exchange(0)), 1u);
}

TEST_F(DispatcherLimitsTest, AWorkerThatComesWhileTheRateIsUsedUpWakesNobody) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", {0, {10}});
  const Worker worker = Attach({"f"}, 100);
  EXPECT_EQ(Count(Exchange(0, {{trigger, 5, 0}})), 1u);
  (void)Woken();
  Attach({"f"}, 100);
  EXPECT_THAT(Woken(), IsEmpty());
  EXPECT_THAT(Exchange(0, {{trigger, 6, 0}}), IsEmpty());
  // Without a worker, time passes for nobody.
  const TriggerNumber unserved = dispatcher_.SetTrigger("u", "g", {0, {10}});
  EXPECT_THAT(Exchange(1, {{unserved, 5, 0}}), IsEmpty());
  EXPECT_EQ(again_, std::nullopt);
  EXPECT_FALSE(dispatcher_.Throttled("u"));
}

TEST_F(DispatcherLimitsTest, WhatWasGrantedAndNotSentDoesNotCountForTheRate) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", {0, {10}});
  const Worker worker = Attach({"f"}, 100);
  std::vector<Grant> grants = Exchange(0, {{trigger, 5, 0}});
  ASSERT_EQ(Count(grants), 1u);
  dispatcher_.Release(grants[0], 1, grants[0].bytes);
  EXPECT_FALSE(dispatcher_.Throttled("t"));
  grants = Exchange(0, {{trigger, 5, 0}});
  ASSERT_EQ(Count(grants), 1u);
  dispatcher_.Detach(worker.session, true);
  std::vector<OutgoingDelivery> deliveries(1);
  EXPECT_FALSE(grants[0].session->Deliver(grants[0], PartitionId(0), deliveries));
  Attach({"f"}, 100);
  EXPECT_EQ(Count(Exchange(0, {{trigger, 5, 0}})), 1u);
}

TEST_F(DispatcherLimitsTest, NoSessionIsKeptEmptyForOneThatItsRateKeepsBack) {
  const TriggerNumber slow = dispatcher_.SetTrigger("slow", "f", {0, {1}});
  const TriggerNumber other = dispatcher_.SetTrigger("other", "f", 0);
  const Worker a = Attach({"f"}, 2);
  const Worker b = Attach({"f"}, 4);
  DeliverAll(Exchange(0, {{other, 2, 0}}), 0);  // one each
  EXPECT_THAT(Exchange(0, {{slow, 0, 1}}), IsEmpty()) << "a is being emptied for it";
  std::vector<Grant> grants = Exchange(1, {{slow, 1, 0}});
  ASSERT_THAT(grants, SizeIs(1));
  EXPECT_EQ(grants[0].session, b.session);
  DeliverAll(grants, 1);
  EXPECT_EQ(AckRange(a, 1, 1), 0u);
  EXPECT_THAT(Woken(), ::testing::Contains(0u));
  EXPECT_THAT(Exchange(0), IsEmpty());
  EXPECT_EQ(again_, now_ + std::chrono::seconds(1));
  grants = Exchange(1, {{other, 9, 0}});
  EXPECT_EQ(Count(grants), 4u) << "two of them a's";
  DeliverAll(grants, 1);
  now_ += std::chrono::seconds(1);
  EXPECT_THAT(Exchange(0), IsEmpty());
  EXPECT_EQ(AckRange(a, 2, 3), 0u);
  grants = Exchange(0);
  ASSERT_THAT(grants, SizeIs(1));
  EXPECT_TRUE(grants[0].alone);
}

TEST_F(DispatcherLimitsTest, ABatchGoesToOneSessionWhoeverElseWaits) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", {0, {}, 10});
  for (std::uint32_t p = 0; p < 4; ++p) EXPECT_THAT(Exchange(p, {{trigger, 10, 0}}), IsEmpty());
  const Worker worker = Attach({"f"}, 12);
  std::vector<Grant> grants = Exchange(0);
  ASSERT_THAT(grants, SizeIs(1));
  EXPECT_EQ(grants[0].count, 10u) << "more than its share";
  EXPECT_EQ(Count(Exchange(1)), 2u) << "as far as the credit goes";
  const TriggerNumber other = dispatcher_.SetTrigger("o", "g", {15, {}, 10});
  Attach({"g"}, 100);
  Attach({"g"}, 100);
  grants = Exchange(0, {{other, 20, 0}});
  ASSERT_THAT(grants, SizeIs(2));
  EXPECT_EQ(grants[0].count, 10u);
  EXPECT_EQ(grants[1].count, 5u) << "the concurrency";
  EXPECT_NE(grants[0].session, grants[1].session);
}

TEST_F(DispatcherLimitsTest, ABatchIsNotTornForTheRate) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", {0, {10}, 10});
  const Worker worker = Attach({"f"}, 100);
  EXPECT_EQ(Count(Exchange(0, {{trigger, 25, 0}})), 10u);
  EXPECT_EQ(again_, now_ + std::chrono::seconds(1));
  now_ += std::chrono::seconds(1);
  EXPECT_EQ(Count(Exchange(0)), 10u);
  now_ += std::chrono::seconds(1);
  EXPECT_EQ(Count(Exchange(0)), 5u);
}

}  // namespace
}  // namespace tocsin
