#include "broker/base/event_json.h"

#include <simdjson.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "broker/base/base64.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

// JSON is larger than the encoding: escapes, base64 and indentation. What is above this is refused
// before it is read, so that a document's cost is bounded by what it could become.
std::size_t JsonBytesMax(const EventLimits& limits) { return limits.event_bytes_max * 6 + 65536; }

absl::Status Refuse(std::string_view name, std::string_view rule) {
  return absl::InvalidArgumentError(fmt::format("attribute `{}` {}", name.substr(0, 64), rule));
}

absl::Status AddAttribute(EventBuilder& builder, const JsonMember& member) {
  const JsonValue& value = member.value;
  switch (value.kind) {
    case JsonKind::kString:
      if (member.name == "dataschema") {
        builder.Uri(member.name, JsonString(value));
      } else {
        builder.Attribute(member.name, JsonString(value));
      }
      return absl::OkStatus();
    case JsonKind::kBoolean:
      builder.Boolean(member.name, value.raw == "true");
      return absl::OkStatus();
    case JsonKind::kNumber: {
      std::int32_t number = 0;
      const char* const end = value.raw.data() + value.raw.size();
      const auto [rest, error] = std::from_chars(value.raw.data(), end, number);
      if (error != std::errc() || rest != end) {
        return Refuse(member.name, "is a number that is not a 32-bit integer");
      }
      builder.Integer(member.name, number);
      return absl::OkStatus();
    }
    case JsonKind::kNull:
    case JsonKind::kArray:
    case JsonKind::kObject:
      break;
  }
  return Refuse(member.name, "must be a string, a number or a boolean");
}

absl::StatusOr<Event> FromObject(const JsonValue& object, const EventLimits& limits) {
  if (object.kind != JsonKind::kObject) {
    return absl::InvalidArgumentError("an event is a JSON object");
  }
  std::string id;
  std::string source;
  std::string type;
  std::string content_type;
  bool has_content_type = false;
  std::optional<std::string> spec_version;
  std::optional<JsonValue> data;
  std::optional<JsonValue> data_base64;
  std::vector<JsonMember> others;
  for (JsonMember& member : JsonMembers(object)) {
    const bool null = member.value.kind == JsonKind::kNull;
    const bool text = member.value.kind == JsonKind::kString;
    if (member.name == "data") {
      data = member.value;
      continue;
    }
    if (null) continue;
    if (member.name == "data_base64") {
      if (!text) return Refuse(member.name, "must be a string");
      data_base64 = member.value;
      continue;
    }
    std::string* required = member.name == "id"       ? &id
                            : member.name == "source" ? &source
                            : member.name == "type"   ? &type
                                                      : nullptr;
    if (member.name == "specversion") required = &spec_version.emplace();
    if (required != nullptr) {
      if (!text) return Refuse(member.name, "must be a string");
      *required = JsonString(member.value);
      continue;
    }
    if (member.name == "datacontenttype" && text) {
      content_type = JsonString(member.value);
      has_content_type = true;
    }
    others.push_back(std::move(member));
  }
  if (!spec_version) return Refuse("specversion", "is required and must not be empty");
  if (*spec_version != "1.0") {
    return Refuse("specversion",
                  fmt::format("is `{}`; only 1.0 is supported", spec_version->substr(0, 16)));
  }
  EventBuilder builder(id, source, type);
  for (const JsonMember& member : others) {
    TOCSIN_RETURN_IF_ERROR(AddAttribute(builder, member));
  }
  if (data && data_base64) {
    return absl::InvalidArgumentError("an event has either `data` or `data_base64`, not both");
  }
  if (data_base64) {
    const std::optional<std::string> bytes = DecodeBase64(JsonString(*data_base64));
    if (!bytes) return absl::InvalidArgumentError("`data_base64` is not base64");
    builder.BinaryData(*bytes);
  } else if (data) {
    if (!has_content_type) {
      // `data: null` without a media type is an event without data.
      if (data->kind != JsonKind::kNull) {
        builder.Attribute("datacontenttype", "application/json");
        builder.TextData(data->raw);
      }
    } else if (IsJsonMediaType(content_type)) {
      builder.TextData(data->raw);
    } else if (data->kind == JsonKind::kString) {
      builder.TextData(JsonString(*data));
    } else if (data->kind != JsonKind::kNull) {
      // A JSON value under another media type: the specification leaves its meaning to the
      // receiver; the text of the value is the only reading that loses nothing.
      builder.TextData(data->raw);
    }
  }
  return Event::FromBytes(std::move(builder).Encode(), limits);
}

absl::Status CheckSize(std::string_view json, std::size_t bytes_max) {
  if (json.size() <= bytes_max) return absl::OkStatus();
  return absl::OutOfRangeError(
      fmt::format("the JSON text has {} bytes; at most {} are read", json.size(), bytes_max));
}

bool IsJson(std::string_view text) {
  JsonValue value;
  return JsonScanner(text).ReadDocument(value).ok();
}

void AppendMember(std::string& out, std::string_view name, std::string_view text) {
  out.push_back(',');
  AppendJsonString(out, name);
  out.push_back(':');
  AppendJsonString(out, text);
}

}  // namespace

bool IsJsonMediaType(std::string_view media_type) {
  if (media_type == "application/json") return true;  // nearly always
  const std::string type = absl::AsciiStrToLower(
      absl::string_view(media_type.data(), std::min(media_type.find(';'), media_type.size())));
  const std::size_t slash = type.find('/');
  if (slash == std::string::npos || slash == 0) return false;
  const std::string_view subtype = std::string_view(type).substr(slash + 1);
  return subtype == "json" || (subtype.size() > 5 && subtype.substr(subtype.size() - 5) == "+json");
}

absl::StatusOr<Event> EventFromJson(std::string_view json, const EventLimits& limits) {
  TOCSIN_RETURN_IF_ERROR(CheckSize(json, JsonBytesMax(limits)));
  JsonValue document;
  TOCSIN_RETURN_IF_ERROR(JsonScanner(json).ReadDocument(document));
  return FromObject(document, limits);
}

absl::StatusOr<std::vector<Event>> EventsFromJson(std::string_view json,
                                                  const EventLimits& limits) {
  constexpr std::size_t kBatchBytesMax = std::size_t{64} << 20;
  TOCSIN_RETURN_IF_ERROR(CheckSize(json, std::max(kBatchBytesMax, JsonBytesMax(limits))));
  JsonValue document;
  TOCSIN_RETURN_IF_ERROR(JsonScanner(json).ReadDocument(document));
  std::vector<Event> events;
  if (document.kind != JsonKind::kArray) {
    TOCSIN_ASSIGN_OR_RETURN(events.emplace_back(), FromObject(document, limits));
    return events;
  }
  for (const JsonValue& element : JsonElements(document)) {
    absl::StatusOr<Event> event = FromObject(element, limits);
    if (!event.ok()) return Annotate(event.status(), fmt::format("event {}", events.size()));
    events.push_back(*std::move(event));
  }
  return events;
}

std::string EventToJson(const EventView& view) {
  std::string out = "{\"specversion\":\"1.0\"";
  out.reserve(128 + view.data.size());
  AppendMember(out, "id", view.id);
  AppendMember(out, "source", view.source);
  AppendMember(out, "type", view.type);
  for (const AttributeView& attribute : view.attributes) {
    if (attribute.kind == AttributeKind::kBoolean || attribute.kind == AttributeKind::kInteger) {
      out.push_back(',');
      AppendJsonString(out, attribute.name);
      out.push_back(':');
      out += CanonicalValue(attribute);
    } else {
      AppendMember(out, attribute.name, CanonicalValue(attribute));
    }
  }
  if (view.data_kind != DataKind::kNone) {
    const std::string_view media_type = view.Text("datacontenttype");
    const bool json_type =
        media_type.empty() ? view.data_kind == DataKind::kText : IsJsonMediaType(media_type);
    const bool text = view.data_kind == DataKind::kText ||
                      (view.data_kind == DataKind::kBinary && media_type.substr(0, 5) == "text/");
    if (json_type && view.data_kind != DataKind::kProto && IsJson(view.data)) {
      out += ",\"data\":";
      AppendJsonCompact(out, view.data);
    } else if (text && !(json_type && !media_type.empty()) &&
               simdjson::validate_utf8(view.data.data(), view.data.size())) {
      AppendMember(out, "data", view.data);
    } else {
      // Also what calls itself JSON and is not: as a JSON string it would say something else.
      AppendMember(out, "data_base64", EncodeBase64(view.data));
    }
  }
  out.push_back('}');
  return out;
}

}  // namespace tocsin
