// The compiled matcher and the plain meaning of triggers agree on random triggers and events.

#include "tests/support/match_model.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

namespace tocsin {
namespace {

void Compare(std::uint64_t seed, int rounds) {
  // Before, since a difference ends the process.
  std::printf("TOCSIN_SEED=%llu\n", static_cast<unsigned long long>(seed));
  SeededRandom random(seed);
  ModelCounts counts;
  for (int i = 0; i < rounds; ++i) CompareWithModel(random, 20, counts);
  // It says something only if both outcomes are common.
  EXPECT_GT(counts.matches, counts.pairs / 50);
  EXPECT_LT(counts.matches, counts.pairs * 9 / 10);
}

TEST(MatchModelTest, TheSameTriggersMatchAsInTheModel) { Compare(1, 60); }

TEST(MatchModelTest, TheSameTriggersMatchAsInTheModelFromAnySeed) {
  const char* given = std::getenv("TOCSIN_SEED");
  Compare(given != nullptr ? std::strtoull(given, nullptr, 10) : SystemSeed(), 60);
}

}  // namespace
}  // namespace tocsin
