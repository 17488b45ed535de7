// What dispatch, partition and the worker protocol say to each other about deliveries.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "broker/base/clock.h"
#include "broker/base/event.h"
#include "broker/base/ids.h"

namespace tocsin {

// Identifies a session of a worker in this process; never reused.
using SessionId = StrongId<struct SessionIdTag, std::uint64_t>;

// What a worker answered. Retry::after wins over the policy's backoff (at most 24 h).
struct Ack {};
struct Retry {
  std::string code;
  std::string message;
  std::optional<Duration> after;
};
struct Reject {
  std::string reason;
};
struct Drop {
  std::string reason;
};
using Outcome = std::variant<Ack, Retry, Reject, Drop>;

// A delivery as the partition knows it: `offset` is its event record's, which for a redrive or
// replay is not the offset in its DeliveryId.
struct DeliveryRef {
  TriggerOrdinal trigger;
  Offset offset;
  FencingToken token;
};

struct DeliveryAnswer {
  DeliveryRef delivery;
  Outcome outcome;
  std::vector<std::string> emitted;  // encoded events, not validated
};

struct ExtendRequest {
  DeliveryRef delivery;
  Duration by{};  // from now; 0: the trigger's timeout
};

struct LostLease {
  DeliveryRef delivery;
  bool started = false;  // the worker said it had begun: costs an attempt
};

// What one frame of a worker, or the end of its session, means for one partition.
struct AnswerBatch {
  SessionId session;
  std::vector<DeliveryRef> acked;  // without emitted events: the common case
  std::vector<DeliveryAnswer> others;
  std::vector<ExtendRequest> extends;
  std::vector<LostLease> lost;
  // If set, runs after every settlement of the batch is durable (a worker that asked to be told).
  std::function<void()> confirmed;
};

// Port: where sessions hand answers to. Served by the shards. Thread-safe, never refuses, never
// blocks: it is bounded by outstanding credit.
class AnswerSink {
 public:
  virtual ~AnswerSink() = default;
  virtual void OnAnswers(PartitionId partition, AnswerBatch batch) = 0;
};

// One delivery on its way to a worker. `event` lies in `keep_alive`.
struct OutgoingDelivery {
  std::uint64_t handle = 0;  // set by WorkerSession
  FencingToken token;
  DeliveryId id;
  Offset offset;                  // of the event record
  std::string_view trigger_name;  // lives as long as the trigger's queue; copied by the link
  std::uint32_t attempt = 0;
  Duration lease{};
  WallTime recorded;
  std::string_view event;
  std::shared_ptr<const std::string> keep_alive;
};

}  // namespace tocsin
