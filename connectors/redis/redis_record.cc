#include "connectors/redis/redis_record.h"

#include <fmt/format.h>
#include <hiredis/hiredis.h>
#include <simdjson.h>

#include <array>
#include <charconv>
#include <chrono>
#include <utility>
#include <vector>

#include "broker/base/base64.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "connectors/redis/redis_link.h"

namespace tocsin {
namespace {

using Pair = std::pair<std::string_view, std::string_view>;

// Ids before 2001 are somebody's own numbers, not times.
constexpr std::int64_t kFirstPlausibleMs = 978'307'200'000;
constexpr std::int64_t kLastPlausibleMs = 253'402'300'799'000;

void AppendValue(std::string& out, std::string_view value) {
  if (simdjson::validate_utf8(value.data(), value.size())) {
    AppendJsonString(out, value);
    return;
  }
  out += "{\"base64\":";
  AppendJsonString(out, EncodeBase64(value));
  out += '}';
}

std::string ObjectOf(const std::vector<Pair>& fields) {
  std::string out = "{";
  for (const auto& [name, value] : fields) {
    if (out.size() > 1) out += ',';
    AppendJsonString(out, name);
    out += ':';
    AppendValue(out, value);
  }
  return out + "}";
}

}  // namespace

std::optional<WallTime> TimeOfEntry(std::string_view id) {
  std::int64_t ms = 0;
  const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), ms);
  if (error != std::errc() || end == id.data() + id.size() || *end != '-') return std::nullopt;
  if (ms < kFirstPlausibleMs || ms > kLastPlausibleMs) return std::nullopt;
  return WallTime(std::chrono::milliseconds(ms));
}

absl::StatusOr<RedisRecords> RedisRecords::Make(const RedisSpec& spec) {
  TOCSIN_ASSIGN_OR_RETURN(
      RecordMapper mapper,
      RecordMapper::Make(spec.name, "redis", spec.envelope, spec.event, RedisTemplateNames()));
  return RedisRecords(spec, std::move(mapper));
}

std::size_t RedisRecords::AddEntry(std::string_view id, const redisReply* fields,
                                   SourceBatch& batch) const {
  const auto elements = ElementsOf(fields);
  std::vector<Pair> all;
  std::vector<Pair> headers;
  std::optional<std::string_view> data;
  bool cloud_event = false;
  for (std::size_t i = 0; i + 1 < elements.size(); i += 2) {
    all.emplace_back(TextOf(elements[i]), TextOf(elements[i + 1]));
    cloud_event = cloud_event || all.back().first == "ce_specversion";
  }
  const bool configured = !spec_.data_field.empty();
  const std::string_view wanted = configured ? std::string_view(spec_.data_field) : "data";
  for (const Pair& field : all) {
    if (field.first == wanted) {
      data = field.second;
    } else {
      headers.push_back(field);
    }
  }
  const std::array<Pair, 2> names = {Pair{"stream", spec_.key}, Pair{"id", id}};
  const std::string where = fmt::format("{} {}", spec_.key, id);
  OutsideRecord record;
  record.id = id;
  record.what = "entry";
  record.subject = spec_.key;
  record.where = where;
  record.headers = headers;
  record.names = names;
  record.time = TimeOfEntry(id);
  if (configured && !data && !cloud_event) {
    batch.undecodable.push_back(
        {ObjectOf(all), fmt::format("{}: it has no field `{}`", where, spec_.data_field)});
    return batch.undecodable.back().bytes.size();
  }
  record.value = data;
  if (!configured) {
    // One field alone may be a whole CloudEvent.
    if (!data && all.size() == 1) record.value = all[0].second;
    if (!cloud_event) {
      if (spec_.envelope == Envelope::kCloudEvents) {
        if (!record.value) record.value = "";
      } else {
        record.raw_json = [&all] { return ObjectOf(all); };
      }
    }
  }
  return mapper_.MapInto(record, batch);
}

std::size_t RedisRecords::AddElement(std::uint64_t number, std::string_view value,
                                     SourceBatch& batch) const {
  const std::string id = std::to_string(number);
  const std::string where = fmt::format("{} element {}", spec_.key, number);
  const std::array<Pair, 2> names = {Pair{"list", spec_.key}, Pair{"id", id}};
  OutsideRecord record;
  record.id = id;
  record.what = "element";
  record.subject = spec_.key;
  record.where = where;
  record.names = names;
  record.value = value;
  return mapper_.MapInto(record, batch);
}

std::size_t RedisRecords::AddMessage(std::string_view id, std::string_view channel,
                                     std::string_view payload, WallTime now,
                                     SourceBatch& batch) const {
  const std::string where = fmt::format("channel {}", channel);
  const std::array<Pair, 2> names = {Pair{"channel", channel}, Pair{"id", id}};
  OutsideRecord record;
  record.id = id;
  record.what = "message";
  record.subject = channel;
  record.where = where;
  record.names = names;
  record.value = payload;
  record.time = now;
  return mapper_.MapInto(record, batch);
}

std::size_t RedisRecords::AddKeyevent(std::string_view id, std::string_view event,
                                      std::string_view key, WallTime now,
                                      SourceBatch& batch) const {
  const std::array<Pair, 2> names = {Pair{"event", event}, Pair{"id", id}};
  OutsideRecord record;
  record.id = id;
  record.what = event;
  record.subject = key;
  record.where = "key event";
  record.names = names;
  record.key = key;
  record.time = now;
  record.raw_json = [&] {
    std::string out = "{\"key\":";
    AppendValue(out, key);
    out += ",\"event\":";
    AppendJsonString(out, event);
    return out + fmt::format(",\"database\":{}}}", spec_.database);
  };
  return mapper_.MapInto(record, batch);
}

}  // namespace tocsin
