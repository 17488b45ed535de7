// CloudEvents JSON format, kept apart because nlohmann/json is dear to compile.

#include <absl/strings/ascii.h>
#include <absl/strings/escaping.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "io/cloudevents/v1/cloudevents.pb.h"
#include "sdk/cpp/event.h"
#include "sdk/cpp/event_value.h"

namespace tocsin::sdk {
namespace {

using nlohmann::json;
using Value = ::io::cloudevents::v1::CloudEvent_CloudEventAttributeValue;
using Message = ::io::cloudevents::v1::CloudEvent;

bool IsJsonMediaType(std::string_view type) {
  type = type.substr(0, type.find(';'));
  while (!type.empty() && type.back() == ' ') {
    type.remove_suffix(1);
  }
  const std::string lower = absl::AsciiStrToLower({type.data(), type.size()});
  const std::size_t slash = lower.find('/');
  if (slash == std::string::npos) {
    return false;
  }
  const std::string_view sub = std::string_view(lower).substr(slash + 1);
  return sub == "json" || sub.ends_with("+json");
}

json AttributeJson(const Value& value) {
  switch (value.attr_case()) {
    case Value::kCeBoolean:
      return value.ce_boolean();
    case Value::kCeInteger:
      return value.ce_integer();
    default:
      return internal::CanonicalText(value);
  }
}

std::string Base64(const std::string& bytes) {
  std::string text;
  absl::Base64Escape(bytes, &text);
  return text;
}

bool IsUtf8(const std::string& text) {
  try {
    static_cast<void>(json(text).dump());
    return true;
  } catch (const json::exception&) {
    return false;
  }
}

absl::Status Invalid(std::string_view what) {
  return absl::InvalidArgumentError(fmt::format("not a CloudEvent: {}", what));
}

// Sets the payload; the media type of JSON data is already known.
absl::Status SetData(const json& object, Event& event) {
  const auto data = object.find("data");
  const auto base64 = object.find("data_base64");
  if (data != object.end() && base64 != object.end()) {
    return Invalid("data and data_base64 exclude each other");
  }
  if (base64 != object.end() && !base64->is_null()) {
    std::string bytes;
    if (!base64->is_string() || !absl::Base64Unescape(base64->get<std::string>(), &bytes)) {
      return Invalid("data_base64 is not base64");
    }
    event.SetBytes(bytes, "");
    return absl::OkStatus();
  }
  if (data == object.end()) {
    return absl::OkStatus();
  }
  const std::string type = event.data_content_type();
  if (type.empty() || IsJsonMediaType(type)) {
    event.SetText(data->dump(), type.empty() ? "application/json" : "");
  } else if (data->is_string()) {
    event.SetText(data->get<std::string>(), "");
  } else {
    event.SetText(data->dump(), "");
  }
  return absl::OkStatus();
}

absl::Status SetFromJson(const std::string& name, const json& value, Event& event) {
  if (name == "specversion") {
    return value == "1.0" ? absl::OkStatus() : Invalid("specversion is not \"1.0\"");
  }
  if (value.is_boolean()) {
    event.SetAttribute(name, value.get<bool>());
    return absl::OkStatus();
  }
  if (value.is_number_integer()) {
    const auto number = value.get<std::int64_t>();
    if (number < INT32_MIN || number > INT32_MAX) {
      return Invalid(fmt::format("attribute {} is beyond 32 bits", name));
    }
    event.SetAttribute(name, static_cast<std::int32_t>(number));
    return absl::OkStatus();
  }
  if (!value.is_string()) {
    return Invalid(fmt::format("attribute {} is neither string, integer nor boolean", name));
  }
  const std::string text = value.get<std::string>();
  if (name == "id") {
    event.set_id(text);
  } else if (name == "source") {
    event.set_source(text);
  } else if (name == "type") {
    event.set_type(text);
  } else if (name == "time") {
    event.set_time(text);
  } else {
    event.SetAttribute(name, text);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Event> Event::FromJson(std::string_view text) {
  json object;
  try {
    object = json::parse(text);
  } catch (const json::exception& error) {
    return Invalid(error.what());
  }
  if (!object.is_object()) {
    return Invalid("the JSON is not an object");
  }
  Event event;
  event.Mutable().set_spec_version("1.0");
  if (!object.contains("specversion")) {
    return Invalid("specversion is missing");
  }
  for (const auto& [name, value] : object.items()) {
    if (name == "data" || name == "data_base64" || value.is_null()) {
      continue;
    }
    if (absl::Status status = SetFromJson(name, value, event); !status.ok()) {
      return status;
    }
  }
  for (const char* required : {"id", "source", "type"}) {
    if (event.Attribute(required).value_or("").empty()) {
      return Invalid(fmt::format("{} is missing or empty", required));
    }
  }
  if (absl::Status status = SetData(object, event); !status.ok()) {
    return status;
  }
  return event;
}

std::string Event::ToJson() const {
  const Message& m = message();
  json object = {{"specversion", m.spec_version()},
                 {"id", m.id()},
                 {"source", m.source()},
                 {"type", m.type()}};
  for (const auto& [name, value] : m.attributes()) {
    if (value.attr_case() != Value::ATTR_NOT_SET) {
      object[name] = AttributeJson(value);
    }
  }
  const std::string content_type = data_content_type();
  const bool as_json = content_type.empty() || IsJsonMediaType(content_type);
  if (has_data()) {
    const std::string bytes(data());
    json value = as_json && m.data_case() != Message::kProtoData
                     ? json::parse(bytes, nullptr, /*allow_exceptions=*/false)
                     : json(json::value_t::discarded);
    if (!value.is_discarded()) {
      object["data"] = std::move(value);
    } else if (m.data_case() == Message::kTextData && !as_json && IsUtf8(bytes)) {
      object["data"] = bytes;
    } else {
      object["data_base64"] = Base64(bytes);
    }
  }
  return object.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace tocsin::sdk
