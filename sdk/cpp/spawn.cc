#include "sdk/cpp/spawn.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>

#include "absl/strings/str_split.h"

namespace tocsin::sdk {
namespace {

struct Identity {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  std::string home;
  std::string name;
};

std::optional<Identity> Lookup(const std::string& user) {
  passwd entry{};
  passwd* found = nullptr;
  std::vector<char> buffer(16 * 1024);
  if (getpwnam_r(user.c_str(), &entry, buffer.data(), buffer.size(), &found) != 0 ||
      found == nullptr) {
    return std::nullopt;
  }
  Identity identity{found->pw_uid, found->pw_gid, {}, found->pw_dir, found->pw_name};
  int count = 64;
  identity.groups.resize(static_cast<std::size_t>(count));
  if (getgrouplist(found->pw_name, found->pw_gid, identity.groups.data(), &count) < 0) {
    identity.groups.resize(static_cast<std::size_t>(count));
    getgrouplist(found->pw_name, found->pw_gid, identity.groups.data(), &count);
  }
  identity.groups.resize(static_cast<std::size_t>(count));
  return identity;
}

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// One value per name: programs look for the first.
std::vector<std::string> LastOfEach(const std::vector<std::string>& variables) {
  std::vector<std::string> result;
  for (auto one = variables.rbegin(); one != variables.rend(); ++one) {
    const std::string_view name = std::string_view(*one).substr(0, one->find('=') + 1);
    const bool known = std::any_of(result.begin(), result.end(), [name](const std::string& other) {
      return other.starts_with(name);
    });
    if (!known) result.push_back(*one);
  }
  std::reverse(result.begin(), result.end());
  return result;
}

void AddIfMissing(std::vector<std::string>& variables, std::string_view name,
                  const std::string& value) {
  const std::string prefix = fmt::format("{}=", name);
  for (const std::string& one : variables) {
    if (one.starts_with(prefix)) return;
  }
  variables.push_back(prefix + value);
}

enum class Step : int { kUser = 1, kDirectory, kRun };

struct Failure {
  Step step = Step::kRun;
  int error = 0;
};

// In the child, where nothing but system calls may be made.
[[noreturn]] void Become(const SpawnOptions& options, const Identity* identity, const char* program,
                         const char* directory, char* const* arguments, char* const* variables,
                         pid_t parent, int report) {
  const auto fail = [report](Step step) {
    const Failure failure{step, errno};
    static_cast<void>(!write(report, &failure, sizeof failure));
    _exit(127);
  };
  setpgid(0, 0);
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) sigaction(signal, &standard, nullptr);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const std::array<std::pair<int, int>, 3> streams = {std::pair(options.stdin_fd, 0),
                                                      std::pair(options.stdout_fd, 1),
                                                      std::pair(options.stderr_fd, 2)};
  for (const auto& [from, to] : streams) {
    if (from >= 0 && dup2(from, to) < 0) fail(Step::kRun);
  }
  // The C library's functions of these names tell all threads, and would wait for the parent's.
  if (identity != nullptr) {
    if (geteuid() == 0 &&
        syscall(SYS_setgroups, identity->groups.size(), identity->groups.data()) != 0) {
      fail(Step::kUser);
    }
    if (syscall(SYS_setgid, identity->gid) != 0 || syscall(SYS_setuid, identity->uid) != 0) {
      fail(Step::kUser);
    }
  }
  // After the change of users, which forgets it.
  if (options.end_with_us != 0) {
    prctl(PR_SET_PDEATHSIG, options.end_with_us);
    if (getppid() != parent) _exit(127);
  }
  if (directory != nullptr && chdir(directory) != 0) fail(Step::kDirectory);
  execve(program, arguments, variables);
  fail(Step::kRun);
  _exit(127);
}

std::string Explain(const Failure& failure, const SpawnOptions& options,
                    const std::string& directory) {
  switch (failure.step) {
    case Step::kUser:
      return fmt::format("cannot become user {}: {}", options.user, std::strerror(failure.error));
    case Step::kDirectory:
      return fmt::format("cannot enter {}: {}", directory, std::strerror(failure.error));
    case Step::kRun:
      break;
  }
  return fmt::format("cannot start {}: {}", options.command.front(), std::strerror(failure.error));
}

}  // namespace

std::string FindProgram(const std::string& program) {
  const auto executable = [](const std::string& path) {
    struct stat facts {};
    return stat(path.c_str(), &facts) == 0 && S_ISREG(facts.st_mode) &&
           access(path.c_str(), X_OK) == 0;
  };
  if (program.find('/') != std::string::npos) return executable(program) ? program : "";
  const char* path = std::getenv("PATH");
  const std::vector<std::string> dirs =
      absl::StrSplit(path == nullptr ? "/usr/bin:/bin" : path, ':');
  for (const std::string& dir : dirs) {
    const std::string candidate = fmt::format("{}/{}", dir.empty() ? "." : dir, program);
    if (executable(candidate)) return candidate;
  }
  return "";
}

pid_t Spawn(const SpawnOptions& options, std::string* error) {
  std::optional<Identity> identity;
  std::vector<std::string> variables = LastOfEach(options.environment);
  std::string directory = options.directory;
  if (!options.user.empty()) {
    identity = Lookup(options.user);
    if (!identity) {
      *error = fmt::format("cannot become user {}: there is none of that name", options.user);
      return -1;
    }
    AddIfMissing(variables, "HOME", identity->home);
    AddIfMissing(variables, "USER", identity->name);
    AddIfMissing(variables, "LOGNAME", identity->name);
    if (directory.empty()) directory = identity->home;
  }
  const std::string program = FindProgram(options.command.front());
  if (program.empty()) {
    *error = fmt::format("cannot start {}: there is no such program, or it is not executable",
                         options.command.front());
    return -1;
  }
  std::vector<std::string> arguments = options.command;
  const std::vector<char*> argument_pointers = Pointers(arguments);
  const std::vector<char*> variable_pointers = Pointers(variables);
  std::array<int, 2> report{};
  if (pipe2(report.data(), O_CLOEXEC) != 0) {
    *error = fmt::format("cannot start {}: {}", options.command.front(), std::strerror(errno));
    return -1;
  }
  const pid_t parent = getpid();
  const pid_t pid = _Fork();  // without the handlers of fork(), which may take locks
  if (pid == 0) {
    Become(options, identity ? &*identity : nullptr, program.c_str(),
           directory.empty() ? nullptr : directory.c_str(), argument_pointers.data(),
           variable_pointers.data(), parent, report[1]);
  }
  const int fork_error = errno;
  close(report[1]);
  Failure failure;
  ssize_t bytes = 0;
  do {
    bytes = pid < 0 ? 0 : read(report[0], &failure, sizeof failure);
  } while (bytes < 0 && errno == EINTR);
  close(report[0]);
  if (pid < 0) {
    *error = fmt::format("cannot start {}: {}", options.command.front(), std::strerror(fork_error));
    return -1;
  }
  if (bytes == sizeof failure) {
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    *error = Explain(failure, options, directory);
    return -1;
  }
  return pid;
}

}  // namespace tocsin::sdk
