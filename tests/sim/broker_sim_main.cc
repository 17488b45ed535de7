// Runs BrokerSim over many seeds. A failure is shrunk, to fewer steps and fewer classes of faults,
// and printed with the command that repeats it; so is a seed that ends the process or stands still.
// Without --seeds, TOCSIN_SEED runs that one.

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "broker/base/canary.h"
#include "broker/base/mutex.h"
#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "tests/sim/broker_sim.h"

namespace tocsin {
namespace {

constexpr std::string_view kUsage =
    "usage: broker_sim [--seeds N] [--first-seed S] [--steps N] [--threads N] [--disk]\n"
    "                  [--without CLASS]... [--canary NAME] [--trace]\n"
    "--canary: answer_early, lying_sync, lying_dir_sync, wrong_byte; of broker_sim_canaries also "
    "those of\n"
    "broker/base/canary.h\n";
constexpr std::uint64_t kFailuresShown = 10;

constexpr unsigned kSecondsPerSeed = 120;  // more than that is standing still

// What a failed check ends is named, too; it finds a canary as well as any other.
thread_local std::uint64_t running_seed = 0;
std::atomic<bool> has_canary{false};
// The rest of the command line, for commands that repeat one seed.
std::array<char, 512> flags_text{};

void Tell(std::string_view what, std::uint64_t seed) {
  std::array<char, 800> text{};
  const auto end = fmt::format_to_n(text.data(), text.size(),
                                    "seed {}: {}\n  again: {} --seeds 1 "
                                    "--first-seed {}{} --trace\n",
                                    seed, what,
#ifdef TOCSIN_CANARIES
                                    "broker_sim_canaries",
#else
                                    "broker_sim",
#endif
                                    seed, flags_text.data());
  if (write(STDERR_FILENO, text.data(), end.size) < 0) _exit(1);
}

extern "C" void TellSeed(int signal) {
  Tell(has_canary ? "ended by a check of the broker's own: the canary was found"
                  : "ended the process",
       running_seed);
  if (has_canary) _exit(0);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

// What each thread is at, for the watch.
struct Running {
  std::atomic<std::uint64_t> seed{0};
  std::atomic<std::int64_t> since{0};  // seconds; 0: nothing
};
std::array<Running, 64> running;
thread_local Running* mine = nullptr;

std::int64_t Seconds() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}

extern "C" void Watch(int) {
  for (const Running& one : running) {
    const std::int64_t since = one.since;
    if (since == 0 || Seconds() - since < kSecondsPerSeed) continue;
    Tell("stands still", one.seed);
    _exit(1);
  }
  alarm(10);
}

struct Flags {
  std::uint64_t seeds = 200;
  std::uint64_t first = 1;
  std::uint64_t threads = 1;
  BrokerSimOptions options;
  Canary planted = Canary::kNone;
};

std::string_view CanaryName(SimCanary canary) {
  switch (canary) {
    case SimCanary::kNone:
      return "";
    case SimCanary::kAnswerEarly:
      return "answer_early";
    case SimCanary::kLyingSync:
      return "lying_sync";
    case SimCanary::kLyingDirSync:
      return "lying_dir_sync";
    case SimCanary::kWrongByte:
      return "wrong_byte";
  }
  return "";
}

bool ReadCanary(std::string_view name, Flags& flags) {
  for (const SimCanary one : {SimCanary::kAnswerEarly, SimCanary::kLyingSync,
                              SimCanary::kLyingDirSync, SimCanary::kWrongByte}) {
    if (name == CanaryName(one)) {
      flags.options.canary = one;
      return true;
    }
  }
#ifdef TOCSIN_CANARIES
  const auto found = std::find(kCanaryNames.begin(), kCanaryNames.end(), name);
  if (found == kCanaryNames.end()) return false;
  planted = flags.planted = static_cast<Canary>(found - kCanaryNames.begin());
  return true;
#else
  return false;
#endif
}

bool ReadClass(std::string_view name, std::uint32_t& without) {
  const auto found = std::find(kSimClasses.begin(), kSimClasses.end(), name);
  if (found == kSimClasses.end()) return false;
  without |= 1u << (found - kSimClasses.begin());
  return true;
}

bool ReadFlags(int argc, char** argv, Flags& flags) {
  if (const char* seed = std::getenv("TOCSIN_SEED")) {
    flags.first = std::strtoull(seed, nullptr, 10);
    flags.seeds = 1;
  }
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--disk") {
      flags.options.disk = true;
      continue;
    }
    if (flag == "--trace") {
      flags.options.trace = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const char* const value = argv[++i];
    const std::uint64_t number = std::strtoull(value, nullptr, 10);
    if (flag == "--seeds") {
      flags.seeds = number;
    } else if (flag == "--first-seed") {
      flags.first = number;
    } else if (flag == "--steps") {
      flags.options.steps = static_cast<std::uint32_t>(number);
    } else if (flag == "--threads") {
      flags.threads = std::max<std::uint64_t>(1, number);
    } else if (flag == "--without") {
      if (!ReadClass(value, flags.options.without)) return false;
    } else if (flag != "--canary" || !ReadCanary(value, flags)) {
      return false;
    }
  }
  return true;
}

// In a process of its own, which a trial may end or keep.
bool Fails(const BrokerSimOptions& options) {
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    for (const int signal : {SIGABRT, SIGSEGV, SIGALRM}) std::signal(signal, SIG_DFL);
    alarm(kSecondsPerSeed);
    _exit(RunBrokerSim(options).failure.empty() ? 0 : 1);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

// The same seed with fewer classes and fewer steps, as long as it still fails.
BrokerSimOptions Shrink(BrokerSimOptions failing) {
  failing.trace = false;
  const auto fails = [](const BrokerSimOptions& options) { return Fails(options); };
  for (std::size_t i = 0; i < kSimClasses.size(); ++i) {
    BrokerSimOptions smaller = failing;
    smaller.without |= 1u << i;
    if (fails(smaller)) failing = smaller;
  }
  for (std::uint32_t cut = failing.steps / 2; cut > 0;) {
    BrokerSimOptions smaller = failing;
    smaller.steps -= cut;
    if (fails(smaller)) {
      failing = smaller;
      cut = std::min(cut, failing.steps / 2);
    } else {
      cut /= 2;
    }
  }
  return failing;
}

std::string Command(const BrokerSimOptions& options, Canary inside) {
  std::string command = fmt::format("{} --seeds 1 --first-seed {} --steps {}{}",
                                    inside == Canary::kNone ? "broker_sim" : "broker_sim_canaries",
                                    options.seed, options.steps, options.disk ? " --disk" : "");
  if (inside != Canary::kNone) {
    command += fmt::format(" --canary {}", kCanaryNames[static_cast<std::size_t>(inside)]);
  }
  for (std::size_t i = 0; i < kSimClasses.size(); ++i) {
    if ((options.without >> i & 1) != 0) command += fmt::format(" --without {}", kSimClasses[i]);
  }
  if (options.canary != SimCanary::kNone) {
    command += fmt::format(" --canary {}", CanaryName(options.canary));
  }
  return command + " --trace";
}

class Campaign {
 public:
  explicit Campaign(const Flags& flags) : flags_(flags), next_(flags.first) {}

  int Run() {
    const SystemClock clock;
    const Instant began = clock.Monotonic();
    std::vector<std::unique_ptr<ThreadExecutor>> threads;
    for (std::uint64_t i = 0; i < flags_.threads; ++i) {
      threads.push_back(std::make_unique<ThreadExecutor>("sim", clock));
      threads.back()->Post([this] { Work(); });
    }
    for (const auto& thread : threads) thread->Stop();
    const MutexLock lock(mutex_);
    const double seconds = std::chrono::duration<double>(clock.Monotonic() - began).count();
    fmt::print(
        "{} seeds{}, {} failures: {} published, {} delivered, {} crashes, {} power cuts, {} "
        "of them while the journal opened, {} bits flipped, {} letters seen, {} redriven, {} "
        "emitted, {} refused in streams; {:.0f} s, {:.0f} histories a second\n",
        ran_, flags_.options.disk ? " on a disk" : "", failures_, total_.published,
        total_.delivered, total_.crashes, total_.power_cuts, total_.broken_openings,
        total_.flipped_bits, total_.letters, total_.redriven, total_.emitted, total_.refused,
        seconds, static_cast<double>(ran_) / seconds);
    if (!HasCanary()) return failures_ > 0 || !AllChecked() ? 1 : 0;
    fmt::print("the canary was {}\n", failures_ > 0 ? "found" : "NOT found");
    return failures_ > 0 ? 0 : 1;
  }

 private:
  // A check that never ran proves nothing.
  bool AllChecked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    constexpr std::uint64_t kEnough = 1000;  // seeds
    fmt::print("checked:");
    for (std::size_t i = 0; i < total_.checks.size(); ++i) {
      fmt::print(" {} {}{}", kSimCheckNames[i], total_.checks[i],
                 i + 1 < total_.checks.size() ? "," : "\n");
    }
    const auto never = std::find(total_.checks.begin(), total_.checks.end(), 0);
    if (never == total_.checks.end() || ran_ < kEnough || flags_.options.without != 0) return true;
    fmt::print("{} was never checked\n",
               kSimCheckNames[static_cast<std::size_t>(never - total_.checks.begin())]);
    return false;
  }
  bool HasCanary() const {
    return flags_.options.canary != SimCanary::kNone || flags_.planted != Canary::kNone;
  }
  void Work() {
    while (!enough_) {
      BrokerSimOptions options = flags_.options;
      options.seed = next_.fetch_add(1);
      if (options.seed >= flags_.first + flags_.seeds) return;
      running_seed = options.seed;
      if (mine == nullptr) mine = &running[threads_.fetch_add(1) % running.size()];
      mine->seed = options.seed;
      mine->since = Seconds();
      const BrokerSimResult result = RunBrokerSim(options);
      mine->since = 0;
      const MutexLock lock(mutex_);
      Add(result);
      if (result.failure.empty()) continue;
      if (++failures_ <= kFailuresShown) {
        options.steps = result.steps;
        fmt::print("seed {}: {}\n  again: {}\n", options.seed, result.failure,
                   Command(options.trace ? options : Shrink(options), flags_.planted));
        std::fflush(stdout);
      }
      enough_ = failures_ >= kFailuresShown || HasCanary();
    }
  }
  void Add(const BrokerSimResult& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ++ran_;
    total_.published += result.published;
    total_.delivered += result.delivered;
    total_.crashes += result.crashes;
    total_.letters += result.letters;
    total_.redriven += result.redriven;
    total_.emitted += result.emitted;
    total_.refused += result.refused;
    total_.power_cuts += result.power_cuts;
    total_.flipped_bits += result.flipped_bits;
    total_.broken_openings += result.broken_openings;
    for (std::size_t i = 0; i < total_.checks.size(); ++i) total_.checks[i] += result.checks[i];
  }

  const Flags flags_;
  std::atomic<std::uint64_t> next_;
  std::atomic<bool> enough_{false};
  std::atomic<std::size_t> threads_{0};
  Mutex mutex_;
  std::uint64_t ran_ ABSL_GUARDED_BY(mutex_) = 0;
  std::uint64_t failures_ ABSL_GUARDED_BY(mutex_) = 0;
  BrokerSimResult total_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace
}  // namespace tocsin

int main(int argc, char** argv) {
  tocsin::Flags flags;
  if (!tocsin::ReadFlags(argc, argv, flags)) {
    fmt::print(stderr, "{}", tocsin::kUsage);
    return 2;
  }
  tocsin::has_canary =
      flags.options.canary != tocsin::SimCanary::kNone || flags.planted != tocsin::Canary::kNone;
  std::string rest;
  for (int i = 1; i < argc; ++i) {
    const std::string_view flag = argv[i];
    if (flag == "--seeds" || flag == "--first-seed" || flag == "--threads") {
      ++i;
    } else if (flag != "--trace") {
      rest += fmt::format(" {}", flag);
    }
  }
  rest.copy(tocsin::flags_text.data(), tocsin::flags_text.size() - 1);
  for (const int signal : {SIGABRT, SIGSEGV}) std::signal(signal, tocsin::TellSeed);
  std::signal(SIGALRM, tocsin::Watch);
  alarm(10);
  return tocsin::Campaign(flags).Run();
}
