// ServerMetrics: every metric of the broker, in one registry.
//
// Counters of the hot paths live where they are counted and are read when printed; what the
// partitions know comes from the snapshots that Update() is given before each printing.
//
// Threading: thread-safe. What Sources points to outlives it.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/metrics.h"
#include "broker/base/mutex.h"
#include "broker/journal/file_journal.h"
#include "broker/partition/partition.h"
#include "broker/server/publish_engine.h"
#include "dispatch/dispatcher.h"
#include "dispatch/grpc/worker_service.h"
#include "tocsin/v1/admin.pb.h"

namespace tocsin {

class ServerMetrics {
 public:
  struct SourceSample {
    std::string name;
    std::string lane;
    std::string state;
    std::uint64_t errors = 0;
    std::uint64_t events = 0;
    std::uint64_t undecodable = 0;
    std::uint64_t refused = 0;
    std::uint64_t skipped = 0;
    std::optional<std::uint64_t> lag;
    std::optional<std::uint64_t> held_bytes;
    std::optional<std::uint64_t> snapshot_tables_left;
    std::uint64_t snapshot_rows = 0;
  };
  struct Sources {
    PublishCounters* publish = nullptr;
    const WorkerCounters* workers = nullptr;
    const Dispatcher* dispatcher = nullptr;
    std::function<JournalInfo()> journal;
    std::function<std::vector<SourceSample>()> sources;
    std::function<std::vector<v1::FunctionStatus>()> functions;  // local ones, what they have used
    std::string version;
  };

  ServerMetrics();

  // Seconds from a publish request's arrival to its answer.
  Histogram* publish_latency() { return publish_latency_; }
  Counter* reloads(bool ok) { return ok ? reloads_ok_ : reloads_failed_; }
  Counter* warnings() { return warnings_; }

  // Once, before Print().
  void Register(const Sources& sources);

  void Update(std::vector<PartitionSnapshot> snapshots);
  // Prometheus' text format.
  std::string Print() const { return registry_.Print(); }

 private:
  using Samples = std::vector<MetricsRegistry::Sample>;
  // Over all partitions.
  struct TriggerTotal {
    std::string name;
    std::uint64_t matched = 0, acked = 0, dead = 0, dropped = 0, expired = 0, pending = 0;
    std::uint64_t leased = 0, delayed = 0, parked_keys = 0;
    std::uint64_t blocked = 0;  // partitions on which one key blocks it
    bool waits = false;         // something is ready
  };
  // By name. Takes the triggers out of `snapshots`: they are most of them where there are many.
  static std::vector<TriggerTotal> TotalsOf(std::vector<PartitionSnapshot>& snapshots);
  void RegisterPublish(PublishCounters& counters);
  void RegisterWorkers(const WorkerCounters& counters, const Dispatcher& dispatcher);
  void RegisterJournal(std::function<JournalInfo()> info);
  void RegisterTriggers(const Dispatcher& dispatcher);
  void RegisterSources(const std::function<std::vector<SourceSample>()>& list);
  void RegisterFunctions(const std::function<std::vector<v1::FunctionStatus>()>& list);
  void RegisterSchedules();
  void RegisterPartitions();
  void AddOne(const std::string& name, const std::string& help, MetricsRegistry::SampleKind kind,
              std::function<double()> value);
  // `value` of every partition, labelled by its number.
  void AddPartition(const std::string& name, const std::string& help,
                    MetricsRegistry::SampleKind kind,
                    std::function<double(const PartitionSnapshot&)> value);

  MetricsRegistry registry_;
  Histogram* publish_latency_;
  Counter* reloads_ok_;
  Counter* reloads_failed_;
  Counter* warnings_;

  mutable Mutex mutex_;
  std::vector<PartitionSnapshot> snapshots_ ABSL_GUARDED_BY(mutex_);  // without their triggers
  std::vector<TriggerTotal> triggers_ ABSL_GUARDED_BY(mutex_);        // by name
};

}  // namespace tocsin
