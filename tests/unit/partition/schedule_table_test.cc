#include "broker/partition/schedule_table.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "broker/base/event.h"
#include "broker/base/random.h"
#include "broker/schedule/rule.h"

namespace tocsin {
namespace {

using Pages = std::map<std::pair<std::uint32_t, std::uint64_t>, std::string>;

std::string Every(std::string_view period) {
  ScheduleSpec spec;
  spec.cron = fmt::format("@every {}", period);
  return EncodeRule(spec);
}

std::string Head(std::string_view name, std::string_view source, std::string_view type) {
  EventBuilder builder(name, source, type);
  builder.Attribute("subject", "s");
  return std::move(builder).Encode();
}
std::string Head(std::string_view name, std::string_view type = "head") {
  return Head(name, ScheduleSource(name), type);
}

ScheduleTable::Id Add(ScheduleTable& table, std::string_view name, std::string_view data = "") {
  ScheduleDefinition definition;
  definition.name = name;
  definition.at_us = 5;
  const std::string head = Head(name);
  definition.head = head;
  definition.data = data;
  return table.Set(definition);
}

void Merge(Pages& pages, CheckpointDelta& delta) {
  for (CheckpointPage& page : delta.pages) {
    if (page.bytes.empty()) {
      pages.erase({page.table, page.page});
    } else {
      pages[{page.table, page.page}] = std::move(page.bytes);
    }
  }
  delta.pages.clear();
}

void Load(const Pages& pages, ScheduleTable& table) {
  for (const auto& [key, bytes] : pages) {
    const absl::Status loaded = table.LoadPage({key.first, key.second, bytes});
    ASSERT_TRUE(loaded.ok()) << loaded;
  }
  ASSERT_TRUE(table.FinishLoad().ok());
}

// All that it holds, by name.
std::map<std::string, std::string> Contents(const ScheduleTable& table) {
  std::map<std::string, std::string> contents;
  for (ScheduleTable::Id id = 0; id < table.end(); ++id) {
    if (!table.Has(id)) continue;
    contents[std::string(table.NameOf(id))] =
        fmt::format("{} {} {} {} {} {} {} {}", id, table.AtOf(id), table.RuleOf(id).size(),
                    table.HeadOf(id), table.DataOf(id), table.IsPaused(id), table.FiredOf(id),
                    table.UnfiredOf(id).ranges().size());
  }
  return contents;
}

TEST(ScheduleTableTest, FindsWhatWasSetUntilItIsRemoved) {
  ScheduleTable table;
  const ScheduleTable::Id a = Add(table, "a", "data of a");
  const ScheduleTable::Id b = Add(table, "b");
  EXPECT_EQ(table.Find("a"), a);
  EXPECT_EQ(table.DataOf(a), "data of a");
  EXPECT_EQ(table.HeadOf(b), Head("b"));
  EXPECT_EQ(table.schedules(), 2u);
  table.Remove(a);
  EXPECT_FALSE(table.Find("a").has_value());
  EXPECT_FALSE(table.Has(a));
  EXPECT_EQ(Add(table, "c"), a) << "the lowest id is given out again";
  EXPECT_EQ(Add(table, "b", "anew"), b) << "in place of the one of that name";
  EXPECT_EQ(table.schedules(), 2u);
  table.Remove(a);
  table.Remove(b);
  EXPECT_EQ(table.bytes(), 0u);
}

TEST(ScheduleTableTest, KeepsOnceWhatDiffersByTheNameOnly) {
  ScheduleTable table;
  (void)Add(table, "first");
  const std::uint64_t with_form = table.bytes();
  ScheduleTable::Id id = 0;
  for (int i = 0; i < 100; ++i) id = Add(table, fmt::format("job-{:03}", i));
  EXPECT_EQ(table.HeadOf(id), Head("job-099"));
  EXPECT_EQ(table.bytes() - with_form, 100u * (64 + 7)) << "no form of their own";
  // A source of its own, even if another schedule is named so, is not made from the name.
  const std::string head = Head("other", ScheduleSource("first"), "head");
  ScheduleDefinition definition;
  definition.name = "other";
  definition.head = head;
  id = table.Set(definition);
  EXPECT_EQ(table.HeadOf(id), head);
  CheckpointDelta delta;
  table.BeginSnapshot(true);
  while (!table.NextPages(SIZE_MAX, delta)) {
  }
  Pages pages;
  Merge(pages, delta);
  EXPECT_EQ(std::count_if(pages.begin(), pages.end(),
                          [](const auto& page) { return page.first.first == 9; }),
            2)
      << "forms";
  ScheduleTable again;
  Load(pages, again);
  EXPECT_EQ(Contents(again), Contents(table));
}

TEST(ScheduleTableTest, GivesTheMemoryBackOfWhatIsGone) {
  ScheduleTable table;
  const std::string large(4000, 'd');
  for (int round = 0; round < 3; ++round) {
    std::vector<ScheduleTable::Id> ids;
    for (int i = 0; i < 3200; ++i) ids.push_back(Add(table, fmt::format("{}-{}", round, i), large));
    // One of each page stays.
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (i % 32 != 7) table.Remove(ids[i]);
    }
    EXPECT_LE(table.text_bytes_held(), 3 * table.bytes());
    for (int i = 0; i < 3000; ++i) (void)Add(table, fmt::format("small-{}-{}", round, i));
    EXPECT_LE(table.text_bytes_held(), 3 * table.bytes());
  }
}

TEST(ScheduleTableTest, DelayedEventsAreNoSchedules) {
  ScheduleTable table;
  const std::string name = DelayedName({1, 2});
  ScheduleDefinition definition;
  definition.name = name;
  definition.at_us = 7;
  definition.data = "event";
  definition.hops = 3;
  const ScheduleTable::Id id = table.Set(definition);
  EXPECT_TRUE(table.IsDelayed(id));
  EXPECT_EQ(table.HopsOf(id), 3u);
  EXPECT_EQ(table.FiredOf(id), 0u);
  EXPECT_EQ(table.delayed(), 1u);
  EXPECT_EQ(table.schedules(), 0u);
  EXPECT_NE(DelayedName({1, 2}), DelayedName({2, 1}));
}

TEST(ScheduleTableTest, KeepsTheStateOfARecurringOne) {
  ScheduleTable table;
  const std::string rule = Every("10s");
  ScheduleDefinition definition;
  definition.name = "tick";
  definition.rule = rule;
  const std::string head = Head("tick");
  definition.head = head;
  definition.at_us = 1'000'000;
  definition.decided_us = 1'000'000;
  const ScheduleTable::Id id = table.Set(definition);
  const auto schedule = table.ScheduleOf(id);
  ASSERT_TRUE(schedule.ok());
  EXPECT_EQ(*schedule, *table.ScheduleOf(id)) << "read once";
  const WallTime start(std::chrono::seconds(1));
  EXPECT_EQ(*table.StateOf(id, **schedule), StartSchedule(start));
  table.SetState(id, "", 11'000'000);
  EXPECT_EQ(table.StateOf(id, **schedule)->decided_through, WallTime(std::chrono::seconds(11)));
  ScheduleState odd = StartSchedule(start);
  odd.waiting.push_back({start, start});
  table.SetState(id, EncodeScheduleState(odd), 11'000'000);
  EXPECT_EQ(*table.StateOf(id, **schedule), odd);
}

// What a checkpoint takes is the table as it was when the snapshot began, however many pieces it
// takes and whatever changes in between; base and deltas together are what was there.
TEST(ScheduleTableTest, ASnapshotInPiecesIsTheTableAsItWasAtItsBegin) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SeededRandom random(seed);
    ScheduleTable table;
    Pages pages;
    std::vector<std::string> rules = {"", Every("1s"), Every("2s"), Every("3s")};
    const auto change = [&] {
      const std::string name = fmt::format("s{}", random.Below(150));
      const auto id = table.Find(name);
      switch (random.Below(id ? 6 : 1)) {
        case 0: {
          ScheduleDefinition definition;
          const std::size_t large = random.Below(20) == 0 ? 300'000 : 5000;
          const std::string data(
              random.Below(8) == 0 ? 4000 + random.Below(large) : random.Below(50),
              static_cast<char>('a' + random.Below(26)));
          definition.name = name;
          definition.at_us = static_cast<std::int64_t>(random.Below(1000));
          definition.rule = rules[random.Below(rules.size())];
          const std::string head = random.Below(3) == 0   ? Head(name, "/other", "head")
                                   : random.Below(2) == 0 ? Head(name)
                                                          : Head(name, "other");
          definition.head = head;
          definition.data = data;
          (void)table.Set(definition);
          break;
        }
        case 1:
          table.SetPaused(*id, random.Below(2) == 0);
          break;
        case 2:
          table.Fired(*id, 7, Offset(1));
          break;
        case 3:
          table.Skipped(*id, 2000, 3000, 5);
          break;
        default:
          table.Remove(*id);
          break;
      }
    };
    for (int round = 0; round < 12; ++round) {
      for (std::uint64_t left = random.Below(120); left > 0; --left) change();
      const std::map<std::string, std::string> expected = Contents(table);
      const bool every = round == 0 || random.Below(4) == 0;
      if (every) pages.clear();
      CheckpointDelta delta;
      table.BeginSnapshot(every);
      while (!table.NextPages(1 + random.Below(4000), delta)) {
        for (std::uint64_t left = random.Below(10); left > 0; --left) change();
        for (const CheckpointPage& page : delta.pages) EXPECT_LE(page.bytes.size(), 256u << 10);
      }
      Merge(pages, delta);
      ScheduleTable again;
      Load(pages, again);
      ASSERT_EQ(Contents(again), expected) << "seed " << seed << ", round " << round;
      ASSERT_EQ(again.schedules() + again.delayed(), expected.size());
    }
  }
}

TEST(ScheduleTableTest, BrokenPagesAreRefused) {
  ScheduleTable table;
  (void)Add(table, "a", std::string(5000, 'x'));
  CheckpointDelta delta;
  table.BeginSnapshot(true);
  while (!table.NextPages(SIZE_MAX, delta)) {
  }
  ASSERT_EQ(delta.pages.size(), 3u);
  std::sort(delta.pages.begin(), delta.pages.end(),
            [](const auto& a, const auto& b) { return a.table < b.table; });
  for (std::size_t broken = 0; broken < 3; ++broken) {
    ScheduleTable again;
    bool refused = false;
    for (std::size_t i = 0; i < 3; ++i) {
      CheckpointPage page = delta.pages[i];
      if (i == broken) page.bytes.resize(page.bytes.size() - 1);
      refused = refused || !again.LoadPage(page).ok();
    }
    EXPECT_TRUE(refused || !again.FinishLoad().ok()) << broken;
  }
  ScheduleTable without_body;
  ASSERT_TRUE(without_body.LoadPage(delta.pages[0]).ok());
  ASSERT_TRUE(without_body.LoadPage(delta.pages[1]).ok());
  EXPECT_FALSE(without_body.FinishLoad().ok());
}

}  // namespace
}  // namespace tocsin
