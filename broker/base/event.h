// A CloudEvent (CloudEvents 1.0) in its protobuf encoding, io.cloudevents.v1.CloudEvent.
//
// An event's bytes stay as they arrived, from the wire through the journal to the worker's frame.
// So there are two types: Event owns encoded bytes that have been validated, and EventView shows
// the attributes of encoded bytes that lie somewhere else.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tocsin {

enum class AttributeKind : std::uint8_t {
  kBoolean,
  kInteger,
  kString,
  kBinary,
  kUri,
  kUriReference,
  kTimestamp,
};

// Points into the event's bytes. `text` for kString, kBinary (raw bytes), kUri, kUriReference;
// `integer` for kBoolean (0, 1) and kInteger; kTimestamp has seconds in `integer` and `nanos`.
struct AttributeView {
  std::string_view name;
  AttributeKind kind = AttributeKind::kString;
  std::string_view text;
  std::int64_t integer = 0;
  std::int32_t nanos = 0;
};

enum class DataKind : std::uint8_t { kNone, kBinary, kText, kProto };

// Lives as long as the bytes it was parsed from. Not the owner of anything.
struct EventView {
  std::string_view id;
  std::string_view source;
  std::string_view spec_version;
  std::string_view type;
  absl::InlinedVector<AttributeView, 6> attributes;  // optional and extension attributes, any order
  DataKind data_kind = DataKind::kNone;
  std::string_view data;  // kProto: the encoded google.protobuf.Any

  // nullptr if absent. `name` is matched exactly; linear, events have few attributes.
  const AttributeView* Find(std::string_view name) const;

  // The text of a string-like attribute; empty if absent or of another kind.
  std::string_view Text(std::string_view name) const;

  // The ordering key: `partitionkey`, or empty.
  std::string_view PartitionKey() const { return Text("partitionkey"); }
};

// The canonical string of any attribute, required ones included (CloudEvents 1.0 section 3.1):
// nullopt if absent. Allocates only for kinds that are not text already.
std::optional<std::string> CanonicalAttribute(const EventView& event, std::string_view name);
std::string CanonicalValue(const AttributeView& attribute);

struct EventLimits {
  std::size_t event_bytes_max = std::size_t{1} << 20;
  std::size_t attributes_max = 256;
  std::size_t name_bytes_max = 64;  // attribute names
  std::size_t attribute_bytes_max = 64 * 1024;
  std::size_t key_bytes_max = 1024;  // partitionkey; id and source: 4096
};

// Names beginning with this are ours; from outside they are stripped (or, for a
// trusted path such as emitted events, kept).
inline constexpr std::string_view kReservedPrefix = "tocsin";

// Reads the encoding without copying. Checks the wire format only; duplicate map keys are refused.
//   kInvalidArgument  malformed; the text says where
absl::Status ParseEvent(std::string_view bytes, EventView& view);

// What makes an event acceptable: required attributes not empty, specversion 1.0, names and values
// in form (UTF-8, no control characters, RFC 3339 time, absolute dataschema), within `limits`.
//   kInvalidArgument  names the attribute and the rule
//   kOutOfRange       over a limit; names the limit
absl::Status ValidateEvent(const EventView& view, std::size_t encoded_bytes,
                           const EventLimits& limits);

// Encoded, validated bytes.
class Event {
 public:
  Event() = default;

  // Parses and validates.
  static absl::StatusOr<Event> FromBytes(std::string bytes, const EventLimits& limits);

  // For bytes that were validated before they were stored.
  static Event FromTrustedBytes(std::string bytes) { return Event(std::move(bytes)); }

  const std::string& bytes() const& { return bytes_; }
  std::string&& bytes() && { return std::move(bytes_); }

  // Parses again; cheap (about 100 ns). TOCSIN_CHECKs that the bytes are an event.
  EventView View() const;

 private:
  explicit Event(std::string bytes) : bytes_(std::move(bytes)) {}

  std::string bytes_;
};

// Puts an event together. Setters may be called in any order, each attribute once.
class EventBuilder {
 public:
  EventBuilder(std::string_view id, std::string_view source, std::string_view type);

  EventBuilder& Attribute(std::string_view name, std::string_view text);  // a string
  EventBuilder& Uri(std::string_view name, std::string_view text);        // an absolute URI
  EventBuilder& UriReference(std::string_view name, std::string_view text);
  EventBuilder& Integer(std::string_view name, std::int32_t value);
  EventBuilder& Boolean(std::string_view name, bool value);
  EventBuilder& Binary(std::string_view name, std::string_view bytes);
  EventBuilder& Timestamp(std::string_view name, std::int64_t seconds, std::int32_t nanos);
  EventBuilder& BinaryData(std::string_view data);
  EventBuilder& TextData(std::string_view data);
  EventBuilder& Copy(const AttributeView& attribute);
  EventBuilder& CopyData(const EventView& event);

  // Encoded, not validated: Event::FromBytes does that.
  std::string Encode() &&;

 private:
  std::string bytes_;
  std::string data_;
};

// The same event with every attribute of reserved name gone, except those `keep` names; nullopt if
// there is none to strip, so that the common case copies nothing.
std::optional<std::string> StripReserved(const EventView& view);

}  // namespace tocsin
