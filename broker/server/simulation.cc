#include "broker/server/simulation.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/server/virtual_broker.h"

namespace tocsin {
namespace {

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

class Simulated {
 public:
  Simulated(const Config& config, const SimulationOptions& options,
            const std::function<bool(const SimulatedFire&)>& on_fire)
      : options_(options), on_fire_(on_fire), broker_(config, {options.from, options.boots}) {}

  absl::StatusOr<SimulationResult> Run() {
    TOCSIN_RETURN_IF_ERROR(broker_.Start(worker_, [this] {
      return worker_->AckAll(broker_.session(), broker_.clock().Monotonic());
    }));
    const WallTime end =
        options_.from + std::chrono::floor<std::chrono::microseconds>(options_.span);
    while (!stopped_) {
      const std::optional<WallTime> next = NextInstant();
      if (!next.has_value() || *next > end) break;
      VirtualClock& clock = broker_.clock();
      clock.Advance(std::max<Duration>(*next - clock.Wall(), Duration::zero()));
      broker_.Settle();
      Collect();
    }
    result_.skips = Skips();
    return std::move(result_);
  }

 private:
  std::optional<WallTime> NextInstant() {
    std::optional<WallTime> first;
    for (const PartitionSnapshot& partition : broker_.Snapshots()) {
      for (const ScheduleStatus& schedule : partition.schedules) {
        if (schedule.next && (!first || *schedule.next < *first)) first = schedule.next;
      }
    }
    return first;
  }

  void Collect() {
    std::vector<SimulatedFire> fires;
    for (const EventRecordInfo& event : broker_.NewEvents()) fires.push_back(FireOf(event));
    for (const Letter& letter : broker_.NewLetters()) {
      EventView view;
      if (!ParseEvent(letter.event, view).ok()) continue;
      for (SimulatedFire& fire : fires) {
        if (fire.id == view.id) fire.refused.emplace_back(letter.trigger, letter.message);
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
    for (const PartitionSnapshot& partition : broker_.Snapshots()) {
      for (const ScheduleStatus& schedule : partition.schedules) {
        if (schedule.skipped > 0) skips.push_back({schedule.name, schedule.skipped});
      }
    }
    std::sort(skips.begin(), skips.end(),
              [](const auto& a, const auto& b) { return a.source < b.source; });
    return skips;
  }

  const SimulationOptions& options_;
  const std::function<bool(const SimulatedFire&)>& on_fire_;
  std::shared_ptr<AckingWorker> worker_ = std::make_shared<AckingWorker>();
  VirtualBroker broker_;
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
