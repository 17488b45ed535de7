#include "sdk/cpp/exec_worker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "sdk/cpp/spawn.h"

extern char** environ;

namespace tocsin::sdk {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr int kChunksMax = 64;
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

// Our own, which must not reach a command: it is another event's, a secret, or another user's.
bool IsPrivate(std::string_view variable, bool other_user) {
  if (variable.starts_with("CE_") || variable.starts_with("TOCSIN_TOKEN=")) return true;
  return other_user && (variable.starts_with("HOME=") || variable.starts_with("USER=") ||
                        variable.starts_with("LOGNAME="));
}

std::vector<std::string> Environment(const ExecWorkerOptions& options, const Event& event,
                                     const Context& context) {
  std::vector<std::string> variables;
  for (char** one = environ; *one != nullptr; ++one) {
    if (!IsPrivate(*one, !options.user.empty())) variables.emplace_back(*one);
  }
  variables.insert(variables.end(), options.environment.begin(), options.environment.end());
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

std::string InputOf(const ExecWorkerOptions& options, const Event& event) {
  switch (options.input) {
    case ExecStdin::kEvent:
      return event.ToJson();
    case ExecStdin::kData:
      return std::string(event.data());
    case ExecStdin::kNone:
      return {};
    case ExecStdin::kText:
      return options.stdin_text;
  }
  return {};
}

// One run of the command: feeds it, listens to it, ends it, always reaps it.
class Command {
 public:
  Command(const ExecWorkerOptions& options, const Event& event, Context& context)
      : options_(options), context_(context), input_(InputOf(options, event)) {
    if (options_.output) output_ = options_.output(event, context);
  }

  Result Run(const Event& event) {
    if (const std::string error = Start(event); !error.empty()) {
      Result result = RetryError("spawn", error);
      if (output_ != nullptr) output_->End("not started", result);
      return result;
    }
    context_.OnCancel([fd = cancel_.get()] {
      const std::uint64_t one = 1;
      static_cast<void>(!write(fd, &one, sizeof one));
    });
    while (!reaped_) {
      Turn();
    }
    Read(stdout_, false);
    Read(stderr_, true);
    context_.OnCancel(nullptr);
    Result result = Outcome();
    if (output_ != nullptr) output_->End(How(), result);
    return result;
  }

 private:
  std::string Start(const Event& event);  // empty: it runs
  void Turn();
  void Feed();
  void Read(Fd& fd, bool errors);
  bool Renews() const { return options_.extend || options_.timeout.has_value(); }
  std::string How() const;
  void BeginKill(std::string reason);
  void Reap();
  int PollTimeout() const;
  Result Outcome() const;
  std::string LastLines() const;

  const ExecWorkerOptions& options_;
  Context& context_;
  const std::string input_;
  std::size_t fed_ = 0;
  std::unique_ptr<ExecOutput> output_;
  Fd stdin_;
  Fd stdout_;
  Fd stderr_;
  Fd cancel_;
  Fd child_fd_;
  pid_t pid_ = -1;
  bool reaped_ = false;
  int status_ = 0;
  std::string kill_reason_;  // not empty: the group was told to end
  steady_clock::time_point end_due_ = steady_clock::time_point::max();  // of `timeout`
  steady_clock::time_point kill_due_ = steady_clock::time_point::max();
  std::string errors_;  // the end of standard error
};

std::string Command::Start(const Event& event) {
  Pipe input;
  Pipe output;
  Pipe errors;
  cancel_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (cancel_.get() < 0 || !MakePipe(&input) || !MakePipe(&errors) ||
      (output_ != nullptr && !MakePipe(&output))) {
    return fmt::format("cannot start {}: {}", options_.command.front(), std::strerror(errno));
  }
  SpawnOptions spawn;
  spawn.command = options_.command;
  spawn.environment = Environment(options_, event, context_);
  spawn.directory = options_.directory;
  spawn.user = options_.user;
  spawn.end_with_us = SIGKILL;  // this thread waits for it: it ends only when we are killed
  spawn.stdin_fd = input.read.get();
  spawn.stdout_fd = output.write.get();
  spawn.stderr_fd = errors.write.get();
  std::string error;
  pid_ = Spawn(spawn, &error);
  if (pid_ < 0) {
    return error;
  }
  if (options_.timeout) end_due_ = steady_clock::now() + *options_.timeout;
  stdin_ = std::move(input.write);
  stdout_ = std::move(output.read);
  stderr_ = std::move(errors.read);
  SetNonBlocking(stdin_.get());
  if (stdout_.get() >= 0) SetNonBlocking(stdout_.get());
  SetNonBlocking(stderr_.get());
  child_fd_ = Fd(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
  if (input_.empty()) stdin_.Close();
  return {};
}

int Command::PollTimeout() const {
  auto due = kill_due_;
  if (kill_reason_.empty()) {
    due = std::min(
        due, Renews() ? context_.lease_expires() - context_.lease() / 2 : context_.lease_expires());
    due = std::min(due, end_due_);
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
  std::array<pollfd, 5> fds = {pollfd{stdin_.get(), POLLOUT, 0}, pollfd{stderr_.get(), POLLIN, 0},
                               pollfd{child_fd_.get(), POLLIN, 0},
                               pollfd{kill_reason_.empty() ? cancel_.get() : -1, POLLIN, 0},
                               pollfd{stdout_.get(), POLLIN, 0}};
  poll(fds.data(), fds.size(), PollTimeout());
  if (fds[0].revents != 0) {
    Feed();
  }
  if (fds[1].revents != 0) {
    Read(stderr_, true);
  }
  if (fds[4].revents != 0) {
    Read(stdout_, false);
  }
  const auto now = steady_clock::now();
  if (kill_reason_.empty()) {
    if (fds[3].revents != 0 || context_.Cancelled()) {
      BeginKill("cancelled by the broker");
    } else if (now >= end_due_) {
      BeginKill(fmt::format("it ran for longer than {} ms", options_.timeout->count()));
    } else if (Renews() && now >= context_.lease_expires() - context_.lease() / 2) {
      context_.Extend();
    } else if (!Renews() && now >= context_.lease_expires()) {
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

void Command::Read(Fd& fd, bool errors) {
  std::array<char, 16 * 1024> chunk{};
  // One that writes for ever must not keep its end from being noticed.
  for (int chunks = 0; fd.get() >= 0 && chunks < kChunksMax; ++chunks) {
    const ssize_t count = read(fd.get(), chunk.data(), chunk.size());
    if (count > 0) {
      const auto size = static_cast<std::size_t>(count);
      if (output_ != nullptr) {
        output_->Write({chunk.data(), size});
      } else {
        static_cast<void>(!write(STDERR_FILENO, chunk.data(), size));
      }
      if (!errors) continue;
      errors_.append(chunk.data(), size);
      if (errors_.size() > 2 * options_.message_bytes_max) {
        errors_.erase(0, errors_.size() - options_.message_bytes_max);
      }
    } else if (count == 0) {
      fd.Close();
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
  rusage usage{};
  const pid_t ended = wait4(pid_, &status_, WNOHANG, &usage);
  if (ended < 0 && errno == ECHILD) {
    status_ = 255 << 8;  // somebody else reaped it; how it ended is not known, so it runs again
  } else if (ended != pid_) {
    return;
  }
  reaped_ = true;
  if (ended == pid_ && output_ != nullptr) {
    const auto seconds = [](const timeval& time) {
      return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
    };
    output_->Used(seconds(usage.ru_utime) + seconds(usage.ru_stime),
                  static_cast<std::uint64_t>(usage.ru_maxrss) * 1024);
  }
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

std::string Command::How() const {
  if (!kill_reason_.empty()) return kill_reason_;
  if (WIFSIGNALED(status_)) return fmt::format("signal {}", WTERMSIG(status_));
  return fmt::format("exit {}", WEXITSTATUS(status_));
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

int RunExecWorker(const ExecWorkerOptions& options) {
  const LogSink log = Resolve(options.worker.connection).log;
  if (options.function.empty() || options.command.empty() || options.command.front().empty()) {
    log("nothing to run: name a function and a command");
    return 2;
  }
  if (FindProgram(options.command.front()).empty()) {
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
