// BlockingConnector: a SourceConnector whose library waits for file descriptors: it has a thread of
// its own, on which the four ...Now() run, one at a time.
//
// PollNow() waits on its own descriptors and on wake_fd(); when that is readable it calls Woken()
// and goes on, or gives up if cancelled(). So commits are answered while a poll waits, and a poll
// ends at once when it is cancelled.
//
// Threading: as SourceConnector says. The destructor of the last derived class calls StopLane()
// first, so that nothing runs on a half destroyed object.

#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "broker/base/executor.h"
#include "broker/base/mutex.h"
#include "connectors/source_connector.h"

namespace tocsin {

class BlockingConnector : public SourceConnector {
 public:
  struct Ports {
    const Clock& clock;
    Executor& owner;                 // of the runner
    std::unique_ptr<Executor> lane;  // of this connector alone; may be blocked for long
  };

  explicit BlockingConnector(Ports ports);
  ~BlockingConnector() override;

  void Connect(const LaneState& restored, Done done) final;
  void Poll(Duration wait_max, PollDone done) final;
  void Commit(const SourcePosition& position, Done done) final;
  void Settled(std::span<const LaneEventRef>, SettledAs) override {}
  void Cancel() final;
  LaneReport report() const final;

 protected:
  // All on the lane's thread.
  virtual absl::Status ConnectNow(const LaneState& restored) = 0;
  virtual absl::StatusOr<SourceBatch> PollNow(Instant until) = 0;
  virtual absl::Status CommitNow(const SourcePosition& position) = 0;

  void StopLane() { ports_.lane.reset(); }
  const Clock& clock() const { return ports_.clock; }
  // The lane's own executor: what is posted there runs between the ...Now().
  Executor& lane() { return *ports_.lane; }
  int wake_fd() const { return wake_fd_; }
  // Empties wake_fd() and answers the commit that waits, if there is one.
  void Woken();
  bool cancelled() const;
  // Milliseconds from now to `until` for poll(2), rounded up, at least 0.
  int MillisecondsUntil(Instant until) const;

  template <typename Change>
  void Report(Change change) {
    MutexLock lock(mutex_);
    change(report_);
  }

 private:
  void Wake();

  Ports ports_;
  const int wake_fd_;
  mutable Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<std::pair<SourcePosition, Done>> commit_ ABSL_GUARDED_BY(mutex_);
  LaneReport report_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tocsin
