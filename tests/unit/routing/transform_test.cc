#include "broker/routing/transform.h"

#include <gtest/gtest.h>

#include <utility>

#include "broker/base/event_json.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr const char* kOrder = R"({
  "id": "o-1", "source": "/shop", "specversion": "1.0", "type": "order.created",
  "subject": "orders/1", "priority": 3, "express": true, "partitionkey": "c-7",
  "dataschema": "https://example.com/order", "datacontenttype": "application/json",
  "data": {"id": 17, "total": 12.50, "note": null, "lines": [{"sku": "a\"b"}, {"sku": "c"}],
           "customer": {"name": "Jos\u00e9", "mail": "j@example.com"}}})";

TransformPtr Make(std::string_view json) {
  TransformFault fault;
  TransformPtr made = Transform::FromJson(json, fault);
  EXPECT_NE(made, nullptr) << json << ": " << fault.message;
  return made;
}

std::string Fault(std::string_view json) {
  TransformFault fault;
  EXPECT_EQ(Transform::FromJson(json, fault), nullptr) << json;
  return std::to_string(fault.offset) + ": " + fault.message;
}

// The made event as JSON, or the error.
std::string Apply(std::string_view transform, std::string_view event = kOrder,
                  const EventLimits& limits = {}) {
  const TransformPtr made = Make(transform);
  if (made == nullptr) return "";
  const absl::StatusOr<Event> read = EventFromJson(event, {});
  EXPECT_TRUE(read.ok()) << read.status();
  const absl::StatusOr<std::string> result = made->Apply(read->View(), limits);
  if (!result.ok()) return "error: " + std::string(MessageOf(result.status()));
  return EventToJson(Event::FromTrustedBytes(*result).View());
}

std::string Data(std::string_view data, std::string_view event = kOrder) {
  const std::string json = Apply(R"({"data":)" + std::string(data) + "}", event);
  const std::size_t at = json.find(R"("data":)");
  return at == std::string::npos ? json : json.substr(at + 7, json.size() - at - 8);
}

TEST(TransformTest, OneHoleTakesTheValueAsItIs) {
  EXPECT_EQ(Data(R"("{data.total}")"), "12.50");
  EXPECT_EQ(Data(R"({"n":"{data.id}","c":"{data.customer}","x":"{data.note}"})"),
            R"({"n":17,"c":{"name":"Jos\u00e9","mail":"j@example.com"},"x":null})");
  EXPECT_EQ(Data(R"(["{data.lines.1.sku}","{priority}","{express}","{type}"])"),
            R"(["c",3,true,"order.created"])");
}

TEST(TransformTest, OtherTextsStayTextsWhateverFillsThem) {
  // A value with a quote must not end the text that it stands in.
  EXPECT_EQ(Data(R"({"t":"sku {data.lines.0.sku}; {data.total} {{x}}"})"),
            R"({"t":"sku a\"b; 12.50 {x}"})");
  EXPECT_EQ(Data(R"({"t":"{data.lines}!"})"), R"({"t":"[{\"sku\":\"a\\\"b\"},{\"sku\":\"c\"}]!"})");
  EXPECT_EQ(Data(R"({"a":1,"b":[true,null,"plain"],"{data.id}":"key"})"),
            R"({"a":1,"b":[true,null,"plain"],"{data.id}":"key"})");
}

TEST(TransformTest, AttributesAreReplacedAddedAndRemoved) {
  EXPECT_EQ(Apply(R"({"attributes":{"type":"mail.{type}","subject":"{nothing?}",
                      "tenant":"{data.customer.name}","level":5}})",
                  R"({"id":"1","source":"/s","specversion":"1.0","type":"t","subject":"x",
                      "keep":"me","data":{"customer":{"name":"n"}}})"),
            R"({"specversion":"1.0","id":"1","source":"/s","type":"mail.t","keep":"me",)"
            R"("level":"5","tenant":"n","datacontenttype":"application/json",)"
            R"("data":{"customer":{"name":"n"}}})");
}

TEST(TransformTest, NewDataIsJsonUnlessAnotherMediaTypeIsNamed) {
  const char* csv = R"({"id":"1","source":"/s","specversion":"1.0","type":"t",
                        "datacontenttype":"text/csv","data":"a,b"})";
  EXPECT_EQ(Apply(R"({"data":{"line":"{data}"}})", csv),
            R"({"specversion":"1.0","id":"1","source":"/s","type":"t",)"
            R"("datacontenttype":"application/json","data":{"line":"a,b"}})");
  EXPECT_EQ(Apply(R"({"attributes":{"datacontenttype":"text/plain"},"data":"<{data}>"})", csv),
            R"({"specversion":"1.0","id":"1","source":"/s","type":"t",)"
            R"("datacontenttype":"text/plain","data":"<a,b>"})");
  // The schema is of the former payload.
  EXPECT_EQ(Apply(R"({"data":1})").find("dataschema"), std::string::npos);
  EXPECT_NE(Apply(R"({"attributes":{"tenant":"x"}})").find("dataschema"), std::string::npos);
}

TEST(TransformTest, WhatCannotBeMadeSaysWhy) {
  EXPECT_EQ(Data(R"({"x":"{data.nope}"})"), "error: the event has no value for {data.nope}");
  EXPECT_EQ(Data(R"({"x":"a {data.note} b"})"), "error: the event has no value for {data.note}");
  EXPECT_EQ(Data(R"({"x":"{nope}"})"), "error: the event has no value for {nope}");
  EXPECT_EQ(Data(R"({"x":"{data.nope?}","y":"<{nope?}>"})"), R"({"x":null,"y":"<>"})");
  EXPECT_EQ(Apply(R"({"attributes":{"type":"{nope?}"}})").find("error: what is made is no event"),
            0u);
  EventLimits limits;
  limits.event_bytes_max = 200;
  EXPECT_EQ(Apply(R"({"attributes":{"copy":"{data}"}})", kOrder, limits)
                .find("error: what is made is no event"),
            0u);
  const char* none = R"({"id":"1","source":"/s","specversion":"1.0","type":"t"})";
  EXPECT_EQ(Data(R"("{data}")", none), "error: the event has no value for {data}");
  EXPECT_EQ(Data(R"("{data.a?}")", none), "null");
}

TEST(TransformTest, APayloadThatIsNoJsonIsNoSilentNull) {
  const TransformPtr made = Make(R"({"data":{"x":"{data.a?}"}})");
  EventBuilder builder("1", "/s", "t");
  builder.TextData(R"({"a":1,"a":2})");
  const std::string bytes = std::move(builder).Encode();
  const auto result = made->Apply(Event::FromTrustedBytes(bytes).View(), {});
  ASSERT_FALSE(result.ok());
  EXPECT_NE(MessageOf(result.status()).find("the payload is not JSON"), std::string_view::npos);
}

TEST(TransformTest, FaultsHaveTheirPlace) {
  EXPECT_EQ(Fault("{}"), "0: it changes nothing; give `attributes` or `data`");
  EXPECT_EQ(Fault(R"({"date":1})").substr(0, 27), "8: `date` is not known here");
  EXPECT_EQ(Fault(R"({"data":{"a":"{data..b}"}})").substr(0, 4), "13: ");
  EXPECT_EQ(Fault(R"({"data":{"a":{"data.x":null}}})"),
            R"(13: a hole is written in quotes: "{data.x}")");
  EXPECT_NE(Fault(R"({"attributes":{"id":"x"}})").find("cannot be changed"), std::string::npos);
  EXPECT_NE(Fault(R"({"attributes":{"tocsinx":"x"}})").find("cannot be changed"),
            std::string::npos);
  EXPECT_NE(Fault(R"({"attributes":{"sub-ject":"x"}})").find("no attribute's name"),
            std::string::npos);
  EXPECT_NE(Fault(R"({"data":"{Subject}"})").find("neither an attribute"), std::string::npos);
  EXPECT_NE(Fault(R"({"attributes":{"datacontenttype":"text/csv"},"data":{}})").find("one text"),
            std::string::npos);
}

TEST(TransformTest, EqualTransformsHaveEqualText) {
  EXPECT_EQ(Make(R"({"data": {"a": "{data.x}"}, "attributes": {"b": 1, "a": "x"}})")->ToJson(),
            Make(R"({"attributes":{"a":"x","b":"1"},"data":{"a":"{data.x}"}})")->ToJson());
}

}  // namespace
}  // namespace tocsin
