// How events come in: publishes, lanes, schedules, and what other partitions send.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "broker/base/canary.h"
#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/base/wire.h"
#include "broker/journal/record.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

constexpr std::size_t kLetterOverhead = 1024;  // what a letter has beside its event, about
constexpr std::size_t kUnmatchedMax = 256;
constexpr std::size_t kDedupeAhead = 8;  // how far ahead the dedupe table's memory is fetched
constexpr std::string_view kHopsAttribute = "tocsinhops";

constexpr std::size_t kEventOverhead = 256;  // of one event of a lane
constexpr std::size_t kBodySlack = 64 * 1024;
constexpr Duration kDeliverInMax = std::chrono::hours(24 * 3653);
constexpr std::int64_t kDeliverLastUs = 7'258'118'400'000'000;  // the end of kScheduleLastYear

std::uint64_t ParseSequence(std::string_view text) {
  std::uint64_t value = 0;
  (void)std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// The time of delivery that an attribute of an event asks for.
absl::Status ReadDelivery(const AttributeView& attribute, PublishedEvent& event) {
  const auto bad = [&attribute](std::string_view why) {
    return absl::InvalidArgumentError(fmt::format("T0335: {}: {}", attribute.name, why));
  };
  if (event.deliver_at_us != 0 || event.deliver_in_us != 0) return bad("an event has one time");
  if (attribute.name == kDeliverInAttribute) {
    const auto in = attribute.kind == AttributeKind::kString
                        ? ParseDuration(attribute.text)
                        : absl::StatusOr<Duration>(absl::InvalidArgumentError("it is no text"));
    if (!in.ok())
      return bad(fmt::format("a duration such as 90s is needed: {}", MessageOf(in.status())));
    if (*in > kDeliverInMax) return bad("at most ten years ahead");
    event.deliver_in_us = std::max<std::int64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(*in).count(), 1);
    return absl::OkStatus();
  }
  if (attribute.kind == AttributeKind::kTimestamp) {
    event.deliver_at_us = attribute.integer * 1'000'000 + attribute.nanos / 1000;
  } else {
    const auto at = ParseRfc3339(attribute.text);
    if (!at.ok())
      return bad(
          fmt::format("a time such as 2026-03-29T02:30:00Z is needed: {}", MessageOf(at.status())));
    event.deliver_at_us = Micros(*at);
  }
  if (event.deliver_at_us < 1 || event.deliver_at_us > kDeliverLastUs) {
    return bad(fmt::format("a time between 1970 and {} is needed", kScheduleLastYear));
  }
  return absl::OkStatus();
}

}  // namespace

PartitionId PartitionOfLane(const LaneId& lane, std::uint32_t partitions) {
  return PartitionId(static_cast<std::uint32_t>(
      HashKey(fmt::format("{}\n{}", lane.source, lane.key)) % partitions));
}

PartitionId PartitionOfEvent(const EventView& event, std::uint32_t partitions) {
  const std::string_view key = event.PartitionKey();
  if (!key.empty()) return PartitionId(static_cast<std::uint32_t>(HashKey(key) % partitions));
  const Hash128 identity = HashSourceAndId(event.source, event.id, 0);
  return PartitionId(static_cast<std::uint32_t>(identity.low % partitions));
}

absl::Status PreparePublished(std::string_view bytes, const EventLimits& limits,
                              std::uint32_t hops_max, std::uint64_t hash_seed,
                              std::uint32_t partitions, PublishedEvent& event, PartitionId& home) {
  EventView view;
  TOCSIN_RETURN_IF_ERROR(ParseEvent(bytes, view));
  TOCSIN_RETURN_IF_ERROR(ValidateEvent(view, bytes.size(), limits));
  event.bytes = bytes;
  event.own.clear();
  event.hops = 0;
  event.deliver_at_us = event.deliver_in_us = 0;
  for (const AttributeView& attribute : view.attributes) {
    if (!attribute.name.starts_with(kReservedPrefix)) continue;
    if (attribute.name == kDeliverAtAttribute || attribute.name == kDeliverInAttribute) {
      TOCSIN_RETURN_IF_ERROR(ReadDelivery(attribute, event));
    }
    // A bridge between brokers keeps the count; everything else that is ours is not believed.
    if (attribute.name == kHopsAttribute && attribute.kind == AttributeKind::kInteger) {
      if (attribute.integer < 0 || attribute.integer >= hops_max) {
        return absl::InvalidArgumentError(fmt::format(
            "tocsinhops is {}: the event has gone round {} times, which is a loop; look "
            "at what emits it",
            attribute.integer, hops_max));
      }
      event.hops = static_cast<std::uint32_t>(attribute.integer);
    }
    if (event.own.empty()) {
      std::optional<std::string> stripped = StripReserved(view);
      if (stripped) event.own = std::move(*stripped);
    }
  }
  event.identity = HashSourceAndId(view.source, view.id, hash_seed);
  home = PartitionOfEvent(view, partitions);
  if (!event.own.empty()) event.bytes = event.own;
  return absl::OkStatus();
}

bool Partition::Impl::MatchEvent(const EventView& view, std::string_view source,
                                 EventRecord& record, absl::Status* refusal) {
  record.matches.clear();
  if (plan == nullptr || plan->table == nullptr) return true;
  MatchRoutes(view, source);
  for (const std::uint32_t route : match_routes) {
    TriggerRecord* trigger = state.FindTrigger(route_ordinals[route]);
    if (trigger->catch_up) continue;  // its turn comes when it is a stored one
    if (Planted(Canary::kMatchForgotten) && state.end().value() % 32 == 31) continue;
    const BacklogPolicy& backlog = SpecOf(route).policy.backlog;
    if (refusal != nullptr && backlog.size_max && backlog.when_full == WhenFull::kRefuse &&
        trigger->pending() >= *backlog.size_max) {
      *refusal = absl::ResourceExhaustedError(
          fmt::format("trigger '{}' has {} deliveries pending on partition {} (backlog.max_size)",
                      trigger->name, trigger->pending(), options.id.value()));
      return false;
    }
    record.matches.push_back({trigger->ordinal, trigger->matched});
  }
  return true;
}

// `backlog.when_full: drop`: matched and, in the same batch, dropped, covered by a record.
void Partition::Impl::DropOverBacklog(const EventRecord& record) {
  for (const Match& match : record.matches) {
    const Runtime* runtime = RuntimeOf(match.trigger);
    if (runtime == nullptr) continue;
    const BacklogPolicy& backlog = SpecOf(runtime->route).policy.backlog;
    if (!backlog.size_max || backlog.when_full != WhenFull::kDrop) continue;
    const TriggerRecord* trigger = state.FindTrigger(match.trigger);
    const auto held = turn.dropped.find(match.trigger.value());
    const std::size_t dropping = held == turn.dropped.end() ? 0 : held->second.size();
    if (trigger->pending() - dropping <= *backlog.size_max) continue;
    turn.dropped[match.trigger.value()].push_back(match.index);
    ++turn.settled_count;
    // Not to be offered either: the last matches pushed are this event's.
    for (OfferedEvent& offered : turn.offers) {
      if (offered.offset != Offset(state.end().value() - 1)) continue;
      for (std::uint32_t i = 0; i < offered.match_count; ++i) {
        Match& held_match = turn.matches[offered.first_match + i];
        if (held_match.trigger == match.trigger) held_match.trigger = kNoTrigger;
      }
    }
  }
}

void Partition::Impl::CountUnmatched(const EventView& view, Offset offset) {
  ++unmatched;
  unmatched_name.assign(view.source).append(1, ' ').append(view.type);
  const auto found = unmatched_by.find(unmatched_name);
  if (found != unmatched_by.end()) {
    ++found->second;
  } else if (unmatched_by.size() < kUnmatchedMax) {
    Warn("T0305", fmt::format("no trigger matches events of source '{}' and type '{}' (the "
                              "first is {}/{}); they are stored and counted",
                              view.source, view.type, options.id.value(), offset.value()));
    unmatched_by.emplace(unmatched_name, 1);
  }
}

void Partition::Impl::Publish(PublishBatch batch) {
  BeginIfNeeded();
  PublishOutcome outcome;
  if (failed) {
    outcome.status = absl::UnavailableError("the journal failed; the broker is stopping");
    batch.done(std::move(outcome));
    return;
  }
  // What was refused since this was handed in must not be overtaken.
  if (batch.order != nullptr && batch.order->IsLate(options.id, batch.order_epoch)) {
    outcome.status = absl::ResourceExhaustedError(StreamOrder::kLate);
    batch.done(std::move(outcome));
    return;
  }
  const auto no_room = [&] {
    if (batch.order != nullptr) batch.order->Refuse(options.id);
  };
  const std::int64_t now_us = Micros(wall);
  bool appended = false;
  bool delayed = false;  // something was, which has no offset yet
  bool delayed_duplicate = false;
  std::optional<Offset> last_duplicate;
  EventRecord& record = record_scratch;
  for (std::size_t i = 0; i < batch.events.size(); ++i) {
    PublishedEvent& event = batch.events[i];
    if (i + kDedupeAhead < batch.events.size()) {
      const PublishedEvent& later = batch.events[i + kDedupeAhead];
      state.dedupe().Prefetch(later.identity);
      __builtin_prefetch(later.bytes.data());  // another thread has read it
      __builtin_prefetch(later.bytes.data() + 64);
    }
    const std::string_view bytes = event.own.empty() ? event.bytes : std::string_view(event.own);
    PublishVerdict verdict;
    verdict.index = event.index;
    const auto seen = state.dedupe().Find(event.identity, now_us);
    if (seen) {
      verdict.duplicate = true;
      verdict.first = seen->offset;
      last_duplicate = last_duplicate ? std::max(*last_duplicate, seen->offset) : seen->offset;
      ++duplicates;
      ports.observer.NotTaken(options.id, LaneId(), bytes, seen->offset, "");
      outcome.verdicts.push_back(std::move(verdict));
      continue;
    }
    if (state.dynamic().delayed() > 0 &&
        state.dynamic().Find(DelayedName(event.identity)).has_value()) {
      verdict.duplicate = verdict.delayed = delayed_duplicate = true;
      ++duplicates;
      ports.observer.NotTaken(options.id, LaneId(), bytes, std::nullopt,
                              "an event of this source and id waits for its time already");
      outcome.verdicts.push_back(std::move(verdict));
      continue;
    }
    if (event.deliver_at_us != 0 || event.deliver_in_us != 0) {
      const std::int64_t at_us =
          event.deliver_at_us != 0 ? event.deliver_at_us : now_us + event.deliver_in_us;
      if (at_us > now_us) {
        verdict.refusal = RoomForSchedules(bytes.size() + 256);
        if (!verdict.refusal.ok()) {
          no_room();
          ++refused;
          ports.observer.NotTaken(options.id, LaneId(), bytes, std::nullopt,
                                  MessageOf(verdict.refusal));
          verdict.retry_after_ms = 1000;
        } else {
          verdict.delayed = delayed = true;
          EnsureRoom(bytes.size() + 512);
          AddDelayed(event, bytes, at_us);
          turn.ingest = true;
        }
        outcome.verdicts.push_back(std::move(verdict));
        continue;
      }
    }
    EventView view;
    verdict.refusal = ParseEvent(bytes, view);
    if (verdict.refusal.ok()) {
      record = EventRecord();
      (void)MatchEvent(view, "", record, &verdict.refusal);
    }
    if (!verdict.refusal.ok()) {
      if (absl::IsResourceExhausted(verdict.refusal)) no_room();
      ++refused;
      ports.observer.NotTaken(options.id, LaneId(), bytes, std::nullopt,
                              MessageOf(verdict.refusal));
      verdict.retry_after_ms = 1000;
      outcome.verdicts.push_back(std::move(verdict));
      continue;
    }
    // Last, so that what was appended in this turn before is never left without its answer.
    EnsureRoom(bytes.size() + 512);
    record.hops = event.hops;
    record.deduped = true;
    record.event = bytes;
    const Offset offset = AddEvent(record, view, &event.identity, false);
    turn.ingest = true;
    if (!appended) outcome.base = offset;
    appended = true;
    if (record.matches.empty()) {
      CountUnmatched(view, offset);
    } else {
      DropOverBacklog(record);
    }
  }
  // A refused or repeated event may lie between two accepted ones: offsets still follow each other.
  auto answer = [done = std::move(batch.done),
                 outcome = std::move(outcome)](const absl::Status& status) mutable {
    if (status.ok()) {
      done(std::move(outcome));
      return;
    }
    PublishOutcome failure;
    failure.status =
        IsTakenWithoutRoom(status) ? DiskIsFull()
        : absl::IsResourceExhausted(status)
            ? status
            : absl::UnavailableError(fmt::format(
                  "the outcome is not known ({}); send again with the same id", MessageOf(status)));
    done(std::move(failure));
  };
  if ((appended || delayed) && !turn.body.empty()) {
    (options.answer_when_written ? turn.notify_written : turn.notify).push_back(std::move(answer));
  } else if (((last_duplicate && *last_duplicate >= durable_end) || delayed_duplicate) &&
             (stalled || resubmitted)) {
    answer(DiskIsFull());
  } else if (delayed_duplicate) {
    WhenDurable(std::move(answer), true);
  } else if (last_duplicate && *last_duplicate >= durable_end) {
    // Its first copy is on its way: answered when that is durable.
    if (!turn.body.empty() && *last_duplicate >= turn.base) {
      turn.notify.push_back(std::move(answer));
    } else {
      waiting.push_back({*last_duplicate, std::move(answer)});
    }
  } else {
    answer(absl::OkStatus());
  }
}

void Partition::Impl::AddLetterWithoutTrigger(const LaneId& lane, std::string_view bytes,
                                              LetterReason reason, const std::string& message) {
  DeadRecord dead;
  dead.trigger = kNoTrigger;
  dead.offset = state.end();
  dead.origin = dead.offset;
  dead.reason = reason;
  // Behind the last one of this place: counted from the first, a file of such records is quadratic.
  const auto behind =
      state.letters().upper_bound(DeliveryId{options.id, dead.origin, kNoTrigger, UINT32_MAX});
  if (behind != state.letters().begin()) {
    const DeliveryId& last = std::prev(behind)->first;
    if (last.offset == dead.origin && last.trigger == kNoTrigger) dead.run = last.run + 1;
  }
  Letter letter;
  letter.id = DeliveryId{options.id, dead.origin, kNoTrigger, dead.run};
  letter.reason = reason;
  letter.message = message;
  letter.source = lane.source;
  letter.lane = lane.key;
  letter.died = wall;
  letter.event = std::string(bytes);
  AddLetter(letter.id, EncodeLetter(letter));
  std::string body(1, '\1');
  EncodeDead(dead, body);
  AddRecord(RecordType::kSettled, body);
  const RecordView view{RecordType::kSettled, body, 0};
  const absl::Status applied = state.Apply(view, state.end(), turn.append_time_us);
  TOCSIN_CHECK(applied.ok(), "{}", MessageOf(applied));
}

void Partition::Impl::AppendLane(LaneBatch batch) {
  BeginIfNeeded();
  if (failed) {
    batch.done(absl::UnavailableError("the journal failed; the broker is stopping"));
    return;
  }
  if (plan == nullptr) {
    early_lanes.push_back(std::move(batch));
    return;
  }
  const bool from_partition = batch.lane.source.starts_with(kPartitionLanePrefix);
  if ((closing || (LettersFull() && !batch.undecodable.empty())) && !from_partition) {
    batch.done(absl::ResourceExhaustedError(
        closing ? "the broker is stopping" : "the dead log is at its quota (dead_letters.size)"));
    return;
  }
  std::size_t bytes = 1024 + batch.position.size();
  for (const std::string& event : batch.events) bytes += event.size() + kEventOverhead;
  for (const auto& [key, value] : batch.puts) bytes += key.size() + value.size() + 8;
  for (const std::string& key : batch.erases) bytes += key.size() + 4;
  bytes += MatchBytes(batch);
  std::size_t letter_bytes = 0;
  for (const Undecodable& one : batch.undecodable) {
    letter_bytes += kLetterOverhead + one.bytes.size() + one.reason.size();
  }
  if (std::max(bytes, letter_bytes) + 2 * BodySlack() > ports.journal.batch_bytes_max()) {
    batch.done(absl::OutOfRangeError(
        fmt::format("a batch of {} from source '{}', with the list of triggers that each of its "
                    "events matches, is larger than one journal batch ({})",
                    FormatBytes(std::max(bytes, letter_bytes)), batch.lane.source,
                    FormatBytes(ports.journal.batch_bytes_max()))));
    return;
  }
  // A source waits for a full backlog as for a full disk; what it then brings may exceed it.
  if (!from_partition && backlog_refuses) {
    absl::Status full;
    for (const std::string& event : batch.events) {
      EventView view;
      if (ParseEvent(event, view).ok() &&
          !MatchEvent(view, batch.lane.source, record_scratch, &full)) {
        batch.done(full);
        return;
      }
    }
  }
  // An event that is refused becomes a letter, too.
  EnsureRoom(bytes, letter_bytes + (from_partition ? 0 : bytes));
  std::size_t first = 0;
  if (from_partition) {
    // Sent again after a crash of the sender, or of us: what we have is skipped.
    const LaneRecord* lane = state.FindLane(batch.lane);
    const std::uint64_t have = lane == nullptr ? 0 : ParseSequence(lane->position);
    const std::uint64_t last = ParseSequence(batch.position);
    const std::uint64_t first_sequence = last + 1 - batch.events.size();
    if (have >= first_sequence && !Planted(Canary::kForwardRepeated)) {
      first = static_cast<std::size_t>(
          std::min<std::uint64_t>(have - first_sequence + 1, batch.events.size()));
    }
    if (first == batch.events.size()) {
      if (have < last || in_flight.empty()) {
        batch.done(absl::OkStatus());
      } else {
        in_flight.back().done.push_back({std::move(batch.done)});
      }
      return;
    }
  }
  const std::int64_t now_us = Micros(wall);
  std::uint64_t accepted = 0;
  EventRecord& record = record_scratch;
  for (std::size_t i = first; i < batch.events.size(); ++i) {
    if (Planted(Canary::kLaneSkips) && !from_partition && i == 3) continue;
    const std::string& bytes_in = batch.events[i];
    EventView view;
    absl::Status valid = ParseEvent(bytes_in, view);
    if (valid.ok()) valid = ValidateEvent(view, bytes_in.size(), options.event_limits);
    if (!valid.ok()) {
      AddLetterWithoutTrigger(batch.lane, bytes_in, LetterReason::kRefused,
                              std::string(MessageOf(valid)));
      ports.observer.NotTaken(options.id, batch.lane, bytes_in, std::nullopt, MessageOf(valid));
      continue;
    }
    Hash128 identity;
    if (batch.dedupe) {
      identity = HashSourceAndId(view.source, view.id, options.hash_seed);
      if (const auto seen = state.dedupe().Find(identity, now_us)) {
        ++duplicates;
        ports.observer.NotTaken(options.id, batch.lane, bytes_in, seen->offset, "");
        continue;
      }
    }
    record = EventRecord();
    (void)MatchEvent(view, batch.lane.source, record, nullptr);
    record.hops = i < batch.hops.size() ? batch.hops[i] : 0;
    record.deduped = batch.dedupe;
    record.has_lane = true;
    record.tracked = batch.wants_settled;
    record.lane_source = batch.lane.source;
    record.lane_key = batch.lane.key;
    record.event = bytes_in;
    const Offset at = AddEvent(record, view, batch.dedupe ? &identity : nullptr, false);
    if (!from_partition) turn.ingest = true;
    ++accepted;
    if (record.matches.empty()) CountUnmatched(view, at);
    DropOverBacklog(record);
  }
  for (const Undecodable& undecodable : batch.undecodable) {
    AddLetterWithoutTrigger(batch.lane, undecodable.bytes, LetterReason::kUndecodable,
                            undecodable.reason);
  }
  LaneStateRecord lane;
  lane.source = batch.lane.source;
  lane.key = batch.lane.key;
  lane.position = batch.position;
  lane.events = accepted;
  for (const auto& [key, value] : batch.puts) lane.puts.emplace_back(key, value);
  for (const std::string& key : batch.erases) lane.erases.push_back(key);
  std::string body;
  EncodeLaneState(lane, body);
  AddRecord(RecordType::kLaneState, body);
  const RecordView view{RecordType::kLaneState, body, 0};
  const absl::Status applied = state.Apply(view, state.end(), turn.append_time_us);
  TOCSIN_CHECK(applied.ok(), "{}", MessageOf(applied));
  turn.done.push_back({std::move(batch.done), batch.asked, std::move(batch.lane)});
}

// Of the list of an event's matches, if it comes soon.
std::size_t Partition::Impl::MatchBytes(const EventView& view, std::string_view source,
                                        std::size_t events) {
  if (plan == nullptr || plan->table == nullptr) return 0;
  MatchRoutes(view, source);
  std::size_t bytes = 0;
  for (const std::uint32_t route : match_routes) {
    const TriggerRecord* trigger = state.FindTrigger(route_ordinals[route]);
    bytes += VarintSize(trigger->ordinal.value()) + VarintSize(trigger->matched + events);
  }
  return bytes;
}

// Of the lists of matches, beyond what is reckoned with for every event. Looked at closely only
// where there are triggers enough.
std::size_t Partition::Impl::MatchBytes(const LaneBatch& batch) {
  const std::size_t kept = kEventOverhead - std::min(kEventOverhead, 32 + batch.lane.source.size() +
                                                                         batch.lane.key.size());
  const std::size_t most = runtimes.size() * (kVarintBytesMax + 3);
  if (most <= kept || batch.events.size() * most <= BodySlack()) return 0;
  std::size_t bytes = 0;
  for (const std::string& event : batch.events) {
    EventView view;
    if (!ParseEvent(event, view).ok()) continue;
    const std::size_t list = MatchBytes(view, batch.lane.source, batch.events.size());
    bytes += list - std::min(list, kept);
  }
  return bytes;
}

std::size_t Partition::Impl::BodySlack() const {
  return std::min(kBodySlack, ports.journal.batch_bytes_max() / 4);
}

}  // namespace tocsin
