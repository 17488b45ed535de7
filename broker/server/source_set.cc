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
#include "broker/server/running_source.h"

namespace tocsin {
namespace {

using SourceMap = std::map<std::string, std::unique_ptr<RunningSource>>;

bool SameSource(const SourceConfig& a, const SourceConfig& b) {
  return a.spec == b.spec && a.backoff_max == b.backoff_max;
}

}  // namespace

struct SourceSet::Impl {
  explicit Impl(const Ports& ports_in)
      : ports(ports_in), owner("sources", ports.clock), random(SystemSeed()) {}

  void Start(const SourceConfig& source);
  // Waits until each has stopped.
  static void StopAll(SourceMap stopping);

  const Ports ports;
  ThreadExecutor owner;
  SeededRandom random;  // of the owner's thread
  mutable Mutex mutex;
  SourceMap sources ABSL_GUARDED_BY(mutex);
};

void SourceSet::Impl::Start(const SourceConfig& source) {
  auto made = RunningSource::Make(source, {.shards = ports.shards,
                                           .clock = ports.clock,
                                           .log = ports.log,
                                           .owner = owner,
                                           .random = random});
  if (!made.ok()) {
    ports.log.Error("T0208", fmt::format("source `{}` was not started: {}", source.name,
                                         MessageOf(made.status())));
    return;
  }
  (*made)->Start();
  MutexLock lock(mutex);
  sources[source.name] = *std::move(made);
}

void SourceSet::Impl::StopAll(SourceMap stopping) {
  std::map<std::string, std::promise<void>> stopped;
  for (auto& [name, source] : stopping) {
    std::promise<void>& promise = stopped[name];
    source->Stop([&promise] { promise.set_value(); });
  }
  for (auto& [name, promise] : stopped) promise.get_future().wait();
}

SourceSet::SourceSet(const Ports& ports) : impl_(std::make_unique<Impl>(ports)) {}
SourceSet::~SourceSet() { Stop(); }

void SourceSet::Apply(const std::vector<SourceConfig>& sources) {
  std::map<std::string, const SourceConfig*> wanted;
  for (const SourceConfig& source : sources) {
    if (!std::holds_alternative<TimerSpec>(source.spec)) wanted.emplace(source.name, &source);
  }
  SourceMap stopping;
  {
    MutexLock lock(impl_->mutex);
    for (auto it = impl_->sources.begin(); it != impl_->sources.end();) {
      const auto found = wanted.find(it->first);
      if (found != wanted.end() && SameSource(*found->second, it->second->config())) {
        wanted.erase(found);
        ++it;
      } else {
        stopping.emplace(it->first, std::move(it->second));
        it = impl_->sources.erase(it);
      }
    }
  }
  Impl::StopAll(std::move(stopping));
  for (const auto& [name, source] : wanted) impl_->Start(*source);
}

bool SourceSet::StopOne(const std::string& name) {
  SourceMap stopping;
  {
    MutexLock lock(impl_->mutex);
    const auto found = impl_->sources.find(name);
    if (found == impl_->sources.end()) return false;
    stopping.insert(impl_->sources.extract(found));
  }
  Impl::StopAll(std::move(stopping));
  return true;
}

void SourceSet::Stop() {
  SourceMap stopping;
  {
    MutexLock lock(impl_->mutex);
    stopping.swap(impl_->sources);
  }
  Impl::StopAll(std::move(stopping));
}

void SourceSet::Describe(v1::ListSourcesResponse& response) const {
  MutexLock lock(impl_->mutex);
  for (const auto& [name, source] : impl_->sources) source->Describe(response);
}

std::vector<ServerMetrics::SourceSample> SourceSet::Samples() const {
  std::vector<ServerMetrics::SourceSample> samples;
  MutexLock lock(impl_->mutex);
  for (const auto& [name, source] : impl_->sources) source->Sample(samples);
  return samples;
}

}  // namespace tocsin
