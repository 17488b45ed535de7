#include "local/supervisor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <google/protobuf/util/message_differencer.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "local/run_log.h"
#include "local/run_pool.h"
#include "local/usage_book.h"
#include "sdk/cpp/exec_worker.h"
#include "sdk/cpp/spawn.h"
#include "sdk/cpp/worker.h"
#include "tocsin/v1/local.pb.h"

extern char** environ;

namespace tocsin {
namespace {

constexpr std::uint32_t kFrameBytesMax = 64U << 20;
constexpr int kLookEveryMs = 500;  // whether an old worker has left
constexpr Duration kFinishWithin = std::chrono::seconds(3);

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

// What a process of ours must not hand on: see sdk/cpp/exec_worker.cc.
std::vector<std::string> InheritedEnvironment(bool other_user) {
  std::vector<std::string> variables;
  for (char** one = environ; *one != nullptr; ++one) {
    const std::string_view variable(*one);
    const bool personal = variable.starts_with("HOME=") || variable.starts_with("USER=") ||
                          variable.starts_with("LOGNAME=");
    if (variable.starts_with("TOCSIN_TOKEN=") || (other_user && personal)) continue;
    variables.emplace_back(variable);
  }
  return variables;
}

// The workers of one function with `run`.
class Workers {
 public:
  Workers(const v1::LocalFunction& function, const v1::SupervisorCommand& command,
          const Clock& clock, UsageBook& usage)
      : name_(function.name()),
        run_(function.run()),
        clock_(clock),
        usage_(usage),
        pool_(OptionsOf(run_)) {
    spawn_.command.assign(run_.command().begin(), run_.command().end());
    spawn_.environment = InheritedEnvironment(!run_.user().empty());
    for (const auto& [name, value] : run_.environment()) {
      spawn_.environment.push_back(fmt::format("{}={}", name, value));
    }
    spawn_.environment.push_back("TOCSIN_TARGET=" + command.target());
    if (!command.token().empty()) {
      spawn_.environment.push_back("TOCSIN_TOKEN=" + command.token());
    }
    spawn_.environment.push_back("TOCSIN_FUNCTION=" + name_);
    spawn_.directory = run_.directory();
    spawn_.user = run_.user();
    spawn_.end_with_us = SIGTERM;
  }

  const std::string& name() const { return name_; }
  // Whether the same processes serve `function`, maybe other numbers of them.
  bool Serves(const v1::LocalFunction& function) const {
    v1::LocalRun other = function.run();
    other.set_min(run_.min());
    other.set_max(run_.max());
    other.set_warm(run_.warm());
    other.set_idle_ms(run_.idle_ms());
    return function.name() == name_ && function.has_run() &&
           google::protobuf::util::MessageDifferencer::Equals(other, run_);
  }
  void Change(const v1::LocalFunction& function) {
    run_ = function.run();
    pool_.SetOptions(OptionsOf(run_));
  }
  void SetLoad(std::uint64_t queued, std::uint64_t in_flight) { pool_.SetLoad(queued, in_flight); }

  // Reaps, starts, stops; returns when to come again if nothing happens.
  std::optional<Instant> Tend() {
    Reap();
    const Instant now = clock_.Monotonic();
    const RunPool::Decision decision = pool_.Decide(now);
    for (std::uint32_t i = 0; i < decision.start; ++i) Start();
    for (const RunPool::Id pid : decision.stop) kill(static_cast<pid_t>(pid), SIGTERM);
    if (decision.start > 0 || !decision.stop.empty()) {
      Say(fmt::format("{}: {} workers started, {} told to finish; {} run", name_, decision.start,
                      decision.stop.size(), pool_.running()));
      return now;
    }
    return decision.next;
  }

  // All finish what they hold and end; none is started any more.
  void Retire() {
    pool_.SetOptions({.min = 0, .max = 0, .idle = Duration::zero()});
    pool_.SetLoad(0, 0);
  }
  bool gone() const { return pool_.All().empty(); }

  void Signal(int signal, bool group) {
    for (const RunPool::Id pid : pool_.All()) {
      kill(static_cast<pid_t>(group ? -pid : pid), signal);
    }
  }

  void Reap() {
    for (const RunPool::Id pid : pool_.All()) {
      int status = 0;
      rusage used{};
      if (wait4(static_cast<pid_t>(pid), &status, WNOHANG, &used) != static_cast<pid_t>(pid)) {
        continue;
      }
      Book(pid, status, used);
      kill(static_cast<pid_t>(-pid), SIGKILL);  // what it left behind
      const std::string how = WIFSIGNALED(status)
                                  ? fmt::format("by signal {}", WTERMSIG(status))
                                  : fmt::format("with status {}", WEXITSTATUS(status));
      if (pool_.Ended(pid, clock_.Monotonic())) {
        Say(fmt::format(
            "{}: T0216: its workers end again and again soon after their start, the last "
            "one {}; the next is started later and later, up to a minute",
            name_, how));
      } else {
        Say(fmt::format("{}: a worker ended {}", name_, how));
      }
    }
  }

 private:
  static RunPoolOptions OptionsOf(const v1::LocalRun& run) {
    RunPoolOptions options;
    options.min = run.min();
    options.max = run.max();
    options.warm = run.warm();
    options.idle = std::chrono::milliseconds(run.idle_ms());
    return options;
  }

  void Start() {
    std::string error;
    const pid_t pid = sdk::Spawn(spawn_, &error);
    if (pid > 0) {
      pool_.Started(pid, clock_.Monotonic());
      started_[pid] = clock_.Monotonic();
      usage_.SetWorkers(name_, static_cast<std::uint32_t>(started_.size()));
    } else {
      Say(fmt::format("{}: {}", name_, error));
      pool_.StartFailed(clock_.Monotonic());
    }
  }

  void Book(RunPool::Id pid, int status, const rusage& used) {
    const auto seconds = [](const timeval& time) {
      return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
    };
    const std::chrono::duration<double> lived = clock_.Monotonic() - started_[pid];
    started_.erase(pid);
    usage_.SetWorkers(name_, static_cast<std::uint32_t>(started_.size()));
    usage_.Ran(name_, "run", status != 0, lived.count(),
               seconds(used.ru_utime) + seconds(used.ru_stime),
               static_cast<std::uint64_t>(used.ru_maxrss) * 1024);
  }

  const std::string name_;
  v1::LocalRun run_;
  const Clock& clock_;
  UsageBook& usage_;
  std::map<RunPool::Id, Instant> started_;
  RunPool pool_;
  sdk::SpawnOptions spawn_;
};

// A worker with the `exec` functions of one command, on a thread of its own.
class Service {
 public:
  Service(const v1::SupervisorCommand& command, const Clock& clock, UsageBook& usage)
      : log_({.dir = command.runs_dir(),
              .usage = &usage,
              .warn = [](const std::string& text) { Say(text); }},
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
      if (function.has_exec()) options.threads_max += function.exec().concurrency();
    }
    worker_ = std::make_unique<sdk::Worker>("local", options);
    for (const v1::LocalFunction& function : command.functions()) {
      if (function.has_exec()) Serve(function);
    }
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
    // Before any thread is made: only the descriptor sees them.
    sigset_t seen;
    sigemptyset(&seen);
    for (const int signal : {SIGTERM, SIGCHLD}) sigaddset(&seen, signal);
    pthread_sigmask(SIG_BLOCK, &seen, nullptr);
    signals_ = signalfd(-1, &seen, SFD_CLOEXEC | SFD_NONBLOCK);
    int status = 0;
    for (bool open = true; open;) {
      pollfd fds[] = {{input_, POLLIN, 0}, {signals_, POLLIN, 0}};
      const int ready = poll(fds, 2, Tend());
      if (ready < 0 && errno != EINTR) return 1;
      if (ready <= 0) continue;
      if (fds[1].revents != 0 && TakeSignals()) break;
      if (fds[0].revents == 0) continue;
      open = Read();
      if (open && !TakeFrames()) {
        Say("a frame from the broker cannot be read");
        status = 1;
        open = false;
      }
    }
    End();
    close(signals_);
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
      v1::SupervisorFrame frame;
      if (!frame.ParseFromArray(buffer_.data() + 4, static_cast<int>(size))) return false;
      buffer_.erase(0, std::size_t{size} + 4);
      if (frame.has_command()) Apply(frame.command());
      for (const v1::FunctionLoad& load : frame.loads()) {
        for (const auto& workers : workers_) {
          if (workers->name() == load.name()) workers->SetLoad(load.queued(), load.in_flight());
        }
      }
    }
    return true;
  }

  // True: we are to end.
  bool TakeSignals() {
    bool ends = false;
    signalfd_siginfo info{};
    while (read(signals_, &info, sizeof info) == sizeof info) {
      ends = ends || info.ssi_signo == SIGTERM;
    }
    return ends;
  }

  // Looks after everything; how long poll() may wait, in milliseconds.
  int Tend() {
    std::erase_if(leaving_, [](const auto& service) { return service->done(); });
    std::optional<Instant> next;
    for (auto* all : {&workers_, &retired_}) {
      for (const auto& workers : *all) {
        const std::optional<Instant> one = workers->Tend();
        if (one && (!next || *one < *next)) next = one;
      }
    }
    std::erase_if(retired_, [](const auto& workers) { return workers->gone(); });
    int wait = leaving_.empty() ? -1 : kLookEveryMs;
    if (next) {
      const auto until =
          std::chrono::ceil<std::chrono::milliseconds>(*next - clock_.Monotonic()).count();
      const int due = static_cast<int>(std::clamp<std::int64_t>(until, 0, 60'000));
      wait = wait < 0 ? due : std::min(wait, due);
    }
    return wait;
  }

  void End() {
    for (auto& workers : retired_) workers_.push_back(std::move(workers));
    for (const auto& workers : workers_) workers->Signal(SIGTERM, false);
    if (service_ != nullptr) leaving_.push_back(std::move(service_));
    for (const auto& service : leaving_) service->Abort();
    leaving_.clear();  // waits for them
    const Instant last = clock_.Monotonic() + kFinishWithin;
    while (clock_.Monotonic() < last) {
      bool any = false;
      for (const auto& workers : workers_) {
        workers->Reap();
        any = any || !workers->gone();
      }
      if (!any) return;
      pollfd fd{signals_, POLLIN, 0};
      poll(&fd, 1, kLookEveryMs);
      TakeSignals();
    }
    for (const auto& workers : workers_) workers->Signal(SIGKILL, true);
  }

  void Apply(const v1::SupervisorCommand& command) {
    if (usage_ == nullptr && !command.runs_dir().empty()) {
      mkdir(command.runs_dir().c_str(), 0700);
    }
    if (usage_ == nullptr) usage_ = std::make_unique<UsageBook>(command.runs_dir() + "/usage");
    ApplyWorkers(command);
    v1::SupervisorCommand execs = command;
    execs.clear_functions();
    for (const v1::LocalFunction& function : command.functions()) {
      if (function.has_exec()) *execs.add_functions() = function;
    }
    if (service_ != nullptr && google::protobuf::util::MessageDifferencer::Equals(execs, served_)) {
      return;
    }
    served_ = execs;
    if (service_ != nullptr) {
      service_->Stop();
      leaving_.push_back(std::move(service_));
    }
    if (!execs.functions().empty()) service_ = std::make_unique<Service>(execs, clock_, *usage_);
  }

  void ApplyWorkers(const v1::SupervisorCommand& command) {
    std::vector<std::unique_ptr<Workers>> wanted;
    for (const v1::LocalFunction& function : command.functions()) {
      if (!function.has_run()) continue;
      const auto same = std::find_if(workers_.begin(), workers_.end(), [&](const auto& workers) {
        return workers != nullptr && workers->Serves(function);
      });
      if (same != workers_.end()) {
        (*same)->Change(function);
        wanted.push_back(std::move(*same));
      } else {
        wanted.push_back(std::make_unique<Workers>(function, command, clock_, *usage_));
      }
    }
    for (auto& workers : workers_) {
      if (workers == nullptr) continue;
      workers->Retire();
      retired_.push_back(std::move(workers));
    }
    workers_ = std::move(wanted);
  }

  const int input_;
  SystemClock clock_;
  std::string buffer_;
  std::unique_ptr<UsageBook> usage_;  // from the first command on
  std::unique_ptr<Service> service_;
  std::vector<std::unique_ptr<Service>> leaving_;
  v1::SupervisorCommand served_;  // by `service_`
  std::vector<std::unique_ptr<Workers>> workers_;
  std::vector<std::unique_ptr<Workers>> retired_;  // until their last process has ended
  int signals_ = -1;
};

// What it starts must not read the broker's commands, which hold tokens and secrets: they come by a
// descriptor that ends at exec, and standard input is empty.
int KeepToOurselves(int input) {
  const int kept = fcntl(input, F_DUPFD_CLOEXEC, 3);
  const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (kept < 0 || nothing < 0 || dup2(nothing, STDIN_FILENO) < 0) return -1;
  if (nothing != STDIN_FILENO) close(nothing);
  if (input != STDIN_FILENO) close(input);
  return kept;
}

}  // namespace

int RunSupervisor(int input) {
  input = KeepToOurselves(input);
  if (input < 0) {
    Say(fmt::format("cannot set up its input: {}", strerror(errno)));
    return 1;
  }
  signal(SIGPIPE, SIG_IGN);
  signal(SIGCHLD, SIG_DFL);
  signal(SIGINT, SIG_IGN);  // the broker's to deal with
  return Supervisor(input).Run();
}

}  // namespace tocsin
