// Dispatcher: decides which session gets how many deliveries of which trigger.
//
//   shard --Exchange(ready counts)--> [credit, concurrency, rate, pause of workers]
//         --> grants --> shard, and when to come again for what a rate keeps back
//   session --answers--> credit freed --> Wake(partition) for those that still wait
//
// A shard takes the mutex once per turn; a worker's frame takes it once. Grants rotate over
// partitions: while several wait for one function, each gets its share of the free credit.
//
// Threading: every method is thread-safe. PartitionWaker and WorkerLink are called with the
// dispatcher's mutex NOT held.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "broker/base/clock.h"
#include "broker/base/ids.h"
#include "dispatch/delivery.h"
#include "dispatch/trigger_spec.h"
#include "dispatch/worker_link.h"

namespace tocsin {

class WorkerSession;

// A trigger's number in this process, the same on every partition.
using TriggerNumber = StrongId<struct TriggerNumberTag, std::uint32_t>;

struct ReadyOffer {
  TriggerNumber trigger;
  std::size_t ready = 0;  // all that is ready now, not an increment; 0 withdraws
  std::size_t ready_alone = 0;
};

// The right to send up to `count` deliveries of together at most `bytes` (one may be larger) to
// `session`. What is not used is given back by Release().
struct Grant {
  std::shared_ptr<WorkerSession> session;
  TriggerNumber trigger;
  std::uint32_t count = 0;
  std::uint64_t bytes = 0;
  bool alone = false;         // exactly one, and the session holds nothing else
  PartitionId partition;      // for which it was granted
  std::string_view function;  // of the trigger; lives as long as the dispatcher
};

// Port: tells a partition's shard that Exchange() may now give more. Thread-safe, does not block.
class PartitionWaker {
 public:
  virtual ~PartitionWaker() = default;
  virtual void Wake(PartitionId partition) = 0;
};

struct Credit {
  std::uint32_t events = 0;  // an absolute window, not an increment
  std::uint32_t bytes = 0;   // 0: not limited by bytes
};

struct SessionHello {
  std::string worker;
  std::string instance;
  std::string version;
  std::string peer;
  std::vector<std::string> functions;
  Credit credit;
  bool confirm = false;
};

struct SessionInfo {  // for `workers`
  SessionId id;
  SessionHello hello;
  std::uint32_t in_flight = 0;
  std::uint64_t granted = 0;  // of its credit: in flight, or being read for it
  std::uint64_t in_flight_bytes = 0;
  std::uint64_t delivered = 0, acked = 0, retried = 0, rejected = 0, dropped = 0, stale = 0;
  bool draining = false;
  Instant attached{};
  Instant last_heard{};
};

// Of a trigger in this process, over all partitions.
struct TriggerLimits {
  TriggerLimits(std::uint32_t in_flight_max = 0,  // NOLINT: most have a concurrency alone
                const Rate& begin_max = {}, std::uint32_t batch_max = 1)
      : concurrency(in_flight_max), rate(begin_max), batch(batch_max) {}

  std::uint32_t concurrency;  // 0: unlimited
  Rate rate;
  // What a partition offers goes to one session in pieces of so many, as far as credit and
  // concurrency allow; gathering them is the partition's part. A rate lets a piece go as a whole.
  std::uint32_t batch;
};

class Dispatcher {
 public:
  // The ports must outlive it.
  Dispatcher(AnswerSink& answers, PartitionWaker& waker);
  ~Dispatcher();
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // `told` is called, with no lock held, when the first work comes for a function that no session
  // serves, again after one has. It may be called from any thread until the dispatcher is gone.
  void OnUnserved(std::function<void()> told);

  // The same name gives the same number for the life of the process, and a new name that of its
  // former one (`was`; empty: none). Changes function and limits of an existing one; what its rate
  // has left goes on with another rate.
  TriggerNumber SetTrigger(std::string_view name, std::string_view function,
                           const TriggerLimits& limits, std::string_view was = {});

  // Called by the partition's shard once per turn with every trigger whose count changed since;
  // appends to `grants`. What could not be granted is remembered: Wake() follows when it can. What
  // is granted is subtracted here. Where less is taken than was granted, what is left counts as
  // nothing and the partition is woken: after a Wake() it offers all that it has ready.
  //
  // `now` never goes back. Returns when the partition is to exchange again, with offers or without,
  // for the sake of triggers whose rate is used up; nullopt: for none. The next one's answer
  // replaces this one's.
  std::optional<Instant> Exchange(PartitionId partition, std::span<const ReadyOffer> offers,
                                  Instant now, std::vector<Grant>& grants);
  // The partition has nothing of the trigger any more. As an offer of 0, but nothing is granted.
  void Withdraw(PartitionId partition, TriggerNumber trigger);
  // At most once per grant. `unused_bytes` is grant.bytes less what was delivered, at least 0.
  void Release(const Grant& grant, std::uint32_t unused_count, std::uint64_t unused_bytes);

  // A worker attached. The session is in force until Detach().
  std::shared_ptr<WorkerSession> Attach(const SessionHello& hello, std::shared_ptr<WorkerLink> link,
                                        Instant now);
  // Ends it: every outstanding delivery becomes a LostLease (`started` as reported), at once.
  // `clean`: the worker said it leaves; nothing counts as started. Idempotent.
  void Detach(const std::shared_ptr<WorkerSession>& session, bool clean);

  // Sessions not heard of since `now - gone_after` are detached and returned. Half-open streams end
  // here.
  std::vector<SessionId> EndSilent(Instant now, Duration gone_after);

  // Tells every session to drain; no grants from now on (used by SIGTERM).
  void DrainAll(const std::string& reason);

  // Whether deliveries of the trigger wait for its rate.
  bool Throttled(std::string_view trigger) const;

  std::vector<SessionInfo> Sessions() const;
  // Functions that are served now, and how many sessions serve each.
  std::vector<std::pair<std::string, std::size_t>> Functions() const;

 private:
  friend class WorkerSession;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tocsin
