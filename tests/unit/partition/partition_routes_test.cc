// Triggers changed one by one, replays, and what is known of a stored event.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

using Coins = SimFileSystem::Coins;

// What the server's registry does, plainly.
class Routes {
 public:
  explicit Routes(PartitionRig& rig) : rig_(rig) {}

  void Put(const std::string& name, const std::string& hash = "1",
           std::shared_ptr<const Filter> filter = nullptr) {
    TriggerSpec spec;
    spec.name = name;
    spec.policy.function = "work";
    spec.config_json = fmt::format("{{\"v\":\"{}\"}}", hash);
    spec.config_hash = hash;
    specs_.push_back(spec);
    routes_.push_back({name, {}, std::move(filter), nullptr});
    Tell({});
  }
  void Remove(const std::string& name) { Tell({name}); }

  // `live`: of plan and overlay, by number, those in force.
  void Rebase(const std::shared_ptr<const RoutePlan>& before,
              const std::vector<std::uint32_t>& live) {
    auto base = std::make_shared<RoutePlan>();
    std::vector<RouteSpec> routes;
    for (const std::uint32_t number : live) {
      const bool old = number < before->triggers.size();
      const std::size_t i = old ? number : number - before->triggers.size();
      base->triggers.push_back(old ? before->triggers[i] : specs_[i]);
      base->numbers.push_back(Number(base->triggers.back().name));
      routes.push_back(old ? before->table->route(number) : routes_[i]);
    }
    base->table = RouteTable::Build(std::move(routes));
    specs_.clear();
    routes_.clear();
    auto rebase = std::make_shared<PlanRebase>();
    rebase->base = base;
    rebase->from = live;
    rig_.shards->RebasePlan(rebase);
    rig_.Run();
  }

 private:
  TriggerNumber Number(const std::string& name) {
    return rig_.dispatcher->SetTrigger(name, "work", 0);
  }
  void Tell(std::vector<std::string> removed) {
    auto overlay = std::make_shared<RoutePlan>();
    overlay->triggers = specs_;
    for (const TriggerSpec& spec : specs_) overlay->numbers.push_back(Number(spec.name));
    overlay->table = RouteTable::Build(routes_);
    auto change = std::make_shared<PlanChange>();
    change->overlay = overlay;
    change->removed = std::move(removed);
    rig_.shards->ChangePlan(change);
    rig_.Run();
  }

  PartitionRig& rig_;
  std::vector<TriggerSpec> specs_;
  std::vector<RouteSpec> routes_;
};

std::vector<std::string> MatchedBy(PartitionRig& rig, const std::string& id) {
  EXPECT_TRUE(rig.Publish(id, "k").ok());
  std::vector<std::string> names;
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    partition.ReadEvents(Offset(), 10000, 1 << 24, [&](absl::StatusOr<EventPage> page) {
      ASSERT_TRUE(page.ok());
      ASSERT_FALSE(page->events.empty());
      names = page->events.back().triggers;
    });
  });
  rig.Run();
  std::sort(names.begin(), names.end());
  return names;
}

FilterPtr OnlyId(const std::string& id) {
  return *MakeConditions(Filter::Kind::kExact, {{"id", id}});
}

ReplayProgress Begin(PartitionRig& rig, const std::string& trigger, const ReplayOrder& order) {
  absl::StatusOr<ReplayProgress> begun = absl::UnknownError("not answered");
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    partition.Replay(trigger, order,
                     [&](absl::StatusOr<ReplayProgress> progress) { begun = std::move(progress); });
  });
  rig.Run();
  EXPECT_TRUE(begun.ok()) << begun.status();
  return begun.ok() ? *begun : ReplayProgress();
}

ReplayProgress Reached(PartitionRig& rig, const std::string& trigger) {
  ReplayProgress progress;
  rig.shards->Post(PartitionId(0),
                   [&](Partition& partition) { progress = partition.ReplayOf(trigger); });
  rig.Run();
  return progress;
}

absl::StatusOr<EventStory> Story(PartitionRig& rig, std::uint64_t offset) {
  absl::StatusOr<EventStory> told = absl::UnknownError("not answered");
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    partition.Explain(Offset(offset),
                      [&](absl::StatusOr<EventStory> story) { told = std::move(story); });
  });
  rig.Run();
  return told;
}

TEST(PartitionRoutesTest, ChangesAreInForceAtOnceAndTheNewestRouteOfATriggerCounts) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  Routes routes(rig);
  EXPECT_THAT(MatchedBy(rig, "e0"), ElementsAre("all"));
  routes.Put("more");
  EXPECT_THAT(MatchedBy(rig, "e1"), ElementsAre("all", "more"));
  // A newer one of the same name, in the overlay and over the plan's.
  routes.Put("more", "2", OnlyId("e3"));
  routes.Put("all", "2", OnlyId("e3"));
  EXPECT_THAT(MatchedBy(rig, "e2"), IsEmpty());
  EXPECT_THAT(MatchedBy(rig, "e3"), ElementsAre("all", "more"));
  routes.Remove("more");
  routes.Remove("all");
  EXPECT_THAT(MatchedBy(rig, "e4"), IsEmpty());
  routes.Put("more", "3");
  EXPECT_THAT(MatchedBy(rig, "e5"), ElementsAre("more"));
  EXPECT_EQ(rig.Books("more").matched, 3u);
  EXPECT_EQ(rig.Books("all").state, TriggerState::kDetached);
}

TEST(PartitionRoutesTest, APlanCompiledAnewKeepsWhatIsInForceAndItsDeliveries) {
  PartitionRig rig;
  rig.AddTrigger("second");
  ASSERT_TRUE(rig.Start().ok());
  const auto plan = rig.MakePlan();  // as the one in force
  rig.shards->ApplyPlan(plan);
  rig.Run();
  Routes routes(rig);
  routes.Put("more");         // 2
  routes.Put("second", "2");  // 3, over 1
  routes.Put("gone");         // 4
  EXPECT_THAT(MatchedBy(rig, "e0"), ElementsAre("all", "gone", "more", "second"));
  routes.Remove("gone");
  // The stale ones are left out, the rest comes in another order.
  routes.Rebase(plan, {3, 0, 2});
  EXPECT_THAT(MatchedBy(rig, "e1"), ElementsAre("all", "more", "second"));
  routes.Put("late");
  EXPECT_THAT(MatchedBy(rig, "e2"), ElementsAre("all", "late", "more", "second"));
  rig.Attach();
  EXPECT_THAT(rig.DrainAll(), SizeIs(3 + 3 + 3 + 1));
  for (const char* name : {"all", "more", "second", "late"}) {
    EXPECT_EQ(rig.Books(name).pending, 0u) << name;
  }
  EXPECT_EQ(rig.Books("gone").pending, 1u);
}

TEST(PartitionRoutesTest, StoredTriggersAreThereAfterACrashAndFromACheckpoint) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  const auto store = [&](std::vector<std::pair<std::string, std::string>> triggers) {
    bool durable = false;
    rig.shards->Post(PartitionId(0), [&](Partition& partition) {
      partition.StoreTriggers(triggers, [&](const absl::Status& status) { durable = status.ok(); });
    });
    rig.Run();
    EXPECT_TRUE(durable);
  };
  const auto stored = [&] {
    std::map<std::string, std::string> found;
    rig.shards->Post(PartitionId(0),
                     [&](Partition& partition) { found = partition.StoredTriggers(); });
    rig.Run();
    return found;
  };
  store({{"a", "{one}"}, {"b", "{two}"}});
  store({{"a", "{three}"}, {"b", ""}, {"c", "{four}"}});
  const std::map<std::string, std::string> want = {{"a", "{three}"}, {"c", "{four}"}};
  EXPECT_EQ(stored(), want);
  ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
  EXPECT_EQ(stored(), want);
  // Through a checkpoint, and what changes behind it.
  rig.Advance(rig.partition_options.checkpoint_every * 2);
  store({{"c", ""}});
  rig.Advance(rig.partition_options.checkpoint_every * 2);
  ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
  EXPECT_EQ(stored(), (std::map<std::string, std::string>{{"a", "{three}"}}));
}

TEST(PartitionReplayTest, AReplayGivesWhatItsFiltersTakeOnceMoreAndOnce) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), "k").ok());
  rig.Attach();
  EXPECT_THAT(rig.DrainAll(), SizeIs(20));
  ReplayOrder order;
  order.from = Offset(5);
  order.end = Offset(15);
  order.where = R"([{"not":{"exact":{"id":"e7"}}}])";
  order.dry_run = true;
  EXPECT_EQ(Begin(rig, "all", order).copied, 9u);
  EXPECT_EQ(rig.Books().matched, 20u);
  order.dry_run = false;
  (void)Begin(rig, "all", order);
  std::vector<std::string> deliveries;
  std::vector<std::string> events;
  for (rig.Run(); !rig.worker->held.empty(); rig.Run()) {
    deliveries.push_back(rig.worker->held.front().delivery);
    events.push_back(rig.worker->held.front().event);
    rig.Answer(Ack{});
  }
  EXPECT_THAT(events, ElementsAre("e5", "e6", "e8", "e9", "e10", "e11", "e12", "e13", "e14"));
  EXPECT_EQ(deliveries.front(), "0/5/0/1000");
  const TriggerBooks books = rig.Books();
  EXPECT_EQ(books.matched, 29u);  // a replay is a new delivery
  EXPECT_EQ(books.acked, 29u);
  const ReplayProgress reached = Reached(rig, "all");
  EXPECT_EQ(reached.copied, 9u);
  EXPECT_FALSE(reached.active);
  // Its runs are not stored events of their own: a second replay gives each event once.
  (void)Begin(rig, "all", ReplayOrder());
  EXPECT_THAT(rig.DrainAll(), SizeIs(20));
  EXPECT_EQ(Reached(rig, "all").number, 2u);
}

TEST(PartitionReplayTest, ACrashAnywhereInAReplayNeitherRepeatsNorLosesARun) {
  for (int steps = 0; steps < 60; ++steps) {
    PartitionRig rig(static_cast<std::uint64_t>(steps) + 1);
    ASSERT_TRUE(rig.Start().ok());
    for (int i = 0; i < 120; ++i) {
      ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), "k", 900).ok());
    }
    bool begun = false;
    rig.shards->Post(PartitionId(0), [&](Partition& partition) {
      partition.Replay("all", ReplayOrder(),
                       [&](const absl::StatusOr<ReplayProgress>& p) { begun = p.ok(); });
    });
    for (int i = 0; i < steps; ++i) {
      if (!rig.owner.RunOne() && !rig.engine.RunOne()) (void)rig.committer.RunOne();
    }
    const bool answered = begun;
    ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
    rig.Run();
    const std::uint64_t matched = rig.Books().matched;
    if (answered) {
      EXPECT_EQ(matched, 240u) << steps;
    }
    EXPECT_TRUE(matched == 120 || matched == 240) << steps << " " << matched;
    std::set<std::string> seen;
    rig.Attach();
    for (rig.Run(); !rig.worker->held.empty(); rig.Run()) {
      EXPECT_TRUE(seen.insert(rig.worker->held.front().delivery).second);
      rig.Answer(Ack{});
    }
    EXPECT_EQ(seen.size(), matched);
  }
}

TEST(PartitionReplayTest, OneAfterAStoppedOneGetsItsWholeSpan) {
  for (int steps = 0; steps < 60; ++steps) {
    PartitionRig rig(static_cast<std::uint64_t>(steps) + 1);
    ASSERT_TRUE(rig.Start().ok());
    for (int i = 0; i < 40; ++i) {
      ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), "k", 900).ok());
    }
    std::vector<ReplayProgress> begun;
    const auto begin = [&begun](Partition& partition, std::uint64_t from) {
      ReplayOrder order;
      order.from = Offset(from);
      partition.Replay("all", order, [&begun](const absl::StatusOr<ReplayProgress>& progress) {
        ASSERT_TRUE(progress.ok()) << progress.status();
        begun.push_back(*progress);
      });
    };
    rig.shards->Post(PartitionId(0), [&](Partition& partition) { begin(partition, 30); });
    for (int i = 0; i < steps; ++i) {
      if (!rig.owner.RunOne() && !rig.engine.RunOne()) (void)rig.committer.RunOne();
    }
    rig.shards->Post(PartitionId(0), [&](Partition& partition) {
      EXPECT_TRUE(partition.StopReplay("all").ok());
      begin(partition, 0);
    });
    rig.Run();
    EXPECT_EQ(Reached(rig, "all").copied, 40u) << steps;
    // Each is told of itself, also if the next one began before it was durable.
    ASSERT_THAT(begun, SizeIs(2)) << steps;
    EXPECT_EQ(begun[0].number, 1u) << steps;
    EXPECT_EQ(begun[1].number, 2u) << steps;
  }
}

TEST(PartitionReplayTest, TheRateHoldsAndAStoppedOneStaysStopped) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), "k").ok());
  ReplayOrder order;
  order.rate_millis = 10'000;  // ten a second
  (void)Begin(rig, "all", order);
  for (int i = 0; i < 20; ++i) rig.Advance(std::chrono::milliseconds(100));
  const std::uint64_t copied = Reached(rig, "all").copied;
  EXPECT_GE(copied, 17u);
  EXPECT_LE(copied, 22u);
  EXPECT_FALSE(rig.shards == nullptr);
  absl::Status second;
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    partition.Replay("all", ReplayOrder(), [&](const absl::StatusOr<ReplayProgress>& answer) {
      second = answer.status();
    });
    EXPECT_TRUE(partition.StopReplay("all").ok());
  });
  rig.Run();
  EXPECT_TRUE(absl::IsFailedPrecondition(second)) << second;
  ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
  rig.Advance(std::chrono::seconds(60));
  EXPECT_EQ(rig.Books().matched, 100 + copied);
}

absl::Status Feed(PartitionRig& rig, int number) {
  LaneBatch batch;
  batch.lane = {"lane", "0"};
  batch.events.push_back(PartitionRig::MakeEvent(fmt::format("l{}", number), "k", 10));
  batch.position = std::to_string(number);
  absl::Status answer = absl::UnknownError("not answered");
  batch.done = [&answer](const absl::Status& status) { answer = status; };
  EXPECT_TRUE(rig.shards->TryAppendLane(PartitionId(0), batch).ok());
  rig.Run();
  return answer;
}

TEST(PartitionBacklogTest, AFullOneRefusesPublishersAndLetsSourcesWaitUntilThereIsRoom) {
  PartitionRig rig;
  rig.triggers[0].policy.backlog.size_max = 3;
  ASSERT_TRUE(rig.Start().ok());
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Feed(rig, i + 1).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Feed(rig, 4)));
  std::optional<PublishOutcome> answer;
  rig.Send("e1", answer, "k");
  rig.Run();
  ASSERT_TRUE(answer.has_value());
  ASSERT_THAT(answer->verdicts, SizeIs(1));
  EXPECT_TRUE(absl::IsResourceExhausted(answer->verdicts[0].refusal));
  EXPECT_THAT(std::string(answer->verdicts[0].refusal.message()), HasSubstr("backlog.max_size"));
  EXPECT_EQ(rig.Books().matched, 3u);
  rig.Attach();
  EXPECT_THAT(rig.DrainAll(), SizeIs(3));
  EXPECT_TRUE(Feed(rig, 4).ok());
  rig.Send("e1", answer, "k");
  rig.Run();
  EXPECT_THAT(answer->verdicts, IsEmpty());
}

TEST(PartitionBacklogTest, AFullOneThatDropsRecordsWhatItDropped) {
  PartitionRig rig;
  rig.triggers[0].policy.backlog.size_max = 3;
  rig.triggers[0].policy.backlog.when_full = WhenFull::kDrop;
  rig.AddTrigger("other");
  ASSERT_TRUE(rig.Start().ok());
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(rig.Publish(fmt::format("e{}", i), "k").ok());
  const auto check = [&] {
    const TriggerBooks books = rig.Books();
    EXPECT_EQ(books.matched, 8u);
    EXPECT_EQ(books.dropped, 5u);
    EXPECT_EQ(books.pending, 3u);
    EXPECT_EQ(rig.Books("other").pending, 8u);
  };
  check();
  EXPECT_EQ(Story(rig, 2)->deliveries[0].fate, Fate::kQueued);
  EXPECT_EQ(Story(rig, 5)->deliveries[0].fate, Fate::kDropped);
  ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
  check();
  rig.Attach();
  EXPECT_THAT(rig.DrainAll(), SizeIs(3 + 8));
}

TEST(PartitionBacklogTest, WhatWaitedTooLongExpiresWithALetter) {
  PartitionRig rig;
  rig.triggers[0].policy.backlog.age_max = std::chrono::seconds(60);
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("old", "k").ok());
  rig.Advance(std::chrono::seconds(40));
  ASSERT_TRUE(rig.Publish("new", "k").ok());
  rig.Advance(std::chrono::seconds(30));
  EXPECT_EQ(rig.Books().expired, 1u);
  EXPECT_EQ(rig.Books().pending, 1u);
  EXPECT_EQ(rig.Snapshot().open_letters, 1u);
  EXPECT_EQ(Story(rig, 0)->deliveries[0].fate, Fate::kExpired);
  rig.Attach();
  EXPECT_THAT(rig.DrainAll(), ElementsAre("new"));
}

TEST(PartitionExplainTest, EveryFateIsTold) {
  PartitionRig rig;
  rig.triggers[0].policy.retry.attempts_max = 2;
  rig.triggers[0].policy.retry.jitter = Jitter::kNone;
  ASSERT_TRUE(rig.Start().ok());
  for (const char* id : {"acked", "dropped", "rejected", "failed", "held", "waits"}) {
    ASSERT_TRUE(rig.Publish(id, std::string(id) == "waits" ? "held" : id).ok());
  }
  rig.Attach();
  rig.Answer(Ack{});
  rig.Answer(Drop{"not wanted"});
  rig.Answer(Reject{"never"});
  rig.Answer(Retry{"busy", "try later", std::nullopt});
  rig.Run();
  const auto fate = [&](std::uint64_t offset) {
    const absl::StatusOr<EventStory> story = Story(rig, offset);
    EXPECT_TRUE(story.ok()) << story.status();
    EXPECT_THAT(story->deliveries, SizeIs(1));
    return story->deliveries.at(0);
  };
  EXPECT_EQ(fate(0).fate, Fate::kAcked);
  EXPECT_EQ(fate(1).fate, Fate::kDropped);
  EXPECT_EQ(fate(2).fate, Fate::kDead);
  EXPECT_THAT(fate(2).detail, HasSubstr("rejected"));
  const DeliveryFate failed = fate(3);
  EXPECT_EQ(failed.fate, Fate::kDelayed);
  EXPECT_EQ(failed.failed, 1u);
  ASSERT_TRUE(failed.next_attempt.has_value());
  EXPECT_THAT(failed.detail, HasSubstr("busy: try later"));
  EXPECT_EQ(fate(4).fate, Fate::kInFlight);
  EXPECT_EQ(fate(5).fate, Fate::kQueued);
  EXPECT_THAT(fate(5).detail, HasSubstr("waits for 0/4"));
  EXPECT_TRUE(absl::IsNotFound(Story(rig, 6).status()));
  // Redriven: the letter says as what, and the new run is told of with it.
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    partition.Redrive(DeliveryId{PartitionId(0), Offset(2), TriggerOrdinal(0), 0},
                      [](const absl::Status& status) { EXPECT_TRUE(status.ok()) << status; });
  });
  rig.Run();
  const absl::StatusOr<EventStory> story = Story(rig, 2);
  ASSERT_TRUE(story.ok());
  ASSERT_THAT(story->deliveries, SizeIs(2));
  EXPECT_THAT(story->deliveries[0].detail, HasSubstr("redriven as 0/6"));
  EXPECT_EQ(story->deliveries[1].id.run, 1u);
  EXPECT_EQ(story->deliveries[1].fate, Fate::kInFlight);
}

// The journal answers a publisher before the partition hears of it: who asks between the two gets
// what was answered.
TEST(PartitionExplainTest, WhatWasAnsweredIsFound) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  std::optional<PublishOutcome> answer;
  bool asked_before = false;
  absl::StatusOr<EventStory> story = absl::UnknownError("not answered");
  std::vector<EventRecordInfo> events;
  absl::StatusOr<ReplayProgress> counted = absl::UnknownError("not answered");
  rig.Send("e0", answer, "", 10, [&] {
    rig.shards->Post(PartitionId(0), [&](Partition& partition) {
      asked_before = partition.Snapshot().durable_end < partition.end();
      partition.Explain(Offset(),
                        [&](absl::StatusOr<EventStory> told) { story = std::move(told); });
      partition.ReadEvents(Offset(), 10, 1 << 20, [&](absl::StatusOr<EventPage> page) {
        ASSERT_TRUE(page.ok());
        events = std::move(page->events);
      });
      ReplayOrder dry;
      dry.dry_run = true;
      partition.Replay("all", dry, [&](absl::StatusOr<ReplayProgress> progress) {
        counted = std::move(progress);
      });
    });
  });
  rig.Run();
  EXPECT_TRUE(asked_before) << "not the order that this is about";
  EXPECT_TRUE(story.ok()) << story.status();
  EXPECT_THAT(events, SizeIs(1));
  ASSERT_TRUE(counted.ok()) << counted.status();
  EXPECT_EQ(counted->copied, 1u);
}

TEST(PartitionExplainTest, TheConfigurationOfTheEventsTimeIsKept) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  const std::string first = rig.triggers[0].config_json;
  ASSERT_TRUE(rig.Publish("e0").ok());
  rig.triggers[0].config_json = "{\"second\":1}";
  rig.triggers[0].config_hash = "second";
  rig.Reload();
  ASSERT_TRUE(rig.Publish("e1").ok());
  rig.Advance(rig.partition_options.checkpoint_every * 2);
  ASSERT_TRUE(rig.Restart(Coins::kNone).ok());
  const absl::StatusOr<EventStory> before = Story(rig, 0);
  ASSERT_TRUE(before.ok());
  ASSERT_THAT(before->configs, SizeIs(1));
  EXPECT_EQ(before->configs[0].config_json, first);
  EXPECT_THAT(Story(rig, 1)->configs, IsEmpty());
}

}  // namespace
}  // namespace tocsin
