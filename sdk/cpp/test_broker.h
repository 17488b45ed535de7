// TestBroker: runs a worker's handlers in memory, with the retry policy of a trigger, and records
// what became of each event. No network, no threads, no waiting: delays are recorded, not slept.
//
//   sdk::TestBroker broker(worker);
//   EXPECT_EQ(broker.Emit("charge", event).kind, sdk::TestBroker::Outcome::Kind::kAcked);
//
// Threading: one thread. The worker must outlive it and must not be running.

#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "sdk/cpp/worker.h"

namespace tocsin::sdk {

struct TestBrokerOptions {
  std::uint32_t attempts = 8;
  std::chrono::milliseconds backoff{1000};
  double factor = 2;
  std::chrono::milliseconds max_backoff{300'000};
  std::chrono::milliseconds timeout{30'000};
};

class TestBroker {
 public:
  struct Outcome {
    // kDead: rejected, attempts exhausted, or no such function.
    enum class Kind : std::uint8_t { kAcked, kDropped, kDead };
    Kind kind = Kind::kDead;
    std::string reason;  // of a drop or dead letter: "rejected: ...", "exhausted: ..."
    std::uint32_t attempts = 0;
    std::vector<std::chrono::milliseconds> delays;  // before each further attempt
    std::vector<Event> emitted;                     // with the settlement
  };
  struct DeadLetter {
    std::string function;
    Event event;
    std::string reason;
    std::uint32_t attempts = 0;
  };

  explicit TestBroker(Worker& worker, TestBrokerOptions options = {});

  Outcome Emit(const std::string& function, const Event& event);

  const std::vector<DeadLetter>& dead_letters() const { return dead_letters_; }
  const std::vector<Event>& emitted() const { return emitted_; }

 private:
  internal::Engine& engine_;
  const TestBrokerOptions options_;
  std::uint64_t next_offset_ = 0;
  std::vector<DeadLetter> dead_letters_;
  std::vector<Event> emitted_;
};

}  // namespace tocsin::sdk
