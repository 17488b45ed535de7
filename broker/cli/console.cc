#include "broker/cli/console.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "broker/cli/command.h"

namespace tocsin::cli {
namespace {

constexpr std::size_t kBufferBytes = 64 * 1024;
constexpr std::int64_t kRedrawMs = 100;

volatile std::sig_atomic_t interrupted = 0;

void OnInterrupt(int) { interrupted = 1; }

std::size_t WidthOf(int fd) {
  winsize size{};
  if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

bool ColorsWanted() {
  const char* no_color = std::getenv("NO_COLOR");
  if (no_color != nullptr && *no_color != '\0') return false;
  const char* term = std::getenv("TERM");
  return term == nullptr || std::strcmp(term, "dumb") != 0;
}

// 0, or errno.
int WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n >= 0) {
      text.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno == EAGAIN) {
      // Somebody made the shared terminal or pipe non-blocking.
      pollfd wait{fd, POLLOUT, 0};
      poll(&wait, 1, -1);
    } else if (errno != EINTR) {
      return errno;
    }
  }
  return 0;
}

}  // namespace

Console::Console()
    : out_is_terminal_(isatty(STDOUT_FILENO) == 1),
      err_is_terminal_(isatty(STDERR_FILENO) == 1),
      in_is_terminal_(isatty(STDIN_FILENO) == 1) {
  out_colored_ = out_is_terminal_ && ColorsWanted();
  err_colored_ = err_is_terminal_ && ColorsWanted();
  if (out_is_terminal_) out_width_ = WidthOf(STDOUT_FILENO);
  if (err_is_terminal_) err_width_ = WidthOf(STDERR_FILENO);
  std::signal(SIGPIPE, SIG_IGN);
}

Console::~Console() {
  ClearProgress();
  Flush();
}

bool Console::Out(std::string_view text) {
  if (progress_shown_ && out_is_terminal_) ClearProgress();
  buffer_ += text;
  return buffer_.size() < kBufferBytes ? !reader_gone_ && write_errno_ == 0 : Flush();
}

bool Console::Flush() {
  if (!reader_gone_ && write_errno_ == 0) {
    const int error = WriteAll(STDOUT_FILENO, buffer_);
    if (error == EPIPE) {
      reader_gone_ = true;
    } else {
      write_errno_ = error;
    }
  }
  buffer_.clear();
  return !reader_gone_ && write_errno_ == 0;
}

void Console::Note(std::string_view text) {
  ClearProgress();
  if (out_is_terminal_) Flush();
  WriteAll(STDERR_FILENO, fmt::format("{}\n", text));
}

void Console::Warn(std::string_view text) {
  Note(Paint(err_colored_, Tint::kYellow, "warning:") + fmt::format(" {}", text));
}

int Console::Fail(std::string_view text) {
  Note(Paint(err_colored_, Tint::kRed, "tocsin:") + fmt::format(" {}", text));
  return kExitFailed;
}

int Console::Fail(const absl::Status& status) { return Fail(MessageOf(status)); }

int Console::FailUsage(std::string_view command, std::string_view text) {
  Note(fmt::format("tocsin {0}: {1}\nSee 'tocsin {0} --help'.", command, text));
  return kExitUsage;
}

void Console::ShowProgress(const Progress& progress) {
  if (!err_is_terminal_) return;
  const std::int64_t now = NowMs();
  if (progress_shown_ && now - progress_drawn_ms_ < kRedrawMs) return;
  progress_drawn_ms_ = now;
  progress_shown_ = true;
  // One column stays free: a terminal may wrap a line that is exactly full.
  const std::string line = ProgressLine(progress, err_colored_, err_width_ - 1);
  WriteAll(STDERR_FILENO, "\r" + line + "\x1b[K");
}

void Console::ClearProgress() {
  if (!progress_shown_) return;
  progress_shown_ = false;
  WriteAll(STDERR_FILENO, "\r\x1b[K");
}

bool Console::Confirm(std::string_view question) {
  Flush();
  ClearProgress();
  WriteAll(STDERR_FILENO, fmt::format("{} [y/N] ", question));
  std::string answer;
  char byte = 0;
  while (read(STDIN_FILENO, &byte, 1) == 1 && byte != '\n') answer += byte;
  return answer == "y" || answer == "Y" || answer == "yes";
}

int Console::Finish(int status) {
  ClearProgress();
  Flush();
  if (write_errno_ == 0) return status;
  return Fail(fmt::format("could not write to standard output: {}", std::strerror(write_errno_)));
}

void CatchInterrupts() {
  struct sigaction action {};
  action.sa_handler = OnInterrupt;
  // A second one finds the default, which ends the process.
  action.sa_flags = SA_RESETHAND;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool Interrupted() { return interrupted != 0; }

std::int64_t NowMs() {
  const Duration since = SystemClock().Monotonic().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
}

void WaitMs(std::int64_t milliseconds) {
  const std::int64_t until = NowMs() + milliseconds;
  for (std::int64_t left = milliseconds; left > 0 && !Interrupted(); left = until - NowMs()) {
    poll(nullptr, 0, static_cast<int>(left));
  }
}

}  // namespace tocsin::cli
