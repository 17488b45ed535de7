// ScheduleTable: the schedules that were added by command or API (not by the configuration), and
// the published events that wait for their time. Made for a million of them: 40 bytes each beside
// the name and the data; what schedules have in common (rule, attributes) is kept once, as a form.
//
//   name -> id -> page (32 entries) -> text {name, data}
//                      |-> form {rule, head}
//
// Kinds: once (it fires at `at` and is gone), recurring (by its rule), delayed (an event that was
// published for later; its name is that of its identity, which no person can give).
//
// Ids are given out lowest first, so that the same records give the same ids, live and in recovery.
//
// A checkpoint takes the table in pieces: BeginSnapshot(), then NextPages() until it says that all
// are taken; a page that is to change before its turn came is taken first (copy on write), so that
// the pieces together are the table as it was at BeginSnapshot().
//
// Pure; owned by one partition; not thread-safe. Views that it gives are valid until it changes.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "broker/base/hash.h"
#include "broker/base/ids.h"
#include "broker/journal/journal.h"
#include "broker/schedule/schedule.h"
#include "broker/schedule/unfired.h"

namespace tocsin {

inline constexpr std::size_t kScheduleNameBytesMax = 128;

// The name of a delayed event: 0 and the 16 bytes of its identity.
std::string DelayedName(const Hash128& identity);
bool IsDelayedName(std::string_view name);

// The source of a schedule's events, if it is given no other.
std::string ScheduleSource(std::string_view name);

// What a schedule is made of.
struct ScheduleDefinition {
  std::string_view name;
  std::int64_t at_us = 0;       // once, delayed: when; recurring: the first start
  std::string_view rule;        // EncodeRule(); empty: once, delayed
  std::string_view head;        // an encoded event without data; its id is not used
  std::string_view data;        // of the event; of a delayed one the whole event
  std::int64_t decided_us = 0;  // recurring: where it starts
  std::uint32_t hops = 0;       // of a delayed one
  bool text_data = false;       // the data are text, not binary
  bool paused = false;
};

class ScheduleTable {
 public:
  using Id = std::uint32_t;

  ScheduleTable();
  ScheduleTable(const ScheduleTable&) = delete;
  ScheduleTable& operator=(const ScheduleTable&) = delete;

  // --- changes, each by the record that says so ---
  Id Set(const ScheduleDefinition& definition);  // in place of one of the same name
  void Remove(Id id);
  void SetPaused(Id id, bool paused);
  // Of a recurring one. Empty `state`: that of a plain one, decided through `decided_us`.
  void SetState(Id id, std::string_view state, std::int64_t decided_us);
  void Fired(Id id, std::int64_t instant_us, Offset offset);
  void Skipped(Id id, std::int64_t first_us, std::int64_t last_us, std::uint64_t count);
  void Backfilled(Id id, std::int64_t first_us, std::int64_t last_us);

  // --- what is known ---
  std::optional<Id> Find(std::string_view name) const;
  bool Has(Id id) const;
  Id end() const { return static_cast<Id>(pages_.size() * kPageEntries); }  // above all ids
  // Of ids that it has, all below:
  std::string_view NameOf(Id id) const;
  std::string_view DataOf(Id id) const;
  std::string HeadOf(Id id) const;  // with the name as id
  std::string_view RuleOf(Id id) const;
  std::int64_t AtOf(Id id) const;
  bool IsRecurring(Id id) const;
  bool IsDelayed(Id id) const;
  bool IsTextData(Id id) const;
  bool IsPaused(Id id) const;
  std::uint32_t HopsOf(Id id) const;  // of a delayed one
  std::uint64_t FiredOf(Id id) const;
  std::uint64_t SkippedOf(Id id) const;
  std::optional<Offset> LastFireOf(Id id) const;  // as long as its overlap policy asks for it
  UnfiredRanges UnfiredOf(Id id) const;
  // Of a recurring one. kInvalidArgument: its rule cannot be read any more, e.g. for a time zone
  // that is gone from the system.
  absl::StatusOr<std::shared_ptr<const Schedule>> ScheduleOf(Id id) const;
  absl::StatusOr<ScheduleState> StateOf(Id id, const Schedule& schedule) const;
  // The time zones may have changed: rules are read anew.
  void DropParsed();

  std::size_t schedules() const { return size_ - delayed_; }
  std::size_t delayed() const { return delayed_; }
  std::uint64_t bytes() const { return bytes_; }  // of names, data and forms
  std::uint64_t text_bytes_held() const;          // what the pages have allocated for texts

  // --- checkpoints ---
  void BeginSnapshot(bool every);
  // Takes pages of at most about `bytes_max`; true: all are taken.
  bool NextPages(std::size_t bytes_max, CheckpointDelta& delta);
  bool snapshot_under_way() const { return snapshot_; }
  static bool OwnsTable(std::uint32_t table);
  // In the order of (table, page); then FinishLoad(). kDataLoss: malformed.
  absl::Status LoadPage(const CheckpointPage& page);
  absl::Status FinishLoad();

 private:
  static constexpr std::uint32_t kPageEntries = 32;
  static constexpr std::uint32_t kNoForm = 0;  // that of delayed events

  struct Entry {
    std::int64_t at_us = 0;  // recurring: the anchor
    std::int64_t decided_us = 0;
    std::uint32_t form : 26;
    std::uint32_t recurring : 1;
    std::uint32_t paused : 1;
    std::uint32_t text_data : 1;
    std::uint32_t unused : 3;
    std::uint32_t text = 0;  // where it begins in its page's texts
    std::uint32_t data_bytes = 0;
    std::uint32_t fired = 0;  // of a delayed one: its hops
    std::uint32_t skipped = 0;

    Entry() : form(0), recurring(0), paused(0), text_data(0), unused(0) {}
  };
  struct Page {
    std::uint32_t used = 0;  // bits
    std::uint32_t text_bytes = 0;
    std::uint32_t text_bytes_max = 0;
    std::uint32_t text_bytes_gone = 0;  // of `text_bytes`, of entries that were removed
    std::array<Entry, kPageEntries> entries;
    // One behind the other, also of entries that are gone: name length u8, name, data but bodies.
    std::unique_ptr<char[]> texts;
  };
  // What few have.
  struct Extra {
    std::string state;  // EncodeScheduleState(), if it is not a plain one
    std::optional<UnfiredRanges> unfired;
    std::optional<Offset> last_fire;
  };
  struct Form {
    std::string rule;
    std::string head;
    std::uint32_t refs = 0;
    bool keeps_last_fire = false;
    bool names_source = false;                       // `head` has one; else it is ScheduleSource()
    mutable std::shared_ptr<const Schedule> parsed;  // if it will do for every name
  };
  struct FormKey {
    std::string_view rule;
    std::string_view head;
  };
  struct FormHash {
    using is_transparent = void;
    const ScheduleTable* table;
    std::size_t operator()(const FormKey& key) const {
      return HashKey(key.head, HashKey(key.rule));
    }
    std::size_t operator()(std::uint32_t form) const { return (*this)(table->KeyOf(form)); }
  };
  struct FormEqual {
    using is_transparent = void;
    const ScheduleTable* table;
    static bool Same(const FormKey& a, const FormKey& b) {
      return a.rule == b.rule && a.head == b.head;
    }
    bool operator()(std::uint32_t a, std::uint32_t b) const { return a == b; }
    bool operator()(std::uint32_t a, const FormKey& b) const { return Same(table->KeyOf(a), b); }
    bool operator()(const FormKey& a, std::uint32_t b) const { return Same(a, table->KeyOf(b)); }
  };
  struct NameHash {
    using is_transparent = void;
    const ScheduleTable* table;
    std::size_t operator()(std::string_view name) const { return HashKey(name); }
    std::size_t operator()(Id id) const { return HashKey(table->NameOf(id)); }
  };
  struct NameEqual {
    using is_transparent = void;
    const ScheduleTable* table;
    bool operator()(Id a, Id b) const { return a == b; }
    bool operator()(Id a, std::string_view b) const { return table->NameOf(a) == b; }
    bool operator()(std::string_view a, Id b) const { return table->NameOf(b) == a; }
  };

  FormKey KeyOf(std::uint32_t form) const { return {forms_[form]->rule, forms_[form]->head}; }
  const Entry& At(Id id) const { return pages_[id / kPageEntries]->entries[id % kPageEntries]; }
  Entry& Change(Id id);  // marks its page, having taken it if a snapshot waits for it
  Id NewId();
  Entry& Occupy(Id id);
  std::uint32_t FormFor(std::string_view rule, std::string_view head);
  void Use(std::uint32_t form);
  void Release(std::uint32_t form);
  void PutForm(std::uint32_t index, std::string_view rule, std::string_view head);
  static bool IsBody(std::size_t data_bytes);  // kept beside the page, for its size
  static std::size_t TextBytes(const Page& page, const Entry& entry);
  static void Repack(Page& page, std::size_t room);
  void SetText(Id id, std::string_view name, std::string_view data);
  void TakePage(std::uint32_t number, CheckpointDelta& delta);
  bool HasBody(Id id) const;
  void TakeBody(Id id, CheckpointDelta& delta);
  void TakeBodyFirst(Id id);
  std::string EncodePage(const Page& page, std::uint32_t number) const;
  absl::Status LoadEntries(std::uint32_t number, std::string_view bytes);
  absl::Status LoadBody(std::uint64_t page, std::string_view bytes);

  std::vector<std::unique_ptr<Page>> pages_;
  std::set<std::uint32_t> open_pages_;  // with room
  absl::flat_hash_set<Id, NameHash, NameEqual> names_;
  absl::flat_hash_map<Id, Extra> extras_;
  absl::flat_hash_map<Id, std::string> bodies_;
  std::vector<std::unique_ptr<Form>> forms_;  // null: free
  std::set<std::uint32_t> free_forms_;
  absl::flat_hash_set<std::uint32_t, FormHash, FormEqual> form_numbers_;
  std::size_t size_ = 0;
  std::size_t delayed_ = 0;
  std::uint64_t bytes_ = 0;
  std::size_t bodies_missing_ = 0;  // while a checkpoint is loaded

  // Since the last snapshot, and of the one under way.
  std::vector<bool> dirty_pages_;
  std::set<std::uint32_t> dirty_forms_;
  std::set<Id> dirty_bodies_;                 // also of entries that are gone
  std::map<Id, std::uint32_t> saved_bodies_;  // how many parts a checkpoint has of them
  bool snapshot_ = false;
  std::vector<bool> wanted_pages_;
  std::size_t next_page_ = 0;
  std::set<Id> wanted_bodies_;
  CheckpointDelta taken_;  // before their turn
};

}  // namespace tocsin
