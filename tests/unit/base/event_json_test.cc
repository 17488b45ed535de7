#include "broker/base/event_json.h"

#include <gtest/gtest.h>

#include "broker/base/json_scan.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

std::string WithData(std::string_view rest) {
  return fmt::format(R"({{"specversion":"1.0","id":"1","source":"/s","type":"t"{}}})", rest);
}

absl::Status Read(std::string_view rest) {
  return EventFromJson(WithData(rest), EventLimits()).status();
}

void ExpectRefused(std::string_view rest, std::string_view text) {
  const absl::Status status = Read(rest);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << rest;
  EXPECT_NE(MessageOf(status).find(text), std::string_view::npos) << rest << ": " << status;
}

TEST(EventJsonTest, DataFollowsItsMediaType) {
  Event event = *EventFromJson(WithData(R"(,"data": {"a" : [1, 2.50]})"), EventLimits());
  EXPECT_EQ(event.View().data, R"({"a" : [1, 2.50]})");
  EXPECT_EQ(event.View().data_kind, DataKind::kText);
  EXPECT_EQ(event.View().Text("datacontenttype"), "application/json");
  EXPECT_EQ(EventToJson(event.View()),
            WithData(R"(,"datacontenttype":"application/json","data":{"a":[1,2.50]})"));

  event = *EventFromJson(WithData(R"(,"datacontenttype":"text/plain","data":"a\u00e9\n")"),
                         EventLimits());
  EXPECT_EQ(event.View().data, "a\xC3\xA9\n");

  event = *EventFromJson(WithData(R"(,"data_base64":"AP8=")"), EventLimits());
  EXPECT_EQ(event.View().data, std::string_view("\0\xFF", 2));
  EXPECT_EQ(event.View().data_kind, DataKind::kBinary);
  EXPECT_EQ(event.View().Find("datacontenttype"), nullptr);

  event = *EventFromJson(WithData(R"(,"subject":null,"data":null)"), EventLimits());
  EXPECT_EQ(event.View().data_kind, DataKind::kNone);
  EXPECT_TRUE(event.View().attributes.empty());
}

TEST(EventJsonTest, EventsSurviveTheWayThereAndBack) {
  const std::string bytes = std::move(EventBuilder("i\"d", "/s", "t")
                                          .Attribute("subject", "\xF0\x9F\x8E\x89 a\\b")
                                          .Integer("count", -2147483647 - 1)
                                          .Boolean("flag", false)
                                          .Attribute("datacontenttype", "text/plain")
                                          .TextData("line\nline"))
                                .Encode();
  EventView view;
  ASSERT_TRUE(ParseEvent(bytes, view).ok());
  const absl::StatusOr<Event> again = EventFromJson(EventToJson(view), EventLimits());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->bytes(), bytes);
}

TEST(EventJsonTest, DataThatOnlyClaimsToBeJsonIsNotShownAsJson) {
  const std::string bytes = std::move(EventBuilder("1", "/s", "t")
                                          .Attribute("datacontenttype", "application/json")
                                          .TextData("{oops"))
                                .Encode();
  EventView view;
  ASSERT_TRUE(ParseEvent(bytes, view).ok());
  EXPECT_NE(EventToJson(view).find(R"("data_base64":"e29vcHM=")"), std::string::npos);
}

// FAULTS F20.
TEST(EventJsonTest, AmbiguousOrHostileJsonIsRefusedWithItsPlace) {
  ExpectRefused(R"(,"data":{"a":1,"a":2})", "duplicate name");
  ExpectRefused(R"(,"data":{"a":1,"\u0061":2})", "duplicate name");
  ExpectRefused(R"(,"id":"2")", "duplicate name");
  ExpectRefused(R"(,"data":1e400)", "out of the range");
  ExpectRefused(R"(,"data":-1e400)", "out of the range");
  ExpectRefused(fmt::format(R"(,"data":1{})", std::string(400, '0')), "out of the range");
  ExpectRefused(R"(,"data":NaN)", "expected a JSON value");
  ExpectRefused(R"(,"data":Infinity)", "expected a JSON value");
  ExpectRefused(R"(,"data":"\ud800")", "lone surrogate");
  ExpectRefused(R"(,"data":"\udc00")", "lone surrogate");
  ExpectRefused(R"(,"data":"\ud800\ud800")", "lone surrogate");
  ExpectRefused(R"(,"data":"\ud800x")", "lone surrogate");
  ExpectRefused(",\"data\":\"\xFF\"", "UTF-8");
  ExpectRefused(",\"data\":\"\xED\xA0\x80\"", "UTF-8");
  ExpectRefused(",\"data\":\"a\nb\"", "control character");
  ExpectRefused(",\n\"data\":01", "line 2, column 10: number with a leading zero");
  ExpectRefused(R"(,"data":[1,])", "expected a JSON value");
  ExpectRefused(R"(,"data":{"a":1,})", "expected a name");
  ExpectRefused(R"(,"data":1} )", "something follows");
  ExpectRefused(R"(,"data":"\x41")", "unknown escape");
  EXPECT_TRUE(Read(R"(,"data":1e-400)").ok());
  EXPECT_TRUE(Read(R"(,"data":"\ud83c\udf89")").ok());
}

TEST(EventJsonTest, DeepNestingCostsNoStack) {
  ExpectRefused(",\"data\":" + std::string(100'000, '['), "nested too deeply");
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
  ExpectRefused(",\"data\":" + deep, "nested too deeply");
  ExpectRefused(",\"data\":" + std::string(127, '[') + std::string(127, ']') + ",\"x\":{}",
                "must be a string");
  EXPECT_TRUE(Read(",\"data\":" + std::string(127, '[') + std::string(127, ']')).ok());
}

TEST(EventJsonTest, ManyNamesAreCheckedInBoundedTime) {
  std::string members = "\"n\":0";
  for (int i = 0; i < 50'000; ++i) members += fmt::format(",\"n{}\":0", i);
  EXPECT_TRUE(Read(",\"data\":{" + members + "}").ok());
  ExpectRefused(",\"data\":{" + members + ",\"n77\":1}", "duplicate name");
}

TEST(EventJsonTest, AttributesKeepToTheirTypes) {
  ExpectRefused(R"(,"x":1.5)", "not a 32-bit integer");
  ExpectRefused(R"(,"x":2147483648)", "not a 32-bit integer");
  ExpectRefused(R"(,"x":{})", "must be a string");
  ExpectRefused(R"(,"x":[])", "must be a string");
  ExpectRefused(R"(,"time":5)", "RFC 3339");
  ExpectRefused(R"(,"x":"\u0000")", "control character");
  ExpectRefused(R"(,"data_base64":"%%%%")", "not base64");
  ExpectRefused(R"(,"data":1,"data_base64":"AA==")", "not both");
  EXPECT_FALSE(EventFromJson(R"({"id":"1","source":"/s","type":"t"})", EventLimits()).ok());
  EXPECT_FALSE(EventFromJson("[]", EventLimits()).ok());
  EXPECT_FALSE(EventFromJson("", EventLimits()).ok());
}

TEST(EventJsonTest, BatchesNameTheEventAtFault) {
  const std::string good = WithData("");
  EXPECT_EQ(EventsFromJson(good, EventLimits())->size(), 1u);
  EXPECT_EQ(EventsFromJson("[" + good + " , " + good + "]", EventLimits())->size(), 2u);
  const absl::Status status =
      EventsFromJson("[" + good + "," + WithData(R"(,"X":1)") + "]", EventLimits()).status();
  EXPECT_EQ(MessageOf(status).substr(0, 7), "event 1") << status;
}

TEST(EventJsonTest, TextLargerThanAnyEventIsNotRead) {
  EventLimits limits;
  limits.event_bytes_max = 1000;
  const std::string text = WithData(",\"data\":\"" + std::string(100'000, 'x') + "\"");
  EXPECT_EQ(EventFromJson(text, limits).status().code(), absl::StatusCode::kOutOfRange);
}

TEST(JsonScanTest, StringsAreWrittenSoThatEveryReaderAgrees) {
  std::string out;
  AppendJsonString(out, std::string_view("a\"\\\n\x01\x7F\xC3\xA9\0", 9));
  EXPECT_EQ(out, "\"a\\\"\\\\\\n\\u0001\\u007f\xC3\xA9\\u0000\"");
  out.clear();
  AppendJsonString(out, "x\xFF");
  EXPECT_EQ(out, "\"x\xEF\xBF\xBD\"");
}

}  // namespace
}  // namespace tocsin
