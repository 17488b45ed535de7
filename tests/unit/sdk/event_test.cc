// Events as the SDK builds and reads them, and the in-memory test broker.

#include "sdk/cpp/event.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "io/cloudevents/v1/cloudevents.pb.h"
#include "sdk/cpp/test_broker.h"

namespace tocsin::sdk {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(EventTest, BuiltEventsCarryTheirAttributesThroughTheWireForm) {
  Event event("order.paid", "/shop");
  event.set_subject("o-1").set_time("2026-03-29T01:00:00.5Z").set_partition_key("k");
  event.SetAttribute("retries", 3).SetAttribute("test", true).SetJson(R"({"a":1})");
  const Event read = Event::FromEncoded(event.Encoded());
  EXPECT_TRUE(read.Valid());
  EXPECT_EQ(read.id(), event.id());
  EXPECT_EQ(read.subject(), "o-1");
  EXPECT_EQ(read.time(), "2026-03-29T01:00:00.500Z");
  EXPECT_EQ(read.Attribute("retries"), "3");
  EXPECT_EQ(read.Attribute("test"), "true");
  EXPECT_EQ(read.Attribute("absent"), std::nullopt);
  EXPECT_EQ(read.data_content_type(), "application/json");
  EXPECT_EQ(read.data(), R"({"a":1})");
}

TEST(EventTest, IdsAreRandomVersion4Uuids) {
  const std::string one = NewUuid();
  ASSERT_EQ(one.size(), 36U);
  EXPECT_EQ(one[14], '4');
  EXPECT_THAT("89ab", HasSubstr(one.substr(19, 1)));
  EXPECT_NE(one, NewUuid());
}

TEST(EventTest, MovesAndCopiesOwnTheirBytes) {
  std::string bytes = Event("t", "/s").set_id("x").Encoded();
  Event copy;
  {
    Event original = Event::FromEncoded(bytes);
    copy = original;
    Event moved = std::move(original);
    EXPECT_EQ(moved.id(), "x");
  }
  EXPECT_EQ(copy.id(), "x");
  Event small = Event::FromEncoded(std::string("\x0a\x01y", 3));  // fits a small string
  const Event moved = std::move(small);
  EXPECT_EQ(moved.id(), "y");
}

TEST(EventTest, UndecodableBytesAreNotValid) {
  const Event event = Event::FromEncoded("\xff\xff\xff");
  EXPECT_FALSE(event.Valid());
  EXPECT_EQ(event.id(), "");
}

TEST(EventTest, JsonKeepsEveryKindOfData) {
  Event json = Event("t", "/s").set_id("1").SetJson(R"({"b":[1,2]})");
  EXPECT_EQ(json.ToJson(), R"({"data":{"b":[1,2]},"datacontenttype":"application/json","id":"1",)"
                           R"("source":"/s","specversion":"1.0","type":"t"})");
  Event text = Event("t", "/s").set_id("1").SetText("plain");
  EXPECT_THAT(text.ToJson(), HasSubstr(R"("data":"plain")"));
  Event binary = Event("t", "/s").set_id("1").SetBytes(std::string("\x00\xff", 2));
  EXPECT_THAT(binary.ToJson(), HasSubstr(R"("data_base64":"AP8=")"));
  for (const Event* event : {&json, &text, &binary}) {
    const auto again = Event::FromJson(event->ToJson());
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->data(), event->data());
    EXPECT_EQ(again->ToJson(), event->ToJson());
  }
}

TEST(EventTest, JsonMustBeACloudEvent) {
  for (const char* wrong :
       {"", "[]", R"({"id":"1","source":"/s","type":"t"})",
        R"({"specversion":"1.0","source":"/s","type":"t"})",
        R"({"specversion":"0.3","id":"1","source":"/s","type":"t"})",
        R"({"specversion":"1.0","id":"1","source":"/s","type":"t","x":{}})",
        R"({"specversion":"1.0","id":"1","source":"/s","type":"t","n":4294967296})",
        R"({"specversion":"1.0","id":"1","source":"/s","type":"t","data":1,"data_base64":""})"}) {
    EXPECT_FALSE(Event::FromJson(wrong).ok()) << wrong;
  }
  const auto null = Event::FromJson(
      R"({"specversion":"1.0","id":"1","source":"/s","type":"t","subject":null,"data":{}})");
  ASSERT_TRUE(null.ok());
  EXPECT_EQ(null->Attribute("subject"), std::nullopt);
  EXPECT_EQ(null->data_content_type(), "application/json");
}

TEST(TestBrokerTest, RetriesByPolicyAndRecordsEveryOutcome) {
  Worker worker("orders");
  worker.On("charge", [](const Event& event, Context& context) -> Result {
    EXPECT_THAT(context.delivery_id(), HasSubstr("/"));
    if (event.id() == "reject") return Reject("never");
    if (event.id() == "drop") return Drop("old");
    if (event.id() == "broken") throw std::runtime_error("always");
    if (context.attempt() == 2) return RetryAfter(milliseconds(70));
    EXPECT_TRUE(context.Emit(Event("order.charged", "/billing")).ok());
    return context.attempt() < 3 ? RetryError("once", "more") : Ack();
  });
  TestBroker broker(worker, {.attempts = 3, .backoff = milliseconds(10)});
  const auto event = [](const char* id) { return Event("t", "/s").set_id(id); };

  const TestBroker::Outcome acked = broker.Emit("charge", event("good"));
  EXPECT_EQ(acked.kind, TestBroker::Outcome::Kind::kAcked);
  EXPECT_EQ(acked.attempts, 3U);
  EXPECT_THAT(acked.delays, ElementsAre(milliseconds(10), milliseconds(70)));
  EXPECT_EQ(acked.emitted.size(), 1U);  // those of the failed attempts are forgotten

  EXPECT_EQ(broker.Emit("charge", event("drop")).kind, TestBroker::Outcome::Kind::kDropped);
  EXPECT_EQ(broker.Emit("charge", event("reject")).reason, "rejected: never");
  EXPECT_EQ(broker.Emit("charge", event("broken")).reason, "exhausted: always");
  EXPECT_EQ(broker.Emit("other", event("x")).kind, TestBroker::Outcome::Kind::kDead);
  EXPECT_EQ(broker.dead_letters().size(), 3U);
  EXPECT_EQ(broker.emitted().size(), 1U);
}

}  // namespace
}  // namespace tocsin::sdk
