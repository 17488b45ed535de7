// What the Dispatcher grants, to whom, and whom it wakes.

#include "dispatch/dispatcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "broker/base/random.h"
#include "tests/unit/dispatch/dispatcher_fixture.h"

namespace tocsin {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

class DispatcherTest : public DispatcherFixture {};

TEST_F(DispatcherTest, GrantsUpToTheCreditAndWakesWhenSomeComesFree) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  const Worker worker = Attach({"f"}, 4);
  const std::vector<Grant> grants = Exchange(0, {{trigger, 10, 0}});
  EXPECT_EQ(Count(grants), 4u);
  EXPECT_EQ(grants[0].function, "f");
  EXPECT_THAT(DeliverAll(grants, 0), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(Exchange(0), IsEmpty());
  EXPECT_THAT(Woken(), IsEmpty());
  EXPECT_EQ(AckRange(worker, 1, 2), 0u);
  EXPECT_THAT(Woken(), ElementsAre(0));
  EXPECT_EQ(AckRange(worker, 3, 3), 0u);
  EXPECT_THAT(Woken(), IsEmpty()) << "once until it exchanges";
  EXPECT_EQ(Count(Exchange(0)), 3u);
}

TEST_F(DispatcherTest, NobodyIsWokenInVain) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  const TriggerNumber other = dispatcher_.SetTrigger("o", "g", 0);
  EXPECT_THAT(Exchange(0, {{trigger, 1, 0}}), IsEmpty());
  EXPECT_THAT(Exchange(1, {{other, 1, 0}}), IsEmpty());
  EXPECT_THAT(Exchange(2, {{trigger, 1, 0}}), IsEmpty());
  EXPECT_THAT(Exchange(2, {{trigger, 0, 0}}), IsEmpty());
  EXPECT_THAT(Woken(), IsEmpty());
  Attach({"f"}, 4);
  EXPECT_THAT(Woken(), ElementsAre(0));
}

// By this a local worker is started for the first event at once.
TEST_F(DispatcherTest, TheFirstWorkOfAFunctionThatNobodyServesIsTold) {
  int told = 0;
  dispatcher_.OnUnserved([&] { ++told; });
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  const TriggerNumber other = dispatcher_.SetTrigger("o", "g", 0);
  Exchange(0);
  Exchange(0, {{trigger, 0, 0}});
  EXPECT_EQ(told, 0);
  Exchange(0, {{trigger, 1, 0}});
  EXPECT_EQ(told, 1);
  Exchange(0, {{trigger, 2, 0}});
  Exchange(1, {{trigger, 1, 0}});
  EXPECT_EQ(told, 1) << "once";
  Exchange(1, {{other, 0, 1}});
  EXPECT_EQ(told, 2) << "one that goes alone, of another function";
  const Worker worker = Attach({"f"}, 4);
  Exchange(0, {{trigger, 3, 0}});
  EXPECT_EQ(told, 2);
  dispatcher_.Detach(worker.session, true);
  Exchange(0, {{trigger, 3, 0}});
  EXPECT_EQ(told, 3) << "again";
}

TEST_F(DispatcherTest, SeveralPartitionsShareTheFreeCredit) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  for (std::uint32_t p = 0; p < 4; ++p) EXPECT_THAT(Exchange(p, {{trigger, 100, 0}}), IsEmpty());
  Attach({"f"}, 40);
  EXPECT_THAT(Woken(), UnorderedElementsAre(0, 1, 2, 3));
  // One that comes again and again does not get the shares of the others.
  EXPECT_EQ(Count(Exchange(0)), 10u);
  EXPECT_EQ(Count(Exchange(0)), 0u);
  EXPECT_EQ(Count(Exchange(0, {{trigger, 100, 0}})), 0u);
  EXPECT_EQ(Count(Exchange(1)), 10u);
  EXPECT_EQ(Count(Exchange(2)), 10u);
  EXPECT_EQ(Count(Exchange(3)), 10u);
}

TEST_F(DispatcherTest, ASingleCreditGoesRoundThePartitions) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  const Worker worker = Attach({"f"}, 1);
  std::map<std::uint32_t, int> served;
  for (std::uint32_t p = 0; p < 3; ++p) {
    DeliverAll(Exchange(p, {{trigger, 1000, 0}}), p);
  }
  Woken();
  for (std::uint64_t handle = 1; handle <= 30; ++handle) {
    ASSERT_EQ(AckRange(worker, handle, handle), 0u);
    // The one that was served last asks first, every time.
    for (const std::uint32_t p : {0u, 1u, 2u}) {
      const std::vector<Grant> grants = Exchange(p);
      served[p] += static_cast<int>(Count(grants));
      DeliverAll(grants, p);
    }
  }
  EXPECT_THAT(served, ElementsAre(std::pair(0u, 10), std::pair(1u, 10), std::pair(2u, 10)));
}

TEST_F(DispatcherTest, WhatOnePartitionDoesNotNeedTheOthersGet) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  EXPECT_THAT(Exchange(0, {{trigger, 2, 0}}), IsEmpty());
  EXPECT_THAT(Exchange(1, {{trigger, 100, 0}}), IsEmpty());
  Attach({"f"}, 40);
  EXPECT_THAT(Woken(), UnorderedElementsAre(0, 1));
  EXPECT_EQ(Count(Exchange(1)), 38u);
  EXPECT_EQ(Count(Exchange(0)), 2u);
}

TEST_F(DispatcherTest, ConcurrencyIsOfTheWholeProcess) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 3);
  const Worker a = Attach({"f"}, 10);
  const Worker b = Attach({"f"}, 10);
  std::vector<Grant> grants = Exchange(0, {{trigger, 10, 0}});
  EXPECT_EQ(Count(grants), 3u);
  DeliverAll(grants, 0);
  EXPECT_EQ(Count(Exchange(1, {{trigger, 10, 0}})), 0u);
  EXPECT_THAT(Woken(), IsEmpty());
  EXPECT_EQ(AckRange(a, 1, 1), 0u);
  // Partition 0 waited longer.
  EXPECT_THAT(Woken(), ElementsAre(0));
  grants = Exchange(0);
  EXPECT_EQ(Count(grants), 1u);
  DeliverAll(grants, 0);
  EXPECT_EQ(AckRange(b, 1, 1), 0u);
  EXPECT_THAT(Woken(), ElementsAre(1));
  EXPECT_EQ(Count(Exchange(1)), 1u);
  EXPECT_EQ(dispatcher_.SetTrigger("t", "f", 5), trigger);
  EXPECT_EQ(Count(Exchange(0)) + Count(Exchange(1)), 2u);
}

TEST_F(DispatcherTest, AFunctionThatChangesTakesItsWaitersAlong) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  EXPECT_THAT(Exchange(0, {{trigger, 1, 0}}), IsEmpty());
  Attach({"g"}, 1);
  EXPECT_THAT(Woken(), IsEmpty());
  dispatcher_.SetTrigger("t", "g", 0);
  EXPECT_THAT(Woken(), ElementsAre(0));
  EXPECT_EQ(Count(Exchange(0)), 1u);
}

TEST_F(DispatcherTest, LoadIsSpreadOverSessions) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  for (int i = 0; i < 4; ++i) Attach({"f"}, 100);
  const std::vector<Grant> grants = Exchange(0, {{trigger, 40, 0}});
  ASSERT_THAT(grants, SizeIs(4));
  for (const Grant& grant : grants) EXPECT_EQ(grant.count, 10u);
}

TEST_F(DispatcherTest, TheTriggersOfAPartitionTakeTurns) {
  const TriggerNumber many = dispatcher_.SetTrigger("many", "f", 0);
  const TriggerNumber few = dispatcher_.SetTrigger("few", "f", 0);
  const Worker worker = Attach({"f"}, 1);
  DeliverAll(Exchange(0, {{many, 100, 0}, {few, 100, 0}}), 0);
  std::map<std::uint32_t, int> served;
  for (std::uint64_t handle = 1; handle <= 20; ++handle) {
    ASSERT_EQ(AckRange(worker, handle, handle), 0u);
    const std::vector<Grant> grants = Exchange(0);
    ASSERT_THAT(grants, SizeIs(1));
    ++served[grants[0].trigger.value()];
    DeliverAll(grants, 0);
  }
  EXPECT_EQ(served[many.value()], 10);
  EXPECT_EQ(served[few.value()], 10);
}

TEST_F(DispatcherTest, BytesLimitAGrantAndComeBackWithTheAnswer) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  const Worker worker = Attach({"f"}, 100, 25);
  const std::vector<Grant> grants = Exchange(0, {{trigger, 2, 0}});
  ASSERT_THAT(grants, SizeIs(1));
  EXPECT_LE(grants[0].bytes, 25u);
  event_ = std::string(1000, 'x');  // one larger than the grant may go
  Deliver(grants[0], 0, 1);
  dispatcher_.Release(grants[0], 1, 0);
  Woken();
  EXPECT_EQ(AckRange(worker, 1, 1), 0u);
  EXPECT_EQ(Exchange(0, {{trigger, 100, 0}})[0].bytes, 25u);
}

TEST_F(DispatcherTest, ReleasedCreditAndConcurrencyAreFreeAgain) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 2);
  Attach({"f"}, 2);
  const std::vector<Grant> grants = Exchange(0, {{trigger, 2, 0}});
  EXPECT_EQ(Count(grants), 2u);
  EXPECT_EQ(Count(Exchange(1, {{trigger, 2, 0}})), 0u);
  dispatcher_.Release(grants[0], 2, 0);
  EXPECT_THAT(Woken(), UnorderedElementsAre(0, 1)) << "0 is to say what it has";
  EXPECT_EQ(Count(Exchange(1)), 2u);
}

TEST_F(DispatcherTest, ARaisedCreditWakesAndALoweredOneTakesNothingBack) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  const Worker worker = Attach({"f"}, 2);
  DeliverAll(Exchange(0, {{trigger, 9, 0}}), 0);
  worker.session->OnCredit(Credit{1, 0}, now_);
  EXPECT_EQ(AckRange(worker, 1, 1), 0u);
  EXPECT_THAT(Woken(), IsEmpty());
  worker.session->OnCredit(Credit{4, 0}, now_);
  EXPECT_THAT(Woken(), ElementsAre(0));
  EXPECT_EQ(Count(Exchange(0)), 3u);
}

TEST_F(DispatcherTest, F31AloneGoesToAnIdleSession) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  const Worker busy = Attach({"f"}, 8);
  DeliverAll(Exchange(0, {{trigger, 1, 0}}), 0);
  const Worker idle = Attach({"f"}, 8);
  const std::vector<Grant> grants = Exchange(0, {{trigger, 5, 1}});
  ASSERT_FALSE(grants.empty());
  EXPECT_TRUE(grants[0].alone);
  EXPECT_EQ(grants[0].count, 1u);
  EXPECT_EQ(grants[0].session, idle.session);
  for (std::size_t i = 1; i < grants.size(); ++i) EXPECT_EQ(grants[i].session, busy.session);
  EXPECT_EQ(Count(grants), 6u);
}

TEST_F(DispatcherTest, F31AloneEmptiesOneSessionWhileTheOthersGoOn) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  const Worker a = Attach({"f"}, 2);
  const Worker b = Attach({"f"}, 4);
  DeliverAll(Exchange(0, {{trigger, 6, 0}}), 0);
  EXPECT_EQ(Count(Exchange(0, {{trigger, 100, 1}})), 0u);  // a has less in flight: reserved
  EXPECT_EQ(AckRange(a, 1, 1), 0u);
  EXPECT_EQ(Count(Exchange(0)), 0u) << "a is being emptied";
  EXPECT_EQ(AckRange(b, 1, 2), 0u);
  std::vector<Grant> grants = Exchange(0);
  EXPECT_EQ(Count(grants), 2u);
  EXPECT_EQ(grants[0].session, b.session);
  EXPECT_EQ(AckRange(a, 2, 2), 0u);
  EXPECT_THAT(Woken(), ::testing::Contains(0u));
  grants = Exchange(0);
  ASSERT_THAT(grants, SizeIs(1));
  EXPECT_TRUE(grants[0].alone);
  EXPECT_EQ(grants[0].session, a.session);
  DeliverAll(grants, 0);
  EXPECT_EQ(Count(Exchange(0)), 0u) << "nothing beside it";
  EXPECT_EQ(AckRange(a, 3, 3), 0u);
  EXPECT_EQ(Count(Exchange(0)), 2u);
}

TEST_F(DispatcherTest, F31AloneWithASingleWorkerWaitsForItToBeEmpty) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  const Worker worker = Attach({"f"}, 3);
  DeliverAll(Exchange(0, {{trigger, 3, 0}}), 0);
  EXPECT_EQ(Count(Exchange(1, {{trigger, 9, 2}})), 0u);
  EXPECT_EQ(AckRange(worker, 1, 2), 0u);
  EXPECT_EQ(Count(Exchange(0)) + Count(Exchange(1)), 0u);
  EXPECT_EQ(AckRange(worker, 3, 3), 0u);
  for (std::uint64_t handle = 4; handle <= 5; ++handle) {
    const std::vector<Grant> grants = Exchange(1);
    ASSERT_THAT(grants, SizeIs(1));
    EXPECT_TRUE(grants[0].alone);
    DeliverAll(grants, 1);
    EXPECT_EQ(AckRange(worker, handle, handle), 0u);
  }
  EXPECT_EQ(Count(Exchange(1)), 3u);
}

TEST_F(DispatcherTest, AWithdrawnAloneOfferFreesTheReservedSession) {
  const TriggerNumber trigger = dispatcher_.SetTrigger("t", "f", 0);
  const Worker worker = Attach({"f"}, 3);
  DeliverAll(Exchange(0, {{trigger, 1, 0}}), 0);
  EXPECT_EQ(Count(Exchange(0, {{trigger, 0, 1}})), 0u);
  EXPECT_EQ(Count(Exchange(1, {{trigger, 5, 0}})), 0u);
  EXPECT_EQ(Count(Exchange(0, {{trigger, 0, 0}})), 0u);
  EXPECT_THAT(Woken(), ElementsAre(1));
  EXPECT_EQ(Count(Exchange(1)), 2u);
}

// Partitions with random work, workers with random credit: the limits hold at every step, nobody is
// forgotten, and a partition exchanges only when it has news or was woken.
TEST_F(DispatcherTest, LimitsHoldAndEveryDemandIsServed) {
  const char* text = std::getenv("TOCSIN_SEED");
  const std::uint64_t base = text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
  for (std::uint64_t run = 0; run < 30; ++run) {
    SCOPED_TRACE("TOCSIN_SEED=" + std::to_string(base) + " run " + std::to_string(run));
    SeededRandom random(base * 1000 + run);
    FakeSink sink;
    FakeWaker waker;
    Dispatcher dispatcher(sink, waker);
    struct Trigger {
      TriggerNumber number;
      std::uint32_t concurrency;
      std::uint32_t in_flight = 0;
      std::map<std::uint32_t, std::size_t> ready, alone;  // by partition
      Rate rate;
      std::uint64_t begun = 0;  // sent
      std::uint32_t batch = 1;
    };
    std::vector<Trigger> triggers;
    const Instant start = now_;
    for (int i = 0; i < 6; ++i) {
      Rate rate;
      if (random.Below(3) == 0) rate.count = static_cast<std::uint32_t>(1 + random.Below(200));
      const auto batch = static_cast<std::uint32_t>(i < 4 ? 1 : 2 + random.Below(4));
      const std::uint32_t concurrency =
          random.Below(2) == 0 ? 0 : static_cast<std::uint32_t>(1 + random.Below(4));
      triggers.push_back(
          Trigger{dispatcher.SetTrigger("t" + std::to_string(i), "f" + std::to_string(i % 3),
                                        {concurrency, rate, batch}),
                  concurrency,
                  0,
                  {},
                  {},
                  rate,
                  0,
                  batch});
    }
    struct Flight {
      std::uint64_t handle;
      std::size_t trigger;
      bool alone;
    };
    struct Session {
      std::shared_ptr<WorkerSession> session;
      std::uint32_t credit;
      std::vector<Flight> flights;
    };
    std::vector<Session> sessions;
    const auto attach = [&] {
      SessionHello hello;
      for (int f = 0; f < 3; ++f) {
        if (random.Below(2) == 0) hello.functions.push_back("f" + std::to_string(f));
      }
      if (hello.functions.empty()) hello.functions.push_back("f0");
      hello.credit.events = static_cast<std::uint32_t>(1 + random.Below(6));
      sessions.push_back(Session{
          dispatcher.Attach(hello, std::make_shared<FakeLink>(), now_), hello.credit.events, {}});
    };
    std::map<std::uint32_t, std::map<std::size_t, bool>> changed;  // partition -> triggers
    std::map<std::uint32_t, Instant> again;                        // when a partition comes again
    // A partition says what changed of itself; having been woken it says all; what it took of its
    // grants it may say or not.
    const bool says_taken = run % 2 == 0;
    const auto exchange = [&](std::uint32_t p, bool was_woken) {
      for (std::size_t t = 0; was_woken && t < triggers.size(); ++t) {
        if (triggers[t].ready[p] + triggers[t].alone[p] > 0) changed[p][t] = true;
      }
      std::vector<ReadyOffer> offers;
      for (const auto& [t, unused] : changed[p]) {
        offers.push_back(
            ReadyOffer{triggers[t].number, triggers[t].ready[p], triggers[t].alone[p]});
      }
      changed[p].clear();
      std::vector<Grant> grants;
      again.erase(p);
      if (const auto due = dispatcher.Exchange(PartitionId(p), offers, now_, grants)) {
        ASSERT_GT(*due, now_);
        again[p] = *due;
      }
      for (const Grant& grant : grants) {
        Trigger& trigger = triggers[grant.trigger.value()];
        if (says_taken) changed[p][grant.trigger.value()] = true;
        std::size_t& ready = grant.alone ? trigger.alone[p] : trigger.ready[p];
        ASSERT_GE(ready, grant.count);
        auto session = std::find_if(sessions.begin(), sessions.end(),
                                    [&](const Session& s) { return s.session == grant.session; });
        ASSERT_NE(session, sessions.end());
        for (const Flight& flight : session->flights) ASSERT_FALSE(flight.alone);
        ASSERT_TRUE(!grant.alone || session->flights.empty());
        const auto used = static_cast<std::uint32_t>(random.Below(grant.count + 1));
        std::vector<OutgoingDelivery> deliveries(used);
        ASSERT_TRUE(session->session->Deliver(grant, PartitionId(p), deliveries));
        for (const OutgoingDelivery& delivery : deliveries) {
          session->flights.push_back(Flight{delivery.handle, grant.trigger.value(), grant.alone});
        }
        ASSERT_LE(session->flights.size(), session->credit);
        trigger.in_flight += used;
        trigger.begun += used;
        const double passed = std::chrono::duration<double>(now_ - start).count();
        const double kept = trigger.batch + 0.1 * trigger.rate.count;
        ASSERT_TRUE(trigger.rate.count == 0 ||
                    static_cast<double>(trigger.begun) <= passed * trigger.rate.count + kept + 1e-6)
            << trigger.begun << " in " << passed << " s at " << trigger.rate.count;
        ASSERT_TRUE(trigger.concurrency == 0 || trigger.in_flight <= trigger.concurrency);
        ready -= used;
        if (used < grant.count) dispatcher.Release(grant, grant.count - used, 0);
      }
    };
    const auto answer = [&](Session& session) {
      if (session.flights.empty()) return;
      const std::size_t pick = random.Below(session.flights.size());
      const Flight flight = session.flights[pick];
      session.flights.erase(session.flights.begin() + static_cast<std::ptrdiff_t>(pick));
      --triggers[flight.trigger].in_flight;
      FrameAnswers answers;
      answers.acked.push_back(HandleRange{flight.handle, flight.handle});
      ASSERT_EQ(session.session->OnAnswers(std::move(answers), now_, {}), 0u);
    };
    const auto detach = [&] {
      const std::size_t pick = random.Below(sessions.size());
      for (const Flight& flight : sessions[pick].flights) --triggers[flight.trigger].in_flight;
      dispatcher.Detach(sessions[pick].session, random.Below(2) == 0);
      sessions.erase(sessions.begin() + static_cast<std::ptrdiff_t>(pick));
    };
    const auto pass = [&](Duration span) {
      now_ += span;
      const std::map<std::uint32_t, Instant> due = again;
      for (const auto& [p, at] : due) {
        if (at <= now_) exchange(p, false);
      }
    };
    attach();
    for (int step = 0; step < 1500 && !HasFailure(); ++step) {
      const auto p = static_cast<std::uint32_t>(random.Below(4));
      switch (random.Below(9)) {
        case 8:
          pass(std::chrono::microseconds(random.Below(20'000)));
          break;
        case 0:
        case 1: {
          const std::size_t t = random.Below(triggers.size());
          (random.Below(8) == 0 ? triggers[t].alone[p] : triggers[t].ready[p]) += random.Below(6);
          changed[p][t] = true;
          exchange(p, false);
          break;
        }
        case 2:
        case 3:
        case 4:
          if (!sessions.empty()) answer(sessions[random.Below(sessions.size())]);
          break;
        case 5:
          if (sessions.size() < 5 && random.Below(20) == 0) attach();
          if (!sessions.empty() && random.Below(60) == 0) detach();
          break;
        default:
          if (!waker.woken.empty()) {
            const std::uint32_t woken = waker.woken.front();
            waker.woken.erase(waker.woken.begin());
            exchange(woken, true);
          }
      }
    }
    // Somebody serves everything; answers, wakes and what was promised bring it to the end.
    SessionHello hello;
    hello.functions = {"f0", "f1", "f2"};
    hello.credit.events = 3;
    sessions.push_back(
        Session{dispatcher.Attach(hello, std::make_shared<FakeLink>(), now_), 3, {}});
    for (std::uint32_t p = 0; p < 4; ++p) exchange(p, false);
    for (int step = 0; step < 20'000 && !HasFailure(); ++step) {
      const std::vector<std::uint32_t> woken = std::exchange(waker.woken, {});
      for (const std::uint32_t p : woken) exchange(p, true);
      // A turn follows news, as a shard's does.
      for (std::uint32_t p = 0; p < 4; ++p) {
        if (!changed[p].empty()) exchange(p, false);
      }
      for (Session& session : sessions) answer(session);
      pass(std::chrono::milliseconds(50));
    }
    for (const Trigger& trigger : triggers) {
      EXPECT_EQ(trigger.in_flight, 0u);
      for (const auto& [p, ready] : trigger.ready) EXPECT_EQ(ready, 0u) << "partition " << p;
      for (const auto& [p, alone] : trigger.alone) EXPECT_EQ(alone, 0u) << "alone, " << p;
    }
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace tocsin
