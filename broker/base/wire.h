// Varints and the protobuf wire format (protobuf.dev "Encoding"), without linking protobuf: the hot
// path reads events where they lie. All readers check bounds and never throw.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tocsin {

enum class WireType : std::uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// A cursor over bytes that somebody else keeps alive.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : bytes_(bytes) {}

  bool AtEnd() const { return position_ == bytes_.size(); }
  std::size_t position() const { return position_; }
  std::size_t remaining() const { return bytes_.size() - position_; }

  // Each returns false, and leaves the reader unusable, when the bytes are malformed or too short.
  bool ReadVarint(std::uint64_t& value) {
    // One byte is by far the commonest length.
    if (position_ < bytes_.size() && static_cast<std::uint8_t>(bytes_[position_]) < 0x80) {
      value = static_cast<std::uint8_t>(bytes_[position_++]);
      return true;
    }
    return ReadLongVarint(value);
  }
  bool ReadTag(std::uint32_t& field, WireType& type) {
    std::uint64_t tag = 0;
    if (!ReadVarint(tag) || tag > 0xFFFFFFFFu || tag < 8) return false;
    field = static_cast<std::uint32_t>(tag >> 3);
    type = static_cast<WireType>(tag & 7);
    return (0b100111u >> (tag & 7) & 1) != 0;  // 0, 1, 2, 5
  }
  // A varint length, then that many bytes.
  bool ReadBytes(std::string_view& value) {
    std::uint64_t size = 0;
    if (!ReadVarint(size) || size > remaining()) return false;
    value = std::string_view(bytes_.data() + position_, static_cast<std::size_t>(size));
    position_ += static_cast<std::size_t>(size);
    return true;
  }
  bool ReadFixed(std::size_t count, std::string_view& value);
  bool ReadU32(std::uint32_t& value);  // little-endian
  bool ReadU64(std::uint64_t& value);
  bool Skip(WireType type);

 private:
  bool ReadLongVarint(std::uint64_t& value);

  std::string_view bytes_;
  std::size_t position_ = 0;
};

// Appenders to a growing buffer.
inline constexpr std::size_t kVarintBytesMax = 10;
// Writes up to kVarintBytesMax bytes at `at` and returns where they end.
inline char* WriteVarint(char* at, std::uint64_t value) {
  while (value >= 0x80) {
    *at++ = static_cast<char>(value | 0x80);
    value >>= 7;
  }
  *at++ = static_cast<char>(value);
  return at;
}
inline void PutVarint(std::string& out, std::uint64_t value) {
  char bytes[kVarintBytesMax];
  out.append(bytes, static_cast<std::size_t>(WriteVarint(bytes, value) - bytes));
}
void PutTag(std::string& out, std::uint32_t field, WireType type);
void PutBytes(std::string& out, std::string_view value);  // varint length, then the bytes
void PutU32(std::string& out, std::uint32_t value);       // little-endian
void PutU64(std::string& out, std::uint64_t value);
void PutField(std::string& out, std::uint32_t field, std::string_view value);
void PutField(std::string& out, std::uint32_t field, std::uint64_t value);

constexpr std::size_t VarintSize(std::uint64_t value) {
  std::size_t size = 1;
  while (value >= 0x80) {
    value >>= 7;
    ++size;
  }
  return size;
}

}  // namespace tocsin
