// WorkerLink: the way from a session to its worker. Served by a gRPC stream, and by the simulator.

#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "dispatch/delivery.h"

namespace tocsin {

// Called with the session's mutex held, from any thread: must not call back and must not block.
// What is handed in is queued in order and written as the transport allows; credit bounds it.
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;

  // All of one function. Handles rise over the calls of a session.
  virtual void Deliver(std::string_view function, std::span<const OutgoingDelivery> deliveries) = 0;
  virtual void Cancel(std::span<const std::uint64_t> handles) = 0;
  virtual void Drain(const std::string& reason) = 0;
};

}  // namespace tocsin
