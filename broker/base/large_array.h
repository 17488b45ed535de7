// LargeArray: a fixed number of zeroed numbers that are read at random, in memory that the kernel
// backs with large pages where it can: with small ones each read of a table beyond the caches also
// costs a walk through the page tables, and prefetching is dropped.
//
// Movable, not copyable; not thread-safe.

#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string_view>

namespace tocsin {

namespace internal {
// Zeroed unless `zeroed` is false; never null. Freed by std::free.
void* AllocateLarge(std::size_t bytes, bool zeroed = true);
}  // namespace internal

template <typename T>
class LargeArray {
 public:
  LargeArray() = default;
  explicit LargeArray(std::size_t size)
      : values_(static_cast<T*>(internal::AllocateLarge(size * sizeof(T)))), size_(size) {}

  std::size_t size() const { return size_; }
  T& operator[](std::size_t index) { return values_.get()[index]; }
  const T& operator[](std::size_t index) const { return values_.get()[index]; }
  const T* begin() const { return values_.get(); }
  const T* end() const { return values_.get() + size_; }

 private:
  struct Free {
    void operator()(T* values) const { std::free(values); }
  };
  std::unique_ptr<T[], Free> values_;
  std::size_t size_ = 0;
};

// Bytes to read a large file into: not zeroed before, and few page faults.
class LargeBuffer {
 public:
  LargeBuffer() = default;
  explicit LargeBuffer(std::size_t size)
      : bytes_(static_cast<char*>(internal::AllocateLarge(size, false))), size_(size) {}

  char* data() { return bytes_.get(); }
  std::size_t size() const { return size_; }
  void Shorten(std::size_t size) { size_ = size; }
  std::string_view view() const { return {bytes_.get(), size_}; }

 private:
  struct Free {
    void operator()(char* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<char[], Free> bytes_;
  std::size_t size_ = 0;
};

}  // namespace tocsin
