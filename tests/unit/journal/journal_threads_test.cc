// The file journal with the threads of production, all of its methods at once: for the thread
// sanitizer, and because one thread hides what two find.

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <future>
#include <string>

#include "broker/base/check.h"
#include "broker/base/random.h"
#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "broker/base/system_file_system.h"
#include "broker/base/thread_executor.h"
#include "broker/journal/file_journal.h"
#include "broker/journal/record.h"

namespace tocsin {
namespace {

constexpr int kBatches = 400;

// One partition's owner on a thread of its own.
class Owner {
 public:
  Owner(FileJournal& journal, PartitionId id, const Clock& clock)
      : journal_(journal), id_(id), executor_("owner", clock) {
    journal_.Open(id_, executor_, [this](absl::StatusOr<OpenResult> opened) {
      TOCSIN_CHECK(opened.ok(), "{}", opened.status().ToString());
      epoch_ = opened->epoch;
      start_ = opened->start;
      for (int i = 0; i < 16; ++i) AppendOne();
    });
  }
  ~Owner() { executor_.Stop(); }

  // The number of events read back at the end.
  std::size_t Wait() { return done_.get_future().get(); }

 private:
  void AppendOne() {
    if (next_ == kBatches) return;
    std::string body;
    RecordWriter(body).Add(RecordType::kEvent, std::string(500, 'e'));
    RecordBatch batch;
    batch.partition = id_;
    batch.epoch = epoch_;
    batch.base_offset = Offset(next_++);
    batch.event_count = 1;
    batch.record_count = 1;
    batch.body = std::make_shared<const std::string>(std::move(body));
    if (next_ % 10 == 0) batch.letters.push_back({{id_, batch.base_offset, {}, 0}, "letter"});
    batch.notify.push_back(
        [this](const absl::Status& status) { notified_ += status.ok() ? 1 : 0; });
    journal_.Append(std::move(batch), [this](absl::StatusOr<AppendResult> result) {
      TOCSIN_CHECK(result.ok(), "{}", result.status().ToString());
      ++appended_;
      if (appended_ % 50 == 0) Checkpoint(result->end);
      if (appended_ % 20 == 0) Look(result->position);
      if (appended_ == kBatches) return ReadBack();
      AppendOne();
    });
  }

  void Checkpoint(JournalPosition end) {
    if (checkpointing_) return;
    checkpointing_ = true;
    CheckpointDelta delta{id_, epoch_, false, {{1, 1, std::string(1000, 'p')}}};
    journal_.WriteCheckpoint(std::move(delta), end, [this](absl::Status status) {
      TOCSIN_CHECK(status.ok(), "{}", status.ToString());
      checkpointing_ = false;
    });
  }

  void Look(JournalPosition position) {
    EXPECT_LE(journal_.Locate(id_, Offset(0)), position);
    journal_.Read(id_, position, 1000, [](auto read) { EXPECT_TRUE(read.ok()); });
    journal_.TrimLettersBelow(id_, LetterPosition(1));
    EXPECT_GT(journal_.Info().log_bytes, 0u);
  }

  void ReadBack() {
    journal_.Read(id_, start_, SIZE_MAX / 2, [this](absl::StatusOr<ReadResult> read) {
      TOCSIN_CHECK(read.ok());
      std::size_t events = 0;
      for (const StoredBatch& batch : read->batches) events += batch.event_count;
      EXPECT_EQ(notified_, kBatches);
      journal_.ListLetters(id_, LetterPosition(0), [this, events](auto letters) {
        EXPECT_EQ(letters->size(), static_cast<std::size_t>(kBatches / 10));
        done_.set_value(events);
      });
    });
  }

  FileJournal& journal_;
  const PartitionId id_;
  std::promise<std::size_t> done_;
  std::atomic<int> notified_{0};
  Epoch epoch_;
  JournalPosition start_;
  std::uint64_t next_ = 0;
  int appended_ = 0;
  bool checkpointing_ = false;
  ThreadExecutor executor_;
};

// A journal with its threads, in a directory of its own.
class JournalThreadsTest : public ::testing::Test {
 protected:
  void Open(std::uint32_t partitions) {
    dir_ = (std::filesystem::temp_directory_path() / "tocsin-threads-XXXXXX").string();
    ASSERT_NE(mkdtemp(dir_.data()), nullptr);
    auto fs = OpenSystemFileSystem(dir_);
    ASSERT_TRUE(fs.ok());
    fs_ = *std::move(fs);
    FileJournalOptions options;
    options.partitions = partitions;
    options.segment_bytes = 64 * 1024;
    options.letter_segment_bytes = 32 * 1024;
    options.reserve_bytes = 0;
    auto journal = OpenFileJournal(std::move(options), *fs_, clock_, random_);
    ASSERT_TRUE(journal.ok()) << journal.status();
    journal_ = *std::move(journal);
  }
  ~JournalThreadsTest() override {
    journal_.reset();
    std::filesystem::remove_all(dir_);
  }

  std::string dir_;
  SystemClock clock_;
  SeededRandom random_{3};
  std::unique_ptr<FileSystem> fs_;
  std::unique_ptr<FileJournal> journal_;
};

TEST_F(JournalThreadsTest, TwoOwnersAndThreeThreadsKeepEverythingInOrder) {
  Open(2);
  Owner first(*journal_, PartitionId(0), clock_);
  Owner second(*journal_, PartitionId(1), clock_);
  EXPECT_EQ(first.Wait(), static_cast<std::size_t>(kBatches));
  EXPECT_EQ(second.Wait(), static_cast<std::size_t>(kBatches));
  EXPECT_GT(journal_->Info().segments, 3u);
  EXPECT_FALSE(journal_->Info().failed);
  // The journal's threads end before its owners.
  journal_.reset();
}

// Appends one small batch after the other until an owner that sleeps was told on another thread.
TEST_F(JournalThreadsTest, ASmallGroupsOwnerIsServedInItsPlace) {
  Open(1);
  ThreadExecutor owner("owner", clock_);
  std::promise<Epoch> opened;
  std::promise<pid_t> own;
  owner.Post([&] { own.set_value(gettid()); });
  const pid_t thread = own.get_future().get();
  pid_t opener = 0;
  journal_->Open(PartitionId(0), owner, [&](const absl::StatusOr<OpenResult>& result) {
    opener = gettid();
    opened.set_value(result->epoch);
  });
  const Epoch epoch = opened.get_future().get();
  EXPECT_EQ(opener, thread) << "what follows an opening is long";
  bool elsewhere = false;
  const Instant deadline = clock_.Monotonic() + std::chrono::seconds(20);
  for (std::uint64_t offset = 0; !elsewhere && clock_.Monotonic() < deadline; ++offset) {
    std::promise<pid_t> told;
    owner.Post([&] {
      std::string body;
      RecordWriter(body).Add(RecordType::kEvent, "e");
      RecordBatch batch;
      batch.partition = PartitionId(0);
      batch.epoch = epoch;
      batch.base_offset = Offset(offset);
      batch.event_count = batch.record_count = 1;
      batch.body = std::make_shared<const std::string>(std::move(body));
      journal_->Append(std::move(batch), [&](const absl::StatusOr<AppendResult>& result) {
        EXPECT_TRUE(result.ok()) << result.status();
        told.set_value(gettid());
      });
    });
    elsewhere = told.get_future().get() != thread;
  }
  EXPECT_TRUE(elsewhere);
  journal_.reset();
}

}  // namespace
}  // namespace tocsin
