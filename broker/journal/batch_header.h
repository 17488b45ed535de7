// The header before every batch, in the log, in the dead log and in checkpoint files.
//
//   magic u32 | header_version u8 | flags u8 | header_bytes u16 | partition u32 | epoch u32
//   | log_position u64 | base_offset u64 | event_count u32 | record_count u32 | body_bytes u32
//   | append_time_us i64 | synced_through u64 | prev_header_crc u32 | body_crc32c u32
//   | header_crc32c u32                                            little-endian, 72 bytes

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace tocsin {

inline constexpr std::uint32_t kBatchMagic = 0x3142'5354;  // "TSB1" on disk
inline constexpr std::size_t kBatchHeaderBytes = 72;

inline constexpr std::uint8_t kFlagLetter = 0x01;            // the body is one dead letter
inline constexpr std::uint8_t kFlagCheckpointPages = 0x02;   // the body is pages
inline constexpr std::uint8_t kFlagCheckpointCommit = 0x04;  // the pages before it are whole

struct BatchHeader {
  std::uint8_t flags = 0;
  std::uint32_t partition = 0;
  std::uint32_t epoch = 0;
  std::uint64_t log_position = 0;  // of this header
  std::uint64_t base_offset = 0;
  std::uint32_t event_count = 0;
  std::uint32_t record_count = 0;
  std::uint32_t body_bytes = 0;
  std::int64_t append_time_us = 0;
  std::uint64_t synced_through = 0;   // everything below was durable when this was written
  std::uint32_t prev_header_crc = 0;  // of the batch before it in the log, whatever its partition
  std::uint32_t body_crc = 0;
  std::uint32_t header_crc = 0;  // set by EncodeBatchHeader

  std::uint64_t end() const { return log_position + kBatchHeaderBytes + body_bytes; }
};

// Writes kBatchHeaderBytes at `out`, and sets header.header_crc.
void EncodeBatchHeader(BatchHeader& header, std::byte* out);

enum class HeaderCheck { kValid, kZero, kBad };

// Reads the header at `bytes`, which lies at `position` of the log. kZero: all its bytes are 0.
// kBad: too short, wrong magic, version, CRC or position.
[[nodiscard]] HeaderCheck DecodeBatchHeader(std::span<const std::byte> bytes,
                                            std::uint64_t position, BatchHeader& header);

inline std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span<const char>(text.data(), text.size()));
}

}  // namespace tocsin
