// EventTemplate: a small text with holes which a record or an event fills: the `event:` block of
// queue sources, and `transform:` of triggers.
//
//   {key}            the record's key
//   {header.NAME}    a header, a field, an attribute beside the data; `{field.NAME}` is the same
//   {data.a.b.0}     a value inside JSON data; digits count into arrays. Text as it is, numbers and
//                    booleans as written, objects and arrays as compact JSON
//   {NAME}           what the kind offers: topic, partition, stream, channel, ...
//   {{ and }}        braces
//
// Over an event there are {data.PATH} and {NAME}, any attribute; a `?` at a hole's end, as in
// {subject?}, says that it may be missing.
//
// Threading: immutable after Parse().

#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/json_scan.h"

namespace tocsin {

// What fills the holes; views into the record. `data` is a JSON value, or nullopt.
struct TemplateValues {
  std::optional<std::string_view> key;
  std::span<const std::pair<std::string_view, std::string_view>> headers;
  std::span<const std::pair<std::string_view, std::string_view>> names;
  std::optional<JsonValue> data;
};

// Lower-case letters and digits, at least one.
bool IsAttributeName(std::string_view name);

class EventTemplate {
 public:
  // `names`: what the kind offers.
  //   kInvalidArgument  a brace without its partner, an empty or unknown name
  static absl::StatusOr<EventTemplate> Parse(std::string_view text,
                                             std::span<const std::string_view> names);
  // Over an event.
  //   kInvalidArgument  as above; a name that no attribute can have
  static absl::StatusOr<EventTemplate> ParseOverEvent(std::string_view text);

  // nullopt: something that it names is not there, or null; `missing`, if given, is that hole.
  std::optional<std::string> Fill(const TemplateValues& values,
                                  std::string* missing = nullptr) const;

  // What a text of one hole of `data` and nothing else names there; nullopt if it is not there.
  std::optional<JsonValue> Whole(const TemplateValues& values) const;

  bool reads_data() const { return reads_data_; }
  bool constant() const;  // no hole
  // One hole and nothing else: of `data`, or of an attribute, whose name it gives.
  bool is_data_hole() const { return parts_.size() == 1 && parts_[0].from == From::kData; }
  const std::string* attribute_hole() const;
  // Of the one hole.
  bool may_be_missing() const { return parts_[0].optional; }
  std::string hole() const { return HoleText(parts_[0]); }
  // The attributes that it names.
  std::vector<std::string_view> names() const;

 private:
  enum class From { kText, kKey, kHeader, kData, kName };
  struct Part {
    From from = From::kText;
    std::string text;               // the text itself, or the name
    std::vector<std::string> path;  // of kData
    bool optional = false;
  };

  static absl::StatusOr<EventTemplate> ParseText(
      std::string_view text, const std::optional<std::span<const std::string_view>>& names);
  // `names` as of Parse(); nullopt: over an event.
  absl::Status AddHole(std::string_view hole,
                       const std::optional<std::span<const std::string_view>>& names);
  static std::string HoleText(const Part& part);
  static std::optional<std::string> FillPart(const Part& part, const TemplateValues& values);

  std::vector<Part> parts_;
  bool reads_data_ = false;
};

}  // namespace tocsin
