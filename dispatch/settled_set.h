// SettledSet: which of a trigger's matches (by match index, dense from 0) are settled: everything
// below floor(), and runs above it. A run-length bitmap; memory is proportional to the number of
// holes.

#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace tocsin {

class SettledSet {
 public:
  // [first, last]. Returns how many of them were new: a repeat changes nothing.
  std::uint64_t Add(std::uint64_t first, std::uint64_t last);
  bool Contains(std::uint64_t index) const;
  // The lowest index that is not settled.
  std::uint64_t floor() const { return floor_; }
  std::size_t run_count() const { return runs_.size(); }

  // Varint encoding for checkpoints. Decode returns false on malformed bytes.
  void EncodeTo(std::string& out) const;
  bool DecodeFrom(std::string_view bytes);

  friend bool operator==(const SettledSet&, const SettledSet&) = default;

 private:
  std::uint64_t floor_ = 0;
  std::map<std::uint64_t, std::uint64_t> runs_;  // first -> last, disjoint, not touching
};

}  // namespace tocsin
