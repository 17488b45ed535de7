// Any bytes as the choices behind a table of triggers and some events: the compiled matcher, its
// explanations and the plain model agree.

#include <cstddef>
#include <cstdint>

#include "tests/support/match_model.h"

namespace {

// The bytes one after the other, then numbers that are always the same.
class BytesRandom final : public tocsin::Random {
 public:
  BytesRandom(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  std::uint64_t Next() override {
    if (position_ >= size_) return tail_.Next();
    return std::uint64_t{data_[position_++]} * 0x0101010101010101;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t position_ = 0;
  tocsin::SeededRandom tail_{1};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  BytesRandom random(data, size);
  tocsin::ModelCounts counts;
  tocsin::CompareWithModel(random, 4, counts);
  return 0;
}
