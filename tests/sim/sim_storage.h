// SimStorage: where a simulated broker keeps its log: the journal in memory (fast), or the journal
// on files of a simulated disk, whose power goes off, whose writes fail and whose space ends.
//
// One thread, deterministic from the seed. `Choose` means: by the storage's own random numbers.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "broker/base/random.h"
#include "broker/journal/journal.h"
#include "broker/virtual/virtual_clock.h"

namespace tocsin::broker_sim {

// What a flipped bit is in: a checkpoint, of which there is an older one, or these events' batch.
struct FlippedBit {
  bool checkpoint = false;
  std::vector<std::string> events;  // their bytes
};

class SimStorage {
 public:
  virtual ~SimStorage() = default;

  // A life of the broker begins. Not OK: the journal does not open. Which is right if faulty().
  virtual absl::Status Start() = 0;
  virtual Journal& journal() = 0;  // of this life

  // Of the journal's threads, up to so many tasks; which thread goes on is chosen. How many ran.
  virtual std::size_t Run(std::size_t tasks_max) = 0;

  // Bytes of a log that a run of some hundred steps fills several times.
  virtual std::uint64_t small_log() const = 0;

  // Nothing more becomes durable, until it goes on.
  virtual void Hold(bool held) = 0;
  // Room for little more, or for everything.
  virtual void SetFull(bool full) = 0;
  // Something will go wrong soon, chosen: the power, a write, a sync. Nothing if it cannot.
  virtual void BreakSoon() = 0;
  // The disk says that it has synced what it has not.
  virtual void LieAboutSyncs(bool files, bool directories) = 0;
  // Nothing goes wrong any more.
  virtual void Heal() = 0;
  // The journal may fail, or has failed: until the next Crash() that is not the broker's fault.
  virtual bool faulty() const = 0;
  // Reads that failed or will, so far: each may cost a delivery an attempt that no worker saw.
  virtual std::uint32_t failing_reads() const = 0;

  // What waits for the journal's threads is dropped; before the owners go.
  virtual void DropTasks() = 0;
  // The process ended or the power went off, chosen; the owners are gone. `again`: the power may go
  // off once more soon, while the journal opens.
  virtual void Crash(bool again) = 0;
  // After a crash: a bit flips in what is durable and closed, chosen. Nothing if there is nothing.
  virtual std::optional<FlippedBit> FlipBit(bool in_checkpoint) = 0;
  virtual std::uint64_t power_cuts() const = 0;  // so far
};

std::unique_ptr<SimStorage> NewMemoryStorage(VirtualClock& clock, std::uint64_t seed);
std::unique_ptr<SimStorage> NewDiskStorage(VirtualClock& clock, std::uint64_t seed,
                                           std::uint32_t partitions);

}  // namespace tocsin::broker_sim
