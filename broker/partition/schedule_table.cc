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

constexpr std::size_t kEntryOverhead = 64;   // what an entry takes beside its texts
constexpr std::size_t kBodyBytesMin = 4096;  // data of this size are kept beside the page
constexpr std::uint32_t kFormsMax = 1U << 26;

// Of io.cloudevents.v1.CloudEvent.
constexpr std::uint32_t kEventId = 1;
constexpr std::uint32_t kEventSource = 2;

// `head` without its id, and without its source if that is `source`; as it is if it is malformed.
// `names_source` tells whether a source is left.
std::string FormHead(std::string_view head, std::string_view source, bool& names_source) {
  std::string kept;
  names_source = false;
  WireReader reader(head);
  while (!reader.AtEnd()) {
    const std::size_t begin = reader.position();
    std::uint32_t field = 0;
    WireType type{};
    std::string_view value;
    if (!reader.ReadTag(field, type) ||
        !(type == WireType::kBytes ? reader.ReadBytes(value) : reader.Skip(type))) {
      return std::string(head);
    }
    const bool named = field == kEventSource && !source.empty() && value == source;
    if (field == kEventId || named) continue;
    names_source = names_source || field == kEventSource;
    kept.append(head.substr(begin, reader.position() - begin));
  }
  return kept;
}

WallTime ToTime(std::int64_t us) { return WallTime(std::chrono::microseconds(us)); }

}  // namespace

std::string DelayedName(const Hash128& identity) {
  std::string name(1, '\0');
  PutU64(name, identity.low);
  PutU64(name, identity.high);
  return name;
}

std::string ScheduleSource(std::string_view name) { return fmt::format("/schedules/{}", name); }

bool IsDelayedName(std::string_view name) { return !name.empty() && name.front() == '\0'; }

ScheduleTable::ScheduleTable()
    : names_(0, NameHash{this}, NameEqual{this}),
      form_numbers_(0, FormHash{this}, FormEqual{this}) {
  forms_.push_back(std::make_unique<Form>());
  forms_.front()->refs = 1;
}

std::uint64_t ScheduleTable::text_bytes_held() const {
  std::uint64_t held = 0;
  for (const auto& page : pages_) held += page == nullptr ? 0 : page->text_bytes_max;
  return held;
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
  const char* text = pages_[id / kPageEntries]->texts.get() + At(id).text;
  return {text + 1, static_cast<std::uint8_t>(text[0])};
}

std::string_view ScheduleTable::DataOf(Id id) const {
  if (HasBody(id)) return bodies_.at(id);
  const std::string_view name = NameOf(id);
  return {name.data() + name.size(), At(id).data_bytes};
}

std::string ScheduleTable::HeadOf(Id id) const {
  const Form& form = *forms_[At(id).form];
  std::string head;
  PutField(head, kEventId, NameOf(id));
  if (!form.names_source) PutField(head, kEventSource, ScheduleSource(NameOf(id)));
  return head + form.head;
}
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
  return Change(id);
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
  form.head = FormHead(head, "", form.names_source);
  const absl::StatusOr<ScheduleSpec> spec = DecodeRule(rule);
  form.keeps_last_fire = spec.ok() && spec->overlap == OverlapPolicy::kCancelPrevious;
  // What a checkpoint of an older form tells apart by the id only may be here already.
  if (!form_numbers_.contains(FormKey{form.rule, form.head})) form_numbers_.insert(index);
  bytes_ += form.rule.size() + form.head.size() + kEntryOverhead;
}

void ScheduleTable::Release(std::uint32_t index) {
  if (--forms_[index]->refs > 0 || index == kNoForm) return;
  bytes_ -= forms_[index]->rule.size() + forms_[index]->head.size() + kEntryOverhead;
  form_numbers_.erase(index);
  forms_[index].reset();
  free_forms_.insert(index);
  dirty_forms_.insert(index);
}

bool ScheduleTable::IsBody(std::size_t data_bytes) { return data_bytes >= kBodyBytesMin; }

std::size_t ScheduleTable::TextBytes(const Page& page, const Entry& entry) {
  return 1 + static_cast<std::uint8_t>(page.texts[entry.text]) +
         (IsBody(entry.data_bytes) ? 0 : entry.data_bytes);
}

// Leaves out what is gone and makes room. With little to spare: this is where the memory goes, and
// a text that is allocated alone takes 32 bytes at least.
void ScheduleTable::Repack(Page& page, std::size_t room) {
  std::size_t kept = 0;
  for (std::uint32_t slot = 0; slot < kPageEntries; ++slot) {
    if ((page.used >> slot & 1U) != 0) kept += TextBytes(page, page.entries[slot]);
  }
  const std::size_t most = kept + room + (kept + room) / 16;
  std::unique_ptr<char[]> texts(new char[most]);
  std::uint32_t at = 0;
  for (std::uint32_t slot = 0; slot < kPageEntries; ++slot) {
    if ((page.used >> slot & 1U) == 0) continue;
    Entry& entry = page.entries[slot];
    const std::size_t size = TextBytes(page, entry);
    std::memcpy(texts.get() + at, page.texts.get() + entry.text, size);
    entry.text = at;
    at += static_cast<std::uint32_t>(size);
  }
  page.texts = std::move(texts);
  page.text_bytes = at;
  page.text_bytes_max = static_cast<std::uint32_t>(most);
  page.text_bytes_gone = 0;
}

// Of an entry that is new: it is in use from here on.
void ScheduleTable::SetText(Id id, std::string_view name, std::string_view data) {
  TOCSIN_CHECK(!name.empty() && name.size() <= kScheduleNameBytesMax && data.size() < 1U << 31);
  Page& page = *pages_[id / kPageEntries];
  Entry& entry = page.entries[id % kPageEntries];
  const std::string_view inside = IsBody(data.size()) ? std::string_view() : data;
  const std::size_t bytes = 1 + name.size() + inside.size();
  if (page.text_bytes + bytes > page.text_bytes_max) Repack(page, bytes);
  entry.text = page.text_bytes;
  entry.data_bytes = static_cast<std::uint32_t>(data.size());
  char* text = page.texts.get() + entry.text;
  *text++ = static_cast<char>(name.size());
  text = std::copy(name.begin(), name.end(), text);
  std::copy(inside.begin(), inside.end(), text);
  page.text_bytes += static_cast<std::uint32_t>(bytes);
  if (IsBody(data.size())) bodies_[id] = std::string(data);
  page.used |= 1U << (id % kPageEntries);
  if (page.used == 0xffffffffU) open_pages_.erase(id / kPageEntries);
  bytes_ += name.size() + data.size() + kEntryOverhead;
}

ScheduleTable::Id ScheduleTable::Set(const ScheduleDefinition& definition) {
  if (const std::optional<Id> known = Find(definition.name)) Remove(*known);
  bool names_source = false;
  const std::uint32_t form = FormFor(
      definition.rule, FormHead(definition.head, ScheduleSource(definition.name), names_source));
  ++forms_[form]->refs;
  const Id id = NewId();
  TakeBodyFirst(id);  // that of the entry that was here
  Entry& entry = Occupy(id);
  SetText(id, definition.name, definition.data);
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
  bytes_ -= NameOf(id).size() + entry.data_bytes + kEntryOverhead;
  --size_;
  if (entry.form == kNoForm) --delayed_;
  Release(entry.form);
  const std::uint32_t number = id / kPageEntries;
  Page& page = *pages_[number];
  page.text_bytes_gone += static_cast<std::uint32_t>(TextBytes(page, entry));
  entry = Entry();
  extras_.erase(id);
  bodies_.erase(id);
  page.used &= ~(1U << (id % kPageEntries));
  open_pages_.insert(number);
  if (page.used == 0) {
    pages_[number].reset();
  } else if (page.text_bytes_gone > page.text_bytes_max / 2) {
    Repack(page, 0);
  }
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
