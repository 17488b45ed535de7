// EventOverrides: the `event:` block of a source, which replaces the default attributes of its
// events. For the sources of queues `type`, `subject` and the attributes are templates
// (broker/base/event_template.h).

#pragma once

#include <map>
#include <optional>
#include <string>

namespace tocsin {

struct EventOverrides {
  std::optional<std::string> source;       // default: /sources/<name>
  std::optional<std::string> type;         // default: <type_prefix>.<kind>.<what>
  std::optional<std::string> type_prefix;  // default: dev.tocsin
  std::optional<std::string> subject;
  std::map<std::string, std::string> attributes;  // extensions, as strings
  std::optional<std::string> data;                // JSON text; replaces the data

  friend bool operator==(const EventOverrides&, const EventOverrides&) = default;
};

}  // namespace tocsin
