#include "broker/base/random.h"

#include <sys/random.h>

#include <cerrno>

#include "broker/base/check.h"

namespace tocsin {

std::uint64_t Random::Below(std::uint64_t bound) {
  if (bound == 0) return 0;
  // Numbers under `threshold` would make the low residues likelier; they are drawn again.
  const std::uint64_t threshold = (0 - bound) % bound;
  while (true) {
    const std::uint64_t value = Next();
    if (value >= threshold) return value % bound;
  }
}

double Random::Unit() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }

std::uint64_t SeededRandom::Next() {
  state_ += 0x9e3779b97f4a7c15u;
  std::uint64_t mixed = state_;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
  return mixed ^ (mixed >> 31);
}

std::uint64_t SystemSeed() {
  std::uint64_t seed = 0;
  while (true) {
    const ssize_t got = getrandom(&seed, sizeof(seed), 0);
    if (got == static_cast<ssize_t>(sizeof(seed))) return seed;
    TOCSIN_CHECK(got >= 0 || errno == EINTR, "getrandom: errno {}", errno);
  }
}

}  // namespace tocsin
