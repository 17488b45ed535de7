// PublishRequest and PublishResponse (proto/tocsin/v1/publish.proto), read and written by hand: the
// events of a request stay where they are.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "broker/base/ids.h"

namespace tocsin {

struct PublishFrame {
  std::uint64_t sequence = 0;
  bool from_refused = false;
  std::vector<std::string_view> events;  // inside the request's bytes
};

// Reads one PublishRequest. Ends in time linear in the bytes; `frame` is meaningful after OK only.
//   kInvalidArgument    not the wire format
//   kResourceExhausted  more than `events_max` events
absl::Status DecodePublishRequest(std::string_view bytes, std::size_t events_max,
                                  PublishFrame& frame);

struct EventPlace {
  PartitionId partition;
  Offset offset;
};

// What became of one event that was not simply accepted.
struct PublishException {
  std::uint32_t index = 0;
  bool duplicate = false;
  bool delayed = false;             // accepted for later, or a duplicate of such a one
  std::optional<EventPlace> first;  // of a duplicate that has a place
  absl::Status refusal;             // OK for a duplicate
  std::uint32_t retry_after_ms = 0;
};

struct PublishAnswer {
  std::uint64_t sequence = 0;
  std::uint32_t accepted = 0;                     // duplicates included
  bool durable = true;                            // else written
  std::vector<PublishException> exceptions;       // in order of index
  std::vector<std::optional<EventPlace>> places;  // one per event, or none at all
};

std::string EncodePublishResponse(const PublishAnswer& answer);

}  // namespace tocsin
