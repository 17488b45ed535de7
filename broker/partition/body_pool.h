// BodyPool: memory of batches' bodies that nobody reads any more, for those to come: fresh memory
// of this size costs a page fault for every 4 KiB.
//
// Threading: thread-safe; the last reader of a body may be on any thread.

#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/mutex.h"

namespace tocsin {

class BodyPool : public std::enable_shared_from_this<BodyPool> {
 public:
  static constexpr std::size_t kBodiesMax = 8;
  static constexpr std::size_t kBodyBytesMax = std::size_t{1} << 20;

  // An empty string, with memory if there is some.
  std::string Take() {
    const MutexLock lock(mutex_);
    if (free_.empty()) return {};
    std::string body = std::move(free_.back());
    free_.pop_back();
    return body;
  }

  // The body, whose memory comes back when its last reader is done.
  std::shared_ptr<const std::string> Share(std::string body) {
    return {new std::string(std::move(body)), [pool = weak_from_this()](const std::string* used) {
              const std::unique_ptr<std::string> owned(const_cast<std::string*>(used));
              if (const auto alive = pool.lock()) alive->Give(std::move(*owned));
            }};
  }

 private:
  void Give(std::string body) {
    body.clear();
    if (body.capacity() > kBodyBytesMax) return;
    const MutexLock lock(mutex_);
    if (free_.size() < kBodiesMax) free_.push_back(std::move(body));
  }

  Mutex mutex_;
  std::vector<std::string> free_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tocsin
