// One event from the options of `publish`. Pure but for what it is given.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/event.h"

namespace tocsin::cli {

struct EventParts {
  std::string id;
  std::string source;
  std::string type;
  std::string subject;
  std::string key;  // partitionkey
  std::string time;
  std::string content_type;             // empty: application/json if there are data
  std::vector<std::string> attributes;  // name=value
  bool has_data = false;
  std::string data;
};

// Data must be JSON unless content_type says otherwise; text when it is UTF-8, else binary.
//   kInvalidArgument  names the option
absl::StatusOr<Event> BuildEvent(const EventParts& parts, const EventLimits& limits);

// A random UUID (RFC 4122 version 4) from 128 random bits.
std::string UuidText(std::uint64_t high, std::uint64_t low);

}  // namespace tocsin::cli
