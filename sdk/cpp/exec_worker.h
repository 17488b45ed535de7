// RunExecWorker: a worker whose handler is a command, run once per event.
//
// The command gets the event as CloudEvents JSON on standard input, its attributes as CE_<NAME>
// (upper case) and TOCSIN_DELIVERY_ID, TOCSIN_ATTEMPT, TOCSIN_TRIGGER, TOCSIN_FUNCTION in the
// environment. Exit status 0 acks, 65 rejects (to the dead letters), anything else retries by the
// trigger's policy; the last lines of its standard error become the message. Its standard output is
// ours, unless `output` takes it.
//
// Each command leads a process group of its own. The group gets SIGTERM and after `kill_grace`
// SIGKILL when the broker cancels the delivery, its lease ends (unless `extend`) or `timeout` is
// over; what is left of it when its leader ends so is killed, too. SIGTERM to us
// drains: running commands finish, no new ones start; a second SIGTERM kills them.

#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sdk/cpp/worker.h"

namespace tocsin::sdk {

inline constexpr int kExecRejectStatus = 65;  // EX_DATAERR of sysexits.h

enum class ExecStdin : std::uint8_t { kEvent, kData, kNone, kText };

// Takes what one run writes. Called from the run's thread.
class ExecOutput {
 public:
  virtual ~ExecOutput() = default;
  virtual void Write(std::string_view bytes) = 0;
  // What the command and all it waited for have used; before End(), not if it did not start.
  virtual void Used(double /*cpu_seconds*/, std::uint64_t /*peak_memory_bytes*/) {}
  // How it ended: "exit 0", "signal 9", "timeout", "not started"; once, at last.
  virtual void End(std::string_view how, const Result& result) = 0;
};

struct ExecWorkerOptions {
  WorkerOptions worker;  // where and how to attach
  std::string name;      // of the worker; empty: the function's
  std::string function;
  std::vector<std::string> command;  // looked up in PATH; at least one element
  std::uint32_t concurrency = 1;
  bool extend = false;  // renew the lease while the command runs, instead of killing it
  // Ends a run after so long; until then its lease is renewed, up to the trigger's `timeout_max`.
  std::optional<std::chrono::milliseconds> timeout;
  ExecStdin input = ExecStdin::kEvent;
  std::string stdin_text;                // of kText
  std::vector<std::string> environment;  // NAME=VALUE beside ours
  std::string directory;                 // as SpawnOptions
  std::string user;
  std::function<std::unique_ptr<ExecOutput>(const Event&, const Context&)> output;
  std::chrono::milliseconds kill_grace{2000};
  std::size_t message_bytes_max = 2048;  // of standard error kept for the answer
};

// Blocks until drained. Returns 0 after a drain, 1 after an abort, 2 if the options are not usable
// (the reason was logged). Sets SIGPIPE ignored and SIGCHLD to its default in
// this process.
int RunExecWorker(const ExecWorkerOptions& options);

// The handler alone, for a worker that serves other functions too.
Handler ExecHandler(const ExecWorkerOptions& options);

}  // namespace tocsin::sdk
