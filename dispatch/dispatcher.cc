#include "dispatch/dispatcher.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "broker/base/canary.h"
#include "broker/base/check.h"
#include "dispatch/dispatcher_impl.h"

namespace tocsin {

FunctionState& Dispatcher::Impl::Function(std::string_view name) {
  auto found = functions.find(name);
  if (found == functions.end()) {
    auto made = std::make_unique<FunctionState>();
    made->name = name;
    found = functions.emplace(std::string(name), std::move(made)).first;
  }
  return *found->second;
}

PartitionDemand& Dispatcher::Impl::Partition(PartitionId id) { return partitions[id]; }

SessionLoad& Dispatcher::Impl::LoadOf(const WorkerSession& session) const {
  return session.impl_->load;
}

void Dispatcher::Impl::MarkPending(FunctionPartition& fp) {
  if (fp.pending) return;
  fp.pending = true;
  Partition(fp.partition).pending.push_back(&fp);
}

// Keeps `waiting` and the sessions' count of waiters in step with `demands`.
void Dispatcher::Impl::WaitingChanged(FunctionPartition& fp) {
  const bool waits = !fp.demands.empty();
  FunctionState& function = *fp.function;
  const bool stands = fp.prev != nullptr || fp.next != nullptr || function.waiting.front() == &fp;
  if (waits == stands) return;
  if (waits) {
    function.waiting.PushBack(&fp);
  } else {
    function.waiting.Remove(&fp);
  }
  for (const auto& session : function.sessions) {
    std::uint64_t& waiters = LoadOf(*session).waiters;
    waits ? ++waiters : --waiters;
  }
}

// The free credit of the sessions that serve it, less the part that is for other functions they
// serve and for which somebody waits.
std::uint64_t Dispatcher::Impl::FreeFor(const FunctionState& function) const {
  double free = 0;
  const double own = static_cast<double>(std::max<std::size_t>(function.waiting.size(), 1));
  for (const auto& session : function.sessions) {
    const SessionLoad& load = LoadOf(*session);
    const std::uint64_t left = load.Free();
    if (left == 0) continue;
    const double all = std::max(own, static_cast<double>(load.waiters));
    free += static_cast<double>(left) * own / all;
  }
  return static_cast<std::uint64_t>(std::ceil(free - 1e-9));
}

// Those that stand before it keep their claims; with those behind it that had nothing yet in this
// round it shares what is left. A round ends when who stands first was served in it.
std::uint64_t Dispatcher::Impl::ShareOf(const FunctionPartition& fp, std::uint64_t free) const {
  FunctionState& function = *fp.function;
  if (function.waiting.front()->served_in == function.round) ++function.round;
  std::uint64_t before = 0;
  for (const FunctionPartition* p = fp.prev; p != nullptr; p = p->prev) ++before;
  if (before > 0) {
    const std::uint64_t claim = (free + before - 1) / before;
    for (const FunctionPartition* p = fp.prev; p != nullptr && free > 0; p = p->prev) {
      free -= std::min({free, claim, static_cast<std::uint64_t>(p->ready)});
    }
  }
  std::uint64_t sharing = 1;
  for (const FunctionPartition* p = fp.next; p != nullptr; p = p->next) {
    if (p->served_in != function.round) ++sharing;
  }
  return (free + sharing - 1) / sharing;
}

void Dispatcher::Impl::Take(const std::shared_ptr<WorkerSession>& session, Demand& demand,
                            std::uint64_t count, std::uint64_t bytes, bool alone,
                            std::vector<Grant>& grants) {
  TriggerState& trigger = *demand.trigger;
  SessionLoad& load = LoadOf(*session);
  load.taken += count;
  load.live += count;
  load.by_trigger[trigger.number] += count;
  if (load.credit.bytes == 0) {
    bytes = std::numeric_limits<std::uint64_t>::max();
  } else {
    load.taken_bytes += bytes;
  }
  load.exclusive = alone;
  trigger.in_use += count;
  if (!Planted(Canary::kRatePassed)) trigger.rate.Take(count, now);
  Grant& grant = grants.emplace_back();
  grant.session = session;
  grant.trigger = trigger.number;
  grant.count = static_cast<std::uint32_t>(count);
  grant.bytes = bytes;
  grant.alone = alone;
  grant.partition = demand.partition;
  grant.function = trigger.function->name;
}

// A delivery that goes alone needs a session that holds nothing. If there is none, one session per
// function is emptied for it, and the others go on.
void Dispatcher::Impl::GrantAlone(FunctionPartition& fp, std::vector<Grant>& grants, Wakes& wakes) {
  FunctionState& function = *fp.function;
  std::size_t tries = fp.alone.size();
  while (tries-- > 0 && !fp.alone.empty()) {
    Demand& demand = *fp.alone.front();
    TriggerState& trigger = *demand.trigger;
    fp.alone.Remove(&demand);  // to the back, so that each gets its turn
    fp.alone.PushBack(&demand);
    if (trigger.Left(now) == 0) {
      NoteStarved(trigger, wakes);
      continue;
    }
    const std::shared_ptr<WorkerSession>* idle = nullptr;
    for (const auto& session : function.sessions) {
      const SessionLoad& load = LoadOf(*session);
      const bool ours = load.reserved_for == nullptr || load.reserved_for == &function;
      if (load.live > 0 || load.exclusive || !ours || load.CreditLeft() == 0) continue;
      idle = &session;
      if (load.reserved_for == &function) break;
    }
    if (idle == nullptr) {
      Reserve(function);
      return;
    }
    SessionLoad& load = LoadOf(**idle);
    const std::uint64_t bytes = load.credit.bytes == 0 ? 0 : load.credit.bytes - load.taken_bytes;
    Take(*idle, demand, 1, bytes, true, grants);
    if (--demand.alone == 0) {
      fp.alone.Remove(&demand);
      demand.linked_alone = nullptr;
      --function.alone_waiting;
    } else {
      ++tries;
    }
    Unreserve(function, wakes);
  }
  if (function.reserved != nullptr && !AloneMayGo(function)) Unreserve(function, wakes);
}

// Whether the rate of one of them lets it go: until then no session is kept empty for them.
bool Dispatcher::Impl::AloneMayGo(const FunctionState& function) const {
  for (const auto& [id, fp] : function.partitions) {
    for (const Demand* demand = fp.alone.front(); demand != nullptr; demand = demand->alone_next) {
      if (demand->trigger->rate.Left(now) > 0) return true;
    }
  }
  return false;
}

void Dispatcher::Impl::Reserve(FunctionState& function) {
  if (function.reserved != nullptr) return;
  WorkerSession* best = nullptr;
  for (const auto& session : function.sessions) {
    const SessionLoad& load = LoadOf(*session);
    if (load.closed || load.reserved_for != nullptr || load.credit.events == 0) continue;
    if (best == nullptr || load.live < LoadOf(*best).live) best = session.get();
  }
  if (best == nullptr) return;
  function.reserved = best;
  LoadOf(*best).reserved_for = &function;
}

void Dispatcher::Impl::Unreserve(FunctionState& function, Wakes& wakes) {
  if (function.reserved == nullptr) return;
  SessionLoad& load = LoadOf(*function.reserved);
  function.reserved = nullptr;
  load.reserved_for = nullptr;
  LoadChanged(load, wakes);
}

void Dispatcher::Impl::GrantShare(FunctionPartition& fp, std::vector<Grant>& grants, Wakes& wakes) {
  FunctionState& function = *fp.function;
  const std::size_t count = function.sessions.size();
  if (fp.demands.empty() || count == 0) return;
  std::uint64_t share = ShareOf(fp, FreeFor(function));
  if (share == 0) return;

  struct Room {
    const std::shared_ptr<WorkerSession>* session;
    std::uint64_t events;
  };
  std::vector<Room> rooms;
  for (std::size_t i = 0; i < count; ++i) {
    const auto& session = function.sessions[(function.next_session + i) % count];
    if (const std::uint64_t free = LoadOf(*session).Free(); free > 0) {
      rooms.push_back(Room{&session, free});
    }
  }
  function.next_session = (function.next_session + 1) % count;
  // Most free credit first; equals in turn.
  std::stable_sort(rooms.begin(), rooms.end(),
                   [](const Room& a, const Room& b) { return a.events > b.events; });

  std::vector<TriggerState*> crowded;  // others wait for their concurrency
  bool granted = false;
  std::size_t at = 0;
  while (share > 0 && !fp.demands.empty() && !rooms.empty()) {
    Demand& demand = *fp.demands.front();
    TriggerState& trigger = *demand.trigger;
    // What goes together is not shared.
    const std::uint64_t whole = std::min<std::uint64_t>(trigger.batch, demand.ready);
    std::uint64_t want = std::max(std::min<std::uint64_t>(share, demand.ready), whole);
    if (want < demand.ready) want -= want % std::max<std::uint64_t>(whole, 1);
    if (trigger.Bounded()) {
      const std::uint64_t left = trigger.Left(now);
      const std::uint64_t mine = (left + trigger.linked - 1) / trigger.linked;
      want = std::min(want, std::max(mine, std::min(left, whole)));
    }
    // Spread over the sessions, in pieces that are not smaller than they must be.
    const std::uint64_t quantum =
        trigger.batch > 1 ? whole
                          : std::max<std::uint64_t>((want + rooms.size() - 1) / rooms.size(), 1);
    std::uint64_t taken = 0;
    while (taken < want && !rooms.empty()) {
      at %= rooms.size();
      Room& room = rooms[at];
      SessionLoad& load = LoadOf(**room.session);
      const std::uint64_t piece = std::min({room.events, quantum, want - taken});
      std::uint64_t bytes = 0;
      if (load.credit.bytes != 0) {
        const std::uint64_t free_bytes = load.credit.bytes - load.taken_bytes;
        bytes = (free_bytes * piece + room.events - 1) / room.events;
      }
      Take(*room.session, demand, piece, bytes, false, grants);
      taken += piece;
      room.events -= piece;
      if (room.events == 0 || load.Free() == 0) {
        rooms.erase(rooms.begin() + static_cast<std::ptrdiff_t>(at));
      } else {
        ++at;
      }
    }
    granted = granted || taken > 0;
    share -= std::min(share, taken);
    const std::size_t left = demand.ready - static_cast<std::size_t>(taken);
    // To the back: of its partition's triggers, or of those that wait for its concurrency.
    fp.demands.Remove(&demand);
    fp.ready -= demand.ready;
    demand.linked = nullptr;
    --trigger.linked;
    demand.ready = left;
    if (left > 0 && trigger.Left(now) > trigger.linked && trigger.blocked.empty()) {
      demand.linked = &fp;
      fp.demands.PushBack(&demand);
      fp.ready += left;
      ++trigger.linked;
    } else if (left > 0) {
      demand.blocked = true;
      trigger.blocked.PushBack(&demand);
    }
    if (trigger.Bounded() && !trigger.blocked.empty()) crowded.push_back(&trigger);
    if (taken == 0 && want > 0) break;
  }
  WaitingChanged(fp);
  if (granted) fp.served_in = function.round;
  if (granted && !fp.demands.empty()) {
    function.waiting.Remove(&fp);
    function.waiting.PushBack(&fp);
  }
  for (TriggerState* trigger : crowded) Unblock(*trigger, wakes);
}

void Dispatcher::Impl::WakePartition(PartitionId id, Wakes& wakes) {
  PartitionDemand& partition = Partition(id);
  if (partition.woken) return;
  partition.woken = true;
  wakes.push_back(id);
}

// As many as can be given something. `self` has just been served: it is woken only when nobody
// stands before it, for those wake it in their turn.
void Dispatcher::Impl::WakeWaiters(FunctionState& function, const FunctionPartition* self,
                                   Wakes& wakes) {
  if (function.waiting.empty()) return;
  std::uint64_t budget = FreeFor(function);
  for (FunctionPartition* fp = function.waiting.front(); fp != nullptr && budget > 0;
       fp = fp->next, --budget) {
    if (fp == self && fp->prev != nullptr) continue;
    MarkPending(*fp);
    WakePartition(fp->partition, wakes);
  }
}

void Dispatcher::Impl::WakeAlone(FunctionState& function, Wakes& wakes) {
  if (function.alone_waiting == 0) return;
  for (auto& [id, fp] : function.partitions) {
    if (fp.alone.empty()) continue;
    MarkPending(fp);
    WakePartition(id, wakes);
  }
}

// The session may take more than before.
void Dispatcher::Impl::LoadChanged(SessionLoad& load, Wakes& wakes) {
  const std::size_t count = load.functions.size();
  const bool idle = load.live == 0 && !load.exclusive && load.CreditLeft() > 0;
  if (!idle && load.Free() == 0) return;
  for (std::size_t i = 0; i < count; ++i) {
    FunctionState& function = *load.functions[(load.next_function + i) % count];
    if (idle) WakeAlone(function, wakes);
    if (load.Free() > 0) WakeWaiters(function, nullptr, wakes);
  }
  if (count > 0) load.next_function = (load.next_function + 1) % count;
}

void Dispatcher::Impl::GiveUp(SessionLoad& load, TriggerNumber trigger, std::uint64_t count,
                              Wakes& wakes) {
  auto held = load.by_trigger.find(trigger);
  TOCSIN_CHECK(held != load.by_trigger.end() && held->second >= count,
               "trigger {} holds less than {} here", trigger.value(), count);
  if ((held->second -= count) == 0) load.by_trigger.erase(held);
  load.live -= count;
  if (load.live == 0) load.exclusive = false;
  TriggerState& state = *triggers[trigger.value()];
  state.in_use -= count;
  if (state.concurrency != 0) Unblock(state, wakes);
}

void Dispatcher::Impl::NotSent(const Grant& grant, std::size_t count) {
  Wakes wakes;
  {
    MutexLock lock(mutex);
    triggers[grant.trigger.value()]->rate.GiveBack(count);
    Shortfall(grant, wakes);
  }
  WakeAll(wakes);
}

void Dispatcher::Impl::WakeAll(const Wakes& wakes) {
  for (const PartitionId partition : wakes) waker.Wake(partition);
}

void Dispatcher::Impl::Finish(WorkerSession& session, const std::vector<Finished>& finished) {
  Wakes wakes;
  {
    MutexLock lock(mutex);
    SessionLoad& load = LoadOf(session);
    if (load.detached) return;
    for (const Finished& one : finished) {
      if (one.credit) {
        --load.taken;
        load.taken_bytes -= std::min(load.taken_bytes, one.bytes);
      }
      if (one.live) GiveUp(load, one.trigger, 1, wakes);
    }
    LoadChanged(load, wakes);
  }
  WakeAll(wakes);
}

void Dispatcher::Impl::SetCredit(WorkerSession& session, const Credit& credit) {
  Wakes wakes;
  {
    MutexLock lock(mutex);
    SessionLoad& load = LoadOf(session);
    load.credit = credit;
    LoadChanged(load, wakes);
  }
  WakeAll(wakes);
}

void Dispatcher::Impl::Leave(WorkerSession& session) {
  Wakes wakes;
  {
    MutexLock lock(mutex);
    SessionLoad& load = LoadOf(session);
    load.closed = true;
    if (FunctionState* function = load.reserved_for; function != nullptr) {
      Unreserve(*function, wakes);
      WakeAlone(*function, wakes);  // another must be found
    }
  }
  WakeAll(wakes);
}

Dispatcher::Dispatcher(AnswerSink& answers, PartitionWaker& waker)
    : impl_(std::make_unique<Impl>(answers, waker)) {}

Dispatcher::~Dispatcher() = default;

std::optional<Instant> Dispatcher::Exchange(PartitionId partition,
                                            std::span<const ReadyOffer> offers, Instant now,
                                            std::vector<Grant>& grants) {
  Impl::Wakes wakes;
  std::optional<Instant> again;
  std::function<void()> unserved;
  {
    MutexLock lock(impl_->mutex);
    PartitionDemand& state = impl_->Partition(partition);
    impl_->now = std::max(impl_->now, now);
    impl_->exchanging = partition;
    state.woken = true;  // it is here
    impl_->FeedStarved(wakes);
    state.woken = false;
    for (const ReadyOffer& offer : offers) {
      TOCSIN_CHECK(offer.trigger.value() < impl_->triggers.size());
      TriggerState& trigger = *impl_->triggers[offer.trigger.value()];
      if (trigger.demands.size() <= partition.value()) {
        if (offer.ready == 0 && offer.ready_alone == 0) continue;
        trigger.demands.resize(partition.value() + 1);
      }
      std::unique_ptr<Demand>& demand = trigger.demands[partition.value()];
      if (demand == nullptr) {
        demand = std::make_unique<Demand>();
        demand->trigger = &trigger;
        demand->partition = partition;
      }
      const bool waited = demand->linked != nullptr;
      impl_->SetDemand(*demand, offer.ready, offer.ready_alone);
      if (waited && demand->linked == nullptr) impl_->Unblock(trigger, wakes);
      impl_->NoteStarved(trigger, wakes);
      FunctionPartition& fp = trigger.function->partitions[partition];
      fp.function = trigger.function;
      fp.partition = partition;
      impl_->MarkPending(fp);
      if (trigger.function->alone_waiting == 0) impl_->Unreserve(*trigger.function, wakes);
    }
    std::vector<FunctionPartition*> pending;
    pending.swap(state.pending);
    for (FunctionPartition* fp : pending) fp->pending = false;
    for (FunctionPartition* fp : pending) impl_->GrantAlone(*fp, grants, wakes);
    for (FunctionPartition* fp : pending) {
      impl_->GrantShare(*fp, grants, wakes);
      impl_->WakeWaiters(*fp->function, fp, wakes);
      FunctionState& function = *fp->function;
      if (impl_->unserved && function.sessions.empty() && !function.unserved_told &&
          (fp->ready > 0 || function.alone_waiting > 0)) {
        function.unserved_told = true;
        unserved = impl_->unserved;
      }
    }
    if (!state.kept.empty()) again = state.kept.begin()->first;
    impl_->exchanging.reset();
  }
  impl_->WakeAll(wakes);
  if (unserved) unserved();
  return again;
}

void Dispatcher::OnUnserved(std::function<void()> told) {
  MutexLock lock(impl_->mutex);
  impl_->unserved = std::move(told);
}

void Dispatcher::Release(const Grant& grant, std::uint32_t unused_count,
                         std::uint64_t unused_bytes) {
  if (Planted(Canary::kCreditLost)) return;
  Impl::Wakes wakes;
  {
    MutexLock lock(impl_->mutex);
    if (unused_count > 0) {
      impl_->triggers[grant.trigger.value()]->rate.GiveBack(unused_count);
      impl_->Shortfall(grant, wakes);
    }
    SessionLoad& load = impl_->LoadOf(*grant.session);
    if (!load.detached) {
      TOCSIN_CHECK(unused_count <= grant.count && unused_count <= load.taken);
      load.taken -= unused_count;
      if (grant.bytes != std::numeric_limits<std::uint64_t>::max()) {
        load.taken_bytes -= std::min({load.taken_bytes, unused_bytes, grant.bytes});
      }
      if (unused_count > 0) impl_->GiveUp(load, grant.trigger, unused_count, wakes);
      impl_->LoadChanged(load, wakes);
    }
  }
  impl_->WakeAll(wakes);
}

}  // namespace tocsin
