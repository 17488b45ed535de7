#include "broker/server/clock_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

namespace tocsin {
namespace {

constexpr time_t kNever = 253'402'300'799;  // the end of 9999

}  // namespace

ClockWatch::ClockWatch(const Clock& clock, std::function<void()> changed)
    : changed_(std::move(changed)) {
  timer_ = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
  stop_ = eventfd(0, EFD_CLOEXEC);
  if (timer_ < 0 || stop_ < 0) return;  // schedules look at the clock whenever something happens
  thread_ = std::make_unique<ThreadExecutor>("clock-watch", clock);
  thread_->Post([this] { Run(); });
}

ClockWatch::~ClockWatch() {
  if (thread_ != nullptr) {
    const std::uint64_t one = 1;
    static_cast<void>(!write(stop_, &one, sizeof one));
    thread_->Stop();
  }
  if (timer_ >= 0) close(timer_);
  if (stop_ >= 0) close(stop_);
}

void ClockWatch::Run() {
  itimerspec never{};
  never.it_value.tv_sec = kNever;
  while (timerfd_settime(timer_, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never, nullptr) ==
         0) {
    pollfd fds[] = {{timer_, POLLIN, 0}, {stop_, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
    if (fds[1].revents != 0) return;
    std::uint64_t count = 0;
    if (fds[0].revents != 0 && read(timer_, &count, sizeof count) < 0 && errno == ECANCELED) {
      changed_();
    }
  }
}

}  // namespace tocsin
