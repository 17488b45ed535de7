// ClockWatch: hears of it when the wall clock is set, or the machine was suspended, so that what
// waits for a time of it need not wake up to look. One timerfd that never is due
// (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET), one thread that waits for it.
//
// Threading: `changed` runs on that thread and must not block; not after the destructor.

#pragma once

#include <functional>
#include <memory>

#include "broker/base/clock.h"
#include "broker/base/thread_executor.h"

namespace tocsin {

class ClockWatch {
 public:
  ClockWatch(const Clock& clock, std::function<void()> changed);
  ~ClockWatch();
  ClockWatch(const ClockWatch&) = delete;
  ClockWatch& operator=(const ClockWatch&) = delete;

 private:
  void Run();

  const std::function<void()> changed_;
  int timer_ = -1;
  int stop_ = -1;
  std::unique_ptr<ThreadExecutor> thread_;
};

}  // namespace tocsin
