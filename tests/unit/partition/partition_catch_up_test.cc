// `from: start`: a new trigger gets the stored events first, in order, each once.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Coins = SimFileSystem::Coins;

void AddLate(PartitionRig& rig) { rig.AddTrigger("late").from_start = true; }

// Acks whatever comes until nothing does; what `trigger` got, in order.
std::vector<std::string> DrainFor(PartitionRig& rig, const std::string& trigger) {
  std::vector<std::string> events;
  for (rig.Run(); !rig.worker->held.empty(); rig.Run()) {
    if (rig.worker->held.front().trigger == trigger) {
      events.push_back(rig.worker->held.front().event);
    }
    rig.Answer(Ack{});
  }
  return events;
}

std::vector<std::string> PublishMany(PartitionRig& rig, int from, int to, std::size_t bytes = 10) {
  std::vector<std::string> ids;
  for (int i = from; i < to; ++i) {
    ids.push_back(fmt::format("e{:03d}", i));
    EXPECT_TRUE(rig.Publish(ids.back(), "k", bytes).ok());
  }
  return ids;
}

TEST(PartitionCatchUpTest, StoredEventsComeFirstAndNewOnesAfterThemInOrder) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  std::vector<std::string> all = PublishMany(rig, 0, 60);
  AddLate(rig);
  rig.shards->ApplyPlan(rig.MakePlan());
  // New ones come while it has not looked at a single stored one.
  std::vector<std::optional<PublishOutcome>> answers(20);
  for (int i = 60; i < 80; ++i) {
    all.push_back(fmt::format("e{:03d}", i));
    rig.Send(all.back(), answers[static_cast<std::size_t>(i - 60)], "k");
    rig.owner.RunUntilIdle();
  }
  rig.Run();
  for (const std::string& id : PublishMany(rig, 80, 90)) all.push_back(id);
  rig.Attach();
  EXPECT_EQ(DrainFor(rig, "late"), all);
  for (const char* name : {"all", "late"}) {
    EXPECT_EQ(rig.Books(name).matched, all.size()) << name;
    EXPECT_EQ(rig.Books(name).acked, all.size()) << name;
  }
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  EXPECT_THAT(DrainFor(rig, "late"), IsEmpty());
}

TEST(PartitionCatchUpTest, ANewTriggerStartsAtTheEndUnlessAsked) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  (void)PublishMany(rig, 0, 5);
  rig.AddTrigger("plain");
  rig.Reload();
  ASSERT_TRUE(rig.Publish("new", "k").ok());
  rig.Attach();
  EXPECT_THAT(DrainFor(rig, "plain"), ElementsAre("new"));
  // What it said at its first definition counts.
  rig.triggers.back().from_start = true;
  rig.Reload();
  EXPECT_THAT(DrainFor(rig, "plain"), IsEmpty());
}

TEST(PartitionCatchUpTest, OnlyWhatItsFiltersMatchAndNeverAnotherTriggersRuns) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  (void)PublishMany(rig, 0, 30);
  rig.Attach();
  rig.Run();
  ASSERT_FALSE(rig.worker->held.empty());
  rig.Answer(Reject{"no"});  // e000; redriven, it is in the log a second time
  rig.Run();
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    partition.Redrive(partition.OpenLetters().at(0).id, [](const absl::Status&) {});
  });
  (void)rig.DrainAll();
  AddLate(rig);
  const auto some = FilterFromJson(R"([{"any":[{"suffix":{"id":"0"}},{"exact":{"id":"e007"}}]}])");
  ASSERT_TRUE(some.ok()) << some.status();
  rig.filters.back() = *some;
  rig.Reload();
  EXPECT_THAT(DrainFor(rig, "late"), ElementsAre("e000", "e007", "e010", "e020"));
  EXPECT_EQ(rig.Books("late").matched, 4u);
}

// The danger: after a crash events are appended for it twice, or never.
TEST(PartitionCatchUpTest, CrashesRepeatNothingAndLoseNothing) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    PartitionRig rig(seed);
    SeededRandom dice(seed);
    rig.partition_options.checkpoint_every = std::chrono::seconds(1);
    rig.partition_options.cache_bytes_max = 4000;
    ASSERT_TRUE(rig.Start().ok());
    std::vector<std::string> all = PublishMany(rig, 0, 80, 1000);
    AddLate(rig);
    rig.shards->ApplyPlan(rig.MakePlan());
    std::vector<std::string> got;
    int next = 80;
    for (int crash = 0; crash < 4; ++crash) {
      for (std::uint64_t step = dice.Below(30); step > 0; --step) {
        switch (dice.Below(4)) {
          case 0:
            rig.committer.RunUntilIdle(1 + dice.Below(2));
            break;
          case 1:
            rig.engine.RunUntilIdle(1 + dice.Below(2));
            break;
          case 2:
            rig.owner.RunUntilIdle(1 + dice.Below(2));
            break;
          default:
            if (dice.Below(8) == 0) rig.clock.Advance(std::chrono::seconds(1));
        }
      }
      ASSERT_TRUE(rig.Restart(dice.Below(2) == 0 ? Coins::kFair : Coins::kAll).ok());
      if (dice.Below(2) == 0) {
        for (const std::string& id : PublishMany(rig, next, next + 3)) all.push_back(id);
        next += 3;
      }
    }
    rig.Attach();
    got = DrainFor(rig, "late");
    EXPECT_EQ(got, all) << "seed " << seed;
    EXPECT_EQ(rig.Books("late").matched, all.size()) << "seed " << seed;
    EXPECT_EQ(rig.Books("late").pending, 0u) << "seed " << seed;
  }
}

TEST(PartitionCatchUpTest, ItKeepsWithinItsBacklog) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  const std::vector<std::string> all = PublishMany(rig, 0, 50, 1000);
  AddLate(rig);
  rig.triggers.back().policy.backlog.size_max = 10;
  rig.Reload();
  EXPECT_EQ(rig.Books("late").pending, 10u);
  rig.Attach();
  EXPECT_EQ(DrainFor(rig, "late"), all);
}

TEST(PartitionCatchUpTest, ItWaitsForRoomOnTheDisk) {
  PartitionRig rig;
  rig.journal_options.reserve_bytes = 512 * 1024;
  ASSERT_TRUE(rig.Start().ok());
  const std::vector<std::string> all = PublishMany(rig, 0, 20);
  std::uint64_t used = 0;
  for (const std::string& path : rig.fs.Paths()) used += rig.fs.Bytes(path).size();
  rig.fs.SetCapacity(used + 256 * 1024);
  rig.Advance(std::chrono::seconds(2));
  AddLate(rig);
  rig.Reload();
  rig.Advance(std::chrono::seconds(2));
  EXPECT_EQ(rig.Books("late").matched, 0u);
  rig.fs.SetCapacity(std::uint64_t{1} << 40);
  rig.Advance(std::chrono::seconds(2));
  rig.Attach();
  EXPECT_EQ(DrainFor(rig, "late"), all);
}

// Trimming below what it has not looked at would lose it.
TEST(PartitionCatchUpTest, WhatItHasNotLookedAtIsNotTrimmed) {
  PartitionRig rig;
  rig.partition_options.retention_age = std::chrono::hours(1);
  rig.partition_options.checkpoint_every = std::chrono::seconds(1);
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  std::vector<std::string> all;
  for (int i = 0; i < 30; ++i) {
    for (const std::string& id : PublishMany(rig, 5 * i, 5 * i + 5, 4000)) all.push_back(id);
    (void)rig.DrainAll();
    rig.Advance(std::chrono::seconds(2));
  }
  rig.dispatcher->Detach(rig.worker->session, true);
  AddLate(rig);
  rig.triggers.back().policy.backlog.size_max = 1;  // so that it stays far behind
  rig.Reload();
  for (int i = 0; i < 5; ++i) {
    for (const std::string& id : PublishMany(rig, 150 + i, 151 + i, 4000)) all.push_back(id);
    rig.Advance(std::chrono::hours(2));
  }
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  EXPECT_EQ(DrainFor(rig, "late"), all);
}

TEST(PartitionCatchUpTest, DetachedItStopsAndGoesOnWhenItComesBack) {
  PartitionRig rig;
  rig.partition_options.cache_bytes_max = 1;
  ASSERT_TRUE(rig.Start().ok());
  std::vector<std::string> all = PublishMany(rig, 0, 40, 1000);
  AddLate(rig);
  rig.shards->ApplyPlan(rig.MakePlan());
  rig.owner.RunUntilIdle();  // its first read is under way
  const TriggerSpec late = rig.triggers.back();
  rig.triggers.pop_back();
  rig.filters.pop_back();
  rig.Reload();
  const std::uint64_t matched = rig.Books("late").matched;
  for (const std::string& id : PublishMany(rig, 40, 45)) all.push_back(id);
  EXPECT_EQ(rig.Books("late").matched, matched);
  ASSERT_TRUE(rig.Restart().ok());
  rig.triggers.push_back(late);
  rig.filters.push_back(nullptr);
  rig.Reload();
  rig.Attach();
  EXPECT_EQ(DrainFor(rig, "late"), all);
  EXPECT_EQ(rig.Books("late").matched, all.size());
}

}  // namespace
}  // namespace tocsin
