#include "broker/journal/segment_index.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "broker/base/crc32c.h"

namespace tocsin {
namespace {

constexpr std::string_view kIndexMagic = "TOCSNIX1";

template <typename T>
void Put(std::string& out, T value) {
  std::array<char, sizeof(T)> bytes;
  std::memcpy(bytes.data(), &value, sizeof(T));
  out.append(bytes.data(), bytes.size());
}

template <typename T>
bool Get(std::string_view& bytes, T& value) {
  if (bytes.size() < sizeof(T)) return false;
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes.remove_prefix(sizeof(T));
  return true;
}

}  // namespace

void SegmentIndex::Add(const BatchHeader& header) {
  Partition& partition = partitions[header.partition];
  if (partition.entries.empty() || partition.bytes_since_entry + header.body_bytes > kStride) {
    partition.entries.push_back({header.base_offset, header.log_position});
    partition.bytes_since_entry = 0;
  }
  partition.bytes_since_entry += header.body_bytes;
  partition.epoch_max = std::max(partition.epoch_max, header.epoch);
  partition.next_offset = std::max(partition.next_offset, header.base_offset + header.event_count);
  partition.append_time_us = header.append_time_us;
  end = header.end();
  last_position = header.log_position;
  last_header_crc = header.header_crc;
  synced_through = std::max(synced_through, header.synced_through);
  ++batches;
}

std::optional<std::uint64_t> SegmentIndex::Locate(std::uint32_t partition,
                                                  std::uint64_t offset) const {
  const auto found = partitions.find(partition);
  if (found == partitions.end()) return std::nullopt;
  const std::vector<Entry>& entries = found->second.entries;
  const auto after = std::upper_bound(
      entries.begin(), entries.end(), offset,
      [](std::uint64_t value, const Entry& entry) { return value < entry.offset; });
  if (after == entries.begin()) return std::nullopt;
  return std::prev(after)->position;
}

std::string EncodeSegmentIndex(const SegmentIndex& index) {
  std::string out(kIndexMagic);
  Put(out, index.first);
  Put(out, index.end);
  Put(out, index.last_position);
  Put(out, index.last_header_crc);
  Put(out, index.synced_through);
  Put(out, index.batches);
  Put(out, static_cast<std::uint32_t>(index.partitions.size()));
  for (const auto& [id, partition] : index.partitions) {
    Put(out, id);
    Put(out, partition.epoch_max);
    Put(out, partition.next_offset);
    Put(out, partition.append_time_us);
    Put(out, static_cast<std::uint32_t>(partition.entries.size()));
    for (const SegmentIndex::Entry& entry : partition.entries) {
      Put(out, entry.offset);
      Put(out, entry.position);
    }
  }
  Put(out, Crc32c(AsBytes(out)));
  return out;
}

std::optional<SegmentIndex> DecodeSegmentIndex(std::string_view bytes) {
  if (bytes.size() < kIndexMagic.size() + 4 || !bytes.starts_with(kIndexMagic)) return std::nullopt;
  std::string_view crc_bytes = bytes.substr(bytes.size() - 4);
  std::uint32_t crc = 0;
  if (!Get(crc_bytes, crc) || crc != Crc32c(AsBytes(bytes.substr(0, bytes.size() - 4)))) {
    return std::nullopt;
  }
  bytes = bytes.substr(kIndexMagic.size(), bytes.size() - kIndexMagic.size() - 4);
  SegmentIndex index;
  std::uint32_t partitions = 0;
  if (!Get(bytes, index.first) || !Get(bytes, index.end) || !Get(bytes, index.last_position) ||
      !Get(bytes, index.last_header_crc) || !Get(bytes, index.synced_through) ||
      !Get(bytes, index.batches) || !Get(bytes, partitions)) {
    return std::nullopt;
  }
  for (std::uint32_t i = 0; i < partitions; ++i) {
    std::uint32_t id = 0;
    std::uint32_t entries = 0;
    SegmentIndex::Partition partition;
    if (!Get(bytes, id) || !Get(bytes, partition.epoch_max) || !Get(bytes, partition.next_offset) ||
        !Get(bytes, partition.append_time_us) || !Get(bytes, entries) ||
        entries > bytes.size() / sizeof(SegmentIndex::Entry)) {
      return std::nullopt;
    }
    for (std::uint32_t k = 0; k < entries; ++k) {
      SegmentIndex::Entry entry;
      if (!Get(bytes, entry.offset) || !Get(bytes, entry.position)) return std::nullopt;
      partition.entries.push_back(entry);
    }
    index.partitions.emplace(id, std::move(partition));
  }
  if (!bytes.empty()) return std::nullopt;
  return index;
}

std::string SegmentIndexName(std::uint64_t first) { return fmt::format("{:016x}.idx", first); }

}  // namespace tocsin
