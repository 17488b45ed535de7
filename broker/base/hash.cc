#include "broker/base/hash.h"

#include <xxhash.h>

#include <cstring>
#include <string>

namespace tocsin {

std::uint64_t HashKey(std::string_view bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

Hash128 HashSourceAndId(std::string_view source, std::string_view id, std::uint64_t seed) {
  // The source's length goes first, so that ("ab", "c") and ("a", "bc") differ.
  constexpr std::size_t kInline = 512;
  const std::uint64_t source_bytes = source.size();
  const std::size_t total = sizeof source_bytes + source.size() + id.size();
  char small[kInline];
  std::string large;
  char* buffer = small;
  if (total > kInline) {
    large.resize(total);
    buffer = large.data();
  }
  char* at = buffer;
  const auto put = [&at](const void* bytes, std::size_t size) {
    if (size > 0) std::memcpy(at, bytes, size);
    at += size;
  };
  put(&source_bytes, sizeof source_bytes);
  put(source.data(), source.size());
  put(id.data(), id.size());
  const XXH128_hash_t hash = XXH3_128bits_withSeed(buffer, total, seed);
  return {hash.low64, hash.high64};
}

}  // namespace tocsin
