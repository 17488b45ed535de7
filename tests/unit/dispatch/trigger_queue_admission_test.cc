// The window of a TriggerQueue: skipping, falling behind, and the scans that bring events back.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/dispatch/queue_fixture.h"

namespace tocsin {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class TriggerQueueAdmissionTest : public QueueFixture {
 protected:
  TriggerQueueAdmissionTest() {
    limits_.entries_max = 8;
    limits_.key_entries_max = 2;
    limits_.skipped_keys_max = 3;
    limits_.spread_max = 64;
  }
  void AckNext(std::uint64_t offset) {
    const std::vector<Lease> leases = Take(1);
    ASSERT_THAT(leases, SizeIs(1));
    ASSERT_EQ(leases[0].candidate.offset, Offset(offset));
    ASSERT_EQ(Answer(leases[0], Ack{}), AnswerResult::kApplied);
  }
};

TEST_F(TriggerQueueAdmissionTest, F33AHotKeyIsSkippedAndOtherKeysGoOn) {
  Make();
  Admit(0, "hot");
  Admit(1, "hot");
  for (std::uint64_t i = 2; i < 20; ++i) EXPECT_EQ(Offer(i, "hot"), OfferResult::kSkipped);
  EXPECT_EQ(queue().skipped_count("hot"), 18u);
  EXPECT_EQ(queue().skipped_key_count(), 1u);
  Admit(20, "cold");
  Admit(21);
  EXPECT_THAT(TakeOffsets(), ElementsAre(0, 20, 21));
  EXPECT_FALSE(queue().behind());
  EXPECT_EQ(queue().ScanWanted(), std::nullopt);  // no room yet
}

TEST_F(TriggerQueueAdmissionTest, F33EachKeyGetsItsTurnWhileOneHasNineTenthsOfTheLoad) {
  limits_ = QueueLimits{};
  Make();
  std::uint64_t offset = 0;
  for (int round = 0; round < 100; ++round) {
    for (int i = 0; i < 9; ++i) {
      (void)Offer(offset++, "hot");
    }
    Admit(offset++, "cold" + std::to_string(round % 10));
  }
  // Eleven keys, one place each: the hot one is served as often as a cold one, not nine times.
  std::map<bool, int> served;
  for (int turn = 0; turn < 10; ++turn) {
    const std::vector<Lease> leases = Take(11);
    for (const Lease& lease : leases) {
      ++served[lease.candidate.offset.value() % 10 != 9];
      ASSERT_EQ(Answer(lease, Ack{}), AnswerResult::kApplied);
    }
  }
  EXPECT_EQ(served[true], 10);
  EXPECT_EQ(served[false], 100);
}

TEST_F(TriggerQueueAdmissionTest, AKeyWithRoomIsScannedFromItsFirstSkippedInOrder) {
  Make();
  for (std::uint64_t i = 0; i < 2; ++i) Admit(i, "a");
  for (std::uint64_t i = 2; i < 6; ++i) EXPECT_EQ(Offer(i, "a"), OfferResult::kSkipped);
  AckNext(0);
  ASSERT_EQ(queue().ScanWanted(), Offset(2));
  queue().BeginScan();
  EXPECT_EQ(queue().ScanWanted(), std::nullopt);
  EXPECT_EQ(Scanned(2, "a"), ScanResult::kStop);  // full again: nothing more to do
  queue().EndScan(Offset(2), Offset(6));
  EXPECT_EQ(queue().skipped_count("a"), 3u);
  AckNext(1);
  AckNext(2);
  EXPECT_EQ(queue().ScanWanted(), Offset(3));
  EXPECT_EQ(queue().Floor(Offset(6)), Offset(3));
}

TEST_F(TriggerQueueAdmissionTest, LiveOffersOfASkippedKeyAreCountedWhileAScanIsUnderWay) {
  Make();
  for (std::uint64_t i = 0; i < 2; ++i) Admit(i, "a");
  for (std::uint64_t i = 2; i < 4; ++i) EXPECT_EQ(Offer(i, "a"), OfferResult::kSkipped);
  AckNext(0);
  AckNext(1);
  ASSERT_EQ(queue().ScanWanted(), Offset(2));
  queue().BeginScan();
  EXPECT_EQ(Offer(4, "a"), OfferResult::kSkipped);  // 2 and 3 come first
  EXPECT_EQ(Scanned(2, "a"), ScanResult::kGoOn);
  EXPECT_EQ(Scanned(3, "a"), ScanResult::kStop);
  queue().EndScan(Offset(4), Offset(5));
  EXPECT_EQ(queue().skipped_count("a"), 1u);
  AckNext(2);
  ASSERT_EQ(queue().ScanWanted(), Offset(4));
  queue().BeginScan();
  EXPECT_EQ(Scanned(4, "a"), ScanResult::kStop);
  queue().EndScan(Offset(4), Offset(5));
  EXPECT_EQ(queue().skipped_key_count(), 0u);
  Admit(5, "b");
  AckNext(3);
  Admit(6, "a");
}

TEST_F(TriggerQueueAdmissionTest, AKeyThatGetsRoomBehindTheCursorWaitsForTheNextPass) {
  // If the pass under way admitted it, a later event would overtake the skipped one.
  Make();
  for (std::uint64_t i = 0; i < 2; ++i) Admit(i, "a");
  EXPECT_EQ(Offer(2, "a"), OfferResult::kSkipped);
  for (std::uint64_t i = 3; i < 5; ++i) Admit(i, "b");
  EXPECT_EQ(Offer(5, "b"), OfferResult::kSkipped);
  EXPECT_EQ(Offer(6, "a"), OfferResult::kSkipped);
  EXPECT_EQ(Offer(7, "b"), OfferResult::kSkipped);
  const std::vector<Lease> leases = Take(2);  // 0 and 3
  ASSERT_EQ(Answer(leases[1], Ack{}), AnswerResult::kApplied);
  ASSERT_EQ(queue().ScanWanted(), Offset(5));
  queue().BeginScan();
  EXPECT_EQ(Answer(leases[0], Ack{}), AnswerResult::kApplied);  // "a" has room, behind the cursor
  EXPECT_EQ(Scanned(6, "a"), ScanResult::kGoOn);
  EXPECT_EQ(queue().skipped_count("a"), 2u);
  queue().EndScan(Offset(7), Offset(8));
  EXPECT_EQ(queue().ScanWanted(), Offset(7));  // upwards first, then down to "a"
}

TEST_F(TriggerQueueAdmissionTest, AFullWindowFallsBehindAndCatchesUp) {
  Make();
  for (std::uint64_t i = 0; i < 8; ++i) Admit(i);
  EXPECT_EQ(Offer(8), OfferResult::kBehind);
  EXPECT_EQ(Offer(9), OfferResult::kBehind);
  EXPECT_TRUE(queue().behind());
  EXPECT_EQ(queue().ScanWanted(), std::nullopt);
  EXPECT_EQ(queue().Floor(Offset(10)), Offset(0));
  for (const Lease& lease : Take()) EXPECT_EQ(Answer(lease, Ack{}), AnswerResult::kApplied);
  EXPECT_EQ(queue().Floor(Offset(10)), Offset(8));
  ASSERT_EQ(queue().ScanWanted(), Offset(8));
  queue().BeginScan();
  EXPECT_EQ(Scanned(8), ScanResult::kGoOn);
  EXPECT_EQ(Offer(10), OfferResult::kBehind);  // durable meanwhile
  EXPECT_EQ(Scanned(9), ScanResult::kGoOn);
  queue().EndScan(Offset(10), Offset(10));
  EXPECT_TRUE(queue().behind()) << "10 was refused and must come by a scan";
  ASSERT_EQ(queue().ScanWanted(), Offset(10));
  queue().BeginScan();
  EXPECT_EQ(Scanned(10), ScanResult::kGoOn);
  queue().EndScan(Offset(11), Offset(11));
  EXPECT_FALSE(queue().behind());
  EXPECT_THAT(TakeOffsets(), ElementsAre(8, 9, 10));
}

TEST_F(TriggerQueueAdmissionTest, AnOfferThatAScanOvertookIsNotAdmittedTwice) {
  Make(0);
  ASSERT_EQ(queue().ScanWanted(), Offset(0));
  queue().BeginScan();
  EXPECT_EQ(Scanned(0, "a"), ScanResult::kGoOn);
  EXPECT_EQ(Scanned(1, "a"), ScanResult::kGoOn);
  EXPECT_EQ(Scanned(2, "a"), ScanResult::kGoOn);
  queue().EndScan(Offset(3), Offset(3));
  EXPECT_FALSE(queue().behind());
  AckNext(0);
  EXPECT_EQ(Offer(0, "a"), OfferResult::kAdmitted);
  EXPECT_EQ(Offer(1, "a"), OfferResult::kAdmitted);
  EXPECT_EQ(Offer(2, "a"), OfferResult::kSkipped);
  EXPECT_EQ(queue().entry_count(), 1u);
  EXPECT_EQ(queue().skipped_count("a"), 1u);
}

TEST_F(TriggerQueueAdmissionTest, AScanThatOvertakesTheLiveOffersLeavesTheEventsToThem) {
  Make();
  for (std::uint64_t i = 0; i < 2; ++i) Admit(i, "a");
  EXPECT_EQ(Offer(2, "a"), OfferResult::kSkipped);
  AckNext(0);
  AckNext(1);
  ASSERT_EQ(queue().ScanWanted(), Offset(2));
  queue().BeginScan();
  EXPECT_EQ(Scanned(3, "b"), ScanResult::kStop);
  queue().EndScan(Offset(4), Offset(4));
  Admit(3, "b");
  EXPECT_EQ(queue().entry_count(), 1u);
  EXPECT_EQ(queue().skipped_count("a"), 0u) << "2 was settled, for the scan did not offer it";
}

TEST_F(TriggerQueueAdmissionTest, TooManySkippedKeysFallBehind) {
  limits_.entries_max = 100;
  limits_.key_entries_max = 1;
  Make();
  for (std::uint64_t i = 0; i < 4; ++i) Admit(i, std::string(1, static_cast<char>('a' + i)));
  EXPECT_EQ(Offer(4, "a"), OfferResult::kSkipped);
  EXPECT_EQ(Offer(5, "b"), OfferResult::kSkipped);
  EXPECT_EQ(Offer(6, "c"), OfferResult::kSkipped);
  EXPECT_EQ(Offer(7, "d"), OfferResult::kBehind);
  EXPECT_EQ(queue().skipped_key_count(), 3u);
}

TEST_F(TriggerQueueAdmissionTest, AtSpreadMaxItIsBlockedAndNamesTheKey) {
  limits_.entries_max = 100;
  Make();
  Admit(0, "slow");
  ASSERT_THAT(Take(), SizeIs(1));
  Admit(63, "b");
  EXPECT_FALSE(queue().blocked_by_key());
  EXPECT_EQ(Offer(64, "c"), OfferResult::kBehind);
  EXPECT_TRUE(queue().blocked_by_key());
  EXPECT_EQ(queue().BlockingKey(), "slow");
  EXPECT_EQ(queue().ScanWanted(), std::nullopt);
  std::vector<Action> actions;
  const Lease lease = Take()[0];
  EXPECT_EQ(lease.candidate.offset, Offset(63));
  Tick(policy_.timeout);
  policy_.retry.attempts_max = 1;
  queue().SetPolicy(policy_);
  queue().AttemptDurable(Offset(0), 1);
  Tick(seconds(10));
  queue().Close(Offset(0), false);
  EXPECT_FALSE(queue().blocked_by_key());
  EXPECT_EQ(queue().ScanWanted(), Offset(64));
}

TEST_F(TriggerQueueAdmissionTest, EventsThatWereSettledByOtherMeansDoNotKeepAKeySkipped) {
  // A scan would be wanted for ever, and the floor would never rise.
  Make();
  for (std::uint64_t i = 0; i < 2; ++i) Admit(i, "a");
  EXPECT_EQ(Offer(2, "a"), OfferResult::kSkipped);
  EXPECT_EQ(Offer(3, "a"), OfferResult::kSkipped);
  AckNext(0);
  AckNext(1);
  ASSERT_EQ(queue().ScanWanted(), Offset(2));
  queue().BeginScan();
  queue().EndScan(Offset(4), Offset(4));
  EXPECT_EQ(queue().skipped_key_count(), 0u);
  EXPECT_EQ(queue().ScanWanted(), std::nullopt);
  EXPECT_EQ(queue().Floor(Offset(4)), Offset(4));
}

TEST_F(TriggerQueueAdmissionTest, ATriggerThatStartsAtTheEndIsLiveOnceCaughtUp) {
  Make(100);
  EXPECT_TRUE(queue().behind());
  EXPECT_EQ(queue().Floor(Offset(100)), Offset(100));
  queue().CaughtUp(Offset(100));
  EXPECT_FALSE(queue().behind());
  EXPECT_EQ(queue().ScanWanted(), std::nullopt);
  Admit(100);
  EXPECT_THAT(TakeOffsets(), ElementsAre(100));
}

TEST_F(TriggerQueueAdmissionTest, AScanMayEndAnywhereAndGoesOnFromThere) {
  Make(0);
  std::vector<std::uint64_t> seen;
  std::uint64_t at = 0;
  while (at < 30) {
    const std::optional<Offset> from = queue().ScanWanted();
    ASSERT_TRUE(from.has_value());
    ASSERT_EQ(from->value(), at);
    queue().BeginScan();
    for (int i = 0; i < 3; ++i) EXPECT_EQ(Scanned(at++), ScanResult::kGoOn);
    queue().EndScan(Offset(at), Offset(30));
    for (const Lease& lease : Take()) {
      seen.push_back(lease.candidate.offset.value());
      EXPECT_EQ(Answer(lease, Ack{}), AnswerResult::kApplied);
    }
  }
  EXPECT_FALSE(queue().behind());
  EXPECT_THAT(seen, SizeIs(30));
  EXPECT_TRUE(std::is_sorted(seen.begin(), seen.end()));
  EXPECT_THAT(TakeOffsets(), IsEmpty());
}

TEST_F(TriggerQueueAdmissionTest, AThousandParkedKeysLeaveTheWindowFree) {
  limits_ = QueueLimits{};
  limits_.entries_max = 16;
  policy_.retry.attempts_max = 1;
  Make();
  std::uint64_t offset = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::string key = "key" + std::to_string(i);
    for (int n = 0; n < 3; ++n) Admit(offset++, key);
    EXPECT_EQ(Answer(Take()[0], Retry{}), AnswerResult::kApplied);
    queue().Close(Offset(offset - 3), true);
  }
  EXPECT_EQ(queue().parked_key_count(), 1000u);
  EXPECT_EQ(queue().entry_count(), 0u);
  EXPECT_EQ(queue().skipped_key_count(), 1000u);
  EXPECT_FALSE(queue().behind());
  EXPECT_EQ(queue().Floor(Offset(offset)), Offset(1));
  Admit(offset, "other");
}

// Else as many stuck keys as the window holds of their deliveries stop every other key.
TEST_F(TriggerQueueAdmissionTest, AFullWindowTakesBackWhatWaitsBehindALeaseThatIsNotAnswered) {
  limits_.entries_max = 8;
  limits_.key_entries_max = 4;
  Make();
  for (std::uint64_t i = 0; i < 8; ++i) Admit(i, i % 2 == 0 ? "a" : "b");
  ASSERT_THAT(Take(), SizeIs(2));
  EXPECT_EQ(Offer(8, "c"), OfferResult::kBehind);  // not stuck yet: they were leased just now
  EXPECT_EQ(queue().entry_count(), 8u);

  Tick(seconds(1));
  EXPECT_EQ(queue().entry_count(), 2u);
  EXPECT_EQ(queue().skipped_count("a"), 3u);
  EXPECT_EQ(queue().skipped_count("b"), 3u);
  // They are not read again before the lease is over, what is new is.
  EXPECT_EQ(queue().ScanWanted(), Offset(8));
  queue().BeginScan();
  EXPECT_EQ(Scanned(8, "c"), ScanResult::kGoOn);
  queue().EndScan(Offset(9), Offset(9));
  EXPECT_FALSE(queue().behind());
  EXPECT_EQ(queue().ScanWanted(), std::nullopt);
  EXPECT_THAT(TakeOffsets(), ElementsAre(8));
  EXPECT_EQ(queue().Floor(Offset(9)), Offset(0));
}

TEST_F(TriggerQueueAdmissionTest, WhatAFullWindowTookBackIsDeliveredInOrderWhenTheLeaseIsOver) {
  limits_.entries_max = 8;
  limits_.key_entries_max = 8;
  Make();
  for (std::uint64_t i = 0; i < 8; ++i) Admit(i, "a");
  const std::vector<Lease> held = Take();
  ASSERT_THAT(held, SizeIs(1));
  Tick(seconds(1));
  (void)Offer(8, "b");
  EXPECT_EQ(queue().entry_count(), 2u);
  EXPECT_EQ(Offer(9, "a"), OfferResult::kSkipped);  // behind those that were taken back
  ASSERT_EQ(Answer(held[0], Ack{}), AnswerResult::kApplied);
  ASSERT_EQ(queue().ScanWanted(), Offset(1));
  queue().BeginScan();
  for (std::uint64_t i = 1; i < 10; ++i) {
    if (Scanned(i, i == 8 ? "b" : "a") == ScanResult::kStop) break;
  }
  queue().EndScan(Offset(10), Offset(10));
  EXPECT_THAT(TakeOffsets(), ElementsAre(8, 1));
}

// The measure is what its peers do: no clock has moved here.
TEST_F(TriggerQueueAdmissionTest, ALeaseThatItsPeersOvertookIsStuck) {
  limits_.entries_max = 16;
  limits_.key_entries_max = 15;
  Make();
  for (std::uint64_t i = 0; i < 15; ++i) Admit(i, "a");
  ASSERT_THAT(Take(1), SizeIs(1));
  for (std::uint64_t i = 15; i < 25; ++i) {
    (void)Offer(i, "b");
    if (queue().behind()) break;
    AckNext(i);
  }
  EXPECT_FALSE(queue().behind());
  EXPECT_EQ(Offer(25, "b"), OfferResult::kAdmitted);
  EXPECT_EQ(Offer(26, "c"), OfferResult::kAdmitted);
  EXPECT_EQ(queue().skipped_count("a"), 14u);
}

TEST_F(TriggerQueueAdmissionTest, AFullWindowTakesBackWhatWaitsBehindAFailedAttempt) {
  limits_.entries_max = 4;
  limits_.key_entries_max = 4;
  Make();
  for (std::uint64_t i = 0; i < 4; ++i) Admit(i, "a");
  const std::vector<Lease> held = Take();
  ASSERT_EQ(Answer(held[0], Retry{}), AnswerResult::kApplied);
  EXPECT_EQ(Offer(4, "b"), OfferResult::kAdmitted);
  EXPECT_EQ(queue().entry_count(), 2u);
  EXPECT_EQ(queue().skipped_count("a"), 3u);
}

// A window that is full of what goes on is a backlog, not a disturbance.
TEST_F(TriggerQueueAdmissionTest, AFullWindowOfKeysThatGoOnKeepsThem) {
  limits_.entries_max = 8;
  limits_.key_entries_max = 4;
  Make();
  for (std::uint64_t i = 0; i < 8; ++i) Admit(i, i % 2 == 0 ? "a" : "b");
  const std::vector<Lease> held = Take();
  EXPECT_EQ(Offer(8, "c"), OfferResult::kBehind);
  EXPECT_EQ(queue().entry_count(), 8u);
  EXPECT_EQ(queue().skipped_key_count(), 0u);
}

}  // namespace
}  // namespace tocsin
