// TOCSIN_CHECK: an invariant of our own code. On in every build; a failure prints the place, the
// expression and a message, and aborts the process. Operating errors are absl::Status, not checks.

#pragma once

#include <fmt/format.h>

#include <string>

namespace tocsin::internal {

[[noreturn]] void CheckFailed(const char* file, int line, const char* expression,
                              const std::string& message);

}  // namespace tocsin::internal

// TOCSIN_CHECK(cond) or TOCSIN_CHECK(cond, "format {}", value).
#define TOCSIN_CHECK(condition, ...)                                  \
  do {                                                                \
    if (!(condition)) [[unlikely]] {                                  \
      ::tocsin::internal::CheckFailed(__FILE__, __LINE__, #condition, \
                                      ::fmt::format("" __VA_ARGS__)); \
    }                                                                 \
  } while (false)
