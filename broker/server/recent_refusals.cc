#include "broker/server/recent_refusals.h"

#include <utility>

#include "broker/base/event.h"

namespace tocsin {
namespace {

constexpr std::size_t kTextBytesMax = 512;

std::string Cut(std::string_view text) { return std::string(text.substr(0, kTextBytesMax)); }

}  // namespace

void RecentRefusals::Add(std::string_view event, Refusal refusal) {
  EventView view;
  // An invalid one is read as far as it goes: its id is what it will be asked for by.
  (void)ParseEvent(event, view).ok();
  refusal.source = Cut(view.source);
  refusal.id = Cut(view.id);
  refusal.type = Cut(view.type);
  refusal.reason = Cut(refusal.reason);
  const MutexLock lock(mutex_);
  if (ring_.size() < count_max_) {
    ring_.push_back(std::move(refusal));
    return;
  }
  ring_[next_] = std::move(refusal);
  next_ = (next_ + 1) % count_max_;
}

std::vector<Refusal> RecentRefusals::Find(std::string_view id, std::string_view source,
                                          std::size_t limit) const {
  std::vector<Refusal> found;
  const std::string_view cut = id.substr(0, kTextBytesMax);
  const MutexLock lock(mutex_);
  for (std::size_t i = 0; i < ring_.size() && found.size() < limit; ++i) {
    const std::size_t newest = (next_ + ring_.size() - 1 - i) % ring_.size();
    const Refusal& refusal = ring_[newest];
    if (refusal.id == cut &&
        (source.empty() || refusal.source == source.substr(0, kTextBytesMax))) {
      found.push_back(refusal);
    }
  }
  return found;
}

}  // namespace tocsin
