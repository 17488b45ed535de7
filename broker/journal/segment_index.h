// SegmentIndex: what recovery and Locate() need to know about one segment without reading it.
//
// It grows in memory while the segment is written, and is saved beside it (`.idx`, with a CRC) when
// the segment is closed. A file is a help, never an authority: it is used only if the last batch it
// knows is there, and is the one that the next segment's first batch names; else it is rebuilt.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/journal/batch_header.h"

namespace tocsin {

struct SegmentIndex {
  // One entry per so many bytes of a partition's bodies.
  static constexpr std::uint64_t kStride = 64 * 1024;

  struct Entry {
    std::uint64_t offset = 0;
    std::uint64_t position = 0;
    friend bool operator==(const Entry&, const Entry&) = default;
  };
  struct Partition {
    std::uint32_t epoch_max = 0;
    std::uint64_t next_offset = 0;
    std::int64_t append_time_us = 0;  // of the last batch
    std::uint64_t bytes_since_entry = 0;
    std::vector<Entry> entries;  // ascending; the first is the partition's first batch
  };

  std::uint64_t first = 0;
  std::uint64_t end = 0;            // just after the last batch
  std::uint64_t last_position = 0;  // of the last batch
  std::uint32_t last_header_crc = 0;
  std::uint64_t synced_through = 0;  // the highest of any batch
  std::uint64_t batches = 0;
  std::map<std::uint32_t, Partition> partitions;

  void Add(const BatchHeader& header);

  // The position of a batch at or before the one that holds `offset`; nullopt if every batch of
  // the partition here begins above it.
  std::optional<std::uint64_t> Locate(std::uint32_t partition, std::uint64_t offset) const;
};

std::string EncodeSegmentIndex(const SegmentIndex& index);
// nullopt: damaged, or of another version.
std::optional<SegmentIndex> DecodeSegmentIndex(std::string_view bytes);

std::string SegmentIndexName(std::uint64_t first);  // without the folder

}  // namespace tocsin
