// Any bytes as a record of a queue: an event that its own reader takes, or bytes that could not be
// decoded. Any text as an event template, a Redis address, a place in a Kafka partition: refused,
// or what was read can be used. The first byte says which.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "broker/base/check.h"
#include "broker/base/event.h"
#include "broker/base/event_template.h"
#include "connectors/kafka/kafka_position.h"
#include "connectors/record_event.h"
#include "connectors/redis/redis_spec.h"

namespace tocsin {
namespace {

constexpr std::array<std::string_view, 2> kNames{"topic", "partition"};

// Cuts the next line off.
std::string_view Line(std::string_view& rest) {
  const std::size_t end = rest.find('\n');
  const std::string_view line = rest.substr(0, end);
  rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  return line;
}

// `<key>\n<header>=<value>\n...\n\n<value>`.
void ReadRecord(std::uint8_t what, std::string_view rest) {
  EventOverrides event;
  event.type = "com.example.{header.kind}";
  event.subject = "{topic}/{key}/{data.a.0}";
  event.attributes = {{"partitionkey", "{data.k}"}};
  static constexpr std::array kEnvelopes{Envelope::kAuto, Envelope::kRaw, Envelope::kCloudEvents};
  const auto mapper = RecordMapper::Make("fuzz", "kafka", kEnvelopes[what % kEnvelopes.size()],
                                         (what & 0x20) != 0 ? event : EventOverrides{}, kNames);
  TOCSIN_CHECK(mapper.ok(), "{}", mapper.status().ToString());

  OutsideRecord record;
  record.id = "fuzz-1";
  record.what = "record";
  record.subject = "topic";
  record.where = "topic/0@1";
  const std::vector<std::pair<std::string_view, std::string_view>> names{{"topic", "topic"},
                                                                         {"partition", "0"}};
  record.names = names;
  const std::string_view key = Line(rest);
  if (!key.empty()) record.key = key;
  std::vector<std::pair<std::string_view, std::string_view>> headers;
  while (!rest.empty()) {
    const std::string_view header = Line(rest);
    if (header.empty()) break;
    const std::size_t cut = header.find('=');
    headers.emplace_back(header.substr(0, cut),
                         cut == std::string_view::npos ? "" : header.substr(cut + 1));
  }
  record.headers = headers;
  if ((what & 0x40) == 0) record.value = rest;

  const auto made = mapper->Map(record);
  if (const Event* taken = std::get_if<Event>(&made)) {
    const auto again = Event::FromBytes(std::string(taken->bytes()), EventLimits{});
    TOCSIN_CHECK(again.ok(), "{}", again.status().ToString());
  } else {
    TOCSIN_CHECK(!std::get<UndecodableRecord>(made).reason.empty());
  }
}

void ReadTemplate(std::string_view text) {
  const std::string_view pattern = Line(text);
  const auto parsed = EventTemplate::Parse(pattern, kNames);
  if (!parsed.ok()) return;
  const std::vector<std::pair<std::string_view, std::string_view>> names{{"topic", text}};
  TemplateValues values;
  values.key = text;
  values.headers = names;
  values.names = names;
  static_cast<void>(parsed->Fill(values));
}

void ReadPosition(std::string_view text) {
  const auto position = DecodeKafkaPosition(text);
  if (!position.has_value()) return;
  const auto again = DecodeKafkaPosition(EncodeKafkaPosition(*position));
  TOCSIN_CHECK(again.has_value() && again->next == position->next &&
               again->cluster == position->cluster);
}

}  // namespace
}  // namespace tocsin

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 8) {
    case 0:
      tocsin::ReadTemplate(text);
      break;
    case 1:
      tocsin::ReadPosition(text);
      break;
    case 2: {
      tocsin::RedisSpec spec;
      if (tocsin::ParseRedisUrl(std::string(text), spec).ok()) {
        TOCSIN_CHECK(!spec.Endpoint().empty());
      }
      break;
    }
    default:
      tocsin::ReadRecord(data[0] / 8, text);
  }
  return 0;
}
