// BrokerProcess: a real `tocsin serve` in a process of its own, which can be killed and measured.
//
// It listens on a free port that it keeps over restarts, so that clients find it again. One thread
// at a time.

#pragma once

#include <grpcpp/grpcpp.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "broker/base/clock.h"
#include "broker/base/system_clock.h"
#include "tocsin/v1/admin.grpc.pb.h"

namespace tocsin {

class BrokerProcess {
 public:
  // `broker`: further keys of the `broker` block, a line each, indented by two; `rest`: what
  // follows the block. `program` is the path of tocsin.
  BrokerProcess(std::string program, const std::string& broker, const std::string& rest);
  ~BrokerProcess();  // kills it and removes its directory
  BrokerProcess(const BrokerProcess&) = delete;
  BrokerProcess& operator=(const BrokerProcess&) = delete;

  // Until it serves. `took`, if not null, is from the start of the process on.
  absl::Status Start(Duration* took = nullptr);
  void Kill();  // SIGKILL
  // SIGTERM; gives the exit status, negative for a signal.
  int Stop();

  // Waits until it ends by itself, at most so long; true: it has.
  bool EndsWithin(Duration within) const;

  // Of the process that runs: VmHWM and VmRSS of /proc, in bytes. 0: it does not run.
  std::uint64_t PeakRssBytes() const { return StatusBytes("VmHWM:"); }
  std::uint64_t RssBytes() const { return StatusBytes("VmRSS:"); }
  // User and system time of the process so far.
  Duration CpuTime() const;

  const std::string& target() const { return target_; }
  const std::string& dir() const { return dir_; }
  // What it logged so far.
  std::string Log() const;

  // Of a trigger; nullopt if the broker does not answer or does not know it.
  std::optional<v1::TriggerStatus> Books(const std::string& trigger) const;

 private:
  std::uint64_t StatusBytes(const std::string& name) const;

  const std::string program_;
  SystemClock clock_;
  std::string dir_;
  std::string target_;  // empty until the first start
  pid_t pid_ = -1;
};

}  // namespace tocsin
