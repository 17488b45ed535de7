// HandleTable: values by handle, for handles that are given out in rising order and mostly come
// back in about that order: an index into a block where a map would have a hash and a miss. A block
// goes with its last value; a value that stays for long keeps its block alone.
//
// Owned by one thread at a time, or under its owner's mutex.

#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "broker/base/check.h"

namespace tocsin {

template <typename Value>
class HandleTable {
 public:
  std::size_t size() const { return size_; }

  // `handle`: above all that are there.
  void Add(std::uint64_t handle, Value value) {
    const std::uint64_t number = handle / kBlock;
    if (blocks_.empty() || blocks_.rbegin()->first != number) {
      TOCSIN_CHECK(blocks_.empty() || blocks_.rbegin()->first < number,
                   "handle {} is not above the last", handle);
      if (spare_ == nullptr) spare_ = std::make_unique<Block>();
      blocks_.emplace_hint(blocks_.end(), number, std::move(spare_));
    }
    Block& block = *blocks_.rbegin()->second;
    TOCSIN_CHECK(block.used < BitOf(handle), "handle {} is not above the last", handle);
    block.used |= BitOf(handle);
    block.values[handle % kBlock] = std::move(value);
    ++size_;
  }

  // Null if it is not there.
  Value* Find(std::uint64_t handle) {
    Block* block = BlockOf(handle);
    if (block == nullptr || (block->used & BitOf(handle)) == 0) return nullptr;
    return &block->values[handle % kBlock];
  }

  // Which must be there.
  void Erase(std::uint64_t handle) {
    Block* block = BlockOf(handle);
    TOCSIN_CHECK(block != nullptr && (block->used & BitOf(handle)) != 0, "handle {} is not there",
                 handle);
    block->used &= ~BitOf(handle);
    --size_;
    if (block->used != 0) return;
    const auto found = blocks_.find(handle / kBlock);
    spare_ = std::move(found->second);
    blocks_.erase(found);
    found_ = nullptr;
  }

  // visit(handle, value), in rising order.
  template <typename Visit>
  void ForEach(Visit&& visit) const {
    for (const auto& [number, block] : blocks_) {
      for (std::uint64_t left = block->used; left != 0; left &= left - 1) {
        const auto place = static_cast<std::uint64_t>(std::countr_zero(left));
        visit(number * kBlock + place, block->values[place]);
      }
    }
  }

  void Clear() {
    blocks_.clear();
    spare_.reset();
    found_ = nullptr;
    size_ = 0;
  }

 private:
  static constexpr std::uint64_t kBlock = 64;  // as many as `used` has bits

  struct Block {
    std::uint64_t used = 0;
    std::array<Value, kBlock> values;
  };

  static std::uint64_t BitOf(std::uint64_t handle) { return std::uint64_t{1} << handle % kBlock; }
  // Handles come one after the other: most are where the one before was.
  Block* BlockOf(std::uint64_t handle) {
    const std::uint64_t number = handle / kBlock;
    if (found_ != nullptr && found_number_ == number) return found_;
    const auto found = blocks_.find(number);
    if (found == blocks_.end()) return nullptr;
    found_number_ = number;
    found_ = found->second.get();
    return found_;
  }

  std::map<std::uint64_t, std::unique_ptr<Block>> blocks_;  // by handle / kBlock
  std::unique_ptr<Block> spare_;                            // for the next: few need more than two
  Block* found_ = nullptr;                                  // by BlockOf() last
  std::uint64_t found_number_ = 0;
  std::size_t size_ = 0;
};

}  // namespace tocsin
