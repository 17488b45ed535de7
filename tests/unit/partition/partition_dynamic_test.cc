// Schedules by command or API, events published for later, backfills, and the events that tell of
// schedules: what a partition makes of them, also across crashes.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "broker/base/time_text.h"
#include "broker/schedule/rule.h"
#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr Duration kASecond = std::chrono::seconds(1);

class DynamicRig : public PartitionRig {
 public:
  explicit DynamicRig(bool start_it = true) {
    triggers[0].policy.timeout = triggers[0].policy.timeout_max = std::chrono::hours(24);
    if (!start_it) return;
    EXPECT_TRUE(Start().ok());
    Attach();
  }

  static std::string Head() {
    return std::move(EventBuilder("x", "/schedules/x", "tick")).Encode();
  }
  static NewSchedule Once(const std::string& name, WallTime at) {
    NewSchedule schedule;
    schedule.name = name;
    schedule.at = at;
    schedule.head = Head();
    return schedule;
  }
  static NewSchedule Recurring(const std::string& name, const std::string& cron,
                               OverlapPolicy overlap = OverlapPolicy::kAllow) {
    ScheduleSpec spec;
    spec.cron = cron;
    spec.overlap = overlap;
    NewSchedule schedule;
    schedule.name = name;
    schedule.rule = EncodeRule(spec);
    schedule.head = Head();
    schedule.data = "{\"n\":1}";
    schedule.text_data = true;
    return schedule;
  }
  // Not run when `answers` is given.
  void Post(absl::AnyInvocable<void(Partition&)> work) {
    shards->Post(PartitionId(0), std::move(work));
  }
  absl::Status Add(NewSchedule schedule) {
    std::vector<absl::Status> results;
    Post([&](Partition& partition) {
      partition.AddSchedules({std::move(schedule)},
                             [&](std::vector<absl::Status> all) { results = std::move(all); });
    });
    Run();
    return results.empty() ? absl::DeadlineExceededError("not answered") : results[0];
  }
  absl::StatusOr<ScheduleInfo> Control(const std::string& name, ScheduleAction action) {
    absl::StatusOr<ScheduleInfo> result = absl::DeadlineExceededError("not answered");
    Post([&](Partition& partition) {
      partition.ControlSchedule(
          name, action, [&](absl::StatusOr<ScheduleInfo> info) { result = std::move(info); });
    });
    Run();
    return result;
  }
  absl::StatusOr<ScheduleInfo> Show(const std::string& name) {
    absl::StatusOr<ScheduleInfo> result = absl::DeadlineExceededError("not answered");
    Post([&](Partition& partition) { result = partition.DescribeSchedule(name); });
    Run();
    return result;
  }
  absl::StatusOr<BackfillStep> Backfill(const std::string& name, WallTime from, WallTime to,
                                        std::size_t most = 1000, bool dry_run = false) {
    absl::StatusOr<BackfillStep> result = absl::DeadlineExceededError("not answered");
    Post([&](Partition& partition) {
      partition.Backfill(name, from, to, most, dry_run,
                         [&](absl::StatusOr<BackfillStep> step) { result = std::move(step); });
    });
    Run();
    return result;
  }
  PublishVerdict Delay(const std::string& id, const std::string& name, const std::string& value,
                       bool run = true) {
    EventBuilder builder(id, "/rig", "rig");
    builder.Attribute(name, value);
    builder.Attribute("partitionkey", "k");
    auto bytes = std::make_shared<std::string>(std::move(builder).Encode());
    PublishBatch batch;
    PublishedEvent event;
    PartitionId home;
    PublishVerdict verdict;
    verdict.refusal = PreparePublished(*bytes, EventLimits(), 16, 7, 1, event, home);
    if (!verdict.refusal.ok()) return verdict;
    batch.keep_alive = bytes;
    batch.bytes = bytes->size();
    batch.events.push_back(std::move(event));
    auto answer = std::make_shared<std::optional<PublishOutcome>>();
    batch.done = [answer](PublishOutcome outcome) { *answer = std::move(outcome); };
    EXPECT_TRUE(shards->TryPublish(PartitionId(0), batch).ok());
    if (!run) return verdict;
    Run();
    EXPECT_TRUE(answer->has_value());
    if (answer->has_value() && !(*answer)->verdicts.empty()) return (*answer)->verdicts[0];
    return verdict;
  }
  std::string Instant(Duration since) const {
    return FormatRfc3339(start + std::chrono::duration_cast<std::chrono::microseconds>(since));
  }
  WallTime After(Duration since) const {
    return start + std::chrono::duration_cast<std::chrono::microseconds>(since);
  }

  const WallTime start = clock.Wall();
};

TEST(PartitionDynamicTest, AOneShotFiresOnceAtItsTimeAndIsGone) {
  DynamicRig rig;
  ASSERT_TRUE(rig.Add(DynamicRig::Once("once", rig.After(10 * kASecond))).ok());
  EXPECT_EQ(rig.Show("once")->next, rig.After(10 * kASecond));
  rig.Advance(9 * kASecond);
  EXPECT_THAT(rig.DrainAll(), IsEmpty());
  rig.Advance(kASecond);
  EXPECT_THAT(rig.DrainAll(), ElementsAre("once/" + rig.Instant(10 * kASecond)));
  EXPECT_TRUE(absl::IsNotFound(rig.Show("once").status()));
  ASSERT_TRUE(rig.Restart(SimFileSystem::Coins::kNone).ok());
  rig.Attach();
  rig.Advance(100 * kASecond);
  EXPECT_THAT(rig.DrainAll(), IsEmpty());
}

TEST(PartitionDynamicTest, WhatWasAnsweredSurvivesTheLossOfAllThatWasNotSynced) {
  DynamicRig rig;
  ASSERT_TRUE(rig.Add(DynamicRig::Once("once", rig.After(10 * kASecond))).ok());
  ASSERT_TRUE(rig.Add(DynamicRig::Recurring("tick", "@every 4s")).ok());
  ASSERT_TRUE(rig.Restart(SimFileSystem::Coins::kNone).ok());
  rig.Attach();
  rig.Advance(4 * kASecond);
  EXPECT_THAT(rig.DrainAll(), ElementsAre("tick/" + rig.Instant(4 * kASecond)));
  ASSERT_TRUE(rig.Restart(SimFileSystem::Coins::kNone).ok());
  rig.Attach();
  rig.Advance(4 * kASecond);
  rig.Advance(2 * kASecond);
  EXPECT_THAT(rig.DrainAll(), ElementsAre("tick/" + rig.Instant(8 * kASecond),
                                          "once/" + rig.Instant(10 * kASecond)));
  EXPECT_EQ(rig.Show("tick")->fired, 2u);
}

TEST(PartitionDynamicTest, WhatADownTimeMissedFollowsThePolicyAndAOneShotIsMadeUpFor) {
  DynamicRig rig;
  ASSERT_TRUE(rig.Add(DynamicRig::Once("once", rig.After(10 * kASecond))).ok());
  ASSERT_TRUE(rig.Add(DynamicRig::Recurring("tick", "@every 20s")).ok());
  rig.Kill();
  rig.fs.Crash(SimFileSystem::Coins::kNone);
  rig.clock.Advance(115 * kASecond);
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  rig.Advance(Duration::zero());
  EXPECT_THAT(rig.DrainAll(), testing::UnorderedElementsAre("once/" + rig.Instant(10 * kASecond),
                                                            "tick/" + rig.Instant(100 * kASecond)));
  EXPECT_EQ(rig.Show("tick")->skipped, 4u);
}

TEST(PartitionDynamicTest, ManyAtOneInstantLeaveOthersTheirTurnInBetween) {
  DynamicRig rig(false);
  rig.partition_options.between_fires = kASecond;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  const WallTime at = rig.After(10 * kASecond);
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE(rig.Add(DynamicRig::Once(fmt::format("once-{}", i), at)).ok());
  }
  // What is due meanwhile comes behind them, and does not hurry them.
  ASSERT_TRUE(rig.Add(DynamicRig::Once("later", rig.After(10 * kASecond + kASecond / 2))).ok());
  rig.Advance(10 * kASecond);
  EXPECT_EQ(rig.DrainAll().size(), 128u);
  rig.Run();
  EXPECT_THAT(rig.DrainAll(), IsEmpty());
  rig.Advance(kASecond);
  EXPECT_EQ(rig.DrainAll().size(), 128u);
  rig.Advance(kASecond);
  const std::vector<std::string> rest = rig.DrainAll();
  ASSERT_EQ(rest.size(), 45u);
  EXPECT_THAT(rest.back(), HasSubstr("later/"));
}

TEST(PartitionDynamicTest, NamesAreUniqueAlsoAmongTheConfigurations) {
  DynamicRig rig(false);
  ScheduleSpec spec;
  spec.name = "configured";
  spec.cron = "@every 1h";
  ScheduleBinding binding;
  binding.name = spec.name;
  binding.schedule = *Schedule::Parse(spec);
  binding.make_event = [](WallTime nominal, WallTime) {
    return PartitionRig::MakeEvent("c/" + FormatRfc3339(nominal), "", 3);
  };
  rig.schedules = {binding};
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  ASSERT_TRUE(rig.Add(DynamicRig::Recurring("tick", "@every 4s")).ok());
  EXPECT_THAT(std::string(MessageOf(rig.Add(DynamicRig::Recurring("tick", "@every 5s")))),
              HasSubstr("T0336"));
  EXPECT_TRUE(absl::IsAlreadyExists(rig.Add(DynamicRig::Recurring("configured", "@every 5s"))));
  NewSchedule other = DynamicRig::Recurring("tick", "@every 5s");
  other.replace = true;
  ASSERT_TRUE(rig.Add(other).ok());
  EXPECT_EQ(rig.Show("tick")->spec.cron, "@every 5s");
  EXPECT_TRUE(
      absl::IsFailedPrecondition(rig.Control("configured", ScheduleAction::kRemove).status()));
  // The configuration gets the name that was added: the added one stays.
  binding.name = "tick";
  rig.schedules.push_back(binding);
  rig.Reload();
  EXPECT_TRUE(rig.Warned("T0340"));
  EXPECT_FALSE(rig.Show("tick")->configured);
  ASSERT_TRUE(rig.Control("tick", ScheduleAction::kRemove).ok());
  EXPECT_TRUE(rig.Show("tick")->configured);
}

// Found by the simulator: what was to be planned again was gone, and was waited for without end.
TEST(PartitionDynamicTest, TheLastScheduleGoesInTheTurnThatPlansAgain) {
  DynamicRig rig;
  ASSERT_TRUE(rig.Add(DynamicRig::Recurring("tick", "@every 4s")).ok());
  rig.shards->ApplyPlan(rig.MakePlan());
  rig.shards->Post(PartitionId(0), [](Partition& partition) {
    partition.ControlSchedule("tick", ScheduleAction::kRemove,
                              [](const absl::StatusOr<ScheduleInfo>&) {});
  });
  EXPECT_LT(rig.owner.RunUntilIdle(1000), 1000u);
}

TEST(PartitionDynamicTest, WhatPassesDuringAPauseDoesNotFireAndIsRecorded) {
  DynamicRig rig;
  ASSERT_TRUE(rig.Add(DynamicRig::Recurring("tick", "@every 10s")).ok());
  ASSERT_TRUE(rig.Add(DynamicRig::Once("once", rig.After(15 * kASecond))).ok());
  ASSERT_TRUE(rig.Control("tick", ScheduleAction::kPause).ok());
  ASSERT_TRUE(rig.Control("once", ScheduleAction::kPause).ok());
  ASSERT_TRUE(rig.Restart(SimFileSystem::Coins::kNone).ok());
  rig.Attach();
  for (int i = 0; i < 4; ++i) rig.Advance(9 * kASecond);
  EXPECT_THAT(rig.DrainAll(), IsEmpty());
  const auto resumed = rig.Control("tick", ScheduleAction::kResume);
  ASSERT_TRUE(resumed.ok());
  EXPECT_EQ(resumed->skipped, 3u);
  EXPECT_THAT(rig.DrainAll(), IsEmpty());
  EXPECT_TRUE(absl::IsFailedPrecondition(rig.Control("once", ScheduleAction::kResume).status()));
  ASSERT_TRUE(rig.Control("once", ScheduleAction::kFire).ok());
  EXPECT_THAT(rig.DrainAll(), ElementsAre("once/" + rig.Instant(15 * kASecond)));
  rig.Advance(4 * kASecond);
  EXPECT_THAT(rig.DrainAll(), ElementsAre("tick/" + rig.Instant(40 * kASecond)));
}

TEST(PartitionDynamicTest, AFireByCommandComesBesideTheInstantsAndEachHasItsOwnId) {
  DynamicRig rig;
  ASSERT_TRUE(rig.Add(DynamicRig::Recurring("tick", "@every 10s")).ok());
  ASSERT_TRUE(rig.Control("tick", ScheduleAction::kFire).ok());
  ASSERT_TRUE(rig.Control("tick", ScheduleAction::kFire).ok());
  const std::vector<std::string> fired = rig.DrainAll();
  ASSERT_EQ(fired.size(), 2u);
  EXPECT_NE(fired[0], fired[1]);
  rig.Advance(10 * kASecond);
  EXPECT_THAT(rig.DrainAll(), ElementsAre("tick/" + rig.Instant(10 * kASecond)));
  // Also at the very instant.
  ASSERT_TRUE(rig.Control("tick", ScheduleAction::kFire).ok());
  const std::vector<std::string> at_instant = rig.DrainAll();
  ASSERT_EQ(at_instant.size(), 1u);
  EXPECT_NE(at_instant[0], "tick/" + rig.Instant(10 * kASecond));
}

TEST(PartitionDynamicTest, WithSkipAnInstantDuringARunDoesNotFire) {
  DynamicRig rig;
  ASSERT_TRUE(rig.Add(DynamicRig::Recurring("tick", "@every 10s", OverlapPolicy::kSkip)).ok());
  rig.Advance(10 * kASecond);
  rig.Advance(10 * kASecond);
  EXPECT_EQ(rig.Show("tick")->skipped, 1u);
  EXPECT_TRUE(rig.Show("tick")->busy);
  EXPECT_THAT(rig.DrainAll(), ElementsAre("tick/" + rig.Instant(10 * kASecond)));
}

TEST(PartitionDynamicTest, WithQueueAllWhatWaitsFiresWhenTheRunIsSettledAlsoAfterACrash) {
  DynamicRig rig;
  ASSERT_TRUE(rig.Add(DynamicRig::Recurring("tick", "@every 10s", OverlapPolicy::kQueueAll)).ok());
  for (int i = 0; i < 3; ++i) rig.Advance(10 * kASecond);
  ASSERT_TRUE(rig.Restart(SimFileSystem::Coins::kNone).ok());
  rig.Attach();
  EXPECT_THAT(rig.DrainAll(), ElementsAre("tick/" + rig.Instant(10 * kASecond),
                                          "tick/" + rig.Instant(20 * kASecond),
                                          "tick/" + rig.Instant(30 * kASecond)));
}

TEST(PartitionDynamicTest, APublishedEventWaitsForItsTimeAndComesOnceAlsoAfterACrash) {
  DynamicRig rig;
  EXPECT_TRUE(rig.Delay("e1", "tocsindeliverin", "10s").delayed);
  EXPECT_TRUE(rig.Delay("e2", "tocsindeliverat", rig.Instant(5 * kASecond)).delayed);
  EXPECT_FALSE(rig.Delay("e3", "tocsindeliverat", rig.Instant(-5 * kASecond)).delayed);
  EXPECT_THAT(rig.DrainAll(), ElementsAre("e3")) << "a time that has passed is now";
  const PublishVerdict again = rig.Delay("e1", "tocsindeliverin", "99s");
  EXPECT_TRUE(again.duplicate && again.delayed);
  ASSERT_TRUE(rig.Restart(SimFileSystem::Coins::kNone).ok());
  rig.Attach();
  EXPECT_TRUE(rig.Delay("e1", "tocsindeliverin", "99s").duplicate);
  EXPECT_EQ(rig.Snapshot().delayed_events, 2u);
  rig.Advance(60 * kASecond);
  EXPECT_THAT(rig.DrainAll(), ElementsAre("e2", "e1")) << "in the order of their times";
  EXPECT_TRUE(rig.Delay("e1", "tocsindeliverin", "99s").duplicate);
  ASSERT_TRUE(rig.Restart(SimFileSystem::Coins::kNone).ok());
  rig.Attach();
  rig.Advance(600 * kASecond);
  EXPECT_THAT(rig.DrainAll(), IsEmpty());
}

TEST(PartitionDynamicTest, ATimeThatIsNoneIsRefused) {
  DynamicRig rig;
  for (const auto& [name, value] :
       std::vector<std::pair<std::string, std::string>>{{"tocsindeliverat", "tomorrow"},
                                                        {"tocsindeliverat", "2999-01-01T00:00:00Z"},
                                                        {"tocsindeliverin", "soon"},
                                                        {"tocsindeliverin", "9000d"}}) {
    const absl::Status refusal = rig.Delay("e", name, value).refusal;
    EXPECT_TRUE(absl::IsInvalidArgument(refusal)) << value;
    EXPECT_THAT(std::string(MessageOf(refusal)), HasSubstr("T0335"));
  }
}

TEST(PartitionDynamicTest, WhatIsEmittedCannotBeDelayed) {
  DynamicRig rig;
  ASSERT_TRUE(rig.Publish("e1").ok());
  EventBuilder builder("child", "/rig", "rig");
  builder.Attribute("tocsindeliverin", "10s");
  rig.Answer(Ack{}, nullptr, {std::move(builder).Encode()});
  rig.Run();
  EXPECT_EQ(rig.Books().acked, 0u);
  EXPECT_EQ(rig.Books().delayed, 1u);
}

TEST(PartitionDynamicTest, ThereIsNoRoomBeyondTheLimit) {
  DynamicRig rig(false);
  rig.partition_options.schedule_bytes_max = 2000;
  ASSERT_TRUE(rig.Start().ok());
  absl::Status status;
  int added = 0;
  for (; status.ok() && added < 100; ++added) {
    status = rig.Add(DynamicRig::Once(fmt::format("s{}", added), rig.After(3600 * kASecond)));
  }
  EXPECT_LT(added, 30);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_TRUE(absl::IsResourceExhausted(rig.Delay("e", "tocsindeliverin", "10s").refusal));
}

TEST(PartitionDynamicTest, ABackfillFiresWhatNeverFiredEachInstantOnce) {
  DynamicRig rig;
  ASSERT_TRUE(rig.Add(DynamicRig::Recurring("tick", "*/10 * * * * *", OverlapPolicy::kSkip)).ok());
  rig.Advance(10 * kASecond);
  rig.Advance(10 * kASecond);  // skipped: the one before is not settled
  ASSERT_EQ(rig.DrainAll().size(), 1u);
  rig.Advance(10 * kASecond);
  ASSERT_EQ(rig.DrainAll().size(), 1u);
  const std::uint64_t skipped = rig.Show("tick")->skipped;
  ASSERT_EQ(skipped, 1u);
  const WallTime from = rig.After(-60 * kASecond);
  const auto dry = rig.Backfill("tick", from, rig.After(3600 * kASecond), 1000, true);
  ASSERT_TRUE(dry.ok());
  EXPECT_THAT(rig.DrainAll(), IsEmpty());
  // In two steps, with the loss of what was not synced between them.
  const auto first = rig.Backfill("tick", from, rig.After(3600 * kASecond), 3);
  ASSERT_TRUE(first.ok());
  EXPECT_FALSE(first->end);
  std::vector<std::string> fired = rig.DrainAll();
  EXPECT_EQ(fired.size(), 3u);
  ASSERT_TRUE(rig.Restart(SimFileSystem::Coins::kNone).ok());
  rig.Attach();
  const auto rest = rig.Backfill("tick", from, rig.After(3600 * kASecond), 1000);
  ASSERT_TRUE(rest.ok());
  EXPECT_TRUE(rest->end);
  for (const std::string& id : rig.DrainAll()) fired.push_back(id);
  EXPECT_EQ(fired.size(), dry->count);
  EXPECT_GE(fired.size(), 6u);
  EXPECT_EQ(std::set<std::string>(fired.begin(), fired.end()).size(), fired.size());
  EXPECT_EQ(rig.Backfill("tick", from, rig.After(3600 * kASecond))->count, 0u);
}

TEST(PartitionDynamicTest, ABackfillOfWhatIsConfiguredFiresEachInstantOnceToo) {
  DynamicRig rig(false);
  ScheduleSpec spec;
  spec.name = "configured";
  spec.cron = "*/10 * * * * *";
  ScheduleBinding binding;
  binding.name = spec.name;
  binding.schedule = *Schedule::Parse(spec);
  binding.make_event = [](WallTime nominal, WallTime) {
    return PartitionRig::MakeEvent("c/" + FormatRfc3339(nominal), "", 3);
  };
  rig.schedules = {binding};
  rig.partition_options.checkpoint_every = kASecond;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  const WallTime from = rig.After(-100 * kASecond);
  const auto step = rig.Backfill("configured", from, rig.start);
  ASSERT_TRUE(step.ok());
  const std::vector<std::string> fired = rig.DrainAll();
  EXPECT_EQ(fired.size(), step->count);
  EXPECT_GE(fired.size(), 9u);
  for (int i = 0; i < 5; ++i) rig.Advance(kASecond);  // a checkpoint
  ASSERT_TRUE(rig.Restart(SimFileSystem::Coins::kNone).ok());
  rig.Attach();
  EXPECT_EQ(rig.Backfill("configured", from, rig.start)->count, 0u);
}

TEST(PartitionDynamicTest, APauseOfWhatIsConfiguredSurvivesARestart) {
  DynamicRig rig(false);
  ScheduleSpec spec;
  spec.name = "configured";
  spec.cron = "@every 10s";
  ScheduleBinding binding;
  binding.name = spec.name;
  binding.schedule = *Schedule::Parse(spec);
  binding.make_event = [](WallTime nominal, WallTime) {
    return PartitionRig::MakeEvent("c/" + FormatRfc3339(nominal), "", 3);
  };
  rig.schedules = {binding};
  rig.partition_options.checkpoint_every = kASecond;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Control("configured", ScheduleAction::kPause).ok());
  for (int i = 0; i < 3; ++i) rig.Advance(kASecond);
  ASSERT_TRUE(rig.Restart(SimFileSystem::Coins::kNone).ok());
  rig.Attach();
  rig.Advance(25 * kASecond);
  EXPECT_THAT(rig.DrainAll(), IsEmpty());
  EXPECT_TRUE(rig.Show("configured")->paused);
  const auto resumed = rig.Control("configured", ScheduleAction::kResume);
  ASSERT_TRUE(resumed.ok());
  EXPECT_EQ(resumed->skipped, 2u);
  rig.Advance(2 * kASecond);
  EXPECT_EQ(rig.DrainAll().size(), 1u);
}

TEST(PartitionDynamicTest, SchedulesSurviveCheckpointsThatTakeThemInPieces) {
  DynamicRig rig(false);
  rig.partition_options.checkpoint_every = kASecond;
  rig.journal_options.segment_bytes = 1 << 20;
  rig.journal_options.batch_bytes_max = 256 << 10;
  ASSERT_TRUE(rig.Start().ok());
  rig.Post([&](Partition& partition) {
    std::vector<NewSchedule> many;
    for (int i = 0; i < 20'000; ++i) {
      many.push_back(DynamicRig::Once(fmt::format("s{}", i), rig.After((100 + i) * kASecond)));
    }
    partition.AddSchedules(std::move(many), [](const std::vector<absl::Status>& results) {
      for (const absl::Status& result : results) ASSERT_TRUE(result.ok()) << result;
    });
  });
  rig.Run();
  for (int i = 0; i < 5; ++i) rig.Advance(kASecond);
  ASSERT_TRUE(rig.Control("s7", ScheduleAction::kRemove).ok());
  for (int i = 0; i < 5; ++i) rig.Advance(kASecond);
  ASSERT_TRUE(rig.Restart(SimFileSystem::Coins::kNone).ok());
  EXPECT_EQ(rig.Snapshot().dynamic_schedules, 19'999u);
  EXPECT_EQ(rig.Show("s19999")->at, rig.After(20'099 * kASecond));
}

// What tells of schedules goes to triggers that ask for it, and a failure of theirs raises nothing.
TEST(PartitionDynamicTest, SkippedOverdueAndFailedAreEventsForTriggersThatAskForThem) {
  DynamicRig rig(false);
  rig.triggers[0].policy.retry.attempts_max = 1;
  rig.AddTrigger("watch",
                 *MakeConditions(Filter::Kind::kPrefix, {{"type", "dev.tocsin.schedule."}}))
      .policy.retry.attempts_max = 1;
  ASSERT_TRUE(rig.Start().ok());
  rig.Attach();
  ASSERT_TRUE(rig.Add(DynamicRig::Recurring("tick", "@every 10s", OverlapPolicy::kSkip)).ok());
  rig.Advance(10 * kASecond);
  ASSERT_EQ(rig.worker->held.size(), 1u);
  rig.Advance(10 * kASecond);
  std::vector<std::string> told;
  for (const RigWorker::Held& one : rig.worker->held) {
    if (one.trigger == "watch") told.push_back(one.event);
  }
  EXPECT_THAT(told, ElementsAre(HasSubstr("tick/skipped/"), HasSubstr("tick/overdue/tick/")));
  rig.Answer(Reject{"no"});
  rig.Run();
  EXPECT_THAT(rig.worker->held.back().event, HasSubstr("tick/failed/tick/"));
  const std::size_t before = rig.Books("watch").matched;
  while (!rig.worker->held.empty()) {
    rig.Answer(Reject{"no"});
    rig.Run();
  }
  EXPECT_EQ(rig.Books("watch").matched, before);
  EXPECT_EQ(rig.Books("all").matched, 1u) << "who takes everything asked for none of these";
}

}  // namespace
}  // namespace tocsin
