// The metrics of local functions and of schedules.

#include <map>
#include <utility>

#include "broker/server/server_metrics.h"

namespace tocsin {
namespace {

using Kind = MetricsRegistry::SampleKind;

}  // namespace

void ServerMetrics::RegisterFunctions(
    const std::function<std::vector<v1::FunctionStatus>()>& list) {
  if (!list) return;
  const auto add = [&](const std::string& name, const std::string& help, Kind kind,
                       double (*value)(const v1::FunctionStatus&)) {
    registry_.AddCollector(name, help, kind, [list, value] {
      Samples samples;
      for (const v1::FunctionStatus& one : list()) {
        samples.push_back({.labels = {{"function", one.name()}}, .value = value(one)});
      }
      return samples;
    });
  };
  using Function = v1::FunctionStatus;
  add("tocsin_function_runs_total", "Commands, or workers, of a local function that ended.",
      Kind::kCounter, [](const Function& f) { return static_cast<double>(f.runs()); });
  add("tocsin_function_failed_total", "Of them those that were not acked, or failed.",
      Kind::kCounter, [](const Function& f) { return static_cast<double>(f.failed()); });
  add("tocsin_function_busy_seconds_total", "How long they ran.", Kind::kCounter,
      [](const Function& f) { return f.busy_seconds(); });
  add("tocsin_function_cpu_seconds_total", "CPU time that they used.", Kind::kCounter,
      [](const Function& f) { return f.cpu_seconds(); });
  add("tocsin_function_peak_memory_bytes", "The most memory that one of them had.", Kind::kGauge,
      [](const Function& f) { return static_cast<double>(f.peak_memory_bytes()); });
}

void ServerMetrics::RegisterSchedules() {
  const auto add = [this](const std::string& name, const std::string& help, Kind kind,
                          std::uint64_t ScheduleStatus::*value) {
    registry_.AddCollector(name, help, kind, [this, value] {
      Samples samples;
      MutexLock lock(mutex_);
      for (const PartitionSnapshot& snapshot : snapshots_) {
        for (const ScheduleStatus& schedule : snapshot.schedules) {
          samples.push_back({.labels = {{"schedule", schedule.name}},
                             .value = static_cast<double>(schedule.*value)});
        }
      }
      return samples;
    });
  };
  add("tocsin_schedule_fired_total", "Instants of a configured schedule that fired.",
      Kind::kCounter, &ScheduleStatus::fired);
  add("tocsin_schedule_skipped_total", "Instants of a configured schedule that did not fire.",
      Kind::kCounter, &ScheduleStatus::skipped);
  AddPartition("tocsin_partition_schedules", "Schedules by command or API.", Kind::kGauge,
               [](const PartitionSnapshot& s) { return static_cast<double>(s.dynamic_schedules); });
  AddPartition("tocsin_partition_delayed_events", "Events that were published for later.",
               Kind::kGauge,
               [](const PartitionSnapshot& s) { return static_cast<double>(s.delayed_events); });
  AddPartition("tocsin_partition_schedule_bytes", "Bytes of names and data of both.", Kind::kGauge,
               [](const PartitionSnapshot& s) { return static_cast<double>(s.schedule_bytes); });
}

}  // namespace tocsin
