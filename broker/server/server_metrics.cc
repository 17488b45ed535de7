#include "broker/server/server_metrics.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/container/flat_hash_map.h"

namespace tocsin {
namespace {

using Kind = MetricsRegistry::SampleKind;

double Load(const std::atomic<std::uint64_t>& value) {
  return static_cast<double>(value.load(std::memory_order_relaxed));
}

std::string PartitionLabel(const PartitionSnapshot& snapshot) {
  return std::to_string(snapshot.id.value());
}

}  // namespace

ServerMetrics::ServerMetrics()
    : publish_latency_(registry_.AddHistogram(
          "tocsin_publish_duration_seconds",
          "Time from the arrival of a publish request to its answer.", LatencyBounds())),
      reloads_ok_(registry_.AddCounter("tocsin_reloads_total",
                                       "Reloads of the configuration by result.",
                                       {{"result", "applied"}})),
      reloads_failed_(registry_.AddCounter("tocsin_reloads_total",
                                           "Reloads of the configuration by result.",
                                           {{"result", "refused"}})),
      warnings_(registry_.AddCounter("tocsin_warnings_total",
                                     "Warnings for the operator, those not logged included.")) {}

void ServerMetrics::Register(const Sources& sources) {
  registry_.AddCollector("tocsin_build_info", "The version that runs; always 1.", Kind::kGauge,
                         [version = sources.version] {
                           return Samples{{.labels = {{"version", version}}, .value = 1}};
                         });
  RegisterPublish(*sources.publish);
  RegisterWorkers(*sources.workers, *sources.dispatcher);
  RegisterJournal(sources.journal);
  RegisterPartitions();
  RegisterTriggers(*sources.dispatcher);
  RegisterSources(sources.sources);
  RegisterFunctions(sources.functions);
  RegisterSchedules();
}

void ServerMetrics::RegisterSources(const std::function<std::vector<SourceSample>()>& list) {
  using Value = std::function<std::optional<double>(const SourceSample&)>;
  const auto add = [&](const std::string& name, const std::string& help, Kind kind, Value value) {
    registry_.AddCollector(name, help, kind, [list, value = std::move(value)] {
      Samples samples;
      for (const SourceSample& source : list()) {
        const std::optional<double> number = value(source);
        if (!number) continue;
        MetricLabels labels = {{"source", source.name}};
        if (!source.lane.empty()) labels.emplace_back("lane", source.lane);
        samples.push_back({.labels = std::move(labels), .value = *number});
      }
      return samples;
    });
  };
  const auto number = [](std::uint64_t SourceSample::*field) {
    return [field](const SourceSample& source) {
      return std::optional(static_cast<double>(source.*field));
    };
  };
  add("tocsin_source_errors_total", "Failures of a source's connector.", Kind::kCounter,
      number(&SourceSample::errors));
  add("tocsin_source_events_total", "Events of a source that became durable.", Kind::kCounter,
      number(&SourceSample::events));
  add("tocsin_source_undecodable_total", "What came and became a dead letter at once.",
      Kind::kCounter, number(&SourceSample::undecodable));
  add("tocsin_source_refused_total", "Batches there was no room for, each try.", Kind::kCounter,
      number(&SourceSample::refused));
  add("tocsin_source_skipped",
      "What was passed over: unusable files of the last listing; entries lost outside.",
      Kind::kGauge, number(&SourceSample::skipped));
  const auto known = [](std::optional<std::uint64_t> SourceSample::*field) {
    return [field](const SourceSample& source) {
      return source.*field ? std::optional(static_cast<double>(*(source.*field))) : std::nullopt;
    };
  };
  add("tocsin_source_lag", "What the outside has and was not read, where that is known.",
      Kind::kGauge, known(&SourceSample::lag));
  add("tocsin_source_held_bytes", "What a database server keeps of its log for the source's slot.",
      Kind::kGauge, known(&SourceSample::held_bytes));
  add("tocsin_source_snapshot_tables_left", "Tables of which a snapshot is still to be read.",
      Kind::kGauge, known(&SourceSample::snapshot_tables_left));
  add("tocsin_source_snapshot_rows", "Rows of snapshots since the source was connected.",
      Kind::kGauge, [](const SourceSample& source) {
        return source.snapshot_tables_left
                   ? std::optional(static_cast<double>(source.snapshot_rows))
                   : std::nullopt;
      });
  registry_.AddCollector("tocsin_source_state", "1 for the state a source is in.", Kind::kGauge,
                         [list] {
                           Samples samples;
                           for (const SourceSample& source : list()) {
                             MetricLabels labels = {{"source", source.name}};
                             if (!source.lane.empty()) labels.emplace_back("lane", source.lane);
                             labels.emplace_back("state", source.state);
                             samples.push_back({.labels = std::move(labels), .value = 1});
                           }
                           return samples;
                         });
}

void ServerMetrics::Update(std::vector<PartitionSnapshot> snapshots) {
  std::vector<TriggerTotal> triggers = TotalsOf(snapshots);
  MutexLock lock(mutex_);
  snapshots_.swap(snapshots);
  triggers_.swap(triggers);
}

// Once for all metrics of triggers.
std::vector<ServerMetrics::TriggerTotal> ServerMetrics::TotalsOf(
    std::vector<PartitionSnapshot>& snapshots) {
  std::vector<TriggerTotal> totals;
  absl::flat_hash_map<std::string, std::size_t> at;
  for (PartitionSnapshot& snapshot : snapshots) {
    for (TriggerBooks& books : snapshot.triggers) {
      const auto [found, added] = at.try_emplace(books.name, totals.size());
      if (added) totals.emplace_back().name = std::move(books.name);
      TriggerTotal& total = totals[found->second];
      total.matched += books.matched;
      total.acked += books.acked;
      total.dead += books.dead;
      total.dropped += books.dropped;
      total.expired += books.expired;
      total.pending += books.pending;
      total.leased += books.leased;
      total.delayed += books.delayed;
      total.parked_keys += books.parked_keys;
      if (books.state == TriggerState::kBlockedByKey) ++total.blocked;
      if (books.ready > 0 && books.state == TriggerState::kActive) total.waits = true;
    }
    std::vector<TriggerBooks>().swap(snapshot.triggers);
  }
  std::sort(totals.begin(), totals.end(),
            [](const TriggerTotal& a, const TriggerTotal& b) { return a.name < b.name; });
  return totals;
}

void ServerMetrics::AddOne(const std::string& name, const std::string& help, Kind kind,
                           std::function<double()> value) {
  registry_.AddCollector(name, help, kind, [value = std::move(value)] {
    return Samples{{.labels = {}, .value = value()}};
  });
}

void ServerMetrics::AddPartition(const std::string& name, const std::string& help, Kind kind,
                                 std::function<double(const PartitionSnapshot&)> value) {
  registry_.AddCollector(name, help, kind, [this, value = std::move(value)] {
    Samples samples;
    MutexLock lock(mutex_);
    for (const PartitionSnapshot& snapshot : snapshots_) {
      samples.push_back(
          {.labels = {{"partition", PartitionLabel(snapshot)}}, .value = value(snapshot)});
    }
    return samples;
  });
}

void ServerMetrics::RegisterPublish(PublishCounters& counters) {
  PublishCounters* c = &counters;
  AddOne("tocsin_publish_requests_total", "Publish requests taken.", Kind::kCounter,
         [c] { return Load(c->batches); });
  AddOne("tocsin_published_events_total", "Published events accepted, duplicates not counted.",
         Kind::kCounter, [c] { return Load(c->events); });
  AddOne("tocsin_published_bytes_total", "Bytes of the events in publish requests.", Kind::kCounter,
         [c] { return Load(c->bytes); });
  AddOne("tocsin_published_duplicates_total", "Published events that were there already.",
         Kind::kCounter, [c] { return Load(c->duplicates); });
  AddOne("tocsin_publish_malformed_requests_total", "Publish requests that could not be read.",
         Kind::kCounter, [c] { return Load(c->malformed); });
  registry_.AddCollector("tocsin_publish_refused_events_total",
                         "Published events refused, by reason.", Kind::kCounter, [c] {
                           return Samples{
                               {.labels = {{"reason", "invalid"}}, .value = Load(c->invalid)},
                               {.labels = {{"reason", "no_room"}}, .value = Load(c->exhausted)},
                               {.labels = {{"reason", "failed"}}, .value = Load(c->failed)},
                           };
                         });
}

void ServerMetrics::RegisterWorkers(const WorkerCounters& counters, const Dispatcher& dispatcher) {
  const WorkerCounters* c = &counters;
  AddOne("tocsin_worker_attachments_total", "Worker sessions begun.", Kind::kCounter,
         [c] { return Load(c->attached); });
  AddOne("tocsin_worker_refused_streams_total", "Worker streams that were not let in.",
         Kind::kCounter, [c] { return Load(c->refused); });
  AddOne("tocsin_worker_malformed_frames_total", "Frames that ended their stream.", Kind::kCounter,
         [c] { return Load(c->malformed); });
  AddOne("tocsin_worker_silent_sessions_total", "Sessions ended because nothing was heard.",
         Kind::kCounter, [c] { return Load(c->silent); });
  AddOne("tocsin_worker_stale_answers_total",
         "Answers to deliveries that were not leased to their session.", Kind::kCounter,
         [c] { return Load(c->stale_answers); });
  AddOne("tocsin_deliveries_total", "Deliveries handed to workers, repeats included.",
         Kind::kCounter, [c] { return Load(c->deliveries); });
  const auto by_direction = [](double in, double out) {
    return Samples{{.labels = {{"direction", "in"}}, .value = in},
                   {.labels = {{"direction", "out"}}, .value = out}};
  };
  registry_.AddCollector(
      "tocsin_worker_frames_total", "Frames of the worker protocol.", Kind::kCounter,
      [c, by_direction] { return by_direction(Load(c->frames_in), Load(c->frames_out)); });
  registry_.AddCollector(
      "tocsin_worker_bytes_total", "Bytes of the worker protocol's frames.", Kind::kCounter,
      [c, by_direction] { return by_direction(Load(c->bytes_in), Load(c->bytes_out)); });
  registry_.AddCollector(
      "tocsin_workers", "Attached sessions by function.", Kind::kGauge, [d = &dispatcher] {
        Samples samples;
        for (const auto& [function, sessions] : d->Functions()) {
          samples.push_back(
              {.labels = {{"function", function}}, .value = static_cast<double>(sessions)});
        }
        return samples;
      });
  AddOne("tocsin_worker_deliveries_in_flight", "Deliveries that workers hold.", Kind::kGauge,
         [d = &dispatcher] {
           double held = 0;
           for (const SessionInfo& session : d->Sessions()) held += session.in_flight;
           return held;
         });
}

void ServerMetrics::RegisterJournal(std::function<JournalInfo()> info) {
  const auto add = [&](const std::string& name, const std::string& help, Kind kind,
                       double (*value)(const JournalInfo&)) {
    AddOne(name, help, kind, [info, value] { return value(info()); });
  };
  add("tocsin_journal_bytes", "Bytes of the log on disk.", Kind::kGauge,
      [](const JournalInfo& i) { return static_cast<double>(i.log_bytes); });
  add("tocsin_journal_segments", "Segment files of the log.", Kind::kGauge,
      [](const JournalInfo& i) { return static_cast<double>(i.segments); });
  add("tocsin_journal_syncs_total", "Groups of batches made durable with one sync.", Kind::kCounter,
      [](const JournalInfo& i) { return static_cast<double>(i.groups); });
  add("tocsin_journal_batches_total", "Batches made durable.", Kind::kCounter,
      [](const JournalInfo& i) { return static_cast<double>(i.batches); });
  add("tocsin_journal_refused_appends_total", "Batches refused for want of disk space.",
      Kind::kCounter, [](const JournalInfo& i) { return static_cast<double>(i.appends_refused); });
  add("tocsin_journal_quarantine_bytes", "Bytes cut off by recovery and kept.", Kind::kGauge,
      [](const JournalInfo& i) { return static_cast<double>(i.quarantine_bytes); });
  add("tocsin_journal_damaged_ranges", "Ranges found that cannot be read.", Kind::kGauge,
      [](const JournalInfo& i) { return static_cast<double>(i.damaged_ranges); });
  add("tocsin_journal_free_bytes", "Free bytes of the data directory's disk when last looked at.",
      Kind::kGauge, [](const JournalInfo& i) { return static_cast<double>(i.free_bytes); });
  add("tocsin_journal_reserve_only",
      "1 while the disk is so full that events are refused and only answers are written.",
      Kind::kGauge, [](const JournalInfo& i) { return i.reserve_only ? 1.0 : 0.0; });
  add("tocsin_journal_failed", "1 after a write or sync failed: nothing more is accepted.",
      Kind::kGauge, [](const JournalInfo& i) { return i.failed ? 1.0 : 0.0; });
  add("tocsin_dead_letter_bytes", "Bytes of the dead letters on disk.", Kind::kGauge,
      [](const JournalInfo& i) { return static_cast<double>(i.letter_bytes); });
}

void ServerMetrics::RegisterPartitions() {
  const auto add = [this](const std::string& name, const std::string& help, Kind kind,
                          std::uint64_t (*value)(const PartitionSnapshot&)) {
    AddPartition(name, help, kind,
                 [value](const PartitionSnapshot& s) { return static_cast<double>(value(s)); });
  };
  using Snapshot = PartitionSnapshot;
  add("tocsin_partition_events_total", "Events ever appended, by partition.", Kind::kCounter,
      [](const Snapshot& s) { return s.durable_end.value(); });
  add("tocsin_partition_start_offset", "The oldest event that is stored.", Kind::kGauge,
      [](const Snapshot& s) { return s.start.value(); });
  add("tocsin_partition_unmatched_events_total", "Events that no trigger matched.", Kind::kCounter,
      [](const Snapshot& s) { return s.unmatched; });
  add("tocsin_partition_duplicates_total", "Events that were there already.", Kind::kCounter,
      [](const Snapshot& s) { return s.duplicates; });
  add("tocsin_partition_refused_total", "Events that the partition refused.", Kind::kCounter,
      [](const Snapshot& s) { return s.refused; });
  add("tocsin_partition_stale_answers_total", "Answers of leases that had ended.", Kind::kCounter,
      [](const Snapshot& s) { return s.stale_answers; });
  add("tocsin_partition_deduped_ids", "Event ids remembered for deduplication.", Kind::kGauge,
      [](const Snapshot& s) { return s.deduped_ids; });
  add("tocsin_partition_in_flight_bytes", "Bytes appended and not durable yet.", Kind::kGauge,
      [](const Snapshot& s) { return s.in_flight_bytes; });
  add("tocsin_partition_cache_bytes", "Event bytes kept for delivery.", Kind::kGauge,
      [](const Snapshot& s) { return s.cache_bytes; });
  add("tocsin_dead_letters", "Open dead letters.", Kind::kGauge,
      [](const Snapshot& s) { return s.open_letters; });
  add("tocsin_dead_letters_full", "1 while the dead letters are at their quota.", Kind::kGauge,
      [](const Snapshot& s) { return std::uint64_t{s.letters_full ? 1u : 0u}; });
  add("tocsin_retention_pinned_bytes",
      "Bytes kept beyond retention because something in them is not settled.", Kind::kGauge,
      [](const Snapshot& s) { return s.pinned_bytes; });
}

void ServerMetrics::RegisterTriggers(const Dispatcher& dispatcher) {
  const auto add = [this](const std::string& name, const std::string& help, Kind kind,
                          std::uint64_t TriggerTotal::*value) {
    registry_.AddCollector(name, help, kind, [this, value] {
      Samples samples;
      MutexLock lock(mutex_);
      samples.reserve(triggers_.size());
      for (const TriggerTotal& total : triggers_) {
        samples.push_back(
            {.labels = {{"trigger", total.name}}, .value = static_cast<double>(total.*value)});
      }
      return samples;
    });
  };
  add("tocsin_trigger_matched_total", "Events that matched.", Kind::kCounter,
      &TriggerTotal::matched);
  add("tocsin_trigger_acked_total", "Deliveries acked.", Kind::kCounter, &TriggerTotal::acked);
  add("tocsin_trigger_dead_total", "Deliveries that became dead letters, expired ones excepted.",
      Kind::kCounter, &TriggerTotal::dead);
  add("tocsin_trigger_dropped_total", "Deliveries dropped.", Kind::kCounter,
      &TriggerTotal::dropped);
  add("tocsin_trigger_expired_total", "Deliveries expired.", Kind::kCounter,
      &TriggerTotal::expired);
  add("tocsin_trigger_pending", "Matched and not settled: the backlog.", Kind::kGauge,
      &TriggerTotal::pending);
  add("tocsin_trigger_leased", "Deliveries that workers hold.", Kind::kGauge,
      &TriggerTotal::leased);
  add("tocsin_trigger_delayed", "Deliveries that wait for their next attempt.", Kind::kGauge,
      &TriggerTotal::delayed);
  add("tocsin_trigger_parked_keys", "Keys that wait for a dead letter.", Kind::kGauge,
      &TriggerTotal::parked_keys);
  add("tocsin_trigger_blocked", "Partitions on which one key blocks the trigger.", Kind::kGauge,
      &TriggerTotal::blocked);
  registry_.AddCollector(
      "tocsin_trigger_throttled", "1 while deliveries wait for the trigger's rate.", Kind::kGauge,
      [this, d = &dispatcher] {
        Samples samples;
        MutexLock lock(mutex_);
        samples.reserve(triggers_.size());
        for (const TriggerTotal& total : triggers_) {
          samples.push_back({.labels = {{"trigger", total.name}},
                             .value = total.waits && d->Throttled(total.name) ? 1.0 : 0.0});
        }
        return samples;
      });
}

}  // namespace tocsin
