// IsolationLoad: events in key order through a real broker, with one thing that goes wrong for
// some of them, and what became of the others.
//
//   side "disturbed": its events, trigger, function --+
//                                                     +--> one broker, one worker, one publisher
//   side "quiet": the same load, nothing goes wrong --+
//
// A load of two sides compares them event by event in one broker, so what else the machine does
// strikes both alike. Of two loads of one side each, run in turn, rates and latencies are compared.
//
// Events are the others' (`keys` keys) and odd ones: of the failing or the hot key. Closed loop:
// `window` events of each other key are under way, an answered one brings the next. Open loop:
// `rate` events per second, by the clock. Odd ones are published in proportion in both.
//
// A stuck trigger is one more that takes all the events of the disturbed side: its function's only
// worker never answers. The quiet side has no such trigger, so it has less to do.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "broker/base/clock.h"
#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "sdk/cpp/publisher.h"
#include "sdk/cpp/worker.h"
#include "tests/integration/broker_process.h"

namespace tocsin {

class MuteWorker;

enum class Disturbance { kFailingKey, kHotKey, kMuteWorker, kStuckTrigger };

inline constexpr const char* kStuckTriggerName = "stuck";

struct LoadShape {
  Disturbance disturbance = Disturbance::kFailingKey;
  bool calm = false;  // nothing goes wrong on the disturbed side either
  std::uint32_t keys = 1000;
  std::uint32_t window = 4;  // closed loop
  double rate = 0;           // open loop, of each side; 0: closed
  std::uint32_t mute_credit = 64;
  std::string timeout = "30s";  // of the triggers
  std::string broker;           // further keys of the `broker` block
};

struct SideCount {
  std::uint64_t others = 0;      // settled, of keys that nothing held up
  std::uint32_t other_keys = 0;  // those keys
  double slowest_per_key = 0;    // of the partition whose keys got least
  std::uint64_t odd_published = 0;
  std::uint64_t odd_settled = 0;
  std::uint64_t odd_failed = 0;  // attempts
  double per_key() const { return static_cast<double>(others) / other_keys; }
};

struct Latency {  // from the time the event was due to be sent to its handler
  double p50_ms = 0, p99_ms = 0, max_ms = 0;
};

class IsolationLoad {
 public:
  // Starts a broker, workers and, if asked for, the sides.
  IsolationLoad(const LoadShape& shape, bool disturbed, bool quiet);
  ~IsolationLoad();

  void StartLoad();
  void StopLoad();  // publishes nothing more
  // Until nothing is pending but odd ones that cannot be settled yet; false: not in time.
  bool Drain(Duration at_most);

  BrokerProcess& broker() { return broker_; }
  const BrokerProcess& broker() const { return broker_; }
  SideCount Count(bool disturbed) const;
  // Of the other keys that nothing held up, since StartLoad().
  Latency OthersLatency(bool disturbed) const;
  // First runs out of key order, on both sides; must be 0.
  std::uint64_t overtakings() const;
  // Events the broker did not take; must be 0.
  std::uint64_t refused() const { return refused_; }

 private:
  class Side;

  void PublishNext(Side& side, std::uint32_t key, Instant due);
  void PublishOdd(Side& side, Instant due);
  void PublishDue();
  void Send(Side& side, const std::string& key, std::uint32_t number, std::uint32_t sequence,
            Instant due);
  sdk::BatchResult Handle(Side& side, std::span<const sdk::Event> events);

  const LoadShape shape_;
  SystemClock clock_;
  BrokerProcess broker_;
  std::vector<std::unique_ptr<Side>> sides_;
  std::atomic<bool> loading_{false};
  std::atomic<std::uint64_t> refused_{0};
  Instant load_begun_{};
  std::uint64_t sent_due_ = 0;  // open loop: events of each side so far; the driver's
  std::unique_ptr<sdk::Publisher> publisher_;
  std::unique_ptr<sdk::Worker> worker_;
  std::unique_ptr<MuteWorker> mute_;
  std::unique_ptr<ThreadExecutor> worker_thread_;
  std::unique_ptr<ThreadExecutor> driver_;  // publishes
};

}  // namespace tocsin
