// Log: what the broker tells its operator, on standard error, a line each.
//
// A line has a level, a code of docs/errors where there is one, and a text. Lines of one key are
// limited: the first is written, further ones within repeat_after are counted and the count is told
// with the next. Secrets never reach it: callers log names, never values of the configuration.
//
// Threading: thread-safe.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "broker/base/clock.h"

namespace tocsin {

enum class LogLevel : std::uint8_t { kDebug, kInfo, kWarn, kError };

struct LogOptions {
  LogLevel level = LogLevel::kInfo;
  bool json = false;
  Duration repeat_after = std::chrono::seconds(10);
  std::size_t keys_max = 1024;  // remembered for limiting; beyond it the oldest is forgotten
  // Takes each line in place of standard error, for tests. Called with a mutex held.
  std::function<void(std::string_view line)> sink;
};

class Log {
 public:
  Log(const LogOptions& options, const Clock& clock);
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  void Info(const std::string& text) { Write(LogLevel::kInfo, "", text); }
  void Warn(std::string_view code, const std::string& text) { Write(LogLevel::kWarn, code, text); }
  void Error(std::string_view code, const std::string& text) {
    Write(LogLevel::kError, code, text);
  }
  void Write(LogLevel level, std::string_view code, const std::string& text);

  // At most one line of `key` within repeat_after. Whether this was it.
  bool Limited(const std::string& key, LogLevel level, std::string_view code,
               const std::string& text);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tocsin
