// The checkpoint form of the schedule table: forms, pages of entries, and the data that are too
// large for a page.

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/status.h"
#include "broker/base/wire.h"
#include "broker/partition/schedule_table.h"

namespace tocsin {
namespace {

constexpr std::uint32_t kFormTable = 9;
constexpr std::uint32_t kEntryTable = 10;
constexpr std::uint32_t kBodyTable = 11;

constexpr std::size_t kPartBytes = std::size_t{200} << 10;
constexpr int kPartBits = 8;
constexpr std::size_t kEntryBytes = 64;  // of an entry's form on disk beside its texts, at most

constexpr std::uint64_t kRecurring = 1;
constexpr std::uint64_t kPaused = 2;
constexpr std::uint64_t kTextData = 4;
constexpr std::uint64_t kBody = 8;
constexpr std::uint64_t kExtra = 16;

absl::Status Malformed(std::uint32_t table, std::uint64_t page) {
  return absl::DataLossError(
      fmt::format("checkpoint: page {} of table {} is malformed", page, table));
}

std::uint64_t Bits(std::int64_t value) { return static_cast<std::uint64_t>(value); }

}  // namespace

bool ScheduleTable::OwnsTable(std::uint32_t table) {
  return table >= kFormTable && table <= kBodyTable;
}

bool ScheduleTable::HasBody(Id id) const { return IsBody(At(id).data_bytes); }

void ScheduleTable::BeginSnapshot(bool every) {
  if (every) {
    dirty_pages_.assign(pages_.size(), true);
    for (std::uint32_t form = 1; form < forms_.size(); ++form) dirty_forms_.insert(form);
    for (const auto& [id, parts] : saved_bodies_) dirty_bodies_.insert(id);
  }
  // Forms are few: at once.
  for (const std::uint32_t form : dirty_forms_) {
    std::string bytes;
    if (forms_[form] != nullptr) {
      PutBytes(bytes, forms_[form]->rule);
      PutBytes(bytes, forms_[form]->head);
    }
    taken_.pages.push_back({kFormTable, form, std::move(bytes)});
  }
  dirty_forms_.clear();
  wanted_pages_.swap(dirty_pages_);
  dirty_pages_.clear();
  wanted_bodies_.swap(dirty_bodies_);
  dirty_bodies_.clear();
  next_page_ = 0;
  snapshot_ = true;
}

bool ScheduleTable::NextPages(std::size_t bytes_max, CheckpointDelta& delta) {
  if (!snapshot_) return true;
  std::size_t bytes = 0;
  for (CheckpointPage& page : taken_.pages) {
    bytes += page.bytes.size();
    delta.pages.push_back(std::move(page));
  }
  taken_.pages.clear();
  for (; next_page_ < wanted_pages_.size() && bytes < bytes_max; ++next_page_) {
    if (!wanted_pages_[next_page_]) continue;
    TakePage(static_cast<std::uint32_t>(next_page_), delta);
    bytes += delta.pages.back().bytes.size() + 16;
  }
  while (!wanted_bodies_.empty() && bytes < bytes_max) {
    const Id id = *wanted_bodies_.begin();
    bytes += Has(id) ? At(id).data_bytes : 16;
    TakeBody(id, delta);
  }
  if (next_page_ < wanted_pages_.size() || !wanted_bodies_.empty()) return false;
  wanted_pages_.clear();
  snapshot_ = false;
  return true;
}

void ScheduleTable::TakePage(std::uint32_t number, CheckpointDelta& delta) {
  wanted_pages_[number] = false;
  std::string bytes;
  if (pages_[number] != nullptr) bytes = EncodePage(*pages_[number], number);
  delta.pages.push_back({kEntryTable, number, std::move(bytes)});
}

void ScheduleTable::TakeBodyFirst(Id id) {
  if (snapshot_ && wanted_bodies_.contains(id)) TakeBody(id, taken_);
}

void ScheduleTable::TakeBody(Id id, CheckpointDelta& delta) {
  wanted_bodies_.erase(id);
  const bool there = Has(id) && HasBody(id);
  const std::string_view data = there ? DataOf(id) : std::string_view();
  std::uint32_t part = 0;
  for (std::size_t at = 0; at < data.size(); at += kPartBytes, ++part) {
    delta.pages.push_back({kBodyTable, (std::uint64_t{id} << kPartBits) | part,
                           std::string(data.substr(at, kPartBytes))});
  }
  std::uint32_t& saved = saved_bodies_[id];
  for (std::uint32_t gone = part; gone < saved; ++gone) {
    delta.pages.push_back({kBodyTable, (std::uint64_t{id} << kPartBits) | gone, ""});
  }
  saved = part;
  if (part == 0) saved_bodies_.erase(id);
}

std::string ScheduleTable::EncodePage(const Page& page, std::uint32_t number) const {
  std::string out;
  std::size_t size = 0;
  for (std::uint32_t slot = 0; slot < kPageEntries; ++slot) {
    if ((page.used >> slot & 1U) == 0) continue;
    size += kEntryBytes + TextBytes(page, page.entries[slot]);
  }
  out.reserve(size);
  for (std::uint32_t slot = 0; slot < kPageEntries; ++slot) {
    if ((page.used >> slot & 1U) == 0) continue;
    const Id id = number * kPageEntries + slot;
    const Entry& entry = page.entries[slot];
    const auto extra = extras_.find(id);
    const bool body = IsBody(entry.data_bytes);
    PutVarint(out, slot);
    PutVarint(out, (entry.recurring != 0 ? kRecurring : 0) | (entry.paused != 0 ? kPaused : 0) |
                       (entry.text_data != 0 ? kTextData : 0) | (body ? kBody : 0) |
                       (extra != extras_.end() ? kExtra : 0));
    PutVarint(out, Bits(entry.at_us));
    PutVarint(out, Bits(entry.decided_us));
    PutVarint(out, entry.form);
    PutVarint(out, entry.fired);
    PutVarint(out, entry.skipped);
    PutBytes(out, NameOf(id));
    if (body) {
      PutVarint(out, entry.data_bytes);
    } else {
      PutBytes(out, DataOf(id));
    }
    if (extra == extras_.end()) continue;
    PutBytes(out, extra->second.state);
    std::string unfired;
    if (extra->second.unfired) extra->second.unfired->EncodeTo(unfired);
    PutBytes(out, unfired);
    PutVarint(out, extra->second.last_fire ? extra->second.last_fire->value() + 1 : 0);
  }
  out.shrink_to_fit();  // of a million schedules it is kept until the checkpoint is written
  return out;
}

absl::Status ScheduleTable::LoadPage(const CheckpointPage& page) {
  if (page.table == kBodyTable) return LoadBody(page.page, page.bytes);
  if (page.page >= (std::uint64_t{1} << 27)) return Malformed(page.table, page.page);
  const auto number = static_cast<std::uint32_t>(page.page);
  if (page.table == kEntryTable) return LoadEntries(number, page.bytes);
  WireReader reader(page.bytes);
  std::string_view rule;
  std::string_view head;
  if (number == kNoForm || !reader.ReadBytes(rule) || !reader.ReadBytes(head)) {
    return Malformed(page.table, page.page);
  }
  for (std::uint32_t free = static_cast<std::uint32_t>(forms_.size()); free < number; ++free) {
    free_forms_.insert(free);
  }
  PutForm(number, rule, head);
  return absl::OkStatus();
}

absl::Status ScheduleTable::LoadEntries(std::uint32_t number, std::string_view bytes) {
  while (pages_.size() <= number) {
    open_pages_.insert(static_cast<std::uint32_t>(pages_.size()));
    pages_.emplace_back();
  }
  WireReader reader(bytes);
  while (!reader.AtEnd()) {
    std::uint64_t values[7] = {};
    bool whole = true;
    for (std::uint64_t& value : values) whole = whole && reader.ReadVarint(value);
    const auto [slot, flags, at, decided, form, fired, skipped] = values;
    std::string_view name;
    whole = whole && reader.ReadBytes(name) && !name.empty() &&
            name.size() <= kScheduleNameBytesMax && slot < kPageEntries && form < forms_.size() &&
            forms_[form] != nullptr;
    std::string_view data;
    std::uint64_t body_bytes = 0;
    const bool body = (flags & kBody) != 0;
    whole = whole && (body ? reader.ReadVarint(body_bytes) && body_bytes < 1U << 26
                           : reader.ReadBytes(data));
    whole = whole && (!body || IsBody(body_bytes)) && (body || !IsBody(data.size()));
    if (!whole) return Malformed(kEntryTable, number);
    const Id id = number * kPageEntries + static_cast<std::uint32_t>(slot);
    if (Has(id) || Find(name)) return Malformed(kEntryTable, number);
    Entry& entry = Occupy(id);
    const std::string empty(body ? body_bytes : 0, '\0');
    SetText(id, name, body ? std::string_view(empty) : data);
    entry.at_us = static_cast<std::int64_t>(at);
    entry.decided_us = static_cast<std::int64_t>(decided);
    entry.form = static_cast<std::uint32_t>(form) & ((1U << 26) - 1);
    entry.recurring = (flags & kRecurring) != 0 ? 1 : 0;
    entry.paused = (flags & kPaused) != 0 ? 1 : 0;
    entry.text_data = (flags & kTextData) != 0 ? 1 : 0;
    entry.fired = static_cast<std::uint32_t>(fired);
    entry.skipped = static_cast<std::uint32_t>(skipped);
    ++forms_[entry.form]->refs;
    names_.insert(id);
    ++size_;
    if (entry.form == kNoForm) ++delayed_;
    if (body) bodies_missing_ += (body_bytes + kPartBytes - 1) / kPartBytes;
    if ((flags & kExtra) == 0) continue;
    std::string_view state;
    std::string_view unfired;
    std::uint64_t last_fire = 0;
    if (!reader.ReadBytes(state) || !reader.ReadBytes(unfired) || !reader.ReadVarint(last_fire)) {
      return Malformed(kEntryTable, number);
    }
    Extra& extra = extras_[id];
    extra.state = std::string(state);
    if (!unfired.empty()) {
      extra.unfired.emplace(WallTime());
      if (!extra.unfired->DecodeFrom(unfired)) return Malformed(kEntryTable, number);
    }
    if (last_fire > 0) extra.last_fire = Offset(last_fire - 1);
  }
  return absl::OkStatus();
}

absl::Status ScheduleTable::LoadBody(std::uint64_t page, std::string_view bytes) {
  const auto id = static_cast<Id>(page >> kPartBits);
  const std::size_t at = (page & ((1U << kPartBits) - 1)) * kPartBytes;
  if (page >> kPartBits > 0xffffffffU || !Has(id) || !HasBody(id) || bodies_missing_ == 0) {
    return Malformed(kBodyTable, page);
  }
  const Entry& entry = At(id);
  if (at >= entry.data_bytes || bytes.size() != std::min(kPartBytes, entry.data_bytes - at)) {
    return Malformed(kBodyTable, page);
  }
  bodies_.at(id).replace(at, bytes.size(), bytes);
  --bodies_missing_;
  ++saved_bodies_[id];
  return absl::OkStatus();
}

absl::Status ScheduleTable::FinishLoad() {
  if (bodies_missing_ > 0) {
    return absl::DataLossError("checkpoint: the data of a schedule are missing");
  }
  for (std::uint32_t form = 1; form < forms_.size(); ++form) {
    if (forms_[form] == nullptr) free_forms_.insert(form);
    if (forms_[form] != nullptr && forms_[form]->refs == 0) {
      return absl::DataLossError("checkpoint: a schedule's form is used by none");
    }
  }
  dirty_pages_.clear();
  dirty_forms_.clear();
  dirty_bodies_.clear();
  return absl::OkStatus();
}

}  // namespace tocsin
