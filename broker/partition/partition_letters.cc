// Dead letters: reading, redriving and closing them.

#include <fmt/format.h>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/journal/record.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

absl::Status LostLetter(const DeliveryId& id) {
  return absl::DataLossError(
      fmt::format("dead letter {} is lost, the dead log is damaged where it was: there is nothing "
                  "to deliver; discard it when you are done with it",
                  FormatDeliveryId(id)));
}

// What was read where the letter was written: damage can have put another one there.
absl::StatusOr<Letter> DecodeStored(const DeliveryId& id,
                                    const absl::StatusOr<std::string>& bytes) {
  absl::StatusOr<Letter> letter = bytes.ok() ? DecodeLetter(*bytes) : bytes.status();
  if (!letter.ok()) {
    return Annotate(letter.status(), fmt::format("letter {}", FormatDeliveryId(id)));
  }
  if (letter->id != id) return LostLetter(id);
  return letter;
}

}  // namespace

void Partition::Impl::CloseLetter(const OpenLetter& letter, LetterClosedAs how, Offset redriven_as,
                                  std::uint64_t index) {
  const TriggerOrdinal ordinal = letter.id.trigger;
  const std::string key = letter.key;
  const bool parked = letter.parked;
  DeadClosedRecord record;
  record.trigger = ordinal;
  record.origin = letter.id.offset;
  record.run = letter.id.run;
  record.how = how;
  record.redriven_as = redriven_as;
  record.index = index;
  std::string body;
  EncodeDeadClosed(record, body);
  AddAndApply(RecordType::kDeadClosed, body);
  Runtime* runtime = RuntimeOf(ordinal);
  if (how != LetterClosedAs::kRedriven && parked && runtime != nullptr &&
      runtime->queue != nullptr) {
    runtime->queue->Release(key);
    Touch(*runtime);
  }
}

// Where a letter is, is known when it is durable.
void Partition::Impl::WaitUntilWritten(const OpenLetter& letter,
                                       absl::AnyInvocable<void(const absl::Status&)> then) {
  // Batches become durable in their order, so the last one that is on its way will do.
  if (!turn.empty()) {
    turn.done.push_back({std::move(then), true});
  } else if (!in_flight.empty()) {
    in_flight.back().done.push_back({std::move(then), true});
  } else {
    then(absl::UnavailableError(
        fmt::format("dead letter {} is being written: try again", FormatDeliveryId(letter.id))));
  }
}

void Partition::Impl::Redrive(const DeliveryId& id, absl::AnyInvocable<void(absl::Status)> done) {
  if (const absl::Status usable = Writable(); !usable.ok()) {
    done(usable);
    return;
  }
  const auto found = state.letters().find(id);
  if (found == state.letters().end()) {
    done(absl::NotFoundError(fmt::format("there is no open dead letter {}", FormatDeliveryId(id))));
    return;
  }
  if (id.trigger == kNoTrigger) {
    done(absl::FailedPreconditionError(
        fmt::format("letter {} has no trigger: what the source brought could not be decoded, so "
                    "there is nothing "
                    "to deliver; discard it when you are done with it",
                    FormatDeliveryId(id))));
    return;
  }
  if (RuntimeOf(id.trigger) == nullptr) {
    done(absl::FailedPreconditionError(fmt::format(
        "the trigger of letter {} is detached: put it back into the configuration first",
        FormatDeliveryId(id))));
    return;
  }
  if (found->second.lost) {
    done(LostLetter(id));
    return;
  }
  if (found->second.position.value() == 0) {
    WaitUntilWritten(found->second,
                     [this, id, done = std::move(done)](const absl::Status& status) mutable {
                       if (status.ok()) return Redrive(id, std::move(done));
                       done(status);
                     });
    return;
  }
  ports.journal.ReadLetter(
      options.id, found->second.position,
      [this, id, done = std::move(done),
       guard = std::weak_ptr(alive)](const absl::StatusOr<std::string>& bytes) mutable {
        if (guard.expired()) return;
        BeginIfNeeded();
        const auto letter = state.letters().find(id);
        if (letter == state.letters().end() || RuntimeOf(id.trigger) == nullptr || failed) {
          done(absl::NotFoundError(
              fmt::format("dead letter {} was closed meanwhile", FormatDeliveryId(id))));
          return;
        }
        const absl::StatusOr<Letter> stored = DecodeStored(id, bytes);
        if (!stored.ok()) {
          done(stored.status());
          return;
        }
        EventView view;
        const absl::Status valid = ParseEvent(stored->event, view);
        if (!valid.ok()) {
          done(Annotate(valid, fmt::format("the event of letter {}", FormatDeliveryId(id))));
          return;
        }
        EnsureRoom(stored->event.size() + 1024);
        EncodeSettlements();
        const TriggerRecord* trigger = state.FindTrigger(id.trigger);
        EventRecord record;
        record.matches.push_back({id.trigger, trigger->matched});
        record.new_run = record.redriven = true;
        record.origin = id.offset;
        record.run = id.run + 1;
        record.has_lane = !stored->source.empty();
        record.lane_source = stored->source;
        record.lane_key = stored->lane;
        record.event = stored->event;
        const OpenLetter open_letter = letter->second;
        const std::uint64_t index = record.matches[0].index;
        const Offset offset = AddEvent(record, view, nullptr, open_letter.parked);
        CloseLetter(open_letter, LetterClosedAs::kRedriven, offset, index);
        turn.done.push_back({std::move(done), true});
        ports.wake();
      });
}

std::vector<LetterSummary> Partition::OpenLetters() const {
  std::vector<LetterSummary> summaries;
  for (const auto& [id, letter] : impl_->state.letters()) {
    LetterSummary summary;
    summary.id = id;
    summary.position = letter.position;
    summary.parked = letter.parked;
    if (const TriggerRecord* trigger = impl_->state.FindTrigger(id.trigger)) {
      summary.trigger = trigger->name;
    }
    summaries.push_back(std::move(summary));
  }
  return summaries;
}

void Partition::ReadLetter(const DeliveryId& id,
                           absl::AnyInvocable<void(absl::StatusOr<Letter>)> done) {
  const auto found = impl_->state.letters().find(id);
  if (found == impl_->state.letters().end()) {
    done(absl::NotFoundError(fmt::format("there is no open dead letter {}", FormatDeliveryId(id))));
    return;
  }
  if (found->second.lost) {
    done(LostLetter(id));
    return;
  }
  if (found->second.position.value() == 0) {
    impl_->WaitUntilWritten(found->second,
                            [this, id, done = std::move(done)](const absl::Status& status) mutable {
                              if (status.ok()) return ReadLetter(id, std::move(done));
                              done(status);
                            });
    return;
  }
  impl_->ports.journal.ReadLetter(
      impl_->options.id, found->second.position,
      [id, done = std::move(done)](const absl::StatusOr<std::string>& bytes) mutable {
        done(DecodeStored(id, bytes));
      });
}

void Partition::Redrive(const DeliveryId& id, absl::AnyInvocable<void(absl::Status)> done) {
  impl_->Redrive(id, std::move(done));
}

void Partition::Discard(const DeliveryId& id, absl::AnyInvocable<void(absl::Status)> done) {
  if (const absl::Status usable = impl_->Writable(); !usable.ok()) {
    done(usable);
    return;
  }
  impl_->BeginIfNeeded();
  const auto found = impl_->state.letters().find(id);
  if (found == impl_->state.letters().end()) {
    done(absl::NotFoundError(fmt::format("there is no open dead letter {}", FormatDeliveryId(id))));
    return;
  }
  impl_->EnsureRoom(64);
  const OpenLetter letter = found->second;
  impl_->CloseLetter(letter, LetterClosedAs::kDiscarded, Offset(), 0);
  impl_->turn.done.push_back({std::move(done), true});
}

}  // namespace tocsin
