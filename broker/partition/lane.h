// Lane: one ordered stream of a source, as the partition it lives on sees it. A lane's events and
// the changes to its state become durable together or not at all.

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "broker/base/ids.h"

namespace tocsin {

struct LaneId {
  std::string source;  // configured name
  std::string key;     // "" for a source of one lane
  friend auto operator<=>(const LaneId&, const LaneId&) = default;
};

// Events whose home another partition is come over a lane of this source.
inline constexpr std::string_view kPartitionLanePrefix = "@partition/";

// The partition a lane lives on, for ever.
PartitionId PartitionOfLane(const LaneId& lane, std::uint32_t partitions);

struct Undecodable {
  std::string bytes;
  std::string reason;
};

struct LaneBatch {
  LaneId lane;
  std::vector<std::string> events;       // encoded, in the lane's order; validated by the partition
  std::vector<std::uint32_t> hops;       // parallel to `events`, or empty: none
  std::vector<Undecodable> undecodable;  // become dead letters without a trigger
  std::string position;
  std::vector<std::pair<std::string, std::string>> puts;
  std::vector<std::string> erases;
  bool dedupe = false;         // a lane that cannot replay by position
  bool wants_settled = false;  // OnSettled() is called for these events
  bool asked = false;  // a command waits: told also that there is no room for what was taken
  // On the partition's executor, once: OK = durable; kResourceExhausted = hand in again later.
  absl::AnyInvocable<void(absl::Status)> done;
};

struct StoredLaneState {
  std::string position;
  std::map<std::string, std::string> entries;
};

enum class LaneSettledAs : std::uint8_t { kAcked, kUnmatched, kDead };

struct LaneSettled {
  Offset offset;
  std::string event_id;
  LaneSettledAs as = LaneSettledAs::kAcked;
};

// Called on the partition's executor; must not block.
class LaneListener {
 public:
  virtual ~LaneListener() = default;
  virtual void OnSettled(std::span<const LaneSettled> events) = 0;
};

}  // namespace tocsin
