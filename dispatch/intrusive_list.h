// IntrusiveList: a doubly linked list through two members of its elements, which it does not own.
// Slab: elements of one type in chunks, at fixed addresses, reused without going to the heap.
//
// An element is in at most one list per pair of members. Not thread-safe.

#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace tocsin {

template <typename T, T* T::*Prev, T* T::*Next>
class IntrusiveList {
 public:
  T* front() const { return front_; }
  T* back() const { return back_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  void PushBack(T* item) { InsertAfter(back_, item); }
  void PushFront(T* item) { InsertAfter(nullptr, item); }

  // With a null `place`: at the front.
  void InsertAfter(T* place, T* item) {
    T* next = place == nullptr ? front_ : place->*Next;
    item->*Prev = place;
    item->*Next = next;
    (place == nullptr ? front_ : place->*Next) = item;
    (next == nullptr ? back_ : next->*Prev) = item;
    ++size_;
  }

  void Remove(T* item) {
    T* prev = item->*Prev;
    T* next = item->*Next;
    (prev == nullptr ? front_ : prev->*Next) = next;
    (next == nullptr ? back_ : next->*Prev) = prev;
    item->*Prev = nullptr;
    item->*Next = nullptr;
    --size_;
  }

 private:
  T* front_ = nullptr;
  T* back_ = nullptr;
  std::size_t size_ = 0;
};

// `T::*Next` is borrowed for the list of free elements. Take() gives an element as it was given
// back: the caller resets it.
template <typename T, T* T::*Next>
class Slab {
 public:
  T* Take() {
    if (free_ == nullptr) Grow();
    T* item = free_;
    free_ = item->*Next;
    item->*Next = nullptr;
    return item;
  }

  void Give(T* item) {
    item->*Next = free_;
    free_ = item;
  }

  // Frees all chunks but one. Only when every element was given back.
  void Shrink() {
    if (chunks_.size() <= 1) return;
    chunks_.resize(1);
    chunks_.shrink_to_fit();
    free_ = nullptr;
    Thread(chunks_.front().get());
  }

 private:
  // Small, because a hundred thousand queues may each keep one.
  static constexpr std::size_t kChunk = 16;

  void Grow() {
    chunks_.push_back(std::make_unique<T[]>(kChunk));
    Thread(chunks_.back().get());
  }

  void Thread(T* chunk) {
    for (std::size_t i = kChunk; i-- > 0;) Give(chunk + i);
  }

  std::vector<std::unique_ptr<T[]>> chunks_;
  T* free_ = nullptr;
};

}  // namespace tocsin
