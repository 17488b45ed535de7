#include "connectors/blocking_connector.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "broker/base/check.h"

namespace tocsin {

BlockingConnector::BlockingConnector(Ports ports)
    : ports_(std::move(ports)), wake_fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

BlockingConnector::~BlockingConnector() {
  TOCSIN_CHECK(ports_.lane == nullptr, "a connector is destroyed while its thread lives");
  if (wake_fd_ >= 0) ::close(wake_fd_);
}

void BlockingConnector::Connect(const LaneState& restored, Done done) {
  ports_.lane->Post([this, restored, done = std::move(done)]() mutable {
    absl::Status status = wake_fd_ < 0  ? absl::UnavailableError("no file descriptor is left")
                          : cancelled() ? absl::CancelledError("cancelled")
                                        : ConnectNow(restored);
    ports_.owner.Post([status = std::move(status), done = std::move(done)]() mutable {
      done(std::move(status));
    });
  });
}

void BlockingConnector::Poll(Duration wait_max, PollDone done) {
  ports_.lane->Post([this, wait_max, done = std::move(done)]() mutable {
    absl::StatusOr<SourceBatch> batch = absl::CancelledError("cancelled");
    if (!cancelled()) batch = PollNow(ports_.clock.Monotonic() + wait_max);
    if (!batch.ok() && cancelled()) batch = absl::CancelledError("cancelled");
    ports_.owner.Post(
        [batch = std::move(batch), done = std::move(done)]() mutable { done(std::move(batch)); });
  });
}

void BlockingConnector::Commit(const SourcePosition& position, Done done) {
  {
    MutexLock lock(mutex_);
    TOCSIN_CHECK(!commit_, "two commits at once");
    commit_.emplace(position, std::move(done));
  }
  Wake();
  ports_.lane->Post([this] { Woken(); });
}

void BlockingConnector::Woken() {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(wake_fd_, &count, sizeof(count));
  std::optional<std::pair<SourcePosition, Done>> commit;
  {
    MutexLock lock(mutex_);
    commit.swap(commit_);
  }
  if (!commit) return;
  absl::Status status = CommitNow(commit->first);
  ports_.owner.Post([status = std::move(status), done = std::move(commit->second)]() mutable {
    done(std::move(status));
  });
}

void BlockingConnector::Cancel() {
  {
    MutexLock lock(mutex_);
    cancelled_ = true;
  }
  Wake();
}

void BlockingConnector::Wake() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = ::write(wake_fd_, &one, sizeof(one));
}

bool BlockingConnector::cancelled() const {
  MutexLock lock(mutex_);
  return cancelled_;
}

int BlockingConnector::MillisecondsUntil(Instant until) const {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(until - ports_.clock.Monotonic()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
}

LaneReport BlockingConnector::report() const {
  MutexLock lock(mutex_);
  return report_;
}

}  // namespace tocsin
