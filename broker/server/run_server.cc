#include <fmt/format.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_split.h"
#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "broker/server/server.h"

namespace tocsin {
namespace {

// A signal of our own to the waiting thread: the journal failed.
constexpr int kFatalSignal = SIGUSR1;

// Memory is bounded by what is held, not by what was held once in some thread: by itself the C
// library keeps eight arenas per core, and what is free in one is of no use to the others. The
// large buffers (bodies of batches, pages of checkpoints) go straight back to the system.
constexpr int kArenasMax = 4;
constexpr int kMappedFromBytes = 1 << 20;
constexpr int kKeptFreeBytes = 8 << 20;

void BoundMemory() {
  mallopt(M_ARENA_MAX, kArenasMax);
  mallopt(M_MMAP_THRESHOLD, kMappedFromBytes);
  mallopt(M_TRIM_THRESHOLD, kKeptFreeBytes);
}

}  // namespace

int RunServer(ServerOptions options) {
  BoundMemory();
  // Before any thread is made, so that all inherit it and only sigwait() sees the signals.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, kFatalSignal}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &ignore, nullptr);

  const SystemClock clock;
  Log log(options.log, clock);
  const pthread_t waiter = pthread_self();
  options.on_fatal = [waiter](const absl::Status&) { pthread_kill(waiter, kFatalSignal); };
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(std::move(options));
  if (!server.ok()) {
    // Several errors of a configuration: a line each.
    const std::vector<std::string> lines =
        absl::StrSplit(std::string(MessageOf(server.status())), '\n');
    for (const std::string& line : lines) log.Error("", line);
    return 1;
  }
  while (true) {
    int signal = 0;
    if (sigwait(&signals, &signal) != 0) continue;
    if (signal == SIGHUP) {
      static_cast<void>((*server)->Reload());
      continue;
    }
    if (signal == kFatalSignal) {
      // Publishers that wait have their answers by the time the gRPC threads ran once more; a
      // drain would wait for a journal that does not answer.
      timespec moment{.tv_sec = 0, .tv_nsec = 300'000'000};
      sigset_t none;
      sigemptyset(&none);
      static_cast<void>(sigtimedwait(&none, nullptr, &moment));
      std::_Exit(1);
    }
    break;
  }
  // A second signal ends the process at once.
  sigset_t ending;
  sigemptyset(&ending);
  for (const int signal : {SIGTERM, SIGINT}) sigaddset(&ending, signal);
  pthread_sigmask(SIG_UNBLOCK, &ending, nullptr);
  const absl::Status drained = (*server)->Drain();
  if (drained.ok()) return 0;
  log.Error("", std::string(MessageOf(drained)));
  return 1;
}

}  // namespace tocsin
