#include "broker/schedule/unfired.h"

#include <gtest/gtest.h>

#include "broker/schedule/rule.h"

namespace tocsin {
namespace {

WallTime At(int seconds) { return WallTime(std::chrono::seconds(seconds)); }

bool Has(const UnfiredRanges& ranges, int seconds) {
  for (const InstantRange& range : ranges.ranges()) {
    if (range.first <= At(seconds) && At(seconds) <= range.last) return true;
  }
  return false;
}

TEST(UnfiredRangesTest, WhatLiesBeforeTheFirstStartAndWhatWasSkippedIsUnfired) {
  UnfiredRanges ranges(At(100));
  EXPECT_TRUE(Has(ranges, -1'000'000));
  EXPECT_TRUE(Has(ranges, 100));
  EXPECT_FALSE(Has(ranges, 101));
  ranges.Fired(At(110));
  ranges.Skipped(At(120), At(130));
  EXPECT_FALSE(Has(ranges, 110));
  EXPECT_TRUE(Has(ranges, 120));
  EXPECT_TRUE(Has(ranges, 130));
  EXPECT_FALSE(Has(ranges, 131));
}

TEST(UnfiredRangesTest, SkipsWithNoFireBetweenThemAreOneRange) {
  UnfiredRanges ranges(At(0));
  ranges.Fired(At(10));
  for (int at = 20; at < 20'000; at += 10) ranges.Skipped(At(at), At(at));
  EXPECT_EQ(ranges.ranges().size(), 2u);
}

// A plan's fires are told before its skips, which may lie on both sides of them.
TEST(UnfiredRangesTest, WhatFiredBetweenTwoSkipsOfOnePlanIsNotUnfired) {
  UnfiredRanges ranges(At(0));
  ranges.Fired(At(70));
  ranges.Fired(At(80));
  ranges.Skipped(At(10), At(60));
  ranges.Skipped(At(100), At(100));
  EXPECT_TRUE(Has(ranges, 60));
  EXPECT_FALSE(Has(ranges, 70));
  EXPECT_FALSE(Has(ranges, 80));
  EXPECT_TRUE(Has(ranges, 100));
}

TEST(UnfiredRangesTest, AnInstantThatABackfillTookIsGoneForEver) {
  UnfiredRanges ranges(At(100));
  ranges.Remove(At(50), At(60));
  EXPECT_TRUE(Has(ranges, 49));
  EXPECT_FALSE(Has(ranges, 50));
  EXPECT_FALSE(Has(ranges, 60));
  EXPECT_TRUE(Has(ranges, 61));
}

TEST(UnfiredRangesTest, AnInstantThatFiresAfterTheClockWasSetBackIsNoLongerUnfired) {
  UnfiredRanges ranges(At(0));
  ranges.Fired(At(10));
  ranges.Skipped(At(20), At(40));
  ranges.Fired(At(30));
  EXPECT_TRUE(Has(ranges, 20));
  EXPECT_FALSE(Has(ranges, 30));
  EXPECT_TRUE(Has(ranges, 40));
}

TEST(UnfiredRangesTest, TheyAreBoundedAndForgetTheOldestSkipsNotWhatIsBeforeTheStart) {
  UnfiredRanges ranges(At(0));
  for (int at = 10; at < 10'000; at += 20) {
    ranges.Fired(At(at));
    ranges.Skipped(At(at + 10), At(at + 10));
  }
  EXPECT_LE(ranges.ranges().size(), kUnfiredRangesMax);
  EXPECT_TRUE(Has(ranges, -5));
  EXPECT_FALSE(Has(ranges, 20));
  EXPECT_TRUE(Has(ranges, 10'000));
}

TEST(UnfiredRangesTest, TheyComeBackFromTheirBytesAndBrokenBytesAreRefused) {
  UnfiredRanges ranges(At(100));
  ranges.Fired(At(110));
  ranges.Skipped(At(120), At(130));
  std::string bytes;
  ranges.EncodeTo(bytes);
  UnfiredRanges again(At(0));
  ASSERT_TRUE(again.DecodeFrom(bytes));
  EXPECT_EQ(again, ranges);
  EXPECT_FALSE(again.DecodeFrom(bytes.substr(0, bytes.size() - 1)));
  EXPECT_FALSE(again.DecodeFrom(bytes + "x"));
  EXPECT_EQ(again, ranges);
}

TEST(RuleTest, ComesBackFromItsBytes) {
  ScheduleSpec spec;
  spec.name = "n";
  spec.cron = "30 2 * * *";
  spec.timezone = "Europe/Berlin";
  spec.missed = MissedPolicy::kAll;
  spec.missed_max = 7;
  spec.missed_window = std::chrono::minutes(5);
  spec.overlap = OverlapPolicy::kQueueOne;
  spec.dst_gap = DstGap::kSkip;
  spec.dst_overlap = DstOverlap::kBoth;
  spec.spread = std::chrono::seconds(3);
  spec.jitter = std::chrono::milliseconds(40);
  auto again = DecodeRule(EncodeRule(spec));
  ASSERT_TRUE(again.ok());
  again->name = spec.name;
  EXPECT_EQ(*again, spec);
  EXPECT_FALSE(DecodeRule("").ok());
  EXPECT_FALSE(DecodeRule(EncodeRule(spec).substr(0, 9)).ok());
  EXPECT_FALSE(DecodeRule("\x02").ok());
}

TEST(RuleTest, IsSharedUnlessTheNameDecidesSomething) {
  ScheduleSpec spec;
  spec.cron = "30 2 * * *";
  EXPECT_TRUE(RuleIsShared(spec));
  spec.cron = "@hourly";
  EXPECT_TRUE(RuleIsShared(spec));
  spec.cron = "H 2 * * *";
  EXPECT_FALSE(RuleIsShared(spec));
  spec.cron = "30 2 * * *";
  spec.spread = std::chrono::seconds(1);
  EXPECT_FALSE(RuleIsShared(spec));
}

}  // namespace
}  // namespace tocsin
