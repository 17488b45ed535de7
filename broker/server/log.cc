#include "broker/server/log.h"

#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <deque>
#include <map>
#include <utility>

#include "broker/base/json_scan.h"
#include "broker/base/mutex.h"
#include "broker/base/time_text.h"

namespace tocsin {
namespace {

std::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarn:
      return "warn";
    case LogLevel::kError:
      return "error";
  }
  return "";
}

// A text of outside must not forge a line of its own.
std::string OneLine(const std::string& text) {
  std::string line;
  line.reserve(text.size());
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      line += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      line += c;
    }
  }
  return line;
}

}  // namespace

struct Log::Impl {
  Impl(const LogOptions& options_in, const Clock& clock_in)
      : options(options_in),
        clock(clock_in),
        logger("tocsin", std::make_shared<spdlog::sinks::stderr_sink_mt>()) {
    logger.set_pattern("%v");
    logger.set_level(spdlog::level::trace);
    logger.flush_on(spdlog::level::trace);
  }

  struct Repeats {
    Instant written{};
    std::uint64_t suppressed = 0;
  };

  const LogOptions options;
  const Clock& clock;
  spdlog::logger logger;
  Mutex mutex;
  std::map<std::string, Repeats> keys ABSL_GUARDED_BY(mutex);
  std::deque<std::string> order ABSL_GUARDED_BY(mutex);
};

Log::Log(const LogOptions& options, const Clock& clock)
    : impl_(std::make_unique<Impl>(options, clock)) {}

Log::~Log() = default;

void Log::Write(LogLevel level, std::string_view code, const std::string& text) {
  if (level < impl_->options.level) return;
  const std::string time = FormatRfc3339(impl_->clock.Wall());
  std::string line;
  if (impl_->options.json) {
    line = fmt::format("{{\"time\":\"{}\",\"level\":\"{}\",", time, LevelName(level));
    if (!code.empty()) line += fmt::format("\"code\":\"{}\",", code);
    line += "\"text\":";
    AppendJsonString(line, text);
    line += '}';
  } else {
    line = fmt::format("{} {:<5} {}{}{}", time, LevelName(level), code, code.empty() ? "" : ": ",
                       OneLine(text));
  }
  if (impl_->options.sink) {
    MutexLock lock(impl_->mutex);
    impl_->options.sink(line);
    return;
  }
  impl_->logger.log(spdlog::level::info, spdlog::string_view_t(line.data(), line.size()));
}

bool Log::Limited(const std::string& key, LogLevel level, std::string_view code,
                  const std::string& text) {
  std::uint64_t suppressed = 0;
  {
    const Instant now = impl_->clock.Monotonic();
    MutexLock lock(impl_->mutex);
    const auto [entry, is_new] = impl_->keys.try_emplace(key);
    Impl::Repeats& repeats = entry->second;
    if (!is_new && now - repeats.written < impl_->options.repeat_after) {
      ++repeats.suppressed;
      return false;
    }
    repeats.written = now;
    suppressed = std::exchange(repeats.suppressed, 0);
    if (is_new) {
      impl_->order.push_back(key);
      if (impl_->order.size() > impl_->options.keys_max) {
        impl_->keys.erase(impl_->order.front());
        impl_->order.pop_front();
      }
    }
  }
  Write(level, code,
        suppressed == 0 ? text : fmt::format("{} ({} more like it)", text, suppressed));
  return true;
}

}  // namespace tocsin
