#include "connectors/record_event.h"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <vector>

namespace tocsin {
namespace {

using Pair = std::pair<std::string_view, std::string_view>;

constexpr std::array<std::string_view, 1> kNames = {"topic"};
constexpr std::array<Pair, 1> kTopic = {Pair{"topic", "orders"}};

struct Given {
  Envelope envelope = Envelope::kAuto;
  EventOverrides event = {};
  std::optional<std::string_view> key = std::nullopt;
  std::vector<Pair> headers = {};
  std::optional<std::string_view> value = std::nullopt;
};

std::variant<Event, UndecodableRecord> Map(const Given& given) {
  const auto mapper = RecordMapper::Make("in", "kafka", given.envelope, given.event, kNames);
  EXPECT_TRUE(mapper.ok()) << mapper.status();
  OutsideRecord record;
  record.id = "orders/3/17";
  record.what = given.value ? "record" : "tombstone";
  record.subject = "orders";
  record.where = "orders/3@17";
  record.key = given.key;
  record.headers = given.headers;
  record.names = kTopic;
  record.value = given.value;
  record.time = WallTime(std::chrono::seconds(1'700'000'000));
  return mapper->Map(record);
}

Event Mapped(const Given& given) {
  auto mapped = Map(given);
  if (const auto* bad = std::get_if<UndecodableRecord>(&mapped)) {
    ADD_FAILURE() << bad->reason;
    return {};
  }
  return std::get<Event>(std::move(mapped));
}

UndecodableRecord Refused(const Given& given) {
  auto mapped = Map(given);
  if (std::holds_alternative<Event>(mapped)) {
    ADD_FAILURE() << "it became an event";
    return {};
  }
  return std::get<UndecodableRecord>(std::move(mapped));
}

std::string Attribute(const Event& event, std::string_view name) {
  return CanonicalAttribute(event.View(), name).value_or("-");
}

TEST(RecordMapperTest, RawValuesGetTheDefaultsOfTheirSource) {
  const Event event = Mapped({.key = "k", .value = R"({"a":1})"});
  EXPECT_EQ(Attribute(event, "id"), "orders/3/17");
  EXPECT_EQ(Attribute(event, "source"), "/sources/in");
  EXPECT_EQ(Attribute(event, "type"), "dev.tocsin.kafka.record");
  EXPECT_EQ(Attribute(event, "subject"), "orders");
  EXPECT_EQ(Attribute(event, "partitionkey"), "k");
  EXPECT_EQ(Attribute(event, "time"), "2023-11-14T22:13:20Z");
  EXPECT_EQ(Attribute(event, "datacontenttype"), "application/json");
  EXPECT_EQ(event.View().data, R"({"a":1})");
  EXPECT_EQ(event.View().data_kind, DataKind::kText);
}

TEST(RecordMapperTest, ContentTypeIsTheHeaderElseWhatItLooksLike) {
  const auto type = [](std::string_view value, std::vector<Pair> headers = {}) {
    return Attribute(Mapped({.headers = std::move(headers), .value = value}), "datacontenttype");
  };
  EXPECT_EQ(type("[1]"), "application/json");
  EXPECT_EQ(type("plain"), "text/plain; charset=utf-8");
  EXPECT_EQ(type("{broken"), "text/plain; charset=utf-8");
  EXPECT_EQ(type("\xff\xfe"), "application/octet-stream");
  EXPECT_EQ(type("<a/>", {{"Content-Type", "application/xml"}}), "application/xml");
  const Event binary = Mapped({.value = "\xff\xfe"});
  EXPECT_EQ(binary.View().data_kind, DataKind::kBinary);
  EXPECT_EQ(binary.View().data, "\xff\xfe");
}

TEST(RecordMapperTest, TombstoneHasNoData) {
  for (const Envelope envelope : {Envelope::kAuto, Envelope::kRaw, Envelope::kCloudEvents}) {
    const Event event = Mapped({.envelope = envelope, .key = "k"});
    EXPECT_EQ(Attribute(event, "type"), "dev.tocsin.kafka.tombstone");
    EXPECT_EQ(Attribute(event, "partitionkey"), "k");
    EXPECT_EQ(event.View().data_kind, DataKind::kNone);
  }
}

TEST(RecordMapperTest, TemplatesGiveTypeSubjectAndKey) {
  EventOverrides own;
  own.type = "shop.{data.kind}";
  own.subject = "{topic}/{header.region}";
  own.attributes = {{"partitionkey", "{data.user.id}"}, {"tenant", "{header.tenant}"}};
  const Event event = Mapped({.event = own,
                              .key = "k",
                              .headers = {{"region", "eu"}},
                              .value = R"({"kind":"paid","user":{"id":7}})"});
  EXPECT_EQ(Attribute(event, "type"), "shop.paid");
  EXPECT_EQ(Attribute(event, "subject"), "orders/eu");
  EXPECT_EQ(Attribute(event, "partitionkey"), "7");
  EXPECT_EQ(Attribute(event, "tenant"), "-");
  // What is missing: the default type, no attribute.
  const Event poor = Mapped({.event = own, .key = "k", .value = "text"});
  EXPECT_EQ(Attribute(poor, "type"), "dev.tocsin.kafka.record");
  EXPECT_EQ(Attribute(poor, "subject"), "-");
  EXPECT_EQ(Attribute(poor, "partitionkey"), "-");
}

// Order hangs on it: equal keys must stay equal, whatever their bytes.
TEST(RecordMapperTest, KeysThatNoAttributeCanCarryBecomeTextThatIsAsDistinct) {
  EXPECT_EQ(PartitionKeyOf("plain"), "plain");
  EXPECT_EQ(PartitionKeyOf(std::string_view("\x00\x01", 2)), "base64:AAE=");
  EXPECT_EQ(PartitionKeyOf("a\nb"), "base64:YQpi");
  const std::string long_key(5000, 'x');
  EXPECT_EQ(PartitionKeyOf(long_key), PartitionKeyOf(std::string(5000, 'x')));
  EXPECT_NE(PartitionKeyOf(long_key), PartitionKeyOf(std::string(5001, 'x')));
  EXPECT_LE(PartitionKeyOf(long_key).size(), EventLimits().key_bytes_max);
  const Event event = Mapped({.key = std::string_view("\xff\x00", 2), .value = "v"});
  EXPECT_EQ(Attribute(event, "partitionkey"), "base64:/wA=");
}

const std::vector<Pair> kBinary = {{"ce_specversion", "1.0"},
                                   {"ce_id", "e1"},
                                   {"ce_source", "/shop"},
                                   {"ce_type", "order.paid"},
                                   {"ce_time", "2026-03-29T01:00:00Z"},
                                   {"ce_dataschema", "https://example.com/s"},
                                   {"ce_tenant", "acme"},
                                   {"content-type", "application/json; charset=utf-8"},
                                   {"unrelated", "x"}};

TEST(RecordMapperTest, BinaryCloudEventKeepsWhatItIs) {
  for (const Envelope envelope : {Envelope::kAuto, Envelope::kCloudEvents}) {
    const Event event =
        Mapped({.envelope = envelope, .key = "k", .headers = kBinary, .value = R"({"a":1})"});
    EXPECT_EQ(Attribute(event, "id"), "e1");
    EXPECT_EQ(Attribute(event, "source"), "/shop");
    EXPECT_EQ(Attribute(event, "type"), "order.paid");
    EXPECT_EQ(Attribute(event, "time"), "2026-03-29T01:00:00Z");
    EXPECT_EQ(Attribute(event, "dataschema"), "https://example.com/s");
    EXPECT_EQ(Attribute(event, "tenant"), "acme");
    EXPECT_EQ(Attribute(event, "datacontenttype"), "application/json; charset=utf-8");
    EXPECT_EQ(Attribute(event, "partitionkey"), "k");
    EXPECT_EQ(Attribute(event, "unrelated"), "-");
    EXPECT_EQ(event.View().data, R"({"a":1})");
  }
  // In raw it is a value like others.
  const Event raw = Mapped({.envelope = Envelope::kRaw, .headers = kBinary, .value = "{}"});
  EXPECT_EQ(Attribute(raw, "id"), "orders/3/17");
}

TEST(RecordMapperTest, StructuredCloudEventIsReadFromItsJson) {
  const std::string_view json = R"({"specversion":"1.0","id":"e2","source":"/s","type":"t",
      "partitionkey":"own","tocsinhops":3,"data":{"x":[1]}})";
  const std::vector<Pair> typed = {{"content-type", "application/cloudevents+json"}};
  for (const auto& [envelope, headers] :
       {std::pair(Envelope::kAuto, typed), std::pair(Envelope::kCloudEvents, typed),
        std::pair(Envelope::kCloudEvents, std::vector<Pair>()),
        std::pair(Envelope::kAuto, std::vector<Pair>())}) {
    const Event event =
        Mapped({.envelope = envelope, .key = "k", .headers = headers, .value = json});
    EXPECT_EQ(Attribute(event, "id"), "e2");
    EXPECT_EQ(Attribute(event, "partitionkey"), "own");
    EXPECT_EQ(Attribute(event, "tocsinhops"), "-");
    EXPECT_EQ(event.View().data, R"({"x":[1]})");
  }
}

TEST(RecordMapperTest, OverridesOnlyFillWhatACloudEventLacks) {
  EventOverrides own;
  own.type = "other";
  own.subject = "{data.a}";
  own.attributes = {{"tenant", "mine"}, {"region", "eu"}, {"partitionkey", "{data.a}"}};
  const Event event = Mapped({.event = own, .key = "k", .headers = kBinary, .value = R"({"a":1})"});
  EXPECT_EQ(Attribute(event, "type"), "order.paid");
  EXPECT_EQ(Attribute(event, "tenant"), "acme");
  EXPECT_EQ(Attribute(event, "region"), "eu");
  EXPECT_EQ(Attribute(event, "subject"), "1");
  EXPECT_EQ(Attribute(event, "partitionkey"), "1");
}

TEST(RecordMapperTest, WhatSaysItIsACloudEventAndIsNoneIsUndecodableWithItsBytes) {
  const std::vector<Pair> structured = {{"content-type", "application/cloudevents+json"}};
  const std::vector<Pair> batch = {{"content-type", "application/cloudevents-batch+json"}};
  for (const Given& given :
       std::vector<Given>{{.headers = {{"ce_specversion", "0.3"}}, .value = "v"},
                          {.headers = {{"ce_specversion", "1.0"}, {"ce_id", "1"}}, .value = "v"},
                          {.headers = structured, .value = "v"},
                          {.headers = structured, .value = R"({"specversion":"1.0"})"},
                          {.headers = batch, .value = "[]"},
                          {.value = R"({"specversion":"1.0","id":""})"},
                          {.envelope = Envelope::kCloudEvents, .value = "v"},
                          {.envelope = Envelope::kCloudEvents, .value = "{}"}}) {
    const UndecodableRecord refused = Refused(given);
    EXPECT_EQ(refused.bytes, *given.value);
    EXPECT_TRUE(refused.reason.starts_with("orders/3@17: ")) << refused.reason;
  }
}

// It would never fit into the journal, and the lane would stand still.
TEST(RecordMapperTest, TooLargeIsUndecodableAndCut) {
  const std::string large(kRecordBytesMax + 1, 'x');
  const UndecodableRecord refused = Refused({.value = large});
  EXPECT_EQ(refused.bytes.size(), kUndecodableBytesMax);
  EXPECT_NE(refused.reason.find("the first 1048576 of 3145729 bytes are kept"), std::string::npos);
  EXPECT_EQ(Mapped({.value = std::string_view(large).substr(1)}).View().data.size(),
            kRecordBytesMax);
}

TEST(RecordMapperTest, TraceOfARawRecordIsCarried) {
  const std::string_view trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  const Event event =
      Mapped({.headers = {{"traceparent", trace}, {"tracestate", "a=b"}}, .value = "v"});
  EXPECT_EQ(Attribute(event, "traceparent"), trace);
  EXPECT_EQ(Attribute(event, "tracestate"), "a=b");
}

TEST(RecordMapperTest, BadTemplateNamesItsAttribute) {
  EventOverrides own;
  own.attributes = {{"tenant", "{nope}"}};
  const auto made = RecordMapper::Make("in", "kafka", Envelope::kAuto, own, kNames);
  ASSERT_FALSE(made.ok());
  EXPECT_NE(std::string(made.status().message()).find("tenant: `{nope}`"), std::string::npos);
}

}  // namespace
}  // namespace tocsin
