// Child processes of a benchmark: started by exec, asked for their CPU time, ended with it.
//
// Threading: one thread.

#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tocsin::bench {

class ChildProcess {
 public:
  // Runs `arguments` (the program first); its standard output and error go to `log_path`.
  static absl::StatusOr<ChildProcess> Start(const std::vector<std::string>& arguments,
                                            const std::string& log_path);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();  // Stop()

  bool Running();
  // User and system time of all its threads so far; kernel ticks, so to 10 ms.
  double CpuSeconds() const;
  // SIGTERM, then waits; SIGKILL if it is not gone within 10 s.
  void Stop();

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_ = -1;
};

// User and system time of this process so far.
double OwnCpuSeconds();

// The whole content; nullopt if there is no such file.
std::optional<std::string> ReadWholeFile(const std::string& path);

// Waits until a file is there and not empty, while `child` runs; nullopt otherwise.
std::optional<std::string> WaitForFile(const std::string& path, ChildProcess& child);

// For `milliseconds`, unless a signal comes.
void Rest(int milliseconds);

}  // namespace tocsin::bench
