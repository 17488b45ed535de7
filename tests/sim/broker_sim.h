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
// functions fail, reject, drop, emit; events expire; publishers' streams are refused and go on;
// triggers are reloaded, detached and put back, added with `from: start`, renamed, paused; a
// trigger has a rate, which changes, one has batches, one is applied, changed and removed by the
// API, its plan compiled anew; stored events are replayed, by rate, stopped; keys are hot, poisoned
// or parked; log and dead log are short and trimmed. Classes of events are switched off at random
// per run (swarm testing).
//
// Checked whenever something is delivered or answered: SimCheck. Not while it cannot hold: leases
// end unseen while a machine stands still, and a detached trigger's work is given up; after a
// flipped bit of the log, what its batch said is unknown. After quiesce: nothing is pending, no
// letter is open; every answered event ran for every trigger that was there all the time, unless
// its answer was to drop it; the log, which was not trimmed, holds each answered event, each
// emitted one whose delivery is settled, each run of a replay once and none missing, what the API's
// trigger matched while it was in force and nothing else, each item of a source's lane and each
// instant of a schedule once, lanes and instants in order; what was published for later, and
// schedules that were added for one instant, once and not before their time; the books say what the
// log and the workers say.

#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace tocsin {

// A defect on purpose outside the broker, which a run must find: answers before they are durable; a
// disk that says synced and has not (of files, of directories); a worker that gets a byte of the
// data wrong. Those inside: broker/base/canary.h.
enum class SimCanary { kNone, kAnswerEarly, kLyingSync, kLyingDirSync, kWrongByte };

// The classes of what happens that a run draws from, by name.
inline constexpr std::array<std::string_view, 24> kSimClasses = {
    "crashes", "deaths", "fails",  "poison",    "emits",     "dups",    "reloads",   "full",
    "letters", "pauses", "breaks", "clock_set", "schedules", "trims",   "half_open", "suspends",
    "damage",  "routes", "delays", "expiry",    "streams",   "renames", "rates",     "batches"};

// What is checked, by name: a campaign counts how often each was, so that none is switched off
// unseen.
enum class SimCheck : std::uint8_t {
  kContent,       // an event's bytes are those that were published, fed or emitted
  kDurableFirst,  // it is durable before it is delivered
  kNotAgain,      // a settlement that was confirmed is final
  kAttempts,      // attempts rise, up to the policy's
  kExclusive,     // one lease per trigger and key
  kKeyOrder,      // first leases of a key in the journal's order, in every life
  kKeyHeld,       // nothing passes what is not settled
  kParked,        // nothing passes what parks its key
  kConcurrency,   // a trigger's limit
  kExecutions,    // at most the attempts of the lives that it saw
  kMatching,      // an event goes to the triggers that were there and whose filter holds, only
  kBooks,         // what is matched and acked, against the log and the workers
  kAnsweredRan,   // what was answered ran
  kInLogOnce,     // and is in the log once
  kEmittedOnce,
  kLaneOrder,
  kInstants,     // each fired or recorded as skipped
  kReplayRuns,   // each event of a replay's span has its run, once
  kApiMatching,  // what the trigger of the API matched while it was in force, and nothing else
  kCredit,       // what a worker is not busy with is free for it
  kExpiry,       // nothing is delivered after its expirytime
  kStreamOrder,  // what a publisher sends in a stream is in a log in its order, over refusals
  kRate,         // in no span of time begin more than a trigger's rate and what it keeps
};
inline constexpr std::array<std::string_view, 23> kSimCheckNames = {
    "content",      "durable_first", "not_again",    "attempts",     "exclusive", "key_order",
    "key_held",     "parked",        "concurrency",  "executions",   "matching",  "books",
    "answered_ran", "in_log_once",   "emitted_once", "lane_order",   "instants",  "replay_runs",
    "api_matching", "credit",        "expiry",       "stream_order", "rate"};

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
  std::uint64_t refused = 0;  // of publishers' streams
  std::uint64_t power_cuts = 0;
  std::uint64_t flipped_bits = 0;
  std::uint64_t broken_openings = 0;  // the power went off while the journal opened
  std::uint32_t steps = 0;
  std::array<std::uint64_t, kSimCheckNames.size()> checks{};
};

BrokerSimResult RunBrokerSim(const BrokerSimOptions& options);

}  // namespace tocsin
