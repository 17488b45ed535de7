// Transform: what a trigger's function gets instead of the event: templates over the event's
// attributes and its JSON payload.
//
//   { "attributes": { "subject": "{data.order.id}" },
//     "data": { "order": "{data.order}", "title": "Order {data.order.id} at {time}" } }
//
// A text that is one hole takes the value as it is: objects, numbers and null stay what they are.
// Other texts are filled, and stay texts. Attributes that are not named are kept, and so is the
// payload if there is no `data`. What the templates are is in broker/base/event_template.h;
// docs/transforms.md is the specification.
//
// It changes what is delivered, never what is stored. An event that it cannot be made of (a hole
// without a value, a payload that is no JSON, a result that is no valid event) is not delivered:
// its delivery ends as a dead letter of reason `refused` with the event as it was.
//
// Threading: immutable, shared freely.

#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/event.h"
#include "broker/base/event_template.h"

namespace tocsin {

inline constexpr std::size_t kTransformBytesMax = 64 * 1024;  // of its JSON
inline constexpr std::size_t kTransformHolesMax = 1024;       // templates in `data`

// Where a text is no transform.
struct TransformFault {
  std::size_t offset = 0;  // bytes from the start of the JSON text
  std::string message;
};

class Transform;
using TransformPtr = std::shared_ptr<const Transform>;

class Transform {
  struct Private {};

 public:
  explicit Transform(Private) {}

  // nullptr: `fault` says what is wrong and where. Never one that changes nothing.
  static TransformPtr FromJson(std::string_view json, TransformFault& fault);

  // The encoded event that the worker gets.
  //   kFailedPrecondition  the hole without a value, or what is wrong with the payload or the
  //                        result; `limits` are of the result
  absl::StatusOr<std::string> Apply(const EventView& event, const EventLimits& limits) const;

  // Without white space, attributes in order: equal text means equal behaviour.
  const std::string& ToJson() const { return json_; }

 private:
  friend class TransformParser;

  // `data` is the texts and values in turn: text, value, text, ..., text.
  struct Data {
    std::vector<std::string> texts;
    std::vector<EventTemplate> values;
  };

  absl::StatusOr<std::string> MakeData(const TemplateValues& values, const EventView& event,
                                       bool as_json) const;

  std::vector<std::pair<std::string, EventTemplate>> attributes_;
  bool has_data_ = false;
  Data data_;
  bool data_is_text_ = false;  // one text, which other media types can take as it is
  bool reads_data_ = false;
  std::vector<std::string> names_;  // attributes that holes name, each once
  std::string json_;
};

}  // namespace tocsin
