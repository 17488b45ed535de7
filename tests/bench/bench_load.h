// Load on a running broker, by the C++ SDK's Publisher and Worker as an application uses them.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "broker/base/clock.h"
#include "sdk/cpp/publisher.h"
#include "tests/bench/bench_view.h"

namespace tocsin::bench {

// Due times at a fixed rate, whatever is done between them: an open loop. A late caller gets the
// due times that have passed at once.
class Pacer {
 public:
  Pacer(const Clock& clock, double rate);
  ~Pacer();
  Pacer(const Pacer&) = delete;
  Pacer& operator=(const Pacer&) = delete;

  Instant WaitForNext();  // when it was due

 private:
  const Clock& clock_;
  const Duration period_;
  int timer_fd_;
  Instant next_;
};

// How clients behave in one scenario.
struct LoadSpec {
  std::size_t events = 0;
  std::size_t data_bytes = 128;
  bool consume = true;        // by a trigger and a worker; else stored, matched by nothing
  bool stored_first = false;  // the worker comes when all is stored; times count from there
  bool batched = true;        // else one event per request and per call of the handler
  std::size_t keys = 0;       // partition keys, each with its order; 0: events without a key
  std::size_t publishers = 1;
  std::size_t workers = 1;
};

struct LoadResult {
  double seconds = 0;          // from the first publish to the last settlement's durability
  double publish_seconds = 0;  // until the last publish was answered
  double events_per_request = 0;
  double request_bytes = 0;  // mean
  double broker_cpu_seconds = 0;
  double client_cpu_seconds = 0;
  double syncs = 0;
};

// The encoded form of the bench's event; `number` is its id.
class EventMaker {
 public:
  EventMaker(std::string type, std::size_t data_bytes, std::size_t keys);
  std::string Make(std::uint64_t number) const;
  // With the first eight bytes of data set.
  std::string MakeStamped(std::uint64_t number, std::int64_t stamp) const;
  std::size_t bytes() const { return encoded_.size(); }

 private:
  std::string encoded_;
  std::size_t id_at_ = 0;
  std::size_t key_at_ = 0;
  std::size_t data_at_ = 0;
  std::size_t keys_ = 0;
};

class BrokerLoad {
 public:
  // `grpc_target` serves gRPC, `http_target` metrics; `pid_cpu` gives the broker's CPU seconds.
  BrokerLoad(std::string grpc_target, std::string http_target, std::function<double()> broker_cpu);
  ~BrokerLoad();

  // One round. Dies with a message if a publish is refused for good, a delivery is repeated or the
  // books do not balance: figures of a broken run are worth nothing.
  LoadResult Run(const LoadSpec& spec);

  // One event in flight: Publish(event).get(), stored and matched by nothing.
  std::vector<Duration> RoundTrips(std::size_t count, std::size_t data_bytes);

  // From when each publish was due to its handler's call.
  std::vector<Duration> Paced(std::size_t count, std::size_t data_bytes, double rate);

  // Of stored events and a worker that takes one at a time: from one call of the handler to the
  // next, so answer, next delivery and call.
  std::vector<Duration> Invocations(std::size_t count, std::size_t data_bytes);

  // Each event to `triggers` triggers, fan0 and so on, each with a function of its name; the
  // functions are spread over `workers` workers. Until every delivery is settled.
  LoadResult FanOut(std::size_t events, std::size_t data_bytes, std::size_t triggers,
                    std::size_t workers);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tocsin::bench
