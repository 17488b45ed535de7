// Faults of the fault table that a partition must survive: a full disk, and what `durability:
// written` may lose.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;
using Coins = SimFileSystem::Coins;
using Call = SimFileSystem::Call;

constexpr std::uint64_t kReserve = 512 * 1024;
constexpr std::uint64_t kPlenty = std::uint64_t{1} << 40;
constexpr Duration kASecond = std::chrono::seconds(1);

std::uint64_t UsedBytes(const SimFileSystem& fs) {
  std::uint64_t used = 0;
  for (const std::string& path : fs.Paths()) used += fs.Bytes(path).size();
  return used;
}

// The disk has `left` bytes from now on.
void SetLeft(PartitionRig& rig, std::uint64_t left) {
  rig.fs.SetCapacity(UsedBytes(rig.fs) + left);
}

// All instants that were missed fire.
ScheduleBinding EveryTenSeconds() {
  ScheduleSpec spec;
  spec.name = "tick";
  spec.cron = "@every 10s";
  spec.missed = MissedPolicy::kAll;
  ScheduleBinding binding;
  binding.name = spec.name;
  binding.schedule = *Schedule::Parse(spec);
  binding.make_event = [](WallTime nominal, WallTime) {
    return PartitionRig::MakeEvent(std::to_string(nominal.time_since_epoch().count()), "", 10);
  };
  return binding;
}

// The danger: answers of workers wait behind events that the disk has no room for, nothing is
// trimmed, and the broker never comes back.
TEST(PartitionFaultsTest, F5OnANearlyFullDiskEventsAreRefusedAndEverythingElseGoesOn) {
  PartitionRig rig;
  rig.journal_options.reserve_bytes = kReserve;
  rig.triggers[0].policy.retry.attempts_max = 1;
  ASSERT_TRUE(rig.Start().ok());
  for (const std::string id : {"a", "b", "c", "d"}) ASSERT_TRUE(rig.Publish(id, id).ok());
  SetLeft(rig, kReserve / 2);
  rig.Advance(2 * kASecond);  // it looks once a second
  EXPECT_EQ(rig.Publish("refused").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(rig.Warned("T0314"));

  rig.Attach();
  ASSERT_EQ(rig.worker->held.size(), 4u);
  bool acked = false, emitted = false, died = false;
  rig.Answer(Ack{}, &acked);
  rig.Answer(Ack{}, &emitted, {PartitionRig::MakeEvent("out", "o", 10)});
  rig.Answer(Reject{"no"}, &died);
  rig.Run();
  EXPECT_TRUE(acked);
  EXPECT_TRUE(emitted) << "what a function emits uses the reserve";
  EXPECT_TRUE(died) << "so do dead letters";
  EXPECT_EQ(rig.Snapshot().open_letters, 1u);
  ASSERT_EQ(rig.worker->held.size(), 2u) << "d and what was emitted";
  bool redriven = false;
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    partition.Redrive(partition.OpenLetters().at(0).id,
                      [&](const absl::Status& status) { redriven = status.ok(); });
  });
  rig.Run();
  EXPECT_TRUE(redriven);
  EXPECT_EQ(rig.Publish("refused").code(), absl::StatusCode::kResourceExhausted);

  rig.fs.SetCapacity(kPlenty);
  rig.Advance(2 * kASecond);
  EXPECT_TRUE(rig.Publish("accepted").ok());
  EXPECT_EQ(rig.DrainAll().size(), 4u) << "d, out, the redriven one, accepted";
  const TriggerBooks books = rig.Books();
  EXPECT_EQ(books.pending, 0u);
  EXPECT_EQ(books.dead, 1u);
}

// The danger: an instant that is due and cannot be written keeps a core busy until there is room.
TEST(PartitionFaultsTest, F5AScheduleWithoutRoomWaitsWithoutSpinningAndFiresLater) {
  PartitionRig rig;
  rig.journal_options.reserve_bytes = kReserve;
  rig.schedules.push_back(EveryTenSeconds());
  ASSERT_TRUE(rig.Start().ok());
  SetLeft(rig, kReserve / 2);
  rig.clock.Advance(25 * kASecond);
  std::size_t tasks = 0;
  for (int i = 0; i < 100; ++i) {
    tasks += rig.committer.RunUntilIdle(100) + rig.engine.RunUntilIdle(100) +
             rig.owner.RunUntilIdle(100);
  }
  EXPECT_LT(tasks, 100u);
  EXPECT_EQ(rig.Snapshot().end.value(), 0u) << "nothing fired";
  rig.fs.SetCapacity(kPlenty);
  rig.Advance(2 * kASecond);
  rig.Advance(2 * kASecond);
  rig.Attach();
  EXPECT_EQ(rig.DrainAll().size(), 2u) << "both instants, late";
}

// Events and answers ride one batch; the room vanished between two looks at the disk.
TEST(PartitionFaultsTest, F5AnAnswerThatRidesWithARefusedEventIsDurableOnTheFullDisk) {
  PartitionRig rig;
  rig.journal_options.reserve_bytes = kReserve;
  rig.journal_options.segment_bytes = 512 * 1024;
  rig.journal_options.batch_bytes_max = 256 * 1024;  // so that both fit in one batch
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("a", "a").ok());
  rig.Attach();
  SetLeft(rig, kReserve / 2);
  // The journal notices, the shard has not had a turn since.
  rig.clock.Advance(2 * kASecond);
  rig.engine.RunUntilIdle();
  bool acked = false;
  std::optional<PublishOutcome> refused;
  rig.Send("b", refused, "b");
  rig.Answer(Ack{}, &acked);
  rig.Run();
  ASSERT_TRUE(refused.has_value());
  EXPECT_EQ(refused->status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(acked) << "not in the batch that was refused";
  rig.Advance(kASecond);
  EXPECT_TRUE(acked) << "the answer waits behind an event that has no room";
  // What was refused may be there all the same: sent again it is a duplicate, never a second copy.
  rig.fs.SetCapacity(kPlenty);
  rig.Advance(2 * kASecond);
  EXPECT_TRUE(rig.Publish("b", "b").ok());
  EXPECT_EQ(rig.Books().matched, 2u);
}

// No segment can be made: nothing at all can be appended.
TEST(PartitionFaultsTest, F5WithoutAnyRoomNothingIsLostAndAllGoesOnByItself) {
  for (const char* error : {"ENOSPC", "EDQUOT"}) {
    PartitionRig rig;
    rig.journal_options.batch_bytes_max = 24 * 1024;
    ASSERT_TRUE(rig.Start().ok());
    ASSERT_TRUE(rig.Publish("a", "a").ok());
    rig.Attach();
    rig.fs.Fail(Call::kPreallocate, "log", absl::ResourceExhaustedError(error), 1'000'000);
    std::uint64_t accepted = 0;
    for (int i = 0; i < 100; ++i) {
      const absl::Status status = rig.Publish(fmt::format("e{}", i), "", 10'000);
      if (!status.ok()) {
        EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
        break;
      }
      ++accepted;
    }
    ASSERT_LT(accepted, 100u);
    EXPECT_TRUE(rig.Warned("T0301"));
    // Repeats are refused as well, at every moment of the broker's own trials.
    for (int i = 0; i < 20; ++i) {
      std::optional<PublishOutcome> again;
      rig.Send(fmt::format("e{}", accepted), again, "", 10'000);
      rig.Run();
      ASSERT_TRUE(again.has_value()) << "a publisher waits for the disk";
      EXPECT_EQ(again->status.code(), absl::StatusCode::kResourceExhausted);
      rig.Advance(std::chrono::milliseconds(50));
    }
    bool acked = false;
    rig.Answer(Ack{}, &acked);
    rig.Advance(kASecond);
    EXPECT_FALSE(acked) << "told durable without room";
    // Reading and delivering go on meanwhile.
    std::size_t events = 0;
    rig.shards->Post(PartitionId(0), [&](Partition& partition) {
      partition.ReadEvents(Offset(0), 1000, 1 << 20,
                           [&](absl::StatusOr<EventPage> page) { events = page->events.size(); });
    });
    rig.Run();
    EXPECT_GT(events, accepted / 2);
    rig.fs.ClearFaults();
    rig.Advance(kASecond);
    EXPECT_TRUE(acked);
    EXPECT_TRUE(rig.Publish("again").ok());
    EXPECT_TRUE(rig.failure.ok());
    ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
    EXPECT_GE(rig.Books().matched, accepted + 2);
    EXPECT_EQ(rig.Books().acked, 1u);
  }
}

// Whoever asked for something would wait for somebody to make room, and so would a stop.
TEST(PartitionFaultsTest, F5WithoutAnyRoomCommandsAreRefusedInsteadOfWaiting) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  rig.fs.Fail(Call::kWrite, "log", absl::ResourceExhaustedError("ENOSPC"), 1'000'000);
  // This one finds out, so it is done, in memory; those behind it are not begun.
  std::optional<absl::Status> first;
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    EXPECT_TRUE(partition.SetPaused("all", true).ok());
    partition.OnceDurable([&](absl::Status status) { first = std::move(status); });
  });
  rig.Run();
  ASSERT_TRUE(first.has_value()) << "a command waits for the disk";
  EXPECT_EQ(first->code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(IsTakenWithoutRoom(*first));
  std::vector<absl::StatusCode> later;
  const auto note = [&](const absl::Status& status) {
    later.push_back(status.code());
    EXPECT_FALSE(IsTakenWithoutRoom(status));
  };
  for (int i = 0; i < 20; ++i) {  // at every moment of the broker's own trials
    rig.shards->Post(PartitionId(0), [&](Partition& partition) {
      note(partition.SetPaused("all", false));
      note(partition.StopReplay("all"));
      partition.Replay("all", ReplayOrder(), [&](const absl::StatusOr<ReplayProgress>& progress) {
        note(progress.status());
      });
      partition.StoreTriggers({{"of-the-api", "{}"}}, note);
      partition.Redrive(DeliveryId(), note);
      partition.Discard(DeliveryId(), note);
      partition.AddSchedules({NewSchedule()},
                             [&](const std::vector<absl::Status>& results) { note(results[0]); });
      partition.ControlSchedule(
          "tick", ScheduleAction::kPause,
          [&](const absl::StatusOr<ScheduleInfo>& info) { note(info.status()); });
    });
    rig.Advance(std::chrono::milliseconds(50));
  }
  EXPECT_THAT(later, SizeIs(20 * 8));
  EXPECT_THAT(later, Each(absl::StatusCode::kResourceExhausted));
  rig.fs.ClearFaults();
  rig.Advance(kASecond);
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    partition.OnceDurable([&](absl::Status status) { first = std::move(status); });
  });
  rig.Run();
  EXPECT_TRUE(first->ok()) << *first;
  ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
  rig.Attach();
  EXPECT_TRUE(rig.Publish("waits").ok());
  EXPECT_THAT(rig.worker->held, IsEmpty()) << "the first was done: the trigger is paused";
}

// A source keeps waiting, as what it brought is taken; one that is stopped does not.
TEST(PartitionFaultsTest, F5WithoutAnyRoomASourceThatStopsIsLetGoAndRepeatsNothing) {
  PartitionRig rig;
  const LaneId lane{"files", ""};
  ASSERT_TRUE(rig.Start().ok());
  rig.fs.Fail(Call::kWrite, "log", absl::ResourceExhaustedError("ENOSPC"), 1'000'000);
  std::optional<absl::Status> answer;
  LaneBatch batch;
  batch.lane = lane;
  batch.events.push_back(PartitionRig::MakeEvent("of-the-source", "", 10));
  batch.position = "1";
  batch.done = [&](absl::Status status) { answer = std::move(status); };
  ASSERT_TRUE(rig.shards->TryAppendLane(PartitionId(0), batch).ok());
  rig.Advance(kASecond);
  EXPECT_FALSE(answer.has_value()) << "the source would bring it again";
  const auto with_partition = [&](absl::AnyInvocable<void(Partition&)> work) {
    rig.shards->Post(PartitionId(0), std::move(work));
    rig.Run();
  };
  with_partition([&](Partition& partition) { partition.LeaveLane(lane); });
  ASSERT_TRUE(answer.has_value()) << "its stop waits for the disk";
  EXPECT_EQ(answer->code(), absl::StatusCode::kResourceExhausted);
  with_partition([&](Partition& partition) { partition.DetachLane(lane); });
  // Who comes next is not told of a position before it is durable.
  std::optional<absl::Status> attached;
  const auto attach = [&](Partition& partition) {
    EXPECT_EQ(partition.AttachLane(lane, nullptr).position, "1");
    partition.OnceDurable([&](absl::Status status) { attached = std::move(status); });
  };
  with_partition(attach);
  EXPECT_EQ(attached.value_or(absl::OkStatus()).code(), absl::StatusCode::kResourceExhausted);
  rig.fs.ClearFaults();
  rig.Advance(kASecond);
  with_partition(attach);
  EXPECT_TRUE(attached->ok());
  rig.Attach();
  EXPECT_THAT(rig.DrainAll(), SizeIs(1));
}

TEST(PartitionFaultsTest, F5WithoutAnyRoomAStopDoesNotWaitAndLosesNothingThatWasAnswered) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("answered").ok());
  rig.Attach();
  rig.fs.Fail(Call::kWrite, "log", absl::ResourceExhaustedError("ENOSPC"), 1'000'000);
  bool acked = false;
  rig.Answer(Ack{}, &acked);
  std::optional<absl::Status> of_source;
  LaneBatch batch;
  batch.lane = {"files", ""};
  batch.position = "1";
  batch.done = [&](absl::Status status) { of_source = std::move(status); };
  ASSERT_TRUE(rig.shards->TryAppendLane(PartitionId(0), batch).ok());
  rig.Run();
  std::optional<absl::Status> closed;
  rig.shards->Close([&](absl::Status status) { closed = std::move(status); });
  rig.Run();
  ASSERT_TRUE(closed.has_value()) << "the stop waits for the disk";
  EXPECT_EQ(closed->code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(of_source.has_value());
  EXPECT_FALSE(of_source->ok());
  EXPECT_FALSE(acked);
  rig.fs.ClearFaults();
  ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
  rig.Attach();
  EXPECT_THAT(rig.DrainAll(), SizeIs(1)) << "what no worker was told to be durable comes again";
}

// One of several partitions is enough for the stop to have failed, whichever ends last.
TEST(PartitionFaultsTest, F5AStopSaysThatAPartitionHadNoRoom) {
  for (const std::uint32_t which : {0u, 1u}) {
    PartitionRig rig;
    rig.journal_options.partitions = rig.partition_options.partitions = 2;
    ASSERT_TRUE(rig.Start().ok());
    rig.fs.Fail(Call::kWrite, "log", absl::ResourceExhaustedError("ENOSPC"), 1'000'000);
    rig.shards->Post(PartitionId(which), [](Partition& partition) {
      EXPECT_TRUE(partition.SetPaused("all", true).ok());
    });
    rig.Run();
    std::optional<absl::Status> closed;
    rig.shards->Close([&](absl::Status status) { closed = std::move(status); });
    rig.Run();
    ASSERT_TRUE(closed.has_value());
    EXPECT_EQ(closed->code(), absl::StatusCode::kResourceExhausted);
  }
}

TEST(PartitionFaultsTest, WhoWaitsIsToldWhenTheJournalFails) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  rig.fs.Fail(Call::kWrite, "log", absl::DataLossError("EIO"), 1'000'000);
  std::vector<absl::StatusCode> told;
  const auto note = [&](const absl::Status& status) { told.push_back(status.code()); };
  LaneBatch batch;
  batch.lane = {"files", ""};
  batch.position = "1";
  batch.done = note;
  ASSERT_TRUE(rig.shards->TryAppendLane(PartitionId(0), batch).ok());
  rig.owner.RunUntilIdle();
  rig.shards->Post(PartitionId(0), [&](Partition& partition) { partition.OnceDurable(note); });
  rig.Run();
  EXPECT_FALSE(rig.failure.ok());
  EXPECT_THAT(told, ElementsAre(absl::StatusCode::kUnavailable, absl::StatusCode::kUnavailable));
}

// Without this the log of a disk that was full for a moment is never trimmed again.
TEST(PartitionFaultsTest, F5ACheckpointThatFoundNoRoomIsTriedAgainWithoutFurtherEvents) {
  PartitionRig rig;
  rig.partition_options.checkpoint_every = 2 * kASecond;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("a", "a").ok());
  rig.fs.Fail(Call::kWrite, "checkpoint", absl::ResourceExhaustedError("ENOSPC"));
  rig.Advance(3 * kASecond);
  ASSERT_TRUE(rig.Warned("T0302"));
  const auto checkpoints = [&] {
    std::size_t count = 0;
    for (const std::string& path : rig.fs.Paths()) {
      count += path.starts_with("checkpoint/") && !path.ends_with(".tmp") ? 1 : 0;
    }
    return count;
  };
  ASSERT_EQ(checkpoints(), 0u);
  rig.Advance(3 * kASecond);
  EXPECT_EQ(checkpoints(), 1u);
}

TEST(PartitionFaultsTest, ALogAtItsRetentionSizeRefusesEventsLoudlyAndNamesTheTrigger) {
  PartitionRig rig;
  rig.partition_options.retention_bytes = 100'000;
  ASSERT_TRUE(rig.Start().ok());
  absl::Status status;
  for (int i = 0; i < 100 && status.ok(); ++i)
    status = rig.Publish(fmt::format("e{}", i), "", 9'000);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  rig.Advance(2 * kASecond);
  ASSERT_TRUE(rig.Warned("T0314"));
  EXPECT_NE(rig.warnings.back().second.find("'all'"), std::string::npos)
      << rig.warnings.back().second;
}

// Above `retention.size` schedules wait as sources do; the log would grow until the disk is full.
TEST(PartitionFaultsTest, SchedulesWaitWhileTheLogIsAtItsRetentionSize) {
  PartitionRig rig;
  rig.partition_options.retention_bytes = 200 * 1024;
  rig.schedules.push_back(EveryTenSeconds());
  ASSERT_TRUE(rig.Start().ok());
  int stored = 0;
  while (stored < 100 && rig.Publish(std::to_string(stored), "", 8'000).ok()) ++stored;
  ASSERT_LT(stored, 100);
  const Offset end = rig.Snapshot().end;
  for (int i = 0; i < 5; ++i) rig.Advance(10 * kASecond);
  EXPECT_EQ(rig.Snapshot().end, end) << "something fired";
  rig.Attach();
  std::size_t fired = rig.DrainAll().size();
  for (int i = 0; i < 5; ++i) {
    rig.Advance(kASecond);
    fired += rig.DrainAll().size();
  }
  EXPECT_EQ(fired, static_cast<std::size_t>(stored) + 5) << "each instant, late";
}

TEST(PartitionFaultsTest, F18ARepeatIsADuplicateWithinTheWindowAlsoAfterRestarts) {
  PartitionRig rig;
  rig.partition_options.dedupe_window = std::chrono::minutes(10);
  rig.partition_options.checkpoint_every = kASecond;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("a").ok());
  const auto repeats = [&] {
    std::optional<PublishOutcome> answer;
    rig.Send("a", answer);
    rig.Run();
    EXPECT_TRUE(answer && answer->status.ok());
    return answer && answer->verdicts.size() == 1 && answer->verdicts[0].duplicate &&
           answer->verdicts[0].first == Offset(0);
  };
  EXPECT_TRUE(repeats());
  ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
  EXPECT_TRUE(repeats()) << "from the log";
  rig.Advance(std::chrono::minutes(5));  // a checkpoint is written
  ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
  EXPECT_TRUE(repeats()) << "from the checkpoint";
  // Remembered from its first copy on, not from the last repeat.
  rig.Advance(std::chrono::minutes(5) + 2 * kASecond);
  EXPECT_FALSE(repeats()) << "outside the window it is a new event";
  EXPECT_EQ(rig.Books().matched, 2u);
}

TEST(PartitionFaultsTest, F18OneIdTooManyPushesOutTheOldest) {
  PartitionRig rig;
  rig.partition_options.dedupe_ids_max = 100;
  ASSERT_TRUE(rig.Start().ok());
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(rig.Publish(fmt::format("e{}", i)).ok());
  std::optional<PublishOutcome> answer;
  rig.Send("e0", answer);
  rig.Run();
  EXPECT_TRUE(answer && answer->status.ok() && answer->verdicts.empty());
  rig.Send("e299", answer);
  rig.Run();
  ASSERT_TRUE(answer && answer->verdicts.size() == 1);
  EXPECT_TRUE(answer->verdicts[0].duplicate);
}

// FAULTS F7. The danger: deliveries of events that cannot be read are pending for ever.
TEST(PartitionFaultsTest, F7WhatADamagedBatchTookWithItIsCountedAsDroppedAlsoBehindACheckpoint) {
  PartitionRig rig;
  rig.partition_options.queues.entries_max = 8;
  rig.partition_options.queues.key_entries_max = 2;
  rig.partition_options.cache_bytes_max = 1;
  rig.partition_options.checkpoint_every = kASecond;
  ASSERT_TRUE(rig.Start().ok());
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), fmt::format("k{}", i % 3), 3000).ok());
  }
  rig.Advance(2 * kASecond);
  ASSERT_TRUE(rig.Publish("late", "k0").ok());
  rig.Kill();
  // In the middle of the first segment's data: a batch with one event, before the checkpoint.
  rig.fs.FlipBit("log/0000000000000000.seg", 4096 + 20'000, 3);
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach(4);
  const std::size_t ran = rig.DrainAll().size();
  for (int i = 0; i < 10; ++i) rig.Advance(kASecond);
  const TriggerBooks books = rig.Books();
  EXPECT_EQ(ran, 40u) << "all but the one that was damaged";
  EXPECT_EQ(books.acked, 40u);
  EXPECT_EQ(books.pending, 0u);
  EXPECT_EQ(books.dropped + books.dead, 1u);
  EXPECT_TRUE(rig.Warned("T0311"));
  EXPECT_TRUE(rig.Publish("after", "k1").ok());
  EXPECT_EQ(rig.DrainAll().size(), 1u);
}

// FAULTS F46: no stall. The danger: what is left of a backoff is told by a clock that was set back.
TEST(PartitionFaultsTest, F46AClockSetBackWhileTheBrokerIsDownDoesNotProlongABackoff) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("e").ok());
  rig.Attach();
  ASSERT_EQ(rig.worker->held.size(), 1u);
  rig.Answer(Retry{"flaky", "again", std::chrono::seconds(20)});
  rig.Run();
  rig.clock.StepWall(-std::chrono::hours(1));
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  EXPECT_TRUE(rig.worker->held.empty()) << "its backoff is not over";
  rig.Advance(std::chrono::seconds(21));
  ASSERT_EQ(rig.worker->held.size(), 1u);
  EXPECT_EQ(rig.worker->held.front().attempt, 2u);
}

TEST(PartitionDurabilityTest, DurableIsAnsweredAfterTheSyncAndWrittenBeforeIt) {
  for (const bool written : {false, true}) {
    PartitionRig rig;
    rig.partition_options.answer_when_written = written;
    ASSERT_TRUE(rig.Start().ok());
    ASSERT_TRUE(rig.Publish("before").ok());
    rig.Attach();
    ASSERT_EQ(rig.DrainAll(), std::vector<std::string>{"before"});
    // The write succeeds, the sync does not.
    rig.fs.Fail(Call::kSync, "log", absl::InternalError("EIO"));
    const absl::Status answer = rig.Publish("during");
    EXPECT_EQ(answer.ok(), written) << answer;
    EXPECT_FALSE(rig.failure.ok()) << "the journal failed: the process ends";
    EXPECT_TRUE(rig.worker->held.empty()) << "nothing is dispatched before it is synced";
    EXPECT_EQ(rig.Publish("after").code(), absl::StatusCode::kUnavailable);
  }
}

// What it may cost: a power cut loses events answered `written`, never ones answered `durable`.
TEST(PartitionDurabilityTest, APowerCutMayLoseWhatWasWrittenAndAKillLosesNothing) {
  std::size_t lost = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    for (const bool written : {false, true}) {
      for (const Coins coins : {Coins::kAll, Coins::kNone, Coins::kFair}) {
        PartitionRig rig(seed);
        rig.partition_options.answer_when_written = written;
        ASSERT_TRUE(rig.Start().ok());
        ASSERT_TRUE(rig.Publish("first").ok());
        rig.fs.Fail(Call::kSync, "log", absl::InternalError("cut"));
        const bool answered = rig.Publish("last").ok();
        ASSERT_TRUE(rig.Restart(coins).ok());
        rig.Attach();
        const std::vector<std::string> events = rig.DrainAll();
        ASSERT_GE(events.size(), 1u) << "seed " << seed;
        EXPECT_EQ(events[0], "first");
        const bool there = events.size() == 2;
        if (coins == Coins::kAll) {
          EXPECT_TRUE(there) << "a kill loses nothing that was written";
        } else if (answered && !there) {
          EXPECT_TRUE(written) << "an event answered durable is lost";
          ++lost;
        }
        if (!there) {
          EXPECT_TRUE(rig.Publish("last").ok()) << "sent again it is new, not a duplicate";
        }
      }
    }
  }
  EXPECT_GT(lost, 0u) << "the cut never came between write and sync";
}

// Its letter needs the event, which is read from the disk first. Found by the simulator.
TEST(PartitionDurabilityTest, ARejectionIsConfirmedWhenItsLetterIsDurable) {
  PartitionRig rig;
  rig.partition_options.cache_bytes_max = 1'000;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), "", 900).ok());
  bool durable = false;
  rig.Answer(Reject{"no"}, &durable);
  // Everything but the thread that reads.
  while (rig.owner.RunUntilIdle() + rig.committer.RunUntilIdle() > 0) {
  }
  EXPECT_FALSE(durable);
  rig.Run();
  EXPECT_TRUE(durable);
  EXPECT_EQ(rig.Snapshot().open_letters, 1u);
  // A trigger that goes away meanwhile keeps the delivery; nobody waits for the letter.
  durable = false;
  rig.Answer(Reject{"no"}, &durable);
  while (rig.owner.RunUntilIdle() + rig.committer.RunUntilIdle() > 0) {
  }
  rig.triggers.clear();
  rig.filters.clear();
  rig.Reload();
  EXPECT_TRUE(durable);
  EXPECT_EQ(rig.Snapshot().open_letters, 1u);
}

TEST(PartitionDurabilityTest, ARefusedWriteIsNeverAnsweredWritten) {
  PartitionRig rig;
  rig.partition_options.answer_when_written = true;
  ASSERT_TRUE(rig.Start().ok());
  rig.fs.Fail(Call::kWrite, "log", absl::ResourceExhaustedError("ENOSPC"));
  EXPECT_EQ(rig.Publish("refused").code(), absl::StatusCode::kResourceExhausted);
  rig.Advance(kASecond);
  EXPECT_TRUE(rig.Publish("refused").ok());
  EXPECT_EQ(rig.Books().matched, 1u);
}

}  // namespace
}  // namespace tocsin
