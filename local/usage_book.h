// UsageBook: what local functions have used since the supervisor started, written to a file for the
// broker after every change: one JSON object a line.
//
//   {"function":…,"kind":"exec","workers":0,"runs":3,"failed":1,"busy_seconds":…,"cpu_seconds":…,
//    "peak_memory_bytes":…}
//
// The file is replaced whole. If it cannot be written, the broker shows what it has.
// Threading: thread-safe.

#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "broker/base/mutex.h"

namespace tocsin {

class UsageBook {
 public:
  explicit UsageBook(std::string path) : path_(std::move(path)) {}

  // A command of `exec` ended, or a worker of `run`.
  void Ran(const std::string& function, std::string_view kind, bool failed, double busy_seconds,
           double cpu_seconds, std::uint64_t peak_memory_bytes);
  // How many workers of a function with `run` there are.
  void SetWorkers(const std::string& function, std::uint32_t workers);

 private:
  struct Usage {
    std::string kind;
    std::uint32_t workers = 0;
    std::uint64_t runs = 0;
    std::uint64_t failed = 0;
    double busy_seconds = 0;
    double cpu_seconds = 0;
    std::uint64_t peak_memory_bytes = 0;
  };

  void Write() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;
  Mutex mutex_;
  std::map<std::string, Usage> usages_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tocsin
