// What a worker's frames mean, and what the end of its session does.

#include "dispatch/worker_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "tests/unit/dispatch/dispatcher_fixture.h"

namespace tocsin {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class WorkerSessionTest : public DispatcherFixture {
 protected:
  WorkerSessionTest() { trigger_ = dispatcher_.SetTrigger("t", "f", 0); }

  // Handles 1 .. count on partition 0.
  Worker WithDeliveries(std::uint32_t count, std::uint32_t credit = 100) {
    Worker worker = Attach({"f"}, credit);
    DeliverAll(Exchange(0, {{trigger_, count, 0}}), 0);
    return worker;
  }
  SessionInfo Info() { return dispatcher_.Sessions().at(0); }

  TriggerNumber trigger_;
};

TEST_F(WorkerSessionTest, HandlesRiseInTheOrderInWhichTheLinkGetsThem) {
  const Worker worker = WithDeliveries(3);
  DeliverAll(Exchange(1, {{trigger_, 2, 0}}), 1);
  EXPECT_THAT(worker.link->delivered, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(worker.link->functions, ElementsAre("f", "f"));
  EXPECT_EQ(Info().in_flight, 5u);
  EXPECT_EQ(Info().in_flight_bytes, 50u);
  EXPECT_EQ(Info().delivered, 5u);
}

TEST_F(WorkerSessionTest, AFrameGoesToEachPartitionAsOneBatch) {
  const Worker worker = WithDeliveries(3);
  DeliverAll(Exchange(1, {{trigger_, 3, 0}}), 1);
  FrameAnswers answers;
  answers.acked = {{1, 1}, {4, 5}};
  answers.others.push_back(HandleAnswer{2, FencingToken(), Retry{"E", "no", std::nullopt}, {}});
  answers.others.push_back(HandleAnswer{3, FencingToken(), Ack{}, {"event"}});
  answers.extends.push_back(HandleExtend{6, std::chrono::seconds(5)});
  EXPECT_EQ(worker.session->OnAnswers(std::move(answers), now_, {}), 0u);
  ASSERT_THAT(sink_.batches, SizeIs(2));
  const AnswerBatch& zero = sink_.batches[0].second;
  EXPECT_EQ(sink_.batches[0].first, PartitionId(0));
  EXPECT_EQ(zero.session, worker.session->id());
  ASSERT_THAT(zero.acked, SizeIs(1));
  EXPECT_EQ(zero.acked[0].offset, Offset(0));
  EXPECT_EQ(zero.acked[0].trigger, TriggerOrdinal(3));
  ASSERT_THAT(zero.others, SizeIs(2));
  EXPECT_EQ(std::get<Retry>(zero.others[0].outcome).code, "E");
  EXPECT_THAT(zero.others[1].emitted, ElementsAre("event"));
  const AnswerBatch& one = sink_.batches[1].second;
  EXPECT_THAT(one.acked, SizeIs(2));
  ASSERT_THAT(one.extends, SizeIs(1));
  EXPECT_EQ(one.extends[0].delivery.offset, Offset(5));
  EXPECT_EQ(Info().in_flight, 1u);
  EXPECT_EQ(Info().acked, 4u);
  EXPECT_EQ(Info().retried, 1u);
}

TEST_F(WorkerSessionTest, F29AckTwiceUnknownAndOutOfOrderIsCountedAndMovesNothing) {
  const Worker worker = WithDeliveries(4);
  EXPECT_EQ(AckRange(worker, 3, 3), 0u);  // out of order is fine
  EXPECT_EQ(AckRange(worker, 3, 3), 1u);
  EXPECT_EQ(AckRange(worker, 0, 0), 1u);
  EXPECT_EQ(AckRange(worker, 99, 100), 2u);
  EXPECT_EQ(AckRange(worker, 2, 1), 0u);  // an empty range
  FrameAnswers answers;
  answers.others.push_back(HandleAnswer{50, FencingToken(), Ack{}, {}});
  answers.others.push_back(HandleAnswer{1, MakeToken(Epoch(9), 9), Ack{}, {}});  // another's token
  answers.others.push_back(HandleAnswer{2, FencingToken(), Drop{}, {}});
  answers.others.push_back(HandleAnswer{2, FencingToken(), Ack{}, {}});
  answers.extends.push_back(HandleExtend{50, {}});
  EXPECT_EQ(worker.session->OnAnswers(std::move(answers), now_, {}), 4u);
  ASSERT_THAT(sink_.batches, SizeIs(2));
  ASSERT_THAT(sink_.batches[1].second.others, SizeIs(1));
  EXPECT_TRUE(std::holds_alternative<Drop>(sink_.batches[1].second.others[0].outcome));
  EXPECT_EQ(Info().in_flight, 2u);
  EXPECT_EQ(Info().stale, 8u);
}

TEST_F(WorkerSessionTest, F29ARangeOfEverythingAcksWhatIsHeldInOrder) {
  const Worker worker = WithDeliveries(3);
  const std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
  EXPECT_EQ(AckRange(worker, 0, most), most - 2);
  ASSERT_THAT(sink_.batches, SizeIs(1));
  ASSERT_THAT(sink_.batches[0].second.acked, SizeIs(3));
  for (std::uint64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(sink_.batches[0].second.acked[i].offset, Offset(i));
  }
  EXPECT_EQ(AckRange(worker, 0, most), most);
  EXPECT_EQ(Info().stale, most);
}

TEST_F(WorkerSessionTest, F26DetachGivesBackEveryOutstandingDeliveryInOrder) {
  const Worker worker = WithDeliveries(5);
  DeliverAll(Exchange(1, {{trigger_, 2, 0}}), 1);
  FrameAnswers answers;
  answers.acked = {{2, 2}};
  answers.started_through = 3;
  EXPECT_EQ(worker.session->OnAnswers(std::move(answers), now_, {}), 0u);
  sink_.batches.clear();
  dispatcher_.Detach(worker.session, false);
  dispatcher_.Detach(worker.session, false);
  ASSERT_THAT(sink_.batches, SizeIs(2));
  std::vector<std::pair<std::uint64_t, bool>> lost;
  for (const LostLease& lease : sink_.batches[0].second.lost) {
    lost.emplace_back(lease.delivery.offset.value(), lease.started);
  }
  EXPECT_THAT(lost, ElementsAre(std::pair(0, true), std::pair(2, true), std::pair(3, false),
                                std::pair(4, false)));
  EXPECT_THAT(sink_.batches[1].second.lost, SizeIs(2));
  EXPECT_THAT(dispatcher_.Sessions(), IsEmpty());
  EXPECT_THAT(dispatcher_.Functions(), IsEmpty());
  // What comes later from the dead session moves nothing.
  sink_.batches.clear();
  EXPECT_EQ(AckRange(worker, 1, 7), 7u);
  EXPECT_THAT(sink_.batches, IsEmpty());
}

TEST_F(WorkerSessionTest, ACleanLeaveChargesNothingAndALiarIsNotBelieved) {
  Worker worker = WithDeliveries(2);
  FrameAnswers answers;
  answers.started_through = 1'000'000;  // it cannot have started what it was not given
  EXPECT_EQ(worker.session->OnAnswers(answers, now_, {}), 0u);
  DeliverAll(Exchange(0, {{trigger_, 1, 0}}), 0);
  worker.session->OnLeaving(now_);
  EXPECT_TRUE(Info().draining);
  EXPECT_THAT(Exchange(0, {{trigger_, 5, 0}}), IsEmpty());
  EXPECT_EQ(AckRange(worker, 1, 1), 0u) << "what it holds it may still answer";
  dispatcher_.Detach(worker.session, true);
  for (const LostLease& lease : sink_.batches.back().second.lost) EXPECT_FALSE(lease.started);

  worker = Attach({"f"}, 10);
  DeliverAll(Exchange(0, {{trigger_, 2, 0}}), 0);
  answers.started_through = 1'000'000;
  EXPECT_EQ(worker.session->OnAnswers(answers, now_, {}), 0u);
  DeliverAll(Exchange(0, {{trigger_, 1, 0}}), 0);
  dispatcher_.Detach(worker.session, false);
  const std::vector<LostLease>& lost = sink_.batches.back().second.lost;
  ASSERT_THAT(lost, SizeIs(3));
  EXPECT_TRUE(lost[1].started);
  EXPECT_FALSE(lost[2].started);
}

TEST_F(WorkerSessionTest, DetachVoidsGrantsAndFreesConcurrency) {
  const TriggerNumber one = dispatcher_.SetTrigger("one", "f", 1);
  const Worker gone = Attach({"f"}, 10);
  const std::vector<Grant> grants = Exchange(0, {{one, 3, 0}});
  ASSERT_THAT(grants, SizeIs(1));
  dispatcher_.Detach(gone.session, false);
  std::vector<OutgoingDelivery> deliveries(1);
  EXPECT_FALSE(grants[0].session->Deliver(grants[0], PartitionId(0), deliveries));
  dispatcher_.Release(grants[0], 1, 0);  // harmless
  EXPECT_THAT(gone.link->delivered, IsEmpty());
  EXPECT_THAT(Woken(), ElementsAre(0)) << "to say what it has, now that it got it back";
  Attach({"f"}, 10);
  EXPECT_EQ(Count(Exchange(0, {{one, 3, 0}})), 1u);
}

TEST_F(WorkerSessionTest, F30AnEndedLeaseFreesConcurrencyButNotTheBusyWorkersCredit) {
  const TriggerNumber one = dispatcher_.SetTrigger("one", "f", 1);
  const Worker hung = Attach({"f"}, 1);
  DeliverAll(Exchange(0, {{one, 2, 0}}), 0);
  const Worker other = Attach({"f"}, 1);
  EXPECT_EQ(Count(Exchange(0)), 0u);
  Woken();
  const std::uint64_t handle = 1;
  hung.session->LeaseEnded({&handle, 1});
  hung.session->LeaseEnded({&handle, 1});
  EXPECT_THAT(hung.link->cancelled, ElementsAre(1));
  EXPECT_THAT(Woken(), ElementsAre(0));
  const std::vector<Grant> grants = Exchange(0);
  ASSERT_THAT(grants, SizeIs(1));
  EXPECT_EQ(grants[0].session, other.session) << "the hung worker is still busy";
  DeliverAll(grants, 0);
  EXPECT_EQ(AckRange(hung, 1, 1), 1u) << "late: stale, but the slot is free again";
  EXPECT_THAT(sink_.batches, IsEmpty());
  EXPECT_EQ(AckRange(other, 1, 1), 0u);
  EXPECT_EQ(Count(Exchange(0, {{one, 1, 0}})), 1u);
  // The lease of a lost session ends once: not again by Detach.
  dispatcher_.Detach(hung.session, false);
  EXPECT_THAT(sink_.batches, SizeIs(1));
}

TEST_F(WorkerSessionTest, F31AHungHandlerDoesNotKeepAnAloneDeliveryWaiting) {
  const Worker worker = WithDeliveries(1, 2);
  const std::uint64_t handle = 1;
  worker.session->LeaseEnded({&handle, 1});
  const std::vector<Grant> grants = Exchange(0, {{trigger_, 0, 1}});
  ASSERT_THAT(grants, SizeIs(1));
  EXPECT_TRUE(grants[0].alone);
}

TEST_F(WorkerSessionTest, ConfirmedRunsOnceWhenAllPartitionsAreDurable) {
  const Worker worker = WithDeliveries(1);
  DeliverAll(Exchange(1, {{trigger_, 2, 0}}), 1);
  int confirmed = 0;
  FrameAnswers answers;
  answers.acked = {{1, 2}};
  answers.extends.push_back(HandleExtend{3, {}});
  EXPECT_EQ(worker.session->OnAnswers(std::move(answers), now_, [&] { ++confirmed; }), 0u);
  ASSERT_THAT(sink_.batches, SizeIs(2));
  EXPECT_EQ(confirmed, 0);
  sink_.batches[1].second.confirmed();
  EXPECT_EQ(confirmed, 0);
  sink_.batches[0].second.confirmed();
  EXPECT_EQ(confirmed, 1);

  answers = FrameAnswers{};
  answers.acked = {{1, 2}};
  EXPECT_EQ(worker.session->OnAnswers(std::move(answers), now_, [&] { ++confirmed; }), 2u);
  EXPECT_EQ(confirmed, 2) << "nothing to wait for";
}

TEST_F(WorkerSessionTest, F27SilentSessionsEndAndThoseThatAreHeardStay) {
  const Worker silent = WithDeliveries(1);
  const Worker heard = Attach({"f"}, 1);
  now_ += std::chrono::seconds(30);
  heard.session->OnHeartbeat(now_);
  EXPECT_THAT(dispatcher_.EndSilent(now_, std::chrono::seconds(30)), IsEmpty());
  now_ += std::chrono::seconds(1);
  EXPECT_THAT(dispatcher_.EndSilent(now_, std::chrono::seconds(30)),
              ElementsAre(silent.session->id()));
  ASSERT_THAT(sink_.batches, SizeIs(1));
  EXPECT_THAT(sink_.batches[0].second.lost, SizeIs(1));
  EXPECT_THAT(dispatcher_.Functions(), ElementsAre(std::pair<std::string, std::size_t>("f", 1)));
}

TEST_F(WorkerSessionTest, DrainTellsEverySessionAndThoseThatComeLater) {
  const Worker worker = Attach({"f"}, 4);
  dispatcher_.DrainAll("stopping");
  EXPECT_EQ(worker.link->drained, "stopping");
  EXPECT_EQ(Attach({"f"}, 4).link->drained, "stopping");
  EXPECT_THAT(Exchange(0, {{trigger_, 5, 0}}), IsEmpty());
}

}  // namespace
}  // namespace tocsin
