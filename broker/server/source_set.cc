#include "broker/server/source_set.h"

#include <fmt/format.h>

#include <map>
#include <string>
#include <utility>
#include <variant>

#include "broker/base/mutex.h"

namespace tocsin {

struct SourceSet::Impl {
  explicit Impl(const Ports& ports_in) : ports(ports_in) {}

  const Ports ports;
  mutable Mutex mutex;
  std::map<std::string, FileSpec> files ABSL_GUARDED_BY(mutex);
};

SourceSet::SourceSet(const Ports& ports) : impl_(std::make_unique<Impl>(ports)) {}
SourceSet::~SourceSet() { Stop(); }

void SourceSet::Apply(const std::vector<SourceConfig>& sources) {
  std::map<std::string, FileSpec> files;
  for (const SourceConfig& source : sources) {
    const auto* file = std::get_if<FileSpec>(&source.spec);
    if (file == nullptr) continue;
    files.emplace(source.name, *file);
  }
  MutexLock lock(impl_->mutex);
  impl_->files = std::move(files);
}

void SourceSet::Stop() {
  MutexLock lock(impl_->mutex);
  impl_->files.clear();
}

void SourceSet::Describe(v1::ListSourcesResponse& response) const {
  MutexLock lock(impl_->mutex);
  for (const auto& [name, spec] : impl_->files) {
    v1::SourceStatus& status = *response.add_sources();
    status.set_name(name);
    status.set_kind("file");
    status.set_state("stopped");
  }
}

std::vector<ServerMetrics::SourceSample> SourceSet::Samples() const {
  std::vector<ServerMetrics::SourceSample> samples;
  MutexLock lock(impl_->mutex);
  for (const auto& [name, spec] : impl_->files) {
    samples.push_back({.name = name, .state = "stopped", .errors = 0});
  }
  return samples;
}

}  // namespace tocsin
