// Functions that the broker's own supervisor serves on this machine: a command per event (`exec`),
// or long-lived workers that are started when there is something to do (`run`).

#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "broker/base/clock.h"

namespace tocsin {

// What a command finds on its standard input. Its environment has CE_* and TOCSIN_* in any case.
enum class ExecInput : std::uint8_t {
  kEvent,  // the event as CloudEvents JSON
  kData,   // the event's data alone
  kNone,   // nothing
  kText,   // a fixed text
};

// How a process is started.
struct LocalCommand {
  std::vector<std::string> command;                // looked up in PATH; at least one element
  std::map<std::string, std::string> environment;  // beside the broker's own
  std::string directory;  // empty: the user's home if there is a `user`, else the broker's
  std::string user;       // empty: the broker's

  friend bool operator==(const LocalCommand&, const LocalCommand&) = default;
};

struct ExecSpec {
  LocalCommand process;
  ExecInput input = ExecInput::kEvent;
  std::string stdin_text;                      // of kText
  std::optional<Duration> timeout;             // of one run; unset: the trigger's `timeout` alone
  std::uint32_t concurrency = 8;               // commands at a time
  std::uint64_t output_bytes_max = 64 * 1024;  // kept of one run

  friend bool operator==(const ExecSpec&, const ExecSpec&) = default;
};

struct RunSpec {
  LocalCommand process;
  std::uint32_t min = 0;  // always running
  std::uint32_t max = 1;
  std::uint32_t warm = 0;                   // ready beyond what is busy, while it is in use
  Duration idle = std::chrono::minutes(5);  // without anything to do until one is stopped

  friend bool operator==(const RunSpec&, const RunSpec&) = default;
};

}  // namespace tocsin
