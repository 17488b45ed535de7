#include "dispatch/worker_session.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "broker/base/check.h"
#include "dispatch/dispatcher_impl.h"

namespace tocsin {
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

using Batches = std::vector<std::pair<PartitionId, AnswerBatch>>;

// A frame concerns a few partitions: looking through them is faster than any table.
AnswerBatch& BatchFor(Batches& batches, PartitionId partition, SessionId session) {
  for (auto& [id, batch] : batches) {
    if (id == partition) return batch;
  }
  AnswerBatch& batch = batches.emplace_back(partition, AnswerBatch{}).second;
  batch.session = session;
  return batch;
}

// Runs `confirmed` when each batch that settles something has run its part.
void Confirm(Batches& batches, std::function<void()> confirmed) {
  std::vector<AnswerBatch*> settling;
  for (auto& [id, batch] : batches) {
    if (!batch.acked.empty() || !batch.others.empty()) settling.push_back(&batch);
  }
  if (settling.empty()) {
    confirmed();
  } else if (settling.size() == 1) {
    settling.front()->confirmed = std::move(confirmed);
  } else {
    struct Countdown {
      std::atomic<std::size_t> left;
      std::function<void()> then;
    };
    auto countdown = std::make_shared<Countdown>();
    countdown->left = settling.size();
    countdown->then = std::move(confirmed);
    for (AnswerBatch* batch : settling) {
      batch->confirmed = [countdown] {
        if (countdown->left.fetch_sub(1) == 1) countdown->then();
      };
    }
  }
}

}  // namespace

WorkerSession::WorkerSession(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
WorkerSession::~WorkerSession() = default;

SessionId WorkerSession::id() const { return impl_->id; }
const SessionHello& WorkerSession::hello() const { return impl_->hello; }

std::uint64_t WorkerSession::OnAnswers(FrameAnswers answers, Instant now,
                                       std::function<void()> confirmed) {
  Impl& s = *impl_;
  Batches batches;
  std::vector<Finished> finished;
  std::uint64_t stale = 0;
  {
    MutexLock lock(s.mutex);
    s.last_heard = std::max(s.last_heard, now);
    s.started_through =
        std::max(s.started_through, std::min(answers.started_through, s.next_handle - 1));
    // The slot leaves the session; false if its lease had ended.
    const auto finish = [&](std::uint64_t handle,
                            const Impl::Slot& slot) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      finished.push_back(Finished{slot.trigger, slot.charged, !slot.ended, true});
      s.in_flight_bytes -= slot.bytes;
      const bool live = !slot.ended;
      s.slots.Erase(handle);
      return live;
    };
    const auto ack = [&](std::uint64_t handle) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      const Impl::Slot* found = s.slots.Find(handle);
      if (found == nullptr) return false;
      const Impl::Slot slot = *found;
      if (!finish(handle, slot)) return false;
      BatchFor(batches, slot.partition, s.id).acked.push_back(slot.delivery);
      ++s.acked;
      return true;
    };
    for (const HandleRange& range : answers.acked) {
      if (range.last < range.first) continue;
      const std::uint64_t asked = range.last - range.first;  // one less, so that it cannot overflow
      const std::uint64_t first = std::max<std::uint64_t>(range.first, 1);
      const std::uint64_t last = std::min(range.last, s.next_handle - 1);
      std::uint64_t applied = 0;
      if (first <= last && last - first < 2 * s.slots.size() + 16) {
        for (std::uint64_t handle = first; handle <= last; ++handle) {
          if (ack(handle)) ++applied;
        }
      } else if (first <= last) {  // long: only what is held is looked at
        std::vector<std::uint64_t> held;
        s.slots.ForEach([&](std::uint64_t handle, const Impl::Slot&) {
          if (handle >= first && handle <= last) held.push_back(handle);
        });
        for (const std::uint64_t handle : held) {
          if (ack(handle)) ++applied;
        }
      }
      const std::uint64_t missed = applied > 0 ? asked - (applied - 1) : asked;
      const std::uint64_t count = applied > 0 || asked == kUnlimited ? missed : missed + 1;
      stale = stale > kUnlimited - count ? kUnlimited : stale + count;
    }
    for (HandleAnswer& answer : answers.others) {
      const Impl::Slot* found = s.slots.Find(answer.handle);
      const bool known = found != nullptr &&
                         (answer.token == FencingToken() || answer.token == found->delivery.token);
      if (!known) {
        ++stale;
        continue;
      }
      const Impl::Slot slot = *found;
      if (!finish(answer.handle, slot)) {
        ++stale;
        continue;
      }
      if (std::holds_alternative<Ack>(answer.outcome)) ++s.acked;
      if (std::holds_alternative<Retry>(answer.outcome)) ++s.retried;
      if (std::holds_alternative<Reject>(answer.outcome)) ++s.rejected;
      if (std::holds_alternative<Drop>(answer.outcome)) ++s.dropped;
      AnswerBatch& batch = BatchFor(batches, slot.partition, s.id);
      if (std::holds_alternative<Ack>(answer.outcome) && answer.emitted.empty()) {
        batch.acked.push_back(slot.delivery);
      } else {
        batch.others.push_back(
            DeliveryAnswer{slot.delivery, std::move(answer.outcome), std::move(answer.emitted)});
      }
    }
    for (const HandleExtend& extend : answers.extends) {
      const Impl::Slot* found = s.slots.Find(extend.handle);
      if (found == nullptr || found->ended) {
        ++stale;
        continue;
      }
      BatchFor(batches, found->partition, s.id)
          .extends.push_back(ExtendRequest{found->delivery, extend.by});
    }
    s.stale = s.stale > kUnlimited - stale ? kUnlimited : s.stale + stale;
  }
  if (confirmed) Confirm(batches, std::move(confirmed));
  for (auto& [partition, batch] : batches) {
    s.dispatcher.answers.OnAnswers(partition, std::move(batch));
  }
  if (!finished.empty()) s.dispatcher.Finish(*this, finished);
  return stale;
}

void WorkerSession::OnCredit(const Credit& credit, Instant now) {
  OnHeartbeat(now);
  impl_->dispatcher.SetCredit(*this, credit);
}

void WorkerSession::OnHeartbeat(Instant now) {
  MutexLock lock(impl_->mutex);
  impl_->last_heard = std::max(impl_->last_heard, now);
}

void WorkerSession::OnLeaving(Instant now) {
  OnHeartbeat(now);
  impl_->dispatcher.Leave(*this);
}

bool WorkerSession::Deliver(const Grant& grant, PartitionId partition,
                            std::span<OutgoingDelivery> deliveries) {
  TOCSIN_CHECK(deliveries.size() <= grant.count, "{} deliveries on a grant of {}",
               deliveries.size(), grant.count);
  Impl& s = *impl_;
  if (s.Send(grant, partition, deliveries)) return true;
  s.dispatcher.NotSent(grant, deliveries.size());
  return false;
}

bool WorkerSession::Impl::Send(const Grant& grant, PartitionId partition,
                               std::span<OutgoingDelivery> deliveries) {
  MutexLock lock(mutex);
  if (ended) return false;
  if (deliveries.empty()) return true;
  std::uint64_t left = grant.bytes == kUnlimited ? 0 : grant.bytes;
  for (OutgoingDelivery& delivery : deliveries) {
    delivery.handle = next_handle++;
    const std::uint64_t bytes = delivery.event.size();
    const std::uint64_t charged = std::min(bytes, left);
    left -= charged;
    in_flight_bytes += bytes;
    slots.Add(delivery.handle,
              Slot{partition, DeliveryRef{delivery.id.trigger, delivery.offset, delivery.token},
                   grant.trigger, charged, bytes, false});
  }
  delivered += deliveries.size();
  link->Deliver(grant.function, deliveries);
  return true;
}

void WorkerSession::LeaseEnded(std::span<const std::uint64_t> handles) {
  Impl& s = *impl_;
  std::vector<std::uint64_t> cancelled;
  std::vector<Finished> finished;
  {
    MutexLock lock(s.mutex);
    if (s.ended) return;
    for (const std::uint64_t handle : handles) {
      Impl::Slot* found = s.slots.Find(handle);
      if (found == nullptr || found->ended) continue;
      found->ended = true;
      cancelled.push_back(handle);
      finished.push_back(Finished{found->trigger, 0, true, false});
    }
    if (!cancelled.empty()) s.link->Cancel(cancelled);
  }
  if (!finished.empty()) s.dispatcher.Finish(*this, finished);
}

}  // namespace tocsin
