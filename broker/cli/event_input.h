// One event from the options of `publish` or from a file.

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

// The one event in JSON that the file (`-`: standard input) holds.
//   kInvalidArgument  it is no event; and what ReadWhole gives
absl::StatusOr<Event> ReadOneEvent(const std::string& path);

// A random UUID (RFC 4122 version 4) from 128 random bits.
std::string UuidText(std::uint64_t high, std::uint64_t low);

}  // namespace tocsin::cli
