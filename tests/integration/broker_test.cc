// A whole broker: published events, workers, dead letters, restarts.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/integration/broker_fixture.h"

namespace tocsin {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class BrokerTest : public BrokerFixture {};

TEST_F(BrokerTest, PublishedEventsReachAWorkerAndTheBooksSurviveARestart) {
  SetConfig(OneTrigger());
  StartBroker();
  std::vector<std::string> events;
  for (int i = 0; i < 50; ++i) {
    events.push_back(MakeEvent("e" + std::to_string(i), "test.event", "k" + std::to_string(i % 5)));
  }
  const v1::PublishResponse response = PublishAll(events);
  EXPECT_EQ(response.accepted(), 50u);
  EXPECT_EQ(response.durability(), v1::DURABILITY_DURABLE);
  EXPECT_THAT(response.exceptions(), IsEmpty());
  {
    TestWorker worker(Channel(), "work");
    ASSERT_TRUE(worker.attached());
    std::set<std::string> seen;
    // One delivery of a key at a time, so they come in rounds.
    while (seen.size() < 50) {
      const std::vector<v1::Delivery> deliveries = worker.Take(1);
      ASSERT_FALSE(deliveries.empty());
      for (const v1::Delivery& delivery : deliveries) {
        EXPECT_TRUE(seen.insert(IdOf(delivery)).second);
        EXPECT_EQ(delivery.attempt(), 1u);
      }
      worker.Ack(deliveries);
    }
    EXPECT_TRUE(Eventually([&] { return Books("all").acked() == 50; }));
  }
  RestartBroker();
  const v1::TriggerStatus books = Books("all");
  EXPECT_EQ(books.matched(), 50u);
  EXPECT_EQ(books.acked(), 50u);
  EXPECT_EQ(books.pending(), 0u);
  EXPECT_EQ(books.state(), "active");
}

// The payload is looked at before the append, so the match list has the answer for good.
TEST_F(BrokerTest, TriggersMatchPayloadsAndExpressions) {
  SetConfig(R"(functions:
  work: {}
triggers:
  large:
    function: work
    pattern: { data: { total: [ { numeric: [ ">", 100 ] } ], items: { sku: [ a, b ] } } }
  either:
    function: work
    filters: [ { cesql: "type LIKE 'order.%' AND NOT EXISTS region" } ]
    pattern: { $or: [ { data: { vip: [ true ] } }, { subject: [ { suffix: .csv } ] } ] }
)");
  StartBroker();
  int id = 0;
  const auto event = [&id](const std::string& payload, const std::string& subject) {
    EventBuilder builder(std::to_string(++id), "/shop", "order.paid");
    builder.Attribute("subject", subject).Attribute("datacontenttype", "application/json");
    builder.TextData(payload);
    return std::move(builder).Encode();
  };
  PublishAll({event(R"({"total":101,"items":[{"sku":"b"}]})", "x"),
              event(R"({"total":100,"items":[{"sku":"b"}]})", "x"),
              event(R"({"total":101,"items":[{"sku":"c"}],"vip":true})", "x"),
              event(R"({"total":101,"total":101,"items":[{"sku":"a"}]})", "x"),
              event("no JSON", "in/a.csv")});
  EXPECT_EQ(Books("large").matched(), 1u);
  EXPECT_EQ(Books("either").matched(), 2u);
  RestartBroker();
  EXPECT_EQ(Books("large").matched(), 1u);
  EXPECT_EQ(Books("either").matched(), 2u);
  TestWorker worker(Channel(), "work");
  ASSERT_TRUE(worker.attached());
  const std::vector<v1::Delivery> deliveries = worker.Take(3);
  std::multiset<std::string> ids;
  for (const v1::Delivery& delivery : deliveries) ids.insert(IdOf(delivery));
  EXPECT_EQ(ids, (std::multiset<std::string>{"1", "3", "5"}));
}

TEST_F(BrokerTest, WhatWasNotSettledIsDeliveredAfterARestart) {
  SetConfig(OneTrigger());
  StartBroker();
  PublishAll({MakeEvent("a", "t", "k"), MakeEvent("b", "t", "k")});
  RestartBroker();
  TestWorker worker(Channel(), "work");
  std::vector<v1::Delivery> first = worker.Take(1);
  ASSERT_THAT(first, SizeIs(1));
  EXPECT_EQ(IdOf(first[0]), "a");
  worker.Ack(first);
  const std::vector<v1::Delivery> second = worker.Take(1);
  ASSERT_THAT(second, SizeIs(1));
  EXPECT_EQ(IdOf(second[0]), "b");
}

TEST_F(BrokerTest, ASecondBrokerOnTheDataDirectoryIsRefused) {
  SetConfig(OneTrigger());
  StartBroker();
  const absl::StatusOr<std::unique_ptr<Server>> second = Server::Start(Options());
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition) << second.status();
  // The first one is not disturbed, and its address is still there.
  EXPECT_TRUE(std::filesystem::exists(dir_ + "/data/" + kEndpointsFile));
  EXPECT_EQ(PublishAll({MakeEvent("a")}).accepted(), 1u);
}

TEST_F(BrokerTest, AnotherNumberOfPartitionsIsRefused) {
  SetConfig(OneTrigger());
  StartBroker();
  StopBroker();
  config_.replace(config_.find("partitions: 2"), 13, "partitions: 3");
  const absl::StatusOr<std::unique_ptr<Server>> other = Server::Start(Options());
  ASSERT_FALSE(other.ok());
  EXPECT_THAT(std::string(MessageOf(other.status())), HasSubstr("2"));
  EXPECT_THAT(std::string(MessageOf(other.status())), HasSubstr("3"));
}

TEST_F(BrokerTest, ARepeatAfterARestartIsADuplicateOfTheFirst) {
  SetConfig(OneTrigger());
  StartBroker();
  v1::PublishRequest request;
  AddEvent(request, MakeEvent("once"));
  const v1::PublishResponse first = Publish(request, true);
  ASSERT_EQ(first.refs_size(), 1);
  RestartBroker();
  const v1::PublishResponse again = Publish(request);
  EXPECT_EQ(again.accepted(), 1u);
  ASSERT_EQ(again.exceptions_size(), 1);
  EXPECT_TRUE(again.exceptions(0).duplicate());
  EXPECT_EQ(again.exceptions(0).first().partition(), first.refs(0).partition());
  EXPECT_EQ(again.exceptions(0).first().offset(), first.refs(0).offset());
  EXPECT_EQ(Books("all").matched(), 1u);
}

TEST_F(BrokerTest, OddEventsAreRefusedAloneAndTheStreamLives) {
  SetConfig(OneTrigger());
  StartBroker();
  const auto stub = v1::Publisher::NewStub(Channel());
  grpc::ClientContext context;
  SetDeadline(context);
  const auto stream = stub->PublishStream(&context);
  v1::PublishRequest request;
  request.set_sequence(7);
  AddEvent(request, MakeEvent("good"));
  request.add_events();  // no bytes at all
  EventBuilder large("large", "/test", "t");
  large.BinaryData(std::string((1 << 20) + 1, 'x'));
  AddEvent(request, std::move(large).Encode());
  io::cloudevents::v1::CloudEvent& nul = *request.add_events();
  ASSERT_TRUE(nul.ParseFromString(MakeEvent("nul")));
  (*nul.mutable_attributes())["partitionkey"].set_ce_string(std::string("a\0b", 3));
  io::cloudevents::v1::CloudEvent& crowded = *request.add_events();
  ASSERT_TRUE(crowded.ParseFromString(MakeEvent("crowded")));
  for (int i = 0; i < 1000; ++i) {
    (*crowded.mutable_attributes())["x" + std::to_string(i)].set_ce_integer(i);
  }
  AddEvent(request, MakeEvent("good too"));
  ASSERT_TRUE(stream->Write(request));
  v1::PublishResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.sequence(), 7u);
  EXPECT_EQ(response.accepted(), 2u);
  std::vector<std::uint32_t> refused;
  for (const v1::EventResult& result : response.exceptions()) {
    refused.push_back(result.index());
    EXPECT_NE(result.code(), 0);
    EXPECT_FALSE(result.error().empty());
  }
  EXPECT_THAT(refused, ElementsAre(1, 2, 3, 4));
  v1::PublishRequest more;
  more.set_sequence(8);
  AddEvent(more, MakeEvent("later"));
  ASSERT_TRUE(stream->Write(more));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.sequence(), 8u);
  EXPECT_EQ(response.accepted(), 1u);
  stream->WritesDone();
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(BrokerTest, ManyRequestsUnderWayAreAnsweredInOrder) {
  SetConfig(OneTrigger());
  StartBroker();
  const auto stub = v1::Publisher::NewStub(Channel());
  grpc::ClientContext context;
  SetDeadline(context);
  const auto stream = stub->PublishStream(&context);
  constexpr std::uint64_t kRequests = 300;
  for (std::uint64_t sequence = 1; sequence <= kRequests; ++sequence) {
    v1::PublishRequest request;
    request.set_sequence(sequence);
    AddEvent(request, MakeEvent("e" + std::to_string(sequence)));
    ASSERT_TRUE(stream->Write(request));
  }
  stream->WritesDone();
  v1::PublishResponse response;
  for (std::uint64_t sequence = 1; sequence <= kRequests; ++sequence) {
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.sequence(), sequence);
    EXPECT_EQ(response.accepted(), 1u);
  }
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(Books("all").matched(), kRequests);
}

TEST_F(BrokerTest, AKilledWorkersDeliveriesGoToAnotherInKeyOrder) {
  SetConfig(OneTrigger());
  StartBroker();
  PublishAll({MakeEvent("1", "t", "k"), MakeEvent("2", "t", "k"), MakeEvent("3", "t", "k")});
  TestWorker doomed(Channel(), "work");
  ASSERT_THAT(doomed.Take(1), SizeIs(1));
  doomed.Kill();
  TestWorker heir(Channel(), "work");
  std::vector<std::string> order;
  const Instant begun = clock_.Monotonic();
  for (int i = 0; i < 3; ++i) {
    const std::vector<v1::Delivery> deliveries = heir.Take(1);
    ASSERT_THAT(deliveries, SizeIs(1));
    order.push_back(IdOf(deliveries[0]));
    // Nothing was reported as started, so the death cost no attempt.
    EXPECT_EQ(deliveries[0].attempt(), 1u);
    heir.Ack(deliveries);
  }
  EXPECT_LT(clock_.Monotonic() - begun, std::chrono::seconds(5)) << "not by the lease's end";
  EXPECT_THAT(order, ElementsAre("1", "2", "3"));
}

TEST_F(BrokerTest, ConfirmedTellsThatSettlementsAreDurable) {
  SetConfig(OneTrigger());
  StartBroker();
  PublishAll({MakeEvent("a"), MakeEvent("b")});
  TestWorker worker(Channel(), "work", 10, true);
  std::vector<v1::Delivery> deliveries = worker.Take(2);
  worker.Ack(deliveries, 41);
  v1::BrokerFrame frame;
  ASSERT_TRUE(worker.ReadUntil([](const v1::BrokerFrame& f) { return f.has_confirmed(); }, &frame));
  EXPECT_EQ(frame.confirmed().sequence(), 41u);
}

TEST_F(BrokerTest, EmittedEventsAreDurableWithTheAck) {
  SetConfig(
      "functions:\n  work: {}\n  next: {}\ntriggers:\n"
      "  first:\n    function: work\n    filters: [ { exact: { type: first } } ]\n"
      "  second:\n    function: next\n    filters: [ { exact: { type: second } } ]\n");
  StartBroker();
  PublishAll({MakeEvent("a", "first")});
  TestWorker worker(Channel(), "work");
  const std::vector<v1::Delivery> deliveries = worker.Take(1);
  ASSERT_THAT(deliveries, SizeIs(1));
  v1::Answer answer;
  answer.set_handle(deliveries[0].handle());
  answer.mutable_ack();
  for (int i = 0; i < 8; ++i) answer.add_emitted(MakeEvent("out" + std::to_string(i), "second"));
  worker.Answer(answer);
  TestWorker next(Channel(), "next");
  std::set<std::string> seen;
  while (seen.size() < 8) {
    const std::vector<v1::Delivery> out = next.Take(1);
    ASSERT_FALSE(out.empty());
    for (const v1::Delivery& delivery : out) seen.insert(IdOf(delivery));
    next.Ack(out);
  }
  EXPECT_TRUE(Eventually([&] { return Books("second").acked() == 8; }));
}

TEST_F(BrokerTest, TooManyEmittedEventsMakeTheAnswerAFailedAttempt) {
  SetConfig(OneTrigger("    retry: { attempts: 1 }\n"));
  StartBroker();
  PublishAll({MakeEvent("a")});
  TestWorker worker(Channel(), "work");
  const std::vector<v1::Delivery> deliveries = worker.Take(1);
  ASSERT_THAT(deliveries, SizeIs(1));
  v1::Answer answer;
  answer.set_handle(deliveries[0].handle());
  answer.mutable_ack();
  for (int i = 0; i < 257; ++i) answer.add_emitted(MakeEvent("out" + std::to_string(i)));
  worker.Answer(answer);
  std::vector<v1::Letter> letters;
  ASSERT_TRUE(Eventually([&] { return (letters = Letters()).size() == 1; }));
  EXPECT_EQ(Books("all").dead(), 1u);
  ASSERT_EQ(letters[0].history_size(), 1);
  EXPECT_EQ(letters[0].history(0).code(), "emit_limit");
  EXPECT_EQ(Books("all").matched(), 1u) << "nothing of it was half applied";
}

TEST_F(BrokerTest, RejectedEventsAreLettersThatCanBeRedrivenAndDiscarded) {
  SetConfig(OneTrigger());
  StartBroker();
  PublishAll({MakeEvent("a", "t", "ka"), MakeEvent("b", "t", "kb")});
  TestWorker worker(Channel(), "work");
  for (const v1::Delivery& delivery : worker.Take(2)) {
    v1::Answer answer;
    answer.set_handle(delivery.handle());
    answer.mutable_reject()->set_reason("no good: " + IdOf(delivery));
    worker.Answer(answer);
  }
  std::vector<v1::Letter> letters;
  ASSERT_TRUE(Eventually([&] { return (letters = Letters()).size() == 2; }));
  EXPECT_EQ(Books("all").dead(), 2u);
  EXPECT_EQ(letters[0].reason(), "rejected");
  EXPECT_EQ(letters[0].trigger(), "all");
  EXPECT_THAT(letters[0].message(), HasSubstr("no good"));
  if (letters[0].event_id() != "a") std::swap(letters[0], letters[1]);
  EXPECT_EQ(letters[0].event(), MakeEvent("a", "t", "ka"));

  v1::CloseLettersRequest redrive;
  redrive.set_action(v1::CloseLettersRequest::REDRIVE);
  redrive.mutable_filter()->add_ids(letters[0].id());
  redrive.set_dry_run(true);
  std::vector<v1::CloseLettersProgress> progress = CloseLetters(redrive);
  ASSERT_THAT(progress, SizeIs(1));
  EXPECT_EQ(progress[0].id(), letters[0].id());
  EXPECT_THAT(Letters(), SizeIs(2)) << "a dry run changes nothing";
  redrive.set_dry_run(false);
  progress = CloseLetters(redrive);
  ASSERT_THAT(progress, SizeIs(1));
  EXPECT_EQ(progress[0].done(), 1u);
  EXPECT_EQ(progress[0].total(), 1u);
  const std::vector<v1::Delivery> again = worker.Take(1);
  ASSERT_THAT(again, SizeIs(1));
  EXPECT_EQ(IdOf(again[0]), "a");
  EXPECT_GT(again[0].run(), 0u);
  worker.Ack(again);

  v1::CloseLettersRequest discard;
  discard.set_action(v1::CloseLettersRequest::DISCARD);
  discard.mutable_filter()->set_key("kb");
  ASSERT_THAT(CloseLetters(discard), SizeIs(1));
  EXPECT_THAT(Letters(), IsEmpty());
  EXPECT_TRUE(Eventually([&] {
    const v1::TriggerStatus books = Books("all");
    return books.matched() == 3 && books.acked() == 1 && books.dead() == 2;
  }));
}

TEST_F(BrokerTest, TailShowsStoredEventsAndFollowsNewOnes) {
  SetConfig(OneTrigger("    filters: [ { prefix: { type: keep } } ]\n"));
  StartBroker();
  PublishAll({MakeEvent("a", "keep.1"), MakeEvent("b", "other"), MakeEvent("c", "keep.2")});
  const auto stub = v1::Admin::NewStub(Channel());
  const auto tail = [&](const v1::TailRequest& request, std::size_t count) {
    grpc::ClientContext context;
    SetDeadline(context);
    const auto reader = stub->Tail(&context, request);
    std::set<std::string> ids;
    v1::TailEvent event;
    while (ids.size() < count && reader->Read(&event)) {
      EventView view;
      EXPECT_TRUE(ParseEvent(event.event(), view).ok());
      ids.emplace(view.id);
    }
    EXPECT_FALSE(reader->Read(&event)) << "nothing after the last";
    context.TryCancel();
    reader->Finish();
    return ids;
  };
  v1::TailRequest request;
  request.set_from("start");
  EXPECT_THAT(tail(request, 3), ElementsAre("a", "b", "c"));
  request.set_trigger("all");
  EXPECT_THAT(tail(request, 2), ElementsAre("a", "c"));
  request.set_limit(1);
  EXPECT_THAT(tail(request, 1), SizeIs(1));

  v1::TailRequest follow;
  follow.set_from("end");
  follow.set_follow(true);
  grpc::ClientContext context;
  SetDeadline(context);
  const auto reader = stub->Tail(&context, follow);
  v1::TailEvent event;
  // What is published before the tail has looked at the end is not its business, so go on until
  // it shows something.
  int number = 0;
  ASSERT_TRUE(Eventually([&] {
    PublishAll({MakeEvent("f" + std::to_string(number++))});
    return number > 20;
  }));
  ASSERT_TRUE(reader->Read(&event));
  EventView view;
  ASSERT_TRUE(ParseEvent(event.event(), view).ok());
  EXPECT_EQ(view.id[0], 'f');
  context.TryCancel();
  reader->Finish();
}

TEST_F(BrokerTest, ATimerFires) {
  SetConfig("sources:\n  tick: { timer: { cron: \"@every 100ms\" } }\n" +
            OneTrigger("    sources: [tick]\n"));
  StartBroker();
  TestWorker worker(Channel(), "work");
  const std::vector<v1::Delivery> deliveries = worker.Take(1);
  ASSERT_THAT(deliveries, SizeIs(1));
  EXPECT_THAT(IdOf(deliveries[0]), HasSubstr("tick/"));
  EventView view;
  ASSERT_TRUE(ParseEvent(deliveries[0].event(), view).ok());
  EXPECT_EQ(view.type, "dev.tocsin.timer.fired");
  EXPECT_EQ(view.source, "/sources/tick");
  // While a fire is not settled the next is skipped; then it goes on.
  worker.Ack(deliveries);
  const std::vector<v1::Delivery> later = worker.Take(1);
  ASSERT_THAT(later, SizeIs(1));
  EXPECT_NE(IdOf(later[0]), IdOf(deliveries[0]));
}

}  // namespace
}  // namespace tocsin
