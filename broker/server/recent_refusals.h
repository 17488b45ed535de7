// RecentRefusals: the last events that were not taken, for `tocsin explain`: refused, or repeats of
// one that is stored. In memory alone; the oldest go first.
//
// Threading: thread-safe.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "broker/base/clock.h"
#include "broker/base/ids.h"
#include "broker/base/mutex.h"

namespace tocsin {

struct Refusal {
  WallTime at;
  std::string source;  // the event's
  std::string id;
  std::string type;
  std::string lane;  // the configured source that brought it; empty: it was published
  PartitionId partition;
  std::optional<Offset> first;  // of a repeat: where its first is
  std::string reason;           // else
};

class RecentRefusals {
 public:
  explicit RecentRefusals(std::size_t count_max = 10'000) : count_max_(count_max) {}

  // `event` is encoded, perhaps malformed: what cannot be read of it stays empty. Long texts are
  // cut.
  void Add(std::string_view event, Refusal refusal);

  // Newest first, at most `limit`; an empty `source` is any.
  std::vector<Refusal> Find(std::string_view id, std::string_view source, std::size_t limit) const;

 private:
  const std::size_t count_max_;
  mutable Mutex mutex_;
  std::vector<Refusal> ring_ ABSL_GUARDED_BY(mutex_);
  std::size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tocsin
