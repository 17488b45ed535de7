// Outbox: the BrokerFrames of one stream that are not written yet, in order. Deliveries are encoded
// straight into the last frame until it has frame_bytes_target, so that what arrives while a write
// is under way leaves as one frame.
//
//   Take() <- [welcome] [deliveries 192..256 KiB] [cancel] [deliveries, open] <- AddDeliveries()
//
// Bounded by the session's credit: each delivery adds its bytes once, each lease at most one
// cancel, and Confirmed and Refused are kept as numbers until they are written.
//
// Threading: none of its own; the link's mutex guards it.

#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "dispatch/delivery.h"

namespace tocsin {

class Outbox {
 public:
  struct Limits {
    std::size_t frame_bytes_target = 192 * 1024;  // a frame this long takes no more
    std::size_t frame_bytes_max = 256 * 1024;     // an event above this travels alone
  };

  explicit Outbox(const Limits& limits) : limits_(limits) {}

  void AddDeliveries(std::string_view function, std::span<const OutgoingDelivery> deliveries);
  void AddCancel(std::span<const std::uint64_t> handles);
  void AddFrame(std::string frame);
  void AddFirst(std::string frame);
  void SetConfirmed(std::uint64_t sequence) { confirmed_ = sequence; }
  void AddRefused(std::uint64_t count) { refused_ += count; }

  bool empty() const { return frames_.empty() && !confirmed_ && refused_ == 0; }
  // The next frame to write. TOCSIN_CHECKs that there is one.
  grpc::ByteBuffer Take();
  void Clear();

 private:
  enum class Kind : std::uint8_t { kWhole, kDeliveries, kCancel };
  struct Frame {
    Kind kind = Kind::kWhole;
    bool open = false;
    std::string bytes;                   // kDeliveries: kFramePrefixBytes, then the body
    std::vector<std::uint64_t> handles;  // kCancel
    std::string_view tail;               // of a delivery alone: its event, not copied
    std::shared_ptr<const std::string> tail_keep_alive;
  };

  Frame& OpenDeliveries();
  void AddName(std::string& body, const OutgoingDelivery& delivery);

  const Limits limits_;
  std::deque<Frame> frames_;
  std::optional<std::uint64_t> confirmed_;
  std::uint64_t refused_ = 0;
  absl::flat_hash_set<std::pair<std::uint32_t, std::uint32_t>> triggers_named_;
  absl::flat_hash_map<std::string, std::uint32_t> functions_;
};

}  // namespace tocsin
