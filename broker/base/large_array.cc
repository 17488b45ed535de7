#include "broker/base/large_array.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "broker/base/check.h"

namespace tocsin::internal {
namespace {

constexpr std::size_t kLargePage = std::size_t{2} << 20;

}  // namespace

void* AllocateLarge(std::size_t bytes, bool zeroed) {
  void* memory = nullptr;
  if (bytes < kLargePage) {
    memory = std::calloc(1, std::max<std::size_t>(bytes, 1));
  } else {
    const std::size_t rounded = (bytes + kLargePage - 1) & ~(kLargePage - 1);
    memory = std::aligned_alloc(kLargePage, rounded);
    if (memory != nullptr) {
      // Only a hint: without it the array is slower, not wrong.
      static_cast<void>(madvise(memory, rounded, MADV_HUGEPAGE));
      if (zeroed) std::memset(memory, 0, bytes);
    }
  }
  TOCSIN_CHECK(memory != nullptr, "no memory for {} bytes", bytes);
  return memory;
}

}  // namespace tocsin::internal
