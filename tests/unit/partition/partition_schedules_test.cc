// What a partition makes of schedules: overlap, boots, and what survives a crash of it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr Duration kASecond = std::chrono::seconds(1);

// The events of one schedule are t10, t20, ... by the seconds since its first start.
class ScheduleRig : public PartitionRig {
 public:
  explicit ScheduleRig(OverlapPolicy overlap, const std::string& cron = "@every 10s") {
    spec.name = "tick";
    spec.cron = cron;
    spec.overlap = overlap;
    Use(spec);
    partition_options.boot_id = 1;
    triggers[0].policy.timeout = triggers[0].policy.timeout_max = std::chrono::hours(24);
    EXPECT_TRUE(Start().ok());
    Attach();
  }

  void Use(const ScheduleSpec& given) {
    spec = given;
    ScheduleBinding binding;
    binding.name = spec.name;
    binding.schedule = *Schedule::Parse(spec);
    binding.make_event = [start = start](WallTime nominal, WallTime) {
      const auto since = std::chrono::floor<std::chrono::seconds>(nominal - start);
      return MakeEvent(fmt::format("t{}", since.count()), "", 10);
    };
    schedules = {binding};
  }

  // @reboot is due right after the start, not at it.
  std::vector<std::string> DrainLater() {
    Advance(std::chrono::milliseconds(1));
    return DrainAll();
  }
  std::vector<std::string> Held() {
    std::vector<std::string> ids;
    for (const RigWorker::Held& one : worker->held) ids.push_back(one.event);
    return ids;
  }
  ScheduleStatus Status() { return Snapshot().schedules.at(0); }

  const WallTime start = clock.Wall();
  ScheduleSpec spec;
};

// FAULTS F48: a run that is longer than its period.
TEST(PartitionSchedulesTest, F48WithSkipInstantsDuringARunAreRecordedAndDoNotFire) {
  ScheduleRig rig(OverlapPolicy::kSkip);
  rig.Advance(10 * kASecond);
  rig.Advance(10 * kASecond);
  rig.Advance(10 * kASecond);
  EXPECT_THAT(rig.Held(), ElementsAre("t10"));
  EXPECT_EQ(rig.Status().skipped, 2u);
  EXPECT_TRUE(rig.Status().busy);
  EXPECT_THAT(rig.DrainAll(), ElementsAre("t10"));
  rig.Advance(10 * kASecond);
  EXPECT_THAT(rig.DrainAll(), ElementsAre("t40"));
}

TEST(PartitionSchedulesTest, F48WithQueueAllEachFiresWhenTheOneBeforeIsSettledAlsoAfterACrash) {
  ScheduleRig rig(OverlapPolicy::kQueueAll);
  for (int i = 0; i < 4; ++i) rig.Advance(10 * kASecond);
  EXPECT_THAT(rig.Held(), ElementsAre("t10"));
  EXPECT_EQ(rig.Status().fired, 1u);
  rig.Answer(Ack{});
  rig.Run();
  EXPECT_THAT(rig.Held(), ElementsAre("t20")) << "at once, not at the next instant";
  ASSERT_TRUE(rig.Restart(SimFileSystem::Coins::kNone).ok());
  rig.Attach();
  EXPECT_THAT(rig.Held(), ElementsAre("t20"));
  EXPECT_THAT(rig.DrainAll(), ElementsAre("t20", "t30", "t40")) << "what waited is not lost";
  EXPECT_EQ(rig.Status().skipped, 0u);
  rig.Advance(10 * kASecond);
  EXPECT_THAT(rig.DrainAll(), ElementsAre("t50"));
}

TEST(PartitionSchedulesTest, F48WithQueueOneTheFirstWaitsAndTheOthersAreRecorded) {
  ScheduleRig rig(OverlapPolicy::kQueueOne);
  for (int i = 0; i < 4; ++i) rig.Advance(10 * kASecond);
  EXPECT_THAT(rig.DrainAll(), ElementsAre("t10", "t20"));
  EXPECT_EQ(rig.Status().skipped, 2u);
}

TEST(PartitionSchedulesTest, F48WithAllowTheyRunBesideEachOther) {
  ScheduleRig rig(OverlapPolicy::kAllow);
  for (int i = 0; i < 3; ++i) rig.Advance(10 * kASecond);
  EXPECT_THAT(rig.Held(), ElementsAre("t10", "t20", "t30"));
  EXPECT_EQ(rig.Status().skipped, 0u);
}

TEST(PartitionSchedulesTest, F48WithCancelPreviousTheWorkerIsToldAndTheRunIsDropped) {
  ScheduleRig rig(OverlapPolicy::kCancelPrevious);
  rig.Advance(10 * kASecond);
  ASSERT_THAT(rig.Held(), ElementsAre("t10"));
  const std::uint64_t handle = rig.worker->held.front().handle;
  rig.Advance(10 * kASecond);
  EXPECT_THAT(rig.worker->cancelled, ElementsAre(handle));
  EXPECT_THAT(rig.Held(), ElementsAre("t10", "t20"));
  const TriggerBooks books = rig.Books();
  EXPECT_EQ(books.dropped, 1u);
  EXPECT_EQ(books.pending, 1u);
  // Its late answer changes nothing.
  rig.worker->held.pop_front();
  EXPECT_THAT(rig.DrainAll(), ElementsAre("t20"));
  EXPECT_EQ(rig.Books().acked, 1u);
}

// The danger: a delayed retry, or one that no queue held when the next instant came, runs later.
TEST(PartitionSchedulesTest, CancelPreviousDropsWhatIsDelayedAndWhatARestartBringsBack) {
  ScheduleRig rig(OverlapPolicy::kCancelPrevious);
  rig.Advance(10 * kASecond);
  rig.Answer(Retry{"later", "", std::chrono::hours(1)});
  rig.Run();
  rig.Advance(10 * kASecond);
  EXPECT_EQ(rig.Books().dropped, 1u);
  EXPECT_THAT(rig.DrainAll(), ElementsAre("t20"));
  // Nobody is attached, the broker dies between two instants.
  rig.Advance(10 * kASecond);
  ASSERT_THAT(rig.Held(), ElementsAre("t30"));
  ASSERT_TRUE(rig.Restart(SimFileSystem::Coins::kNone).ok());
  rig.Advance(10 * kASecond);
  rig.Attach();
  EXPECT_THAT(rig.DrainAll(), ElementsAre("t40"));
  EXPECT_EQ(rig.Books().dropped, 2u);
  EXPECT_EQ(rig.Books().pending, 0u);
}

TEST(PartitionSchedulesTest, AFireThatNothingMatchedLetsWhatWaitsGoOn) {
  ScheduleRig rig(OverlapPolicy::kQueueAll);
  rig.Advance(10 * kASecond);
  rig.Advance(10 * kASecond);
  rig.Advance(10 * kASecond);
  rig.triggers[0].name = "other";
  rig.filters[0] = *MakeConditions(Filter::Kind::kExact, {{"subject", "never"}});
  rig.Reload();
  rig.shards->Post(PartitionId(0),
                   [](Partition& partition) { ASSERT_TRUE(partition.Forget("all", false).ok()); });
  rig.Run();
  EXPECT_EQ(rig.Status().fired, 3u);
}

TEST(PartitionSchedulesTest, RebootFiresAtTheFirstStartUnderABootAndNeverElse) {
  ScheduleRig rig(OverlapPolicy::kAllow, "@reboot");
  EXPECT_EQ(rig.DrainLater().size(), 1u);
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  rig.Advance(10 * kASecond);
  EXPECT_THAT(rig.DrainAll(), IsEmpty()) << "the same boot";
  rig.partition_options.boot_id = 2;
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  EXPECT_EQ(rig.DrainLater().size(), 1u);
  // One that a reload brings waits for the next boot.
  ScheduleSpec later = rig.spec;
  later.name = "later";
  rig.Use(later);
  rig.Reload();
  EXPECT_THAT(rig.DrainLater(), IsEmpty());
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  EXPECT_THAT(rig.DrainLater(), IsEmpty());
  rig.partition_options.boot_id = 3;
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  EXPECT_EQ(rig.DrainLater().size(), 1u);
}

TEST(PartitionSchedulesTest, SpreadMovesTheFireAndNotItsName) {
  ScheduleRig rig(OverlapPolicy::kAllow);
  ScheduleSpec spread = rig.spec;
  spread.name = "spread";
  spread.spread = 8 * kASecond;
  rig.Use(spread);
  rig.Reload();
  const auto delay = rig.schedules[0].schedule->spread();
  ASSERT_GT(delay.count(), 0);
  rig.Advance(10 * kASecond + delay - std::chrono::milliseconds(1));
  EXPECT_THAT(rig.DrainAll(), IsEmpty());
  rig.Advance(std::chrono::milliseconds(2));
  EXPECT_THAT(rig.DrainAll(), ElementsAre("t10"));
}

// FAULTS F46: the clock is set. The danger: a storm of fires, or none for the rest of the day.
TEST(PartitionSchedulesTest, F46SteppedClocksNeitherStormNorStall) {
  ScheduleRig rig(OverlapPolicy::kAllow, "0 * * * * *");
  std::set<std::string> seen;
  const auto fired = [&] {
    std::size_t count = 0;
    for (const std::string& id : rig.DrainAll()) {
      EXPECT_TRUE(seen.insert(id).second) << id << " fired twice";
      ++count;
    }
    return count;
  };
  const auto minutes = [&](int n) {
    std::size_t count = 0;
    for (int i = 0; i < 2 * n; ++i) {
      rig.Advance(30 * kASecond);
      count += fired();
    }
    return count;
  };
  EXPECT_EQ(minutes(5), 5u);
  rig.clock.StepWall(std::chrono::hours(1));
  rig.Advance(kASecond);
  EXPECT_LE(fired(), 2u) << "one for the hour that was missed";
  EXPECT_GE(minutes(5), 4u);
  rig.clock.StepWall(-std::chrono::hours(1));
  minutes(70);
  EXPECT_EQ(minutes(5), 5u) << "it goes on";
  rig.clock.StepWall(std::chrono::hours(24 * 3652));
  rig.Advance(kASecond);
  EXPECT_LE(fired(), 2u);
  EXPECT_GE(minutes(5), 4u);
  rig.clock.StepWall(-std::chrono::hours(24 * 3652));
  EXPECT_GE(minutes(5), 4u) << "it does not wait ten years";
}

// FAULTS F47: down over k instants. Each that does not fire is counted in one record with a reason.
TEST(PartitionSchedulesTest, F47DownOverInstantsFiresByThePolicyAndRecordsTheRest) {
  struct Case {
    MissedPolicy policy;
    int instants;
    std::uint64_t fired;
  };
  for (const Case& one :
       {Case{MissedPolicy::kLast, 1, 1}, Case{MissedPolicy::kLast, 100, 1},
        Case{MissedPolicy::kLast, 1'000'000, 1}, Case{MissedPolicy::kAll, 100, 20},
        Case{MissedPolicy::kAll, 1'000'000, 20}, Case{MissedPolicy::kSkip, 100, 0},
        Case{MissedPolicy::kSkip, 1'000'000, 0}}) {
    ScheduleRig rig(OverlapPolicy::kAllow);
    ScheduleSpec spec = rig.spec;
    spec.name = "missed";
    spec.cron = "@every 1m";
    spec.missed = one.policy;
    spec.missed_max = 20;
    spec.missed_window = std::chrono::hours(24 * 3650);
    rig.Use(spec);
    rig.Reload();
    rig.Kill();
    rig.clock.Advance(std::chrono::minutes(one.instants) + 30 * kASecond);
    ASSERT_TRUE(rig.Start().ok());
    const ScheduleStatus status = rig.Status();
    EXPECT_EQ(status.fired, one.fired) << one.instants;
    EXPECT_EQ(status.fired + status.skipped, static_cast<std::uint64_t>(one.instants));
    EXPECT_LE(rig.warnings.size(), 2u) << "a record for all, not one for each";
  }
}

}  // namespace
}  // namespace tocsin
