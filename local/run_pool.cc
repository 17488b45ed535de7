#include "local/run_pool.h"

#include <algorithm>

namespace tocsin {

void RunPool::SetLoad(std::uint64_t queued, std::uint64_t in_flight) {
  queued_ = queued;
  in_flight_ = in_flight;
}

std::uint32_t RunPool::Wanted() const {
  const std::uint64_t load = queued_ + in_flight_;
  const std::uint64_t with_spare = load == 0 ? 0 : load + options_.warm;
  return static_cast<std::uint32_t>(
      std::clamp<std::uint64_t>(with_spare, options_.min, options_.max));
}

RunPool::Decision RunPool::Decide(Instant now) {
  Decision decision;
  const std::uint32_t wanted = Wanted();
  if (running() < wanted) {
    surplus_since_.reset();
    if (now >= start_at_) {
      // After a crash one first: it shows whether the next would live.
      decision.start = crashes_ > 0 ? 1 : wanted - running();
    } else {
      decision.next = start_at_;
    }
    return decision;
  }
  if (running() == wanted) {
    surplus_since_.reset();
    return decision;
  }
  if (!surplus_since_) surplus_since_ = now;
  if (now - *surplus_since_ < options_.idle) {
    decision.next = *surplus_since_ + options_.idle;
    return decision;
  }
  surplus_since_.reset();
  while (running() > wanted) {
    const auto youngest =
        std::max_element(running_.begin(), running_.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    decision.stop.push_back(youngest->first);
    stopping_.insert(*youngest);
    running_.erase(youngest);
  }
  return decision;
}

void RunPool::Started(Id id, Instant now) { running_[id] = now; }

void RunPool::StartFailed(Instant now) {
  ++crashes_;
  BackOff(now);
}

bool RunPool::Ended(Id id, Instant now) {
  if (stopping_.erase(id) > 0) return false;
  const auto found = running_.find(id);
  if (found == running_.end()) return false;
  const bool lived = now - found->second >= options_.steady;
  running_.erase(found);
  if (lived) {
    crashes_ = 0;
    backoff_ = Duration::zero();
    return false;
  }
  ++crashes_;
  BackOff(now);
  return crashes_ == options_.loop_after;
}

void RunPool::BackOff(Instant now) {
  backoff_ = std::clamp(2 * backoff_, options_.backoff_min, options_.backoff_max);
  start_at_ = now + backoff_;
}

std::vector<RunPool::Id> RunPool::All() const {
  std::vector<Id> all;
  for (const auto& [id, since] : running_) all.push_back(id);
  for (const auto& [id, since] : stopping_) all.push_back(id);
  return all;
}

}  // namespace tocsin
