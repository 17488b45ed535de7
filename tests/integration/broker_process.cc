#include "tests/integration/broker_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "broker/base/check.h"

namespace tocsin {
namespace {

constexpr Duration kStartMax = std::chrono::seconds(60);

std::string ReadAll(const std::string& path) {
  std::string text;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  std::array<char, 4096> piece{};
  for (ssize_t got = 0; (got = read(fd, piece.data(), piece.size())) > 0;) {
    text.append(piece.data(), static_cast<std::size_t>(got));
  }
  close(fd);
  return text;
}

void WriteAll(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  TOCSIN_CHECK(file != nullptr, "{} cannot be written", path);
  TOCSIN_CHECK(std::fwrite(text.data(), 1, text.size(), file) == text.size());
  TOCSIN_CHECK(std::fclose(file) == 0);
}

// The text between `before` and the next '"' or ',' of it.
std::string After(const std::string& text, const std::string& before) {
  const std::size_t at = text.find(before);
  if (at == std::string::npos) return {};
  const std::size_t begin = at + before.size();
  return text.substr(begin, text.find_first_of("\",\n", begin) - begin);
}

// Waits until the process ends; false: it still runs after `within`.
bool WaitEnded(pid_t pid, Duration within) {
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  TOCSIN_CHECK(fd >= 0, "pidfd_open of {}", pid);
  pollfd one{.fd = fd, .events = POLLIN, .revents = 0};
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(within).count();
  const int ready = poll(&one, 1, static_cast<int>(ms));
  close(fd);
  return ready > 0;
}

}  // namespace

BrokerProcess::BrokerProcess(std::string program, const std::string& broker,
                             const std::string& rest)
    : program_(std::move(program)) {
  std::string pattern = (std::filesystem::temp_directory_path() / "tocsin-load-XXXXXX").string();
  TOCSIN_CHECK(mkdtemp(pattern.data()) != nullptr);
  dir_ = pattern;
  WriteAll(dir_ + "/tocsin.yaml",
           fmt::format("version: 1\nbroker:\n  data_dir: {}/data\n  http: 127.0.0.1:0\n{}{}", dir_,
                       broker, rest));
}

BrokerProcess::~BrokerProcess() {
  Kill();
  std::filesystem::remove_all(dir_);
}

absl::Status BrokerProcess::Start(Duration* took) {
  TOCSIN_CHECK(pid_ < 0, "it runs already");
  const Instant begun = clock_.Monotonic();
  const std::string config = dir_ + "/tocsin.yaml";
  const std::string listen = target_.empty() ? "127.0.0.1:0" : target_;
  std::array<const char*, 7> words = {program_.c_str(), "serve",        "-c",   config.c_str(),
                                      "--listen",       listen.c_str(), nullptr};
  const std::string log = dir_ + "/log";
  pid_ = fork();
  if (pid_ == 0) {
    // A test that is killed leaves no broker behind.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    dup2(fd, 1);
    dup2(fd, 2);
    execv(program_.c_str(), const_cast<char**>(words.data()));
    _exit(127);
  }
  TOCSIN_CHECK(pid_ > 0, "no process could be made");
  // The file of an earlier process stays until this one has recovered.
  const std::string own = fmt::format("\"pid\":{},", pid_);
  while (clock_.Monotonic() - begun < kStartMax) {
    const std::string endpoints = ReadAll(dir_ + "/data/endpoints.json");
    if (endpoints.find(own) != std::string::npos) {
      if (took != nullptr) *took = clock_.Monotonic() - begun;
      target_ = After(endpoints, "\"grpc\":\"");
      return absl::OkStatus();
    }
    if (WaitEnded(pid_, std::chrono::milliseconds(2))) break;
  }
  Kill();
  return absl::UnavailableError(fmt::format("the broker did not start:\n{}", Log()));
}

void BrokerProcess::Kill() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(std::exchange(pid_, -1), nullptr, 0);
}

int BrokerProcess::Stop() {
  if (pid_ < 0) return -1;
  kill(pid_, SIGTERM);
  int status = 0;
  waitpid(std::exchange(pid_, -1), &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

bool BrokerProcess::EndsWithin(Duration within) const {
  return pid_ < 0 || WaitEnded(pid_, within);
}

std::uint64_t BrokerProcess::StatusBytes(const std::string& name) const {
  if (pid_ < 0) return 0;
  const std::string text = ReadAll(fmt::format("/proc/{}/status", pid_));
  std::size_t at = text.find(name);
  if (at == std::string::npos) return 0;
  at = text.find_first_of("0123456789", at);
  std::uint64_t kib = 0;
  std::from_chars(text.data() + at, text.data() + text.size(), kib);
  return kib * 1024;
}

Duration BrokerProcess::CpuTime() const {
  if (pid_ < 0) return {};
  const std::string text = ReadAll(fmt::format("/proc/{}/stat", pid_));
  // Fields 14 and 15, counted from the state, which follows the name in parentheses.
  std::size_t at = text.rfind(')');
  for (int field = 2; field < 14 && at != std::string::npos; ++field) at = text.find(' ', at + 1);
  if (at == std::string::npos) return {};
  std::uint64_t ticks = 0;
  for (int i = 0; i < 2; ++i) {
    std::uint64_t value = 0;
    const auto read = std::from_chars(text.data() + at + 1, text.data() + text.size(), value);
    ticks += value;
    at = static_cast<std::size_t>(read.ptr - text.data());
  }
  return std::chrono::milliseconds(ticks * 1000 / static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK)));
}

std::string BrokerProcess::Log() const { return ReadAll(dir_ + "/log"); }

std::optional<v1::TriggerStatus> BrokerProcess::Books(const std::string& trigger) const {
  const auto stub =
      v1::Admin::NewStub(grpc::CreateChannel(target_, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(
      gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_seconds(15, GPR_TIMESPAN)));
  v1::ListTriggersResponse response;
  if (!stub->ListTriggers(&context, {}, &response).ok()) return std::nullopt;
  for (const v1::TriggerStatus& status : response.triggers()) {
    if (status.name() == trigger) return status;
  }
  return std::nullopt;
}

}  // namespace tocsin
