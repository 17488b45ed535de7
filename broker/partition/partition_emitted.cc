// What functions emit: checked with the answer, kept with its settlement, sent to its home.

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "broker/base/canary.h"
#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/base/wire.h"
#include "broker/journal/record.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

constexpr std::size_t kEmittedMax = 256;
constexpr std::size_t kEmittedBytesMax = std::size_t{2} << 20;
// Of one batch to another partition. Beside each event it keeps what matches it there.
constexpr std::size_t kForwardBytesMax = std::size_t{2} << 20;
constexpr std::size_t kForwardEventsMax = 1024;
constexpr std::size_t kForwardOverhead = 256;
constexpr std::size_t kMatchesReckoned = 256;
constexpr Duration kForwardAgainAfter = std::chrono::milliseconds(200);

}  // namespace

absl::StatusOr<Partition::Impl::EmittedEvents> Partition::Impl::CheckEmitted(
    const DeliveryRef& delivery, std::vector<std::string> emitted) {
  if (emitted.size() > kEmittedMax) {
    return absl::InvalidArgumentError(
        fmt::format("{} events emitted, at most {} are allowed", emitted.size(), kEmittedMax));
  }
  EmittedEvents out;
  const auto parent = leased_hops.find({delivery.trigger.value(), delivery.offset.value()});
  if (parent != leased_hops.end()) out.hops = parent->second + 1;
  if (out.hops >= options.hops_max) {
    return absl::InvalidArgumentError(
        fmt::format("emitted events would have gone round {} times: a loop", out.hops));
  }
  for (std::size_t i = 0; i < emitted.size(); ++i) {
    EventView view;
    absl::Status valid = ParseEvent(emitted[i], view);
    if (valid.ok()) valid = ValidateEvent(view, emitted[i].size(), options.event_limits);
    if (!valid.ok()) return Annotate(valid, fmt::format("emitted event {}", i));
    if (view.Find(kDeliverAtAttribute) != nullptr || view.Find(kDeliverInAttribute) != nullptr) {
      return absl::InvalidArgumentError(fmt::format(
          "emitted event {}: T0344: what is emitted cannot wait for a time: publish it with {} or "
          "{}, or add a schedule",
          i, kDeliverAtAttribute, kDeliverInAttribute));
    }
    if (auto without = StripReserved(view)) emitted[i] = std::move(*without);
    out.bytes += emitted[i].size() + 512;
  }
  if (out.bytes > kEmittedBytesMax + emitted.size() * 512) {
    return absl::InvalidArgumentError(fmt::format("{} of emitted events, at most {} are allowed",
                                                  FormatBytes(out.bytes),
                                                  FormatBytes(kEmittedBytesMax)));
  }
  // Lists of matches that may be larger than the events.
  const bool many = runtimes.size() * (kVarintBytesMax + 3) > kMatchesReckoned;
  for (std::size_t i = 0; i < emitted.size() && many; ++i) {
    EventView view;
    (void)ParseEvent(emitted[i], view);
    if (PartitionOfEvent(view, options.partitions) != options.id) continue;
    const std::size_t list = MatchBytes(view, "", emitted.size());
    out.bytes += list - std::min(list, kMatchesReckoned);
  }
  if (out.bytes + 2 * BodySlack() > ports.journal.batch_bytes_max()) {
    return absl::InvalidArgumentError(
        fmt::format("{} of emitted events with the lists of triggers that they match: more than "
                    "one batch of the journal; emit fewer at a time",
                    FormatBytes(out.bytes)));
  }
  out.events = std::move(emitted);
  return out;
}

void Partition::Impl::WriteEmitted(const EmittedEvents& emitted) {
  for (const std::string& event : emitted.events) {
    EventView view;
    (void)ParseEvent(event, view);
    const PartitionId home = PartitionOfEvent(view, options.partitions);
    if (home != options.id) {
      OutgoingRecord outgoing;
      outgoing.home = home;
      const auto lane = state.outgoing().find(home);
      outgoing.sequence = lane == state.outgoing().end() ? 1 : lane->second.next_sequence;
      const std::string stored = std::string(1, static_cast<char>(emitted.hops)) + event;
      outgoing.event = stored;
      std::string body;
      EncodeOutgoing(outgoing, body);
      AddRecord(RecordType::kOutgoing, body);
      const RecordView record{RecordType::kOutgoing, body, 0};
      const absl::Status applied = state.Apply(record, state.end(), turn.append_time_us);
      TOCSIN_CHECK(applied.ok(), "{}", MessageOf(applied));
      turn.outgoing = true;
      continue;
    }
    EventRecord record;
    (void)MatchEvent(view, "", record, nullptr);
    record.hops = emitted.hops;
    record.event = event;
    const Offset at = AddEvent(record, view, nullptr, false);
    if (record.matches.empty()) CountUnmatched(view, at);
    DropOverBacklog(record);
  }
}

void Partition::Impl::ForwardOutgoing() {
  for (const auto& [home, lane] : state.outgoing()) {
    if (lane.pending.empty() || forwarding.contains(home)) continue;
    // What is not durable yet may be refused and its number used again.
    const auto durable = outgoing_durable.find(home);
    if (durable == outgoing_durable.end() || lane.pending.begin()->first > durable->second)
      continue;
    LaneBatch batch;
    batch.lane.source = fmt::format("{}{}", kPartitionLanePrefix, options.id.value());
    const std::size_t kept = 2 * BodySlack() + 2048;  // as AppendLane() reckons
    const std::size_t bytes_max =
        std::min(kForwardBytesMax,
                 ports.journal.batch_bytes_max() - std::min(kept, ports.journal.batch_bytes_max()));
    const auto narrowed = forward_events_max.find(home);
    const std::size_t events_max =
        narrowed == forward_events_max.end() ? kForwardEventsMax : narrowed->second;
    std::size_t bytes = 0;
    std::uint64_t last = 0;
    for (const auto& [sequence, stored] : lane.pending) {
      const std::size_t more = stored.size() + kForwardOverhead;
      if ((bytes + more > bytes_max && bytes > 0) || batch.events.size() == events_max) break;
      if (sequence > durable->second) break;
      // hops u8 | event bytes, see WriteEmitted().
      batch.hops.push_back(static_cast<std::uint8_t>(stored[0]));
      batch.events.push_back(stored.substr(1));
      bytes += more;
      last = sequence;
    }
    batch.position = fmt::format("{}", last);
    forwarding[home] = last;
    // Runs on the home's executor: back to ours before anything is touched.
    batch.done = [this, home = home, last, count = batch.events.size(), &executor = ports.executor,
                  guard = std::weak_ptr(alive)](const absl::Status& status) {
      executor.Post([this, home, last, count, status, guard] {
        if (guard.expired()) return;
        BeginIfNeeded();
        Forwarded(home, last, count, status);
        ports.wake();
      });
    };
    if (Planted(Canary::kForwardUnsent)) return batch.done(absl::OkStatus());
    ports.router.Forward(home, std::move(batch));
  }
}

void Partition::Impl::Forwarded(PartitionId home, std::uint64_t last, std::size_t count,
                                const absl::Status& status) {
  if (status.ok() && !failed) {
    const auto narrowed = forward_events_max.find(home);
    if (narrowed != forward_events_max.end() && (narrowed->second *= 2) >= kForwardEventsMax) {
      forward_events_max.erase(narrowed);
    }
    EnsureRoom(64);
    std::string body;
    EncodeOutgoingDone({home, last}, body);
    AddRecord(RecordType::kOutgoingDone, body);
    const RecordView view{RecordType::kOutgoingDone, body, 0};
    const absl::Status applied = state.Apply(view, state.end(), turn.append_time_us);
    TOCSIN_CHECK(applied.ok(), "{}", MessageOf(applied));
  }
  // Too many match each of them there for one batch.
  const bool too_large = absl::IsOutOfRange(status) && count > 1;
  if (too_large) forward_events_max[home] = count / 2;
  if (status.ok() || too_large) {
    forwarding.erase(home);
    ForwardOutgoing();
    return;
  }
  ports.executor.PostAt(now + kForwardAgainAfter, [this, home, guard = std::weak_ptr(alive)] {
    if (guard.expired()) return;
    forwarding.erase(home);
    BeginIfNeeded();
    ForwardOutgoing();
    ports.wake();
  });
}

}  // namespace tocsin
