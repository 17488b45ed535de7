#include <simdjson.h>

#include <cstdint>

#include "broker/base/event.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"

namespace tocsin {
namespace {

constexpr std::size_t kIdBytesMax = 4096;

absl::Status Refuse(std::string_view name, std::string_view rule) {
  return absl::InvalidArgumentError(fmt::format("attribute `{}` {}", name.substr(0, 64), rule));
}

absl::Status TooLong(std::string_view name, std::size_t bytes, std::size_t max,
                     std::string_view limit) {
  return absl::OutOfRangeError(fmt::format("attribute `{}` has {} bytes; {} allows {}",
                                           name.substr(0, 64), bytes, limit, max));
}

// The characters of a CloudEvents String: well-formed UTF-8 without control characters (C0, DEL,
// C1) and noncharacters. nullptr if fine, else the rule it breaks.
const char* StringFault(std::string_view text) {
  constexpr const char* kNotUtf8 = "is not valid UTF-8";
  constexpr const char* kControl = "contains a control character";
  const auto* at = reinterpret_cast<const std::uint8_t*>(text.data());
  const auto* const end = at + text.size();
  while (at != end) {
    const std::uint8_t first = *at;
    if (first < 0x80) {
      if (first < 0x20 || first == 0x7F) return kControl;
      ++at;
      continue;
    }
    std::size_t more = 0;
    std::uint32_t point = 0;
    std::uint32_t lowest = 0;
    if (first >= 0xC2 && first <= 0xDF) {
      more = 1;
      point = first & 0x1Fu;
      lowest = 0x80;
    } else if (first >= 0xE0 && first <= 0xEF) {
      more = 2;
      point = first & 0x0Fu;
      lowest = 0x800;
    } else if (first >= 0xF0 && first <= 0xF4) {
      more = 3;
      point = first & 0x07u;
      lowest = 0x10000;
    } else {
      return kNotUtf8;
    }
    if (static_cast<std::size_t>(end - at) <= more) return kNotUtf8;
    for (std::size_t i = 1; i <= more; ++i) {
      if ((at[i] & 0xC0) != 0x80) return kNotUtf8;
      point = point << 6 | (at[i] & 0x3Fu);
    }
    if (point < lowest || point > 0x10FFFF) return kNotUtf8;
    if (point >= 0xD800 && point <= 0xDFFF) return "contains a lone surrogate";
    if (point < 0xA0) return kControl;
    if ((point & 0xFFFE) == 0xFFFE || (point >= 0xFDD0 && point <= 0xFDEF)) {
      return "contains a Unicode noncharacter";
    }
    at += more + 1;
  }
  return nullptr;
}

bool IsAlpha(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsHex(char c) { return IsDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

// RFC 3986, by its characters and its scheme. nullptr if fine.
const char* UriFault(std::string_view text, bool absolute) {
  constexpr std::string_view kMarks = "-._~:/?#[]@!$&'()*+,;=";
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (IsAlpha(c) || IsDigit(c) || kMarks.find(c) != std::string_view::npos) continue;
    if (c != '%') return "is not a URI-reference (a character must be percent-encoded)";
    if (i + 2 >= text.size() || !IsHex(text[i + 1]) || !IsHex(text[i + 2])) {
      return "is not a URI-reference (`%` without two hexadecimal digits)";
    }
    i += 2;
  }
  const std::size_t colon = text.find_first_of(":/?#");
  const bool has_scheme = colon != std::string_view::npos && text[colon] == ':';
  if (has_scheme) {
    if (colon == 0 || !IsAlpha(text[0])) return "is not a URI-reference (its scheme)";
    for (const char c : text.substr(0, colon)) {
      if (!IsAlpha(c) && !IsDigit(c) && c != '+' && c != '-' && c != '.') {
        return "is not a URI-reference (its scheme)";
      }
    }
  }
  if (absolute && !has_scheme) return "is not an absolute URI";
  return nullptr;
}

bool IsToken(std::string_view text) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  if (text.empty()) return false;
  for (const char c : text) {
    if (!IsAlpha(c) && !IsDigit(c) && kMarks.find(c) == std::string_view::npos) return false;
  }
  return true;
}

bool IsMediaType(std::string_view text) {
  std::string_view type = text.substr(0, text.find(';'));
  while (!type.empty() && (type.back() == ' ' || type.back() == '\t')) type.remove_suffix(1);
  const std::size_t slash = type.find('/');
  return slash != std::string_view::npos && IsToken(type.substr(0, slash)) &&
         IsToken(type.substr(slash + 1));
}

absl::Status ValidateRequired(std::string_view name, std::string_view value,
                              std::size_t bytes_max) {
  if (value.empty()) return Refuse(name, "is required and must not be empty");
  if (value.size() > bytes_max) return TooLong(name, value.size(), bytes_max, "its limit");
  if (const char* fault = StringFault(value)) return Refuse(name, fault);
  return absl::OkStatus();
}

absl::Status ValidateName(std::string_view name, const EventLimits& limits) {
  if (name.empty()) return absl::InvalidArgumentError("an attribute has an empty name");
  if (name.size() > limits.name_bytes_max) {
    return TooLong(name, name.size(), limits.name_bytes_max, "the limit of attribute names");
  }
  for (const char c : name) {
    if (!(c >= 'a' && c <= 'z') && !IsDigit(c)) {
      // The name may hold anything; it is not echoed.
      return absl::InvalidArgumentError(
          "an attribute's name has a character other than a-z and 0-9");
    }
  }
  if (name == "data") return Refuse(name, "cannot be an attribute's name");
  if (name == "id" || name == "source" || name == "type" || name == "specversion") {
    return Refuse(name, "is given as an extension too");
  }
  return absl::OkStatus();
}

absl::Status ValidateValue(const AttributeView& attribute, const EventLimits& limits) {
  const std::string_view name = attribute.name;
  if (attribute.text.size() > limits.attribute_bytes_max) {
    return TooLong(name, attribute.text.size(), limits.attribute_bytes_max,
                   "the limit of attribute values");
  }
  switch (attribute.kind) {
    case AttributeKind::kBoolean:
    case AttributeKind::kInteger:
    case AttributeKind::kBinary:
      break;
    case AttributeKind::kString:
    case AttributeKind::kUri:
    case AttributeKind::kUriReference:
      if (const char* fault = StringFault(attribute.text)) return Refuse(name, fault);
      if (attribute.kind != AttributeKind::kString) {
        if (attribute.text.empty()) return Refuse(name, "must not be empty");
        if (const char* fault = UriFault(attribute.text, attribute.kind == AttributeKind::kUri)) {
          return Refuse(name, fault);
        }
      }
      break;
    case AttributeKind::kTimestamp:
      // Years 1 to 9999, as google.protobuf.Timestamp says.
      if (attribute.integer < -62'135'596'800 || attribute.integer > 253'402'300'799 ||
          attribute.nanos < 0 || attribute.nanos > 999'999'999) {
        return Refuse(name, "is a timestamp out of range");
      }
      break;
  }
  return absl::OkStatus();
}

// The optional attributes the specification names, and our ordering key.
absl::Status ValidateKnown(const AttributeView& attribute, const EventLimits& limits) {
  const std::string_view name = attribute.name;
  const AttributeKind kind = attribute.kind;
  if (name == "time") {
    if (kind == AttributeKind::kTimestamp) return absl::OkStatus();
    if (kind != AttributeKind::kString || !ParseRfc3339(attribute.text).ok()) {
      return Refuse(name, "is not an RFC 3339 time such as 2026-03-29T01:00:00Z");
    }
  } else if (name == "subject" || name == "partitionkey" || name == "datacontenttype") {
    if (kind != AttributeKind::kString) return Refuse(name, "must be a string");
    if (attribute.text.empty()) return Refuse(name, "must not be empty");
    if (name == "datacontenttype" && !IsMediaType(attribute.text)) {
      return Refuse(name, "is not a media type such as application/json");
    }
    if (name == "partitionkey" && attribute.text.size() > limits.key_bytes_max) {
      return TooLong(name, attribute.text.size(), limits.key_bytes_max, "the limit of keys");
    }
  } else if (name == "dataschema") {
    if (kind != AttributeKind::kString && kind != AttributeKind::kUri) {
      return Refuse(name, "must be an absolute URI");
    }
    if (const char* fault = UriFault(attribute.text, /*absolute=*/true)) {
      return Refuse(name, fault);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateEvent(const EventView& view, std::size_t encoded_bytes,
                           const EventLimits& limits) {
  if (encoded_bytes > limits.event_bytes_max) {
    return absl::OutOfRangeError(fmt::format("the event has {} bytes; event_bytes_max allows {}",
                                             encoded_bytes, limits.event_bytes_max));
  }
  if (view.attributes.size() > limits.attributes_max) {
    return absl::OutOfRangeError(fmt::format("the event has {} attributes; the limit is {}",
                                             view.attributes.size(), limits.attributes_max));
  }
  TOCSIN_RETURN_IF_ERROR(ValidateRequired("specversion", view.spec_version, 16));
  if (view.spec_version != "1.0") {
    return Refuse("specversion", fmt::format("is `{}`; only 1.0 is supported", view.spec_version));
  }
  TOCSIN_RETURN_IF_ERROR(ValidateRequired("id", view.id, kIdBytesMax));
  TOCSIN_RETURN_IF_ERROR(ValidateRequired("source", view.source, kIdBytesMax));
  if (const char* fault = UriFault(view.source, /*absolute=*/false)) {
    return Refuse("source", fault);
  }
  TOCSIN_RETURN_IF_ERROR(ValidateRequired("type", view.type, limits.attribute_bytes_max));
  for (const AttributeView& attribute : view.attributes) {
    TOCSIN_RETURN_IF_ERROR(ValidateName(attribute.name, limits));
    TOCSIN_RETURN_IF_ERROR(ValidateValue(attribute, limits));
    TOCSIN_RETURN_IF_ERROR(ValidateKnown(attribute, limits));
  }
  if (view.data_kind == DataKind::kText &&
      !simdjson::validate_utf8(view.data.data(), view.data.size())) {
    return absl::InvalidArgumentError("text data is not valid UTF-8");
  }
  return absl::OkStatus();
}

}  // namespace tocsin
