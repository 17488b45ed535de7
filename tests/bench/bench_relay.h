// The measure beside which the broker is put: gRPC alone, as little of it as can carry the same
// batches the same way.
//
//   publisher --batch--> relay --batch--> worker
//   publisher <--ack---- relay <---ack--- worker         without a worker the relay acks by itself
//
// The server is C++'s callback API on raw bytes, in a process of its own, without disk, parsing or
// bookkeeping; its clients send one prepared message again and again and look into nothing. So its
// figure is what gRPC leaves, not what a useful program could reach.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "broker/base/clock.h"

namespace tocsin::bench {

// Serves until it is killed; writes its port and a newline to `port_file`.
int ServeRelay(const std::string& port_file);

// A publisher and, if wanted, a worker, each with a connection of its own.
class RelayClients {
 public:
  RelayClients(const std::string& target, bool with_worker);
  ~RelayClients();

  // Sends `count` messages of `bytes` with at most `in_flight` unanswered; returns when all are
  // answered. False: the relay is gone.
  bool Send(std::size_t count, std::size_t bytes, std::size_t in_flight);

  // One after the other; the round trips.
  std::vector<Duration> RoundTrips(std::size_t count, std::size_t bytes);

  // `count` messages at `rate` per second by schedule, whatever the answers do; the time from when
  // each was due to its arrival at the worker.
  std::vector<Duration> Paced(std::size_t count, std::size_t bytes, double rate);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tocsin::bench
