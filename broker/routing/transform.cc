#include "broker/routing/transform.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>

#include "absl/container/inlined_vector.h"
#include "broker/base/check.h"
#include "broker/base/event_json.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

absl::Status Cannot(const std::string& message) { return absl::FailedPreconditionError(message); }

bool IsFixedAttribute(std::string_view name) {
  return name == "id" || name == "source" || name == "specversion" || name == "data" ||
         name.starts_with(kReservedPrefix);
}

// `{data.total}` without quotes is a map in YAML.
bool IsUnquotedHole(const std::vector<JsonMember>& members) {
  if (members.size() != 1 || members[0].value.kind != JsonKind::kNull) return false;
  std::string_view name = members[0].name;
  if (name.ends_with('?')) name.remove_suffix(1);
  return name == "data" || name.starts_with("data.") || name == "id" || name == "source" ||
         name == "type" || name == "subject" || name == "time";
}

}  // namespace

class TransformParser {
 public:
  TransformParser(std::string_view json, Transform& made, TransformFault& fault)
      : json_(json), made_(made), fault_(fault) {}

  bool Parse() {
    if (json_.size() > kTransformBytesMax) {
      return Fail({}, fmt::format("it is larger than {} bytes", kTransformBytesMax));
    }
    JsonValue root;
    const absl::Status status = JsonScanner(json_).ReadDocument(root);
    if (!status.ok()) return Fail({}, std::string(MessageOf(status)));
    if (root.kind != JsonKind::kObject) return Fail(root, "a map of `attributes` and `data`");
    std::string data;
    for (const JsonMember& member : JsonMembers(root)) {
      if (member.name == "attributes") {
        if (!Attributes(member.value)) return false;
      } else if (member.name == "data") {
        if (!Data(member.value)) return false;
        AppendJsonCompact(data, member.value.raw);
      } else {
        return Fail(member.value, fmt::format("`{}` is not known here; there are attributes, data",
                                              member.name.substr(0, 64)));
      }
    }
    if (made_.attributes_.empty() && !made_.has_data_) {
      return Fail(root, "it changes nothing; give `attributes` or `data`");
    }
    if (!CheckMediaType(root)) return false;
    Finish(data);
    return true;
  }

 private:
  bool Fail(const JsonValue& at, std::string message) {
    fault_.offset =
        at.raw.data() == nullptr ? 0 : static_cast<std::size_t>(at.raw.data() - json_.data());
    fault_.message = std::move(message);
    return false;
  }

  bool Template(const JsonValue& value, std::string_view text, EventTemplate& made) {
    absl::StatusOr<EventTemplate> parsed = EventTemplate::ParseOverEvent(text);
    if (!parsed.ok()) return Fail(value, std::string(MessageOf(parsed.status())));
    made = *std::move(parsed);
    made_.reads_data_ = made_.reads_data_ || made.reads_data();
    for (const std::string_view name : made.names()) {
      if (std::find(made_.names_.begin(), made_.names_.end(), name) == made_.names_.end()) {
        made_.names_.emplace_back(name);
      }
    }
    return true;
  }

  bool Attributes(const JsonValue& value) {
    if (value.kind != JsonKind::kObject) {
      return Fail(value, "`attributes` takes a map from names to texts");
    }
    for (const JsonMember& member : JsonMembers(value)) {
      if (!IsAttributeName(member.name)) {
        return Fail(member.value, fmt::format("`{}` is no attribute's name: lower-case letters and "
                                              "digits",
                                              member.name.substr(0, 64)));
      }
      if (IsFixedAttribute(member.name)) {
        return Fail(member.value,
                    fmt::format("`{}` cannot be changed: it says which event this is; others can",
                                member.name.substr(0, 64)));
      }
      std::string text;
      if (member.value.kind == JsonKind::kString) {
        text = JsonString(member.value);
      } else if (member.value.kind == JsonKind::kNumber ||
                 member.value.kind == JsonKind::kBoolean) {
        text = std::string(member.value.raw);
      } else {
        return Fail(member.value, fmt::format("the value for `{}` must be one text{}", member.name,
                                              member.value.kind == JsonKind::kObject
                                                  ? "; a hole is written in quotes"
                                                  : ""));
      }
      EventTemplate made;
      if (!Template(member.value, text, made)) return false;
      made_.attributes_.emplace_back(member.name, std::move(made));
    }
    std::sort(made_.attributes_.begin(), made_.attributes_.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const JsonMember& member : JsonMembers(value)) {
      std::string& canonical = attributes_[member.name];
      if (member.value.kind == JsonKind::kString) {
        AppendJsonString(canonical, JsonString(member.value));
      } else {
        AppendJsonString(canonical, member.value.raw);
      }
    }
    return true;
  }

  bool Data(const JsonValue& value) {
    made_.has_data_ = true;
    made_.data_is_text_ = value.kind == JsonKind::kString;
    made_.data_.texts.emplace_back();
    return Append(value);
  }

  std::string& text() { return made_.data_.texts.back(); }

  bool Append(const JsonValue& value) {
    switch (value.kind) {
      case JsonKind::kObject: {
        const std::vector<JsonMember> members = JsonMembers(value);
        if (IsUnquotedHole(members)) {
          return Fail(value, fmt::format("a hole is written in quotes: \"{{{}}}\"",
                                         members[0].name.substr(0, 64)));
        }
        text() += '{';
        bool first = true;
        for (const JsonMember& member : members) {
          if (!first) text() += ',';
          first = false;
          AppendJsonString(text(), member.name);
          text() += ':';
          if (!Append(member.value)) return false;
        }
        text() += '}';
        return true;
      }
      case JsonKind::kArray: {
        text() += '[';
        bool first = true;
        for (const JsonValue& element : JsonElements(value)) {
          if (!first) text() += ',';
          first = false;
          if (!Append(element)) return false;
        }
        text() += ']';
        return true;
      }
      case JsonKind::kString: {
        EventTemplate made;
        if (!Template(value, JsonString(value), made)) return false;
        if (made.constant() && !made_.data_is_text_) {
          AppendJsonString(text(), made.Fill({}).value_or(""));
          return true;
        }
        if (made_.data_.values.size() == kTransformHolesMax) {
          return Fail(value, fmt::format("more than {} texts with holes", kTransformHolesMax));
        }
        made_.data_.values.push_back(std::move(made));
        made_.data_.texts.emplace_back();
        return true;
      }
      default:
        text() += value.raw;
        return true;
    }
  }

  // As far as it can be said without an event.
  bool CheckMediaType(const JsonValue& root) {
    if (!made_.has_data_ || made_.data_is_text_) return true;
    for (const auto& [name, value] : made_.attributes_) {
      if (name != "datacontenttype" || !value.constant()) continue;
      const std::string type = value.Fill({}).value_or("");
      if (!type.empty() && !IsJsonMediaType(type)) {
        return Fail(root, fmt::format("with the datacontenttype `{}` `data` must be one text",
                                      type.substr(0, 64)));
      }
    }
    return true;
  }

  void Finish(const std::string& data) {
    made_.json_ = "{";
    if (!attributes_.empty()) {
      made_.json_ += R"("attributes":{)";
      bool first = true;
      for (const auto& [name, value] : attributes_) {
        if (!first) made_.json_ += ',';
        first = false;
        AppendJsonString(made_.json_, name);
        made_.json_ += ':' + value;
      }
      made_.json_ += '}';
    }
    if (made_.has_data_) {
      if (!attributes_.empty()) made_.json_ += ',';
      made_.json_ += R"("data":)" + data;
    }
    made_.json_ += '}';
  }

  std::string_view json_;
  Transform& made_;
  TransformFault& fault_;
  std::map<std::string, std::string> attributes_;  // canonical
};

TransformPtr Transform::FromJson(std::string_view json, TransformFault& fault) {
  auto made = std::make_shared<Transform>(Private());
  if (!TransformParser(json, *made, fault).Parse()) return nullptr;
  return made;
}

namespace {

// What holes see of an event.
class EventValues {
 public:
  absl::Status Read(const EventView& event, const std::vector<std::string>& names,
                    bool reads_data) {
    for (const std::string& name : names) {
      std::optional<std::string> text = CanonicalAttribute(event, name);
      if (text) names_.emplace_back(name, texts_.emplace_back(*std::move(text)));
    }
    values_.names = names_;
    if (!reads_data || event.data_kind == DataKind::kNone) return absl::OkStatus();
    const std::string_view type = event.Text("datacontenttype");
    JsonValue data;
    if ((type.empty() || IsJsonMediaType(type)) && event.data_kind != DataKind::kProto) {
      const absl::Status status = JsonScanner(event.data).ReadDocument(data);
      if (!status.ok()) {
        return Cannot(fmt::format("the payload is not JSON: {}", MessageOf(status)));
      }
      values_.data = data;
    } else if (event.data_kind == DataKind::kText) {
      std::string& quoted = texts_.emplace_back();
      AppendJsonString(quoted, event.data);
      values_.data = JsonValue{JsonKind::kString, quoted};
    }
    return absl::OkStatus();
  }

  const TemplateValues& values() const { return values_; }

 private:
  std::deque<std::string> texts_;
  absl::InlinedVector<std::pair<std::string_view, std::string_view>, 8> names_;
  TemplateValues values_;
};

absl::Status Missing(const std::string& hole) {
  return Cannot(fmt::format("the event has no value for {}", hole));
}

// False: the hole has no value, which `missing` then is.
bool AppendValue(std::string& out, const EventTemplate& value, const TemplateValues& values,
                 const EventView& event, std::string& missing) {
  if (value.is_data_hole()) {
    if (const std::optional<JsonValue> found = value.Whole(values)) {
      AppendJsonCompact(out, found->raw);
      return true;
    }
  } else if (const std::string* name = value.attribute_hole()) {
    const AttributeView* attribute = event.Find(*name);
    const bool literal = attribute != nullptr && (attribute->kind == AttributeKind::kBoolean ||
                                                  attribute->kind == AttributeKind::kInteger);
    if (const std::optional<std::string> text = CanonicalAttribute(event, *name)) {
      if (literal) {
        out += *text;
      } else {
        AppendJsonString(out, *text);
      }
      return true;
    }
  } else {
    const std::optional<std::string> text = value.Fill(values, &missing);
    if (text) AppendJsonString(out, *text);
    return text.has_value();
  }
  if (value.may_be_missing()) {
    out += "null";
    return true;
  }
  missing = value.hole();
  return false;
}

}  // namespace

absl::StatusOr<std::string> Transform::MakeData(const TemplateValues& values,
                                                const EventView& event, bool as_json) const {
  std::string missing;
  if (!as_json) {
    if (!data_is_text_) return Cannot("`data` must be one text if the media type is not JSON");
    std::optional<std::string> text = data_.values.front().Fill(values, &missing);
    if (!text) return Missing(missing);
    return *std::move(text);
  }
  std::string out;
  for (std::size_t i = 0; i < data_.values.size(); ++i) {
    out += data_.texts[i];
    if (!AppendValue(out, data_.values[i], values, event, missing)) return Missing(missing);
  }
  out += data_.texts.back();
  return out;
}

absl::StatusOr<std::string> Transform::Apply(const EventView& event,
                                             const EventLimits& limits) const {
  EventValues read;
  TOCSIN_RETURN_IF_ERROR(read.Read(event, names_, reads_data_));
  std::string type(event.type);
  std::string media_type(event.Text("datacontenttype"));
  std::vector<std::pair<std::string_view, std::string>> attributes;
  bool schema_named = false;
  bool media_type_named = false;
  for (const auto& [name, value] : attributes_) {
    std::string missing;
    std::optional<std::string> text = value.Fill(read.values(), &missing);
    if (!text) return Missing(missing);
    schema_named = schema_named || name == "dataschema";
    if (name == "type") {
      type = *std::move(text);
    } else if (name == "datacontenttype") {
      media_type_named = true;
      media_type = *std::move(text);
    } else {
      attributes.emplace_back(name, *std::move(text));
    }
  }
  if (has_data_ && !media_type_named && !media_type.empty() && !IsJsonMediaType(media_type)) {
    media_type = "application/json";
  }
  EventBuilder builder(event.id, event.source, type);
  for (const AttributeView& attribute : event.attributes) {
    const bool named = attribute.name == "datacontenttype" ||
                       // What says of the former payload how it is made.
                       (attribute.name == "dataschema" && has_data_ && !schema_named) ||
                       std::any_of(attributes.begin(), attributes.end(),
                                   [&](const auto& made) { return made.first == attribute.name; });
    if (!named) builder.Copy(attribute);
  }
  for (const auto& [name, text] : attributes) {
    if (text.empty()) continue;
    if (name == "dataschema") {
      builder.Uri(name, text);
    } else {
      builder.Attribute(name, text);
    }
  }
  if (!media_type.empty()) builder.Attribute("datacontenttype", media_type);
  if (has_data_) {
    const bool as_json = media_type.empty() || IsJsonMediaType(media_type);
    TOCSIN_ASSIGN_OR_RETURN(const std::string data, MakeData(read.values(), event, as_json));
    builder.TextData(data);
  } else {
    builder.CopyData(event);
  }
  std::string made = std::move(builder).Encode();
  EventView view;
  absl::Status status = ParseEvent(made, view);
  if (status.ok()) status = ValidateEvent(view, made.size(), limits);
  if (!status.ok()) return Cannot(fmt::format("what is made is no event: {}", MessageOf(status)));
  return made;
}

}  // namespace tocsin
