// What may be forgotten, and when: retention by age and size, dead letters, checkpoints that let
// the log be trimmed.

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <utility>

#include "absl/strings/cord.h"
#include "broker/base/canary.h"
#include "broker/base/time_text.h"
#include "broker/partition/partition_impl.h"

namespace tocsin {
namespace {

constexpr Duration kHousekeepEvery = std::chrono::seconds(1);
// A partition to which nothing happens: it costs no wake-ups, and moves on all the same.
constexpr Duration kIdleEvery = std::chrono::seconds(30);
// When the log is nearly at its size: so often, and at most a fifth of the time.
constexpr Duration kPressedEvery = std::chrono::milliseconds(200);
constexpr int kPressedShare = 5;
// Less of the log than this (or an eighth of its size) is not worth a checkpoint.
constexpr std::uint64_t kBehindMost = std::uint64_t{1} << 20;
constexpr std::size_t kSamplesMax = 4096;
constexpr absl::string_view kTakenPayload = "tocsin/taken-without-room";

absl::Status JournalFailed() {
  return absl::UnavailableError(
      "the journal failed and the broker is stopping: whether it lasts, the next start tells");
}

}  // namespace

Offset Partition::Impl::Floor(std::string* pinned_by) const {
  Offset floor = durable_end;
  for (const auto& trigger : state.triggers()) {
    if (trigger->forgotten) continue;
    if (trigger->catch_up && *trigger->catch_up < floor) {
      floor = *trigger->catch_up;
      if (pinned_by != nullptr) *pinned_by = trigger->name;
    }
    if (trigger->pending() == 0) continue;
    Offset mine = trigger->floor;
    const auto* runtime = trigger->ordinal.value() < runtimes.size()
                              ? runtimes[trigger->ordinal.value()].get()
                              : nullptr;
    if (runtime != nullptr && runtime->queue != nullptr) mine = runtime->queue->Floor(durable_end);
    if (mine < floor) {
      floor = mine;
      if (pinned_by != nullptr) *pinned_by = trigger->name;
    }
  }
  return floor;
}

// All partitions share the log and trim it together, so each must move on: also one to which
// nothing happens (its place is then marked by a record that says so), and also a checkpoint that
// would not be due yet when the log is nearly at its size.
void Partition::Impl::CheckpointIfDue() {
  const std::uint64_t end = ports.journal.end().value();
  const std::uint64_t bytes_max = options.retention_bytes;
  const std::uint64_t behind = std::min(kBehindMost, bytes_max / 8);
  const Duration since = now - last_checkpoint;
  const bool idle = turn.empty() && in_flight.empty() && end >= last_end.value() + behind;
  const bool pressed = ports.journal.log_bytes() >= bytes_max - bytes_max / 10;
  housekeep_every = pressed ? kPressedEvery : IsQuiet() ? kIdleEvery : kHousekeepEvery;
  if (housekeep_every == kIdleEvery && samples.size() > 1) {
    const Duration old = samples.front().first + options.retention_age - wall;
    housekeep_every = std::clamp(old, kHousekeepEvery, kIdleEvery);
  }
  if (checkpoint || checkpoint_writing) return;
  // The older one of the two newest bases holds the log: both must move.
  const bool base = pressed && since >= std::max(kPressedEvery, kPressedShare * checkpoint_took) &&
                    end >= older_replay_from.value() + behind;
  if (base || bytes_since_checkpoint >= options.checkpoint_bytes ||
      ((bytes_since_checkpoint > 0 || idle) && since >= options.checkpoint_every)) {
    if (idle) {
      EnsureRoom(64);
      AddRecord(RecordType::kIdle, "");
    }
    StartCheckpoint(base);
  }
}

// Nothing is to be done that only time brings, but for retention by age.
bool Partition::Impl::IsQuiet() const {
  if (bytes_since_checkpoint > 0 || checkpoint || checkpoint_writing || !turn.empty() ||
      !in_flight.empty() || stalled || resubmitted || refusing || !held_dead.empty() ||
      !state.letters().empty()) {
    return false;
  }
  return std::all_of(state.triggers().begin(), state.triggers().end(), [](const auto& trigger) {
    return trigger->forgotten || (trigger->pending() == 0 && !trigger->detached);
  });
}

void Partition::Impl::Housekeep() {
  last_housekeeping = now;
  const std::int64_t letters_age =
      std::chrono::duration_cast<std::chrono::microseconds>(options.letters_age).count();
  std::vector<OpenLetter> old;
  for (const auto& [id, letter] : state.letters()) {
    if (letter.died_us < Micros(wall) - letters_age && old.size() < 1000) old.push_back(letter);
  }
  for (const OpenLetter& letter : old) {
    EnsureRoom(64);
    CloseLetter(letter, LetterClosedAs::kExpired, Offset(), 0);
  }
  if (!old.empty()) {
    Warn("T0303", fmt::format("{} dead letters were older than {} and are closed", old.size(),
                              FormatDuration(options.letters_age)));
  }
  if (!held_dead.empty() && !LettersFull()) {
    for (HeldDead& held : std::exchange(held_dead, {})) {
      Runtime* runtime = RuntimeOf(held.trigger);
      if (runtime != nullptr && runtime->queue != nullptr &&
          runtime->queue_number == held.queue_number) {
        Bury(std::move(held));
      } else {
        LetterDone(held.confirmation);
      }
    }
  }
  if (!LettersFull()) letters_full_told = false;
  const std::int64_t detached_us =
      std::chrono::duration_cast<std::chrono::microseconds>(options.detached_retention).count();
  for (const auto& trigger : state.triggers()) {
    if (!trigger->detached || trigger->forgotten ||
        trigger->detached_us > Micros(wall) - detached_us) {
      continue;
    }
    Warn("T0304", fmt::format("trigger '{}' has been detached for {}: its {} pending deliveries "
                              "are dropped",
                              trigger->name, FormatDuration(options.detached_retention),
                              trigger->pending()));
    EnsureRoom(64);
    EncodeSettlements();
    std::string body;
    EncodeTriggerDetached({trigger->ordinal, Micros(wall), true}, body);
    AddRecord(RecordType::kTriggerDetached, body);
    RecordView view{RecordType::kTriggerDetached, body, 0};
    (void)state.Apply(view, state.end(), turn.append_time_us);
  }
  TellWhetherRefusing();
  if (!closing) CheckpointIfDue();
  Trim();
  TrimLetters();
}

bool Partition::Impl::HasLongWork() const {
  if (plan != nullptr && now - last_housekeeping >= housekeep_every) return true;
  if (checkpoint || audit.wanted || audit.active || !superseded.empty()) return true;
  if (!catching_up.empty() || !replaying.empty()) return true;
  return (!schedule_dues.empty() && schedule_dues.begin()->first <= wall) || replan_next ||
         dynamic_due_next < dynamic_due.size() || !dynamic_released.empty() ||
         state.has_released_schedules() ||
         (wheel && wheel->armed() > 0 && *wheel->NextWake() <= wall);
}

void Partition::Impl::NoteSample(WallTime at, Offset end) {
  samples.emplace_back(at, end);
  if (samples.size() <= kSamplesMax) return;
  // Half as exact, and as far back as before.
  for (std::size_t i = 0; i < samples.size(); i += 2) samples[i / 2] = samples[i];
  samples.resize((samples.size() + 1) / 2);
}

// The first offset to keep so that the log loses what it has too much, oldest events first.
Offset Partition::Impl::StartForSize(Offset floor) const {
  const std::uint64_t bytes = ports.journal.log_bytes();
  const std::uint64_t wanted = options.retention_bytes / 5 * 4;
  if (bytes <= wanted) return start;
  const JournalPosition target = ports.journal.PositionToFree(bytes - wanted);
  std::uint64_t low = start.value();
  std::uint64_t high = floor.value();
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    if (ports.journal.Locate(options.id, Offset(middle)) < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return Offset(low);
}

void Partition::Impl::Trim() {
  const Offset floor = Floor(nullptr);
  if (!start_known) start = Offset();
  Offset trim = std::max(start, StartForSize(floor));
  // By age nothing goes that a replay still has to look at; want of room does not wait for it.
  Offset held = floor;
  for (const std::uint32_t ordinal : replaying) {
    const TriggerRecord* trigger = state.FindTrigger(TriggerOrdinal(ordinal));
    if (trigger->replay) held = std::min(held, trigger->replay->next);
  }
  const WallTime too_old =
      wall - std::chrono::duration_cast<std::chrono::microseconds>(options.retention_age);
  while (!samples.empty() && samples.front().first < too_old && samples.front().second <= held) {
    trim = std::max(trim, samples.front().second);
    samples.pop_front();
  }
  const JournalPosition below = ports.journal.Locate(options.id, trim);
  if (below <= trimmed_below) return;
  // Not before what settled those below is durable: a crash would bring them back without bytes.
  auto when = [this](auto then) {
    Planted(Canary::kTrimmedEarly) ? then(absl::OkStatus()) : WhenDurable(std::move(then));
  };
  when([this, trim, below](const absl::Status& status) {
    if (!status.ok() || below <= trimmed_below) return;
    trimmed_below = below;
    start = std::max(start, trim);
    start_known = true;
    ports.journal.TrimBelow(options.id, below);
  });
}

void Partition::Impl::TrimLetters() {
  LetterPosition below = ports.journal.letters_end();
  for (const auto& [id, letter] : state.letters()) {
    if (letter.lost) continue;
    if (letter.position.value() == 0) return;  // not all positions are known yet
    below = std::min(below, letter.position);
  }
  if (below <= letters_trimmed_below) return;
  // Not before it is durable that those below are closed.
  WhenDurable([this, below](const absl::Status& status) {
    if (!status.ok() || below <= letters_trimmed_below) return;
    letters_trimmed_below = below;
    ports.journal.TrimLettersBelow(options.id, below);
  });
}

void Partition::Impl::WhenDurable(absl::AnyInvocable<void(const absl::Status&)> then, bool asked) {
  if (failed) {
    then(JournalFailed());
  } else if (!turn.empty()) {
    turn.done.push_back({std::move(then), asked});
  } else if (!in_flight.empty()) {
    in_flight.back().done.push_back({std::move(then), asked});
  } else {
    then(absl::OkStatus());
  }
}

void Partition::OnceDurable(absl::AnyInvocable<void(absl::Status)> then) {
  impl_->WhenDurable(std::move(then), true);
}

std::vector<DurableWaiter> Partition::Impl::TakeWaiters(
    const std::function<bool(const DurableWaiter&)>& which) {
  std::vector<DurableWaiter> taken;
  const auto take = [&](std::vector<DurableWaiter>& waiters) {
    const auto first = std::stable_partition(waiters.begin(), waiters.end(), std::not_fn(which));
    std::move(first, waiters.end(), std::back_inserter(taken));
    waiters.erase(first, waiters.end());
  };
  for (InFlight& flight : in_flight) take(flight.done);
  take(turn.done);
  return taken;
}

// A source is kept, as what it brought is taken and would come twice, unless it or the broker
// stops. What has to follow when it is durable stays.
void Partition::Impl::TellNoRoom() {
  absl::Status status = absl::ResourceExhaustedError(
      "there is no room on the disk: it is done, and written as soon as there is room, but undone "
      "if the broker ends before; look before you repeat it");
  status.SetPayload(kTakenPayload, absl::Cord());
  std::vector<DurableWaiter> told = TakeWaiters([this](const DurableWaiter& one) {
    return closing || one.asked || leaving.contains(one.lane);
  });
  for (DurableWaiter& one : told) one.then(status);
  if (!closing || !close_done) return;
  auto done = std::exchange(close_done, nullptr);
  done(absl::ResourceExhaustedError(
      "there is no room on the disk: what was not told to be durable is not kept; workers get it "
      "again, commands are undone"));
}

void Partition::Impl::TellFailed() {
  std::vector<DurableWaiter> told = TakeWaiters([](const DurableWaiter&) { return true; });
  for (DurableWaiter& one : told) one.then(JournalFailed());
  for (WaitingFor& one : std::exchange(waiting, {})) one.done(JournalFailed());
  if (auto done = std::exchange(close_done, nullptr)) done(JournalFailed());
}

bool IsTakenWithoutRoom(const absl::Status& status) {
  return status.GetPayload(kTakenPayload).has_value();
}

bool Partition::Impl::NotKnownYet(Offset offset) const {
  return !(offset < durable_end) && offset.value() < answered_end->load();
}

// Publishers hear of it one by one; the operator once, and again when it is over.
void Partition::Impl::TellWhetherRefusing() {
  const bool disk_full = !ports.journal.HasRoomForIngest();
  const bool log_full = ports.journal.log_bytes() >= options.retention_bytes;
  if (refusing == (disk_full || log_full) || failed) return;
  refusing = !refusing;
  if (!refusing) {
    Warn("", "there is room again: events are accepted");
    return;
  }
  std::string pinned_by;
  (void)Floor(&pinned_by);
  Warn("T0314",
       fmt::format(
           "{}: events are refused, sources and schedules wait; answers of workers and dead "
           "letters go on{}",
           disk_full ? std::string("the disk is nearly full")
                     : fmt::format("the log has reached retention.size ({})",
                                   FormatBytes(options.retention_bytes)),
           pinned_by.empty() ? ""
                             : fmt::format("; trigger '{}' needs the oldest event", pinned_by)));
}

}  // namespace tocsin
