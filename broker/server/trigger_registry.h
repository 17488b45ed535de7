// TriggerRegistry: the triggers in force, those of the file and those of the API, and how changes
// of single ones reach the partitions at once.
//
//   base plan (compiled, large) + overlay plan (compiled, small: what was applied since)
//        ^                               |  more than kOverlayMax
//        +---- compiled anew on the builder's thread, put in place without a pause ----+
//
// A partition matches an event against both and believes of a trigger only its newest route. What a
// change costs does not grow with the number of triggers in the base.
//
// Threading: thread-safe; the partitions hear of changes in the order in which they were made.
// Shards, dispatcher and builder outlive it.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "broker/base/executor.h"
#include "broker/base/mutex.h"
#include "broker/config/config.h"
#include "broker/partition/shards.h"
#include "broker/server/admin_service.h"
#include "dispatch/dispatcher.h"

namespace tocsin {

class TriggerRegistry {
 public:
  struct Ports {
    Shards& shards;
    Dispatcher& dispatcher;
    Executor& builder;  // a thread of its own: compiling many triggers takes its time
  };

  explicit TriggerRegistry(const Ports& ports) : ports_(ports) {}

  // Everything anew. `post`: to the partitions, too; not while they are being opened.
  void Reset(std::shared_ptr<const RoutePlan> plan, bool post);

  // Adds or replaces, and takes away; names that are not in force are passed over. Returns when the
  // partitions were told: what they are told afterwards comes behind it.
  void Change(const std::vector<TriggerConfig>& put, const std::vector<std::string>& removed);

  std::vector<PlannedRoute> Routes() const;

 private:
  void PostRebuild() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Rebuild();
  void FreeWhenUnused(std::shared_ptr<const RoutePlan> plan);

  const Ports ports_;
  mutable Mutex mutex_;
  std::shared_ptr<const RoutePlan> base_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const RoutePlan> overlay_ ABSL_GUARDED_BY(mutex_);  // may be null
  // By name, in the base or, counted on behind it, in the overlay.
  absl::flat_hash_map<std::string, std::uint32_t> in_force_ ABSL_GUARDED_BY(mutex_);
  std::uint64_t resets_ ABSL_GUARDED_BY(mutex_) = 0;
  bool rebuilding_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace tocsin
