#include "local/usage_book.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string_view>

#include "broker/base/json_scan.h"

namespace tocsin {

void UsageBook::Ran(const std::string& function, std::string_view kind, bool failed,
                    double busy_seconds, double cpu_seconds, std::uint64_t peak_memory_bytes) {
  MutexLock lock(mutex_);
  Usage& usage = usages_[function];
  usage.kind = kind;
  ++usage.runs;
  if (failed) ++usage.failed;
  usage.busy_seconds += busy_seconds;
  usage.cpu_seconds += cpu_seconds;
  usage.peak_memory_bytes = std::max(usage.peak_memory_bytes, peak_memory_bytes);
  Write();
}

void UsageBook::SetWorkers(const std::string& function, std::uint32_t workers) {
  MutexLock lock(mutex_);
  Usage& usage = usages_[function];
  usage.kind = "run";
  usage.workers = workers;
  Write();
}

void UsageBook::Write() {
  std::string text;
  for (const auto& [function, usage] : usages_) {
    text += "{\"function\":";
    AppendJsonString(text, function);
    text += fmt::format(
        ",\"kind\":\"{}\",\"workers\":{},\"runs\":{},\"failed\":{},\"busy_seconds\":{:.6f},"
        "\"cpu_seconds\":{:.6f},\"peak_memory_bytes\":{}}}\n",
        usage.kind, usage.workers, usage.runs, usage.failed, usage.busy_seconds, usage.cpu_seconds,
        usage.peak_memory_bytes);
  }
  const std::string next = path_ + ".new";
  const int file = open(next.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) return;
  const bool whole = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  close(file);
  if (whole) std::rename(next.c_str(), path_.c_str());
}

}  // namespace tocsin
