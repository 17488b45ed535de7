// Every transition of a delivery inside a TriggerQueue.

#include "dispatch/trigger_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/dispatch/queue_fixture.h"

namespace tocsin {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class TriggerQueueTest : public QueueFixture {};

TEST_F(TriggerQueueTest, ReadyIsLeasedAndAckSettlesIt) {
  Make();
  EXPECT_EQ(Offer(0), OfferResult::kAdmitted);
  EXPECT_EQ(queue().ready_count(), 1u);
  const std::vector<Lease> leases = Take();
  ASSERT_THAT(leases, SizeIs(1));
  EXPECT_EQ(leases[0].attempt, 1u);
  EXPECT_EQ(leases[0].duration, seconds(30));
  EXPECT_EQ(leases[0].token.value() >> 32, 5u);
  EXPECT_EQ(queue().leased_count(), 1u);
  EXPECT_EQ(Answer(leases[0], Ack{}), AnswerResult::kApplied);
  const std::vector<Action> actions = Actions();
  ASSERT_THAT(actions, SizeIs(1));
  EXPECT_EQ(std::get<SettledAction>(actions[0]).kind, SettleKind::kAcked);
  EXPECT_EQ(queue().entry_count(), 0u);
  EXPECT_EQ(queue().Floor(Offset(1)), Offset(1));
  EXPECT_EQ(Tick(), std::nullopt);
}

TEST_F(TriggerQueueTest, DropSettlesWithItsReason) {
  Make();
  Admit(0);
  EXPECT_EQ(Answer(Take()[0], Drop{"not ours"}), AnswerResult::kApplied);
  const auto settled = std::get<SettledAction>(Actions()[0]);
  EXPECT_EQ(settled.kind, SettleKind::kDropped);
  EXPECT_EQ(settled.reason, "not ours");
}

TEST_F(TriggerQueueTest, OneKeyHasOneLeaseAndOthersGoOn) {
  Make();
  Admit(0, "a");
  Admit(1, "a");
  Admit(2, "b");
  Admit(3);
  Admit(4);
  EXPECT_EQ(queue().ready_count(), 4u);
  const std::vector<Lease> leases = Take();
  EXPECT_THAT(leases, SizeIs(4));
  EXPECT_THAT(TakeOffsets(), IsEmpty());
  EXPECT_EQ(Describe(1), "READY, waits for 1/0 of its key");
  EXPECT_EQ(Answer(leases[0], Ack{}), AnswerResult::kApplied);
  EXPECT_THAT(TakeOffsets(), ElementsAre(1));
}

TEST_F(TriggerQueueTest, OrderPartitionHasOneInFlightWhateverTheKeys) {
  policy_.order = Order::kPartition;
  limits_.key_entries_max = 1;
  Make();
  for (std::uint64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(Offer(i, i % 2 == 0 ? "a" : ""), OfferResult::kAdmitted);
  }
  for (std::uint64_t i = 0; i < 5; ++i) {
    const std::vector<Lease> leases = Take();
    ASSERT_THAT(leases, SizeIs(1));
    EXPECT_EQ(leases[0].candidate.offset.value(), i);
    EXPECT_EQ(Answer(leases[0], Ack{}), AnswerResult::kApplied);
  }
}

TEST_F(TriggerQueueTest, OrderNoneIgnoresKeys) {
  policy_.order = Order::kNone;
  Make();
  for (std::uint64_t i = 0; i < 5; ++i) Admit(i, "a");
  EXPECT_THAT(TakeOffsets(), ElementsAre(0, 1, 2, 3, 4));
}

TEST_F(TriggerQueueTest, RetryWaitsForDurabilityAndForItsDelay) {
  // A repeat before its failure is journaled could exceed the attempts after a crash.
  Make();
  Admit(0, "a");
  Admit(1, "a");
  EXPECT_EQ(Answer(Take()[0], Retry{"E42", "busy", std::nullopt}), AnswerResult::kApplied);
  const auto failed = std::get<AttemptFailedAction>(Actions()[0]);
  EXPECT_EQ(failed.attempt, 1u);
  EXPECT_EQ(failed.code, "E42");
  EXPECT_EQ(failed.message, "busy");
  EXPECT_EQ(failed.delay, seconds(1));
  EXPECT_EQ(queue().delayed_count(), 1u);
  Tick(seconds(2));
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_THAT(Describe(0), HasSubstr("durable"));
  queue().AttemptDurable(Offset(0), 1);
  const std::vector<Lease> again = Take();
  ASSERT_THAT(again, SizeIs(1));
  EXPECT_EQ(again[0].candidate.offset, Offset(0));
  EXPECT_EQ(again[0].attempt, 2u);

  EXPECT_EQ(Answer(again[0], Retry{}), AnswerResult::kApplied);
  EXPECT_EQ(std::get<AttemptFailedAction>(Actions()[0]).code, "retry");
  queue().AttemptDurable(Offset(0), 2);
  EXPECT_EQ(Tick(milliseconds(1999)).value() - now_, milliseconds(1));
  EXPECT_THAT(Take(), IsEmpty());
  Tick(milliseconds(1));
  EXPECT_THAT(TakeOffsets(), ElementsAre(0));
}

TEST_F(TriggerQueueTest, RetryAfterWinsOverBackoffUpToADay) {
  Make();
  Admit(0);
  Admit(1);
  const std::vector<Lease> leases = Take();
  EXPECT_EQ(Answer(leases[0], Retry{"", "", seconds(90)}), AnswerResult::kApplied);
  EXPECT_EQ(Answer(leases[1], Retry{"", "", std::chrono::hours(48)}), AnswerResult::kApplied);
  const std::vector<Action> actions = Actions();
  EXPECT_EQ(std::get<AttemptFailedAction>(actions[0]).delay, seconds(90));
  EXPECT_EQ(std::get<AttemptFailedAction>(actions[1]).delay, std::chrono::hours(24));
}

TEST_F(TriggerQueueTest, TheLastAttemptIsDeadAndHoldsItsKeyUntilClosed) {
  policy_.retry.attempts_max = 2;
  policy_.retry.backoff = Duration{0};
  Make();
  Admit(0, "a");
  Admit(1, "a");
  EXPECT_EQ(Answer(Take()[0], Retry{}), AnswerResult::kApplied);
  queue().AttemptDurable(Offset(0), 1);
  Actions();
  EXPECT_EQ(Answer(Take()[0], Retry{"x", "why", std::nullopt}), AnswerResult::kApplied);
  const std::vector<Action> actions = Actions();
  ASSERT_THAT(actions, SizeIs(2));
  EXPECT_EQ(std::get<AttemptFailedAction>(actions[0]).attempt, 2u);
  EXPECT_EQ(std::get<AttemptFailedAction>(actions[0]).delay, Duration{0});
  EXPECT_EQ(std::get<DeadAction>(actions[1]).reason, LetterReason::kExhausted);
  EXPECT_EQ(std::get<DeadAction>(actions[1]).message, "why");
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_EQ(queue().dead_count(), 1u);
  EXPECT_EQ(queue().Floor(Offset(2)), Offset(0));
  queue().Close(Offset(0), false);
  EXPECT_THAT(TakeOffsets(), ElementsAre(1));
  EXPECT_EQ(queue().Floor(Offset(2)), Offset(1));
}

TEST_F(TriggerQueueTest, UnlimitedAttemptsAreNeverExhausted) {
  policy_.retry.attempts_max = 0;
  policy_.retry.backoff = Duration{0};
  Make();
  Admit(0);
  for (std::uint32_t attempt = 1; attempt < 100; ++attempt) {
    ASSERT_EQ(Answer(Take()[0], Retry{}), AnswerResult::kApplied);
    queue().AttemptDurable(Offset(0), attempt);
  }
  EXPECT_EQ(queue().ready_count(), 1u);
}

TEST_F(TriggerQueueTest, RejectIsDeadAtOnce) {
  Make();
  Admit(0);
  EXPECT_EQ(Answer(Take()[0], Reject{"malformed"}), AnswerResult::kApplied);
  const std::vector<Action> actions = Actions();
  ASSERT_THAT(actions, SizeIs(2));
  EXPECT_EQ(std::get<AttemptFailedAction>(actions[0]).code, "rejected");
  EXPECT_EQ(std::get<DeadAction>(actions[1]).reason, LetterReason::kRejected);
  EXPECT_EQ(std::get<DeadAction>(actions[1]).message, "malformed");
}

TEST_F(TriggerQueueTest, LongMessagesAreCutAtACharacter) {
  Make();
  Admit(0);
  std::string message(1023, 'x');
  message += "\xC3\xA9 and more";
  EXPECT_EQ(Answer(Take()[0], Retry{"c", message, std::nullopt}), AnswerResult::kApplied);
  EXPECT_EQ(std::get<AttemptFailedAction>(Actions()[0]).message, std::string(1023, 'x'));
}

TEST_F(TriggerQueueTest, F30LeaseOfASilentHandlerEndsAndOtherKeysAreUnaffected) {
  Make();
  Admit(0, "a");
  Admit(1, "b");
  const std::vector<Lease> leases = Take();
  queue().SetHolder(Offset(0), SessionId(9), 77);
  EXPECT_EQ(Answer(leases[1], Ack{}), AnswerResult::kApplied);
  Actions();
  EXPECT_EQ(Tick(milliseconds(29'999)).value() - now_, milliseconds(1));
  EXPECT_THAT(Actions(), IsEmpty());
  Tick(milliseconds(1));
  const std::vector<Action> actions = Actions();
  ASSERT_THAT(actions, SizeIs(2));
  EXPECT_EQ(std::get<AttemptFailedAction>(actions[0]).code, "timeout");
  EXPECT_FALSE(std::get<AttemptFailedAction>(actions[0]).worker_died);
  EXPECT_EQ(std::get<CancelAction>(actions[1]).session, SessionId(9));
  EXPECT_EQ(std::get<CancelAction>(actions[1]).handle, 77u);
  EXPECT_EQ(Answer(leases[0], Ack{}), AnswerResult::kStale);
  queue().AttemptDurable(Offset(0), 1);
  Tick(seconds(1));
  EXPECT_THAT(TakeOffsets(), ElementsAre(0));
}

TEST_F(TriggerQueueTest, ExtendRenewsFromNowUpToTimeoutMaxAndNeverShortens) {
  policy_.timeout_max = seconds(70);
  Make();
  Admit(0);
  const Lease lease = Take()[0];
  const auto extend = [&](Duration by) { return queue().Extend(Offset(0), lease.token, by, now_); };
  const Instant start = now_;
  EXPECT_EQ(extend(seconds(1)), AnswerResult::kApplied);
  EXPECT_EQ(Tick(), start + seconds(30));
  Tick(seconds(20));
  EXPECT_EQ(extend(Duration{0}), AnswerResult::kApplied);
  EXPECT_EQ(Tick(), start + seconds(50));
  EXPECT_EQ(extend(std::chrono::hours(24 * 365 * 200)), AnswerResult::kApplied);
  EXPECT_EQ(Tick(), start + seconds(70));
  Tick(seconds(50));
  EXPECT_EQ(extend(seconds(1)), AnswerResult::kStale);
}

TEST_F(TriggerQueueTest, LeasesEndInTheirOwnOrderWhateverTheirTimeouts) {
  Make();
  Admit(0);
  ASSERT_THAT(Take(), SizeIs(1));
  policy_.timeout = seconds(5);
  queue().SetPolicy(policy_);
  Admit(1);
  ASSERT_THAT(Take(), SizeIs(1));
  EXPECT_EQ(Tick(), now_ + seconds(5));
  Tick(seconds(5));
  const std::vector<Action> actions = Actions();
  ASSERT_THAT(actions, SizeIs(1));
  EXPECT_EQ(std::get<AttemptFailedAction>(actions[0]).candidate.offset, Offset(1));
  EXPECT_EQ(queue().leased_count(), 1u);
}

TEST_F(TriggerQueueTest, F29AckTwiceIsStaleAndMovesNothing) {
  Make();
  Admit(0, "a");
  Admit(1, "a");
  const Lease first = Take()[0];
  EXPECT_EQ(Answer(first, Ack{}), AnswerResult::kApplied);
  const Lease second = Take()[0];
  Actions();
  EXPECT_EQ(Answer(first, Ack{}), AnswerResult::kStale);
  // Another worker's lease with an old token, one of an earlier epoch, and one never given.
  EXPECT_EQ(queue().Answer(Offset(1), first.token, Ack{}, now_, actions_), AnswerResult::kStale);
  EXPECT_EQ(queue().Answer(Offset(1), MakeToken(Epoch(4), 2), Ack{}, now_, actions_),
            AnswerResult::kStale);
  EXPECT_EQ(queue().Answer(Offset(1), MakeToken(Epoch(5), 3), Ack{}, now_, actions_),
            AnswerResult::kUnknown);
  EXPECT_EQ(queue().Answer(Offset(99), MakeToken(Epoch(5), 0), Ack{}, now_, actions_),
            AnswerResult::kUnknown);
  EXPECT_THAT(Actions(), IsEmpty());
  EXPECT_EQ(queue().leased_count(), 1u);
  EXPECT_EQ(Answer(second, Ack{}), AnswerResult::kApplied);
}

TEST_F(TriggerQueueTest, F26LostLeasesThatWereNotStartedAreReadyAtTheirPlaceWithoutCharge) {
  Make();
  Admit(0, "a");
  Admit(1, "a");
  Admit(2);
  Admit(3);
  const std::vector<Lease> leases = Take(2);
  for (const Lease& lease : leases) {
    EXPECT_EQ(queue().LeaseLost(lease.candidate.offset, lease.token, false, now_, actions_),
              AnswerResult::kApplied);
  }
  EXPECT_THAT(Actions(), IsEmpty());
  const std::vector<Lease> again = Take();
  ASSERT_THAT(again, SizeIs(3));
  EXPECT_EQ(again[0].candidate.offset, Offset(0));
  EXPECT_EQ(again[0].attempt, 1u);
  EXPECT_NE(again[0].token, leases[0].token);
  EXPECT_EQ(again[1].candidate.offset, Offset(2));
  EXPECT_EQ(again[2].candidate.offset, Offset(3));
}

TEST_F(TriggerQueueTest, F31AStartedDeliveryWhoseWorkerDiedIsLeasedAloneAndThenDead) {
  policy_.retry.attempts_max = 2;
  Make();
  Admit(0, "poison");
  Admit(1, "innocent");
  const std::vector<Lease> leases = Take();
  EXPECT_EQ(queue().LeaseLost(Offset(0), leases[0].token, true, now_, actions_),
            AnswerResult::kApplied);
  EXPECT_EQ(queue().LeaseLost(Offset(1), leases[1].token, false, now_, actions_),
            AnswerResult::kApplied);
  const auto failed = std::get<AttemptFailedAction>(Actions()[0]);
  EXPECT_EQ(failed.code, "worker_lost");
  EXPECT_TRUE(failed.worker_died);
  queue().AttemptDurable(Offset(0), 1);
  Tick(seconds(1));
  EXPECT_EQ(queue().ready_alone_count(), 1u);
  EXPECT_EQ(queue().ready_count(), 1u);
  EXPECT_THAT(TakeOffsets(10, false), ElementsAre(1));
  const std::vector<Lease> alone = Take(10, true);
  ASSERT_THAT(alone, SizeIs(1));
  EXPECT_TRUE(alone[0].alone);
  EXPECT_EQ(alone[0].attempt, 2u);
  EXPECT_EQ(queue().LeaseLost(Offset(0), alone[0].token, true, now_, actions_),
            AnswerResult::kApplied);
  EXPECT_EQ(std::get<DeadAction>(Actions()[1]).reason, LetterReason::kExhausted);
}

TEST_F(TriggerQueueTest, ADeliveryIsNoLongerAloneAfterAnOrdinaryFailure) {
  policy_.retry.backoff = Duration{0};
  Make();
  Admit(0);
  const Lease first = Take()[0];
  EXPECT_EQ(queue().LeaseLost(Offset(0), first.token, true, now_, actions_),
            AnswerResult::kApplied);
  queue().AttemptDurable(Offset(0), 1);
  EXPECT_EQ(Answer(Take(1, true)[0], Retry{}), AnswerResult::kApplied);
  queue().AttemptDurable(Offset(0), 2);
  EXPECT_EQ(queue().ready_count(), 1u);
}

TEST_F(TriggerQueueTest, ReturnUnsentIsReadyAgainAndAStaleReturnMovesNothing) {
  Make();
  Admit(0);
  const Lease lease = Take()[0];
  queue().ReturnUnsent(Offset(0), lease.token);
  EXPECT_EQ(queue().ready_count(), 1u);
  const Lease again = Take()[0];
  EXPECT_EQ(again.attempt, 1u);
  queue().ReturnUnsent(Offset(0), lease.token);
  EXPECT_EQ(queue().leased_count(), 1u);
}

TEST_F(TriggerQueueTest, TakeReadyKeepsToCountAndBytesButGivesAtLeastOne) {
  Make();
  for (std::uint64_t i = 0; i < 4; ++i) {
    ASSERT_EQ(queue().Offer(At(i, 100), "", nullptr, now_), OfferResult::kAdmitted);
  }
  std::vector<Lease> leases;
  queue().TakeReady(10, 50, false, now_, wall_, leases, actions_);
  EXPECT_THAT(leases, SizeIs(1));
  queue().TakeReady(10, 250, false, now_, wall_, leases, actions_);
  EXPECT_THAT(leases, SizeIs(3));
  queue().TakeReady(0, 250, false, now_, wall_, leases, actions_);
  EXPECT_THAT(leases, SizeIs(3));
}

TEST_F(TriggerQueueTest, APausedQueueGivesNothingAndResumes) {
  Make();
  Admit(0);
  queue().SetPaused(true);
  EXPECT_EQ(queue().ready_count(), 0u);
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_THAT(Describe(0), HasSubstr("paused"));
  queue().SetPaused(false);
  EXPECT_THAT(TakeOffsets(), ElementsAre(0));
}

TEST_F(TriggerQueueTest, PriorAttemptsAreCountedAndTheirRestOfBackoffIsWaited) {
  Make();
  PriorAttempts prior;
  prior.count = 3;
  prior.delay = seconds(4);
  prior.alone = true;
  Admit(0, "a", &prior);
  Admit(1, "a");
  EXPECT_EQ(queue().delayed_count(), 1u);
  Tick(seconds(3));
  EXPECT_THAT(Take(), IsEmpty());
  Tick(seconds(1));
  EXPECT_EQ(queue().ready_alone_count(), 1u);
  EXPECT_EQ(Take(1, true)[0].attempt, 4u);
}

TEST_F(TriggerQueueTest, F31PriorAttemptsThatUsedUpThePolicyAreNeverLeased) {
  // The crash came between the last attempt's record and its letter.
  Make();
  PriorAttempts prior;
  prior.count = 8;
  Admit(0, "a", &prior);
  Admit(1, "a");
  EXPECT_EQ(queue().ready_count(), 0u);
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_THAT(Actions(), IsEmpty());
  Tick();
  const std::vector<Action> actions = Actions();
  ASSERT_THAT(actions, SizeIs(1));
  EXPECT_EQ(std::get<DeadAction>(actions[0]).reason, LetterReason::kExhausted);
  queue().Close(Offset(0), false);
  EXPECT_THAT(TakeOffsets(), ElementsAre(1));
}

TEST_F(TriggerQueueTest, ALoweredLimitOfAttemptsAppliesToWhatWaits) {
  policy_.retry.backoff = Duration{0};
  Make();
  Admit(0);
  EXPECT_EQ(Answer(Take()[0], Retry{}), AnswerResult::kApplied);
  queue().AttemptDurable(Offset(0), 1);
  policy_.retry.attempts_max = 1;
  queue().SetPolicy(policy_);
  EXPECT_EQ(queue().ready_count(), 0u);
  policy_.retry.attempts_max = 3;
  queue().SetPolicy(policy_);
  EXPECT_EQ(queue().ready_count(), 1u);
  policy_.retry.attempts_max = 1;
  queue().SetPolicy(policy_);
  Actions();
  Tick();
  EXPECT_EQ(std::get<DeadAction>(Actions()[0]).reason, LetterReason::kExhausted);
}

TEST_F(TriggerQueueTest, ExpirytimeKillsAtTakeReady) {
  Make();
  Candidate candidate = At(0);
  candidate.expires = wall_ + seconds(1);
  ASSERT_EQ(queue().Offer(candidate, "", nullptr, now_), OfferResult::kAdmitted);
  Admit(1);
  wall_ += seconds(1);
  EXPECT_THAT(TakeOffsets(), ElementsAre(1));
  EXPECT_EQ(std::get<DeadAction>(Actions()[0]).reason, LetterReason::kExpired);
}

TEST_F(TriggerQueueTest, WhatNobodyTakesExpiresInTickJustInTime) {
  policy_.backlog.age_max = seconds(100);
  Make();
  for (std::uint64_t i = 0; i < 3000; ++i) {
    Candidate candidate = At(i);
    candidate.appended = wall_ + milliseconds(i);
    ASSERT_EQ(queue().Offer(candidate, "", nullptr, now_), OfferResult::kAdmitted);
  }
  std::size_t expired = 0;
  const Instant start = now_;
  std::optional<Instant> next = now_;
  for (int ticks = 0; next.has_value() && ticks < 10'000; ++ticks) {
    next = Tick(std::max(*next - now_, Duration{0}));
    for (const Action& action : Actions()) {
      const auto& dead = std::get<DeadAction>(action);
      EXPECT_EQ(dead.reason, LetterReason::kExpired);
      EXPECT_GE(now_ - start, seconds(100) + milliseconds(dead.candidate.offset.value()));
      ++expired;
      queue().Close(dead.candidate.offset, false);
    }
  }
  EXPECT_EQ(expired, 3000u);
  EXPECT_LE(now_ - start, seconds(104));
}

TEST_F(TriggerQueueTest, RetryAgeMaxCountsFromTheFirstAttemptAndEndsTheDelay) {
  policy_.retry.age_max = seconds(10);
  policy_.retry.backoff = seconds(8);
  policy_.retry.factor = 1;
  Make();
  Admit(0);
  now_ += seconds(60);  // waiting for its first attempt does not count
  EXPECT_EQ(Answer(Take()[0], Retry{}), AnswerResult::kApplied);
  EXPECT_EQ(std::get<AttemptFailedAction>(Actions()[0]).delay, seconds(8));
  queue().AttemptDurable(Offset(0), 1);
  Tick(seconds(8));
  EXPECT_EQ(Answer(Take()[0], Retry{}), AnswerResult::kApplied);
  EXPECT_EQ(std::get<AttemptFailedAction>(Actions()[0]).delay, seconds(2));
  queue().AttemptDurable(Offset(0), 2);
  Tick(seconds(2));
  EXPECT_EQ(std::get<DeadAction>(Actions()[0]).reason, LetterReason::kExpired);
}

TEST_F(TriggerQueueTest, RetryAgeMaxSurvivesARestart) {
  policy_.retry.age_max = seconds(10);
  Make();
  PriorAttempts prior;
  prior.count = 1;
  prior.first_started_ago = seconds(11);
  Admit(0, "", &prior);
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_EQ(std::get<DeadAction>(Actions()[0]).reason, LetterReason::kExpired);
}

TEST_F(TriggerQueueTest, AParkedKeyHoldsUntilItsLetterIsRedrivenAndAcked) {
  policy_.retry.attempts_max = 1;
  Make();
  Admit(0, "a");
  Admit(1, "a");
  Admit(2, "b");
  EXPECT_EQ(Answer(Take(1)[0], Retry{}), AnswerResult::kApplied);
  queue().Close(Offset(0), true);
  EXPECT_EQ(queue().parked_key_count(), 1u);
  EXPECT_EQ(queue().skipped_count("a"), 1u);  // it takes no place in the window
  EXPECT_EQ(Offer(3, "a"), OfferResult::kSkipped);
  EXPECT_THAT(TakeOffsets(), ElementsAre(2));
  EXPECT_EQ(queue().ScanWanted(), std::nullopt);

  // It dies again, and stays parked.
  queue().OfferFirst(At(4), "a", now_);
  EXPECT_EQ(Answer(Take()[0], Retry{}), AnswerResult::kApplied);
  queue().Close(Offset(4), true);
  EXPECT_EQ(queue().parked_key_count(), 1u);
  EXPECT_THAT(Take(), IsEmpty());

  queue().OfferFirst(At(5), "a", now_);
  const std::vector<Lease> redriven = Take();
  ASSERT_THAT(redriven, SizeIs(1));
  EXPECT_EQ(redriven[0].candidate.offset, Offset(5));
  EXPECT_EQ(Answer(redriven[0], Ack{}), AnswerResult::kApplied);
  EXPECT_EQ(queue().parked_key_count(), 0u);
  EXPECT_EQ(queue().ScanWanted(), Offset(1));
  queue().BeginScan();
  EXPECT_EQ(Scanned(1, "a"), ScanResult::kGoOn);
  EXPECT_EQ(Scanned(3, "a"), ScanResult::kStop);
  queue().EndScan(Offset(3), Offset(6));
  EXPECT_EQ(queue().skipped_key_count(), 0u);
  EXPECT_THAT(TakeOffsets(), ElementsAre(1));
}

TEST_F(TriggerQueueTest, DiscardingTheLetterOrClosingItWithoutParkReleasesTheKey) {
  policy_.retry.attempts_max = 1;
  Make();
  queue().Park("a");
  queue().Park("b");
  EXPECT_EQ(Offer(0, "a"), OfferResult::kSkipped);
  queue().Release("a");
  queue().Release("never parked");
  EXPECT_EQ(queue().ScanWanted(), Offset(0));
  queue().OfferFirst(At(1), "b", now_);
  EXPECT_EQ(Answer(Take()[0], Retry{}), AnswerResult::kApplied);
  queue().Close(Offset(1), false);
  EXPECT_EQ(queue().parked_key_count(), 0u);
}

TEST_F(TriggerQueueTest, ARedrivenLetterGoesBeforeWhatWaitsButNotBeforeWhatIsUnderWay) {
  Make();
  Admit(0, "a");
  Admit(1, "a");
  const Lease under_way = Take()[0];
  queue().OfferFirst(At(2), "a", now_);
  queue().OfferFirst(At(3), "a", now_);
  queue().OfferFirst(At(3), "a", now_);  // a scan met it again
  EXPECT_THAT(Take(), IsEmpty());
  EXPECT_EQ(Answer(under_way, Ack{}), AnswerResult::kApplied);
  std::vector<std::uint64_t> order;
  for (int i = 0; i < 3; ++i) {
    const Lease lease = Take()[0];
    order.push_back(lease.candidate.offset.value());
    EXPECT_EQ(Answer(lease, Ack{}), AnswerResult::kApplied);
  }
  EXPECT_THAT(order, ElementsAre(2, 3, 1));
}

TEST_F(TriggerQueueTest, AChangedOrderIsReadAgainAndGroupedAnew) {
  Make();
  for (std::uint64_t i = 0; i < 4; ++i) Admit(i, "a");
  const Lease under_way = Take()[0];
  queue().Park("b");
  policy_.order = Order::kNone;
  queue().SetPolicy(policy_);
  EXPECT_EQ(queue().parked_key_count(), 0u);
  EXPECT_TRUE(queue().behind());
  ASSERT_TRUE(queue().ScanWanted().has_value());
  queue().BeginScan();
  for (std::uint64_t i = 0; i < 4; ++i) EXPECT_EQ(Scanned(i, "a"), ScanResult::kGoOn);
  queue().EndScan(Offset(4), Offset(4));
  EXPECT_FALSE(queue().behind());
  EXPECT_THAT(TakeOffsets(), ElementsAre(1, 2, 3));
  EXPECT_EQ(Answer(under_way, Ack{}), AnswerResult::kApplied);
  EXPECT_EQ(queue().entry_count(), 3u);
}

}  // namespace
}  // namespace tocsin
