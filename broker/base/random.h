// Random is the only source of chance in the broker, so that a simulator can replay it from a seed.

#pragma once

#include <cstdint>

namespace tocsin {

class Random {
 public:
  virtual ~Random() = default;

  // Uniform over all 64-bit values. Thread-safe only where the implementation says so.
  virtual std::uint64_t Next() = 0;

  // Uniform in [0, bound); 0 for bound 0.
  std::uint64_t Below(std::uint64_t bound);

  // Uniform in [0, 1).
  double Unit();
};

// Deterministic (splitmix64, Steele et al. 2014): the same seed gives the same numbers everywhere.
class SeededRandom final : public Random {
 public:
  explicit SeededRandom(std::uint64_t seed) : state_(seed) {}
  std::uint64_t Next() override;

 private:
  std::uint64_t state_;
};

// A seed from the operating system, for production's SeededRandom.
std::uint64_t SystemSeed();

}  // namespace tocsin
