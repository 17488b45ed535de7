#include "local/run_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "broker/base/json_scan.h"
#include "broker/base/time_text.h"

namespace tocsin {
namespace {

constexpr mode_t kPrivate = 0600;
constexpr mode_t kPrivateDir = 0700;

std::string Quoted(std::string_view text) {
  std::string out;
  AppendJsonString(out, text);
  return out;
}

std::string_view AnswerName(sdk::Result::Kind kind) {
  switch (kind) {
    case sdk::Result::Kind::kAck:
      return "ack";
    case sdk::Result::Kind::kRetry:
      return "retry";
    case sdk::Result::Kind::kReject:
      return "reject";
    case sdk::Result::Kind::kDrop:
      return "drop";
  }
  return "";
}

// Empty: it was written.
std::string WriteFile(const std::string& path, std::string_view text) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kPrivate);
  if (file < 0) return std::strerror(errno);
  std::string error;
  while (!text.empty() && error.empty()) {
    const ssize_t written = write(file, text.data(), text.size());
    if (written > 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      error = std::strerror(errno);
    }
  }
  close(file);
  return error;
}

}  // namespace

void BoundedOutput::Write(std::string_view bytes) {
  written_ += bytes.size();
  const std::size_t to_head = std::min(half_ - head_.size(), bytes.size());
  head_.append(bytes.substr(0, to_head));
  tail_.append(bytes.substr(to_head));
  if (tail_.size() > 2 * half_) tail_.erase(0, tail_.size() - half_);
}

std::string BoundedOutput::Text() const {
  const std::string_view end =
      std::string_view(tail_).substr(tail_.size() - std::min(tail_.size(), half_));
  const std::uint64_t left_out = written_ - head_.size() - end.size();
  if (left_out == 0) return head_ + std::string(end);
  return fmt::format("{}\n[... {} bytes are not kept ...]\n{}", head_, left_out, end);
}

class RunOutput final : public sdk::ExecOutput {
 public:
  RunOutput(RunLog& log, std::string function, std::size_t bytes_max, const sdk::Event& event,
            const sdk::Context& context)
      : log_(log),
        function_(std::move(function)),
        output_(bytes_max),
        event_(event.id()),
        trigger_(context.trigger()),
        delivery_(context.delivery_id()),
        attempt_(context.attempt()),
        began_(log.clock_.Wall()) {
    const auto micros = began_.time_since_epoch().count();
    name_ =
        fmt::format("{:016}-{}-{}-{}.log", micros, context.partition(), context.offset(), attempt_);
  }

  void Write(std::string_view bytes) override { output_.Write(bytes); }

  void Used(double cpu_seconds, std::uint64_t peak_memory_bytes) override {
    cpu_seconds_ = cpu_seconds;
    peak_memory_bytes_ = peak_memory_bytes;
  }

  void End(std::string_view how, const sdk::Result& result) override {
    const std::chrono::duration<double> seconds = log_.clock_.Wall() - began_;
    const std::string text = output_.Text();
    const std::string head = fmt::format(
        "{{\"function\":{},\"trigger\":{},\"delivery\":{},\"attempt\":{},\"event\":{},"
        "\"started\":{},\"seconds\":{:.3f},\"ended\":{},\"answer\":{},\"message\":{},"
        "\"bytes\":{},\"cpu_seconds\":{:.3f},\"peak_memory_bytes\":{}}}\n",
        Quoted(function_), Quoted(trigger_), Quoted(delivery_), attempt_, Quoted(event_),
        Quoted(FormatRfc3339(began_)), std::max(0.0, seconds.count()), Quoted(how),
        Quoted(AnswerName(result.kind)), Quoted(result.message), output_.written(), cpu_seconds_,
        peak_memory_bytes_);
    log_.Keep(function_, name_, head + text);
    if (log_.options_.usage == nullptr) return;
    const bool failed =
        result.kind == sdk::Result::Kind::kRetry || result.kind == sdk::Result::Kind::kReject;
    log_.options_.usage->Ran(function_, "exec", failed, std::max(0.0, seconds.count()),
                             cpu_seconds_, peak_memory_bytes_);
  }

 private:
  RunLog& log_;
  const std::string function_;
  BoundedOutput output_;
  const std::string event_;
  const std::string trigger_;
  const std::string delivery_;
  const std::uint32_t attempt_;
  const WallTime began_;
  double cpu_seconds_ = 0;
  std::uint64_t peak_memory_bytes_ = 0;
  std::string name_;
};

RunLog::RunLog(RunLogOptions options, const Clock& clock)
    : options_(std::move(options)), clock_(clock) {}

std::unique_ptr<sdk::ExecOutput> RunLog::Begin(const std::string& function, std::size_t bytes_max,
                                               const sdk::Event& event,
                                               const sdk::Context& context) {
  return std::make_unique<RunOutput>(*this, function, bytes_max, event, context);
}

void RunLog::Keep(const std::string& function, const std::string& name, const std::string& text) {
  MutexLock lock(mutex_);
  const std::string dir = fmt::format("{}/{}", options_.dir, function);
  mkdir(options_.dir.c_str(), kPrivateDir);
  mkdir(dir.c_str(), kPrivateDir);
  const std::string error = WriteFile(fmt::format("{}/{}", dir, name), text);
  if (!error.empty()) {
    if (!std::exchange(told_, true) && options_.warn) {
      options_.warn(fmt::format("the output of runs cannot be kept in {}: {}", dir, error));
    }
    return;
  }
  told_ = false;
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(dir, ignored)) {
    names.push_back(entry.path().filename().string());
  }
  if (names.size() <= options_.runs_max) return;
  std::sort(names.begin(), names.end());
  for (std::size_t i = 0; i + options_.runs_max < names.size(); ++i) {
    std::filesystem::remove(fmt::format("{}/{}", dir, names[i]), ignored);
  }
}

}  // namespace tocsin
