// WorkerSession: one attached worker: its credit window, the deliveries it holds by handle, and
// what its frames mean. Made by Dispatcher::Attach().
//
// A handle is used once per lease and session, rising in the order of delivery, so inside a session
// it is the fence, and acks are ranges. Answers to unknown, finished or ended leases are counted
// and reported, never fatal.
//
// Threading: thread-safe; its mutex is a leaf except for WorkerLink, which is called under it.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "broker/base/clock.h"
#include "dispatch/delivery.h"
#include "dispatch/dispatcher.h"

namespace tocsin {

struct HandleRange {
  std::uint64_t first = 0;
  std::uint64_t last = 0;  // inclusive
};

struct HandleAnswer {
  std::uint64_t handle = 0;
  FencingToken token;  // 0: not sent, the handle is the fence
  Outcome outcome;
  std::vector<std::string> emitted;
};

struct HandleExtend {
  std::uint64_t handle = 0;
  Duration by{};
};

struct FrameAnswers {
  std::vector<HandleRange> acked;
  std::vector<HandleAnswer> others;
  std::vector<HandleExtend> extends;
  std::uint64_t started_through = 0;  // 0: nothing new
};

class WorkerSession : public std::enable_shared_from_this<WorkerSession> {
 public:
  ~WorkerSession();

  SessionId id() const;
  const SessionHello& hello() const;

  // From the stream. `confirmed`, if not empty, runs when every settlement in the frame is durable
  // on all partitions concerned. Returns how many answers were stale or unknown.
  std::uint64_t OnAnswers(FrameAnswers answers, Instant now, std::function<void()> confirmed);
  void OnCredit(const Credit& credit, Instant now);
  void OnHeartbeat(Instant now);
  void OnLeaving(Instant now);  // no more grants; what it holds it will still answer

  // From a shard that holds a grant for this session. Assigns handles (set in `deliveries`) and
  // hands them to the link. `false`: the session has ended; nothing was sent and the grant is void.
  [[nodiscard]] bool Deliver(const Grant& grant, PartitionId partition,
                             std::span<OutgoingDelivery> deliveries);

  // The lease behind `handle` ended in the broker: the trigger's concurrency is free again and the
  // worker is told to stop; its credit stays taken until it answers, because it is still busy.
  void LeaseEnded(std::span<const std::uint64_t> handles);

 private:
  friend class Dispatcher;
  struct Impl;
  explicit WorkerSession(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tocsin
