// VirtualBroker: the partitions, route table and dispatcher of a configuration on a journal in
// memory, in the calling thread, under a virtual clock; one worker serves every function. For
// `tocsin simulate` and `tocsin test`. No source is started; schedules fire as the clock goes.
//
//   Publish(), Arrive() -> partitions -> WorkerLink::Deliver()
//   Settle(): until nothing is due, the clock stands;  AdvanceTo(): the clock goes on
//
// Threading: one thread. Lifetime: `config` outlives it.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "broker/base/clock.h"
#include "broker/base/random.h"
#include "broker/config/config.h"
#include "broker/partition/shards.h"
#include "broker/virtual/memory_journal.h"
#include "broker/virtual/one_thread_executor.h"
#include "broker/virtual/virtual_clock.h"
#include "dispatch/dispatcher.h"
#include "dispatch/worker_session.h"

namespace tocsin {

struct VirtualBrokerOptions {
  WallTime from;      // where the clock starts
  bool boots = true;  // it is the first start after a boot, for @reboot
};

// What became of an event that was handed in.
struct Arrival {
  absl::Status refusal;  // not OK: it was not taken
  bool duplicate = false;
};

class VirtualBroker final : public PartitionObserver {
 public:
  VirtualBroker(const Config& config, const VirtualBrokerOptions& options);
  ~VirtualBroker() override;

  // `worker` is handed deliveries inside Settle() and AdvanceTo(); `answer` is called there
  // whenever nothing else is to do, and says whether it has answered something.
  //   kInvalidArgument  a schedule that cannot be parsed
  absl::Status Start(std::shared_ptr<WorkerLink> worker, std::function<bool()> answer);

  // As a publisher sends it; as the configured source `source` brings it. Settles.
  Arrival Publish(std::string_view event);
  Arrival Arrive(std::string_view source, std::string_view event);

  void Settle();
  // The clock goes to `when`, or only to the first timer before it; settles. False: it is there.
  bool StepTowards(Instant when);

  std::vector<PartitionSnapshot> Snapshots();
  // Events that were stored since the last call, by partition and offset.
  std::vector<EventRecordInfo> NewEvents();
  // Dead letters since the last call.
  std::vector<Letter> NewLetters();

  VirtualClock& clock() { return clock_; }
  WorkerSession& session() { return *session_; }
  const RoutePlan& plan() const { return *plan_; }

 private:
  void Warn(PartitionId, std::string_view, const std::string&) override {}
  void Failed(PartitionId, const absl::Status& status) override;

  // --- set at construction ---
  const Config& config_;
  PartitionOptions partition_options_;

  VirtualClock clock_;
  OneThreadExecutor executor_{clock_};
  SeededRandom random_{1};
  MemoryJournal journal_{executor_};
  std::unique_ptr<Shards> shards_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::shared_ptr<const RoutePlan> plan_;
  std::function<bool()> answer_;
  std::shared_ptr<WorkerLink> worker_;
  std::shared_ptr<WorkerSession> session_;
  std::vector<Offset> next_;            // by partition: what NewEvents() has not read yet
  std::set<std::string> letters_seen_;  // their ids
  std::uint64_t arrived_ = 0;
};

}  // namespace tocsin
