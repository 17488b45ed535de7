// Turns in the place of a shard's thread (docs/adr/0018): brief ones, and nothing long in them.

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <memory>
#include <string>

#include "broker/base/random.h"
#include "broker/base/system_clock.h"
#include "broker/base/system_file_system.h"
#include "broker/base/thread_executor.h"
#include "broker/journal/file_journal.h"
#include "broker/partition/shards.h"
#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

constexpr int kTries = 20;

// One shard, its thread and the journal's, in a directory of its own.
class ShardsLoanTest : public ::testing::Test, public PartitionObserver {
 protected:
  void SetUp() override {
    dir_ = (std::filesystem::temp_directory_path() / "tocsin-loan-XXXXXX").string();
    ASSERT_NE(mkdtemp(dir_.data()), nullptr);
    auto fs = OpenSystemFileSystem(dir_);
    ASSERT_TRUE(fs.ok()) << fs.status();
    fs_ = *std::move(fs);
    FileJournalOptions options;
    options.partitions = 1;
    options.segment_bytes = 64 * 1024;
    options.letter_segment_bytes = 32 * 1024;
    options.reserve_bytes = 0;
    auto journal = OpenFileJournal(std::move(options), *fs_, clock_, random_);
    ASSERT_TRUE(journal.ok()) << journal.status();
    journal_ = *std::move(journal);
    ShardsOptions shards;
    shards.partition.partitions = 1;
    shards_ = std::make_unique<Shards>(
        shards, Shards::Ports{*journal_, {&owner_}, clock_, {&random_}, *this});
    dispatcher_ = std::make_unique<Dispatcher>(*shards_, *shards_);
    shards_->SetDispatcher(*dispatcher_);
    auto plan = std::make_shared<RoutePlan>();
    plan->table = RouteTable::Build({});
    std::promise<absl::Status> opened;
    shards_->Open(std::shared_ptr<const RoutePlan>(std::move(plan)),
                  [&opened](absl::Status status) { opened.set_value(std::move(status)); });
    ASSERT_EQ(opened.get_future().get(), absl::OkStatus());
    std::promise<pid_t> thread;
    owner_.Post([&thread] { thread.set_value(gettid()); });
    owners_ = thread.get_future().get();
  }
  void TearDown() override {
    std::promise<void> closed;
    shards_->Close([&closed](const absl::Status&) { closed.set_value(); });
    closed.get_future().get();
    owner_.Stop();
    journal_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Warn(PartitionId, std::string_view, const std::string&) override {}
  void Failed(PartitionId, const absl::Status& status) override { ADD_FAILURE() << status; }

  // Which thread applied so many stale answers, which came as from a worker's stream.
  pid_t Answer(std::size_t count) {
    std::promise<pid_t> applied;
    AnswerBatch batch;
    batch.acked.resize(count);
    batch.confirmed = [&applied] { applied.set_value(gettid()); };
    {
      const ThreadExecutor::Gathering here;
      shards_->OnAnswers(PartitionId(0), std::move(batch));
    }
    return applied.get_future().get();
  }

  std::string dir_;
  SystemClock clock_;
  SeededRandom random_{3};
  std::unique_ptr<FileSystem> fs_;
  std::unique_ptr<FileJournal> journal_;
  ThreadExecutor owner_{"owner", clock_, ThreadExecutor::Gathered::kYes};
  std::unique_ptr<Shards> shards_;
  std::unique_ptr<Dispatcher> dispatcher_;
  pid_t owners_ = 0;
};

TEST_F(ShardsLoanTest, AFewAnswersAreAppliedWhereTheyCome) {
  const Instant deadline = clock_.Monotonic() + std::chrono::seconds(20);
  bool here = false;
  while (!here && clock_.Monotonic() < deadline) here = Answer(3) == gettid();
  EXPECT_TRUE(here);
}

TEST_F(ShardsLoanTest, ManyAnswersAreTheShardsThreads) {
  for (int i = 0; i < kTries; ++i) EXPECT_EQ(Answer(1000), owners_);
}

TEST_F(ShardsLoanTest, CommandsAreTheShardsThreads) {
  for (int i = 0; i < kTries; ++i) {
    std::promise<pid_t> ran;
    {
      const ThreadExecutor::Gathering here;
      shards_->Post(PartitionId(0), [&ran](Partition&) { ran.set_value(gettid()); });
    }
    EXPECT_EQ(ran.get_future().get(), owners_);
  }
}

// What is due is done in a turn of the shard's own thread, and that turn comes at once.
TEST(PartitionLoanTest, WhatTakesLongIsLeftToTheNextTurn) {
  PartitionRig rig;
  ASSERT_TRUE(rig.Start().ok());
  ASSERT_TRUE(rig.Publish("a").ok());
  rig.Advance(std::chrono::seconds(1));
  const std::size_t before = rig.fs.Paths().size();
  std::optional<Instant> soon;
  std::optional<Instant> later;
  std::size_t files_on_loan = 0;
  rig.clock.Advance(std::chrono::hours(1));  // housekeeping is due, and a checkpoint
  rig.shards->Post(PartitionId(0), [&](Partition& partition) {
    soon = partition.EndTurn(true);
    rig.engine.RunUntilIdle();
    files_on_loan = rig.fs.Paths().size();
    later = partition.EndTurn(false);
  });
  rig.Run();
  EXPECT_EQ(soon, rig.clock.Monotonic());
  EXPECT_EQ(files_on_loan, before);
  EXPECT_GT(later, rig.clock.Monotonic());
  EXPECT_GT(rig.fs.Paths().size(), before) << "the checkpoint";
}

}  // namespace
}  // namespace tocsin
