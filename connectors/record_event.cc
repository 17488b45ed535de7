#include "connectors/record_event.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <chrono>

#include "absl/strings/match.h"
#include "broker/base/base64.h"
#include "broker/base/event_json.h"
#include "broker/base/hash.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr std::string_view kPrefix = "ce_";
constexpr std::string_view kStructured = "application/cloudevents";

absl::string_view Absl(std::string_view text) { return {text.data(), text.size()}; }

// Sizes are the broker's business: here only the form counts.
EventLimits FormLimits() {
  EventLimits limits;
  limits.event_bytes_max = kRecordBytesMax + (std::size_t{256} << 10);
  return limits;
}

UndecodableRecord Undecodable(const OutsideRecord& record, std::string_view why) {
  UndecodableRecord out;
  const std::string made = !record.value && record.raw_json ? record.raw_json() : std::string();
  const std::string_view value = record.value ? *record.value : std::string_view(made);
  out.bytes = std::string(value.substr(0, kUndecodableBytesMax));
  out.reason = fmt::format("{}: {}", record.where, why);
  if (out.bytes.size() < value.size()) {
    out.reason +=
        fmt::format(" (the first {} of {} bytes are kept)", out.bytes.size(), value.size());
  }
  return out;
}

std::string_view Header(const OutsideRecord& record, std::string_view name) {
  for (const auto& [key, value] : record.headers) {
    if (key == name) return value;
  }
  return {};
}

std::string_view ContentType(const OutsideRecord& record) {
  for (const auto& [key, value] : record.headers) {
    if (absl::EqualsIgnoreCase(Absl(key), "content-type") ||
        absl::EqualsIgnoreCase(Absl(key), "contenttype")) {
      return value;
    }
  }
  return {};
}

bool IsUtf8(std::string_view text) { return simdjson::validate_utf8(text.data(), text.size()); }

bool LooksLikeJson(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return false;
  const char c = text[first];
  return c == '{' || c == '[' || c == '"' || c == '-' || (c >= '0' && c <= '9') || c == 't' ||
         c == 'f' || c == 'n';
}

std::optional<JsonValue> ParseJson(std::string_view text) {
  JsonValue value;
  if (!LooksLikeJson(text) || !JsonScanner(text).ReadDocument(value).ok()) return std::nullopt;
  return value;
}

bool HasSpecVersion(std::string_view text) {
  // Cheap first: most values are no CloudEvents.
  if (text.find("\"specversion\"") == std::string_view::npos) return false;
  const std::optional<JsonValue> value = ParseJson(text);
  if (!value || value->kind != JsonKind::kObject) return false;
  const std::vector<JsonMember> members = JsonMembers(*value);
  return std::any_of(members.begin(), members.end(),
                     [](const JsonMember& member) { return member.name == "specversion"; });
}

void PutTime(EventBuilder& builder, WallTime time) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  const auto nanos = std::chrono::nanoseconds(time - seconds).count();
  builder.Timestamp("time", seconds.time_since_epoch().count(), static_cast<std::int32_t>(nanos));
}

void PutData(EventBuilder& builder, std::string_view data, std::string_view content_type) {
  const bool text = IsJsonMediaType(content_type) ||
                    absl::StartsWithIgnoreCase(Absl(content_type), "text/") || content_type.empty();
  if (text && IsUtf8(data)) {
    builder.TextData(data);
  } else {
    builder.BinaryData(data);
  }
}

}  // namespace

bool IsAttributeText(std::string_view text) {
  if (text.empty() || !IsUtf8(text)) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x20 || c == 0x7f) return false;
    // U+0080 to U+009F.
    if (c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0) {
      return false;
    }
  }
  return true;
}

std::string PartitionKeyOf(std::string_view key) {
  const std::size_t most = EventLimits().key_bytes_max;
  if (key.size() <= most && IsAttributeText(key)) return std::string(key);
  if (key.size() <= most / 2) return "base64:" + EncodeBase64(key);
  const Hash128 hash = HashSourceAndId("", key, 0);
  return fmt::format("hash:{:016x}{:016x}", hash.high, hash.low);
}

absl::StatusOr<RecordMapper> RecordMapper::Make(std::string_view source_name, std::string_view kind,
                                                Envelope envelope, const EventOverrides& event,
                                                std::span<const std::string_view> names) {
  RecordMapper made;
  const auto parse = [&](std::string_view attribute, const std::string& text) {
    absl::StatusOr<EventTemplate> parsed = EventTemplate::Parse(text, names);
    if (!parsed.ok()) parsed = Annotate(parsed.status(), attribute);
    if (parsed.ok()) made.reads_data_ = made.reads_data_ || parsed->reads_data();
    return parsed;
  };
  made.envelope_ = envelope;
  made.source_ = event.source.value_or(fmt::format("/sources/{}", source_name));
  made.type_stem_ = fmt::format("{}.{}.", event.type_prefix.value_or("dev.tocsin"), kind);
  if (event.type) {
    TOCSIN_ASSIGN_OR_RETURN(made.type_, parse("type", *event.type));
  }
  if (event.subject) {
    TOCSIN_ASSIGN_OR_RETURN(made.subject_, parse("subject", *event.subject));
  }
  for (const auto& [name, text] : event.attributes) {
    TOCSIN_ASSIGN_OR_RETURN(EventTemplate value, parse(name, text));
    made.attributes_.push_back({name, std::move(value)});
    made.own_key_ = made.own_key_ || name == "partitionkey";
  }
  made.data_ = event.data;
  return made;
}

RecordMapper::Mapped RecordMapper::Finish(const OutsideRecord& record, std::string encoded) const {
  absl::StatusOr<Event> event = Event::FromBytes(std::move(encoded), FormLimits());
  if (!event.ok()) return Undecodable(record, MessageOf(event.status()));
  return *std::move(event);
}

RecordMapper::Mapped RecordMapper::MapRaw(const OutsideRecord& record) const {
  const std::string made = record.raw_json ? record.raw_json() : std::string();
  std::string_view content_type = record.raw_json ? "application/json" : ContentType(record);
  const std::optional<std::string_view> value =
      record.raw_json ? std::optional<std::string_view>(made) : record.value;
  std::optional<JsonValue> json;
  const bool sniffed = content_type.empty();
  if (value && (reads_data_ || sniffed) && !data_) json = ParseJson(*value);
  if (sniffed && value) {
    content_type = json             ? "application/json"
                   : IsUtf8(*value) ? "text/plain; charset=utf-8"
                                    : "application/octet-stream";
  }
  const TemplateValues values{
      .key = record.key, .headers = record.headers, .names = record.names, .data = json};
  std::optional<std::string> type;
  if (type_) type = type_->Fill(values);
  EventBuilder builder(record.id, source_,
                       type && !type->empty() ? *type : type_stem_ + std::string(record.what));
  std::optional<std::string> subject;
  if (subject_) {
    subject = subject_->Fill(values);
  } else {
    subject = std::string(record.subject);
  }
  if (subject && IsAttributeText(*subject)) builder.Attribute("subject", *subject);
  if (record.time) PutTime(builder, *record.time);
  if (record.key && !own_key_ && !record.key->empty()) {
    builder.Attribute("partitionkey", PartitionKeyOf(*record.key));
  }
  for (const auto& [name, text] : record.attributes) {
    const bool own = std::any_of(attributes_.begin(), attributes_.end(),
                                 [&key = name](const Named& mine) { return mine.name == key; });
    if (!own) builder.Attribute(name, text);
  }
  bool typed = false;
  bool traced = false;
  for (const Named& attribute : attributes_) {
    std::optional<std::string> text = attribute.made.Fill(values);
    if (!text || text->empty()) continue;
    if (attribute.name == "partitionkey") text = PartitionKeyOf(*text);
    typed = typed || attribute.name == "datacontenttype";
    traced = traced || attribute.name == "traceparent";
    builder.Attribute(attribute.name, *text);
  }
  const std::string_view trace = Header(record, "traceparent");
  if (!traced && IsAttributeText(trace)) {
    builder.Attribute("traceparent", trace);
    const std::string_view state = Header(record, "tracestate");
    if (IsAttributeText(state)) builder.Attribute("tracestate", state);
  }
  if (data_) {
    if (!typed) builder.Attribute("datacontenttype", "application/json");
    builder.TextData(*data_);
  } else if (value) {
    if (!typed && IsAttributeText(content_type)) {
      builder.Attribute("datacontenttype", content_type);
    }
    PutData(builder, *value, content_type);
  }
  return Finish(record, std::move(builder).Encode());
}

RecordMapper::Mapped RecordMapper::MapBinary(const OutsideRecord& record) const {
  std::string_view id, source, type, version;
  for (const auto& [key, value] : record.headers) {
    if (key == "ce_id") id = value;
    if (key == "ce_source") source = value;
    if (key == "ce_type") type = value;
    if (key == "ce_specversion") version = value;
  }
  if (version != "1.0") {
    return Undecodable(record, fmt::format("ce_specversion is '{}', not 1.0", version));
  }
  EventBuilder builder(id, source, type);
  for (const auto& [key, value] : record.headers) {
    if (!key.starts_with(kPrefix)) continue;
    const std::string_view name = key.substr(kPrefix.size());
    if (name == "id" || name == "source" || name == "type" || name == "specversion") continue;
    if (name == "dataschema") {
      builder.Uri(name, value);
    } else if (name != "datacontenttype") {
      builder.Attribute(name, value);
    }
  }
  const std::string_view content_type = ContentType(record);
  if (!content_type.empty()) builder.Attribute("datacontenttype", content_type);
  if (record.value) PutData(builder, *record.value, content_type);
  return Complete(record, std::move(builder).Encode());
}

RecordMapper::Mapped RecordMapper::MapStructured(const OutsideRecord& record,
                                                 std::string_view json) const {
  absl::StatusOr<Event> event = EventFromJson(json, FormLimits());
  if (!event.ok()) return Undecodable(record, MessageOf(event.status()));
  return Complete(record, std::string(std::move(*event).bytes()));
}

RecordMapper::Mapped RecordMapper::Complete(const OutsideRecord& record,
                                            std::string encoded) const {
  EventView view;
  const absl::Status parsed = ParseEvent(encoded, view);
  if (!parsed.ok()) return Undecodable(record, MessageOf(parsed));
  const bool add_key =
      record.key && !record.key->empty() && !own_key_ && view.Find("partitionkey") == nullptr;
  const bool reserved = std::any_of(
      view.attributes.begin(), view.attributes.end(),
      [](const AttributeView& attribute) { return attribute.name.starts_with(kReservedPrefix); });
  if (!add_key && !reserved && attributes_.empty() && !subject_) {
    return Finish(record, std::move(encoded));
  }
  EventBuilder builder(view.id, view.source, view.type);
  for (const AttributeView& attribute : view.attributes) {
    if (!attribute.name.starts_with(kReservedPrefix)) builder.Copy(attribute);
  }
  builder.CopyData(view);
  TemplateValues values{
      .key = record.key, .headers = record.headers, .names = record.names, .data = std::nullopt};
  if (reads_data_ && view.data_kind != DataKind::kNone) values.data = ParseJson(view.data);
  if (add_key) builder.Attribute("partitionkey", PartitionKeyOf(*record.key));
  if (subject_ && view.Find("subject") == nullptr) {
    const std::optional<std::string> subject = subject_->Fill(values);
    if (subject && IsAttributeText(*subject)) builder.Attribute("subject", *subject);
  }
  for (const Named& attribute : attributes_) {
    if (view.Find(attribute.name) != nullptr) continue;
    std::optional<std::string> text = attribute.made.Fill(values);
    if (!text || text->empty()) continue;
    if (attribute.name == "partitionkey") text = PartitionKeyOf(*text);
    builder.Attribute(attribute.name, *text);
  }
  return Finish(record, std::move(builder).Encode());
}

RecordMapper::Mapped RecordMapper::Map(const OutsideRecord& record) const {
  if (record.value && record.value->size() > kRecordBytesMax) {
    return Undecodable(record, fmt::format("it is larger than {} bytes, the most that an event "
                                           "can have",
                                           kRecordBytesMax));
  }
  if (envelope_ == Envelope::kRaw) return MapRaw(record);
  const bool structured = absl::StartsWithIgnoreCase(Absl(ContentType(record)), Absl(kStructured));
  if (structured) {
    if (absl::StartsWithIgnoreCase(Absl(ContentType(record)), "application/cloudevents-batch")) {
      return Undecodable(record, "a batch of CloudEvents cannot be taken; send them one by one");
    }
    return MapStructured(record, record.value.value_or(""));
  }
  if (!Header(record, "ce_specversion").empty()) return MapBinary(record);
  if (envelope_ == Envelope::kCloudEvents) {
    const bool tombstone = !record.value && !record.raw_json;
    if (tombstone) return MapRaw(record);
    if (record.value && LooksLikeJson(*record.value)) return MapStructured(record, *record.value);
    return Undecodable(record,
                       "it is no CloudEvent (`envelope: cloudevents`): neither `ce_` "
                       "headers nor JSON");
  }
  if (ContentType(record).empty() && record.value && HasSpecVersion(*record.value)) {
    return MapStructured(record, *record.value);
  }
  return MapRaw(record);
}

std::size_t RecordMapper::MapInto(const OutsideRecord& record, SourceBatch& batch) const {
  Mapped mapped = Map(record);
  if (Event* event = std::get_if<Event>(&mapped)) {
    const std::size_t bytes = event->bytes().size();
    batch.events.push_back(std::move(*event));
    return bytes;
  }
  auto& undecodable = std::get<UndecodableRecord>(mapped);
  const std::size_t bytes = undecodable.bytes.size() + undecodable.reason.size();
  batch.undecodable.push_back(std::move(undecodable));
  return bytes;
}

}  // namespace tocsin
