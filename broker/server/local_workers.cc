#include "broker/server/local_workers.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "broker/base/mutex.h"
#include "tocsin/v1/local.pb.h"

extern char** environ;

namespace tocsin {
namespace {

constexpr Duration kLookEvery = std::chrono::milliseconds(500);
constexpr Duration kLoadEvery = std::chrono::milliseconds(100);
constexpr Duration kBackoffMin = std::chrono::seconds(1);
constexpr Duration kBackoffMax = std::chrono::seconds(30);
constexpr Duration kSteady = std::chrono::seconds(60);  // after so long the next end is a first one

v1::LocalExec::Input InputOf(ExecInput input) {
  switch (input) {
    case ExecInput::kEvent:
      return v1::LocalExec::EVENT;
    case ExecInput::kData:
      return v1::LocalExec::DATA;
    case ExecInput::kNone:
      return v1::LocalExec::NONE;
    case ExecInput::kText:
      return v1::LocalExec::TEXT;
  }
  return v1::LocalExec::EVENT;
}

void Add(const FunctionConfig& function, v1::SupervisorCommand& command) {
  if (!function.exec && !function.run) return;
  v1::LocalFunction& local = *command.add_functions();
  local.set_name(function.name);
  const auto process = [](const LocalCommand& from, auto& to) {
    for (const std::string& argument : from.command) to.add_command(argument);
    for (const auto& [name, value] : from.environment) (*to.mutable_environment())[name] = value;
    to.set_directory(from.directory);
    to.set_user(from.user);
  };
  const auto milliseconds = [](Duration duration) {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
  };
  if (function.run) {
    v1::LocalRun& run = *local.mutable_run();
    process(function.run->process, run);
    run.set_min(function.run->min);
    run.set_max(function.run->max);
    run.set_warm(function.run->warm);
    run.set_idle_ms(milliseconds(function.run->idle));
    return;
  }
  const ExecSpec& spec = *function.exec;
  v1::LocalExec& exec = *local.mutable_exec();
  process(spec.process, exec);
  exec.set_input(InputOf(spec.input));
  exec.set_stdin_text(spec.stdin_text);
  if (spec.timeout) exec.set_timeout_ms(milliseconds(*spec.timeout));
  exec.set_concurrency(spec.concurrency);
  exec.set_output_bytes_max(spec.output_bytes_max);
}

// A 32-bit length, little-endian, and the message.
std::string Framed(const v1::SupervisorFrame& message) {
  const std::string body = message.SerializeAsString();
  std::string frame;
  for (int i = 0; i < 4; ++i) frame.push_back(static_cast<char>((body.size() >> (8 * i)) & 0xff));
  return frame + body;
}

bool HasRun(const v1::SupervisorCommand& command) {
  return std::any_of(command.functions().begin(), command.functions().end(),
                     [](const v1::LocalFunction& function) { return function.has_run(); });
}

std::string HowItEnded(int status) {
  if (WIFSIGNALED(status)) return fmt::format("by signal {}", WTERMSIG(status));
  return fmt::format("with status {}", WEXITSTATUS(status));
}

}  // namespace

struct LocalWorkers::Impl : std::enable_shared_from_this<LocalWorkers::Impl> {
  Impl(LocalWorkersOptions options_in, Ports ports_in)
      : options(std::move(options_in)), ports(ports_in) {}

  std::string Frame() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    v1::SupervisorFrame frame;
    *frame.mutable_command() = wanted;
    return Framed(frame);
  }

  // False: it does not read any more.
  bool Send() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    told.clear();  // new workers know of no load
    const std::string frame = Frame();
    std::string_view left = frame;
    while (!left.empty()) {
      const ssize_t written = write(input, left.data(), left.size());
      if (written > 0) {
        left.remove_prefix(static_cast<std::size_t>(written));
      } else if (errno != EINTR) {
        return false;
      }
    }
    return true;
  }

  void Start() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) {
      Waits(fmt::format("a pipe: {}", std::strerror(errno)));
      return;
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[0], STDIN_FILENO);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t none;
    sigemptyset(&none);
    sigset_t all;
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    // Out of the terminal's way: it ends when the broker does, not before.
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    std::vector<char*> arguments;
    for (std::string& argument : options.command) arguments.push_back(argument.data());
    arguments.push_back(nullptr);
    const int error = posix_spawn(&pid, options.command.front().c_str(), &actions, &attributes,
                                  arguments.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    close(ends[0]);
    if (error != 0) {
      close(ends[1]);
      pid = -1;
      Waits(std::strerror(error));
      return;
    }
    input = ends[1];
    started = ports.clock.Monotonic();
    if (!Send()) CloseInput();  // it has ended; Look() sees to it
  }

  void Waits(std::string_view why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    restart_at = ports.clock.Monotonic() + backoff;
    ports.log.Warn("T0215",
                   fmt::format("local functions are not served: the supervisor {}; it is "
                               "started again in {} s",
                               why, std::chrono::floor<std::chrono::seconds>(backoff).count()));
    backoff = std::min(2 * backoff, kBackoffMax);
  }

  void CloseInput() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (input >= 0) close(std::exchange(input, -1));
  }

  // What has changed, a frame each: one that is short is written whole or, if it does not read, not
  // at all.
  void Tell(const LocalLoads& loads) {
    MutexLock lock(mutex);
    for (const v1::LocalFunction& function : wanted.functions()) {
      if (!function.has_run() || input < 0) continue;
      const auto found = loads.find(function.name());
      const LocalLoad load = found == loads.end() ? LocalLoad() : found->second;
      const auto known = told.find(function.name());
      if (known != told.end() && known->second == load) continue;
      v1::SupervisorFrame frame;
      v1::FunctionLoad& one = *frame.add_loads();
      one.set_name(function.name());
      one.set_queued(load.queued);
      one.set_in_flight(load.in_flight);
      const std::string bytes = Framed(frame);
      pollfd fd{input, POLLOUT, 0};
      if (poll(&fd, 1, 0) != 1 || (fd.revents & POLLOUT) == 0) return;
      if (write(input, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) return;
      told[function.name()] = load;
    }
  }

  void AskLoads() {
    if (!ports.loads) return;
    ports.loads([self = weak_from_this()](const LocalLoads& loads) {
      if (const auto impl = self.lock()) impl->Tell(loads);
    });
  }

  // Reaps it, starts it again.
  void Look() {
    MutexLock lock(mutex);
    if (stopped) return;
    int status = 0;
    if (pid > 0 && waitpid(pid, &status, WNOHANG) == pid) {
      pid = -1;
      CloseInput();
      if (ports.clock.Monotonic() - started >= kSteady) backoff = kBackoffMin;
      if (wanted.functions().empty()) {
        backoff = kBackoffMin;
      } else {
        Waits(fmt::format("ended {}", HowItEnded(status)));
      }
    }
    if (pid < 0 && !wanted.functions().empty() && ports.clock.Monotonic() >= restart_at) Start();
    if (pid < 0 && wanted.functions().empty()) {
      watching = false;
      return;
    }
    Watch();
  }

  void Watch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    const bool loads = pid > 0 && HasRun(wanted);
    if (loads)
      ports.executor.Post([self = weak_from_this()] {
        if (const auto impl = self.lock()) impl->AskLoads();
      });
    ports.executor.PostAt(ports.clock.Monotonic() + (loads ? kLoadEvery : kLookEvery),
                          [self = weak_from_this()] {
                            if (const auto impl = self.lock()) impl->Look();
                          });
  }

  LocalWorkersOptions options;
  const Ports ports;

  Mutex mutex;
  v1::SupervisorCommand wanted ABSL_GUARDED_BY(mutex);
  pid_t pid ABSL_GUARDED_BY(mutex) = -1;
  int input ABSL_GUARDED_BY(mutex) = -1;   // of the supervisor
  LocalLoads told ABSL_GUARDED_BY(mutex);  // to this supervisor
  Instant started ABSL_GUARDED_BY(mutex){};
  Instant restart_at ABSL_GUARDED_BY(mutex){};
  Duration backoff ABSL_GUARDED_BY(mutex) = kBackoffMin;
  bool watching ABSL_GUARDED_BY(mutex) = false;
  bool stopped ABSL_GUARDED_BY(mutex) = false;
};

LocalWorkers::LocalWorkers(LocalWorkersOptions options, Ports ports)
    : impl_(std::make_shared<Impl>(std::move(options), ports)) {}

LocalWorkers::~LocalWorkers() { Stop(Duration::zero()); }

void LocalWorkers::Apply(const std::vector<FunctionConfig>& functions) {
  Impl& impl = *impl_;
  MutexLock lock(impl.mutex);
  if (impl.stopped) return;
  v1::SupervisorCommand wanted;
  for (const FunctionConfig& function : functions) Add(function, wanted);
  if (!wanted.functions().empty() && impl.options.command.empty()) {
    impl.ports.log.Warn("T0215", "local functions are not served: this process has no supervisor");
    return;
  }
  wanted.set_target(impl.options.target);
  wanted.set_token(impl.options.token);
  wanted.set_runs_dir(impl.options.runs_dir);
  const std::string before = impl.Frame();
  impl.wanted = std::move(wanted);
  if (impl.pid > 0) {
    // Unchanged functions notice nothing.
    if (impl.input >= 0 && impl.Frame() != before && !impl.Send()) impl.CloseInput();
    if (impl.wanted.functions().empty()) impl.CloseInput();
    return;
  }
  if (impl.wanted.functions().empty() || impl.watching) return;
  impl.Start();
  impl.watching = true;
  impl.Watch();
}

void LocalWorkers::Nudge() {
  {
    MutexLock lock(impl_->mutex);
    if (impl_->stopped || impl_->pid < 0 || !HasRun(impl_->wanted)) return;
  }
  impl_->ports.executor.Post([self = std::weak_ptr(impl_)] {
    if (const auto impl = self.lock()) impl->AskLoads();
  });
}

void LocalWorkers::Stop(Duration within) {
  pid_t pid = -1;
  {
    MutexLock lock(impl_->mutex);
    if (std::exchange(impl_->stopped, true)) return;
    impl_->CloseInput();
    pid = std::exchange(impl_->pid, -1);
  }
  if (pid < 0) return;
  const int ended = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (ended >= 0) {
    pollfd fd{ended, POLLIN, 0};
    poll(&fd, 1, static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(within).count()));
    close(ended);
  }
  int status = 0;
  if (waitpid(pid, &status, WNOHANG) == pid) return;
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
}

}  // namespace tocsin
