// Hashes: XXH3 (xxhash 0.8). HashKey with seed 0 decides a key's partition and must never change.

#pragma once

#include <compare>
#include <cstdint>
#include <string_view>

namespace tocsin {

struct Hash128 {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  friend constexpr auto operator<=>(const Hash128&, const Hash128&) = default;
};

std::uint64_t HashKey(std::string_view bytes, std::uint64_t seed = 0);

// Of (source, id), unambiguous about where one ends and the other begins.
Hash128 HashSourceAndId(std::string_view source, std::string_view id, std::uint64_t seed);

}  // namespace tocsin
