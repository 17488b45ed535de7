#include "broker/server/source_set.h"

#include <fmt/format.h>

#include <future>
#include <map>
#include <string>
#include <utility>
#include <variant>

#include "broker/base/mutex.h"
#include "broker/base/random.h"
#include "broker/base/status.h"
#include "broker/base/thread_executor.h"
#include "broker/server/lane_sink.h"
#include "connectors/file/file_connector.h"
#include "connectors/file/system_tree.h"
#include "connectors/source_runner.h"

namespace tocsin {
namespace {

// One configured source at work. Members are in the order in which they need each other.
struct RunningFile {
  RunningFile(const SourceConfig& source, const FileSpec& file, std::unique_ptr<DirectoryTree> made,
              Shards& shards, const Clock& clock, Executor& owner)
      : spec(file),
        was(source.was),
        tree(std::move(made)),
        lane(fmt::format("f-{}", source.name), clock),
        connector(file, {.tree = *tree, .clock = clock, .owner = owner, .lane = lane}),
        sink(LaneId{source.name, ""}, source.was, shards, owner) {}

  const FileSpec spec;
  const std::string was;
  const std::unique_ptr<DirectoryTree> tree;
  ThreadExecutor lane;
  FileConnector connector;
  LaneSink sink;
  std::unique_ptr<SourceRunner> runner;
};

}  // namespace

struct SourceSet::Impl {
  explicit Impl(const Ports& ports_in)
      : ports(ports_in), owner("sources", ports.clock), random(SystemSeed()) {}

  void Start(const SourceConfig& source, const FileSpec& file);
  // Waits until each has stopped.
  static void StopAll(std::map<std::string, std::unique_ptr<RunningFile>> stopping);

  const Ports ports;
  ThreadExecutor owner;
  SeededRandom random;  // of the owner's thread
  mutable Mutex mutex;
  std::map<std::string, std::unique_ptr<RunningFile>> files ABSL_GUARDED_BY(mutex);
};

void SourceSet::Impl::Start(const SourceConfig& source, const FileSpec& file) {
  absl::StatusOr<std::unique_ptr<DirectoryTree>> tree = MakeSystemTree(file.path, ports.clock);
  if (!tree.ok()) {
    ports.log.Error("T0208", fmt::format("source `{}` was not started: {}", source.name,
                                         MessageOf(tree.status())));
    return;
  }
  auto running = std::make_unique<RunningFile>(source, file, *std::move(tree), ports.shards,
                                               ports.clock, owner);
  running->runner = std::make_unique<SourceRunner>(
      SourceRunnerOptions(),
      SourceRunner::Ports{
          .connector = running->connector,
          .sink = running->sink,
          .executor = owner,
          .clock = ports.clock,
          .random = random,
          .report = [this, name = source.name, told = false](const absl::Status& status) mutable {
            if (absl::IsCancelled(status)) return;  // it was stopped
            if (!status.ok()) {
              const bool now = ports.log.Limited(
                  fmt::format("source/{}", name), LogLevel::kWarn, "T0208",
                  fmt::format("source `{}` waits and tries again: {}", name, MessageOf(status)));
              told = told || now;
            } else if (std::exchange(told, false)) {
              ports.log.Info(fmt::format("source `{}` works again", name));
            }
          }});
  running->runner->Start();
  MutexLock lock(mutex);
  files[source.name] = std::move(running);
}

void SourceSet::Impl::StopAll(std::map<std::string, std::unique_ptr<RunningFile>> stopping) {
  std::map<std::string, std::promise<void>> stopped;
  for (auto& [name, file] : stopping) {
    std::promise<void>& promise = stopped[name];
    file->runner->Stop([&promise] { promise.set_value(); });
  }
  for (auto& [name, promise] : stopped) promise.get_future().wait();
}

SourceSet::SourceSet(const Ports& ports) : impl_(std::make_unique<Impl>(ports)) {}
SourceSet::~SourceSet() { Stop(); }

void SourceSet::Apply(const std::vector<SourceConfig>& sources) {
  std::map<std::string, const SourceConfig*> wanted;
  for (const SourceConfig& source : sources) {
    if (std::holds_alternative<FileSpec>(source.spec)) wanted.emplace(source.name, &source);
  }
  std::map<std::string, std::unique_ptr<RunningFile>> stopping;
  {
    MutexLock lock(impl_->mutex);
    for (auto it = impl_->files.begin(); it != impl_->files.end();) {
      const auto found = wanted.find(it->first);
      if (found != wanted.end() && std::get<FileSpec>(found->second->spec) == it->second->spec) {
        wanted.erase(found);
        ++it;
      } else {
        stopping.emplace(it->first, std::move(it->second));
        it = impl_->files.erase(it);
      }
    }
  }
  Impl::StopAll(std::move(stopping));
  for (const auto& [name, source] : wanted) {
    impl_->Start(*source, std::get<FileSpec>(source->spec));
  }
}

void SourceSet::Stop() {
  std::map<std::string, std::unique_ptr<RunningFile>> stopping;
  {
    MutexLock lock(impl_->mutex);
    stopping.swap(impl_->files);
  }
  Impl::StopAll(std::move(stopping));
}

void SourceSet::Describe(v1::ListSourcesResponse& response) const {
  MutexLock lock(impl_->mutex);
  for (const auto& [name, file] : impl_->files) {
    const SourceStatus runner = file->runner->status();
    const FileSourceCounts counts = file->connector.counts();
    v1::SourceStatus& status = *response.add_sources();
    status.set_name(name);
    status.set_kind("file");
    status.set_state(std::string(SourceStateName(runner.state)));
    status.set_partition(file->sink.partition().value());
    status.set_skipped(counts.skipped);
    status.set_position(
        fmt::format("{} files seen{}", counts.remembered,
                    counts.waiting == 0 ? "" : fmt::format(", {} not complete", counts.waiting)));
    status.set_last_error(runner.last_error.empty() ? counts.note : runner.last_error);
  }
}

std::vector<ServerMetrics::SourceSample> SourceSet::Samples() const {
  std::vector<ServerMetrics::SourceSample> samples;
  MutexLock lock(impl_->mutex);
  for (const auto& [name, file] : impl_->files) {
    const SourceStatus status = file->runner->status();
    samples.push_back({.name = name,
                       .state = std::string(SourceStateName(status.state)),
                       .errors = status.errors});
  }
  return samples;
}

}  // namespace tocsin
