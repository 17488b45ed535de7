// The worker's half of the protocol, against a broker whose every frame the test decides.

#include "sdk/cpp/worker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <latch>
#include <stdexcept>
#include <thread>  // Run() blocks, so it needs a thread of the test's

#include "sdk/cpp/engine.h"
#include "tests/unit/sdk/fake_broker.h"

namespace tocsin::sdk {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class WorkerTest : public ::testing::Test {
 protected:
  WorkerOptions Options() {
    WorkerOptions options;
    options.connection = broker_.Connection();
    options.connection.token = "secret";
    options.handle_signals = false;
    return options;
  }
  // Runs the worker, until the session given dies, and takes its first session up to the Welcome.
  std::shared_ptr<FakeSession> Run(Worker& worker, std::uint32_t heartbeat_ms = 4000) {
    worker_ = &worker;
    thread_ = std::thread([this, &worker] { status_ = worker.Run(); });
    auto session = Session(heartbeat_ms);
    // Dies before the test's worker, which is declared before it.
    return {session.get(), [this, session](FakeSession*) { End(); }};
  }
  std::shared_ptr<FakeSession> Session(std::uint32_t heartbeat_ms = 4000) {
    auto session = broker_.NextSession();
    EXPECT_NE(session, nullptr);
    const auto hello = session->NextFrame();
    EXPECT_TRUE(hello.has_value() && hello->has_hello());
    hello_ = hello->hello();
    session->Welcome(heartbeat_ms);
    return session;
  }
  int Stop() {
    worker_->Stop();
    return Join();
  }
  int Join() {
    thread_.join();
    return status_;
  }
  void End() {
    if (thread_.joinable()) {
      worker_->Abort();
      thread_.join();
    }
  }

  FakeBroker broker_;
  v1::Hello hello_;
  Worker* worker_ = nullptr;
  std::thread thread_;
  int status_ = -1;
};

TEST_F(WorkerTest, HelloNamesFunctionsAndTheirSummedCredit) {
  Worker worker("orders", Options());
  worker.On("charge", [](const Event&, Context&) { return Ack(); }, {.concurrency = 8});
  worker.OnBatch("index", [](auto, auto) { return BatchResult{}; },
                 {.max_items = 10, .max_wait = milliseconds(1), .concurrency = 2});
  const auto session = Run(worker);
  EXPECT_EQ(hello_.worker(), "orders");
  EXPECT_EQ(hello_.protocol(), 1U);
  EXPECT_THAT(hello_.functions(), ElementsAre("charge", "index"));
  EXPECT_EQ(hello_.credit().events(), 28U);
  EXPECT_EQ(session->authorization, "Bearer secret");
  EXPECT_EQ(Stop(), 0);
}

TEST_F(WorkerTest, ReturnAcksAndContextTellsTheDelivery) {
  Worker worker("orders", Options());
  std::string seen;
  worker.On("charge", [&](const Event& event, Context& context) {
    seen = std::string(event.id()) + " " + context.delivery_id() + " " + context.trigger() + " " +
           std::to_string(context.attempt()) + " " + std::string(event.data());
    return Ack();
  });
  const auto session = Run(worker);
  session->Deliver("charge", 5, 1, 3);
  EXPECT_THAT(session->Acked(1), ElementsAre(5));
  EXPECT_EQ(seen, R"(5 1/105/3/0 on-order 3 {"total":12})");
  EXPECT_EQ(session->started_through, 5U);
}

TEST_F(WorkerTest, EveryOutcomeReachesTheBroker) {
  Worker worker("orders", Options());
  worker.On("charge", [&](const Event& event, Context&) -> Result {
    const std::string id(event.id());
    if (id == "1") return RetryAfter(milliseconds(2500), "busy");
    if (id == "2") return RetryError("db", "gone");
    if (id == "3") return Reject("never");
    if (id == "4") return Drop("old");
    throw std::runtime_error("broken \xff");
  });
  const auto session = Run(worker);
  const auto answer = [&](std::uint64_t handle) {
    session->Deliver("charge", handle);
    return session->NextOther();
  };
  const v1::Answer after = answer(1);
  EXPECT_EQ(after.retry().after_ms(), 2500U);
  EXPECT_EQ(after.token(), 1001U);
  EXPECT_EQ(answer(2).retry().code(), "db");
  EXPECT_EQ(answer(3).reject().reason(), "never");
  EXPECT_EQ(answer(4).drop().reason(), "old");
  const v1::Answer thrown = answer(5);
  EXPECT_EQ(thrown.retry().code(), "exception");
  EXPECT_EQ(thrown.retry().message(), "broken ?");  // a frame must be UTF-8
  EXPECT_EQ(thrown.retry().after_ms(), 0U);
}

TEST_F(WorkerTest, EmittedEventsRideWithTheAckButNotWithARetry) {
  Worker worker("orders", Options());
  worker.On("charge", [&](const Event&, Context& context) {
    EXPECT_TRUE(context.Emit(Event("order.charged", "/billing")).ok());
    EXPECT_FALSE(context.Emit(Event("", "/billing")).ok());
    Event own("order.charged", "/billing");
    EXPECT_TRUE(context.Emit(own.SetAttribute("traceparent", "00-b")).ok());
    return context.attempt() == 1 ? RetryError("x", "y") : Ack();
  });
  const auto session = Run(worker);
  session->Deliver("charge", 1, 1, 1);
  EXPECT_EQ(session->NextOther().emitted_size(), 0);
  session->Deliver("charge", 2, 1, 2);
  const v1::Answer ack = session->NextOther();
  EXPECT_TRUE(ack.has_ack());
  ASSERT_EQ(ack.emitted_size(), 2);
  const Event emitted = Event::FromEncoded(ack.emitted(0));
  EXPECT_EQ(emitted.type(), "order.charged");
  EXPECT_EQ(emitted.Attribute("causationid"), "2");
  EXPECT_EQ(emitted.Attribute("traceparent"), "00-a");
  EXPECT_EQ(emitted.Attribute("tracestate"), std::nullopt);
  EXPECT_EQ(Event::FromEncoded(ack.emitted(1)).Attribute("traceparent"), "00-b");
}

// The danger: one frame with what all handlers emitted is more than the broker receives.
TEST_F(WorkerTest, FramesStayBoundedWhateverIsEmitted) {
  constexpr int kHandlers = 8;
  Worker worker("orders", Options());
  std::latch all(kHandlers);
  worker.On("charge",
            [&](const Event&, Context& context) {
              Event big("order.charged", "/billing");
              big.SetBytes(std::string(1'500'000, 'x'));
              EXPECT_TRUE(context.Emit(big).ok());
              all.arrive_and_wait();
              return Ack();
            },
            {.concurrency = kHandlers});
  const auto session = Run(worker);
  session->Deliver("charge", 1, kHandlers);
  for (int answers = 0; answers < kHandlers;) {
    const auto frame = session->NextFrame();
    ASSERT_TRUE(frame.has_value());
    EXPECT_LT(frame->ByteSizeLong(), std::size_t{4} << 20);
    answers += frame->answers().others_size();
  }
}

TEST_F(WorkerTest, AcksAreCoalescedIntoRanges) {
  Worker worker("orders", Options());
  worker.On("charge", [&](const Event&, Context&) { return Ack(); }, {.concurrency = 2000});
  const auto session = Run(worker);
  session->Deliver("charge", 1, 2000);
  std::vector<std::uint64_t> handles = session->Acked(2000);
  std::sort(handles.begin(), handles.end());
  EXPECT_EQ(handles.front(), 1U);
  EXPECT_EQ(handles.back(), 2000U);
  EXPECT_TRUE(std::adjacent_find(handles.begin(), handles.end()) == handles.end());
  EXPECT_LT(session->ranges, 1000U);
}

TEST_F(WorkerTest, NeverRunsMoreThanItsConcurrencyAndReportsWhatIsStarted) {
  Worker worker("orders", Options());
  std::atomic<int> running = 0;
  std::atomic<int> most = 0;
  TestQueue<int> begun;
  TestQueue<int> proceed;
  worker.On("charge",
            [&](const Event&, Context&) {
              most = std::max(most.load(), ++running);
              begun.Push(1);
              proceed.Pop();
              --running;
              return Ack();
            },
            {.concurrency = 3});
  const auto session = Run(worker);
  session->Deliver("charge", 1, 9);
  for (int i = 0; i < 3; ++i) {
    begun.Pop();
  }
  std::uint64_t started = 0;
  while (started < 3) {
    const auto frame = session->frames.Pop();
    ASSERT_TRUE(frame.has_value());
    started = frame->answers().started_through();
  }
  EXPECT_EQ(started, 3U);  // and not 9: the rest only waits here
  for (int i = 0; i < 9; ++i) {
    proceed.Push(1);
  }
  EXPECT_EQ(session->Acked(9).size(), 9U);
  EXPECT_EQ(most, 3);
}

// The danger: without an answer the broker counts the worker as busy with it for ever.
TEST_F(WorkerTest, CancelReachesTheHandlerAndItsAnswerSettlesNothing) {
  Worker worker("orders", Options());
  TestQueue<int> begun;
  TestQueue<int> cancelled;
  worker.On("charge", [&](const Event& event, Context& context) {
    if (event.id() == "1") {
      begun.Push(1);
      std::latch over(1);
      context.OnCancel([&over] { over.count_down(); });
      over.wait();
      EXPECT_TRUE(context.Cancelled());
      EXPECT_TRUE(context.Emit(Event("order.charged", "/billing")).ok());
      cancelled.Push(1);
    }
    return Ack();
  });
  const auto session = Run(worker);
  session->Deliver("charge", 1);
  begun.Pop();
  session->Cancel(1);
  ASSERT_TRUE(cancelled.Pop().has_value());
  const v1::Answer stale = session->NextOther();
  EXPECT_EQ(stale.handle(), 1U);
  EXPECT_EQ(stale.token(), 1001U);
  EXPECT_EQ(stale.retry().code(), "cancelled");
  EXPECT_EQ(stale.emitted_size(), 0);
  session->Deliver("charge", 2);
  EXPECT_THAT(session->Acked(1), ElementsAre(2));
}

TEST_F(WorkerTest, ACancelledDeliveryThatWaitsIsNeverRun) {
  Worker worker("orders", Options());
  TestQueue<int> begun;
  TestQueue<int> proceed;
  std::vector<std::string> ran;
  worker.On("charge", [&](const Event& event, Context&) {
    ran.emplace_back(event.id());
    begun.Push(1);
    proceed.Pop();
    return Ack();
  });
  const auto session = Run(worker);
  session->Deliver("charge", 1, 3);
  begun.Pop();
  session->Cancel(2);
  const v1::Answer stale = session->NextOther();
  EXPECT_EQ(stale.handle(), 2U);
  EXPECT_EQ(stale.retry().code(), "cancelled");
  proceed.Push(1);
  proceed.Push(1);
  EXPECT_THAT(session->Acked(2), ElementsAre(1, 3));
  EXPECT_THAT(ran, ElementsAre("1", "3"));
}

TEST_F(WorkerTest, ExtendIsSentWhileTheHandlerRuns) {
  Worker worker("orders", Options());
  TestQueue<int> proceed;
  worker.On("charge", [&](const Event&, Context& context) {
    context.Extend(milliseconds(60'000));
    EXPECT_EQ(context.lease(), milliseconds(60'000));
    proceed.Pop();
    return Ack();
  });
  const auto session = Run(worker);
  session->Deliver("charge", 1);
  EXPECT_EQ(session->NextOther().extend().by_ms(), 60'000U);
  proceed.Push(1);
  EXPECT_THAT(session->Acked(1), ElementsAre(1));
}

// The danger: what waits behind a slow handler loses its lease and runs twice.
TEST_F(WorkerTest, TheLeaseOfWhatWaitsIsRenewedAndThatOfWhatRunsIsNot) {
  Worker worker("orders", Options());
  TestQueue<int> begun;
  TestQueue<int> proceed;
  worker.On("charge", [&](const Event&, Context&) {
    begun.Push(1);
    proceed.Pop();
    return Ack();
  });
  const auto session = Run(worker);
  session->Deliver("charge", 1, 2, 1, 200);
  begun.Pop();
  for (int i = 0; i < 2; ++i) {
    const v1::Answer extended = session->NextOther();
    EXPECT_EQ(extended.handle(), 2U);
    EXPECT_EQ(extended.token(), 1002U);
    ASSERT_TRUE(extended.has_extend());
    EXPECT_EQ(extended.extend().by_ms(), 0U);
  }
  proceed.Push(1);
  proceed.Push(1);
  EXPECT_THAT(session->Acked(2), ElementsAre(1, 2));
}

// The danger: a worker that can answer no more runs what the broker sent meanwhile, for nothing.
TEST(EngineTest, WhatArrivesAfterTheLastAnswerIsNotRun) {
  internal::Engine engine("orders", WorkerOptions());
  std::atomic<int> ran = 0;
  const auto count = [&ran](const Event&, Context&) {
    ++ran;
    return Ack();
  };
  engine.AddFunction("charge", count, 1);
  engine.StartThreads();
  engine.BeginSession([] {}, [] {});
  const auto deliver = [&engine](std::uint64_t handle) {
    internal::DeliveryFrame frame;
    frame.functions.push_back({.function = 1, .name = "charge"});
    internal::Delivery delivery;
    delivery.handle = handle;
    delivery.function = 1;
    frame.deliveries.push_back(delivery);
    engine.Deliver(frame);
    engine.LetRun();
  };
  deliver(1);
  EXPECT_FALSE(engine.CloseIfIdle());  // it waits, runs or is to be answered
  v1::Answers answers;
  while (answers.acked().empty()) engine.TakeAnswers(&answers);
  ASSERT_TRUE(engine.CloseIfIdle());
  deliver(2);
  engine.StopThreads();
  EXPECT_EQ(ran, 1);
}

// Each thread that begins wakes the next: all that may run at once do.
TEST_F(WorkerTest, AllThatMayRunAtOnceDo) {
  Worker worker("orders", Options());
  TestQueue<std::string> begun;
  TestQueue<int> proceed;
  const auto wait = [&](const Event& event, Context&) {
    begun.Push(std::string(event.id()));
    proceed.Pop();
    return Ack();
  };
  worker.On("charge", wait, {.concurrency = 4});
  worker.On("mail", wait, {.concurrency = 2});
  const auto session = Run(worker);
  session->Deliver("charge", 1, 5);
  session->Deliver("mail", 6, 3);
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(begun.Pop().has_value()) << i << " have begun";
  for (int i = 0; i < 8; ++i) proceed.Push(1);
  EXPECT_THAT(session->Acked(8), testing::SizeIs(8));
}

// An idle worker's threads all sleep; a batch that is not full needs one that wakes in time.
TEST_F(WorkerTest, PartsOfBatchesGoInTimeWhateverTheOthersWaitFor) {
  Worker worker("orders", Options());
  TestQueue<int> begun;
  TestQueue<int> proceed;
  worker.OnBatch("hourly", [](auto, auto) { return BatchResult{}; },
                 {.max_items = 100, .max_wait = std::chrono::hours(1), .concurrency = 1});
  worker.OnBatch("soon", [](auto, auto) { return BatchResult{}; },
                 {.max_items = 100, .max_wait = milliseconds(40), .concurrency = 1});
  worker.On("slow", [&](const Event&, Context&) {
    begun.Push(1);
    proceed.Pop();
    return Ack();
  });
  const auto session = Run(worker);
  session->Deliver("soon", 1, 1);
  EXPECT_THAT(session->Acked(1), ElementsAre(1));
  session->Deliver("hourly", 2, 1);
  session->Deliver("soon", 3, 1);
  EXPECT_THAT(session->Acked(1), ElementsAre(3));
  // Whoever would have woken for it is busy.
  session->Deliver("soon", 4, 1);
  session->Deliver("slow", 5, 1);
  EXPECT_TRUE(begun.Pop().has_value());
  EXPECT_THAT(session->Acked(1), ElementsAre(4));
  proceed.Push(1);
}

TEST_F(WorkerTest, HeartbeatsComeWhileAHandlerHangs) {
  Worker worker("orders", Options());
  TestQueue<int> proceed;
  worker.On("charge", [&](const Event&, Context&) {
    proceed.Pop();
    return Ack();
  });
  const auto session = Run(worker, 20);
  session->Deliver("charge", 1);
  for (int beats = 0; beats < 3;) {
    const auto frame = session->NextFrame();
    ASSERT_TRUE(frame.has_value());
    beats += frame->has_heartbeat() ? 1 : 0;
  }
  proceed.Push(1);
}

TEST_F(WorkerTest, BrokenConnectionForgetsAnswersAndAttachesAgain) {
  Worker worker("orders", Options());
  TestQueue<bool> cancelled;
  TestQueue<int> begun;
  worker.On("charge", [&](const Event& event, Context& context) {
    if (event.id() == "1") {
      begun.Push(1);
      std::latch over(1);
      context.OnCancel([&over] { over.count_down(); });
      over.wait();
      cancelled.Push(context.Cancelled());
    }
    return Ack();
  });
  const auto session = Run(worker);
  session->Deliver("charge", 1, 5);
  begun.Pop();
  session->Kill();
  EXPECT_EQ(cancelled.Pop(), true);
  const auto next = Session();
  next->Deliver("charge", 2, 2);
  EXPECT_THAT(next->Acked(2), ElementsAre(2, 3));
}

TEST_F(WorkerTest, ComesBackAfterARefusalAndSaysWhy) {
  broker_.set_attach_status({grpc::StatusCode::UNAUTHENTICATED, "no such token"});
  WorkerOptions options = Options();
  TestQueue<std::string> lines;
  options.connection.log = [&](std::string_view line) { lines.Push(std::string(line)); };
  Worker worker("orders", options);
  worker.On("charge", [](const Event&, Context&) { return Ack(); });
  const auto session = Run(worker);
  EXPECT_THAT(lines.Pop().value_or(""), HasSubstr("UNAUTHENTICATED: no such token"));
  EXPECT_EQ(Stop(), 0);
}

TEST_F(WorkerTest, StopFinishesWhatItHoldsThenLeaves) {
  Worker worker("orders", Options());
  TestQueue<int> begun;
  TestQueue<int> proceed;
  worker.On("charge", [&](const Event&, Context&) {
    begun.Push(1);
    proceed.Pop();
    return Ack();
  });
  const auto session = Run(worker);
  session->Deliver("charge", 1, 2);
  begun.Pop();
  worker.Stop();
  const auto leaving = session->NextFrame();
  ASSERT_TRUE(leaving.has_value());
  EXPECT_TRUE(leaving->has_leaving());
  proceed.Push(1);
  proceed.Push(1);
  EXPECT_THAT(session->Acked(2), ElementsAre(1, 2));
  EXPECT_EQ(session->frames.Pop(), std::nullopt);  // half-closed, nothing after the answers
  EXPECT_EQ(Join(), 0);
}

TEST_F(WorkerTest, BrokersDrainMakesItLeaveAndComeBack) {
  Worker worker("orders", Options());
  worker.On("charge", [](const Event&, Context&) { return Ack(); });
  const auto session = Run(worker);
  session->Drain();
  const auto leaving = session->NextFrame();
  ASSERT_TRUE(leaving.has_value());
  EXPECT_TRUE(leaving->has_leaving());
  const auto next = Session();
  next->Deliver("charge", 1);
  EXPECT_THAT(next->Acked(1), ElementsAre(1));
}

TEST_F(WorkerTest, SigtermDrains) {
  WorkerOptions options = Options();
  options.handle_signals = true;
  Worker worker("orders", options);
  worker.On("charge", [](const Event&, Context&) { return Ack(); });
  const auto session = Run(worker);
  session->Deliver("charge", 1);
  session->Acked(1);
  raise(SIGTERM);
  const auto leaving = session->NextFrame();
  ASSERT_TRUE(leaving.has_value());
  EXPECT_TRUE(leaving->has_leaving());
  EXPECT_EQ(Join(), 0);
}

TEST_F(WorkerTest, AbortCancelsWhatRuns) {
  Worker worker("orders", Options());
  TestQueue<int> begun;
  worker.On("charge", [&](const Event&, Context& context) {
    std::latch over(1);
    context.OnCancel([&over] { over.count_down(); });
    begun.Push(1);
    over.wait();
    return Ack();
  });
  const auto session = Run(worker);
  session->Deliver("charge", 1);
  begun.Pop();
  worker.Abort();
  EXPECT_EQ(Join(), 1);
}

TEST_F(WorkerTest, BatchGetsWhatArrivedAndAnswersOneByOne) {
  Worker worker("orders", Options());
  std::vector<std::size_t> sizes;
  worker.OnBatch("index",
                 [&](std::span<const Event> events, std::span<Context* const> contexts) {
                   sizes.push_back(events.size());
                   BatchResult results(events.size());
                   for (std::size_t i = 0; i < events.size(); ++i) {
                     EXPECT_EQ(contexts[i]->trigger(), "on-order");
                     if (events[i].id() == "2") results[i] = Reject("odd one");
                   }
                   return results;
                 },
                 {.max_items = 4, .max_wait = milliseconds(30)});
  const auto session = Run(worker);
  session->Deliver("index", 1, 4);
  const auto frame = session->NextFrame();
  ASSERT_TRUE(frame.has_value());
  EXPECT_EQ(frame->answers().acked_size(), 2);  // 1, 3 to 4
  ASSERT_EQ(frame->answers().others_size(), 1);
  EXPECT_EQ(frame->answers().others(0).reject().reason(), "odd one");
  session->Deliver("index", 5, 1);  // never full: goes after max_wait
  EXPECT_THAT(session->Acked(1), ElementsAre(5));
  EXPECT_THAT(sizes, ElementsAre(4, 1));
}

TEST_F(WorkerTest, ManySessionsAndDeliveriesUnderLoadAreEachAnsweredOnce) {
  Worker worker("orders", Options());
  std::atomic<int> calls = 0;
  worker.On("charge",
            [&](const Event&, Context&) {
              ++calls;
              return Ack();
            },
            {.concurrency = 4});
  const auto session = Run(worker);
  for (std::uint64_t first = 1; first < 20'000; first += 500) {
    session->Deliver("charge", first, 500);
  }
  EXPECT_EQ(session->Acked(20'000).size(), 20'000U);
  EXPECT_EQ(calls, 20'000);
  EXPECT_EQ(Stop(), 0);
}

}  // namespace
}  // namespace tocsin::sdk
