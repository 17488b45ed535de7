#include "broker/base/event.h"

#include <algorithm>
#include <array>

#include "broker/base/base64.h"
#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/base/wire.h"

namespace tocsin {
namespace {

// io.cloudevents.v1.CloudEvent
constexpr std::uint32_t kId = 1;
constexpr std::uint32_t kSource = 2;
constexpr std::uint32_t kSpecVersion = 3;
constexpr std::uint32_t kType = 4;
constexpr std::uint32_t kAttributes = 5;
constexpr std::uint32_t kBinaryData = 6;
constexpr std::uint32_t kTextData = 7;
constexpr std::uint32_t kProtoData = 8;
// CloudEventAttributeValue
constexpr std::uint32_t kCeBoolean = 1;
constexpr std::uint32_t kCeInteger = 2;
constexpr std::uint32_t kCeString = 3;
constexpr std::uint32_t kCeBytes = 4;
constexpr std::uint32_t kCeUri = 5;
constexpr std::uint32_t kCeUriRef = 6;
constexpr std::uint32_t kCeTimestamp = 7;

// Beyond this an encoding is refused before its attributes are looked at, so that a hostile event
// costs time and memory in proportion to its size only. EventLimits::attributes_max is lower.
constexpr std::size_t kParsedAttributesMax = 1024;
constexpr std::size_t kLinearSearchMax = 24;

absl::Status Malformed(std::string_view what, std::size_t position) {
  return absl::InvalidArgumentError(
      fmt::format("malformed CloudEvent encoding: {} (before byte {})", what, position));
}

bool ParseTimestamp(std::string_view bytes, AttributeView& attribute) {
  WireReader reader(bytes);
  while (!reader.AtEnd()) {
    std::uint32_t field = 0;
    WireType type{};
    std::uint64_t value = 0;
    if (!reader.ReadTag(field, type)) return false;
    if (field == 1 && type == WireType::kVarint) {
      if (!reader.ReadVarint(value)) return false;
      attribute.integer = static_cast<std::int64_t>(value);
    } else if (field == 2 && type == WireType::kVarint) {
      if (!reader.ReadVarint(value)) return false;
      attribute.nanos = static_cast<std::int32_t>(value);
    } else if (!reader.Skip(type)) {
      return false;
    }
  }
  return true;
}

// The one-of of an attribute's value; `found` is false if none of its fields is there.
bool ParseValue(std::string_view bytes, AttributeView& attribute, bool& found) {
  WireReader reader(bytes);
  found = false;
  while (!reader.AtEnd()) {
    std::uint32_t field = 0;
    WireType type{};
    if (!reader.ReadTag(field, type)) return false;
    if (field < kCeBoolean || field > kCeTimestamp) {
      if (!reader.Skip(type)) return false;
      continue;
    }
    // Two values: which one counts would depend on the reader.
    if (found) return false;
    found = true;
    if (field == kCeBoolean || field == kCeInteger) {
      std::uint64_t value = 0;
      if (type != WireType::kVarint || !reader.ReadVarint(value)) return false;
      attribute.kind = field == kCeBoolean ? AttributeKind::kBoolean : AttributeKind::kInteger;
      attribute.integer = field == kCeBoolean ? (value != 0 ? 1 : 0)
                                              : static_cast<std::int32_t>(value & 0xFFFFFFFFu);
      continue;
    }
    std::string_view text;
    if (type != WireType::kBytes || !reader.ReadBytes(text)) return false;
    switch (field) {
      case kCeString:
        attribute.kind = AttributeKind::kString;
        break;
      case kCeBytes:
        attribute.kind = AttributeKind::kBinary;
        break;
      case kCeUri:
        attribute.kind = AttributeKind::kUri;
        break;
      case kCeUriRef:
        attribute.kind = AttributeKind::kUriReference;
        break;
      default:
        attribute.kind = AttributeKind::kTimestamp;
        if (!ParseTimestamp(text, attribute)) return false;
        continue;
    }
    attribute.text = text;
  }
  return true;
}

bool ParseEntry(std::string_view bytes, AttributeView& attribute, bool& has_value) {
  WireReader reader(bytes);
  bool has_name = false;
  bool has_entry_value = false;
  has_value = false;
  while (!reader.AtEnd()) {
    std::uint32_t field = 0;
    WireType type{};
    if (!reader.ReadTag(field, type)) return false;
    if (field == 1 || field == 2) {
      std::string_view value;
      bool& seen = field == 1 ? has_name : has_entry_value;
      if (seen || type != WireType::kBytes || !reader.ReadBytes(value)) return false;
      seen = true;
      if (field == 1) {
        attribute.name = value;
      } else if (!ParseValue(value, attribute, has_value)) {
        return false;
      }
    } else if (!reader.Skip(type)) {
      return false;
    }
  }
  return true;
}

absl::Status RefuseDuplicateNames(const EventView& view) {
  const std::size_t count = view.attributes.size();
  const auto refuse = [](std::string_view name) {
    return absl::InvalidArgumentError(
        fmt::format("malformed CloudEvent encoding: attribute `{}` is given twice", name));
  };
  if (count <= kLinearSearchMax) {
    for (std::size_t i = 1; i < count; ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        if (view.attributes[i].name == view.attributes[j].name) {
          return refuse(view.attributes[i].name);
        }
      }
    }
    return absl::OkStatus();
  }
  std::vector<std::string_view> names;
  names.reserve(count);
  for (const AttributeView& attribute : view.attributes) names.push_back(attribute.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  return twice == names.end() ? absl::OkStatus() : refuse(*twice);
}

}  // namespace

const AttributeView* EventView::Find(std::string_view name) const {
  for (const AttributeView& attribute : attributes) {
    if (attribute.name == name) return &attribute;
  }
  return nullptr;
}

std::string_view EventView::Text(std::string_view name) const {
  const AttributeView* attribute = Find(name);
  return attribute == nullptr ? std::string_view() : attribute->text;
}

std::string CanonicalValue(const AttributeView& attribute) {
  switch (attribute.kind) {
    case AttributeKind::kBoolean:
      return attribute.integer != 0 ? "true" : "false";
    case AttributeKind::kInteger:
      return fmt::format("{}", attribute.integer);
    case AttributeKind::kBinary:
      return EncodeBase64(attribute.text);
    case AttributeKind::kTimestamp:
      return FormatRfc3339Nanos(attribute.integer, attribute.nanos);
    case AttributeKind::kString:
    case AttributeKind::kUri:
    case AttributeKind::kUriReference:
      break;
  }
  return std::string(attribute.text);
}

std::optional<std::string> CanonicalAttribute(const EventView& event, std::string_view name) {
  if (name == "id") return std::string(event.id);
  if (name == "source") return std::string(event.source);
  if (name == "type") return std::string(event.type);
  if (name == "specversion") return std::string(event.spec_version);
  const AttributeView* attribute = event.Find(name);
  if (attribute == nullptr) return std::nullopt;
  return CanonicalValue(*attribute);
}

absl::Status ParseEvent(std::string_view bytes, EventView& view) {
  view.id = view.source = view.spec_version = view.type = view.data = {};
  view.data_kind = DataKind::kNone;
  view.attributes.clear();

  WireReader reader(bytes);
  std::uint32_t seen = 0;
  while (!reader.AtEnd()) {
    std::uint32_t field = 0;
    WireType type{};
    if (!reader.ReadTag(field, type)) return Malformed("bad field tag", reader.position());
    if (field > kProtoData) {
      if (!reader.Skip(type)) return Malformed("unknown field cut short", reader.position());
      continue;
    }
    std::string_view value;
    if (type != WireType::kBytes) {
      return Malformed(fmt::format("field {} has the wrong wire type", field), reader.position());
    }
    if (!reader.ReadBytes(value)) {
      return Malformed(fmt::format("field {} is cut short", field), reader.position());
    }
    if (field != kAttributes) {
      // The three kinds of data are a one-of: any second one counts as a repetition.
      const std::uint32_t slot = field >= kBinaryData ? kBinaryData : field;
      if ((seen & (1u << slot)) != 0) {
        return Malformed(fmt::format("field {} is given twice", field), reader.position());
      }
      seen |= 1u << slot;
    }
    switch (field) {
      case kId:
        view.id = value;
        break;
      case kSource:
        view.source = value;
        break;
      case kSpecVersion:
        view.spec_version = value;
        break;
      case kType:
        view.type = value;
        break;
      case kAttributes: {
        if (view.attributes.size() == kParsedAttributesMax) {
          return Malformed(fmt::format("more than {} attributes", kParsedAttributesMax),
                           reader.position());
        }
        bool has_value = false;
        AttributeView& attribute = view.attributes.emplace_back();
        if (!ParseEntry(value, attribute, has_value)) {
          return Malformed("bad attribute", reader.position());
        }
        if (!has_value) {
          return Malformed(fmt::format("attribute `{}` has no value", attribute.name),
                           reader.position());
        }
        break;
      }
      case kBinaryData:
        view.data_kind = DataKind::kBinary;
        view.data = value;
        break;
      case kTextData:
        view.data_kind = DataKind::kText;
        view.data = value;
        break;
      default:
        view.data_kind = DataKind::kProto;
        view.data = value;
        break;
    }
  }
  return RefuseDuplicateNames(view);
}

absl::StatusOr<Event> Event::FromBytes(std::string bytes, const EventLimits& limits) {
  EventView view;
  TOCSIN_RETURN_IF_ERROR(ParseEvent(bytes, view));
  TOCSIN_RETURN_IF_ERROR(ValidateEvent(view, bytes.size(), limits));
  return Event(std::move(bytes));
}

EventView Event::View() const {
  EventView view;
  const absl::Status status = ParseEvent(bytes_, view);
  TOCSIN_CHECK(status.ok(), "{}", MessageOf(status));
  return view;
}

namespace {

void PutEntry(std::string& out, std::string_view name, std::string_view value) {
  const std::size_t bytes =
      1 + VarintSize(name.size()) + name.size() + 1 + VarintSize(value.size()) + value.size();
  PutTag(out, kAttributes, WireType::kBytes);
  PutVarint(out, bytes);
  PutField(out, 1, name);
  PutField(out, 2, value);
}

void PutTextEntry(std::string& out, std::string_view name, std::uint32_t kind,
                  std::string_view text) {
  const std::size_t value_bytes = 1 + VarintSize(text.size()) + text.size();
  const std::size_t bytes =
      1 + VarintSize(name.size()) + name.size() + 1 + VarintSize(value_bytes) + value_bytes;
  PutTag(out, kAttributes, WireType::kBytes);
  PutVarint(out, bytes);
  PutField(out, 1, name);
  PutTag(out, 2, WireType::kBytes);
  PutVarint(out, value_bytes);
  PutField(out, kind, text);
}

std::uint64_t SignExtended(std::int64_t value) { return static_cast<std::uint64_t>(value); }

}  // namespace

EventBuilder::EventBuilder(std::string_view id, std::string_view source, std::string_view type) {
  bytes_.reserve(64 + id.size() + source.size() + type.size());
  PutField(bytes_, kId, id);
  PutField(bytes_, kSource, source);
  PutField(bytes_, kSpecVersion, std::string_view("1.0"));
  PutField(bytes_, kType, type);
}

EventBuilder& EventBuilder::Attribute(std::string_view name, std::string_view text) {
  PutTextEntry(bytes_, name, kCeString, text);
  return *this;
}

EventBuilder& EventBuilder::Uri(std::string_view name, std::string_view text) {
  PutTextEntry(bytes_, name, kCeUri, text);
  return *this;
}

EventBuilder& EventBuilder::UriReference(std::string_view name, std::string_view text) {
  PutTextEntry(bytes_, name, kCeUriRef, text);
  return *this;
}

EventBuilder& EventBuilder::Binary(std::string_view name, std::string_view bytes) {
  PutTextEntry(bytes_, name, kCeBytes, bytes);
  return *this;
}

EventBuilder& EventBuilder::Integer(std::string_view name, std::int32_t value) {
  std::string encoded;
  PutField(encoded, kCeInteger, SignExtended(value));
  PutEntry(bytes_, name, encoded);
  return *this;
}

EventBuilder& EventBuilder::Boolean(std::string_view name, bool value) {
  std::string encoded;
  PutField(encoded, kCeBoolean, std::uint64_t{value ? 1u : 0u});
  PutEntry(bytes_, name, encoded);
  return *this;
}

EventBuilder& EventBuilder::Timestamp(std::string_view name, std::int64_t seconds,
                                      std::int32_t nanos) {
  std::string timestamp;
  if (seconds != 0) PutField(timestamp, 1, SignExtended(seconds));
  if (nanos != 0) PutField(timestamp, 2, SignExtended(nanos));
  PutTextEntry(bytes_, name, kCeTimestamp, timestamp);
  return *this;
}

EventBuilder& EventBuilder::BinaryData(std::string_view data) {
  data_.clear();
  PutField(data_, kBinaryData, data);
  return *this;
}

EventBuilder& EventBuilder::TextData(std::string_view data) {
  data_.clear();
  PutField(data_, kTextData, data);
  return *this;
}

EventBuilder& EventBuilder::Copy(const AttributeView& attribute) {
  switch (attribute.kind) {
    case AttributeKind::kBoolean:
      return Boolean(attribute.name, attribute.integer != 0);
    case AttributeKind::kInteger:
      return Integer(attribute.name, static_cast<std::int32_t>(attribute.integer));
    case AttributeKind::kString:
      return Attribute(attribute.name, attribute.text);
    case AttributeKind::kBinary:
      return Binary(attribute.name, attribute.text);
    case AttributeKind::kUri:
      return Uri(attribute.name, attribute.text);
    case AttributeKind::kUriReference:
      return UriReference(attribute.name, attribute.text);
    case AttributeKind::kTimestamp:
      return Timestamp(attribute.name, attribute.integer, attribute.nanos);
  }
  return *this;
}

EventBuilder& EventBuilder::CopyData(const EventView& event) {
  data_.clear();
  switch (event.data_kind) {
    case DataKind::kNone:
      break;
    case DataKind::kBinary:
      PutField(data_, kBinaryData, event.data);
      break;
    case DataKind::kText:
      PutField(data_, kTextData, event.data);
      break;
    case DataKind::kProto:
      PutField(data_, kProtoData, event.data);
      break;
  }
  return *this;
}

std::string EventBuilder::Encode() && {
  bytes_.append(data_);
  return std::move(bytes_);
}

std::optional<std::string> StripReserved(const EventView& view) {
  const auto reserved = [](const AttributeView& attribute) {
    return attribute.name.substr(0, kReservedPrefix.size()) == kReservedPrefix;
  };
  if (std::none_of(view.attributes.begin(), view.attributes.end(), reserved)) return std::nullopt;
  EventBuilder builder(view.id, view.source, view.type);
  for (const AttributeView& attribute : view.attributes) {
    if (!reserved(attribute)) builder.Copy(attribute);
  }
  builder.CopyData(view);
  return std::move(builder).Encode();
}

}  // namespace tocsin
