// Very many schedules at one instant.

#include <gtest/gtest.h>

#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

constexpr std::uint64_t kSchedules = 100'000;

// FAULTS F49. The danger: some fire late or twice, or a publisher waits until all have fired.
TEST(PartitionStormTest, F49AHundredThousandSchedulesAtOneInstantFireOnceAndAPublisherGetsBetween) {
  PartitionRig rig;
  rig.journal_options.segment_bytes = std::uint64_t{64} << 20;
  rig.journal_options.batch_bytes_max = std::size_t{1} << 20;
  rig.partition_options.checkpoint_every = std::chrono::hours(1);
  ScheduleSpec spec;
  spec.cron = "@midnight";
  const std::shared_ptr<const Schedule> midnight = *Schedule::Parse(spec);
  for (std::uint64_t i = 0; i < kSchedules; ++i) {
    ScheduleBinding binding;
    binding.name = fmt::format("s{}", i);
    binding.schedule = midnight;
    binding.make_event = [name = binding.name](WallTime, WallTime) {
      return PartitionRig::MakeEvent(name, "", 1);
    };
    rig.schedules.push_back(std::move(binding));
  }
  ASSERT_TRUE(rig.Start().ok());
  const WallTime first = *midnight->NextAfter(rig.clock.Wall(), rig.clock.Wall());
  rig.clock.Advance(first - rig.clock.Wall());

  const auto fired = [&rig] {
    std::uint64_t sum = 0;
    rig.shards->Post(PartitionId(0), [&sum](Partition& partition) {
      for (const ScheduleStatus& one : partition.Snapshot().schedules) sum += one.fired;
    });
    rig.owner.RunUntilIdle(1);
    return sum;
  };
  std::optional<PublishOutcome> answer;
  for (int i = 0; i < 3; ++i) rig.owner.RunUntilIdle(1);
  const std::uint64_t before = fired();
  EXPECT_LT(before, kSchedules / 10);
  rig.Send("between", answer);
  while (!answer.has_value()) {
    ASSERT_GT(
        rig.owner.RunUntilIdle(1) + rig.engine.RunUntilIdle(1) + rig.committer.RunUntilIdle(1), 0u);
  }
  EXPECT_TRUE(answer->status.ok());
  EXPECT_LT(fired() - before, kSchedules / 10) << "it waited for the storm";

  rig.Run();  // the clock stands: all of it is within the same moment
  const PartitionSnapshot snapshot = rig.Snapshot();
  EXPECT_EQ(snapshot.durable_end.value(), kSchedules + 1);
  for (const ScheduleStatus& one : snapshot.schedules) ASSERT_EQ(one.fired, 1u) << one.name;
}

}  // namespace
}  // namespace tocsin
