// LocalWorkers: the supervisor process that serves the configuration's local functions (`exec`,
// `run`), kept running while there are any, and told how much waits for those with `run`.
//
//   [none] --functions--> [running] --it ended--> [waiting: 1 s, doubling to 30 s] --> [running]
//      ^                      | no functions, or Stop()
//      +----------------------+  its input is closed: it ends what it runs, and itself
//
// The broker itself runs no code of users: it starts its own program again (`tocsin supervise`),
// which attaches over a Unix socket like any worker.
//
// Threading: Apply() and Stop() one at a time from any thread, Nudge() from any; what watches runs
// on the executor, which, with the clock and the log, outlives it. After Stop() nothing runs any
// more.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/config/config.h"
#include "broker/server/log.h"

namespace tocsin {

struct LocalWorkersOptions {
  std::vector<std::string> command;  // of the supervisor; empty: none can be started
  std::string target;                // where it attaches, as gRPC names it
  std::string token;                 // its identity, if the broker asks for one
  std::string runs_dir;
};

// How much there is to do for one function.
struct LocalLoad {
  std::uint64_t queued = 0;     // deliveries that are ready
  std::uint64_t in_flight = 0;  // and with workers

  friend bool operator==(const LocalLoad&, const LocalLoad&) = default;
};
using LocalLoads = std::map<std::string, LocalLoad>;  // by function

class LocalWorkers {
 public:
  struct Ports {
    Executor& executor;
    const Clock& clock;
    Log& log;
    // Gives the loads, on the executor, at some time.
    std::function<void(std::function<void(LocalLoads)>)> loads;
  };

  LocalWorkers(LocalWorkersOptions options, Ports ports);
  ~LocalWorkers();  // Stop(0) if that was not called

  // From now on these are served; those without `exec` and `run` are not looked at.
  void Apply(const std::vector<FunctionConfig>& functions);

  // There is work for a function that nobody serves: the supervisor is told of the loads at once.
  // From any thread, also after Stop().
  void Nudge();

  // Closes the supervisor's input, waits until it has ended, kills it after `within`.
  void Stop(Duration within);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace tocsin
