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
  bool ReadVarint(std::uint64_t& value);
  bool ReadTag(std::uint32_t& field, WireType& type);
  bool ReadBytes(std::string_view& value);  // varint length, then that many bytes
  bool ReadFixed(std::size_t count, std::string_view& value);
  bool ReadU32(std::uint32_t& value);  // little-endian
  bool ReadU64(std::uint64_t& value);
  bool Skip(WireType type);

 private:
  std::string_view bytes_;
  std::size_t position_ = 0;
};

// Appenders to a growing buffer.
void PutVarint(std::string& out, std::uint64_t value);
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
