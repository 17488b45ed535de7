// RunningSource: one configured source at work: its lanes, each with connector, sink and runner.
//
// Threading: Start() and Stop() once each, from any thread; Describe() and Sample() from any. The
// owner's executor, on which all else happens, outlives it; it is destroyed after Stop()'s `done`,
// not by it.

#pragma once

#include <memory>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/base/random.h"
#include "broker/config/config.h"
#include "broker/partition/shards.h"
#include "broker/server/log.h"
#include "broker/server/server_metrics.h"
#include "tocsin/v1/admin.pb.h"

namespace tocsin {

class RunningSource {
 public:
  // Outlive the source.
  struct Ports {
    Shards& shards;
    const Clock& clock;
    Log& log;
    Executor& owner;
    Random& random;  // of the owner's executor
  };

  // Any kind but `timer`. An error if the machine lacks what the kind needs.
  static absl::StatusOr<std::unique_ptr<RunningSource>> Make(const SourceConfig& source,
                                                             const Ports& ports);
  ~RunningSource();
  RunningSource(const RunningSource&) = delete;
  RunningSource& operator=(const RunningSource&) = delete;

  const SourceConfig& config() const;

  void Start();
  // `done` on the owner's executor, when every lane is detached.
  void Stop(absl::AnyInvocable<void()> done);

  void Describe(v1::ListSourcesResponse& response) const;
  void Sample(std::vector<ServerMetrics::SourceSample>& samples) const;

 private:
  struct Impl;
  explicit RunningSource(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace tocsin
