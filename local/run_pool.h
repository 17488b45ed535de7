// RunPool: how many long-lived workers of one function should be running, and when to start or stop
// one.
//
//               pending work                    Decide()              it ended
//   [none] ----------------------> [running] ------------> [stopping] ---------> gone
//                                      | it ended by itself: a wait, doubling, before the next
//                                      start
//                                      v
//
// Wanted are as many as there are deliveries waiting and in flight, and `warm` more while there are
// any, between `min` and `max`. What is more than wanted for `idle` long is stopped, the youngest
// first; to be told to stop is to drain, so a worker that is busy finishes. Workers that end by
// themselves, each soon after its start, are a crash loop, told once until one lives for long.
//
// Pure: the caller starts, stops and waits for processes, and says what time it is. Not
// thread-safe.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "broker/base/clock.h"

namespace tocsin {

struct RunPoolOptions {
  std::uint32_t min = 0;
  std::uint32_t max = 1;
  std::uint32_t warm = 0;
  Duration idle = std::chrono::minutes(5);
  Duration backoff_min = std::chrono::seconds(1);
  Duration backoff_max = std::chrono::minutes(1);
  Duration steady = std::chrono::seconds(30);  // one that lived so long is no crash
  std::uint32_t loop_after = 3;                // crashes in a row
};

class RunPool {
 public:
  using Id = std::int64_t;  // of a process

  explicit RunPool(const RunPoolOptions& options) : options_(options) {}

  void SetOptions(const RunPoolOptions& options) { options_ = options; }
  // Deliveries of the function that are ready, and those with workers.
  void SetLoad(std::uint64_t queued, std::uint64_t in_flight);

  struct Decision {
    std::uint32_t start = 0;
    std::vector<Id> stop;         // told to drain; they are stopping from now on
    std::optional<Instant> next;  // when to decide again, if nothing happens before
  };
  // Each start must be answered by Started() or StartFailed() before the next Decide().
  Decision Decide(Instant now);
  void Started(Id id, Instant now);
  void StartFailed(Instant now);

  // True: this is the end that makes it a crash loop, to be told.
  [[nodiscard]] bool Ended(Id id, Instant now);

  std::uint32_t running() const { return static_cast<std::uint32_t>(running_.size()); }
  std::uint32_t stopping() const { return static_cast<std::uint32_t>(stopping_.size()); }
  std::vector<Id> All() const;

 private:
  std::uint32_t Wanted() const;
  void BackOff(Instant now);

  RunPoolOptions options_;
  std::uint64_t queued_ = 0;
  std::uint64_t in_flight_ = 0;
  std::map<Id, Instant> running_;  // since when
  std::map<Id, Instant> stopping_;
  std::optional<Instant> surplus_since_;
  Instant start_at_{};  // not before
  Duration backoff_{};
  std::uint32_t crashes_ = 0;  // in a row
};

}  // namespace tocsin
