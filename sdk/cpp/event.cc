#include "sdk/cpp/event.h"

#include <absl/strings/escaping.h>
#include <fmt/format.h>
#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <array>
#include <random>

#include "io/cloudevents/v1/cloudevents.pb.h"
#include "sdk/cpp/event_value.h"

namespace tocsin::sdk {

using Value = ::io::cloudevents::v1::CloudEvent_CloudEventAttributeValue;
using google::protobuf::util::TimeUtil;

namespace internal {

std::string CanonicalText(const Value& value) {
  switch (value.attr_case()) {
    case Value::kCeBoolean:
      return value.ce_boolean() ? "true" : "false";
    case Value::kCeInteger:
      return std::to_string(value.ce_integer());
    case Value::kCeString:
      return value.ce_string();
    case Value::kCeBytes: {
      std::string text;
      absl::Base64Escape(value.ce_bytes(), &text);
      return text;
    }
    case Value::kCeUri:
      return value.ce_uri();
    case Value::kCeUriRef:
      return value.ce_uri_ref();
    case Value::kCeTimestamp:
      return TimeUtil::ToString(value.ce_timestamp());
    case Value::ATTR_NOT_SET:
      break;
  }
  return {};
}

}  // namespace internal

namespace {

std::mt19937_64& UuidRandom() {
  thread_local std::mt19937_64 random([] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }());
  return random;
}

}  // namespace

std::string NewUuid() {
  const std::uint64_t high = (UuidRandom()() & ~0xf000ULL) | 0x4000ULL;
  const std::uint64_t low = (UuidRandom()() & ~(3ULL << 62)) | (2ULL << 62);
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, (high >> 16) & 0xffff,
                     high & 0xffff, low >> 48, low & 0xffff'ffff'ffffULL);
}

Event::Event() = default;
Event::~Event() = default;

Event::Event(std::string_view type, std::string_view source) {
  Message& mutable_message = Mutable();
  mutable_message.set_id(NewUuid());
  mutable_message.set_type(type.data(), type.size());
  mutable_message.set_source(source.data(), source.size());
  mutable_message.set_spec_version("1.0");
}

Event::Event(const Event& other) : decodable_(other.decodable_) {
  if (other.message_) {
    message_ = std::make_unique<Message>(*other.message_);
  }
  if (!other.encoded_.empty()) {
    owned_ = std::string(other.encoded_);
    encoded_ = owned_;
  }
}

Event& Event::operator=(const Event& other) {
  if (this != &other) {
    Event copy(other);
    *this = std::move(copy);
  }
  return *this;
}

Event::Event(Event&& other) noexcept { *this = std::move(other); }

Event& Event::operator=(Event&& other) noexcept {
  if (this == &other) {
    return *this;
  }
  // A short string moves its characters, so a view of one's own bytes is taken anew.
  const bool own = other.encoded_.data() == other.owned_.data();
  const std::size_t size = other.encoded_.size();
  const char* borrowed = other.encoded_.data();
  owned_ = std::move(other.owned_);
  encoded_ = own ? std::string_view(owned_.data(), size) : std::string_view(borrowed, size);
  message_ = std::move(other.message_);
  decodable_ = other.decodable_;
  other.owned_.clear();
  other.encoded_ = {};
  other.decodable_ = true;
  return *this;
}

Event Event::FromEncoded(std::string encoded) {
  Event event;
  event.owned_ = std::move(encoded);
  event.encoded_ = event.owned_;
  return event;
}

Event Event::Borrow(std::string_view encoded) {
  Event event;
  event.encoded_ = encoded;
  return event;
}

const Event::Message& Event::message() const {
  if (!message_) {
    message_ = std::make_unique<Message>();
    if (!message_->ParseFromArray(encoded_.data(), static_cast<int>(encoded_.size()))) {
      message_->Clear();
      decodable_ = false;
    }
  }
  return *message_;
}

Event::Message& Event::Mutable() {
  message();
  encoded_ = {};
  owned_.clear();
  return *message_;
}

bool Event::Valid() const {
  const Message& m = message();
  return decodable_ && !m.id().empty() && !m.source().empty() && !m.type().empty() &&
         m.spec_version() == "1.0";
}

std::string Event::Encoded() const {
  if (!encoded_.empty()) {
    return std::string(encoded_);
  }
  return message_ ? message_->SerializeAsString() : std::string();
}

std::string_view Event::id() const { return message().id(); }
std::string_view Event::source() const { return message().source(); }
std::string_view Event::type() const { return message().type(); }
std::string Event::subject() const { return Attribute("subject").value_or(""); }
std::string Event::time() const { return Attribute("time").value_or(""); }
std::string Event::data_content_type() const { return Attribute("datacontenttype").value_or(""); }

std::optional<std::string> Event::Attribute(std::string_view name) const {
  const Message& m = message();
  if (name == "id") {
    return m.id();
  }
  if (name == "source") {
    return m.source();
  }
  if (name == "type") {
    return m.type();
  }
  const auto found = m.attributes().find(std::string(name));
  if (found == m.attributes().end() || found->second.attr_case() == Value::ATTR_NOT_SET) {
    return std::nullopt;
  }
  return internal::CanonicalText(found->second);
}

std::vector<std::pair<std::string, std::string>> Event::Attributes() const {
  const Message& m = message();
  std::vector<std::pair<std::string, std::string>> all = {
      {"id", m.id()}, {"source", m.source()}, {"type", m.type()}};
  for (const auto& [name, value] : m.attributes()) {
    if (value.attr_case() != Value::ATTR_NOT_SET) {
      all.emplace_back(name, internal::CanonicalText(value));
    }
  }
  std::sort(all.begin(), all.end());
  return all;
}

std::string_view Event::data() const {
  const Message& m = message();
  switch (m.data_case()) {
    case Message::kBinaryData:
      return m.binary_data();
    case Message::kTextData:
      return m.text_data();
    case Message::kProtoData:
      return m.proto_data().value();
    case Message::DATA_NOT_SET:
      break;
  }
  return {};
}

bool Event::has_data() const { return message().data_case() != Message::DATA_NOT_SET; }

Event& Event::set_id(std::string_view value) {
  Mutable().set_id(value.data(), value.size());
  return *this;
}

Event& Event::set_source(std::string_view value) {
  Mutable().set_source(value.data(), value.size());
  return *this;
}

Event& Event::set_type(std::string_view value) {
  Mutable().set_type(value.data(), value.size());
  return *this;
}

Event& Event::set_subject(std::string_view value) { return SetAttribute("subject", value); }

Event& Event::set_time(std::string_view rfc3339) {
  google::protobuf::Timestamp timestamp;
  if (!TimeUtil::FromString(std::string(rfc3339), &timestamp)) {
    return SetAttribute("time", rfc3339);
  }
  *(*Mutable().mutable_attributes())["time"].mutable_ce_timestamp() = timestamp;
  return *this;
}

Event& Event::set_partition_key(std::string_view value) {
  return SetAttribute("partitionkey", value);
}

Event& Event::SetAttribute(std::string_view name, std::string_view value) {
  (*Mutable().mutable_attributes())[std::string(name)].set_ce_string(std::string(value));
  return *this;
}

Event& Event::SetAttribute(std::string_view name, const char* value) {
  return SetAttribute(name, std::string_view(value));
}

Event& Event::SetAttribute(std::string_view name, std::int32_t value) {
  (*Mutable().mutable_attributes())[std::string(name)].set_ce_integer(value);
  return *this;
}

Event& Event::SetAttribute(std::string_view name, bool value) {
  (*Mutable().mutable_attributes())[std::string(name)].set_ce_boolean(value);
  return *this;
}

Event& Event::SetText(std::string_view text, std::string_view content_type) {
  Mutable().set_text_data(std::string(text));
  return content_type.empty() ? *this : SetAttribute("datacontenttype", content_type);
}

Event& Event::SetJson(std::string_view json) { return SetText(json, "application/json"); }

Event& Event::SetBytes(std::string_view bytes, std::string_view content_type) {
  Mutable().set_binary_data(bytes.data(), bytes.size());
  return content_type.empty() ? *this : SetAttribute("datacontenttype", content_type);
}

}  // namespace tocsin::sdk
