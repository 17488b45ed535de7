#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <set>

#include "broker/base/random.h"
#include "broker/base/time_text.h"
#include "broker/schedule/schedule.h"

namespace tocsin {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::IsEmpty;

WallTime At(const std::string& text) { return *ParseRfc3339(text); }

struct Harness {
  explicit Harness(const std::string& cron, MissedPolicy missed = MissedPolicy::kLast) {
    spec.name = "s";
    spec.cron = cron;
    spec.missed = missed;
  }

  FirePlan Plan(WallTime now, bool busy = false, std::size_t fires_max = 1024) {
    FirePlan plan = PlanFires(**Schedule::Parse(spec), state, now, busy, fires_max);
    // Through the journal and back.
    state = *DecodeScheduleState(EncodeScheduleState(plan.state));
    EXPECT_EQ(state, plan.state);
    EXPECT_LE(plan.fires.size(), fires_max);
    for (const WallTime fire : plan.fires) {
      EXPECT_TRUE(fired.insert(fire).second) << FormatRfc3339(fire) << " fired twice";
    }
    for (const SkippedRange& skip : plan.skips) skipped += skip.count;
    return plan;
  }

  ScheduleSpec spec;
  ScheduleState state = StartSchedule(At("2026-01-01T00:00:00Z"));
  std::set<WallTime> fired;
  std::uint64_t skipped = 0;
};

TEST(PlanTest, FirstStartFiresNothingOfThePast) {
  Harness harness("0 * * * *");
  const FirePlan plan = harness.Plan(At("2026-01-01T00:00:00Z"));
  EXPECT_THAT(plan.fires, IsEmpty());
  EXPECT_EQ(plan.next, At("2026-01-01T01:00:00Z"));
}

TEST(PlanTest, AnInstantOnTimeFiresOnce) {
  Harness harness("0 * * * *", MissedPolicy::kSkip);
  EXPECT_THAT(harness.Plan(At("2026-01-01T01:00:00.002Z")).fires,
              ElementsAre(At("2026-01-01T01:00:00Z")));
  EXPECT_THAT(harness.Plan(At("2026-01-01T01:00:00.003Z")).fires, IsEmpty());
  EXPECT_EQ(harness.skipped, 0U);
}

TEST(PlanTest, LastFiresTheNewestMissedAndRecordsTheRest) {
  Harness harness("0 * * * *");
  const FirePlan plan = harness.Plan(At("2026-01-01T05:30:00Z"));
  EXPECT_THAT(plan.fires, ElementsAre(At("2026-01-01T05:00:00Z")));
  EXPECT_THAT(plan.skips,
              ElementsAre(SkippedRange{At("2026-01-01T01:00:00Z"), At("2026-01-01T04:00:00Z"), 4,
                                       SkipReason::kMissedPolicy}));
}

TEST(PlanTest, OneMissedInstantFiresUnlessThePolicyIsSkip) {
  EXPECT_EQ(Harness("0 0 2 1 *").Plan(At("2026-01-02T03:00:00Z")).fires.size(), 1U);
  EXPECT_EQ(Harness("0 0 2 1 *", MissedPolicy::kAll).Plan(At("2026-01-02T03:00:00Z")).fires.size(),
            1U);
  const FirePlan plan = Harness("0 0 2 1 *", MissedPolicy::kSkip).Plan(At("2026-01-02T03:00:00Z"));
  EXPECT_THAT(plan.fires, IsEmpty());
  ASSERT_EQ(plan.skips.size(), 1U);
  EXPECT_EQ(plan.skips[0].reason, SkipReason::kMissedPolicy);
}

TEST(PlanTest, AMissedInstantOutsideTheWindowDoesNotFire) {
  Harness harness("0 0 2 1 *");
  const FirePlan plan = harness.Plan(At("2026-01-03T03:00:00Z"));
  EXPECT_THAT(plan.fires, IsEmpty());
  ASSERT_EQ(plan.skips.size(), 1U);
  EXPECT_EQ(plan.skips[0].reason, SkipReason::kMissedWindow);
}

TEST(PlanTest, AllFiresTheNewestHundred) {
  Harness harness("*/10 * * * *", MissedPolicy::kAll);
  const FirePlan plan = harness.Plan(At("2026-01-11T00:05:00Z"));
  ASSERT_EQ(plan.fires.size(), 100U);
  EXPECT_EQ(plan.fires.back(), At("2026-01-11T00:00:00Z"));
  ASSERT_EQ(plan.skips.size(), 2U);
  EXPECT_EQ(plan.skips[0].reason, SkipReason::kMissedWindow);
  EXPECT_EQ(plan.skips[1].reason, SkipReason::kMissedMax);
  EXPECT_EQ(plan.fires.size() + harness.skipped, 10U * 144);
}

TEST(PlanTest, AMillionMissedInstantsCostAsLittleAsAHundred) {
  // F47: by counting, not walking. Walking ten years of seconds would take minutes.
  Harness harness("* * * * * *", MissedPolicy::kAll);
  const FirePlan plan = harness.Plan(At("2036-01-01T00:00:30Z"));
  EXPECT_EQ(plan.fires.size(), 101U);  // the newest is on time
  EXPECT_EQ(plan.fires.size() + harness.skipped, 3652U * 86400 + 30);
}

TEST(PlanTest, WhatExceedsATurnComesInTheNextOnes) {
  Harness harness("* * * * *", MissedPolicy::kAll);
  const WallTime now = At("2026-01-01T05:00:30Z");
  int turns = 0;
  for (FirePlan plan = harness.Plan(now, false, 16); !plan.fires.empty(); ++turns) {
    plan = harness.Plan(now, false, 16);
  }
  EXPECT_EQ(turns, 7);
  EXPECT_EQ(harness.fired.size(), 100U);
  EXPECT_EQ(harness.skipped, 200U);
}

TEST(PlanTest, ARunLongerThanItsPeriodSkipsInstantsAndRecordsThem) {
  Harness harness("* * * * *");
  EXPECT_EQ(harness.Plan(At("2026-01-01T00:01:00Z")).fires.size(), 1U);
  const FirePlan plan = harness.Plan(At("2026-01-01T00:02:00Z"), true);
  EXPECT_THAT(plan.fires, IsEmpty());
  EXPECT_THAT(plan.skips,
              ElementsAre(SkippedRange{At("2026-01-01T00:02:00Z"), At("2026-01-01T00:02:00Z"), 1,
                                       SkipReason::kOverlap}));
  EXPECT_EQ(harness.Plan(At("2026-01-01T00:03:00Z")).fires.size(), 1U);
}

TEST(PlanTest, CatchUpIsNotOverlap) {
  Harness harness("0 * * * *", MissedPolicy::kAll);
  EXPECT_EQ(harness.Plan(At("2026-01-01T03:30:00Z"), true).fires.size(), 3U);
}

TEST(PlanTest, WhilePausedEverythingDueIsRecorded) {
  Harness harness("0 * * * *");
  harness.spec.paused = true;
  const FirePlan plan = harness.Plan(At("2026-01-01T05:00:00Z"));
  EXPECT_THAT(plan.fires, IsEmpty());
  ASSERT_EQ(plan.skips.size(), 1U);
  EXPECT_EQ(plan.skips[0].reason, SkipReason::kPaused);
  EXPECT_EQ(plan.skips[0].count, 5U);
  harness.spec.paused = false;
  EXPECT_THAT(harness.Plan(At("2026-01-01T05:00:01Z")).fires, IsEmpty());
}

TEST(PlanTest, AClockSetBackAnHourRepeatsNothing) {
  Harness harness("* * * * *");
  for (int minute = 1; minute <= 90; ++minute) {
    harness.Plan(At("2026-01-01T00:00:00Z") + minutes(minute));
  }
  EXPECT_EQ(harness.fired.size(), 90U);
  for (int minute = 30; minute <= 90; ++minute) {
    EXPECT_THAT(harness.Plan(At("2026-01-01T00:00:00Z") + minutes(minute)).fires, IsEmpty());
  }
  EXPECT_EQ(harness.Plan(At("2026-01-01T01:31:00Z")).fires.size(), 1U);
}

TEST(PlanTest, AClockTenYearsAheadForADayNeitherStormsNorStalls) {
  Harness harness("0 * * * *", MissedPolicy::kAll);
  harness.Plan(At("2026-01-01T01:00:00Z"));
  // The one that is on time, and the 24 of the window before it.
  EXPECT_EQ(harness.Plan(At("2036-01-01T00:00:00Z")).fires.size(), 25U);
  // Back again: goes on as if nothing had been.
  EXPECT_EQ(harness.Plan(At("2026-01-01T01:30:00Z")).next, At("2026-01-01T02:00:00Z"));
  EXPECT_THAT(harness.Plan(At("2026-01-01T02:00:00Z")).fires,
              ElementsAre(At("2026-01-01T02:00:00Z")));
  // And what fired ten years too early does not fire again. Harness checks that.
  harness.Plan(At("2035-12-30T22:00:00Z"));
  for (WallTime now = At("2035-12-30T22:00:00Z"); now < At("2036-01-02T00:00:00Z");
       now += minutes(30)) {
    harness.Plan(now);
  }
  EXPECT_TRUE(harness.fired.contains(At("2036-01-01T23:00:00Z")));
}

TEST(PlanTest, AFirstStartUnderAClockThatWasAheadIsTakenBack) {
  Harness harness("0 * * * *");
  harness.state = StartSchedule(At("2036-01-01T00:00:00Z"));
  harness.Plan(At("2036-01-01T00:00:01Z"));
  harness.Plan(At("2026-01-01T00:30:00Z"));
  EXPECT_THAT(harness.Plan(At("2026-01-01T01:00:00Z")).fires,
              ElementsAre(At("2026-01-01T01:00:00Z")));
}

TEST(PlanTest, RandomClocksNeverFireAnInstantTwice) {
  const char* given = std::getenv("TOCSIN_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 0) : SystemSeed();
  std::cout << "seed " << seed << "\n";
  SeededRandom random(seed);
  for (int round = 0; round < 30; ++round) {
    const MissedPolicy policies[] = {MissedPolicy::kLast, MissedPolicy::kAll, MissedPolicy::kSkip};
    Harness harness(round % 2 == 0 ? "*/7 * * * *" : "@every 11m", policies[round % 3]);
    harness.spec.missed_max = 5;
    WallTime now = At("2026-01-01T00:00:00Z");
    for (int step = 0; step < 300; ++step) {
      const std::uint64_t kind = random.Below(20);
      const auto amount = static_cast<std::int64_t>(random.Below(5000));
      if (kind == 0) now += hours(amount);
      if (kind == 1) now -= hours(amount % 100);
      if (kind >= 2) now += seconds(amount % 400);
      const FirePlan plan = harness.Plan(now, random.Below(4) == 0, 1 + random.Below(3));
      for (const WallTime fire : plan.fires) EXPECT_LE(fire, now);
    }
  }
}

TEST(PlanTest, DamagedStatesAreRefused) {
  const std::string bytes = EncodeScheduleState(StartSchedule(WallTime()));
  EXPECT_FALSE(DecodeScheduleState("").ok());
  EXPECT_FALSE(DecodeScheduleState(bytes + "x").ok());
  EXPECT_FALSE(DecodeScheduleState(bytes.substr(1)).ok());
}

}  // namespace
}  // namespace tocsin
