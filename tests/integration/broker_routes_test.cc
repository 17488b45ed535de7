// A whole broker: triggers of the API, explain, replay.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "tests/integration/broker_fixture.h"

namespace tocsin {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

class BrokerRoutesTest : public BrokerFixture {
 protected:
  v1::ApplyTriggersResponse Apply(const std::string& text) {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::ApplyTriggersRequest request;
    request.set_text(text);
    request.set_file("more.yaml");
    v1::ApplyTriggersResponse response;
    const grpc::Status status =
        v1::Admin::NewStub(Channel())->ApplyTriggers(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  grpc::Status Remove(const std::string& name) {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::RemoveTriggersRequest request;
    request.add_names(name);
    v1::RemoveTriggersResponse response;
    return v1::Admin::NewStub(Channel())->RemoveTriggers(&context, request, &response);
  }

  struct Explained {
    grpc::Status status;
    v1::ExplainedEvent event;
    std::map<std::string, v1::TriggerVerdict> verdicts;
    std::vector<v1::RefusedEvent> refused;
  };
  Explained Explain(const v1::ExplainRequest& request) {
    grpc::ClientContext context;
    SetDeadline(context);
    const auto stub = v1::Admin::NewStub(Channel());
    const auto reader = stub->Explain(&context, request);
    Explained explained;
    v1::ExplainItem item;
    while (reader->Read(&item)) {
      if (item.has_event()) explained.event = item.event();
      if (item.has_verdict()) explained.verdicts[item.verdict().trigger()] = item.verdict();
      if (item.has_refused()) explained.refused.push_back(item.refused());
    }
    explained.status = reader->Finish();
    return explained;
  }
  Explained ExplainId(const std::string& id, const std::string& source = "") {
    v1::ExplainRequest request;
    request.set_id(id);
    request.set_event_source(source);
    return Explain(request);
  }
};

constexpr char kTwoFunctions[] =
    "functions:\n  work: {}\n  other: {}\ntriggers:\n  all:\n    function: work\n"
    "  paid:\n    function: other\n    filters: [ { exact: { type: order.paid } } ]\n";

TEST_F(BrokerRoutesTest, AnAppliedTriggerMatchesAtOnceAndIsThereAfterARestart) {
  SetConfig(OneTrigger());
  StartBroker();
  EXPECT_THAT(Apply("triggers:\n  more:\n    function: work\n"
                    "    filters: [ { suffix: { subject: .csv } } ]\n"
                    "    retry: { attempts: unlimited }\n  wide: { function: work }\n")
                  .changes(),
              ElementsAre("trigger `more`: added", "trigger `wide`: added"));
  PublishAll({MakeEvent("e1")});
  EXPECT_EQ(Books("wide").matched(), 1u);
  EXPECT_EQ(Books("more").matched(), 0u);
  EXPECT_EQ(Books("wide").origin(), "api");
  EXPECT_EQ(Books("all").origin(), "file");
  RestartBroker();
  EXPECT_EQ(Books("wide").state(), "active");
  PublishAll({MakeEvent("e2")});
  EXPECT_EQ(Books("wide").matched(), 2u);
  // Applied again as it is, nothing changes; with another condition, it does.
  EXPECT_THAT(Apply("triggers: { wide: { function: work } }").changes(), IsEmpty());
  EXPECT_THAT(Apply("triggers: { wide: { function: work, "
                    "pattern: { data: { n: [ { numeric: ['>', 1] } ] } } } }")
                  .changes(),
              ElementsAre("trigger `wide`: changed"));
  PublishAll({MakeEvent("e3")});
  EXPECT_EQ(Books("wide").matched(), 2u);
  EXPECT_TRUE(server_->Reload().errors.empty());
  EXPECT_EQ(Books("wide").state(), "active");
  EXPECT_TRUE(Remove("wide").ok());
  EXPECT_EQ(Books("wide").state(), "detached");
  EXPECT_EQ(Remove("wide").error_code(), grpc::StatusCode::NOT_FOUND);
  RestartBroker();
  EXPECT_EQ(Books("wide").state(), "detached");
  EXPECT_EQ(Books("more").state(), "active");
}

TEST_F(BrokerRoutesTest, ErrorsHaveTheirPlaceAndChangeNothing) {
  SetConfig(OneTrigger());
  StartBroker();
  const auto errors = [this](const std::string& text) {
    const v1::ApplyTriggersResponse response = Apply(text);
    EXPECT_THAT(response.changes(), IsEmpty());
    std::string all;
    for (const std::string& error : response.errors()) all += error + "\n";
    return all;
  };
  EXPECT_THAT(
      errors("triggers:\n  good: { function: work }\n  bad:\n    function: wrok\n"),
      AllOf(HasSubstr("more.yaml:4:15: "), HasSubstr("did you mean `work`"), HasSubstr("[T0107]")));
  EXPECT_THAT(errors("triggers:\n  all: { function: work }\n"),
              AllOf(HasSubstr("more.yaml:2:3: "), HasSubstr("[T0320]")));
  EXPECT_THAT(errors("triggers: { a: { function: '${env:HOME}' } }"), HasSubstr("[T0108]"));
  EXPECT_THAT(errors("sources: {}\ntriggers: {}\n"), HasSubstr("[T0102]"));
  EXPECT_THAT(errors("triggers: { a: { function: work, was: all } }"), HasSubstr("[T0106]"));
  EXPECT_THAT(Books("good").name(), "");
  EXPECT_EQ(Remove("all").error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(BrokerRoutesTest, ExplainTellsThatADeliveryWaitsForTheRate) {
  SetConfig(OneTrigger());
  StartBroker();
  EXPECT_THAT(Apply("triggers: { slow: { function: work, rate: 1/h, "
                    "filters: [ { exact: { type: slow } } ] } }")
                  .changes(),
              ElementsAre("trigger `slow`: added"));
  TestWorker worker(Channel(), "work");
  PublishAll({MakeEvent("a", "slow", "k"), MakeEvent("b", "slow", "k")});
  worker.Ack(worker.Take(2));
  worker.Ack(worker.Take(1));  // b of `all`
  ASSERT_TRUE(Eventually([&] { return Books("slow").acked() + Books("all").acked() == 3; }));
  ASSERT_TRUE(Eventually([&] { return Books("slow").state() == "throttled"; }));
  const Explained explained = ExplainId("b");
  EXPECT_TRUE(explained.status.ok());
  const v1::TriggerVerdict& verdict = explained.verdicts.at("slow");
  EXPECT_EQ(verdict.state(), "throttled");
  EXPECT_THAT(std::vector<std::string>(verdict.notes().begin(), verdict.notes().end()),
              ::testing::Contains(HasSubstr("its `rate` is used up")));
}

TEST_F(BrokerRoutesTest, AnAppliedTriggersTransformHoldsAtOnceAndExplainShowsIt) {
  SetConfig("functions:\n  work: {}\n  other: {}\ntriggers:\n  all:\n    function: work\n");
  StartBroker();
  EXPECT_THAT(
      Apply("triggers:\n  short:\n    function: other\n    transform: { attributes: "
            "{ subject: 'of {id}' }, data: { of: '{id}' } }\n  never:\n    function: other\n"
            "    transform: { data: '{data.of.nothing}' }\n")
          .changes(),
      SizeIs(2));
  PublishAll({MakeEvent("e1")});
  TestWorker worker(Channel(), "other");
  const std::vector<v1::Delivery> taken = worker.Take(1);
  ASSERT_THAT(taken, SizeIs(1));
  EventView view;
  ASSERT_TRUE(ParseEvent(taken[0].event(), view).ok());
  EXPECT_EQ(view.Text("subject"), "of e1");
  Explained explained = ExplainId("e1", "/test");
  EXPECT_EQ(explained.verdicts["short"].receives(), taken[0].event());
  EXPECT_EQ(explained.verdicts["short"].receives_refused(), "");
  EXPECT_TRUE(explained.verdicts["all"].matched());
  EXPECT_EQ(explained.verdicts["all"].receives(), "");
  EXPECT_EQ(explained.verdicts["never"].receives(), "");
  EXPECT_THAT(explained.verdicts["never"].receives_refused(), Not(IsEmpty()));
  // Kept as it was given.
  RestartBroker();
  EXPECT_EQ(ExplainId("e1", "/test").verdicts["short"].receives(), taken[0].event());
}

TEST_F(BrokerRoutesTest, TheFileTakesANameOver) {
  SetConfig(OneTrigger());
  StartBroker();
  Apply("triggers: { more: { function: work } }");
  SetConfig(OneTrigger("  more: { function: work, filters: [ { exact: { type: x } } ] }\n"));
  EXPECT_TRUE(server_->Reload().errors.empty());
  EXPECT_THAT(log_, HasSubstr("T0321"));
  EXPECT_EQ(Books("more").origin(), "file");
  PublishAll({MakeEvent("e1")});
  EXPECT_EQ(Books("more").matched(), 0u);
  // It is the file's for good.
  SetConfig(OneTrigger());
  RestartBroker();
  EXPECT_EQ(Books("more").state(), "detached");
}

TEST_F(BrokerRoutesTest, ManyAreAppliedWhileEventsComeAndEachMatchesFromThenOn) {
  SetConfig(OneTrigger());
  StartBroker();
  constexpr int kBulk = 2000;
  std::string bulk = "triggers:\n";
  for (int i = 0; i < kBulk; ++i) {
    bulk += "  b" + std::to_string(i) + ": { function: work, filters: [ { exact: { type: t" +
            std::to_string(i) + " } } ] }\n";
  }
  EXPECT_THAT(Apply(bulk).changes(), SizeIs(kBulk));
  // Singly, across rebuilds of the table.
  for (int i = 0; i < 600; ++i) {
    const std::string name = "s" + std::to_string(i);
    Apply("triggers: { " + name + ": { function: work, filters: [ { exact: { type: " + name +
          " } } ] } }");
    if (i % 50 != 0) continue;
    PublishAll({MakeEvent("a" + std::to_string(i), name)});
    EXPECT_EQ(Books(name).matched(), 1u) << name;
  }
  PublishAll({MakeEvent("x1", "t1999"), MakeEvent("x2", "s10"), MakeEvent("x3", "t0")});
  EXPECT_EQ(Books("b1999").matched(), 1u);
  EXPECT_EQ(Books("s10").matched(), 1u);
  EXPECT_EQ(Books("b0").matched(), 1u);
}

TEST_F(BrokerRoutesTest, ExplainSaysWhatBecameOfAStoredEventAndWhyOthersDidNotGetIt) {
  SetConfig(kTwoFunctions);
  StartBroker();
  v1::PublishRequest publish;
  AddEvent(publish, MakeEvent("e1"));
  const v1::PublishResponse stored = Publish(publish, true);
  v1::ExplainRequest request;
  *request.mutable_ref() = stored.refs(0);
  Explained explained = Explain(request);
  ASSERT_TRUE(explained.status.ok()) << explained.status.error_message();
  EXPECT_EQ(explained.event.ref().offset(), stored.refs(0).offset());
  ASSERT_THAT(explained.verdicts, SizeIs(2));
  const v1::TriggerVerdict& all = explained.verdicts["all"];
  EXPECT_TRUE(all.matched());
  ASSERT_THAT(all.deliveries(), SizeIs(1));
  EXPECT_EQ(all.deliveries(0).state(), "queued");
  EXPECT_THAT(all.notes(), ElementsAre("no worker serves `work`"));
  const v1::TriggerVerdict& paid = explained.verdicts["paid"];
  EXPECT_FALSE(paid.matched());
  EXPECT_EQ(paid.clause(), "filters[0].exact.type");
  EXPECT_EQ(paid.expected(), "\"order.paid\"");
  EXPECT_EQ(paid.actual(), "\"test.event\"");

  TestWorker worker(Channel(), "work");
  worker.Ack(worker.Take(1));
  ASSERT_TRUE(Eventually([&] { return Books("all").acked() == 1; }));
  // "settled" until the record that says how is durable.
  ASSERT_TRUE(Eventually(
      [&] { return Explain(request).verdicts["all"].deliveries(0).state() == "acked"; }));

  // By the dedupe set, by a scan, and what never was.
  explained = ExplainId("e1", "/test");
  EXPECT_EQ(explained.event.ref().offset(), stored.refs(0).offset());
  EXPECT_THAT(explained.event.notes(), IsEmpty());
  explained = ExplainId("e1");
  EXPECT_EQ(explained.event.ref().offset(), stored.refs(0).offset());
  EXPECT_THAT(explained.event.notes(0), HasSubstr("by a scan"));
  EXPECT_EQ(ExplainId("nope").status.error_code(), grpc::StatusCode::NOT_FOUND);
  request.mutable_ref()->set_offset(999);
  EXPECT_EQ(Explain(request).status.error_code(), grpc::StatusCode::NOT_FOUND);
  request.mutable_ref()->set_partition(9);
  EXPECT_EQ(Explain(request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(BrokerRoutesTest, ExplainUsesTheConditionsOfTheEventsTime) {
  SetConfig(kTwoFunctions);
  StartBroker();
  PublishAll({MakeEvent("e1")});
  SetConfig(std::string(kTwoFunctions) + "  late: { function: work }\n");
  config_.replace(config_.find("order.paid"), 10, "test.event");
  EXPECT_TRUE(server_->Reload().errors.empty());
  Explained explained = ExplainId("e1", "/test");
  ASSERT_TRUE(explained.status.ok()) << explained.status.error_message();
  EXPECT_FALSE(explained.verdicts["paid"].matched());
  EXPECT_EQ(explained.verdicts["paid"].expected(), "\"order.paid\"");
  ASSERT_THAT(explained.verdicts["paid"].notes(), Not(IsEmpty()))
      << explained.verdicts["paid"].DebugString();
  EXPECT_THAT(explained.verdicts["paid"].notes(0), HasSubstr("of that time"));
  EXPECT_FALSE(explained.verdicts["late"].matched());
  EXPECT_THAT(explained.verdicts["late"].reason(), HasSubstr("not in force when the event came"));
}

TEST_F(BrokerRoutesTest, ExplainKnowsRefusalsAndDuplicatesAndEventsThatAreNotStored) {
  SetConfig(kTwoFunctions);
  StartBroker();
  PublishAll({MakeEvent("e1")});
  PublishAll({MakeEvent("e1")});
  Explained explained = ExplainId("e1", "/test");
  ASSERT_THAT(explained.refused, SizeIs(1));
  EXPECT_TRUE(explained.refused[0].has_first());
  EXPECT_EQ(explained.refused[0].first().offset(), explained.event.ref().offset());

  EventBuilder builder("bad", "", "test.event");  // an empty source
  PublishAll({std::move(builder).Encode()});
  explained = ExplainId("bad");
  EXPECT_TRUE(explained.status.ok()) << explained.status.error_message();
  ASSERT_THAT(explained.refused, SizeIs(1));
  EXPECT_THAT(explained.refused[0].reason(), Not(IsEmpty()));

  v1::ExplainRequest request;
  request.set_event(MakeEvent("e1", "order.paid"));
  request.set_trigger("paid");
  explained = Explain(request);
  ASSERT_THAT(explained.verdicts, SizeIs(1));
  EXPECT_TRUE(explained.verdicts["paid"].matched());
  EXPECT_THAT(explained.event.notes(0), HasSubstr("would be a duplicate of"));
  request.set_trigger("nobody");
  EXPECT_EQ(Explain(request).status.error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(BrokerRoutesTest, AReplayIsToldOfUntilItIsThrough) {
  SetConfig(kTwoFunctions);
  StartBroker();
  std::vector<std::string> events;
  for (int i = 0; i < 30; ++i) {
    events.push_back(MakeEvent("e" + std::to_string(i), i % 3 == 0 ? "order.paid" : "test.event"));
  }
  PublishAll(events);
  const auto replay = [this](v1::ReplayRequest request) {
    grpc::ClientContext context;
    SetDeadline(context);
    const auto stub = v1::Admin::NewStub(Channel());
    const auto reader = stub->Replay(&context, request);
    v1::ReplayReport last;
    while (reader->Read(&last)) {
    }
    return std::pair(reader->Finish(), last);
  };
  v1::ReplayRequest request;
  request.set_trigger("paid");
  request.set_action(v1::ReplayRequest::START);
  request.set_dry_run(true);
  EXPECT_EQ(replay(request).second.copied(), 10u);
  EXPECT_EQ(Books("paid").matched(), 10u);
  request.set_dry_run(false);
  const auto [status, report] = replay(request);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(report.over());
  EXPECT_EQ(report.copied(), 10u);
  EXPECT_EQ(Books("paid").matched(), 20u);
  EXPECT_EQ(Books("all").matched(), 30u);
  request.set_where("[{\"exact\":{\"id\":\"e3\"}}]");
  EXPECT_EQ(replay(request).second.copied(), 1u);
  request.set_where("nonsense");
  EXPECT_EQ(replay(request).first.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.set_where("");
  request.set_trigger("nobody");
  EXPECT_EQ(replay(request).first.error_code(), grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace tocsin
