#include "local/supervisor.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "local/run_log.h"
#include "sdk/cpp/exec_worker.h"
#include "sdk/cpp/worker.h"
#include "tocsin/v1/local.pb.h"

namespace tocsin {
namespace {

constexpr std::uint32_t kFrameBytesMax = 64U << 20;
constexpr int kLookEveryMs = 500;  // whether an old worker has left

void Say(std::string_view line) {
  const std::string text = fmt::format("supervise: {}\n", line);
  static_cast<void>(!write(STDERR_FILENO, text.data(), text.size()));
}

sdk::ExecStdin InputOf(v1::LocalExec::Input input) {
  switch (input) {
    case v1::LocalExec::DATA:
      return sdk::ExecStdin::kData;
    case v1::LocalExec::NONE:
      return sdk::ExecStdin::kNone;
    case v1::LocalExec::TEXT:
      return sdk::ExecStdin::kText;
    default:
      return sdk::ExecStdin::kEvent;
  }
}

// A worker with the functions of one command, on a thread of its own.
class Service {
 public:
  Service(const v1::SupervisorCommand& command, const Clock& clock)
      : log_({.dir = command.runs_dir(), .warn = [](const std::string& text) { Say(text); }},
             clock),
        thread_("local-worker", clock) {
    sdk::WorkerOptions options;
    options.connection.target = command.target();
    options.connection.token = command.token();
    options.connection.log = [](std::string_view line) { Say(line); };
    options.connection.backoff_max = std::chrono::milliseconds(1000);
    options.handle_signals = false;
    options.threads_max = 0;
    for (const v1::LocalFunction& function : command.functions()) {
      options.threads_max += function.exec().concurrency();
    }
    worker_ = std::make_unique<sdk::Worker>("local", options);
    for (const v1::LocalFunction& function : command.functions()) Serve(function);
    thread_.Post([this] {
      worker_->Run();
      done_.store(true);
    });
  }
  // Waits for its end: after Abort() that is soon.
  ~Service() { thread_.Stop(); }

  void Stop() { worker_->Stop(); }
  void Abort() { worker_->Abort(); }
  bool done() const { return done_.load(); }

 private:
  void Serve(const v1::LocalFunction& function) {
    const v1::LocalExec& exec = function.exec();
    sdk::ExecWorkerOptions options;
    options.function = function.name();
    options.command.assign(exec.command().begin(), exec.command().end());
    for (const auto& [name, value] : exec.environment()) {
      options.environment.push_back(fmt::format("{}={}", name, value));
    }
    options.directory = exec.directory();
    options.user = exec.user();
    options.input = InputOf(exec.input());
    options.stdin_text = exec.stdin_text();
    if (exec.timeout_ms() > 0) options.timeout = std::chrono::milliseconds(exec.timeout_ms());
    options.output = [this, name = function.name(), bytes = exec.output_bytes_max()](
                         const sdk::Event& event, const sdk::Context& context) {
      return log_.Begin(name, bytes, event, context);
    };
    worker_->On(function.name(), sdk::ExecHandler(options), {.concurrency = exec.concurrency()});
  }

  RunLog log_;
  std::atomic<bool> done_{false};
  std::unique_ptr<sdk::Worker> worker_;
  ThreadExecutor thread_;  // last: it ends before what it uses
};

class Supervisor {
 public:
  explicit Supervisor(int input) : input_(input) {}

  int Run() {
    // Before any thread is made: only the descriptor sees it.
    sigset_t ending;
    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &ending, nullptr);
    const int signals = signalfd(-1, &ending, SFD_CLOEXEC);
    int status = 0;
    for (bool open = true; open;) {
      pollfd fds[] = {{input_, POLLIN, 0}, {signals, POLLIN, 0}};
      const int ready = poll(fds, 2, leaving_.empty() ? -1 : kLookEveryMs);
      std::erase_if(leaving_, [](const auto& service) { return service->done(); });
      if (ready < 0 && errno != EINTR) return 1;
      if (ready <= 0) continue;
      open = fds[1].revents == 0 && Read();
      if (open && !TakeFrames()) {
        Say("a frame from the broker cannot be read");
        status = 1;
        open = false;
      }
    }
    if (service_ != nullptr) leaving_.push_back(std::move(service_));
    for (const auto& service : leaving_) service->Abort();
    leaving_.clear();
    close(signals);
    return status;
  }

 private:
  // False: the broker has gone.
  bool Read() {
    char chunk[64 * 1024];
    const ssize_t bytes = read(input_, chunk, sizeof chunk);
    if (bytes > 0) buffer_.append(chunk, static_cast<std::size_t>(bytes));
    return bytes > 0 || (bytes < 0 && errno == EINTR);
  }

  bool TakeFrames() {
    while (buffer_.size() >= 4) {
      std::uint32_t size = 0;
      for (std::size_t i = 0; i < 4; ++i) {
        size |= std::uint32_t{static_cast<unsigned char>(buffer_[i])} << (8 * i);
      }
      if (size > kFrameBytesMax) return false;
      if (buffer_.size() < std::size_t{size} + 4) return true;
      v1::SupervisorCommand command;
      if (!command.ParseFromArray(buffer_.data() + 4, static_cast<int>(size))) return false;
      buffer_.erase(0, std::size_t{size} + 4);
      Apply(command);
    }
    return true;
  }

  void Apply(const v1::SupervisorCommand& command) {
    if (service_ != nullptr) {
      service_->Stop();
      leaving_.push_back(std::move(service_));
    }
    if (command.functions().empty()) return;
    service_ = std::make_unique<Service>(command, clock_);
  }

  const int input_;
  SystemClock clock_;
  std::string buffer_;
  std::unique_ptr<Service> service_;
  std::vector<std::unique_ptr<Service>> leaving_;
};

}  // namespace

int RunSupervisor(int input) {
  signal(SIGPIPE, SIG_IGN);
  signal(SIGCHLD, SIG_DFL);
  signal(SIGINT, SIG_IGN);  // the broker's to deal with
  return Supervisor(input).Run();
}

}  // namespace tocsin
