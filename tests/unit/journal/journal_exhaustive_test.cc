// The log under every single fault of a kind, one after the other: the n-th call fails, until a run
// passes without; every byte is another one in turn.

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/journal/journal_rig.h"

namespace tocsin {
namespace {

using Coins = SimFileSystem::Coins;
using Call = SimFileSystem::Call;

constexpr int kBatches = 14;

std::string Text(int i) { return fmt::format("{:02d}", i) + std::string(4500, 'd'); }

// What a run knows: what was answered OK, and what may be there all the same.
struct Ledger {
  std::vector<std::string> durable;
  std::vector<std::string> maybe;
  bool checkpointed = false;
};

// Opens, appends over several segments with letters, writes a checkpoint, trims, opens again.
// Everything may fail; nothing that failed may be answered OK.
void Work(JournalRig& rig, Ledger& ledger) {
  if (!rig.Start().ok() || !rig.Open().ok()) return;
  for (int i = 0; i < kBatches; ++i) {
    RecordBatch batch = rig.Batch(Text(i));
    if (i % 5 == 4) {
      batch.letters.push_back(
          {DeliveryId{PartitionId(0), Offset(1), TriggerOrdinal(0), 0}, "dead"});
    }
    const auto appended = rig.Append(std::move(batch));
    if (appended.ok()) {
      ledger.durable.push_back(Text(i));
      ASSERT_TRUE(ledger.maybe.empty()) << "batch " << i << " was answered behind one that was not";
    } else if (absl::IsResourceExhausted(appended.status())) {
      rig.next_offset -= 1;  // not written, for certain
    } else {
      ledger.maybe.push_back(Text(i));
    }
    if (appended.ok() && i == kBatches / 2) {
      ledger.checkpointed =
          rig.WriteCheckpoint("state", appended->position).ok() || ledger.checkpointed;
      if (ledger.checkpointed) rig.journal->TrimBelow(PartitionId(0), appended->position);
      rig.Run();
    }
  }
  // The next process reads what this one left.
  rig.Kill();
  if (rig.Start().ok()) static_cast<void>(rig.Open());
}

// After a power cut and with a whole disk, what was answered is there, in order, and all goes on.
void Check(JournalRig& rig, const Ledger& ledger, const std::string& what) {
  SCOPED_TRACE(what);
  rig.fs.ClearFaults();
  ASSERT_EQ(rig.Restart(Coins::kFair), absl::OkStatus());
  const auto opened = rig.Open();
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(!ledger.checkpointed || opened->checkpoint.has_value());
  const ReadResult read = rig.ReadAll();
  EXPECT_TRUE(read.unreadable.empty());
  std::vector<std::string> all = ledger.durable;
  all.insert(all.end(), ledger.maybe.begin(), ledger.maybe.end());
  const std::vector<std::string> texts = rig.Texts();
  // From the front whole segments may be trimmed, behind the end is what was never answered.
  if (texts.empty()) {
    EXPECT_TRUE(ledger.durable.empty());
    return;
  }
  const auto first = std::find(all.begin(), all.end(), texts.front());
  const auto trimmed = static_cast<std::size_t>(first - all.begin());
  ASSERT_LE(trimmed, ledger.checkpointed ? kBatches / 2 : 0u);
  ASSERT_GE(trimmed + texts.size(), ledger.durable.size());
  ASSERT_TRUE(std::equal(texts.begin(), texts.end(), first));
  rig.next_offset = trimmed + texts.size();
  EXPECT_TRUE(rig.Append("goes on").ok());
}

class NthCallTest : public ::testing::TestWithParam<Call> {};

// FAULTS F4, F5: of the calls of a kind, each fails once, for good or for want of space.
TEST_P(NthCallTest, F4WhicheverCallFailsNothingAnsweredIsLostAndARestartGoesOn) {
  for (const absl::Status& error :
       {absl::InternalError("EIO"), absl::ResourceExhaustedError("no space")}) {
    int n = 0;
    for (;; ++n) {
      JournalRig rig(static_cast<std::uint64_t>(n) + 1);
      Ledger ledger;
      rig.fs.Fail(GetParam(), "", error, 1, n);
      Work(rig, ledger);
      const bool failed = !rig.fs.HasFaults();
      Check(rig, ledger, fmt::format("call {} fails with {}", n, error.ToString()));
      if (HasFatalFailure() || !failed) break;
      ASSERT_LT(n, 2000);
    }
    EXPECT_GT(n, 3) << "hardly a call was there to fail";
  }
}

INSTANTIATE_TEST_SUITE_P(Calls, NthCallTest,
                         ::testing::Values(Call::kWrite, Call::kSync, Call::kPreallocate,
                                           Call::kCreate, Call::kRead));

// FAULTS F2: the power goes off at each operation in turn, also at those of the recovery.
TEST(EveryOperationTest, F2AtWhicheverOperationThePowerGoesNothingAnsweredIsLost) {
  for (std::uint64_t n = 0;; ++n) {
    JournalRig rig(n + 1);
    Ledger ledger;
    rig.fs.PowerOffAfter(n);
    Work(rig, ledger);
    const bool off = rig.fs.powered_off();
    rig.Kill();
    rig.fs.Crash(Coins::kFair);
    // And once more, in the middle of the recovery.
    rig.fs.PowerOffAfter(n % 23);
    if (rig.Start().ok()) static_cast<void>(rig.Open());
    rig.Kill();
    rig.fs.NoPowerOff();
    Check(rig, ledger, fmt::format("the power goes off after {} operations", n));
    if (HasFatalFailure() || !off) break;
    ASSERT_LT(n, 5000u);
  }
}

// FAULTS F7, F8, F9: a closed log with an index and a checkpoint, one byte of it another one.
TEST(EveryByteTest, F7WhicheverByteIsWrongNothingWrongIsServedAndNothingIsHidden) {
  JournalRig clean;
  Ledger ledger;
  Work(clean, ledger);
  ASSERT_EQ(ledger.durable.size(), static_cast<std::size_t>(kBatches));
  clean.Kill();
  const auto copy = [&clean](JournalRig& rig) {
    for (const std::string& path : clean.fs.Paths()) {
      if (path != "lock") rig.fs.Put(path, clean.fs.Bytes(path));
    }
  };
  JournalRig whole;
  copy(whole);
  whole.StartAndOpen();
  const std::vector<std::string> stored = whole.Texts();
  ASSERT_GT(stored.size(), 5u);
  std::size_t tried = 0;
  std::size_t refused = 0;
  for (const std::string& path : clean.fs.Paths()) {
    if (path == "lock") continue;
    const std::string bytes = clean.fs.Bytes(path);
    // Every byte of what is small and of the first part of a segment; then every 97th.
    for (std::size_t at = 0; at < bytes.size(); at += at < 600 || bytes.size() < 2000 ? 1 : 97) {
      JournalRig rig;
      copy(rig);
      rig.fs.FlipBit(path, at, static_cast<unsigned>(at % 8));
      SCOPED_TRACE(fmt::format("{} at {}", path, at));
      ++tried;
      const absl::Status started = rig.Start();
      if (!started.ok()) {  // said, with the file's name, and nothing was changed
        ++refused;
        EXPECT_NE(MessageOf(started).find(path.substr(path.rfind('/') + 1)), std::string_view::npos)
            << started;
        continue;
      }
      if (const auto opened = rig.Open(); !opened.ok()) {
        ++refused;
        continue;
      }
      const ReadResult read = rig.ReadAll();
      const std::vector<std::string> texts = rig.Texts();
      // What is served is what was written, in order. At most one batch is missing, and it is named
      // or, if it was the last one, kept in quarantine.
      auto next = stored.begin();
      for (const std::string& text : texts) {
        next = std::find(next, stored.end(), text);
        ASSERT_NE(next, stored.end()) << "something else is served";
        ++next;
      }
      ASSERT_GE(texts.size() + 1, stored.size());
      if (texts.size() < stored.size()) {
        EXPECT_TRUE(read.unreadable.size() == 1 || !rig.Paths("quarantine/").empty());
      }
    }
  }
  EXPECT_GT(tried, 2000u);
  EXPECT_LT(refused, tried / 4);
}

}  // namespace
}  // namespace tocsin
