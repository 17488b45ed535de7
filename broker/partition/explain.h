// What became of one stored event: for `tocsin explain`.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "broker/base/clock.h"
#include "broker/base/ids.h"

namespace tocsin {

enum class Fate : std::uint8_t {
  kQueued,    // for a worker, for its key, or for its place in the window
  kDelayed,   // failed, and tried again later
  kInFlight,  // with a worker
  kDying,     // its dead letter is being written, or waits for room
  kAcked,
  kDropped,
  kDead,     // a dead letter
  kExpired,  // a dead letter, for its age
  kSettled,  // one of the four above: what said which is not in the log any more
};

struct DeliveryFate {
  DeliveryId id;
  Offset offset;  // of its event record
  std::string trigger;
  Fate fate = Fate::kQueued;
  std::string detail;        // for people; may be empty
  std::uint32_t failed = 0;  // attempts
  std::optional<WallTime> next_attempt;
};

// The configuration that a trigger had when the event came, if it has another one now.
struct ConfigThen {
  std::string trigger;
  std::string config_json;
};

struct EventStory {
  Offset offset;
  Offset origin;          // where its first run is, or was
  std::uint32_t run = 0;  // above 0: one of a catch-up, a redrive or a replay
  WallTime recorded;
  std::string source;  // the configured one that brought it; empty: it was published
  std::string bytes;
  std::vector<DeliveryFate> deliveries;  // of this record, and of later runs of it
  std::vector<ConfigThen> configs;
  bool whole = true;  // false: later runs and outcomes may be beyond what was looked at
};

}  // namespace tocsin
