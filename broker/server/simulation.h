// Simulation: what a configuration's schedules would fire, and which triggers would take it. A
// whole broker of its partitions, route table and dispatcher runs in the calling thread on a
// journal in memory, from instant to instant of a virtual clock; a worker acks everything at once.
//
// Only schedules are looked at: other sources give nothing.

#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "broker/base/clock.h"
#include "broker/config/config.h"

namespace tocsin {

struct SimulatedFire {
  std::string source;
  std::string id;  // of the event
  std::string type;
  WallTime nominal;  // the instant
  WallTime actual;   // with spread and jitter
  std::vector<std::string> triggers;
  // Those of `triggers` whose functions do not get it, with the reason: a dead letter takes it.
  std::vector<std::pair<std::string, std::string>> refused;
};

struct SimulatedSkip {
  std::string source;
  std::uint64_t count = 0;
};

struct SimulationResult {
  std::uint64_t fires = 0;
  std::vector<SimulatedSkip> skips;  // sources with instants that did not fire
};

struct SimulationOptions {
  WallTime from;  // the first start: later instants fire
  Duration span{};
  bool boots = true;  // it is the first start after a boot, for @reboot
};

// Fires come in the order of time; `on_fire` false ends it.
//   kInvalidArgument  a schedule that cannot be parsed
absl::StatusOr<SimulationResult> Simulate(const Config& config, const SimulationOptions& options,
                                          const std::function<bool(const SimulatedFire&)>& on_fire);

}  // namespace tocsin
