// The state behind Dispatcher and WorkerSession. Internal to dispatch.
//
//   TriggerState 1--* Demand (per partition) --> linked into FunctionPartition.demands, or, when
//   the trigger's concurrency or its rate is used up, into TriggerState.blocked, first come first
//   served
//   FunctionState 1--* FunctionPartition; those with demands stand in FunctionState.waiting, the
//   one that was granted longest ago first
//
// Locks: the dispatcher's mutex and a session's mutex are never held together. What of a session
// the dispatcher decides by lies in SessionLoad, under the dispatcher's mutex.

#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "broker/base/mutex.h"
#include "dispatch/dispatcher.h"
#include "dispatch/handle_table.h"
#include "dispatch/intrusive_list.h"
#include "dispatch/rate_limit.h"
#include "dispatch/worker_session.h"

namespace tocsin {

struct FunctionState;
struct FunctionPartition;
struct TriggerState;

// What one partition has ready of one trigger.
struct Demand {
  TriggerState* trigger = nullptr;
  PartitionId partition;
  std::size_t ready = 0;
  std::size_t alone = 0;
  FunctionPartition* linked = nullptr;  // in its demands
  FunctionPartition* linked_alone = nullptr;
  bool blocked = false;  // in its trigger's blocked
  Demand* prev = nullptr;
  Demand* next = nullptr;
  Demand* alone_prev = nullptr;
  Demand* alone_next = nullptr;
};
using DemandList = IntrusiveList<Demand, &Demand::prev, &Demand::next>;
using AloneList = IntrusiveList<Demand, &Demand::alone_prev, &Demand::alone_next>;

struct TriggerState {
  TriggerNumber number;
  FunctionState* function = nullptr;
  std::uint32_t concurrency = 0;
  std::uint32_t batch = 1;
  std::uint64_t in_use = 0;
  std::size_t linked = 0;  // its demands that stand in a FunctionPartition
  DemandList blocked;
  std::vector<std::unique_ptr<Demand>> demands;  // by partition; null until something was ready

  RateLimit rate;
  // Its rate is used up and somebody waits for it: it is looked at again then. It stands in
  // Impl::starved and in its keeper's `kept`.
  std::optional<Instant> due;
  PartitionId keeper;  // the partition that comes again for it, for all its demands

  bool Bounded() const { return concurrency != 0 || rate.limited(); }
  std::uint64_t Left(Instant now) const {
    std::uint64_t begin = rate.Left(now);
    if (begin > 0) begin = std::max<std::uint64_t>(begin, batch);  // it is not torn for the rate
    if (concurrency == 0) return begin;
    return std::min<std::uint64_t>(begin, in_use >= concurrency ? 0 : concurrency - in_use);
  }
};

struct FunctionPartition {
  FunctionState* function = nullptr;
  PartitionId partition;
  DemandList demands;
  AloneList alone;
  std::size_t ready = 0;        // sum over `demands`
  std::uint64_t served_in = 0;  // its function's round in which it was last granted something
  bool pending = false;         // to be looked at in the partition's next Exchange()
  FunctionPartition* prev = nullptr;
  FunctionPartition* next = nullptr;
};
using WaitingList =
    IntrusiveList<FunctionPartition, &FunctionPartition::prev, &FunctionPartition::next>;

// A session as the dispatcher sees it.
struct SessionLoad {
  std::vector<FunctionState*> functions;
  Credit credit;
  std::uint64_t taken = 0;        // granted and neither released nor answered
  std::uint64_t taken_bytes = 0;  // of grants that were limited by bytes
  std::uint64_t live = 0;         // of taken, those whose lease has not ended
  std::uint64_t waiters = 0;      // waiting FunctionPartitions of its functions
  std::size_t next_function = 0;  // who is woken first, in turn
  bool closed = false;            // detached, leaving or draining: no more grants
  bool detached = false;
  bool exclusive = false;                 // holds a delivery that goes alone
  FunctionState* reserved_for = nullptr;  // is being emptied for one that goes alone
  absl::flat_hash_map<TriggerNumber, std::uint64_t> by_trigger;  // of live

  bool Grantable() const { return !closed && !exclusive && reserved_for == nullptr; }
  std::uint64_t CreditLeft() const {
    if (closed || taken >= credit.events) return 0;
    if (credit.bytes != 0 && taken_bytes >= credit.bytes) return 0;
    return credit.events - taken;
  }
  std::uint64_t Free() const { return Grantable() ? CreditLeft() : 0; }
};

struct FunctionState {
  std::string name;
  std::vector<std::shared_ptr<WorkerSession>> sessions;
  std::size_t next_session = 0;
  std::map<PartitionId, FunctionPartition> partitions;  // addresses stay
  WaitingList waiting;
  std::uint64_t round = 1;
  std::size_t alone_waiting = 0;  // demands
  WorkerSession* reserved = nullptr;
  bool unserved_told = false;  // since it had a session
};

using StarvedSet = std::set<std::pair<Instant, TriggerNumber>>;

struct PartitionDemand {
  std::vector<FunctionPartition*> pending;
  bool woken = false;
  StarvedSet kept;  // of Dispatcher::Impl::starved, those for which it comes again
};

// What left a session, for the dispatcher to account.
struct Finished {
  TriggerNumber trigger;
  std::uint64_t bytes = 0;
  bool live = true;    // its lease had not ended before
  bool credit = true;  // false: only its lease ended
};

struct Dispatcher::Impl {
  Impl(AnswerSink& answer_sink, PartitionWaker& partition_waker)
      : answers(answer_sink), waker(partition_waker) {}

  // With `mutex` held; partitions to wake are added to `wakes`.
  using Wakes = std::vector<PartitionId>;
  FunctionState& Function(std::string_view name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  PartitionDemand& Partition(PartitionId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void MarkPending(FunctionPartition& fp) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void WaitingChanged(FunctionPartition& fp) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void LinkReady(Demand& demand) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Link(Demand& demand) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Unlink(Demand& demand) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void SetDemand(Demand& demand, std::size_t ready, std::size_t alone)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Unblock(TriggerState& trigger, Wakes& wakes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  static const Demand* Waiter(const TriggerState& trigger);
  void NoteStarved(TriggerState& trigger, Wakes& wakes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void ForgetStarved(TriggerState& trigger) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void FeedStarved(Wakes& wakes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  std::uint64_t FreeFor(const FunctionState& function) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  std::uint64_t ShareOf(const FunctionPartition& fp, std::uint64_t free) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void GrantAlone(FunctionPartition& fp, std::vector<Grant>& grants, Wakes& wakes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void GrantShare(FunctionPartition& fp, std::vector<Grant>& grants, Wakes& wakes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Take(const std::shared_ptr<WorkerSession>& session, Demand& demand, std::uint64_t count,
            std::uint64_t bytes, bool alone, std::vector<Grant>& grants)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  bool AloneMayGo(const FunctionState& function) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Reserve(FunctionState& function) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Unreserve(FunctionState& function, Wakes& wakes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void WakePartition(PartitionId id, Wakes& wakes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void WakeWaiters(FunctionState& function, const FunctionPartition* self, Wakes& wakes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void WakeAlone(FunctionState& function, Wakes& wakes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void LoadChanged(SessionLoad& load, Wakes& wakes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void GiveUp(SessionLoad& load, TriggerNumber trigger, std::uint64_t count, Wakes& wakes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  SessionLoad& LoadOf(const WorkerSession& session) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // The partition has nothing of it any more.
  void Withdraw(TriggerState& trigger, PartitionId partition, Wakes& wakes)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Less was sent than was granted: what the partition has now is not known here.
  void Shortfall(const Grant& grant, Wakes& wakes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  // Without it.
  void NotSent(const Grant& grant, std::size_t count);
  void WakeAll(const Wakes& wakes);
  void Finish(WorkerSession& session, const std::vector<Finished>& finished);
  void SetCredit(WorkerSession& session, const Credit& credit);
  void Leave(WorkerSession& session);

  AnswerSink& answers;
  PartitionWaker& waker;
  mutable Mutex mutex;
  Instant now ABSL_GUARDED_BY(mutex){};  // of the latest Exchange()
  std::vector<std::unique_ptr<TriggerState>> triggers ABSL_GUARDED_BY(mutex);
  StarvedSet starved ABSL_GUARDED_BY(mutex);
  std::optional<PartitionId> exchanging ABSL_GUARDED_BY(mutex);  // whose Exchange() runs
  absl::flat_hash_map<std::string, TriggerNumber> trigger_numbers ABSL_GUARDED_BY(mutex);
  std::map<std::string, std::unique_ptr<FunctionState>, std::less<>> functions
      ABSL_GUARDED_BY(mutex);
  std::map<PartitionId, PartitionDemand> partitions ABSL_GUARDED_BY(mutex);
  std::vector<std::shared_ptr<WorkerSession>> sessions ABSL_GUARDED_BY(mutex);
  std::uint64_t last_session ABSL_GUARDED_BY(mutex) = 0;
  bool draining ABSL_GUARDED_BY(mutex) = false;
  std::string drain_reason ABSL_GUARDED_BY(mutex);
  std::function<void()> unserved ABSL_GUARDED_BY(mutex);
};

struct WorkerSession::Impl {
  struct Slot {
    PartitionId partition;
    DeliveryRef delivery;
    TriggerNumber trigger;
    std::uint64_t charged = 0;  // of its grant's bytes
    std::uint64_t bytes = 0;
    bool ended = false;  // its lease
  };

  Impl(Dispatcher::Impl& owner, SessionId session, const SessionHello& greeting,
       std::shared_ptr<WorkerLink> worker_link, Instant now)
      : dispatcher(owner),
        id(session),
        hello(greeting),
        attached(now),
        link(std::move(worker_link)),
        last_heard(now) {}

  bool Send(const Grant& grant, PartitionId partition, std::span<OutgoingDelivery> deliveries);

  Dispatcher::Impl& dispatcher;
  const SessionId id;
  const SessionHello hello;
  const Instant attached;

  mutable Mutex mutex;
  std::shared_ptr<WorkerLink> link ABSL_GUARDED_BY(mutex);
  bool ended ABSL_GUARDED_BY(mutex) = false;
  std::uint64_t next_handle ABSL_GUARDED_BY(mutex) = 1;
  std::uint64_t started_through ABSL_GUARDED_BY(mutex) = 0;
  HandleTable<Slot> slots ABSL_GUARDED_BY(mutex);
  std::uint64_t in_flight_bytes ABSL_GUARDED_BY(mutex) = 0;
  std::uint64_t delivered ABSL_GUARDED_BY(mutex) = 0, acked ABSL_GUARDED_BY(mutex) = 0,
                          retried ABSL_GUARDED_BY(mutex) = 0, rejected ABSL_GUARDED_BY(mutex) = 0,
                          dropped ABSL_GUARDED_BY(mutex) = 0, stale ABSL_GUARDED_BY(mutex) = 0;
  Instant last_heard ABSL_GUARDED_BY(mutex);

  SessionLoad load;  // guarded by the dispatcher's mutex
};

}  // namespace tocsin
