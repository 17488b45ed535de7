// CloudEvents JSON format 1.0 <-> the encoded form.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/event.h"

namespace tocsin {

// One JSON object to an encoded, validated event. `data` of a JSON media type (or without
// datacontenttype) becomes text_data holding the JSON as it was written; a JSON string with another
// media type becomes text_data holding the string; data_base64 becomes binary_data; an attribute
// that is null is absent. Depth, duplicate names, lone surrogates and size are checked.
//   kInvalidArgument  line and column of the JSON error, or the attribute and its rule
absl::StatusOr<Event> EventFromJson(std::string_view json, const EventLimits& limits);

// One object or an array of objects.
absl::StatusOr<std::vector<Event>> EventsFromJson(std::string_view json, const EventLimits& limits);

// One line, no trailing newline. Data whose media type is JSON and which parses becomes `data`;
// other UTF-8 text a JSON string; the rest `data_base64`.
std::string EventToJson(const EventView& view);

// True for `*/json` and `*/*+json`, parameters ignored, case-insensitively.
bool IsJsonMediaType(std::string_view media_type);

}  // namespace tocsin
