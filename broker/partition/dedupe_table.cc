#include "broker/partition/dedupe_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/wire.h"

namespace tocsin {
namespace {

constexpr std::uint64_t kDropAhead = 8;  // how far ahead the oldest ids' slots are fetched
constexpr std::uint64_t kLoadAhead = 8;

}  // namespace

DedupeTable::DedupeTable(std::int64_t window_us, std::size_t ids_max)
    : window_us_(window_us), ids_max_(std::max<std::size_t>(ids_max, 1)), index_(1024) {}

// Entry `i` of a page's `entries`, where it lies whole.
DedupeTable::Entry DedupeTable::EntryOf(std::string_view entries, std::uint64_t i) {
  WireReader reader(entries.substr(i * kEntryBytes, kEntryBytes));
  Entry entry;
  std::uint64_t time_us = 0;
  static_cast<void>(reader.ReadU64(entry.identity.low) && reader.ReadU64(entry.identity.high) &&
                    reader.ReadU64(entry.offset) && reader.ReadU64(time_us));
  entry.time_us = static_cast<std::int64_t>(time_us);
  return entry;
}

DedupeTable::Entry& DedupeTable::At(std::uint64_t sequence) {
  return chunks_[sequence / kChunkEntries - first_chunk_]->entries[sequence % kChunkEntries];
}

const DedupeTable::Entry& DedupeTable::At(std::uint64_t sequence) const {
  return chunks_[sequence / kChunkEntries - first_chunk_]->entries[sequence % kChunkEntries];
}

std::optional<DedupeTable::Seen> DedupeTable::Find(const Hash128& identity,
                                                   std::int64_t now_us) const {
  const std::uint32_t tag = Tag(identity);
  for (std::size_t slot = Slot(tag); index_[slot] != 0; slot = (slot + 1) & (index_.size() - 1)) {
    if (index_[slot] >> 32 != tag) continue;
    const Entry& entry = At(Sequence(index_[slot]));
    if (entry.identity == identity) {
      if (entry.time_us < now_us - window_us_) return std::nullopt;
      return Seen{Offset(entry.offset), entry.time_us};
    }
  }
  return std::nullopt;
}

void DedupeTable::IndexInsert(std::uint32_t tag, std::uint64_t sequence) {
  std::size_t slot = Slot(tag);
  while (index_[slot] != 0) slot = (slot + 1) & (index_.size() - 1);
  index_[slot] = std::uint64_t{tag} << 32 | (static_cast<std::uint32_t>(sequence) + 1);
}

void DedupeTable::IndexErase(std::uint64_t sequence) {
  const std::size_t mask = index_.size() - 1;
  const std::uint32_t tag = Tag(At(sequence).identity);
  const std::uint64_t wanted =
      std::uint64_t{tag} << 32 | (static_cast<std::uint32_t>(sequence) + 1);
  std::size_t slot = Slot(tag);
  while (index_[slot] != wanted) {
    if (index_[slot] == 0) return;
    slot = (slot + 1) & mask;
  }
  // Closes the hole by moving back what would no longer be found across it.
  std::size_t hole = slot;
  for (std::size_t next = (hole + 1) & mask; index_[next] != 0; next = (next + 1) & mask) {
    const std::size_t home = Slot(static_cast<std::uint32_t>(index_[next] >> 32));
    if (((next - home) & mask) >= ((next - hole) & mask)) {
      index_[hole] = index_[next];
      hole = next;
    }
  }
  index_[hole] = 0;
}

void DedupeTable::Reserve(std::size_t ids) {
  std::size_t slots = index_.size();
  while (ids * 2 > slots) slots *= 2;
  if (slots > index_.size()) Grow(slots);
}

// `slots`: a power of two.
void DedupeTable::Grow(std::size_t slots) {
  const LargeArray<std::uint64_t> old = std::exchange(index_, LargeArray<std::uint64_t>(slots));
  for (const std::uint64_t slot : old) {
    if (slot == 0) continue;
    std::size_t at = Slot(static_cast<std::uint32_t>(slot >> 32));
    while (index_[at] != 0) at = (at + 1) & (index_.size() - 1);
    index_[at] = slot;
  }
}

void DedupeTable::DropOldest() {
  if (head_ + kDropAhead < tail_) Prefetch(At(head_ + kDropAhead).identity);
  IndexErase(head_);
  ++head_;
  if (head_ % kChunkEntries == 0) {
    chunks_.pop_front();
    ++first_chunk_;
  }
}

void DedupeTable::Insert(const Hash128& identity, Offset offset, std::int64_t now_us) {
  while (head_ < tail_ && At(head_).time_us < now_us - window_us_) DropOldest();
  while (size() >= ids_max_) DropOldest();
  Reserve(size() + 1);
  // A repeat beyond the window can still be in the ring; the newer one must be found first.
  for (std::size_t slot = Slot(identity); index_[slot] != 0;
       slot = (slot + 1) & (index_.size() - 1)) {
    if (index_[slot] >> 32 != Tag(identity)) continue;
    const std::uint64_t sequence = Sequence(index_[slot]);
    Entry& entry = At(sequence);
    if (entry.identity == identity) {
      entry.offset = offset.value();
      entry.time_us = now_us;
      saved_tail_ = std::min(saved_tail_, sequence);
      return;
    }
  }
  if (chunks_.empty()) first_chunk_ = tail_ / kChunkEntries;
  if (tail_ / kChunkEntries - first_chunk_ >= chunks_.size()) {
    chunks_.push_back(std::make_unique<Chunk>());
    chunks_.back()->entries.resize(kChunkEntries);
  }
  At(tail_) = Entry{identity, offset.value(), now_us};
  IndexInsert(Tag(identity), tail_);
  ++tail_;
}

std::int64_t DedupeTable::oldest_us() const { return head_ == tail_ ? 0 : At(head_).time_us; }

void DedupeTable::TakePages(bool every,
                            const std::function<void(std::uint64_t, std::string)>& put) {
  for (std::uint64_t page = saved_first_chunk_; page < first_chunk_; ++page) put(page, "");
  const std::uint64_t from = every ? head_ : std::max(head_, saved_tail_);
  for (std::uint64_t page = from / kChunkEntries; page * kChunkEntries < tail_; ++page) {
    const std::uint64_t first = std::max(head_, page * kChunkEntries);
    const std::uint64_t end = std::min(tail_, (page + 1) * kChunkEntries);
    if (first >= end) continue;
    std::string bytes;
    bytes.reserve(16 + (end - first) * kEntryBytes);
    PutU64(bytes, first);
    PutU64(bytes, end - first);
    for (std::uint64_t sequence = first; sequence < end; ++sequence) {
      const Entry& entry = At(sequence);
      PutU64(bytes, entry.identity.low);
      PutU64(bytes, entry.identity.high);
      PutU64(bytes, entry.offset);
      PutU64(bytes, static_cast<std::uint64_t>(entry.time_us));
    }
    put(page, std::move(bytes));
  }
  saved_tail_ = tail_;
  saved_first_chunk_ = first_chunk_;
}

absl::Status DedupeTable::LoadPage(std::uint64_t page, std::string_view bytes) {
  WireReader reader(bytes);
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  if (!reader.ReadU64(first) || !reader.ReadU64(count) || count > kChunkEntries ||
      reader.remaining() != count * kEntryBytes || first / kChunkEntries != page ||
      (tail_ != head_ && first != tail_)) {
    return absl::DataLossError(
        fmt::format("checkpoint: page {} of the id table is malformed", page));
  }
  if (tail_ == head_) {
    chunks_.clear();
    head_ = tail_ = first;
    first_chunk_ = saved_first_chunk_ = page;
  }
  Reserve(size() + count);
  const std::string_view entries = bytes.substr(bytes.size() - reader.remaining());
  for (std::uint64_t i = 0; i < count; ++i) {
    if (i + kLoadAhead < count) Prefetch(EntryOf(entries, i + kLoadAhead).identity);
    const Entry entry = EntryOf(entries, i);
    if (tail_ / kChunkEntries - first_chunk_ >= chunks_.size()) {
      chunks_.push_back(std::make_unique<Chunk>());
      chunks_.back()->entries.resize(kChunkEntries);
    }
    At(tail_) = entry;
    IndexInsert(Tag(entry.identity), tail_);
    ++tail_;
  }
  saved_tail_ = tail_;
  return absl::OkStatus();
}

}  // namespace tocsin
