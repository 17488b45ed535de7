#include "broker/base/wire.h"

#include <bit>
#include <cstring>

namespace tocsin {

bool WireReader::ReadLongVarint(std::uint64_t& value) {
  std::uint64_t result = 0;
  for (unsigned shift = 0; shift < 70; shift += 7) {
    if (position_ >= bytes_.size()) return false;
    const auto byte = static_cast<std::uint8_t>(bytes_[position_++]);
    // The tenth byte has room for one bit.
    if (shift == 63 && byte > 1) return false;
    result |= std::uint64_t{byte & 0x7Fu} << shift;
    if ((byte & 0x80) == 0) {
      value = result;
      return true;
    }
  }
  return false;
}

bool WireReader::ReadFixed(std::size_t count, std::string_view& value) {
  if (count > remaining()) return false;
  value = bytes_.substr(position_, count);
  position_ += count;
  return true;
}

namespace {

static_assert(std::endian::native == std::endian::little, "the formats are little-endian");

template <typename T>
bool ReadLittle(WireReader& reader, T& value) {
  std::string_view bytes;
  if (!reader.ReadFixed(sizeof(T), bytes)) return false;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return true;
}

template <typename T>
void PutLittle(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

}  // namespace

bool WireReader::ReadU32(std::uint32_t& value) { return ReadLittle(*this, value); }
bool WireReader::ReadU64(std::uint64_t& value) { return ReadLittle(*this, value); }

bool WireReader::Skip(WireType type) {
  std::uint64_t number = 0;
  std::string_view bytes;
  switch (type) {
    case WireType::kVarint:
      return ReadVarint(number);
    case WireType::kFixed64:
      return ReadFixed(8, bytes);
    case WireType::kBytes:
      return ReadBytes(bytes);
    case WireType::kFixed32:
      return ReadFixed(4, bytes);
  }
  return false;
}

void PutTag(std::string& out, std::uint32_t field, WireType type) {
  PutVarint(out, (std::uint64_t{field} << 3) | static_cast<std::uint8_t>(type));
}

void PutBytes(std::string& out, std::string_view value) {
  PutVarint(out, value.size());
  out.append(value);
}

void PutU32(std::string& out, std::uint32_t value) { PutLittle(out, value); }
void PutU64(std::string& out, std::uint64_t value) { PutLittle(out, value); }

void PutField(std::string& out, std::uint32_t field, std::string_view value) {
  PutTag(out, field, WireType::kBytes);
  PutBytes(out, value);
}

void PutField(std::string& out, std::uint32_t field, std::uint64_t value) {
  PutTag(out, field, WireType::kVarint);
  PutVarint(out, value);
}

}  // namespace tocsin
