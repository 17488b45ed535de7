// DedupeTable: which (source, id) pairs were seen lately, as 128-bit seeded hashes: remembered
// until older than the window or pushed out by `ids_max` newer ones.
//
// A ring in order of arrival, in chunks that are also the pages of its checkpoint, beside an open
// addressing index of ring sequences. A slot of the index has 32 bits of the hash as well, so that
// looking up, growing and forgetting seldom touch the ring, which is far larger than the CPU's
// caches. 48 to 64 bytes per id. Owned by one partition; not thread-safe.

#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "broker/base/hash.h"
#include "broker/base/ids.h"
#include "broker/base/large_array.h"

namespace tocsin {

class DedupeTable {
 public:
  struct Seen {
    Offset offset;
    std::int64_t time_us = 0;
  };

  DedupeTable(std::int64_t window_us, std::size_t ids_max);

  // nullopt: not seen, or longer ago than the window.
  std::optional<Seen> Find(const Hash128& identity, std::int64_t now_us) const;

  // Finding or inserting `identity` comes soon.
  void Prefetch(const Hash128& identity) const { __builtin_prefetch(&index_[Slot(identity)]); }

  // `identity` was seen at `offset`; a repeat replaces what was known. Forgets what is too old.
  void Insert(const Hash128& identity, Offset offset, std::int64_t now_us);

  std::size_t size() const { return static_cast<std::size_t>(tail_ - head_); }
  // Time of the oldest id still known; 0 if empty. The horizon that was reached.
  std::int64_t oldest_us() const;

  // Pages that changed since the last call (or all, with `every`); an empty one is gone.
  void TakePages(bool every, const std::function<void(std::uint64_t, std::string)>& put);
  // How many ids a page has, at most.
  static std::size_t IdsIn(std::string_view page) { return page.size() / kEntryBytes; }
  // Makes room for so many ids at once.
  void Reserve(std::size_t ids);
  // In ascending order of pages, into an empty table.
  //   kDataLoss
  absl::Status LoadPage(std::uint64_t page, std::string_view bytes);

 private:
  static constexpr std::size_t kEntryBytes = 32;  // in a page
  struct Entry {
    Hash128 identity;
    std::uint64_t offset = 0;
    std::int64_t time_us = 0;
  };
  static constexpr std::size_t kChunkEntries = 8000;  // a page of 256,000 bytes
  struct Chunk {
    std::vector<Entry> entries;
  };

  static Entry EntryOf(std::string_view entries, std::uint64_t i);
  Entry& At(std::uint64_t sequence);
  const Entry& At(std::uint64_t sequence) const;
  void IndexInsert(std::uint32_t tag, std::uint64_t sequence);
  void IndexErase(std::uint64_t sequence);
  // A slot: the hash's low 32 bits above, the low 32 bits of sequence + 1 below; 0: free. The
  // table has less than 2^31 ids, so 32 bits are enough for both.
  static std::uint32_t Tag(const Hash128& identity) {
    return static_cast<std::uint32_t>(identity.low);
  }
  std::size_t Slot(std::uint32_t tag) const { return tag & (index_.size() - 1); }
  std::size_t Slot(const Hash128& identity) const { return Slot(Tag(identity)); }
  // The whole of a sequence in the ring, from its low half.
  std::uint64_t Sequence(std::uint64_t slot) const {
    const std::uint32_t low = static_cast<std::uint32_t>(slot) - 1;
    return head_ + (low - static_cast<std::uint32_t>(head_));
  }
  void Grow(std::size_t slots);
  void DropOldest();

  const std::int64_t window_us_;
  const std::size_t ids_max_;
  std::deque<std::unique_ptr<Chunk>> chunks_;  // chunk i holds sequences from first_chunk_ + i on
  std::uint64_t first_chunk_ = 0;
  std::uint64_t head_ = 0;  // oldest sequence
  std::uint64_t tail_ = 0;  // next sequence
  LargeArray<std::uint64_t> index_;
  std::uint64_t saved_tail_ = 0;  // what the last TakePages covered
  std::uint64_t saved_first_chunk_ = 0;
};

}  // namespace tocsin
