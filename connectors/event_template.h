// EventTemplate: a small text with holes which a record fills, for the `event:` block of queue
// sources.
//
//   {key}            the record's key
//   {header.NAME}    a header, a field, an attribute beside the data; `{field.NAME}` is the same
//   {data.a.b.0}     a value inside JSON data; digits count into arrays. Text as it is, numbers and
//                    booleans as written, objects and arrays as compact JSON
//   {NAME}           what the kind offers: topic, partition, stream, channel, ...
//   {{ and }}        braces
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

class EventTemplate {
 public:
  // `names`: what the kind offers.
  //   kInvalidArgument  a brace without its partner, an empty or unknown name
  static absl::StatusOr<EventTemplate> Parse(std::string_view text,
                                             std::span<const std::string_view> names);

  // nullopt: something that it names is not there, or null.
  std::optional<std::string> Fill(const TemplateValues& values) const;

  bool reads_data() const { return reads_data_; }

 private:
  enum class From { kText, kKey, kHeader, kData, kName };
  struct Part {
    From from = From::kText;
    std::string text;               // the text itself, or the name
    std::vector<std::string> path;  // of kData
  };

  std::vector<Part> parts_;
  bool reads_data_ = false;
};

}  // namespace tocsin
