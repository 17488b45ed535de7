// The Dispatcher's sessions: coming, going, and what is told of them.

#include <algorithm>

#include "broker/base/check.h"
#include "dispatch/dispatcher.h"
#include "dispatch/dispatcher_impl.h"

namespace tocsin {

std::shared_ptr<WorkerSession> Dispatcher::Attach(const SessionHello& hello,
                                                  std::shared_ptr<WorkerLink> link, Instant now) {
  Impl::Wakes wakes;
  std::shared_ptr<WorkerSession> session;
  std::string drain;
  bool draining = false;
  {
    MutexLock lock(impl_->mutex);
    auto made = std::make_unique<WorkerSession::Impl>(*impl_, SessionId(++impl_->last_session),
                                                      hello, std::move(link), now);
    SessionLoad& load = made->load;
    load.credit = hello.credit;
    draining = impl_->draining;
    load.closed = draining;
    drain = impl_->drain_reason;
    session.reset(new WorkerSession(std::move(made)));
    for (const std::string& name : hello.functions) {
      FunctionState& function = impl_->Function(name);
      if (std::find(load.functions.begin(), load.functions.end(), &function) !=
          load.functions.end()) {
        continue;
      }
      load.functions.push_back(&function);
      load.waiters += function.waiting.size();
      function.sessions.push_back(session);
      function.unserved_told = false;
    }
    impl_->sessions.push_back(session);
    impl_->LoadChanged(load, wakes);
  }
  if (draining) {
    MutexLock lock(session->impl_->mutex);
    session->impl_->link->Drain(drain);
  }
  impl_->WakeAll(wakes);
  return session;
}

void Dispatcher::Detach(const std::shared_ptr<WorkerSession>& session, bool clean) {
  WorkerSession::Impl& s = *session->impl_;
  std::vector<std::pair<PartitionId, AnswerBatch>> batches;
  {
    MutexLock lock(s.mutex);
    if (s.ended) return;
    s.ended = true;
    // In the order of delivery, so that each partition sees its own in order.
    const std::uint64_t started_through = s.started_through;
    s.slots.ForEach([&](std::uint64_t handle, const WorkerSession::Impl::Slot& slot) {
      if (slot.ended) return;
      auto batch = std::find_if(batches.begin(), batches.end(), [&slot](const auto& candidate) {
        return candidate.first == slot.partition;
      });
      if (batch == batches.end()) {
        batches.emplace_back(slot.partition, AnswerBatch{});
        batch = std::prev(batches.end());
        batch->second.session = s.id;
      }
      const bool started = !clean && handle <= started_through;
      batch->second.lost.push_back(LostLease{slot.delivery, started});
    });
    s.slots.Clear();
    s.in_flight_bytes = 0;
  }
  Impl::Wakes wakes;
  {
    MutexLock lock(impl_->mutex);
    SessionLoad& load = s.load;
    load.closed = true;
    load.detached = true;
    std::erase(impl_->sessions, session);
    for (FunctionState* function : load.functions) std::erase(function->sessions, session);
    if (FunctionState* function = load.reserved_for; function != nullptr) {
      impl_->Unreserve(*function, wakes);
      impl_->WakeAlone(*function, wakes);
    }
    while (!load.by_trigger.empty()) {
      const auto [trigger, count] = *load.by_trigger.begin();
      impl_->GiveUp(load, trigger, count, wakes);
    }
    load.functions.clear();
  }
  for (auto& [partition, batch] : batches) impl_->answers.OnAnswers(partition, std::move(batch));
  impl_->WakeAll(wakes);
}

std::vector<SessionId> Dispatcher::EndSilent(Instant now, Duration gone_after) {
  std::vector<std::shared_ptr<WorkerSession>> all;
  {
    MutexLock lock(impl_->mutex);
    all = impl_->sessions;
  }
  std::vector<SessionId> gone;
  for (const auto& session : all) {
    {
      MutexLock lock(session->impl_->mutex);
      if (session->impl_->ended || session->impl_->last_heard >= now - gone_after) continue;
    }
    gone.push_back(session->id());
    Detach(session, false);
  }
  return gone;
}

void Dispatcher::DrainAll(const std::string& reason) {
  std::vector<std::shared_ptr<WorkerSession>> all;
  {
    MutexLock lock(impl_->mutex);
    impl_->draining = true;
    impl_->drain_reason = reason;
    all = impl_->sessions;
    for (const auto& session : all) session->impl_->load.closed = true;
  }
  for (const auto& session : all) {
    MutexLock lock(session->impl_->mutex);
    if (!session->impl_->ended) session->impl_->link->Drain(reason);
  }
}

std::vector<SessionInfo> Dispatcher::Sessions() const {
  std::vector<SessionInfo> infos;
  std::vector<std::shared_ptr<WorkerSession>> all;
  {
    MutexLock lock(impl_->mutex);
    all = impl_->sessions;
    for (const auto& session : all) {
      SessionInfo& info = infos.emplace_back();
      info.draining = session->impl_->load.closed;
      info.granted = session->impl_->load.taken;
    }
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    const WorkerSession::Impl& s = *all[i]->impl_;
    SessionInfo& info = infos[i];
    MutexLock lock(s.mutex);
    info.id = s.id;
    info.hello = s.hello;
    info.in_flight = static_cast<std::uint32_t>(s.slots.size());
    info.in_flight_bytes = s.in_flight_bytes;
    info.delivered = s.delivered;
    info.acked = s.acked;
    info.retried = s.retried;
    info.rejected = s.rejected;
    info.dropped = s.dropped;
    info.stale = s.stale;
    info.attached = s.attached;
    info.last_heard = s.last_heard;
  }
  return infos;
}

bool Dispatcher::Throttled(std::string_view trigger) const {
  MutexLock lock(impl_->mutex);
  const auto number = impl_->trigger_numbers.find(std::string(trigger));
  return number != impl_->trigger_numbers.end() && impl_->triggers[number->second.value()]->due;
}

std::vector<std::pair<std::string, std::size_t>> Dispatcher::Functions() const {
  std::vector<std::pair<std::string, std::size_t>> served;
  MutexLock lock(impl_->mutex);
  for (const auto& [name, function] : impl_->functions) {
    if (!function->sessions.empty()) served.emplace_back(name, function->sessions.size());
  }
  return served;
}

}  // namespace tocsin
