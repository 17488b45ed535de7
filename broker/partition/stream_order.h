// StreamOrder: one publisher's stream and the partitions that refused it for want of room. What
// comes later for them is refused too until the client re-sends from the refused request, so that
// the order of a key survives.
//
// A refusal is noted where it is decided, and looked at there again: what was handed to the
// partition's mailbox before does not pass it, also when the client has begun anew meanwhile.
//
// Threading: thread-safe.

#pragma once

#include <cstdint>
#include <vector>

#include "broker/base/ids.h"
#include "broker/base/mutex.h"

namespace tocsin {

class StreamOrder {
 public:
  static constexpr const char* kLate =
      "an earlier request of this stream was refused by the partition: send again from that one, "
      "with from_refused";

  explicit StreamOrder(std::uint32_t partitions) : refusing_(partitions, false) {}

  // Of what is handed in now.
  std::uint64_t epoch() const {
    MutexLock lock(mutex_);
    return epoch_;
  }
  bool IsRefusing(PartitionId partition) const {
    MutexLock lock(mutex_);
    return refusing_[partition.value()];
  }
  // Whether what was handed in then comes behind a refusal.
  bool IsLate(PartitionId partition, std::uint64_t epoch) const {
    MutexLock lock(mutex_);
    return refusing_[partition.value()] || epoch != epoch_;
  }
  void Refuse(PartitionId partition) {
    MutexLock lock(mutex_);
    refusing_[partition.value()] = true;
  }
  // The client sends again from what was refused.
  void Reset() {
    MutexLock lock(mutex_);
    refusing_.assign(refusing_.size(), false);
    ++epoch_;
  }

 private:
  mutable Mutex mutex_;
  std::vector<bool> refusing_ ABSL_GUARDED_BY(mutex_);
  std::uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tocsin
