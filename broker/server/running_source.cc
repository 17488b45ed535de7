#include "broker/server/running_source.h"

#include <fmt/format.h>

#include <map>
#include <set>
#include <string>
#include <utility>

#include "broker/base/mutex.h"
#include "broker/base/status.h"
#include "broker/server/lane_sink.h"
#include "broker/server/source_kinds.h"
#include "connectors/source_lanes.h"
#include "connectors/source_runner.h"

namespace tocsin {
namespace {

// Members are in the order in which they need each other.
struct RunningLane {
  RunningLane(LaneId lane, const std::string& was, Shards& shards, Executor& owner,
              std::unique_ptr<SourceConnector> made)
      : connector(std::move(made)), sink(std::move(lane), was, shards, owner) {}

  const std::unique_ptr<SourceConnector> connector;
  LaneSink sink;
  std::unique_ptr<SourceRunner> runner;
};

}  // namespace

struct RunningSource::Impl : std::enable_shared_from_this<RunningSource::Impl> {
  Impl(SourceConfig source_in, const Ports& ports_in, std::unique_ptr<SourceLanes> made)
      : source(std::move(source_in)), ports(ports_in), provider(std::move(made)) {}

  void OnLanes(const std::vector<std::string>& keys);
  void StartLane(const std::string& key);
  void StopLane(const std::string& key);
  void LaneStopped(const std::string& key);
  void FinishStop();
  void Tell(const std::string& key, const absl::Status& status, bool& told);
  void TellNote(const std::string& key, const std::string& note);

  // Set at construction.
  const SourceConfig source;
  const Ports ports;
  const std::unique_ptr<SourceLanes> provider;

  // Of the owner's executor.
  std::set<std::string> wanted;
  std::set<std::string> going;  // lanes that are being stopped
  bool stopping = false;
  absl::AnyInvocable<void()> stop_done;

  mutable Mutex mutex;
  std::map<std::string, std::unique_ptr<RunningLane>> lanes ABSL_GUARDED_BY(mutex);
};

void RunningSource::Impl::Tell(const std::string& key, const absl::Status& status, bool& told) {
  if (absl::IsCancelled(status)) return;  // it was stopped
  const std::string name = key.empty() ? fmt::format("source `{}`", source.name)
                                       : fmt::format("source `{}` lane `{}`", source.name, key);
  if (!status.ok()) {
    const bool now =
        ports.log.Limited(fmt::format("source/{}/{}", source.name, key), LogLevel::kWarn, "T0208",
                          fmt::format("{} waits and tries again: {}", name, MessageOf(status)));
    told = told || now;
  } else if (std::exchange(told, false)) {
    ports.log.Info(fmt::format("{} works again", name));
  }
}

// A note that begins with a code of its own, `[T0222] ...`, is logged under that.
void RunningSource::Impl::TellNote(const std::string& key, const std::string& note) {
  const std::size_t end = note.find("] ");
  const bool coded = note.starts_with("[T") && end == 6;
  ports.log.Limited(fmt::format("note/{}/{}", source.name, key), LogLevel::kWarn,
                    coded ? note.substr(1, 5) : "T0208",
                    fmt::format("source `{}`{}: {}", source.name,
                                key.empty() ? "" : fmt::format(" lane `{}`", key),
                                coded ? note.substr(8) : note));
}

void RunningSource::Impl::StartLane(const std::string& key) {
  auto lane = std::make_unique<RunningLane>(LaneId{source.name, key}, source.was, ports.shards,
                                            ports.owner, provider->MakeLane(key));
  SourceRunnerOptions options;
  options.backoff_max = source.backoff_max;
  options.backoff_min = std::min(options.backoff_min, source.backoff_max);
  lane->runner = std::make_unique<SourceRunner>(
      options, SourceRunner::Ports{
                   .connector = *lane->connector,
                   .sink = lane->sink,
                   .executor = ports.owner,
                   .clock = ports.clock,
                   .random = ports.random,
                   .report = [this, key, told = false](
                                 const absl::Status& status) mutable { Tell(key, status, told); },
                   .note = [this, key](const std::string& note) { TellNote(key, note); }});
  lane->runner->Start();
  MutexLock lock(mutex);
  lanes[key] = std::move(lane);
}

void RunningSource::Impl::StopLane(const std::string& key) {
  SourceRunner* runner = nullptr;
  {
    MutexLock lock(mutex);
    runner = lanes.at(key)->runner.get();
  }
  going.insert(key);
  runner->Stop([self = shared_from_this(), key] {
    // Not here: this is still a call of the lane that is to be destroyed.
    self->ports.owner.Post([self, key] { self->LaneStopped(key); });
  });
}

void RunningSource::Impl::LaneStopped(const std::string& key) {
  {
    std::unique_ptr<RunningLane> gone;
    MutexLock lock(mutex);
    const auto found = lanes.find(key);
    gone = std::move(found->second);
    lanes.erase(found);
    // A stopped lane of a stopping source is shown until the source itself is gone.
  }
  going.erase(key);
  provider->Gone(key);
  if (stopping) return FinishStop();
  if (wanted.contains(key)) StartLane(key);
}

void RunningSource::Impl::OnLanes(const std::vector<std::string>& keys) {
  if (stopping) return;
  wanted = std::set<std::string>(keys.begin(), keys.end());
  std::vector<std::string> to_stop;
  std::vector<std::string> to_start;
  {
    MutexLock lock(mutex);
    for (const auto& [key, lane] : lanes) {
      if (!wanted.contains(key) && !going.contains(key)) to_stop.push_back(key);
    }
    for (const std::string& key : wanted) {
      if (!lanes.contains(key)) to_start.push_back(key);
    }
  }
  for (const std::string& key : to_stop) StopLane(key);
  for (const std::string& key : to_start) StartLane(key);
}

void RunningSource::Impl::FinishStop() {
  {
    MutexLock lock(mutex);
    if (!lanes.empty() || stop_done == nullptr) return;
  }
  auto done = std::exchange(stop_done, nullptr);
  done();
}

absl::StatusOr<std::unique_ptr<RunningSource>> RunningSource::Make(const SourceConfig& source,
                                                                   const Ports& ports) {
  TOCSIN_ASSIGN_OR_RETURN(std::unique_ptr<SourceLanes> lanes,
                          MakeSourceLanes(source, ports.clock, ports.owner));
  return std::unique_ptr<RunningSource>(
      new RunningSource(std::make_shared<Impl>(source, ports, std::move(lanes))));
}

RunningSource::RunningSource(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
RunningSource::~RunningSource() = default;

const SourceConfig& RunningSource::config() const { return impl_->source; }

void RunningSource::Start() {
  impl_->ports.owner.Post([impl = impl_] {
    if (impl->stopping) return;
    impl->provider->Start([weak = std::weak_ptr(impl)](const std::vector<std::string>& keys) {
      if (const auto alive = weak.lock()) alive->OnLanes(keys);
    });
  });
}

void RunningSource::Stop(absl::AnyInvocable<void()> done) {
  impl_->ports.owner.Post([impl = impl_, done = std::move(done)]() mutable {
    impl->stopping = true;
    impl->stop_done = std::move(done);
    impl->provider->Stop();
    std::vector<std::string> to_stop;
    {
      MutexLock lock(impl->mutex);
      for (const auto& [key, lane] : impl->lanes) {
        if (!impl->going.contains(key)) to_stop.push_back(key);
      }
    }
    for (const std::string& key : to_stop) impl->StopLane(key);
    impl->FinishStop();
  });
}

void RunningSource::Describe(v1::ListSourcesResponse& response) const {
  const std::string kind(KindOfSource(impl_->source.spec));
  const absl::Status problem = impl_->provider->problem();
  MutexLock lock(impl_->mutex);
  if (impl_->lanes.empty()) {
    v1::SourceStatus& status = *response.add_sources();
    status.set_name(impl_->source.name);
    status.set_kind(kind);
    status.set_state(problem.ok() ? "connecting" : "waiting");
    status.set_last_error(std::string(MessageOf(problem)));
  }
  for (const auto& [key, lane] : impl_->lanes) {
    const SourceStatus runner = lane->runner->status();
    const LaneReport report = lane->connector->report();
    v1::SourceStatus& status = *response.add_sources();
    status.set_name(impl_->source.name);
    status.set_kind(kind);
    status.set_state(std::string(SourceStateName(runner.state)));
    status.set_lane(key);
    status.set_partition(lane->sink.partition().value());
    status.set_skipped(report.skipped);
    status.set_position(report.position);
    if (report.lag) status.set_lag(*report.lag);
    status.set_undecodable(runner.undecodable);
    status.set_last_error(!runner.last_error.empty() ? runner.last_error
                          : !report.note.empty()     ? report.note
                                                     : std::string(MessageOf(problem)));
  }
}

void RunningSource::Sample(std::vector<ServerMetrics::SourceSample>& samples) const {
  MutexLock lock(impl_->mutex);
  for (const auto& [key, lane] : impl_->lanes) {
    const SourceStatus status = lane->runner->status();
    const LaneReport report = lane->connector->report();
    samples.push_back({.name = impl_->source.name,
                       .lane = key,
                       .state = std::string(SourceStateName(status.state)),
                       .errors = status.errors,
                       .events = status.events,
                       .undecodable = status.undecodable,
                       .refused = status.refused,
                       .skipped = report.skipped,
                       .lag = report.lag,
                       .held_bytes = report.held_bytes,
                       .snapshot_tables_left = report.snapshot_tables_left,
                       .snapshot_rows = report.snapshot_rows});
  }
}

}  // namespace tocsin
