// The state of a TriggerQueue and the steps that its three parts share: admission
// (queue_admission.cc), leases and answers (queue_leases.cc), and the rest (trigger_queue.cc).
// Internal to dispatch.
//
// The horizon divides what was looked at from what was not: `admit_from` when behind, else
// `live_from`. Below it every unsettled event is held or skipped; at and above it none is, but
// redriven ones. A pass (one BeginScan() .. EndScan()) admits skipped events only of keys that
// joined it while their skipped_first lay at or above its cursor, so that it has seen all of them.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "broker/base/check.h"
#include "broker/base/random.h"
#include "dispatch/key_queue.h"
#include "dispatch/queue_entry.h"
#include "dispatch/trigger_queue.h"

namespace tocsin {

struct TriggerQueue::Impl {
  Impl(PartitionId partition_id, TriggerOrdinal trigger, Epoch own_epoch, Offset from,
       const QueueLimits& queue_limits, const TriggerPolicy& trigger_policy, std::uint64_t seed);

  struct Timer {
    Instant due;
    QueueEntry* entry;
    std::uint32_t generation;
  };

  // --- trigger_queue.cc: entries and keys
  KeyQueue* FindKey(std::string_view key);
  KeyQueue* KeyFor(std::string_view key);  // adds it; null for one that waits for nobody
  std::size_t KeyLimit(const KeyQueue& key) const;
  void DropKey(KeyQueue& key);  // forgets the key if nothing of it is left
  void Unlink(QueueEntry& entry);
  void MakeReady(QueueEntry& entry, bool at_its_place);
  void WakeHead(KeyQueue& key);
  void Remove(QueueEntry& entry);
  void SetTimer(QueueEntry& entry, Instant due);
  void PushTimer(QueueEntry& entry);
  void VoidTimer(QueueEntry& entry) { ++entry.timer_generation; }
  void NoteExpirable(const QueueEntry& entry);
  void ResetWindow();
  void ReleaseKey(KeyQueue& key);

  // --- queue_admission.cc
  Offset horizon() const { return behind ? admit_from : live_from; }
  void Admit(const Candidate& candidate, KeyQueue* key, const PriorAttempts* prior);
  void Restore(QueueEntry& entry, const PriorAttempts& prior);
  bool MustSkip(const KeyQueue* key) const;
  void Skip(KeyQueue& key, Offset offset);
  void Unskip(KeyQueue& key);
  void SkippedChanged(KeyQueue& key);  // after any change of its entries, skipped or parked
  void LeavePass(KeyQueue& key);
  void Evict(KeyQueue& key);
  bool EvictWaiting(KeyQueue& key);  // false: nothing waited that was not tried
  bool IsStuck(const QueueEntry& head) const;
  bool WantsRoom() const;
  bool MakeRoom();  // true: there is some
  OfferResult FallBehind(Offset offset);
  OfferResult LookedAt(Offset offset, std::string_view key);
  ScanResult ScanSkipped(const Candidate& candidate, std::string_view key,
                         const PriorAttempts* prior);
  ScanResult ScanNew(const Candidate& candidate, std::string_view key, const PriorAttempts* prior);
  ScanResult Stop(Offset at);
  bool PassDone() const;
  bool RoomForEntries() const;
  bool RoomForNew() const;
  bool SpreadReached(Offset offset) const;
  bool SpreadStillReached() const;
  std::optional<Offset> Lowest() const;  // unsettled, held or skipped
  void RefreshSkipped() const;
  std::optional<Offset> Wanted() const;

  // --- queue_leases.cc
  QueueEntry* FindLeased(Offset offset, FencingToken token);
  AnswerResult NotLeased(FencingToken token) const;
  void Grant(QueueEntry& entry, Instant now, std::vector<Lease>& leases);
  void Settle(QueueEntry& entry, SettleKind kind, std::string reason, std::vector<Action>& actions);
  void Fail(QueueEntry& entry, std::string code, std::string message, bool worker_died,
            std::optional<Duration> after, std::vector<Action>& actions);
  void Die(QueueEntry& entry, LetterReason reason, std::string message,
           std::vector<Action>& actions);
  void GiveBack(QueueEntry& entry);
  // Why it must not be leased any more; null if it may. A text that lives for ever.
  const char* Expired(const QueueEntry& entry, WallTime wall) const;
  std::optional<Duration> UntilExpiry(const QueueEntry& entry, WallTime wall) const;
  bool AnyExpires() const;
  void EndLease(QueueEntry& entry, std::vector<Action>& actions);
  void Sweep(WallTime wall, std::vector<Action>& actions);

  // Set at construction.
  const PartitionId partition;
  const TriggerOrdinal ordinal;
  const Epoch epoch;
  const QueueLimits limits;

  TriggerPolicy policy;
  bool paused = false;
  SeededRandom random;
  Instant now{};  // the latest that was passed in

  EntryTable entries;
  KeyTable keys;
  KeyQueue whole_key;  // order: partition
  StateList ready, ready_alone, doomed, leases;
  std::size_t leased = 0, delayed = 0, dead = 0, parked = 0;
  std::size_t expiring = 0;   // entries with an expirytime
  std::vector<Timer> timers;  // a heap; those of an older generation are void
  std::uint32_t token_counter = 0;
  bool tokens_wrapped = false;

  // Admission.
  bool behind = true;
  bool blocked = false;  // stopped by spread_max when it last tried
  Offset admit_from;     // when behind
  Offset live_from;      // when not
  Offset unseen_end;     // above every offset that was offered while behind
  SkippedList skipped;
  std::size_t open_keys = 0;
  mutable bool skipped_dirty = false;
  mutable std::optional<Offset> skipped_lowest;  // a lower bound while dirty
  mutable std::optional<Offset> open_lowest;
  mutable std::optional<Offset> open_above;  // lowest at or above `elevator`
  Offset elevator;

  // Of a full window: when MakeRoom() may look again, whichever is first.
  Instant room_due{};
  std::uint32_t room_due_token = 0;

  // The scan under way.
  bool scanning = false;
  bool stopped = false;
  Offset stopped_at;
  std::uint64_t pass = 0;
  std::size_t pass_keys = 0;  // keys that joined and have not left
  std::size_t pass_new = 0;   // events of this pass that were above the horizon
  Offset cursor;              // all below was offered in this pass
  mutable std::optional<Offset> last_wanted;

  // The search for expired READY entries: a pass over the ready lists, a piece per Tick().
  std::optional<Instant> sweep_at;
  Instant sweep_ended{};
  bool swept_once = false;
  QueueEntry* sweep_next = nullptr;
  bool sweep_in_alone = false;
  std::optional<Duration> sweep_nearest;
};

}  // namespace tocsin
