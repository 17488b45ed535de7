#include "local/run_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tocsin {
namespace {

using std::chrono::seconds;
using testing::ElementsAre;
using testing::IsEmpty;

struct Rig {
  explicit Rig(const RunPoolOptions& options) : pool(options) {}

  // Does what the pool decides; the ids that were stopped.
  std::vector<RunPool::Id> Step(Duration by = Duration::zero()) {
    now += by;
    const RunPool::Decision decision = pool.Decide(now);
    for (std::uint32_t i = 0; i < decision.start; ++i) pool.Started(next_id++, now);
    next = decision.next;
    return decision.stop;
  }

  RunPool pool;
  Instant now{seconds(1000)};
  RunPool::Id next_id = 1;
  std::optional<Instant> next;
};

RunPoolOptions Options(std::uint32_t min, std::uint32_t max) {
  RunPoolOptions options;
  options.min = min;
  options.max = max;
  options.idle = seconds(10);
  return options;
}

TEST(RunPoolTest, TheFirstWaitingEventStartsOneAndABurstAllAndIdlenessEndsThem) {
  Rig rig(Options(0, 4));
  rig.Step();
  EXPECT_EQ(rig.pool.running(), 0u);
  rig.pool.SetLoad(1, 0);
  rig.Step();
  EXPECT_EQ(rig.pool.running(), 1u);
  rig.pool.SetLoad(1000, 1);
  rig.Step();
  EXPECT_EQ(rig.pool.running(), 4u) << "no more than max";
  rig.pool.SetLoad(0, 0);
  EXPECT_THAT(rig.Step(), IsEmpty());
  EXPECT_EQ(rig.next, rig.now + seconds(10));
  EXPECT_THAT(rig.Step(seconds(9)), IsEmpty());
  // A little work in between, and the time begins anew for those it leaves without any.
  rig.pool.SetLoad(3, 1);
  EXPECT_THAT(rig.Step(), IsEmpty());
  rig.pool.SetLoad(0, 0);
  rig.Step();
  EXPECT_THAT(rig.Step(seconds(9)), IsEmpty());
  EXPECT_EQ(rig.Step(seconds(1)).size(), 4u);
  EXPECT_EQ(rig.pool.running(), 0u);
  EXPECT_EQ(rig.pool.stopping(), 4u);
  for (const RunPool::Id id : rig.pool.All()) EXPECT_FALSE(rig.pool.Ended(id, rig.now));
  EXPECT_THAT(rig.pool.All(), IsEmpty());
}

TEST(RunPoolTest, AsManyAsAreBusyStay) {
  Rig rig(Options(0, 4));
  rig.pool.SetLoad(4, 0);
  rig.Step();
  rig.pool.SetLoad(0, 3);
  rig.Step();
  EXPECT_EQ(rig.Step(seconds(60)).size(), 1u);
  EXPECT_EQ(rig.pool.running(), 3u);
  EXPECT_THAT(rig.Step(seconds(600)), IsEmpty());
}

TEST(RunPoolTest, MinAlwaysRunsAndWarmOnesStandByWhileItIsInUse) {
  RunPoolOptions options = Options(1, 5);
  options.warm = 2;
  Rig rig(options);
  rig.Step();
  EXPECT_EQ(rig.pool.running(), 1u);
  rig.pool.SetLoad(0, 1);
  rig.Step();
  EXPECT_EQ(rig.pool.running(), 3u);
  rig.pool.SetLoad(0, 4);
  rig.Step();
  EXPECT_EQ(rig.pool.running(), 5u);
  rig.pool.SetLoad(0, 0);
  rig.Step();
  rig.Step(seconds(10));
  EXPECT_EQ(rig.pool.running(), 1u);
}

TEST(RunPoolTest, WorkDuringAStopStartsAnother) {
  Rig rig(Options(0, 1));
  rig.pool.SetLoad(1, 0);
  rig.Step();
  rig.pool.SetLoad(0, 0);
  rig.Step();
  EXPECT_THAT(rig.Step(seconds(10)), ElementsAre(1));
  rig.pool.SetLoad(1, 0);
  rig.Step();
  EXPECT_EQ(rig.pool.running(), 1u) << "the old one takes nothing any more";
}

TEST(RunPoolTest, CrashesAreWaitedOutOneAtATimeAndALoopIsToldOnce) {
  Rig rig(Options(0, 4));
  rig.pool.SetLoad(100, 0);
  rig.Step();
  EXPECT_EQ(rig.pool.running(), 4u);
  int told = 0;
  for (RunPool::Id id = 1; id <= 4; ++id) told += rig.pool.Ended(id, rig.now) ? 1 : 0;
  EXPECT_EQ(told, 1);
  Duration waited{};
  for (int crash = 0; crash < 10; ++crash) {
    rig.Step();
    EXPECT_EQ(rig.pool.running(), 0u);
    ASSERT_TRUE(rig.next.has_value());
    waited = *rig.next - rig.now;
    rig.now = *rig.next;
    rig.Step();
    EXPECT_EQ(rig.pool.running(), 1u) << "one, to see";
    told += rig.pool.Ended(rig.next_id - 1, rig.now) ? 1 : 0;
  }
  EXPECT_EQ(told, 1);
  EXPECT_EQ(waited, std::chrono::minutes(1));
  rig.Step(std::chrono::minutes(2));
  EXPECT_EQ(rig.pool.running(), 1u);
  // One that lived for long ends the row.
  EXPECT_FALSE(rig.pool.Ended(rig.next_id - 1, rig.now + seconds(31)));
  rig.now += seconds(31);
  rig.Step();
  EXPECT_EQ(rig.pool.running(), 4u);
}

TEST(RunPoolTest, WhatCannotBeStartedIsTriedAgainLater) {
  Rig rig(Options(2, 2));
  EXPECT_EQ(rig.pool.Decide(rig.now).start, 2u);
  rig.pool.StartFailed(rig.now);
  const RunPool::Decision later = rig.pool.Decide(rig.now);
  EXPECT_EQ(later.start, 0u);
  EXPECT_EQ(later.next, rig.now + seconds(1));
  EXPECT_EQ(rig.pool.Decide(rig.now + seconds(1)).start, 1u);
}

}  // namespace
}  // namespace tocsin
