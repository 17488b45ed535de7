// BrokerSim: whole brokers (real partitions, shards, routing, queues, dispatcher) on the journal in
// memory or on the journal on files of a simulated disk, with simulated workers and publishers, in
// one thread from one seed.
//
// Fault model: the broker crashes at any step (appends that are not durable are lost, also in the
// middle of recovery); appends are held back or refused for want of space; of the disk, the power
// goes off at any operation, writes and syncs fail, space ends half way, bits flip in closed parts
// of the log and in checkpoints; the wall clock is set, the machine is suspended or stands still;
// workers die with or without having started, answer late, twice, for unknown handles, never, or
// when they were given up long ago;
// functions fail, reject, drop, emit; triggers are reloaded, detached and put back, added with
// `from: start`, paused; a trigger is applied, changed and removed by the API, its plan compiled
// anew; stored events are replayed, by rate, stopped; keys are hot, poisoned or parked; log and
// dead log are short and trimmed. Classes of events are switched off at random per run (swarm
// testing).
//
// Checked at every step: one lease per (trigger, key); per key the first leases follow the
// journal's order within an epoch, none before the one before is settled or used up, none while
// the key is parked; nothing leased before it was durable, nothing again whose settlement was
// confirmed; an offset has one event for ever; executions at most attempts and crashes; books
// balance. After quiesce: every answered event ended once per trigger, nothing pending, no letter
// open, attempts within the policy; the log holds each answered event, each emitted one whose
// delivery is settled, each run of a replay once and none missing, what the API's trigger matched
// while it was in force and nothing else, each item of a source's lane and each instant of a
// schedule once, lanes and instants in order. After a flipped bit of the log: all but what its
// batch said.

#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace tocsin {

// A defect on purpose outside the broker, which a run must find: answers before they are durable; a
// disk that says synced and has not (of files, of directories). Those inside: broker/base/canary.h.
enum class SimCanary { kNone, kAnswerEarly, kLyingSync, kLyingDirSync };

// The classes of what happens that a run draws from, by name.
inline constexpr std::array<std::string_view, 18> kSimClasses = {
    "crashes",   "deaths", "fails",     "poison",   "emits",  "dups",
    "reloads",   "full",   "letters",   "pauses",   "breaks", "clock_set",
    "schedules", "trims",  "half_open", "suspends", "damage", "routes"};

struct BrokerSimOptions {
  std::uint64_t seed = 1;
  std::uint32_t steps = 0;  // 0: drawn, mostly a few dozen
  SimCanary canary = SimCanary::kNone;
  bool disk = false;          // the journal on files of a simulated disk, not the one in memory
  std::uint32_t without = 0;  // classes that are switched off, bits by their place in kSimClasses
  bool trace = false;
};

struct BrokerSimResult {
  std::string failure;  // empty: clean
  std::uint64_t published = 0;
  std::uint64_t delivered = 0;
  std::uint64_t crashes = 0;
  std::uint64_t letters = 0;
  std::uint64_t redriven = 0;
  std::uint64_t emitted = 0;
  std::uint64_t power_cuts = 0;
  std::uint64_t flipped_bits = 0;
  std::uint32_t steps = 0;
};

BrokerSimResult RunBrokerSim(const BrokerSimOptions& options);

}  // namespace tocsin
