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

TEST(PlanTest, AllowFiresThoughARunIsUnderWay) {
  Harness harness("* * * * *");
  harness.spec.overlap = OverlapPolicy::kAllow;
  EXPECT_EQ(harness.Plan(At("2026-01-01T00:01:00Z"), true).fires.size(), 1U);
  harness.spec.overlap = OverlapPolicy::kCancelPrevious;
  EXPECT_EQ(harness.Plan(At("2026-01-01T00:02:00Z"), true).fires.size(), 1U);
  EXPECT_EQ(harness.skipped, 0U);
}

TEST(PlanTest, QueueAllKeepsAMillionInstantsAsOneRangeAndFiresThemOneByOne) {
  Harness harness("* * * * * *", MissedPolicy::kAll);
  harness.spec.overlap = OverlapPolicy::kQueueAll;
  harness.Plan(At("2026-01-01T00:00:01Z"));
  for (int second = 2; second <= 100'000; ++second) {
    const FirePlan plan = harness.Plan(At("2026-01-01T00:00:00Z") + seconds(second), true);
    ASSERT_THAT(plan.fires, IsEmpty());
    ASSERT_EQ(plan.state.waiting.size(), 1U);
  }
  EXPECT_LE(EncodeScheduleState(harness.state).size(), 192U);
  const WallTime now = At("2026-01-01T00:00:00Z") + seconds(100'000);
  for (int second = 2; second < 50; ++second) {
    const FirePlan plan = harness.Plan(now, false);
    ASSERT_THAT(plan.fires, ElementsAre(At("2026-01-01T00:00:00Z") + seconds(second)));
    EXPECT_EQ(plan.next, now) << "the next may fire at once if this one matches nothing";
  }
  EXPECT_EQ(harness.skipped, 0U);
}

TEST(PlanTest, CatchUpUnderQueueAllComesOneByOneBehindWhatWaits) {
  Harness harness("0 * * * *", MissedPolicy::kAll);
  harness.spec.overlap = OverlapPolicy::kQueueAll;
  harness.spec.missed_max = 2;
  harness.Plan(At("2026-01-01T01:00:00Z"), true);
  // Down until 06:30: of five missed ones the newest two fire.
  FirePlan plan = harness.Plan(At("2026-01-01T06:30:00Z"), true);
  EXPECT_EQ(plan.state.waiting.size(), 2U);
  EXPECT_EQ(harness.skipped, 3U);
  std::vector<std::string> order;
  for (int i = 0; i < 4; ++i) {
    plan = harness.Plan(At("2026-01-01T06:30:00Z"));
    for (const WallTime fire : plan.fires) order.push_back(FormatRfc3339(fire).substr(11, 2));
  }
  EXPECT_THAT(order, ElementsAre("01", "05", "06"));
}

TEST(PlanTest, WhatNoRangeHasRoomForIsRecordedAsOverlap) {
  Harness harness("0 * * * *");
  harness.spec.overlap = OverlapPolicy::kQueueAll;
  WallTime now = At("2026-01-01T01:00:00Z");
  for (std::size_t i = 0; i < kWaitingRangesMax + 2; ++i) {
    harness.Plan(now, true);
    now += hours(3);  // two are missed, of which the newest fires, then one is on time
  }
  EXPECT_EQ(harness.state.waiting.size(), kWaitingRangesMax);
  std::uint64_t waits = 0;
  for (const InstantRange& range : harness.state.waiting) {
    waits += 1 + static_cast<std::uint64_t>((range.last - range.first) / hours(1));
  }
  EXPECT_EQ(waits + harness.skipped, 1 + 3 * (kWaitingRangesMax + 1));
}

TEST(PlanTest, QueueOneKeepsTheFirstAndRecordsTheOthers) {
  Harness harness("* * * * *");
  harness.spec.overlap = OverlapPolicy::kQueueOne;
  harness.Plan(At("2026-01-01T00:01:00Z"), true);
  EXPECT_THAT(harness.Plan(At("2026-01-01T00:02:00Z"), true).skips,
              ElementsAre(SkippedRange{At("2026-01-01T00:02:00Z"), At("2026-01-01T00:02:00Z"), 1,
                                       SkipReason::kOverlap}));
  EXPECT_THAT(harness.Plan(At("2026-01-01T00:02:30Z")).fires,
              ElementsAre(At("2026-01-01T00:01:00Z")));
  EXPECT_THAT(harness.state.waiting, IsEmpty());
}

TEST(PlanTest, WhatWaitsIsRecordedWhenThePolicyOrAPauseEndsIt) {
  for (const bool pause : {true, false}) {
    Harness harness("* * * * *");
    harness.spec.overlap = OverlapPolicy::kQueueAll;
    harness.Plan(At("2026-01-01T00:01:00Z"), true);
    harness.Plan(At("2026-01-01T00:02:00Z"), true);
    harness.spec.paused = pause;
    if (!pause) harness.spec.overlap = OverlapPolicy::kSkip;
    const FirePlan plan = harness.Plan(At("2026-01-01T00:02:30Z"));
    EXPECT_THAT(plan.fires, IsEmpty());
    ASSERT_EQ(plan.skips.size(), 1U);
    EXPECT_EQ(plan.skips[0].count, 2U);
    EXPECT_EQ(plan.skips[0].reason, pause ? SkipReason::kPaused : SkipReason::kOverlap);
  }
}

TEST(PlanTest, InstantsThatWaitUnderAChangedScheduleFireOnlyIfTheyStillAreInstants) {
  Harness harness("* * * * *");
  harness.spec.overlap = OverlapPolicy::kQueueAll;
  for (int minute = 1; minute <= 10; ++minute) {
    harness.Plan(At("2026-01-01T00:00:00Z") + minutes(minute), true);
  }
  harness.spec.cron = "*/5 * * * *";
  std::vector<WallTime> fires;
  for (int i = 0; i < 5; ++i) {
    for (const WallTime fire : harness.Plan(At("2026-01-01T00:10:30Z")).fires) {
      fires.push_back(fire);
    }
  }
  EXPECT_THAT(fires, ElementsAre(At("2026-01-01T00:05:00Z"), At("2026-01-01T00:10:00Z")));
}

TEST(PlanTest, SpreadDelaysEveryInstantByTheSamePart) {
  Harness harness("0 * * * *", MissedPolicy::kSkip);
  harness.spec.spread = minutes(30);
  const auto schedule = *Schedule::Parse(harness.spec);
  harness.state = StartSchedule(At("2026-01-01T00:00:00Z"), schedule->spread());
  const auto delay = schedule->spread();
  ASSERT_GT(delay, minutes(0));
  ASSERT_LT(delay, minutes(30));
  EXPECT_EQ(harness.Plan(At("2026-01-01T00:00:01Z")).next, At("2026-01-01T01:00:00Z") + delay);
  EXPECT_THAT(harness.Plan(At("2026-01-01T01:00:00Z") + delay - seconds(1)).fires, IsEmpty());
  EXPECT_THAT(harness.Plan(At("2026-01-01T01:00:00Z") + delay + seconds(1)).fires,
              ElementsAre(At("2026-01-01T01:00:00Z")));
  EXPECT_EQ(harness.skipped, 0U);
  std::set<WallTime> delays;
  for (int i = 0; i < 50; ++i) {
    harness.spec.name = "s" + std::to_string(i);
    delays.insert(WallTime() + (*Schedule::Parse(harness.spec))->spread());
  }
  EXPECT_GT(delays.size(), 45U) << "names spread";
}

TEST(PlanTest, JitterDelaysEachInstantByItsOwnPartAndLosesNone) {
  Harness harness("* * * * *", MissedPolicy::kSkip);
  harness.spec.jitter = hours(1);  // cut to the period
  std::set<WallTime> delays;
  std::size_t fires = 0;
  FirePlan plan = harness.Plan(At("2026-01-01T00:00:00Z"));
  for (int step = 0; step < 200; ++step) {
    ASSERT_TRUE(plan.next.has_value());
    const WallTime due = *plan.next;
    EXPECT_THAT(harness.Plan(due - std::chrono::milliseconds(1)).fires, IsEmpty());
    plan = harness.Plan(due);
    ASSERT_EQ(plan.fires.size(), 1U);
    EXPECT_LT(due - plan.fires[0], minutes(1));
    EXPECT_GE(due, plan.fires[0]);
    delays.insert(WallTime() + (due - plan.fires[0]));
    ++fires;
  }
  EXPECT_EQ(fires, 200U);
  EXPECT_EQ(harness.skipped, 0U);
  EXPECT_GT(delays.size(), 150U);
}

TEST(PlanTest, RebootIsOneInstantAfterItsAnchor) {
  Harness harness("@reboot", MissedPolicy::kSkip);
  harness.state = StartForBoot(At("2026-01-01T00:00:00Z"), 7, true);
  EXPECT_EQ(harness.Plan(At("2026-01-01T00:00:01Z")).fires.size(), 1U);
  EXPECT_FALSE(harness.Plan(At("2027-01-01T00:00:00Z")).next.has_value());
  harness.state = StartForBoot(At("2026-01-01T00:00:00Z"), 7, false);
  EXPECT_THAT(harness.Plan(At("2026-01-01T00:00:01Z")).fires, IsEmpty());
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
    harness.spec.overlap = static_cast<OverlapPolicy>(round % 5);
    harness.spec.jitter = round % 4 == 0 ? minutes(3) : minutes(0);
    harness.spec.spread = round % 7 == 0 ? minutes(5) : minutes(0);
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
  ScheduleState waits = StartSchedule(WallTime());
  waits.waiting = {{WallTime(seconds(2)), WallTime(seconds(3))}};
  const std::string longer = EncodeScheduleState(waits);
  EXPECT_EQ(*DecodeScheduleState(longer), waits);
  EXPECT_FALSE(DecodeScheduleState(longer.substr(0, longer.size() - 1)).ok());
  waits.waiting = {{WallTime(seconds(3)), WallTime(seconds(2))}};
  EXPECT_FALSE(DecodeScheduleState(EncodeScheduleState(waits)).ok());
  const std::string bytes = EncodeScheduleState(StartSchedule(WallTime()));
  EXPECT_FALSE(DecodeScheduleState("").ok());
  EXPECT_FALSE(DecodeScheduleState(bytes + "x").ok());
  EXPECT_FALSE(DecodeScheduleState(bytes.substr(1)).ok());
}

}  // namespace
}  // namespace tocsin
