#include "dispatch/handle_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "broker/base/random.h"

namespace tocsin {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::uint64_t> Handles(const HandleTable<std::string>& table) {
  std::vector<std::uint64_t> handles;
  table.ForEach([&](std::uint64_t handle, const std::string&) { handles.push_back(handle); });
  return handles;
}

TEST(HandleTableTest, FindsWhatIsThereAndNothingElse) {
  HandleTable<std::string> table;
  EXPECT_EQ(table.Find(0), nullptr);
  EXPECT_EQ(table.Find(1), nullptr);
  table.Add(100, "a");
  table.Add(101, "b");
  table.Add(700, "c");
  EXPECT_EQ(*table.Find(100), "a");
  EXPECT_EQ(*table.Find(700), "c");
  for (const std::uint64_t other : {0u, 1u, 63u, 64u, 99u, 102u, 699u, 701u, 100'000u}) {
    EXPECT_EQ(table.Find(other), nullptr) << other;
  }
  EXPECT_EQ(table.size(), 3u);
  EXPECT_THAT(Handles(table), ElementsAre(100, 101, 700));
  table.Erase(100);
  EXPECT_EQ(table.Find(100), nullptr);
  EXPECT_THAT(Handles(table), ElementsAre(101, 700));
  table.Clear();
  EXPECT_EQ(table.size(), 0u);
  EXPECT_EQ(table.Find(700), nullptr);
  table.Add(701, "d");
  EXPECT_THAT(Handles(table), ElementsAre(701));
}

// The block of the first is used again for the second.
TEST(HandleTableTest, WhatIsGoneIsNotFoundInABlockThatIsUsedAgain) {
  HandleTable<std::string> table;
  table.Add(64, "a");
  ASSERT_NE(table.Find(64), nullptr);
  table.Erase(64);
  table.Add(128, "b");
  EXPECT_EQ(table.Find(64), nullptr);
  EXPECT_EQ(*table.Find(128), "b");
}

TEST(HandleTableTest, DoesAsAMapDoes) {
  SeededRandom random(7);
  for (int round = 0; round < 50; ++round) {
    HandleTable<std::string> table;
    std::map<std::uint64_t, std::string> map;
    std::uint64_t next = 1 + random.Next() % 200;
    for (int step = 0; step < 2000; ++step) {
      if (random.Next() % 2 == 0) {
        table.Add(next, std::to_string(next));
        map.emplace(next, std::to_string(next));
        next += 1 + (random.Next() % 50 == 0 ? random.Next() % 300 : 0);
      } else if (!map.empty()) {
        // Mostly the oldest, as answers come.
        const bool oldest = random.Next() % 4 != 0;
        auto one = oldest ? map.begin() : map.lower_bound(random.Next() % next);
        if (one == map.end()) one = map.begin();
        ASSERT_NE(table.Find(one->first), nullptr);
        EXPECT_EQ(*table.Find(one->first), one->second);
        table.Erase(one->first);
        EXPECT_EQ(table.Find(one->first), nullptr);
        map.erase(one);
      }
      ASSERT_EQ(table.size(), map.size());
    }
    std::vector<std::uint64_t> expected;
    for (const auto& [handle, value] : map) expected.push_back(handle);
    EXPECT_EQ(Handles(table), expected);
    while (!map.empty()) {
      table.Erase(map.begin()->first);
      map.erase(map.begin());
    }
    EXPECT_THAT(Handles(table), IsEmpty());
  }
}

TEST(HandleTableDeathTest, AHandleIsAddedOnceAndInOrder) {
  HandleTable<std::string> table;
  table.Add(1000, "a");
  EXPECT_DEATH(table.Add(10, "b"), "not above the last");
  EXPECT_DEATH(table.Add(1000, "b"), "not above the last");
  EXPECT_DEATH(table.Add(999, "b"), "not above the last");
  EXPECT_DEATH(table.Erase(999), "not there");
}

}  // namespace
}  // namespace tocsin
