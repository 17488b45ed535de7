// Settlements wait for a batch that somebody waits for, and not for long (docs/adr/0017).

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Coins = SimFileSystem::Coins;

constexpr Duration kWait = std::chrono::milliseconds(5);

// With one event, which a worker holds.
class SettleTest : public ::testing::Test {
 protected:
  void SetUp() override {
    rig.partition_options.settlements_wait = kWait;
    ASSERT_TRUE(rig.Start().ok());
    ASSERT_TRUE(rig.Publish("a", "k").ok());
    rig.Attach();
    ASSERT_THAT(rig.worker->held, SizeIs(1));
    groups = rig.journal->Info().groups;
  }
  std::uint64_t Groups() { return rig.journal->Info().groups - groups; }
  // What a worker gets after the power was cut.
  std::vector<std::string> AfterACut() {
    EXPECT_TRUE(rig.Restart(Coins::kNone).ok());
    rig.Attach();
    return rig.DrainAll();
  }

  PartitionRig rig;
  std::uint64_t groups = 0;
};

TEST_F(SettleTest, AloneTheyAreAppliedAtOnceAndWrittenAfterAWhile) {
  rig.Answer(Ack{});
  rig.Run();
  EXPECT_EQ(Groups(), 0u);
  EXPECT_EQ(rig.Books().pending, 0u);
  rig.Advance(kWait - std::chrono::microseconds(1));
  EXPECT_EQ(Groups(), 0u);
  rig.Advance(std::chrono::microseconds(1));
  EXPECT_EQ(Groups(), 1u);
  EXPECT_THAT(AfterACut(), IsEmpty());
}

TEST_F(SettleTest, TheNextEventTakesThemAlong) {
  rig.Answer(Ack{});
  rig.Run();
  rig.Advance(std::chrono::milliseconds(1));
  const WallTime now = rig.clock.Wall();
  ASSERT_TRUE(rig.Publish("b", "k").ok());
  EXPECT_EQ(Groups(), 1u);
  ASSERT_THAT(rig.worker->held, SizeIs(1));
  EXPECT_EQ(rig.worker->held.front().recorded, now) << "the event's time, not the settlement's";
  EXPECT_THAT(AfterACut(), ElementsAre("b"));
}

TEST_F(SettleTest, OneWhoseWorkerWantsToKnowGoesAtOnce) {
  bool durable = false;
  rig.Answer(Ack{}, &durable);
  rig.Run();
  EXPECT_TRUE(durable);
  EXPECT_EQ(Groups(), 1u);
}

TEST_F(SettleTest, WhoWantsToKnowLaterTakesThemAlong) {
  ASSERT_TRUE(rig.Publish("b", "k2").ok());
  groups = rig.journal->Info().groups;
  rig.Answer(Ack{});
  rig.Run();
  bool durable = false;
  rig.Answer(Ack{}, &durable);
  rig.Run();
  EXPECT_TRUE(durable);
  EXPECT_EQ(Groups(), 1u);
  EXPECT_THAT(AfterACut(), IsEmpty());
}

TEST_F(SettleTest, FailedAttemptsDoNotWait) {
  rig.Answer(Retry{"busy", "", std::chrono::seconds(1)});
  rig.Run();
  EXPECT_EQ(Groups(), 1u);
}

// The next of a key needs its settlement applied, not written.
TEST_F(SettleTest, TheNextOfTheKeyIsNotKept) {
  ASSERT_TRUE(rig.Publish("b", "k").ok());
  rig.Answer(Ack{});
  rig.Run();
  ASSERT_THAT(rig.worker->held, SizeIs(1));
  EXPECT_EQ(rig.worker->held.front().event, "b");
}

TEST_F(SettleTest, ManyDoNotWait) {
  // Of each second one, so that no two are one range.
  constexpr int kEvents = 4'000;
  for (int i = 0; i < kEvents; i += 100) {
    std::vector<std::optional<PublishOutcome>> answers(100);
    for (int j = 0; j < 100; ++j) {
      rig.Send(std::to_string(i + j), answers[static_cast<std::size_t>(j)]);
    }
    rig.Run();
  }
  RigWorker& other = rig.Attach(kEvents);
  groups = rig.journal->Info().groups;
  int acked = 0;
  for (; Groups() == 0 && other.held.size() > 1; ++acked) {
    rig.Answer(Ack{});
    other.held.push_back(other.held.front());
    other.held.pop_front();
    rig.Run();
  }
  EXPECT_EQ(Groups(), 1u);
  EXPECT_GT(acked, 100) << "not for a few";
}

TEST_F(SettleTest, AStopWritesThem) {
  rig.Answer(Ack{});
  rig.Run();
  std::optional<absl::Status> closed;
  rig.shards->Close([&](absl::Status status) { closed = std::move(status); });
  rig.Run();
  ASSERT_TRUE(closed.has_value());
  EXPECT_TRUE(closed->ok()) << *closed;
  EXPECT_THAT(AfterACut(), IsEmpty());
}

// What nobody was told of may be lost: the delivery is repeated.
TEST_F(SettleTest, ACutInBetweenRepeatsTheDelivery) {
  rig.Answer(Ack{});
  rig.Run();
  EXPECT_THAT(AfterACut(), ElementsAre("a"));
}

TEST_F(SettleTest, WhoAsksForAnEventsStoryIsToldOfThem) {
  rig.Answer(Ack{});
  rig.Run();
  absl::StatusOr<EventStory> told = absl::UnknownError("not answered");
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    partition.Explain(Offset(0),
                      [&](absl::StatusOr<EventStory> story) { told = std::move(story); });
  });
  rig.Run();
  ASSERT_TRUE(told.ok()) << told.status();
  ASSERT_THAT(told->deliveries, SizeIs(1));
  EXPECT_EQ(told->deliveries.front().fate, Fate::kAcked);
}

}  // namespace
}  // namespace tocsin
