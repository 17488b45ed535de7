// Deliveries on their way to sessions: from memory, or read from the journal first.

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "broker/base/canary.h"
#include "broker/base/status.h"
#include "broker/journal/record.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

constexpr int kReadsMax = 5;  // of one event, a second apart
constexpr std::size_t kFetchBytes = 256 * 1024;

}  // namespace

void Partition::Impl::DeliverTo(const Fetch& fetch) {
  Runtime* runtime = RuntimeOf(fetch.trigger);
  if (runtime == nullptr || runtime->queue == nullptr) {
    std::uint64_t bytes = 0;
    for (const Lease& lease : fetch.leases) bytes += lease.candidate.event_bytes;
    ports.dispatcher.Release(fetch.grant, static_cast<std::uint32_t>(fetch.leases.size()), bytes);
    return;
  }
  const TriggerRecord* trigger = state.FindTrigger(fetch.trigger);
  std::vector<OutgoingDelivery> out;
  out.reserve(fetch.leases.size());
  Fetch missing;
  missing.grant = fetch.grant;
  missing.trigger = fetch.trigger;
  std::vector<Refusal> refusals;
  const Transform* const transform = RouteOf(runtime->route).transform.get();
  std::shared_ptr<const CachedBatch> batch;
  for (const Lease& lease : fetch.leases) {
    const Offset offset = lease.candidate.offset;
    if (batch == nullptr || offset < batch->base || !(offset < batch->end())) {
      batch = cache.Find(offset);
      for (const auto& read : fetch.batches) {
        if (!(offset < read->base) && offset < read->end()) batch = read;
      }
    }
    const bool wrong = Planted(Canary::kWrongPayload) && batch != nullptr && batch->base < offset &&
                       fetch.trigger.value() == 1;
    const Offset at = wrong ? Offset(offset.value() - 1) : offset;
    if (batch == nullptr) {
      missing.leases.push_back(lease);
      continue;
    }
    OutgoingDelivery delivery;
    delivery.token = lease.token;
    delivery.id =
        DeliveryId{options.id, lease.candidate.origin, fetch.trigger, lease.candidate.run};
    delivery.offset = offset;
    delivery.trigger_name = trigger->name;
    delivery.attempt = lease.attempt;
    delivery.lease = lease.duration;
    delivery.recorded = lease.candidate.appended;
    delivery.event = batch->Event(at);
    delivery.keep_alive = batch->body;
    if (delivery.event.empty()) {
      refusals.push_back({lease, "its record in the journal is malformed"});
      continue;
    }
    if (transform != nullptr) {
      absl::StatusOr<std::string> made = Transformed(*transform, delivery.event);
      if (!made.ok()) {
        refusals.push_back({lease, std::string(MessageOf(made.status()))});
        continue;
      }
      auto owned = std::make_shared<const std::string>(*std::move(made));
      delivery.event = *owned;
      delivery.keep_alive = std::move(owned);
    }
    const std::uint32_t hops = HopsOf(batch->Record(at));
    if (hops > 0) leased_hops[{runtime->ordinal.value(), offset.value()}] = hops;
    out.push_back(std::move(delivery));
  }
  if (!out.empty()) {
    std::weak_ptr<WorkerSession>& known = sessions[fetch.grant.session->id().value()];
    if (known.expired()) known = fetch.grant.session;
    // What was granted went by the sizes of the stored events.
    const Grant grant =
        transform == nullptr ? fetch.grant : ResizedGrant(fetch, missing, refusals, out);
    if (fetch.grant.session->Deliver(grant, options.id, out)) {
      for (const OutgoingDelivery& delivery : out) {
        runtime->queue->SetHolder(delivery.offset, fetch.grant.session->id(), delivery.handle);
      }
    } else {
      for (const OutgoingDelivery& delivery : out) {
        runtime->queue->ReturnUnsent(delivery.offset, delivery.token);
      }
      Touch(*runtime);
      sessions.erase(fetch.grant.session->id().value());
    }
  }
  if (!refusals.empty()) RefuseDeliveries(*runtime, fetch.grant, std::move(refusals));
  if (!missing.leases.empty()) FetchMissing(std::move(missing));
}

// The part of the grant that `out` may take, after giving back what it leaves.
Grant Partition::Impl::ResizedGrant(const Fetch& fetch, const Fetch& missing,
                                    const std::vector<Refusal>& refusals,
                                    const std::vector<OutgoingDelivery>& out) const {
  Grant grant = fetch.grant;
  if (grant.bytes == std::numeric_limits<std::uint64_t>::max()) return grant;
  std::uint64_t elsewhere = 0;
  for (const Lease& lease : missing.leases) elsewhere += lease.candidate.event_bytes;
  for (const Refusal& refusal : refusals) elsewhere += refusal.lease.candidate.event_bytes;
  std::uint64_t made = 0;
  for (const OutgoingDelivery& delivery : out) made += delivery.event.size();
  grant.bytes -= std::min(elsewhere, grant.bytes);
  if (made < grant.bytes) ports.dispatcher.Release(grant, 0, grant.bytes - made);
  grant.bytes = std::min(grant.bytes, made);
  return grant;
}

absl::StatusOr<std::string> Partition::Impl::Transformed(const Transform& transform,
                                                         std::string_view event) const {
  EventView view;
  TOCSIN_RETURN_IF_ERROR(ParseEvent(event, view));
  return transform.Apply(view, options.event_limits);
}

// Repeating would not help: what is stored stays as it is.
void Partition::Impl::RefuseDeliveries(Runtime& runtime, const Grant& grant,
                                       std::vector<Refusal> refusals) {
  std::uint64_t bytes = 0;
  for (const Refusal& refusal : refusals) bytes += refusal.lease.candidate.event_bytes;
  ports.dispatcher.Release(grant, static_cast<std::uint32_t>(refusals.size()),
                           std::min(bytes, grant.bytes));
  if (!std::exchange(runtime.refusal_told, true)) {
    Warn("T0330",
         fmt::format("trigger '{}': the transform cannot be made of event {}/{}: {}; such "
                     "deliveries become dead letters of reason refused",
                     SpecOf(runtime.route).name, options.id.value(),
                     refusals.front().lease.candidate.offset.value(), refusals.front().message));
  }
  std::vector<Action> actions;
  for (Refusal& refusal : refusals) {
    const Offset offset = refusal.lease.candidate.offset;
    (void)runtime.queue->Refuse(offset, refusal.lease.token,
                                "transform: " + std::move(refusal.message), now, actions);
  }
  Touch(runtime);
  RunActions(runtime, actions);
}

// While the journal was read a lease may have ended, or its queue made place for another: what
// nobody holds any more is not sent.
void Partition::Impl::DropEndedLeases(Fetch& fetch) {
  const Runtime* runtime = RuntimeOf(fetch.trigger);
  std::uint64_t bytes = 0;
  const auto ended = [&](const Lease& lease) {
    if (runtime != nullptr && runtime->queue != nullptr &&
        runtime->queue->Holds(lease.candidate.offset, lease.token)) {
      return false;
    }
    bytes += lease.candidate.event_bytes;
    return true;
  };
  const auto count = static_cast<std::uint32_t>(std::erase_if(fetch.leases, ended));
  if (count == 0) return;
  bytes = std::min(bytes, fetch.grant.bytes);
  ports.dispatcher.Release(fetch.grant, count, bytes);
  fetch.grant.count -= count;
  fetch.grant.bytes -= bytes;
}

// A read that failed may succeed when it is repeated. Then it costs an attempt: a disk that never
// gives the event must not hold its key for ever. What a good read does not find is damaged.
Outcome Partition::Impl::NotRead(const Lease& lease, const absl::Status& status) const {
  const std::string message = fmt::format("event {}/{} cannot be read from the journal",
                                          options.id.value(), lease.candidate.offset.value());
  if (status.ok()) return Reject{message};
  return Retry{"journal_read", fmt::format("{}: {}", message, MessageOf(status)), std::nullopt};
}

// One read finds at least the first of them; the rest goes round again.
void Partition::Impl::FetchMissing(Fetch fetch) {
  ++fetches;
  fetch.reads_failed = 0;
  ReadFor(std::move(fetch));
}

void Partition::Impl::ReadFor(Fetch fetch) {
  const Offset first = fetch.leases.front().candidate.offset;
  ports.journal.Read(options.id, ports.journal.Locate(options.id, first), kFetchBytes,
                     [this, fetch = std::move(fetch), first,
                      guard = std::weak_ptr(alive)](absl::StatusOr<ReadResult> result) mutable {
                       if (guard.expired()) return;
                       BeginIfNeeded();
                       if (result.ok() || ++fetch.reads_failed == kReadsMax) {
                         Fetched(std::move(fetch), first, std::move(result));
                         ports.wake();
                         return;
                       }
                       ports.executor.PostAt(
                           now + std::chrono::seconds(1),
                           [this, fetch = std::move(fetch), guard = std::move(guard)]() mutable {
                             if (guard.expired()) return;
                             BeginIfNeeded();
                             ReadFor(std::move(fetch));
                           });
                     });
}

void Partition::Impl::Fetched(Fetch fetch, Offset first, absl::StatusOr<ReadResult> result) {
  --fetches;
  bool found = false;
  fetch.batches.clear();
  if (result.ok()) {
    for (StoredBatch& stored : result->batches) {
      std::optional<CachedBatch> cached = IndexBatch(stored);
      if (!cached) continue;
      found = found || (!(first < cached->base) && first < cached->end());
      fetch.batches.push_back(cache.Add(*std::move(cached)));
    }
  }
  Runtime* runtime = RuntimeOf(fetch.trigger);
  DropEndedLeases(fetch);
  // What was read for was the first: another one's turn comes with its read.
  found = found || fetch.leases.empty() || fetch.leases.front().candidate.offset != first;
  if (!found && runtime != nullptr && runtime->queue != nullptr) {
    const Lease lost = fetch.leases.front();
    fetch.leases.erase(fetch.leases.begin());
    const std::uint64_t bytes =
        std::min<std::uint64_t>(lost.candidate.event_bytes, fetch.grant.bytes);
    ports.dispatcher.Release(fetch.grant, 1, bytes);
    --fetch.grant.count;
    fetch.grant.bytes -= bytes;
    std::vector<Action> actions;
    (void)runtime->queue->Answer(lost.candidate.offset, lost.token, NotRead(lost, result.status()),
                                 now, actions);
    RunActions(*runtime, actions);
    Touch(*runtime);
  }
  if (!fetch.leases.empty()) DeliverTo(fetch);
}

}  // namespace tocsin
