// Deliveries, dead letters and what functions emit, in one partition or two.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;
using Call = SimFileSystem::Call;

constexpr Duration kASecond = std::chrono::seconds(1);

// An event whose home is the second of two partitions.
std::string ForTheOther(const std::string& id, std::size_t bytes = 10) {
  for (int key = 0;; ++key) {
    std::string event = PartitionRig::MakeEvent(id, std::to_string(key), bytes);
    EventView view;
    EXPECT_TRUE(ParseEvent(event, view).ok());
    if (PartitionOfEvent(view, 2) == PartitionId(1)) return event;
  }
}

Offset EndOfTheOther(PartitionRig& rig) {
  Offset end;
  rig.shards->Snapshots([&](std::vector<PartitionSnapshot> all) { end = all.at(1).end; });
  rig.owner.RunUntilIdle();
  return end;
}

// The danger: one read that fails makes a dead letter of a delivery nobody has seen.
TEST(PartitionDispatchTest, ADeliveryWhoseEventCouldNotBeReadOnceIsTriedAgain) {
  PartitionRig rig;
  rig.triggers[0].policy.retry.attempts_max = 1;
  rig.partition_options.cache_bytes_max = 0;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("a", "k").ok());
  ASSERT_TRUE(rig.Publish("b", "k").ok());
  rig.fs.Fail(Call::kRead, "log/", absl::InternalError("EIO"));
  rig.Attach();
  EXPECT_TRUE(rig.worker->held.empty());
  EXPECT_EQ(rig.Snapshot().open_letters, 0U);
  rig.Advance(kASecond);
  ASSERT_THAT(rig.worker->held, SizeIs(1));
  EXPECT_EQ(rig.worker->held.front().attempt, 1U) << "nobody has seen it";
  EXPECT_THAT(rig.DrainAll(), SizeIs(2));
}

TEST(PartitionDispatchTest, ADeliveryWhoseEventCanNeverBeReadDiesByItsAttempts) {
  PartitionRig rig;
  rig.triggers[0].policy.retry.attempts_max = 2;
  rig.partition_options.cache_bytes_max = 0;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("a", "k").ok());
  ASSERT_TRUE(rig.Publish("b", "k").ok());
  rig.fs.Fail(Call::kRead, "log/", absl::InternalError("EIO"), 15);  // also those of its letter
  rig.Attach(1);
  for (int i = 0; i < 60 && rig.worker->held.empty(); ++i) rig.Advance(kASecond);
  ASSERT_THAT(rig.worker->held, SizeIs(1)) << "the next of its key";
  EXPECT_EQ(rig.worker->held.front().event, "b");
  EXPECT_EQ(rig.Snapshot().open_letters, 1U);
}

// The danger: a letter without its event, which is trimmed from the log before the redrive.
TEST(PartitionDispatchTest, ALetterWhoseEventCouldNotBeReadOnceHasIt) {
  for (const int failing : {1, 5}) {
    PartitionRig rig;
    rig.triggers[0].policy.retry.attempts_max = 1;
    rig.partition_options.cache_bytes_max = 0;
    ASSERT_TRUE(rig.Start().ok());
    ASSERT_TRUE(rig.Publish("a", "k").ok());
    ASSERT_TRUE(rig.Publish("b", "k").ok());
    rig.Attach(1);
    ASSERT_THAT(rig.worker->held, SizeIs(1));
    rig.fs.Fail(Call::kRead, "log/", absl::InternalError("EIO"), failing);
    bool durable = false;
    rig.Answer(Reject{"no"}, &durable);
    for (int i = 0; i < 10 && !durable; ++i) rig.Advance(kASecond);
    ASSERT_TRUE(durable);
    std::optional<Letter> letter;
    rig.shards->Post(PartitionId(0), [&](Partition& partition) {
      partition.ReadLetter(partition.OpenLetters().at(0).id,
                           [&](absl::StatusOr<Letter> read) { letter = *std::move(read); });
    });
    rig.Run();
    ASSERT_TRUE(letter.has_value());
    EXPECT_EQ(letter->event.empty(), failing == 5) << letter->message;
  }
}

// The danger: what expired while it was taken is still thought to be ready; the credit that comes
// free is kept for it, and the other partitions stand still.
TEST(PartitionDispatchTest, WhatExpiredWhileItWasTakenKeepsNoCredit) {
  PartitionRig rig;
  rig.journal_options.partitions = rig.partition_options.partitions = 2;
  rig.triggers[0].policy.backlog.age_max = std::chrono::milliseconds(50);
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach(1);
  rig.publish_to = PartitionId(1);
  ASSERT_TRUE(rig.Publish("first").ok());
  ASSERT_THAT(rig.worker->held, SizeIs(1));
  rig.publish_to = PartitionId(0);
  ASSERT_TRUE(rig.Publish("old").ok());
  rig.clock.Advance(std::chrono::milliseconds(60));  // nothing looks in between
  ASSERT_TRUE(rig.Publish("a").ok());
  rig.publish_to = PartitionId(1);
  ASSERT_TRUE(rig.Publish("b").ok());
  ASSERT_TRUE(rig.Publish("c").ok());
  rig.Answer(Ack{});
  rig.Run();
  std::vector<std::string> ran;
  while (!rig.worker->held.empty()) {
    ran.push_back(rig.worker->held.front().event);
    rig.Answer(Ack{});
    rig.Run();
  }
  EXPECT_THAT(ran, UnorderedElementsAre("a", "b", "c"));
}

// The danger: another trigger that settles the same event first makes it forget how often the chain
// went round.
TEST(PartitionDispatchTest, ALoopEndsAlsoBesideATriggerThatOnlyLooksOn) {
  PartitionRig rig;
  rig.partition_options.hops_max = 4;
  rig.AddTrigger("looks");
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach(100);
  ASSERT_TRUE(rig.Publish("e0").ok());
  int generations = 0;
  while (generations < 20) {
    rig.Run();
    std::sort(rig.worker->held.begin(), rig.worker->held.end(),
              [](const auto& a, const auto& b) { return a.trigger > b.trigger; });
    if (rig.worker->held.size() < 2) break;
    ASSERT_EQ(rig.worker->held.front().trigger, "looks");
    rig.Answer(Ack{});
    ASSERT_EQ(rig.worker->held.front().trigger, "all");
    rig.Answer(Ack{}, nullptr,
               {PartitionRig::MakeEvent("e" + std::to_string(++generations), "", 10)});
  }
  EXPECT_LE(generations, 4);
  EXPECT_GE(generations, 3);
}

// The danger: a number that is not durable is given to another event after a crash, which its home
// takes for the one it has.
TEST(PartitionDispatchTest, WhatIsEmittedGoesToItsHomeWhenItIsDurable) {
  PartitionRig rig;
  rig.journal_options.partitions = rig.partition_options.partitions = 2;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach(100);
  ASSERT_TRUE(rig.Publish("one").ok());
  ASSERT_TRUE(rig.Publish("two").ok());
  ASSERT_THAT(rig.worker->held, SizeIs(2));
  const auto for_the_other = [](const std::string& id) {
    for (int key = 0;; ++key) {
      std::string bytes = PartitionRig::MakeEvent(id, std::to_string(key), 10);
      EventView view;
      EXPECT_TRUE(ParseEvent(bytes, view).ok());
      if (PartitionOfEvent(view, 2) == PartitionId(1)) return bytes;
    }
  };
  rig.Answer(Ack{}, nullptr, {for_the_other("first")});
  rig.owner.RunUntilIdle();                               // its batch is with the committer
  rig.Answer(Ack{}, nullptr, {for_the_other("second")});  // this turn comes before
  rig.committer.RunUntilIdle();                           // what is told of the first batch
  rig.owner.RunUntilIdle();
  std::vector<PartitionSnapshot> all;
  rig.shards->Snapshots([&](std::vector<PartitionSnapshot> taken) { all = std::move(taken); });
  rig.owner.RunUntilIdle();
  ASSERT_THAT(all, SizeIs(2));
  EXPECT_EQ(all[1].end, Offset(1)) << "the second is not durable";
  rig.Run();
  rig.shards->Snapshots([&](std::vector<PartitionSnapshot> taken) { all = std::move(taken); });
  rig.Run();
  EXPECT_EQ(all[1].end, Offset(2));
}

TEST(PartitionDispatchTest, OnceDurableWaitsForTheDisk) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  bool told = false;
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    EXPECT_TRUE(partition.SetPaused("all", true).ok());
    partition.OnceDurable([&](const absl::Status& status) { told = status.ok(); });
  });
  rig.owner.RunUntilIdle();
  EXPECT_FALSE(told);
  rig.Run();
  EXPECT_TRUE(told);
}

// The danger: a full trigger gets room between two requests of one stream, which are both in the
// mailbox: the later one passes the one that was refused.
TEST(PartitionDispatchTest, NothingOfAStreamPassesWhatWasRefusedForWantOfRoom) {
  PartitionRig rig;
  rig.triggers[0].policy.backlog.size_max = 1;
  ASSERT_TRUE(rig.Start().ok());
  rig.publish_in = std::make_shared<StreamOrder>(1);
  rig.Attach(100);
  ASSERT_TRUE(rig.Publish("a", "k").ok());
  std::optional<PublishOutcome> b, c;
  rig.Send("b", b, "k");
  rig.owner.RunUntilIdle();
  rig.Answer(Ack{});  // there is room again, and nobody was told of the refusal yet
  rig.Send("c", c, "k");
  rig.Run();
  ASSERT_TRUE(b && c);
  ASSERT_THAT(b->verdicts, SizeIs(1));
  EXPECT_EQ(b->verdicts[0].refusal.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(c->status.code(), absl::StatusCode::kResourceExhausted) << "it passed the other";
  rig.publish_in->Reset();
  EXPECT_TRUE(rig.Publish("b", "k").ok());
  EXPECT_EQ(rig.DrainAll(), std::vector<std::string>{"b"});
}

// The danger: more small events than one batch of their home takes, sent there again and again.
TEST(PartitionDispatchTest, WhatIsEmittedInGreatNumberArrives) {
  PartitionRig rig;
  rig.journal_options.partitions = rig.partition_options.partitions = 2;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach(100);
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(rig.Publish(std::to_string(i)).ok());
  ASSERT_THAT(rig.worker->held, SizeIs(40));
  for (int i = 0; i < 40; ++i) {
    std::vector<std::string> emitted;
    for (int n = 0; n < 20; ++n) emitted.push_back(ForTheOther(fmt::format("{}-{}", i, n), 100));
    rig.Answer(Ack{}, nullptr, std::move(emitted));
  }
  rig.Run();
  EXPECT_EQ(EndOfTheOther(rig), Offset(800));
  EXPECT_THAT(rig.DrainAll(), SizeIs(800));
}

// The danger: lists of matches are larger than the events, and a batch with them is refused for
// ever.
TEST(PartitionDispatchTest, WhatManyTriggersMatchIsForwardedInSmallerPieces) {
  PartitionRig rig;
  rig.journal_options.partitions = rig.partition_options.partitions = 2;
  for (int i = 0; i < 300; ++i) rig.AddTrigger(fmt::format("t{}", i));
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach(1000);
  ASSERT_TRUE(rig.Publish("one").ok());
  ASSERT_GE(rig.worker->held.size(), 10U);
  for (int i = 0; i < 10; ++i) {
    std::vector<std::string> emitted;
    for (int n = 0; n < 20; ++n) emitted.push_back(ForTheOther(fmt::format("{}-{}", i, n)));
    rig.Answer(Ack{}, nullptr, std::move(emitted));
  }
  rig.Run();
  EXPECT_EQ(EndOfTheOther(rig), Offset(200)) << "at once";
  EXPECT_TRUE(rig.failure.ok()) << rig.failure;
}

// The danger: the same in the partition itself, where the journal would refuse the answer for ever.
TEST(PartitionDispatchTest, WhatIsEmittedWithTooManyMatchesFailsItsAttempt) {
  PartitionRig rig;
  rig.triggers[0].policy.retry.attempts_max = 1;
  for (int i = 0; i < 300; ++i) rig.AddTrigger(fmt::format("t{}", i));
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach(1000);
  ASSERT_TRUE(rig.Publish("one").ok());
  ASSERT_FALSE(rig.worker->held.empty());
  std::vector<std::string> emitted;
  for (int n = 0; n < 60; ++n)
    emitted.push_back(PartitionRig::MakeEvent(std::to_string(n), "", 10));
  rig.Answer(Ack{}, nullptr, std::move(emitted));
  rig.Run();
  EXPECT_EQ(rig.Snapshot().open_letters, 1U);
  EXPECT_TRUE(rig.Publish("two").ok());
  EXPECT_EQ(rig.Snapshot().end, Offset(2));
}

TEST(PartitionDispatchTest, ASourceIsToldOfABatchThatIsTooLargeWithItsMatchesAndNothingStands) {
  PartitionRig rig;
  for (int i = 0; i < 300; ++i) rig.AddTrigger(fmt::format("t{}", i));
  ASSERT_TRUE(rig.Start().ok());
  const auto append = [&rig](int count) {
    std::optional<absl::Status> answer;
    LaneBatch batch;
    batch.lane = {"source", "lane"};
    batch.position = "1";
    for (int i = 0; i < count; ++i) {
      batch.events.push_back(PartitionRig::MakeEvent(std::to_string(i), "", 10));
    }
    batch.done = [&answer](const absl::Status& status) { answer = status; };
    EXPECT_TRUE(rig.shards->TryAppendLane(PartitionId(0), batch).ok());
    rig.Run();
    return answer.value_or(absl::DeadlineExceededError("not answered"));
  };
  EXPECT_EQ(append(40).code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(rig.Publish("other").ok());
  EXPECT_TRUE(append(2).ok());
}

// The danger: told as durable, a rejection comes again after a crash; what it emitted stays.
TEST(PartitionDispatchTest, ARejectionIsConfirmedWithItsLetterAlsoAtTheQuota) {
  PartitionRig rig;
  rig.partition_options.letters_max = 1;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  ASSERT_TRUE(rig.Publish("a").ok());
  ASSERT_TRUE(rig.Publish("b").ok());
  rig.Answer(Reject{"no"});
  rig.Run();
  ASSERT_EQ(rig.Snapshot().open_letters, 1U);
  bool durable = false;
  rig.Answer(Reject{"no"}, &durable, {PartitionRig::MakeEvent("out", "o", 10)});
  rig.Advance(5 * kASecond);
  EXPECT_FALSE(durable) << "its letter waits for room";
  EXPECT_EQ(rig.Snapshot().end, Offset(2)) << "and so does what it emitted";
  ASSERT_TRUE(rig.Restart().ok());
  rig.Attach();
  for (int i = 0; i < 60 && rig.worker->held.empty(); ++i) rig.Advance(kASecond);
  ASSERT_THAT(rig.worker->held, SizeIs(1));
  rig.Answer(Reject{"no"}, &durable, {PartitionRig::MakeEvent("out", "o", 10)});
  rig.Run();
  rig.shards->Post(PartitionId(0), [](Partition& partition) {
    partition.Discard(partition.OpenLetters().at(0).id, [](const absl::Status&) {});
  });
  rig.Run();
  for (int i = 0; i < 70 && !durable; ++i) rig.Advance(kASecond);
  EXPECT_TRUE(durable);
  EXPECT_EQ(rig.Snapshot().open_letters, 1U);
  EXPECT_EQ(rig.DrainAll(), std::vector<std::string>{"out"});
}

// The danger: a disk that lags, and functions that emit: memory without end.
TEST(PartitionDispatchTest, WhileTheDiskLagsNoMoreFunctionsAreCalled) {
  PartitionRig rig;
  rig.journal_options.segment_bytes = std::uint64_t{64} << 20;
  rig.journal_options.batch_bytes_max = std::size_t{4} << 20;
  ASSERT_TRUE(rig.Start().ok());
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(rig.Publish(std::to_string(i)).ok());
  rig.Attach(1);
  std::size_t answered = 0;
  for (; !rig.worker->held.empty() && answered < 60; ++answered) {
    rig.Answer(
        Ack{}, nullptr,
        {PartitionRig::MakeEvent("x", "o", 900'000), PartitionRig::MakeEvent("y", "o", 900'000)});
    rig.owner.RunUntilIdle();  // and not what writes
  }
  EXPECT_GE(answered, 30U);
  EXPECT_LT(answered, 45U);
  rig.Run();
  std::size_t rest = 0;
  for (; !rig.worker->held.empty(); ++rest) {
    rig.Answer(Ack{});
    rig.Run();
  }
  EXPECT_EQ(answered + rest, 60U + 2 * answered) << "all, and what was emitted";
}

// The danger: who redrives what has expired gets it back as another letter at once.
TEST(PartitionDispatchTest, ARedrivenDeliveryDoesNotExpireAgain) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  rig.expires = "2000-01-01T00:00:00Z";
  ASSERT_TRUE(rig.Publish("old", "k").ok());
  rig.Attach();
  rig.Advance(kASecond);
  EXPECT_THAT(rig.worker->held, IsEmpty());
  ASSERT_EQ(rig.Books().expired, 1U);
  for (const bool restart : {false, true}) {
    if (restart) {
      ASSERT_TRUE(rig.Restart().ok());
      rig.Attach();
      rig.Advance(kASecond);
    } else {
      rig.shards->Post(PartitionId(0), [](Partition& partition) {
        partition.Redrive(partition.OpenLetters().at(0).id, [](const absl::Status&) {});
      });
      rig.Run();
    }
    EXPECT_THAT(rig.worker->held, SizeIs(1));
  }
  EXPECT_THAT(rig.DrainAll(), SizeIs(1));
  EXPECT_EQ(rig.Books().expired, 1U);
}

}  // namespace
}  // namespace tocsin
