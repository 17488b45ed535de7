// DedupeTable: which (source, id) pairs were seen lately, as 128-bit seeded hashes: remembered
// until older than the window or pushed out by `ids_max` newer ones.
//
// A ring in order of arrival, in chunks that are also the pages of its checkpoint, beside an open
// addressing index of ring sequences. 40 to 48 bytes per id. Owned by one partition; not
// thread-safe.

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

  // `identity` was seen at `offset`; a repeat replaces what was known. Forgets what is too old.
  void Insert(const Hash128& identity, Offset offset, std::int64_t now_us);

  std::size_t size() const { return static_cast<std::size_t>(tail_ - head_); }
  // Time of the oldest id still known; 0 if empty. The horizon that was reached.
  std::int64_t oldest_us() const;

  // Pages that changed since the last call (or all, with `every`); an empty one is gone.
  void TakePages(bool every, const std::function<void(std::uint64_t, std::string)>& put);
  // In ascending order of pages, into an empty table.
  //   kDataLoss
  absl::Status LoadPage(std::uint64_t page, std::string_view bytes);

 private:
  struct Entry {
    Hash128 identity;
    std::uint64_t offset = 0;
    std::int64_t time_us = 0;
  };
  static constexpr std::size_t kChunkEntries = 8000;  // a page of 256,000 bytes
  struct Chunk {
    std::vector<Entry> entries;
  };

  Entry& At(std::uint64_t sequence);
  const Entry& At(std::uint64_t sequence) const;
  void IndexInsert(const Hash128& identity, std::uint64_t sequence);
  void IndexErase(std::uint64_t sequence);
  std::size_t Slot(const Hash128& identity) const { return identity.low & (index_.size() - 1); }
  void Grow();
  void DropOldest();

  const std::int64_t window_us_;
  const std::size_t ids_max_;
  std::deque<std::unique_ptr<Chunk>> chunks_;  // chunk i holds sequences from first_chunk_ + i on
  std::uint64_t first_chunk_ = 0;
  std::uint64_t head_ = 0;            // oldest sequence
  std::uint64_t tail_ = 0;            // next sequence
  std::vector<std::uint32_t> index_;  // low 32 bits of sequence + 1; 0: free
  std::uint64_t saved_tail_ = 0;      // what the last TakePages covered
  std::uint64_t saved_first_chunk_ = 0;
};

}  // namespace tocsin
