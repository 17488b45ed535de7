#include "broker/partition/schedule_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/base/wire.h"
#include "broker/schedule/rule.h"

namespace tocsin {
namespace {

constexpr std::size_t kEntryOverhead = 64;  // what an entry takes beside its texts
constexpr std::uint32_t kFormsMax = 1U << 26;

WallTime ToTime(std::int64_t us) { return WallTime(std::chrono::microseconds(us)); }

}  // namespace

std::string DelayedName(const Hash128& identity) {
  std::string name(1, '\0');
  PutU64(name, identity.low);
  PutU64(name, identity.high);
  return name;
}

bool IsDelayedName(std::string_view name) { return !name.empty() && name.front() == '\0'; }

ScheduleTable::ScheduleTable()
    : names_(0, NameHash{this}, NameEqual{this}),
      form_numbers_(0, FormHash{this}, FormEqual{this}) {
  forms_.push_back(std::make_unique<Form>());
  forms_.front()->refs = 1;
}

ScheduleTable::~ScheduleTable() {
  for (const auto& page : pages_) {
    if (page == nullptr) continue;
    for (Entry& entry : page->entries) delete[] entry.text;
  }
}

std::optional<ScheduleTable::Id> ScheduleTable::Find(std::string_view name) const {
  const auto found = names_.find(name);
  if (found == names_.end()) return std::nullopt;
  return *found;
}

bool ScheduleTable::Has(Id id) const {
  const std::size_t page = id / kPageEntries;
  return page < pages_.size() && pages_[page] != nullptr &&
         (pages_[page]->used >> (id % kPageEntries) & 1U) != 0;
}

std::string_view ScheduleTable::NameOf(Id id) const {
  const char* text = At(id).text;
  return {text + 1, static_cast<std::uint8_t>(text[0])};
}

std::string_view ScheduleTable::DataOf(Id id) const {
  const Entry& entry = At(id);
  return {entry.text + 1 + static_cast<std::uint8_t>(entry.text[0]), entry.data_bytes};
}

std::string_view ScheduleTable::HeadOf(Id id) const { return forms_[At(id).form]->head; }
std::string_view ScheduleTable::RuleOf(Id id) const { return forms_[At(id).form]->rule; }
std::int64_t ScheduleTable::AtOf(Id id) const { return At(id).at_us; }
bool ScheduleTable::IsRecurring(Id id) const { return At(id).recurring != 0; }
bool ScheduleTable::IsDelayed(Id id) const { return At(id).form == kNoForm; }
bool ScheduleTable::IsTextData(Id id) const { return At(id).text_data != 0; }
bool ScheduleTable::IsPaused(Id id) const { return At(id).paused != 0; }
std::uint32_t ScheduleTable::HopsOf(Id id) const { return IsDelayed(id) ? At(id).fired : 0; }
std::uint64_t ScheduleTable::FiredOf(Id id) const { return IsDelayed(id) ? 0 : At(id).fired; }
std::uint64_t ScheduleTable::SkippedOf(Id id) const { return At(id).skipped; }

std::optional<Offset> ScheduleTable::LastFireOf(Id id) const {
  const auto extra = extras_.find(id);
  return extra == extras_.end() ? std::nullopt : extra->second.last_fire;
}

UnfiredRanges ScheduleTable::UnfiredOf(Id id) const {
  const auto extra = extras_.find(id);
  if (extra != extras_.end() && extra->second.unfired) return *extra->second.unfired;
  return UnfiredRanges(ToTime(At(id).at_us));
}

absl::StatusOr<std::shared_ptr<const Schedule>> ScheduleTable::ScheduleOf(Id id) const {
  const Form& form = *forms_[At(id).form];
  if (form.parsed != nullptr) return form.parsed;
  TOCSIN_ASSIGN_OR_RETURN(ScheduleSpec spec, DecodeRule(form.rule));
  spec.name = std::string(NameOf(id));
  TOCSIN_ASSIGN_OR_RETURN(std::shared_ptr<const Schedule> parsed, Schedule::Parse(spec));
  if (RuleIsShared(spec)) form.parsed = parsed;
  return parsed;
}

absl::StatusOr<ScheduleState> ScheduleTable::StateOf(Id id, const Schedule& schedule) const {
  const auto extra = extras_.find(id);
  if (extra != extras_.end() && !extra->second.state.empty()) {
    return DecodeScheduleState(extra->second.state);
  }
  ScheduleState state = StartSchedule(ToTime(At(id).at_us), schedule.spread());
  state.decided_through = ToTime(At(id).decided_us);
  return state;
}

void ScheduleTable::DropParsed() {
  for (const auto& form : forms_) {
    if (form != nullptr) form->parsed.reset();
  }
}

ScheduleTable::Entry& ScheduleTable::Change(Id id) {
  const std::uint32_t number = id / kPageEntries;
  if (snapshot_ && number < wanted_pages_.size() && wanted_pages_[number]) {
    TakePage(number, taken_);
  }
  if (dirty_pages_.size() <= number) dirty_pages_.resize(number + 1);
  dirty_pages_[number] = true;
  return pages_[number]->entries[id % kPageEntries];
}

ScheduleTable::Id ScheduleTable::NewId() {
  if (open_pages_.empty()) {
    open_pages_.insert(static_cast<std::uint32_t>(pages_.size()));
    pages_.emplace_back();
  }
  const std::uint32_t number = *open_pages_.begin();
  const std::uint32_t used = pages_[number] == nullptr ? 0 : pages_[number]->used;
  return number * kPageEntries + static_cast<std::uint32_t>(std::countr_one(used));
}

ScheduleTable::Entry& ScheduleTable::Occupy(Id id) {
  const std::uint32_t number = id / kPageEntries;
  // A page that a snapshot wants is there, if empty: it is written as one that is gone.
  if (pages_[number] == nullptr) pages_[number] = std::make_unique<Page>();
  Entry& entry = Change(id);
  Page& page = *pages_[number];
  page.used |= 1U << (id % kPageEntries);
  if (page.used == 0xffffffffU) open_pages_.erase(number);
  return entry;
}

std::uint32_t ScheduleTable::FormFor(std::string_view rule, std::string_view head) {
  if (rule.empty() && head.empty()) return kNoForm;
  const auto found = form_numbers_.find(FormKey{rule, head});
  if (found != form_numbers_.end()) return *found;
  std::uint32_t index = static_cast<std::uint32_t>(forms_.size());
  if (!free_forms_.empty()) {
    index = *free_forms_.begin();
    free_forms_.erase(free_forms_.begin());
  }
  TOCSIN_CHECK(index < kFormsMax, "too many forms of schedules");
  PutForm(index, rule, head);
  dirty_forms_.insert(index);
  return index;
}

void ScheduleTable::PutForm(std::uint32_t index, std::string_view rule, std::string_view head) {
  if (index >= forms_.size()) forms_.resize(index + 1);
  forms_[index] = std::make_unique<Form>();
  Form& form = *forms_[index];
  form.rule = std::string(rule);
  form.head = std::string(head);
  const absl::StatusOr<ScheduleSpec> spec = DecodeRule(rule);
  form.keeps_last_fire = spec.ok() && spec->overlap == OverlapPolicy::kCancelPrevious;
  form_numbers_.insert(index);
  bytes_ += rule.size() + head.size() + kEntryOverhead;
}

void ScheduleTable::Release(std::uint32_t index) {
  if (--forms_[index]->refs > 0 || index == kNoForm) return;
  bytes_ -= forms_[index]->rule.size() + forms_[index]->head.size() + kEntryOverhead;
  form_numbers_.erase(index);
  forms_[index].reset();
  free_forms_.insert(index);
  dirty_forms_.insert(index);
}

void ScheduleTable::SetText(Entry& entry, std::string_view name, std::string_view data) {
  TOCSIN_CHECK(!name.empty() && name.size() <= kScheduleNameBytesMax && data.size() < 1U << 31);
  entry.text = new char[1 + name.size() + data.size()];
  entry.text[0] = static_cast<char>(name.size());
  std::memcpy(entry.text + 1, name.data(), name.size());
  if (!data.empty()) std::memcpy(entry.text + 1 + name.size(), data.data(), data.size());
  entry.data_bytes = static_cast<std::uint32_t>(data.size());
  bytes_ += name.size() + data.size() + kEntryOverhead;
}

ScheduleTable::Id ScheduleTable::Set(const ScheduleDefinition& definition) {
  if (const std::optional<Id> known = Find(definition.name)) Remove(*known);
  const std::uint32_t form = FormFor(definition.rule, definition.head);
  ++forms_[form]->refs;
  const Id id = NewId();
  TakeBodyFirst(id);  // that of the entry that was here
  Entry& entry = Occupy(id);
  SetText(entry, definition.name, definition.data);
  entry.at_us = definition.at_us;
  entry.decided_us = definition.decided_us;
  entry.form = form & (kFormsMax - 1);
  entry.recurring = definition.rule.empty() ? 0 : 1;
  entry.paused = definition.paused ? 1 : 0;
  entry.text_data = definition.text_data ? 1 : 0;
  entry.fired = form == kNoForm ? definition.hops : 0;
  entry.skipped = 0;
  names_.insert(id);
  ++size_;
  if (form == kNoForm) ++delayed_;
  if (HasBody(id)) dirty_bodies_.insert(id);
  return id;
}

void ScheduleTable::Remove(Id id) {
  TakeBodyFirst(id);
  if (HasBody(id)) dirty_bodies_.insert(id);
  Entry& entry = Change(id);
  names_.erase(id);
  bytes_ -= static_cast<std::uint8_t>(entry.text[0]) + entry.data_bytes + kEntryOverhead;
  --size_;
  if (entry.form == kNoForm) --delayed_;
  Release(entry.form);
  delete[] entry.text;
  entry = Entry();
  extras_.erase(id);
  const std::uint32_t number = id / kPageEntries;
  pages_[number]->used &= ~(1U << (id % kPageEntries));
  open_pages_.insert(number);
  if (pages_[number]->used == 0) pages_[number].reset();
}

void ScheduleTable::SetPaused(Id id, bool paused) { Change(id).paused = paused ? 1 : 0; }

void ScheduleTable::SetState(Id id, std::string_view state, std::int64_t decided_us) {
  Entry& entry = Change(id);
  entry.decided_us = decided_us;
  if (!state.empty()) {
    extras_[id].state = std::string(state);
    return;
  }
  const auto extra = extras_.find(id);
  if (extra == extras_.end()) return;
  extra->second.state.clear();
  if (!extra->second.unfired && !extra->second.last_fire) extras_.erase(extra);
}

void ScheduleTable::Fired(Id id, std::int64_t instant_us, Offset offset) {
  Entry& entry = Change(id);
  ++entry.fired;
  const bool keeps = forms_[entry.form]->keeps_last_fire;
  const auto extra = extras_.find(id);
  if (extra != extras_.end() && extra->second.unfired) {
    extra->second.unfired->Fired(ToTime(instant_us));
  }
  if (keeps) extras_[id].last_fire = offset;
}

void ScheduleTable::Skipped(Id id, std::int64_t first_us, std::int64_t last_us,
                            std::uint64_t count) {
  Entry& entry = Change(id);
  entry.skipped += static_cast<std::uint32_t>(count);
  Extra& extra = extras_[id];
  if (!extra.unfired) {
    extra.unfired.emplace(ToTime(entry.at_us));
    // What fired before is not known any more, but that it was decided.
    if (entry.fired > 0) extra.unfired->Fired(ToTime(entry.decided_us));
  }
  extra.unfired->Skipped(ToTime(first_us), ToTime(last_us));
}

void ScheduleTable::Backfilled(Id id, std::int64_t first_us, std::int64_t last_us) {
  Entry& entry = Change(id);
  ++entry.fired;
  Extra& extra = extras_[id];
  if (!extra.unfired) extra.unfired.emplace(ToTime(entry.at_us));
  extra.unfired->Remove(ToTime(first_us), ToTime(last_us));
}

}  // namespace tocsin
