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

TEST(JournalThreadsTest, TwoOwnersAndThreeThreadsKeepEverythingInOrder) {
  std::string dir = (std::filesystem::temp_directory_path() / "tocsin-threads-XXXXXX").string();
  ASSERT_NE(mkdtemp(dir.data()), nullptr);
  {
    SystemClock clock;
    SeededRandom random(3);
    auto fs = OpenSystemFileSystem(dir);
    ASSERT_TRUE(fs.ok());
    FileJournalOptions options;
    options.partitions = 2;
    options.segment_bytes = 64 * 1024;
    options.letter_segment_bytes = 32 * 1024;
    options.reserve_bytes = 0;
    auto journal = OpenFileJournal(std::move(options), **fs, clock, random);
    ASSERT_TRUE(journal.ok()) << journal.status();
    Owner first(**journal, PartitionId(0), clock);
    Owner second(**journal, PartitionId(1), clock);
    EXPECT_EQ(first.Wait(), static_cast<std::size_t>(kBatches));
    EXPECT_EQ(second.Wait(), static_cast<std::size_t>(kBatches));
    EXPECT_GT((*journal)->Info().segments, 3u);
    EXPECT_FALSE((*journal)->Info().failed);
    // The journal's threads end before its owners.
    journal->reset();
  }
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace tocsin
