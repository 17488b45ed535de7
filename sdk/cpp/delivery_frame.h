// DeliveryFrame: the deliveries of one frame from the broker, read by hand: the events stay where
// gRPC put them, and nothing is allocated for each. Internal to sdk/cpp.

#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tocsin::sdk::internal {

using TimePoint = std::chrono::steady_clock::time_point;

struct Delivery {
  std::uint64_t handle = 0;
  std::uint64_t token = 0;
  std::uint64_t offset = 0;
  std::uint32_t partition = 0;
  std::uint32_t trigger = 0;
  std::uint32_t run = 0;
  std::uint32_t attempt = 1;
  std::uint32_t lease_ms = 0;
  std::uint32_t function = 0;
  std::int64_t recorded_us = 0;
  const std::string* trigger_name = nullptr;
  std::string_view event;
  std::shared_ptr<const void> frame;  // what `event` points into
  TimePoint received;
  TimePoint leased;  // when its lease was granted last

  // When one part of `parts` of the lease is over.
  TimePoint LeasePart(std::uint32_t parts) const {
    return leased + std::chrono::milliseconds(lease_ms) / parts;
  }
};

struct DeliveryFrame {
  struct TriggerName {
    std::uint32_t partition = 0;
    std::uint32_t trigger = 0;
    std::string_view name;
  };
  struct FunctionName {
    std::uint32_t function = 0;
    std::string_view name;
  };
  std::vector<TriggerName> triggers;
  std::vector<FunctionName> functions;
  std::vector<Delivery> deliveries;  // without trigger_name
};

// Whether these are the bytes of a BrokerFrame with deliveries; what else there is, protobuf reads.
bool HasDeliveries(std::string_view frame);

// Reads such a BrokerFrame into `deliveries`, whose memory is used again. `keep_alive` keeps the
// bytes. False: not the wire format; `deliveries` is then not to be used.
bool ParseDeliveries(std::string_view frame, const std::shared_ptr<const void>& keep_alive,
                     DeliveryFrame* deliveries);

}  // namespace tocsin::sdk::internal
