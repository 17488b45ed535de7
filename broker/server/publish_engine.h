// PublishEngine: takes one PublishRequest apart, hands its events to their home partitions and
// gathers one answer.
//
//   request --DecodePublishRequest--> events --PreparePublished--> by home partition
//     --TryPublish--> partitions --outcome, from the committer's thread--> answer --> done
//
// Every event gets its own verdict: one that is refused never takes others with it. Nothing is
// copied: the partitions read from the request's bytes, which live until the last has answered.
//
// Threading: thread-safe. `done` runs once, on the thread of the last outcome, or inside Run() when
// no event went to a partition; it must not block.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "broker/base/event.h"
#include "broker/base/mutex.h"
#include "broker/partition/partition.h"
#include "broker/partition/stream_order.h"
#include "broker/server/publish_frames.h"

namespace tocsin {

struct PublishEngineOptions {
  EventLimits event_limits;
  std::uint32_t hops_max = 16;
  std::uint64_t hash_seed = 0;
  std::uint32_t partitions = 1;
  bool durable = true;                                 // what the answers say
  std::size_t batch_bytes_max = std::size_t{2} << 20;  // of one hand-over to a partition
  std::uint32_t retry_after_ms = 50;                   // told when a partition's door is full
};

// May be read from any thread.
struct PublishCounters {
  std::atomic<std::uint64_t> batches{0};
  std::atomic<std::uint64_t> events{0};  // accepted, without duplicates
  std::atomic<std::uint64_t> bytes{0};   // of all events received
  std::atomic<std::uint64_t> duplicates{0};
  std::atomic<std::uint64_t> invalid{0};    // refused for what they are
  std::atomic<std::uint64_t> exhausted{0};  // refused for want of room
  std::atomic<std::uint64_t> failed{0};     // refused for any other reason
  std::atomic<std::uint64_t> malformed{0};  // requests that were none
};

class PublishEngine {
 public:
  // Shards::TryPublish: kResourceExhausted leaves the batch untouched.
  using TryPublish = std::function<absl::Status(PartitionId partition, PublishBatch& batch)>;
  using Done = absl::AnyInvocable<void(const PublishAnswer&)>;

  // An event that never reached a partition.
  using Refused = std::function<void(std::string_view event, const absl::Status& why)>;

  // `refused` may be null; it is called inside Run().
  PublishEngine(const PublishEngineOptions& options, TryPublish try_publish,
                Refused refused = nullptr);

  // `frame.events` lie in what `keep_alive` keeps. `order` is null for a request that stands
  // outside of a stream. `alone`: the caller's thread has nothing to do until `done`.
  void Run(std::shared_ptr<const void> keep_alive, const PublishFrame& frame, bool with_places,
           std::shared_ptr<StreamOrder> order, bool alone, Done done);

  const PublishEngineOptions& options() const { return options_; }
  PublishCounters& counters() { return counters_; }

 private:
  class Gathering;

  const PublishEngineOptions options_;
  const TryPublish try_publish_;
  const Refused refused_;
  PublishCounters counters_;
};

}  // namespace tocsin
