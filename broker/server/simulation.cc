#include "broker/server/simulation.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/random.h"
#include "broker/base/status.h"
#include "broker/partition/shards.h"
#include "broker/server/plan_builder.h"
#include "broker/virtual/memory_journal.h"
#include "broker/virtual/one_thread_executor.h"
#include "broker/virtual/virtual_clock.h"
#include "dispatch/dispatcher.h"
#include "dispatch/worker_session.h"

namespace tocsin {
namespace {

constexpr std::uint32_t kCredit = 1'000'000;

// Acks what it was given when it is told to: not inside the call.
class AckingWorker final : public WorkerLink {
 public:
  void Deliver(std::string_view, std::span<const OutgoingDelivery> deliveries) override {
    for (const OutgoingDelivery& delivery : deliveries) {
      held_.push_back({delivery.handle, delivery.handle});
    }
  }
  void Cancel(std::span<const std::uint64_t>) override {}
  void Drain(const std::string&) override {}

  bool AckAll(WorkerSession& session, Instant now) {
    if (held_.empty()) return false;
    FrameAnswers answers;
    answers.started_through = held_.back().last;
    answers.acked = std::exchange(held_, {});
    static_cast<void>(session.OnAnswers(std::move(answers), now, nullptr));
    return true;
  }

 private:
  std::vector<HandleRange> held_;
};

class Simulated final : public PartitionObserver {
 public:
  Simulated(const Config& config, const SimulationOptions& options,
            const std::function<bool(const SimulatedFire&)>& on_fire)
      : config_(config), options_(options), on_fire_(on_fire), clock_(options.from) {}

  absl::StatusOr<SimulationResult> Run() {
    ShardsOptions shards_options;
    PartitionOptions& partition = shards_options.partition;
    partition = ToPartitionOptions(config_.broker, config_.broker.partitions, 1);
    partition.retention_age = std::chrono::hours(24 * 36'500);
    partition.retention_bytes = UINT64_MAX / 2;
    partition.checkpoint_bytes = UINT64_MAX / 2;
    partition.checkpoint_every = std::chrono::hours(24 * 36'500);
    partition.boot_id = options_.boots ? 1 : 0;
    shards_ = std::make_unique<Shards>(
        shards_options, Shards::Ports{journal_, {&executor_}, clock_, {&random_}, *this});
    dispatcher_ = std::make_unique<Dispatcher>(*shards_, *shards_);
    shards_->SetDispatcher(*dispatcher_);
    TOCSIN_ASSIGN_OR_RETURN(const std::shared_ptr<const RoutePlan> plan,
                            BuildPlan(config_, 1, *dispatcher_));
    next_.assign(config_.broker.partitions, Offset());
    Attach();
    shards_->Open(plan, [](const absl::Status& status) {
      TOCSIN_CHECK(status.ok(), "a broker in memory: {}", MessageOf(status));
    });
    Settle();

    const WallTime end =
        options_.from + std::chrono::floor<std::chrono::microseconds>(options_.span);
    while (!stopped_) {
      const std::optional<WallTime> next = NextInstant();
      if (!next.has_value() || *next > end) break;
      clock_.Advance(std::max<Duration>(*next - clock_.Wall(), Duration::zero()));
      Settle();
      Collect();
    }
    result_.skips = Skips();
    return std::move(result_);
  }

 private:
  void Warn(PartitionId, std::string_view, const std::string&) override {}
  void Failed(PartitionId, const absl::Status& status) override {
    TOCSIN_CHECK(false, "a journal in memory failed: {}", MessageOf(status));
  }

  void Attach() {
    worker_ = std::make_shared<AckingWorker>();
    SessionHello hello;
    hello.worker = "simulation";
    for (const FunctionConfig& function : config_.functions) {
      hello.functions.push_back(function.name);
    }
    hello.credit.events = kCredit;
    session_ = dispatcher_->Attach(hello, worker_, clock_.Monotonic());
  }

  // Until nothing is due; the clock stands.
  void Settle() {
    do {
      executor_.RunUntilIdle();
      session_->OnHeartbeat(clock_.Monotonic());
    } while (worker_->AckAll(*session_, clock_.Monotonic()) || executor_.HasWork());
  }

  std::vector<PartitionSnapshot> Snapshots() {
    std::vector<PartitionSnapshot> snapshots;
    shards_->Snapshots(
        [&snapshots](std::vector<PartitionSnapshot> taken) { snapshots = std::move(taken); });
    Settle();
    return snapshots;
  }

  std::optional<WallTime> NextInstant() {
    std::optional<WallTime> first;
    for (const PartitionSnapshot& partition : Snapshots()) {
      for (const ScheduleStatus& schedule : partition.schedules) {
        if (schedule.next && (!first || *schedule.next < *first)) first = schedule.next;
      }
    }
    return first;
  }

  void Collect() {
    std::vector<SimulatedFire> fires;
    for (std::uint32_t id = 0; id < next_.size(); ++id) {
      bool more = true;
      while (more) {
        more = false;
        shards_->Post(PartitionId(id), [&](Partition& partition) {
          partition.ReadEvents(next_[id], 1000, std::size_t{1} << 20,
                               [&](const absl::StatusOr<EventPage>& page) {
                                 TOCSIN_CHECK(page.ok(), "{}", MessageOf(page.status()));
                                 for (const EventRecordInfo& event : page->events) {
                                   fires.push_back(FireOf(event));
                                 }
                                 next_[id] = page->next;
                                 more = page->next < page->durable_end;
                               });
        });
        Settle();
      }
    }
    std::stable_sort(fires.begin(), fires.end(), [](const auto& a, const auto& b) {
      return std::pair(a.actual, a.source) < std::pair(b.actual, b.source);
    });
    for (const SimulatedFire& fire : fires) {
      if (stopped_) return;
      ++result_.fires;
      stopped_ = !on_fire_(fire);
    }
  }

  static SimulatedFire FireOf(const EventRecordInfo& event) {
    EventView view;
    TOCSIN_CHECK(ParseEvent(event.bytes, view).ok(), "a schedule made no event");
    SimulatedFire fire;
    fire.id = std::string(view.id);
    fire.source = fire.id.substr(0, fire.id.rfind('/'));
    fire.type = std::string(view.type);
    const AttributeView* time = view.Find("time");
    if (time != nullptr) {
      fire.nominal =
          WallTime(std::chrono::seconds(time->integer)) +
          std::chrono::floor<std::chrono::microseconds>(std::chrono::nanoseconds(time->nanos));
    }
    fire.actual = event.recorded;
    fire.triggers = event.triggers;
    return fire;
  }

  std::vector<SimulatedSkip> Skips() {
    std::vector<SimulatedSkip> skips;
    for (const PartitionSnapshot& partition : Snapshots()) {
      for (const ScheduleStatus& schedule : partition.schedules) {
        if (schedule.skipped > 0) skips.push_back({schedule.name, schedule.skipped});
      }
    }
    std::sort(skips.begin(), skips.end(),
              [](const auto& a, const auto& b) { return a.source < b.source; });
    return skips;
  }

  const Config& config_;
  const SimulationOptions& options_;
  const std::function<bool(const SimulatedFire&)>& on_fire_;
  VirtualClock clock_;
  OneThreadExecutor executor_{clock_};
  SeededRandom random_{1};
  MemoryJournal journal_{executor_};
  std::unique_ptr<Shards> shards_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::shared_ptr<AckingWorker> worker_;
  std::shared_ptr<WorkerSession> session_;
  std::vector<Offset> next_;  // by partition: what was not read yet
  bool stopped_ = false;
  SimulationResult result_;
};

}  // namespace

absl::StatusOr<SimulationResult> Simulate(
    const Config& config, const SimulationOptions& options,
    const std::function<bool(const SimulatedFire&)>& on_fire) {
  return Simulated(config, options, on_fire).Run();
}

}  // namespace tocsin
