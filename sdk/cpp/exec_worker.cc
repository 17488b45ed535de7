#include "sdk/cpp/exec_worker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_split.h"

extern char** environ;

namespace tocsin::sdk {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::size_t kPipeChunk = 64 * 1024;

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() { Close(); }
  int get() const { return fd_; }
  void Close() {
    if (fd_ >= 0) {
      close(std::exchange(fd_, -1));
    }
  }

 private:
  int fd_;
};

struct Pipe {
  Fd read;
  Fd write;
};

bool MakePipe(Pipe* result) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    return false;
  }
  result->read = Fd(ends[0]);
  result->write = Fd(ends[1]);
  return true;
}

void SetNonBlocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

std::vector<std::string> Environment(const Event& event, const Context& context) {
  std::vector<std::string> variables;
  for (char** one = environ; *one != nullptr; ++one) {
    const std::string_view variable(*one);
    if (!variable.starts_with("CE_") && !variable.starts_with("TOCSIN_TOKEN=")) {
      variables.emplace_back(variable);
    }
  }
  variables.emplace_back("CE_SPECVERSION=1.0");
  for (const auto& [name, value] : event.Attributes()) {
    std::string variable = "CE_";
    for (const char c : name) {
      variable += c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    }
    variables.push_back(variable + "=" + value);
  }
  variables.push_back("TOCSIN_DELIVERY_ID=" + context.delivery_id());
  variables.push_back(fmt::format("TOCSIN_ATTEMPT={}", context.attempt()));
  variables.push_back("TOCSIN_TRIGGER=" + context.trigger());
  variables.push_back("TOCSIN_FUNCTION=" + context.function());
  return variables;
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) {
    pointers.push_back(text.data());
  }
  pointers.push_back(nullptr);
  return pointers;
}

// One run of the command: feeds it, listens to it, ends it, always reaps it.
class Command {
 public:
  Command(const ExecWorkerOptions& options, const Event& event, Context& context)
      : options_(options), context_(context), input_(event.ToJson()) {}

  Result Run(const Event& event) {
    if (const int error = Spawn(event); error != 0) {
      return RetryError("spawn", fmt::format("cannot start {}: {}", options_.command.front(),
                                             std::strerror(error)));
    }
    context_.OnCancel([fd = cancel_.get()] {
      const std::uint64_t one = 1;
      static_cast<void>(!write(fd, &one, sizeof one));
    });
    while (!reaped_) {
      Turn();
    }
    ReadErrors();
    context_.OnCancel(nullptr);
    return Outcome();
  }

 private:
  int Spawn(const Event& event);
  void Turn();
  void Feed();
  void ReadErrors();
  void BeginKill(std::string reason);
  void Reap();
  int PollTimeout() const;
  Result Outcome() const;
  std::string LastLines() const;

  const ExecWorkerOptions& options_;
  Context& context_;
  const std::string input_;
  std::size_t fed_ = 0;
  Fd stdin_;
  Fd stderr_;
  Fd cancel_;
  Fd child_fd_;
  pid_t pid_ = -1;
  bool reaped_ = false;
  int status_ = 0;
  std::string kill_reason_;  // not empty: the group was told to end
  steady_clock::time_point kill_due_ = steady_clock::time_point::max();
  std::string errors_;  // the end of standard error
};

int Command::Spawn(const Event& event) {
  Pipe input;
  Pipe errors;
  cancel_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (cancel_.get() < 0 || !MakePipe(&input) || !MakePipe(&errors)) {
    return errno;
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.read.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors.write.get(), STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  sigset_t all;
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<std::string> arguments = options_.command;
  std::vector<std::string> variables = Environment(event, context_);
  const int error = posix_spawnp(&pid_, arguments.front().c_str(), &actions, &attributes,
                                 Pointers(arguments).data(), Pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    return error;
  }
  stdin_ = std::move(input.write);
  stderr_ = std::move(errors.read);
  SetNonBlocking(stdin_.get());
  SetNonBlocking(stderr_.get());
  child_fd_ = Fd(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  return 0;
}

int Command::PollTimeout() const {
  auto due = kill_due_;
  if (kill_reason_.empty()) {
    due = std::min(due, options_.extend ? context_.lease_expires() - context_.lease() / 2
                                        : context_.lease_expires());
  }
  std::int64_t wait = 60'000;
  if (due != steady_clock::time_point::max()) {
    wait = std::chrono::ceil<milliseconds>(due - steady_clock::now()).count();
  }
  // Without a pidfd (an old kernel) its end is noticed by asking.
  const std::int64_t longest = child_fd_.get() >= 0 ? 60'000 : 20;
  return static_cast<int>(std::clamp<std::int64_t>(wait, 0, longest));
}

void Command::Turn() {
  std::array<pollfd, 4> fds = {pollfd{stdin_.get(), POLLOUT, 0}, pollfd{stderr_.get(), POLLIN, 0},
                               pollfd{child_fd_.get(), POLLIN, 0},
                               pollfd{kill_reason_.empty() ? cancel_.get() : -1, POLLIN, 0}};
  poll(fds.data(), fds.size(), PollTimeout());
  if (fds[0].revents != 0) {
    Feed();
  }
  if (fds[1].revents != 0) {
    ReadErrors();
  }
  const auto now = steady_clock::now();
  if (kill_reason_.empty()) {
    if (fds[3].revents != 0 || context_.Cancelled()) {
      BeginKill("cancelled by the broker");
    } else if (options_.extend && now >= context_.lease_expires() - context_.lease() / 2) {
      context_.Extend();
    } else if (!options_.extend && now >= context_.lease_expires()) {
      BeginKill("the lease ended before the command");
    }
  } else if (now >= kill_due_) {
    kill(-pid_, SIGKILL);
    kill_due_ = steady_clock::time_point::max();
  }
  Reap();
}

void Command::Feed() {
  const ssize_t written =
      write(stdin_.get(), input_.data() + fed_, std::min(kPipeChunk, input_.size() - fed_));
  if (written > 0) {
    fed_ += static_cast<std::size_t>(written);
  }
  const bool broken = written < 0 && errno != EAGAIN && errno != EINTR;
  if (broken || fed_ == input_.size()) {
    stdin_.Close();  // a command need not read its input
  }
}

void Command::ReadErrors() {
  std::array<char, 16 * 1024> chunk{};
  while (stderr_.get() >= 0) {
    const ssize_t count = read(stderr_.get(), chunk.data(), chunk.size());
    if (count > 0) {
      const auto size = static_cast<std::size_t>(count);
      static_cast<void>(!write(STDERR_FILENO, chunk.data(), size));
      errors_.append(chunk.data(), size);
      if (errors_.size() > 2 * options_.message_bytes_max) {
        errors_.erase(0, errors_.size() - options_.message_bytes_max);
      }
    } else if (count == 0) {
      stderr_.Close();
    } else if (errno != EINTR) {
      return;
    }
  }
}

void Command::BeginKill(std::string reason) {
  kill_reason_ = std::move(reason);
  kill(-pid_, SIGTERM);
  kill_due_ = steady_clock::now() + options_.kill_grace;
}

void Command::Reap() {
  const pid_t ended = waitpid(pid_, &status_, WNOHANG);
  if (ended < 0 && errno == ECHILD) {
    status_ = 255 << 8;  // somebody else reaped it; how it ended is not known, so it runs again
  } else if (ended != pid_) {
    return;
  }
  reaped_ = true;
  if (!kill_reason_.empty()) {
    kill(-pid_, SIGKILL);  // what the group's leader left behind
  }
}

std::string Command::LastLines() const {
  std::string_view text = errors_;
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) {
    text.remove_suffix(1);
  }
  if (text.size() > options_.message_bytes_max) {
    text.remove_prefix(text.size() - options_.message_bytes_max);
    if (const std::size_t line = text.find('\n'); line != std::string_view::npos) {
      text.remove_prefix(line + 1);
    }
  }
  return std::string(text);
}

Result Command::Outcome() const {
  const std::string errors = LastLines();
  const auto with_errors = [&errors](std::string text) {
    return errors.empty() ? text : text + ": " + errors;
  };
  if (!kill_reason_.empty()) {
    return RetryError("timeout", with_errors(kill_reason_));
  }
  if (WIFSIGNALED(status_)) {
    return RetryError(fmt::format("signal_{}", WTERMSIG(status_)),
                      with_errors(fmt::format("the command was ended by signal {} ({})",
                                              WTERMSIG(status_), strsignal(WTERMSIG(status_)))));
  }
  const int code = WEXITSTATUS(status_);
  if (code == 0) {
    return Ack();
  }
  if (code == kExecRejectStatus) {
    return Reject(errors.empty() ? "the command rejected the event" : errors);
  }
  return RetryError(fmt::format("exit_{}", code),
                    with_errors(fmt::format("the command ended with status {}", code)));
}

}  // namespace

Handler ExecHandler(const ExecWorkerOptions& options) {
  return [options](const Event& event, Context& context) {
    return Command(options, event, context).Run(event);
  };
}

namespace {

// As posix_spawnp() looks for it.
bool CanRun(const std::string& program) {
  const auto executable = [](const std::string& path) {
    struct stat facts {};
    return stat(path.c_str(), &facts) == 0 && S_ISREG(facts.st_mode) &&
           access(path.c_str(), X_OK) == 0;
  };
  if (program.find('/') != std::string::npos) return executable(program);
  const char* path = std::getenv("PATH");
  const std::vector<std::string> dirs =
      absl::StrSplit(path == nullptr ? "/usr/bin:/bin" : path, ':');
  for (const std::string& dir : dirs) {
    if (executable(fmt::format("{}/{}", dir.empty() ? "." : dir, program))) return true;
  }
  return false;
}

}  // namespace

int RunExecWorker(const ExecWorkerOptions& options) {
  const LogSink log = Resolve(options.worker.connection).log;
  if (options.function.empty() || options.command.empty() || options.command.front().empty()) {
    log("nothing to run: name a function and a command");
    return 2;
  }
  if (!CanRun(options.command.front())) {
    // At once, not once per event: each would be tried until it is dead.
    log(fmt::format("`{}` cannot be run: there is no such program, or it is not executable",
                    options.command.front()));
    return 2;
  }
  signal(SIGPIPE, SIG_IGN);
  signal(SIGCHLD, SIG_DFL);
  WorkerOptions worker_options = options.worker;
  worker_options.threads_max = std::max(worker_options.threads_max, options.concurrency);
  Worker worker(options.name.empty() ? options.function : options.name, worker_options);
  worker.On(options.function, ExecHandler(options), {.concurrency = options.concurrency});
  return worker.Run();
}

}  // namespace tocsin::sdk
