// SourceRunner: carries what a connector gives into the broker, in order and exactly once where the
// connector can replay, and goes on by itself after every failure of the outside.
//
//   kAttaching -> kConnecting -> kRunning <-> kFull (the broker refuses: the same batch again)
//        ^             |            |
//        |             v            v
//        +--------- kWaiting (backoff: full jitter, doubling up to the maximum)    kFinished
//                                                                        any ---> kStopped
//
// One batch is with the broker at a time, while the next is polled; so a refused batch can be
// handed in again without ever being overtaken. After a failure of the connector the lane's state
// is read anew from the broker, when nothing is under way any more.
//
// Threading: Start() and Stop() once each, from any thread; status() from any. All else happens on
// the executor, which with the connector, sink, clock and random outlives the runner. After
// Stop()'s `done` nothing runs any more and the runner may be destroyed.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/any_invocable.h"
#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/base/random.h"
#include "connectors/event_sink.h"
#include "connectors/source_connector.h"

namespace tocsin {

enum class SourceState : std::uint8_t {
  kAttaching,
  kConnecting,
  kRunning,
  kFull,
  kWaiting,
  kFinished,
  kStopped,
};
std::string_view SourceStateName(SourceState state);

struct SourceRunnerOptions {
  Duration poll_wait = std::chrono::seconds(5);
  Duration backoff_min = std::chrono::milliseconds(200);
  Duration backoff_max = std::chrono::seconds(30);
  Duration full_retry = std::chrono::milliseconds(100);  // between tries of a refused batch
};

struct SourceStatus {
  SourceState state = SourceState::kAttaching;
  std::uint64_t events = 0;       // durable since Start()
  std::uint64_t undecodable = 0;  // durable as dead letters since Start()
  std::uint64_t errors = 0;       // failures of Connect, Poll and Commit
  std::uint64_t refused = 0;      // batches the broker had no room for, each try
  std::string position;           // committed last
  std::string last_error;         // empty once it runs again
};

class SourceRunner {
 public:
  struct Ports {
    SourceConnector& connector;
    EventSink& sink;
    Executor& executor;
    const Clock& clock;
    Random& random;
    // On the executor: every failure, once per backoff; and (OK) when it runs again after one.
    absl::AnyInvocable<void(const absl::Status&)> report;
    // On the executor: the connector's note, when it is another one and not empty.
    absl::AnyInvocable<void(const std::string&)> note = nullptr;
  };

  SourceRunner(const SourceRunnerOptions& options, Ports ports);
  ~SourceRunner();
  SourceRunner(const SourceRunner&) = delete;
  SourceRunner& operator=(const SourceRunner&) = delete;

  void Start();
  // Cancels the connector, waits for what is under way and detaches the lane. `done` on the
  // executor, once.
  void Stop(absl::AnyInvocable<void()> done);

  SourceStatus status() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace tocsin
