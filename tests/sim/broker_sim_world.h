// The inside of BrokerSim: a broker's lives, its workers, and what the simulator knows of them. See
// broker_sim.h for the faults and the checks.

#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/base/random.h"
#include "broker/base/status.h"
#include "broker/partition/shards.h"
#include "broker/virtual/one_thread_executor.h"
#include "broker/virtual/virtual_clock.h"
#include "dispatch/dispatcher.h"
#include "dispatch/worker_session.h"
#include "tests/sim/broker_sim.h"
#include "tests/sim/sim_storage.h"

namespace tocsin::broker_sim {

inline constexpr std::uint32_t kPartitions = 2;
inline constexpr std::uint32_t kAttempts = 3;

struct TriggerPlan {
  std::string name;
  bool park = false;
  std::uint32_t concurrency = 0;
  Order order = Order::kKey;
  bool from_start = false;  // not there at first; given every stored event when it comes
};

const std::vector<TriggerPlan>& Plans();
const TriggerPlan& ApiPlan();  // comes and goes by the API
std::string MakeEvent(std::uint64_t number, std::string_view key, std::string_view type,
                      std::string_view expires = "", std::string_view deliver_at = "");
// A trigger that was renamed has its plan's name and this.
inline constexpr const char* kRenamed = "~";
inline std::string_view PlanOf(std::string_view trigger) {
  return trigger.substr(0, trigger.find('~'));
}

class Sim;

// A simulated worker: keeps what it was given and answers when the simulator says so.
class SimWorker final : public WorkerLink {
 public:
  struct Held {
    std::uint64_t handle = 0;
    FencingToken token;
    DeliveryId id;
    Offset offset;
    std::string trigger;
    std::string event;
    std::uint32_t attempt = 0;
  };

  explicit SimWorker(Sim& sim) : sim_(sim) {}
  void Deliver(std::string_view, std::span<const OutgoingDelivery> deliveries) override;
  void Cancel(std::span<const std::uint64_t> handles) override;
  void Drain(const std::string&) override {}

  std::deque<Held> held;
  std::deque<Held> answered;  // for late and double answers
  std::shared_ptr<WorkerSession> session;
  std::uint64_t started_through = 0;
  bool mute = false;

 private:
  Sim& sim_;
};

// One life of the broker, from opening to crash.
struct Life {
  Life(Journal& journal, Executor& executor, const Clock& clock, Random& random,
       PartitionObserver& observer, const ShardsOptions& options)
      : shards(options, Shards::Ports{journal, {&executor}, clock, {&random}, observer}),
        dispatcher(shards, shards) {
    shards.SetDispatcher(dispatcher);
  }
  Shards shards;
  Dispatcher dispatcher;
};

// A source's lane, and how far the outside, which can replay, has heard of it.
struct SimLane {
  LaneId id;
  std::uint64_t next = 1;
  std::uint64_t confirmed = 0;
  bool attached = false;
  bool under_way = false;
};

// A publisher's stream, and what of it was not answered OK.
struct SimStream {
  enum class State : std::uint8_t { kWaits, kSent, kRefused };
  struct Item {
    std::uint64_t number = 0;
    State state = State::kWaits;
  };
  std::shared_ptr<StreamOrder> order;                  // of this connection
  std::deque<std::pair<std::uint64_t, bool>> answers;  // on their way: number, taken
  std::deque<Item> items;
  std::vector<std::uint64_t> sent;  // all, in order
};

class Sim final : public PartitionObserver {
 public:
  explicit Sim(const BrokerSimOptions& options)
      : options_(options),
        random_(options.seed),
        broker_random_(options.seed ^ 0x9E3779B97F4A7C15u),
        executor_(clock_),
        storage_(options.disk ? NewDiskStorage(clock_, options.seed, kPartitions)
                              : NewMemoryStorage(clock_, options.seed)) {}

  BrokerSimResult Run();

  void Warn(PartitionId, std::string_view code, const std::string& message) override {
    if (code == "T0309") park_full_ = true;
    if (options_.trace) fmt::print("  warn {} {}\n", code, message);
  }
  void Failed(PartitionId partition, const absl::Status& status) override {
    broken_ = true;
    if (storage_->faulty()) return;
    Fail(fmt::format("partition {} failed: {}", partition.value(), MessageOf(status)));
  }

  void OnDelivered(SimWorker& worker, const OutgoingDelivery& delivery);
  bool wrong_byte() const { return options_.canary == SimCanary::kWrongByte; }
  // What the broker has taken from its worker.
  void ForgetLease(const SimWorker::Held& held);
  void Fail(const std::string& what) {
    if (result_.failure.empty()) result_.failure = what;
  }

 private:
  bool Chance(std::uint64_t percent) { return random_.Below(100) < percent; }
  void Pump(std::size_t tasks) {
    for (std::size_t i = 0; i < tasks; ++i) {
      const bool ran = Chance(50) ? (executor_.RunOne() || storage_->Run(1) > 0)
                                  : (storage_->Run(1) > 0 || executor_.RunOne());
      if (!ran) return NoteRest();
    }
  }
  void PumpAll() {
    for (int i = 0; i < 100000; ++i) {
      const std::size_t ran = executor_.RunUntilIdle(1000) + storage_->Run(1000);
      if (ran == 0) return NoteRest();
    }
    Fail("the broker does not come to rest");
  }
  void Start();
  void Crash();
  // broker_sim_publish.cc
  void Publish();
  std::string ExpiryOf(std::uint64_t number);
  void PublishInStream(SimStream& stream);
  void HearInStream(SimStream& stream);
  void SendInStream(SimStream& stream, std::uint64_t number);
  void CheckStreams(const std::map<std::uint64_t, std::uint64_t>& places);
  void Answer(SimWorker& worker);
  void AnswerOne(SimWorker& worker, const SimWorker::Held& held, bool healthy);
  void Attach();
  void CheckBooks(bool drained);
  std::shared_ptr<RoutePlan> MakePlan();
  void Letters(bool redrive_all);
  void DiscardLetter(Partition& partition, const LetterSummary& summary);
  bool Drained();
  void FailAtLetters();
  void Quiesce();
  bool SendRest();
  void CheckCredit();
  void DrawRate(Random& random);
  void ChangeRate();
  void FillRate();
  void NoteRest();
  void CheckRate(std::string_view id);
  std::uint32_t DrawSteps();
  void Step();
  void DetachWorker();
  void GhostAnswers();
  void Reload();
  void Rename();
  std::string NameOf(const std::string& plan) const {
    return renamed_.contains(plan) ? plan + kRenamed : plan;
  }
  void StandStill();
  void FlipBit();
  void Checked(SimCheck check) { ++result_.checks[static_cast<std::size_t>(check)]; }
  // The same event has the same bytes, wherever it shows.
  void CheckDue(std::string_view id);
  void CheckContent(std::string_view id, std::string_view bytes);
  void CheckMatching(const EventRecordInfo& event, std::string_view id);
  void CheckBooksAgainst(
      const std::map<std::pair<std::uint32_t, std::string>, std::uint64_t>& matched);
  void NoteSchedules();
  void CheckSchedules();
  void CheckKey(const OutgoingDelivery& delivery, const std::string& scope, const std::string& id,
                bool first, bool expires);
  void CheckExpiry(const OutgoingDelivery& delivery, const EventView& view);
  void NoteAnswer(const SimWorker::Held& held, const std::string& scope, const std::string& id,
                  const Outcome& outcome);
  void CheckAnswered();
  void AddRoute(const TriggerPlan& spec, std::string_view version, RoutePlan& plan,
                std::vector<RouteSpec>& routes);
  // broker_sim_routes.cc
  void ChangeApi();
  void TellApi(const std::string& version);
  void RebasePlan();
  void StartReplay();
  void CheckStored(const std::map<std::string, std::string>& stored);
  void CheckReplays();
  bool Replaying();
  void AddSchedules(RoutePlan& plan) const;
  void AttachLanes();
  void Dynamic();  // adds, pauses, resumes, fires or removes a schedule
  void AddDynamic(const std::string& name, bool once);
  void ControlDynamic(const std::string& name, ScheduleAction action);
  void EndDelays();  // what recurs is removed, what waits comes
  void FireRest();
  void Feed(std::size_t index);
  std::vector<EventRecordInfo> ReadAll(PartitionId id);
  void CheckLog();

  const BrokerSimOptions options_;
  SeededRandom random_;
  SeededRandom broker_random_;
  VirtualClock clock_;
  OneThreadExecutor executor_;
  std::unique_ptr<SimStorage> storage_;
  std::unique_ptr<Life> life_;
  std::vector<std::shared_ptr<SimWorker>> workers_;
  std::vector<std::shared_ptr<SimWorker>> ghosts_;  // given up by the broker, and still answering
  bool opened_ = false;
  bool broken_ = false;  // the journal failed: this life is over
  std::uint64_t generation_ = 0;
  std::set<std::string> detached_;
  std::set<std::string> renamed_;
  BrokerSimResult result_;

  // swarm
  bool crashes_ = true, deaths_ = true, fails_ = true, poison_ = true, reloads_ = true,
       emits_ = true, dups_ = true, full_ = true, letters_ = true, pauses_ = true, breaks_ = true,
       clock_set_ = true, schedules_ = true, trims_ = true, half_open_ = true, suspends_ = true,
       damage_ = true, routes_ = true, delays_ = true, expiry_ = true, streams_on_ = true,
       renames_ = true, rates_ = true, batches_ = true;
  std::uint64_t log_bytes_max_ = 0, letter_bytes_max_ = 0;  // with trims_
  std::uint64_t keys_ = 4;
  std::uint64_t backlog_max_ = 0;  // of the trigger "all", if not 0
  bool filter_ = false;            // the trigger "some" takes every third published event only

  // With rates_: the trigger that has one, and what may begin of it now, at most.
  std::string rated_;
  Rate rate_;
  double rate_left_ = 0;
  Instant rate_at_{};
  bool held_ = false;    // the storage
  std::string batched_;  // with batches_: the trigger that has them
  BatchPolicy batch_;

  // The trigger of the API: of this life, what the partitions were told last.
  std::shared_ptr<const RoutePlan> plan_;
  std::shared_ptr<const RoutePlan> overlay_;
  std::string api_told_;  // its version; empty: not in force
  bool api_busy_ = false;
  bool quiet_ = false;                      // it stays as it is from here on
  std::uint64_t api_changes_ = 0;           // rises where it is not known which events it matches
  std::set<std::string> api_possible_{""};  // versions that may be stored
  std::map<std::uint64_t, bool> api_expected_;  // answered number -> matched
  struct SimReplay {
    std::uint32_t partition = 0;
    std::string trigger;
    ReplayProgress begun;
    bool stopped = false;
  };
  std::vector<SimReplay> replays_;

  // shadow
  std::vector<SimLane> lanes_{{{"lane", "0"}}, {{"lane", "1"}}, {{"other", ""}}};
  std::uint64_t next_number_ = 0;
  std::vector<SimStream> streams_{2};
  std::uint64_t next_stream_number_ = 5'000'000;
  std::set<std::uint64_t> late_repeats_;          // sent when much time had passed
  std::map<std::uint64_t, std::string> expires_;  // published number -> expirytime
  std::map<std::uint64_t, bool> answered_;        // published number -> answered OK
  struct Runs {
    std::uint32_t executions = 0;
    std::uint64_t crashes_before = 0;  // its first one
    std::uint32_t attempt = 1;         // the last one's
  };
  std::map<std::string, Runs> runs_;  // by delivery id
  // Of a key, the delivery that was first leased last.
  struct KeyHead {
    std::string id;
    std::uint32_t attempt = 0;
    bool settled = false;
    bool expires = false;  // it may end unseen
  };
  std::map<std::string, KeyHead> key_heads_;  // by trigger/key/epoch
  struct Parked {
    std::string id;
    Offset offset;  // of its first run
  };
  std::map<std::string, Parked> parked_;  // by trigger/key: what parked it
  std::set<std::string> emitted_;         // whose delivery's settlement was confirmed
  std::uint64_t emitted_number_ = 1'000'000;
  std::set<std::string> lost_events_;  // their batch is damaged
  // Of events that are published for later: not before this time.
  std::map<std::uint64_t, WallTime> deliver_;
  struct OneShot {
    WallTime at;
    bool answered = false;
    bool removed = false;  // or maybe
  };
  std::map<std::string, OneShot> one_shots_;
  std::set<std::string> recurring_;
  std::uint64_t next_schedule_ = 0;
  bool park_full_ = false;  // some keys are not held
  bool log_damaged_ = false;
  bool checkpoint_damaged_ = false;
  std::map<std::pair<std::string, std::string>, std::string> leased_;  // (trigger, key) -> delivery
  std::map<std::string, std::uint64_t> first_lease_;  // trigger/key/epoch -> highest offset
  std::map<std::pair<std::uint32_t, std::uint64_t>, std::string> payload_;  // offset -> event id
  std::map<std::string, int> executed_events_;  // "trigger event-id" -> executions
  std::set<std::string> final_;                 // settlements whose durability was confirmed
  std::set<std::string> seen_leases_;           // delivery id @ epoch
  std::map<std::string, std::size_t> content_;  // event id -> hash of its bytes
  std::set<std::string> dropped_;               // "trigger event-id": the answer was to drop it
  std::set<std::string> ever_detached_;         // triggers
  std::map<std::string, std::set<std::string>> acks_sent_, acks_confirmed_;  // by trigger
  std::map<std::string, std::vector<std::int64_t>> fired_;  // schedule -> instants in the log, us
  std::map<std::string, ScheduleStatus> schedule_status_;   // before they are taken away
  WallTime schedules_noted_;
  Instant last_expiry_check_{};
};

}  // namespace tocsin::broker_sim
