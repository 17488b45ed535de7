#include "dispatch/settled_set.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>
#include <set>

#include "broker/base/random.h"
#include "broker/base/wire.h"

namespace tocsin {
namespace {

TEST(SettledSetTest, InOrderKeepsNoRuns) {
  SettledSet set;
  for (std::uint64_t i = 0; i < 1000; ++i) EXPECT_EQ(set.Add(i, i), 1u);
  EXPECT_EQ(set.floor(), 1000u);
  EXPECT_EQ(set.run_count(), 0u);
}

TEST(SettledSetTest, RepeatsAndOverlapsCountOnlyWhatIsNew) {
  SettledSet set;
  EXPECT_EQ(set.Add(5, 9), 5u);
  EXPECT_EQ(set.Add(5, 9), 0u);
  EXPECT_EQ(set.Add(8, 12), 3u);
  EXPECT_EQ(set.Add(20, 20), 1u);
  EXPECT_EQ(set.Add(0, 30), 31u - 8u - 1u);
  EXPECT_EQ(set.floor(), 31u);
  EXPECT_EQ(set.run_count(), 0u);
  EXPECT_EQ(set.Add(3, 4), 0u);
}

TEST(SettledSetTest, RunsThatTouchBecomeOne) {
  SettledSet set;
  EXPECT_EQ(set.Add(2, 3), 2u);
  EXPECT_EQ(set.Add(6, 7), 2u);
  EXPECT_EQ(set.run_count(), 2u);
  EXPECT_EQ(set.Add(4, 5), 2u);
  EXPECT_EQ(set.run_count(), 1u);
  EXPECT_EQ(set.Add(0, 1), 2u);
  EXPECT_EQ(set.floor(), 8u);
  EXPECT_EQ(set.run_count(), 0u);
}

TEST(SettledSetTest, AgreesWithASetOfNumbersAndSurvivesItsEncoding) {
  const char* text = std::getenv("TOCSIN_SEED");
  const std::uint64_t seed = text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
  SCOPED_TRACE("TOCSIN_SEED=" + std::to_string(seed));
  SeededRandom random(seed);
  for (int run = 0; run < 50; ++run) {
    SettledSet set;
    std::set<std::uint64_t> truth;
    for (int step = 0; step < 120; ++step) {
      const std::uint64_t first = random.Below(200);
      const std::uint64_t last = first + random.Below(random.Below(4) == 0 ? 30 : 3);
      std::uint64_t added = 0;
      for (std::uint64_t i = first; i <= last; ++i) added += truth.insert(i).second ? 1 : 0;
      ASSERT_EQ(set.Add(first, last), added);
      std::uint64_t floor = 0;
      while (truth.count(floor) != 0) ++floor;
      ASSERT_EQ(set.floor(), floor);
      if (step % 10 != 0) continue;
      std::size_t runs = 0;
      for (std::uint64_t i = 0; i < 250; ++i) {
        ASSERT_EQ(set.Contains(i), truth.count(i) != 0) << i;
        if (i > floor && truth.count(i) != 0 && truth.count(i - 1) == 0) ++runs;
      }
      ASSERT_EQ(set.run_count(), runs);
      std::string bytes;
      set.EncodeTo(bytes);
      SettledSet decoded;
      ASSERT_TRUE(decoded.DecodeFrom(bytes));
      ASSERT_EQ(decoded, set);
    }
  }
}

TEST(SettledSetTest, MalformedBytesAreRefusedAndChangeNothing) {
  SettledSet set;
  set.Add(1, 2);
  set.Add(5, 5);
  std::string good;
  set.EncodeTo(good);
  SettledSet other;
  other.Add(0, 9);
  const SettledSet before = other;
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(other.DecodeFrom(std::string_view(good).substr(0, size)));
  }
  EXPECT_FALSE(other.DecodeFrom(good + "x"));
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
  const auto refused = [&](std::initializer_list<std::uint64_t> values) {
    std::string bytes;
    for (const std::uint64_t value : values) PutVarint(bytes, value);
    return !other.DecodeFrom(bytes);
  };
  EXPECT_TRUE(refused({0, 1, 0, 3}));        // touches the floor
  EXPECT_TRUE(refused({0, 2, 1, 1, 0, 1}));  // runs that touch
  EXPECT_TRUE(refused({0, 1, 5, kMost}));    // overflows
  EXPECT_TRUE(refused({9, 1, kMost, 1}));
  EXPECT_TRUE(refused({kMost, 0}));
  EXPECT_TRUE(refused({0, kMost}));  // claims runs that are not there
  EXPECT_EQ(other, before);
}

}  // namespace
}  // namespace tocsin
