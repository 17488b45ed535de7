#include "broker/journal/batch_header.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "broker/base/crc32c.h"

namespace tocsin {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr std::uint8_t kHeaderVersion = 1;

class Writer {
 public:
  explicit Writer(std::byte* out) : out_(out) {}
  template <typename T>
  void Put(T value) {
    std::memcpy(out_, &value, sizeof(value));
    out_ += sizeof(value);
  }

 private:
  std::byte* out_;
};

class Reader {
 public:
  explicit Reader(const std::byte* in) : in_(in) {}
  template <typename T>
  T Get() {
    T value;
    std::memcpy(&value, in_, sizeof(value));
    in_ += sizeof(value);
    return value;
  }

 private:
  const std::byte* in_;
};

}  // namespace

void EncodeBatchHeader(BatchHeader& header, std::byte* out) {
  Writer writer(out);
  writer.Put(kBatchMagic);
  writer.Put(kHeaderVersion);
  writer.Put(header.flags);
  writer.Put(static_cast<std::uint16_t>(kBatchHeaderBytes));
  writer.Put(header.partition);
  writer.Put(header.epoch);
  writer.Put(header.log_position);
  writer.Put(header.base_offset);
  writer.Put(header.event_count);
  writer.Put(header.record_count);
  writer.Put(header.body_bytes);
  writer.Put(header.append_time_us);
  writer.Put(header.synced_through);
  writer.Put(header.prev_header_crc);
  writer.Put(header.body_crc);
  header.header_crc = Crc32c({out, kBatchHeaderBytes - 4});
  writer.Put(header.header_crc);
}

HeaderCheck DecodeBatchHeader(std::span<const std::byte> bytes, std::uint64_t position,
                              BatchHeader& header) {
  if (bytes.size() < kBatchHeaderBytes) return HeaderCheck::kBad;
  bytes = bytes.first(kBatchHeaderBytes);
  Reader reader(bytes.data());
  if (reader.Get<std::uint32_t>() != kBatchMagic) {
    const bool zero =
        std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
    return zero ? HeaderCheck::kZero : HeaderCheck::kBad;
  }
  if (reader.Get<std::uint8_t>() != kHeaderVersion) return HeaderCheck::kBad;
  header.flags = reader.Get<std::uint8_t>();
  if (reader.Get<std::uint16_t>() != kBatchHeaderBytes) return HeaderCheck::kBad;
  header.partition = reader.Get<std::uint32_t>();
  header.epoch = reader.Get<std::uint32_t>();
  header.log_position = reader.Get<std::uint64_t>();
  header.base_offset = reader.Get<std::uint64_t>();
  header.event_count = reader.Get<std::uint32_t>();
  header.record_count = reader.Get<std::uint32_t>();
  header.body_bytes = reader.Get<std::uint32_t>();
  header.append_time_us = reader.Get<std::int64_t>();
  header.synced_through = reader.Get<std::uint64_t>();
  header.prev_header_crc = reader.Get<std::uint32_t>();
  header.body_crc = reader.Get<std::uint32_t>();
  header.header_crc = reader.Get<std::uint32_t>();
  if (header.log_position != position ||
      header.header_crc != Crc32c(bytes.first(kBatchHeaderBytes - 4))) {
    return HeaderCheck::kBad;
  }
  return HeaderCheck::kValid;
}

}  // namespace tocsin
