// SourceLanes: a source whose lanes come and go while it runs, as the partitions of a topic do.
//
// Threading: Start(), MakeLane(), Gone() and Stop() on the owner's executor, where the callback
// runs too, never inside a call. problem() from any thread. A connector that MakeLane() gave does
// not outlive the object.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "connectors/source_connector.h"

namespace tocsin {

class SourceLanes {
 public:
  virtual ~SourceLanes() = default;

  // The keys of all lanes that there are now, once they are known and after each change.
  using OnLanes = absl::AnyInvocable<void(const std::vector<std::string>& keys)>;
  virtual void Start(OnLanes on_lanes) = 0;

  virtual std::unique_ptr<SourceConnector> MakeLane(const std::string& key) = 0;
  // The lane was left out of a list, what was under way is done, and its connector is destroyed.
  virtual void Gone(const std::string& key) = 0;

  // No callback runs afterwards. Then the lanes are stopped and destroyed, then this object.
  virtual void Stop() = 0;

  // Why the lanes cannot be found; OK if they can.
  virtual absl::Status problem() const = 0;
};

}  // namespace tocsin
