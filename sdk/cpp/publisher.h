// Publisher: sends events to a Tocsin broker, batching by itself, many batches under way.
//
//   tocsin::sdk::Publisher publisher;
//   std::future<sdk::PublishResult> stored = publisher.Publish(sdk::Event("order.paid", "/shop"));
//
//   Publish ─> queue ─> batch n+2 │ in flight: n, n+1 ─> answers in order ─> callbacks
//                ^──────────────── refused for want of room, or the connection was lost ──┘
//
// A batch is whatever arrived while the one before was written: no timer, no delay at low load.
// Events of one publisher keep their order, also over refusals (re-sent from the first refused one
// after the broker's hint) and reconnections (re-sent with the same ids; the broker's dedupe makes
// that exactly once within its window). A duplicate is a success.
//
// An event with the attribute `tocsindeliverat` (RFC 3339 text) or `tocsindeliverin` (a duration,
// `90s`) is kept by the broker and delivered at that time.
//
// Threading: every method from any thread. Callbacks run on gRPC's threads and must neither block
// nor destroy the publisher. Publish waits while `queue_events_max` or `queue_bytes_max` are
// full.

#pragma once

#include <absl/status/status.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "sdk/cpp/connection.h"
#include "sdk/cpp/event.h"

namespace tocsin::sdk {

struct PublishResult {
  // OK: stored with the broker's durability. kInvalidArgument and others: refused for good.
  // kUnauthenticated, kPermissionDenied, kUnimplemented: the broker does not take our events.
  // kCancelled: closed before an answer; it may be stored or not. kOutOfRange: larger than what any
  // broker can be configured to take (broker.event_bytes_max is at most 3 MiB); not sent.
  absl::Status status;
  bool duplicate = false;  // it was there already
  bool delayed = false;    // it is kept until its time, and has no position yet
  bool has_position = false;
  std::uint32_t partition = 0;  // with PublisherOptions::positions, or of a duplicate's first copy
  std::uint64_t offset = 0;
};

using PublishDone = std::function<void(const PublishResult&)>;

struct PublisherOptions {
  ConnectionOptions connection;
  bool positions = false;  // ask for every event's partition and offset
  std::size_t batch_events_max = 2048;
  std::size_t batch_bytes_max = 256 * 1024;  // an event that is larger travels alone
  // Of those that are not half full two at most: what is published meanwhile goes together with the
  // next answer.
  std::size_t batches_in_flight_max = 16;
  std::size_t queue_events_max = 131'072;
  std::size_t queue_bytes_max = 64 * 1024 * 1024;
};

class Publisher {
 public:
  explicit Publisher(PublisherOptions options = {});
  ~Publisher();  // Close(0)
  Publisher(const Publisher&) = delete;
  Publisher& operator=(const Publisher&) = delete;

  void Publish(const Event& event, PublishDone done);
  std::future<PublishResult> Publish(const Event& event);
  // The same for an event in its protobuf form.
  void PublishEncoded(std::string encoded, PublishDone done);

  // Publishes all in order and waits; one result per event.
  std::vector<PublishResult> PublishBatch(std::span<const Event> events);

  // Waits until everything published before is answered. False: the time was over first.
  bool Flush(std::chrono::milliseconds timeout = std::chrono::hours(24));
  // Flushes, then disconnects; what has no answer by then gets kCancelled. Later publishes too.
  void Close(std::chrono::milliseconds flush_timeout = std::chrono::seconds(10));

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tocsin::sdk
