// SourceSet: the configured sources that need a connector, running. Timers are not among them: they
// are schedules of the partitions (plan_builder.h).
//
// Threading: Apply, StopOne and Stop on one thread at a time; Describe and Samples on any.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "broker/base/clock.h"
#include "broker/config/config.h"
#include "broker/partition/shards.h"
#include "broker/server/log.h"
#include "broker/server/server_metrics.h"
#include "tocsin/v1/admin.pb.h"

namespace tocsin {

class SourceSet {
 public:
  // Outlive the set.
  struct Ports {
    Shards& shards;
    const Clock& clock;
    Log& log;
  };

  explicit SourceSet(const Ports& ports);
  ~SourceSet();  // Stop()
  SourceSet(const SourceSet&) = delete;
  SourceSet& operator=(const SourceSet&) = delete;

  // Starts what is new, stops what is gone, and restarts what changed; the others notice nothing.
  void Apply(const std::vector<SourceConfig>& sources);

  // Stops one, until the next Apply(); false if there is none of that name.
  bool StopOne(const std::string& name);

  // Every lane is detached when it returns, and nothing is appended any more. Idempotent.
  void Stop();

  void Describe(v1::ListSourcesResponse& response) const;
  std::vector<ServerMetrics::SourceSample> Samples() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tocsin
