#include "broker/base/event.h"

#include <gtest/gtest.h>

#include "broker/base/random.h"
#include "broker/base/status.h"
#include "broker/base/wire.h"

namespace tocsin {
namespace {

std::string Encode(EventBuilder builder) { return std::move(builder).Encode(); }

EventBuilder Minimal() { return EventBuilder("1", "/s", "t"); }

absl::Status Validate(EventBuilder builder, const EventLimits& limits = {}) {
  return Event::FromBytes(std::move(builder).Encode(), limits).status();
}

void ExpectRefused(EventBuilder builder, std::string_view text) {
  const absl::Status status = Validate(std::move(builder));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  EXPECT_NE(MessageOf(status).find(text), std::string_view::npos) << status;
}

TEST(EventTest, EveryKindOfAttributeIsReadBack) {
  std::string bytes = std::move(Minimal()
                                    .Attribute("subject", "a.csv")
                                    .Uri("dataschema", "https://example.com/schema")
                                    .UriReference("ref", "/x")
                                    .Integer("count", -5)
                                    .Boolean("flag", true)
                                    .Boolean("off", false)
                                    .Binary("raw", std::string_view("\0\xFF", 2))
                                    .Timestamp("time", -1, 500'000'000)
                                    .Attribute("partitionkey", "k")
                                    .TextData("hello"))
                          .Encode();
  const absl::StatusOr<Event> event = Event::FromBytes(std::move(bytes), EventLimits());
  ASSERT_TRUE(event.ok()) << event.status();
  const EventView view = event->View();
  EXPECT_EQ(view.id, "1");
  EXPECT_EQ(view.source, "/s");
  EXPECT_EQ(view.type, "t");
  EXPECT_EQ(view.spec_version, "1.0");
  EXPECT_EQ(view.PartitionKey(), "k");
  EXPECT_EQ(view.data, "hello");
  EXPECT_EQ(view.data_kind, DataKind::kText);
  EXPECT_EQ(CanonicalAttribute(view, "subject"), "a.csv");
  EXPECT_EQ(CanonicalAttribute(view, "dataschema"), "https://example.com/schema");
  EXPECT_EQ(CanonicalAttribute(view, "count"), "-5");
  EXPECT_EQ(CanonicalAttribute(view, "flag"), "true");
  EXPECT_EQ(CanonicalAttribute(view, "off"), "false");
  EXPECT_EQ(CanonicalAttribute(view, "raw"), "AP8=");
  EXPECT_EQ(CanonicalAttribute(view, "time"), "1969-12-31T23:59:59.500Z");
  EXPECT_EQ(CanonicalAttribute(view, "id"), "1");
  EXPECT_EQ(CanonicalAttribute(view, "specversion"), "1.0");
  EXPECT_EQ(CanonicalAttribute(view, "none"), std::nullopt);
}

TEST(EventTest, CopyingEveryAttributeGivesTheSameBytes) {
  const std::string bytes = std::move(Minimal()
                                          .Integer("count", -5)
                                          .Boolean("off", false)
                                          .Timestamp("time", 7, 9)
                                          .Binary("raw", "x")
                                          .UriReference("ref", "/x")
                                          .BinaryData("d"))
                                .Encode();
  EventView view;
  ASSERT_TRUE(ParseEvent(bytes, view).ok());
  EventBuilder copy(view.id, view.source, view.type);
  for (const AttributeView& attribute : view.attributes) copy.Copy(attribute);
  copy.CopyData(view);
  EXPECT_EQ(std::move(copy).Encode(), bytes);
}

TEST(EventTest, ReservedNamesAreStrippedAndNothingElse) {
  EventView view;
  const std::string plain = std::move(Minimal().Attribute("toc", "x")).Encode();
  ASSERT_TRUE(ParseEvent(plain, view).ok());
  EXPECT_EQ(StripReserved(view), std::nullopt);
  const std::string marked =
      Encode(Minimal().Integer("tocsinhops", 3).Attribute("subject", "x").TextData("d"));
  ASSERT_TRUE(ParseEvent(marked, view).ok());
  EXPECT_EQ(StripReserved(view), Encode(Minimal().Attribute("subject", "x").TextData("d")));
}

TEST(EventTest, MissingOrEmptyRequiredAttributesAreRefused) {
  ExpectRefused(EventBuilder("", "/s", "t"), "`id` is required");
  ExpectRefused(EventBuilder("1", "", "t"), "`source` is required");
  ExpectRefused(EventBuilder("1", "/s", ""), "`type` is required");
  const absl::Status none = Event::FromBytes("", EventLimits()).status();
  EXPECT_NE(MessageOf(none).find("`specversion` is required"), std::string_view::npos);
  std::string old;
  PutField(old, 1, "1");
  PutField(old, 2, "/s");
  PutField(old, 3, "0.3");
  PutField(old, 4, "t");
  EXPECT_NE(MessageOf(Event::FromBytes(old, EventLimits()).status()).find("only 1.0"),
            std::string_view::npos);
}

TEST(EventTest, NamesOutOfFormAreRefused) {
  for (const char* name : {"Upper", "with-dash", "with_under", "dot.ted", "ümlaut", ""}) {
    EXPECT_FALSE(Validate(Minimal().Attribute(name, "x")).ok()) << name;
  }
  for (const char* name : {"data", "id", "source", "type", "specversion"}) {
    EXPECT_FALSE(Validate(Minimal().Attribute(name, "x")).ok()) << name;
  }
  EXPECT_TRUE(Validate(Minimal().Attribute("0starts", "x")).ok());
}

TEST(EventTest, ValuesOutOfFormAreRefused) {
  ExpectRefused(EventBuilder(std::string("a\0b", 3), "/s", "t"), "control character");
  ExpectRefused(Minimal().Attribute("partitionkey", std::string_view("k\0", 2)), "control");
  ExpectRefused(Minimal().Attribute("x", "\x7F"), "control");
  ExpectRefused(Minimal().Attribute("x", "\xC2\x85"), "control");
  ExpectRefused(Minimal().Attribute("x", "\xFF"), "not valid UTF-8");
  ExpectRefused(Minimal().Attribute("x", "\xC0\x80"), "not valid UTF-8");
  ExpectRefused(Minimal().Attribute("x", "\xE2\x82"), "not valid UTF-8");
  ExpectRefused(Minimal().Attribute("x", "\xED\xA0\x80"), "lone surrogate");
  ExpectRefused(Minimal().Attribute("x", "\xF4\x90\x80\x80"), "not valid UTF-8");
  ExpectRefused(Minimal().Attribute("x", "\xEF\xBF\xBF"), "noncharacter");
  ExpectRefused(Minimal().Attribute("time", "yesterday"), "RFC 3339");
  ExpectRefused(Minimal().Integer("time", 1), "RFC 3339");
  ExpectRefused(Minimal().Timestamp("time", 0, 1'000'000'000), "out of range");
  ExpectRefused(Minimal().Attribute("dataschema", "/relative"), "absolute");
  ExpectRefused(Minimal().Attribute("datacontenttype", "json"), "media type");
  ExpectRefused(Minimal().Attribute("subject", ""), "must not be empty");
  ExpectRefused(Minimal().Integer("partitionkey", 1), "must be a string");
  ExpectRefused(Minimal().Uri("x", "no-scheme"), "absolute");
  ExpectRefused(EventBuilder("1", "has space", "t"), "URI-reference");
  ExpectRefused(EventBuilder("1", "/bad%2", "t"), "URI-reference");
  ExpectRefused(EventBuilder("1", "1:x", "t"), "scheme");
  ExpectRefused(Minimal().TextData("\xFF"), "text data is not valid UTF-8");
  EXPECT_TRUE(Validate(Minimal().Attribute("x", "h\xC3\xA9llo \xF0\x9F\x8E\x89")).ok());
  EXPECT_TRUE(Validate(Minimal().Attribute("time", "2026-03-29T01:00:00.123+02:00")).ok());
  EXPECT_TRUE(Validate(EventBuilder("1", "urn:uuid:6e8bc430-9c3a", "t")).ok());
  EXPECT_TRUE(Validate(Minimal().BinaryData("\xFF")).ok());
}

// FAULTS F19: only that event is refused, at bounded cost.
TEST(EventTest, EventsOverALimitAreRefusedByTheNameOfTheLimit) {
  EventLimits limits;
  limits.event_bytes_max = 1024;
  absl::Status status = Validate(Minimal().BinaryData(std::string(2000, 'x')), limits);
  EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_NE(MessageOf(status).find("event_bytes_max"), std::string_view::npos);
  EXPECT_TRUE(Validate(Minimal().BinaryData(std::string(900, 'x')), limits).ok());

  limits = EventLimits();
  EXPECT_EQ(Validate(Minimal().Attribute("partitionkey", std::string(1025, 'k')), limits).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Validate(Minimal().Attribute(std::string(65, 'n'), "x"), limits).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Validate(Minimal().Attribute("x", std::string(65 * 1024, 'x')), limits).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Validate(EventBuilder(std::string(5000, 'i'), "/s", "t"), limits).code(),
            absl::StatusCode::kOutOfRange);

  EventBuilder many = Minimal();
  for (int i = 0; i < 257; ++i) many.Attribute(fmt::format("a{}", i), "x");
  EXPECT_EQ(Validate(std::move(many), limits).code(), absl::StatusCode::kOutOfRange);
}

TEST(EventTest, AMillionAttributesAreRefusedBeforeTheyAreRead) {
  std::string bytes = Encode(Minimal());
  std::string one;
  PutField(one, 5, std::string_view("\x0A\x01x\x12\x02\x08\x01", 7));
  for (int i = 0; i < 1'000'000; ++i) bytes += one;
  EventView view;
  EXPECT_EQ(ParseEvent(bytes, view).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_LE(view.attributes.size(), 1024u);
}

// What two readers of one encoding could understand differently is refused.
TEST(EventTest, AmbiguousEncodingsAreRefused) {
  EventView view;
  EXPECT_FALSE(ParseEvent(Encode(Minimal().Attribute("x", "1").Attribute("x", "2")), view).ok());
  EventBuilder many = Minimal();
  for (int i = 0; i < 40; ++i) many.Attribute(fmt::format("a{}", i), "x");
  EXPECT_FALSE(ParseEvent(Encode(many.Attribute("a7", "x")), view).ok());
  std::string twice = Encode(Minimal());
  PutField(twice, 1, "2");
  EXPECT_FALSE(ParseEvent(twice, view).ok());
  std::string data_twice = std::move(Minimal().TextData("a")).Encode();
  PutField(data_twice, 6, "b");
  EXPECT_FALSE(ParseEvent(data_twice, view).ok());
  std::string no_value = Encode(Minimal());
  PutField(no_value, 5, std::string_view("\x0A\x01x", 3));
  EXPECT_FALSE(ParseEvent(no_value, view).ok());
  std::string wrong_type = Encode(Minimal());
  PutField(wrong_type, 4, std::uint64_t{1});
  EXPECT_FALSE(ParseEvent(wrong_type, view).ok());
}

TEST(EventTest, UnknownFieldsAreSkipped) {
  std::string bytes = Encode(Minimal());
  PutField(bytes, 99, "future");
  EventView view;
  ASSERT_TRUE(ParseEvent(bytes, view).ok());
  EXPECT_EQ(view.id, "1");
}

// FAULTS F20: every damaged copy is either read or refused, never a crash; and a view that is
// used again shows nothing of the event before.
TEST(EventTest, DamagedBytesAreReadOrRefused) {
  const std::string bytes = Encode(Minimal()
                                       .Attribute("subject", "a.csv")
                                       .Integer("count", 5)
                                       .Timestamp("time", 7, 9)
                                       .TextData("hello"));
  EventView view;
  for (std::size_t cut = 0; cut < bytes.size(); ++cut) {
    (void)ParseEvent(std::string_view(bytes).substr(0, cut), view);
  }
  SeededRandom random(7);
  std::size_t refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string damaged = bytes;
    for (std::uint64_t n = random.Below(3) + 1; n > 0; --n) {
      damaged[random.Below(damaged.size())] = static_cast<char>(random.Below(256));
    }
    if (!ParseEvent(damaged, view).ok()) {
      ++refused;
    } else {
      (void)ValidateEvent(view, damaged.size(), EventLimits());
    }
  }
  EXPECT_GT(refused, 1000u);
  ASSERT_TRUE(ParseEvent("", view).ok());
  EXPECT_TRUE(view.id.empty());
  EXPECT_TRUE(view.attributes.empty());
  EXPECT_EQ(view.data_kind, DataKind::kNone);
}

}  // namespace
}  // namespace tocsin
