// Lanes of sources that were renamed, on a partition with a simulated disk.

#include "broker/server/lane_sink.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

using Entries = std::map<std::string, std::string>;

class LaneSinkTest : public ::testing::Test {
 protected:
  LaneSinkTest() { EXPECT_TRUE(rig_.Start().ok()); }

  LaneState Attach(const std::string& name, const std::string& was = "") {
    absl::StatusOr<LaneState> attached = TryAttach(name, was);
    if (!attached.ok()) {
      ADD_FAILURE() << attached.status();
      return {};
    }
    return *std::move(attached);
  }
  absl::StatusOr<LaneState> TryAttach(const std::string& name, const std::string& was = "") {
    LaneSink sink(LaneId{name, "key"}, was, *rig_.shards, rig_.owner);
    std::optional<absl::StatusOr<LaneState>> attached;
    sink.Attach(
        {}, [](std::vector<LaneEventRef>, SettledAs) {},
        [&attached](absl::StatusOr<LaneState> state) { attached = std::move(state); });
    rig_.Run();
    return std::move(attached).value_or(absl::DeadlineExceededError("no answer"));
  }
  void Keep(const std::string& name, const std::string& position, const Entries& puts,
            const std::vector<std::string>& erases = {}) {
    LaneBatch batch;
    batch.lane = LaneId{name, "key"};
    batch.position = position;
    batch.puts.assign(puts.begin(), puts.end());
    batch.erases = erases;
    std::optional<absl::Status> kept;
    batch.done = [&kept](absl::Status status) { kept = std::move(status); };
    ASSERT_TRUE(rig_.shards->TryAppendLane(PartitionId(0), batch).ok());
    rig_.Run();
    ASSERT_TRUE(kept.has_value() && kept->ok());
  }
  void Expect(const LaneState& state, const std::string& position, const Entries& entries) {
    EXPECT_EQ(state.position.value, position);
    EXPECT_EQ(state.entries, entries);
  }

  PartitionRig rig_;
};

// What is left of the old one would come back when the new one is forgotten.
TEST_F(LaneSinkTest, RenamedLaneIsTakenOverOnce) {
  Entries entries;
  for (int i = 0; i < 100; ++i) entries["file" + std::to_string(i)] = "seen";
  Keep("a", "7", entries);
  Expect(Attach("b", "a"), "7", entries);
  Expect(Attach("a"), "", {});
  ASSERT_TRUE(rig_.Restart().ok());
  Expect(Attach("b", "a"), "7", entries);
  std::vector<std::string> keys;
  for (const auto& [key, value] : entries) keys.push_back(key);
  Keep("b", "", {}, keys);  // forgotten
  Expect(Attach("b", "a"), "", {});
}

TEST_F(LaneSinkTest, LaneThatIsRenamedBackGoesOnWhereItWasLast) {
  Keep("a", "7", {{"x", "1"}});
  Expect(Attach("b", "a"), "7", {{"x", "1"}});
  Keep("b", "9", {{"y", "2"}});
  Expect(Attach("a", "b"), "9", {{"x", "1"}, {"y", "2"}});
  Expect(Attach("b"), "", {});
}

TEST_F(LaneSinkTest, DeathDuringTheTakingOverIsFinished) {
  // Copied, not erased.
  Keep("a", "7", {{"x", "1"}, {"y", "2"}});
  Keep("b", "7", {{"x", "1"}, {"y", "2"}});
  Expect(Attach("b", "a"), "7", {{"x", "1"}, {"y", "2"}});
  Expect(Attach("a"), "", {});
  // Erased in part.
  Keep("a", "", {{"y", "2"}});
  Expect(Attach("b", "a"), "7", {{"x", "1"}, {"y", "2"}});
  Expect(Attach("a"), "", {});
  // Copied in part.
  Keep("c", "5", {{"x", "1"}, {"y", "2"}});
  Keep("d", "", {{"x", "1"}});
  Expect(Attach("d", "c"), "5", {{"x", "1"}, {"y", "2"}});
  Expect(Attach("c"), "", {});
}

// A connector may confirm to the outside what it is told here: not before it is durable.
TEST_F(LaneSinkTest, WithoutRoomOnTheDiskNobodyIsToldOfWhatIsNotDurable) {
  Keep("a", "7", {{"x", "1"}});
  rig_.fs.Fail(SimFileSystem::Call::kWrite, "log", absl::ResourceExhaustedError("ENOSPC"), 1 << 20);
  LaneBatch batch;
  batch.lane = LaneId{"a", "key"};
  batch.position = "8";
  batch.done = [](const absl::Status&) {};
  ASSERT_TRUE(rig_.shards->TryAppendLane(PartitionId(0), batch).ok());
  rig_.Run();
  for (const auto& [name, was] : {std::pair("a", ""), std::pair("b", "a")}) {
    EXPECT_EQ(TryAttach(name, was).status().code(), absl::StatusCode::kResourceExhausted) << name;
  }
  rig_.fs.ClearFaults();
  rig_.Advance(std::chrono::seconds(1));
  Expect(Attach("a"), "8", {{"x", "1"}});
}

// A stop waits for whoever attaches.
TEST_F(LaneSinkTest, AfterTheJournalFailedWhoAttachesIsTold) {
  rig_.fs.Fail(SimFileSystem::Call::kWrite, "log", absl::DataLossError("EIO"), 1 << 20);
  LaneBatch batch;
  batch.lane = LaneId{"a", "key"};
  batch.position = "1";
  batch.done = [](const absl::Status&) {};
  ASSERT_TRUE(rig_.shards->TryAppendLane(PartitionId(0), batch).ok());
  rig_.Run();
  ASSERT_FALSE(rig_.failure.ok());
  EXPECT_EQ(TryAttach("a").status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(LaneSinkTest, LaneWithAPositionOfItsOwnLeavesTheOldOneAlone) {
  Keep("a", "7", {{"x", "1"}});
  Keep("b", "3", {});
  Expect(Attach("b", "a"), "3", {});
  Expect(Attach("a"), "7", {{"x", "1"}});
}

}  // namespace
}  // namespace tocsin
