// What became of a stored event: its record, then what the log says of its deliveries behind it,
// then what the queues say of those that are not settled.

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/status.h"
#include "broker/journal/record.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

constexpr std::size_t kReadBytes = 512 * 1024;
constexpr std::uint64_t kLookedAtMax = std::uint64_t{256} << 20;  // bytes of the log behind it

std::string_view ReasonName(LetterReason reason) {
  switch (reason) {
    case LetterReason::kExhausted:
      return "its attempts were used up";
    case LetterReason::kRejected:
      return "its worker rejected it";
    case LetterReason::kExpired:
      return "it was too old";
    case LetterReason::kUndecodable:
      return "it could not be decoded";
    case LetterReason::kRefused:
      return "it was refused";
  }
  return "";
}

bool InRanges(const RangesRecord& record, std::uint64_t index) {
  return std::any_of(record.ranges.begin(), record.ranges.end(), [&](const IndexRange& range) {
    return range.first <= index && index <= range.last;
  });
}

void Lower(std::string& text, std::size_t bytes) {
  for (std::size_t i = 0; i < std::min(bytes, text.size()); ++i) {
    if (text[i] >= 'A' && text[i] <= 'Z') text[i] = static_cast<char>(text[i] - 'A' + 'a');
  }
}

}  // namespace

struct Partition::Impl::Explaining {
  struct One {
    TriggerOrdinal trigger;
    std::uint64_t index = 0;
    bool settled = false;
  };
  Offset offset;
  bool found = false;
  EventStory story;
  std::vector<One> ones;  // parallel to story.deliveries
  std::uint64_t looked_at = 0;
  absl::AnyInvocable<void(absl::StatusOr<EventStory>)> done;
};

void Partition::Explain(Offset offset, absl::AnyInvocable<void(absl::StatusOr<EventStory>)> done) {
  impl_->Explain(offset, std::move(done));
}

std::optional<Offset> Partition::FindRecent(const Hash128& identity) const {
  const auto seen = impl_->state.dedupe().Find(identity, Micros(impl_->ports.clock.Wall()));
  if (!seen) return std::nullopt;
  return seen->offset;
}

Offset Partition::end() const { return impl_->state.end(); }

Offset Partition::OffsetSince(WallTime time) const {
  Offset since = impl_->start_known ? impl_->start : Offset();
  for (const auto& [at, end] : impl_->samples) {
    if (at < time) since = std::max(since, end);
  }
  return since;
}

void Partition::Impl::Explain(Offset offset,
                              absl::AnyInvocable<void(absl::StatusOr<EventStory>)> done) {
  if (const absl::Status usable = Usable(); !usable.ok()) {
    done(usable);
    return;
  }
  if (NotKnownYet(offset)) {
    waiting.push_back({offset, [this, offset, done = std::move(done)](const absl::Status&) mutable {
                         Explain(offset, std::move(done));
                       }});
    return;
  }
  if (!(offset < durable_end)) {
    done(absl::NotFoundError(fmt::format("there is no event {}/{}: the partition has {} so far",
                                         options.id.value(), offset.value(), durable_end.value())));
    return;
  }
  auto look = std::make_shared<Explaining>();
  look->offset = offset;
  look->done = std::move(done);
  if (!settle_by) return ReadForExplain(std::move(look), ports.journal.Locate(options.id, offset));
  // What settled it may be among the settlements that wait.
  WhenDurable(
      [this, look = std::move(look)](const absl::Status& status) mutable {
        if (!status.ok() && !IsTakenWithoutRoom(status)) return look->done(status);
        const JournalPosition from = ports.journal.Locate(options.id, look->offset);
        ReadForExplain(std::move(look), from);
      },
      true);
}

void Partition::Impl::ReadForExplain(std::shared_ptr<Explaining> look, JournalPosition from) {
  ports.journal.Read(options.id, from, kReadBytes,
                     [this, look = std::move(look),
                      guard = std::weak_ptr(alive)](absl::StatusOr<ReadResult> result) mutable {
                       if (guard.expired()) return;
                       BeginIfNeeded();
                       OnExplainRead(std::move(look), std::move(result));
                       ports.wake();
                     });
}

void Partition::Impl::OnExplainRead(std::shared_ptr<Explaining> look,
                                    absl::StatusOr<ReadResult> result) {
  const auto gone = [&](std::string_view why) {
    look->done(absl::NotFoundError(fmt::format("event {}/{} is not stored any more{}{}",
                                               options.id.value(), look->offset.value(),
                                               why.empty() ? "" : ": ", why)));
  };
  if (!result.ok()) return gone(MessageOf(result.status()));
  for (const StoredBatch& stored : result->batches) {
    look->looked_at += stored.body->size();
    if (!look->found) {
      if (stored.base_offset.value() + stored.event_count <= look->offset.value()) continue;
      if (look->offset < stored.base_offset) return gone("");
    }
    ReadStory(*look, stored);
  }
  const bool enough = look->looked_at > kLookedAtMax;
  if (!result->at_end && !(enough && look->found)) {
    ReadForExplain(std::move(look), result->next);
    return;
  }
  if (!look->found) {
    return gone(result->unreadable.empty() ? std::string_view() : result->unreadable[0].reason);
  }
  FinishStory(*look);
  look->story.whole = result->at_end;
  look->done(std::move(look->story));
}

// What one batch says of the event and of its deliveries.
void Partition::Impl::ReadStory(Explaining& look, const StoredBatch& stored) {
  using One = Explaining::One;
  EventStory& story = look.story;
  const auto each = [&](TriggerOrdinal trigger, auto covers, auto told) {
    for (std::size_t i = 0; i < look.ones.size(); ++i) {
      One& one = look.ones[i];
      if (one.trigger == trigger && covers(one.index)) told(one, story.deliveries[i]);
    }
  };
  const auto died = [&](const DeadRecord& dead, Fate fate) {
    each(
        dead.trigger, [&](std::uint64_t index) { return index == dead.index; },
        [&](One& one, DeliveryFate& delivery) {
          one.settled = true;
          delivery.fate = fate;
          delivery.detail = ReasonName(dead.reason);
          if (dead.parked) delivery.detail += "; it parks its key";
        });
  };
  RecordReader reader(*stored.body);
  RecordView view;
  Offset offset = stored.base_offset;
  while (reader.Next(view)) {
    RangesRecord ranges;
    DeadRecord dead;
    switch (view.type) {
      case RecordType::kEvent: {
        const Offset at = offset;
        offset = Next(offset);
        EventRecord record;
        if (!DecodeEvent(view.body, record).ok()) break;
        const bool this_one = at == look.offset;
        if (!this_one && !(look.found && record.new_run && record.origin == story.origin)) break;
        if (this_one) {
          look.found = true;
          story.offset = at;
          story.origin = record.new_run ? record.origin : at;
          story.run = record.run;
          story.recorded = FromMicros(stored.append_time_us);
          story.source = std::string(record.lane_source);
          story.bytes = std::string(record.event);
        }
        for (const Match& match : record.matches) {
          const TriggerRecord* trigger = state.FindTrigger(match.trigger);
          DeliveryFate delivery;
          delivery.id = DeliveryId{options.id, story.origin, match.trigger, record.run};
          delivery.offset = at;
          delivery.trigger = trigger == nullptr ? std::string() : trigger->name;
          story.deliveries.push_back(std::move(delivery));
          look.ones.push_back({match.trigger, match.index, false});
        }
        break;
      }
      case RecordType::kSettled:
        if (!view.body.empty() && view.body[0] == 1) {
          if (DecodeDead(view.body.substr(1), dead).ok()) died(dead, Fate::kDead);
          break;
        }
        [[fallthrough]];
      case RecordType::kDropped: {
        const bool acked = view.type == RecordType::kSettled;
        const std::string_view body = acked && !view.body.empty() ? view.body.substr(1) : view.body;
        if (!DecodeRanges(body, ranges).ok()) break;
        each(
            ranges.trigger, [&](std::uint64_t index) { return InRanges(ranges, index); },
            [&](One& one, DeliveryFate& delivery) {
              one.settled = true;
              delivery.fate = acked ? Fate::kAcked : Fate::kDropped;
              delivery.detail = std::string(ranges.reason);
              delivery.next_attempt.reset();
            });
        break;
      }
      case RecordType::kExpired:
        if (DecodeDead(view.body, dead).ok()) died(dead, Fate::kExpired);
        break;
      case RecordType::kAttemptFailed: {
        AttemptFailedRecord attempt;
        if (!DecodeAttemptFailed(view.body, attempt).ok()) break;
        each(
            attempt.trigger, [&](std::uint64_t index) { return index == attempt.index; },
            [&](One&, DeliveryFate& delivery) {
              delivery.failed = attempt.attempt;
              delivery.next_attempt = FromMicros(attempt.due_us);
              delivery.detail =
                  fmt::format("attempt {} failed: {}{}{}", attempt.attempt, attempt.code,
                              attempt.message.empty() ? "" : ": ", attempt.message);
            });
        break;
      }
      case RecordType::kDeadClosed: {
        DeadClosedRecord closed;
        if (!DecodeDeadClosed(view.body, closed).ok()) break;
        for (DeliveryFate& delivery : story.deliveries) {
          if (delivery.id.trigger != closed.trigger || delivery.id.run != closed.run ||
              closed.origin != story.origin) {
            continue;
          }
          delivery.detail += closed.how == LetterClosedAs::kRedriven
                                 ? fmt::format("; redriven as {}/{}", options.id.value(),
                                               closed.redriven_as.value())
                             : closed.how == LetterClosedAs::kDiscarded
                                 ? "; the letter was discarded"
                                 : "; the letter was closed for its age";
        }
        break;
      }
      case RecordType::kTriggerDetached: {
        TriggerDetachedRecord detached;
        if (!DecodeTriggerDetached(view.body, detached).ok() || !detached.forgotten) break;
        each(
            detached.trigger, [](std::uint64_t) { return true; },
            [](One& one, DeliveryFate& delivery) {
              if (std::exchange(one.settled, true)) return;
              delivery.fate = Fate::kDropped;
              delivery.detail = "its trigger was forgotten";
            });
        break;
      }
      default:
        break;
    }
  }
}

void Partition::Impl::FinishStory(Explaining& look) {
  EncodeSettlements();
  for (std::size_t i = 0; i < look.ones.size(); ++i) {
    const Explaining::One& one = look.ones[i];
    DeliveryFate& delivery = look.story.deliveries[i];
    if (one.settled) {
      delivery.next_attempt.reset();
      continue;
    }
    const TriggerRecord* trigger = state.FindTrigger(one.trigger);
    if (trigger == nullptr || trigger->settled.Contains(one.index)) {
      delivery.fate = Fate::kSettled;
      delivery.next_attempt.reset();
      continue;
    }
    const Runtime* runtime = RuntimeOf(one.trigger);
    std::string told = runtime == nullptr || runtime->queue == nullptr
                           ? std::string()
                           : runtime->queue->Describe(delivery.offset, now);
    delivery.fate = told.starts_with("LEASED")    ? Fate::kInFlight
                    : told.starts_with("DELAYED") ? Fate::kDelayed
                    : told.starts_with("DEAD")    ? Fate::kDying
                                                  : Fate::kQueued;
    if (delivery.fate != Fate::kDelayed) delivery.next_attempt.reset();
    Lower(told, told.find(' '));
    if (trigger->detached) {
      told = "its trigger is detached";
    } else if (told.empty()) {
      told = "in the journal, behind what its queue holds";
    }
    delivery.detail = delivery.detail.empty() ? told : fmt::format("{}; {}", told, delivery.detail);
  }
  for (const auto& trigger : state.triggers()) {
    for (const FormerConfig& former : trigger->former) {
      if (!(look.story.origin < former.until)) continue;
      look.story.configs.push_back({trigger->name, former.config_json.str()});
      break;
    }
  }
}

}  // namespace tocsin
