#include "broker/cli/event_input.h"

#include <fmt/format.h>

#include <set>
#include <string_view>
#include <utility>

#include "broker/base/event_json.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/cli/input.h"
#include "broker/cli/style.h"

namespace tocsin::cli {
namespace {

// No byte would have to be replaced to make it text.
bool IsText(std::string_view data) {
  for (const char c : data) {
    if (c == '\0') return false;
  }
  std::string quoted;
  AppendJsonString(quoted, data);
  JsonValue value;
  JsonScanner scanner(quoted);
  return scanner.ReadDocument(value).ok() && JsonString(value) == data;
}

}  // namespace

absl::StatusOr<Event> BuildEvent(const EventParts& parts, const EventLimits& limits) {
  EventBuilder builder(parts.id, parts.source, parts.type);
  if (!parts.subject.empty()) builder.Attribute("subject", parts.subject);
  if (!parts.key.empty()) builder.Attribute("partitionkey", parts.key);
  if (!parts.time.empty()) {
    const auto time = ParseRfc3339(parts.time);
    if (!time.ok()) return Annotate(time.status(), "--time");
    const std::int64_t us = time->time_since_epoch().count();
    const std::int64_t seconds = us >= 0 ? us / 1'000'000 : -((999'999 - us) / 1'000'000);
    builder.Timestamp("time", seconds,
                      static_cast<std::int32_t>((us - seconds * 1'000'000) * 1000));
  }
  std::set<std::string_view> seen = {"id",   "source",  "type",         "specversion",
                                     "time", "subject", "partitionkey", "datacontenttype",
                                     "data"};
  for (const std::string& attribute : parts.attributes) {
    const std::size_t equals = attribute.find('=');
    const std::string_view name = std::string_view(attribute).substr(0, equals);
    if (equals == std::string::npos || name.empty()) {
      return absl::InvalidArgumentError(
          fmt::format("--attribute: '{}' is not NAME=VALUE", Clean(attribute)));
    }
    if (!seen.insert(name).second) {
      return absl::InvalidArgumentError(
          fmt::format("--attribute: '{}' is given twice or has an option of its own", Clean(name)));
    }
    const std::string_view value = std::string_view(attribute).substr(equals + 1);
    if (name == "dataschema") {
      builder.Uri(name, value);
    } else {
      builder.Attribute(name, value);
    }
  }
  if (parts.has_data) {
    const std::string type = parts.content_type.empty() ? "application/json" : parts.content_type;
    if (IsJsonMediaType(type)) {
      JsonValue value;
      if (const absl::Status status = JsonScanner(parts.data).ReadDocument(value); !status.ok()) {
        return absl::InvalidArgumentError(fmt::format(
            "--data is not JSON: {}. Say what it is with --content-type, e.g. text/plain",
            MessageOf(status)));
      }
    }
    builder.Attribute("datacontenttype", type);
    if (IsText(parts.data)) {
      builder.TextData(parts.data);
    } else {
      builder.BinaryData(parts.data);
    }
  }
  return Event::FromBytes(std::move(builder).Encode(), limits);
}

absl::StatusOr<Event> ReadOneEvent(const std::string& path) {
  EventLimits limits;
  // What a broker may be configured to take.
  limits.event_bytes_max = std::size_t{3} << 20;
  TOCSIN_ASSIGN_OR_RETURN(const std::string text, ReadWhole(path, 2 * limits.event_bytes_max));
  absl::StatusOr<Event> event = EventFromJson(text, limits);
  if (!event.ok()) {
    return Annotate(event.status(), path == "-" ? "standard input" : path);
  }
  return event;
}

std::string UuidText(std::uint64_t high, std::uint64_t low) {
  high = (high & ~std::uint64_t{0xf000}) | 0x4000;
  low = (low & ~(std::uint64_t{3} << 62)) | (std::uint64_t{2} << 62);
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, (high >> 16) & 0xffff,
                     high & 0xffff, low >> 48, low & 0xffff'ffff'ffff);
}

}  // namespace tocsin::cli
