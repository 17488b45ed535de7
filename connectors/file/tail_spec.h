// TailSpec: what a source of kind `tail` says in the configuration.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "connectors/event_overrides.h"
#include "connectors/record_event.h"

namespace tocsin {

struct TailSpec {
  std::string name;        // the source's name
  std::string path;        // of the file that grows
  bool from_end = false;   // with no position yet: only what is written from now on
  bool pass_gaps = false;  // lines in files that are gone are passed instead of refused

  Envelope envelope = Envelope::kAuto;
  EventOverrides event;

  friend bool operator==(const TailSpec&, const TailSpec&) = default;
};

// What the event templates may name: file, offset.
inline std::vector<std::string_view> TailTemplateNames() { return {"file", "offset"}; }

}  // namespace tocsin
