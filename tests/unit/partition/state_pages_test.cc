// PartitionState by itself: as pages of a checkpoint and back, when what it holds is very large;
// records that contradict it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/shared_text.h"
#include "broker/base/status.h"
#include "broker/partition/partition_state.h"

namespace tocsin {
namespace {

constexpr int kItems = 61;
constexpr std::size_t kItemBytes = std::size_t{1} << 20;

using Pages = std::map<std::pair<std::uint32_t, std::uint64_t>, std::string>;

PartitionState Empty() { return PartitionState(PartitionId(0), 7, 1'000'000, 100); }

void Apply(PartitionState& state, RecordType type, const std::string& body) {
  ASSERT_EQ(state.Apply(RecordView{type, body, 0}, state.end(), 1), absl::OkStatus());
}

void Define(PartitionState& state, std::uint32_t ordinal, std::string_view name) {
  TriggerDefinedRecord record;
  record.trigger = TriggerOrdinal(ordinal);
  record.name = name;
  record.config_json = "{}";
  std::string body;
  EncodeTriggerDefined(record, body);
  Apply(state, RecordType::kTriggerDefined, body);
}

// As the journal merges a delta. Each page comes once.
void Merge(PartitionState& state, bool every, Pages& pages) {
  CheckpointDelta delta;
  state.TakePages(every, delta);
  while (!state.dynamic().NextPages(SIZE_MAX, delta)) {
  }
  std::set<std::pair<std::uint32_t, std::uint64_t>> seen;
  for (CheckpointPage& page : delta.pages) {
    const std::pair key(page.table, page.page);
    EXPECT_TRUE(seen.insert(key).second) << "table " << page.table << ", page " << page.page;
    if (page.bytes.empty()) {
      pages.erase(key);
    } else {
      pages[key] = std::move(page.bytes);
    }
  }
}

absl::Status Load(const Pages& pages, PartitionState& state) {
  std::vector<CheckpointPage> all;
  for (const auto& [key, bytes] : pages) all.push_back({key.first, key.second, bytes});
  return state.LoadPages(all);
}

// The danger: the parts of one run into the numbers of the next, and no start is possible.
TEST(StatePagesTest, ATriggerWithMuchToRememberComesBackAndTheOneBehindIt) {
  PartitionState state = Empty();
  Define(state, 0, "much");
  Define(state, 1, "next");
  const std::string message(kItemBytes, 'm');
  for (std::uint32_t i = 0; i < kItems; ++i) {
    AttemptFailedRecord attempt;
    attempt.trigger = TriggerOrdinal(0);
    attempt.index = i;
    attempt.offset = Offset(i);
    attempt.attempt = 1;
    attempt.message = message;
    std::string body;
    EncodeAttemptFailed(attempt, body);
    Apply(state, RecordType::kAttemptFailed, body);
  }
  Pages pages;
  Merge(state, true, pages);
  PartitionState loaded = Empty();
  ASSERT_EQ(Load(pages, loaded), absl::OkStatus());
  ASSERT_EQ(loaded.triggers().size(), 2u);
  EXPECT_EQ(loaded.triggers()[1]->name, "next");
  EXPECT_TRUE(loaded.Digest() == state.Digest());
}

TEST(StatePagesTest, MuchThatIsOnItsWayToOthersComesBackAndGoesWithoutATrace) {
  PartitionState state = Empty();
  const std::string event(kItemBytes, 'e');
  for (std::uint64_t i = 1; i <= kItems; ++i) {
    std::string body;
    EncodeOutgoing({i, PartitionId(1), event}, body);
    Apply(state, RecordType::kOutgoing, body);
  }
  Pages pages;
  Merge(state, true, pages);
  PartitionState loaded = Empty();
  ASSERT_EQ(Load(pages, loaded), absl::OkStatus());
  EXPECT_TRUE(loaded.Digest() == state.Digest());
  // Most of it has arrived: what is left takes fewer parts, and smaller ones.
  PartitionState later = Empty();
  ASSERT_EQ(Load(pages, later), absl::OkStatus());
  std::string body;
  EncodeOutgoingDone({PartitionId(1), kItems - 2}, body);
  Apply(later, RecordType::kOutgoingDone, body);
  Merge(later, false, pages);
  PartitionState last = Empty();
  ASSERT_EQ(Load(pages, last), absl::OkStatus());
  ASSERT_EQ(last.outgoing().size(), 1u);
  EXPECT_EQ(last.outgoing().begin()->second.pending.size(), 2u);
}

// `overlap: cancel` ends them one after the other: in which order must not depend on a hash.
TEST(StatePagesTest, WhatAnEventStillNeedsIsToldInTheOrderOfItsTriggers) {
  PartitionState state = Empty();
  constexpr std::uint32_t kTriggers = 20;
  EventRecord record;
  for (std::uint32_t i = 0; i < kTriggers; ++i) {
    Define(state, i, fmt::format("trigger-{}", i));
    record.matches.push_back({TriggerOrdinal(i), 0});
  }
  record.tracked = true;
  const Offset offset = state.end();
  state.ApplyEvent(record, offset, 1, nullptr);
  const std::vector<Match> pending = state.PendingOf(offset);
  ASSERT_EQ(pending.size(), kTriggers);
  for (std::uint32_t i = 0; i < kTriggers; ++i) EXPECT_EQ(pending[i].trigger.value(), i);
}

// A disk that takes back what it had synced can show a log that was cut off as if it had not been.
TEST(PartitionStateTest, MatchesThatDoNotContinueAreToldAsLoss) {
  for (const bool lenient : {false, true}) {
    PartitionState state = Empty();
    if (lenient) state.SetLenient();
    Define(state, 0, "t");
    const auto apply = [&state](std::uint64_t index) {
      EventRecord record;
      const std::string event = EventBuilder("e", "/s", "t").Encode();
      record.event = event;
      record.matches.push_back({TriggerOrdinal(0), index});
      std::string body;
      EncodeEventPrefix(record, body);
      body += event;
      return state.Apply(RecordView{RecordType::kEvent, body, 0}, state.end(), 1);
    };
    EXPECT_EQ(apply(0), absl::OkStatus());
    // What a damaged batch had in between is counted as dropped.
    EXPECT_EQ(apply(5).code(), lenient ? absl::StatusCode::kOk : absl::StatusCode::kDataLoss);
    const absl::Status again = apply(0);
    EXPECT_EQ(again.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(again.message()), testing::HasSubstr("match 0 of trigger 0"));
    EXPECT_EQ(state.FindTrigger("t")->matched, lenient ? 6u : 1u);
  }
}

// Every partition of a process keeps the definitions of all triggers.
TEST(StatePagesTest, TheDefinitionsOfSeveralPartitionsAreInMemoryOnce) {
  const std::size_t before = SharedText::HeldCount();
  PartitionState one = Empty();
  PartitionState other = Empty();
  for (PartitionState* state : {&one, &other}) {
    TriggerDefinedRecord record;
    record.name = "trigger";
    record.config_hash = "hash of it";
    record.config_json = "{\"name\":\"trigger\"}";
    std::string body;
    EncodeTriggerDefined(record, body);
    Apply(*state, RecordType::kTriggerDefined, body);
  }
  EXPECT_EQ(SharedText::HeldCount(), before + 2);
  Pages pages;
  Merge(one, true, pages);
  PartitionState loaded = Empty();
  ASSERT_EQ(Load(pages, loaded), absl::OkStatus());
  EXPECT_EQ(loaded.FindTrigger("trigger")->config_json, "{\"name\":\"trigger\"}");
  EXPECT_EQ(SharedText::HeldCount(), before + 2);
}

}  // namespace
}  // namespace tocsin
