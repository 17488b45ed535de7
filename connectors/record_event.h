// RecordMapper: what one record of a queue becomes: an event, or bytes that could not be decoded.
//
// Envelopes:
//   raw          the value is the data of a new event with the source's default attributes
//   cloudevents  the record is a CloudEvent: in binary mode by headers `ce_*`, in structured mode
//   as
//                JSON. Anything else is undecodable; a record without value and headers is a
//                tombstone
//   auto         a CloudEvent if it says that it is one (`ce_specversion`, a content type of
//                CloudEvents, or, where there is no content type at all, a JSON object with
//                `specversion`), else raw
//
// A record that says it is a CloudEvent and is none is undecodable, never raw.
//
// The `event:` block gives a raw event its attributes, by templates (broker/base/event_template.h).
// What a template names and is not there leaves the attribute out, or at its default for `type`.
// An event that came as a CloudEvent keeps what it has; the block and the key only fill what is
// missing.
//
// Threading: immutable after Make().

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/base/event.h"
#include "broker/base/event_template.h"
#include "connectors/event_overrides.h"
#include "connectors/source_connector.h"

namespace tocsin {

enum class Envelope : std::uint8_t { kAuto, kRaw, kCloudEvents };

// Views that live through one call of Map().
struct OutsideRecord {
  std::string_view id;    // the same when the same thing is read twice
  std::string_view what;  // the last part of the default type: `record`
  std::string_view subject;
  std::string_view where;  // of error texts: `orders/3@17`
  std::optional<std::string_view> key;
  std::span<const std::pair<std::string_view, std::string_view>> headers;
  std::span<const std::pair<std::string_view, std::string_view>> names;  // of templates
  // What the kind gives a raw event beyond the others; the `event:` block wins.
  std::span<const std::pair<std::string_view, std::string_view>> attributes;
  std::optional<std::string_view> value;  // nullopt: a tombstone
  std::optional<WallTime> time;
  // If set, makes the JSON that a raw event has as data instead of `value`.
  std::function<std::string()> raw_json;
};

// Bytes kept of one record that is too large for the journal; the reason says so.
inline constexpr std::size_t kUndecodableBytesMax = std::size_t{1} << 20;
// Larger values are undecodable; the broker's own limit of an event is never above.
inline constexpr std::size_t kRecordBytesMax = std::size_t{3} << 20;

class RecordMapper {
 public:
  // `kind` is the middle of the default type: dev.tocsin.<kind>.<what>.
  //   kInvalidArgument  a template of `event`, named
  static absl::StatusOr<RecordMapper> Make(std::string_view source_name, std::string_view kind,
                                           Envelope envelope, const EventOverrides& event,
                                           std::span<const std::string_view> names);

  std::variant<Event, UndecodableRecord> Map(const OutsideRecord& record) const;

  // Maps into the batch; the bytes that it grew by.
  std::size_t MapInto(const OutsideRecord& record, SourceBatch& batch) const;

 private:
  using Mapped = std::variant<Event, UndecodableRecord>;
  struct Named {
    std::string name;
    EventTemplate made;
  };

  Mapped MapRaw(const OutsideRecord& record) const;
  Mapped MapBinary(const OutsideRecord& record) const;
  Mapped MapStructured(const OutsideRecord& record, std::string_view json) const;
  Mapped Finish(const OutsideRecord& record, std::string encoded) const;
  // An event that came complete, with what it lacks.
  Mapped Complete(const OutsideRecord& record, std::string encoded) const;

  Envelope envelope_ = Envelope::kAuto;
  std::string source_;
  std::string type_stem_;  // `dev.tocsin.kafka.`
  std::optional<EventTemplate> type_;
  std::optional<EventTemplate> subject_;
  std::vector<Named> attributes_;
  std::optional<std::string> data_;
  bool own_key_ = false;  // `event.attributes` has a partitionkey
  bool reads_data_ = false;
};

// A key as `partitionkey`: itself if it is text within the limit; else base64 of it, or its hash,
// so that equal keys stay equal.
std::string PartitionKeyOf(std::string_view key);

// True if an attribute can carry it: UTF-8 without control characters, not empty.
bool IsAttributeText(std::string_view text);

}  // namespace tocsin
