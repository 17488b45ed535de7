// F1 with a real process on a real disk: a writer is killed by SIGKILL under load, again and again.
//
// The child writes with the threads that production has and tells the parent, through a pipe and
// from `notify`, each batch that is durable. After the kill the parent opens the directory.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <csignal>
#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "broker/base/check.h"
#include "broker/base/random.h"
#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "broker/base/system_file_system.h"
#include "broker/base/thread_executor.h"
#include "broker/journal/file_journal.h"
#include "broker/journal/record.h"
#include "broker/virtual/one_thread_executor.h"

namespace tocsin {
namespace {

constexpr std::uint64_t kInFlight = 64;
constexpr std::uint64_t kLives = 12;  // of one directory

FileJournalOptions Options() {
  FileJournalOptions options;
  options.partitions = 1;
  options.segment_bytes = 1 << 20;
  options.letter_segment_bytes = 1 << 16;
  options.batch_bytes_max = 1 << 16;
  options.reserve_bytes = 0;
  return options;
}

// The child: appends for ever. One batch has one event, its text begins with its offset.
class Writer {
 public:
  Writer(const std::string& dir, int pipe) : pipe_(pipe) {
    fs_ = *OpenSystemFileSystem(dir);
    auto journal = OpenFileJournal(Options(), *fs_, clock_, random_);
    TOCSIN_CHECK(journal.ok(), "{}", journal.status().ToString());
    journal_ = *std::move(journal);
    journal_->Open(PartitionId(0), owner_, [this](absl::StatusOr<OpenResult> opened) {
      TOCSIN_CHECK(opened.ok(), "{}", opened.status().ToString());
      epoch_ = opened->epoch;
      FindEnd(opened->start);
    });
  }

 private:
  void FindEnd(JournalPosition from) {
    journal_->Read(PartitionId(0), from, 1 << 20, [this](absl::StatusOr<ReadResult> read) {
      TOCSIN_CHECK(read.ok(), "{}", read.status().ToString());
      for (const StoredBatch& batch : read->batches) {
        next_ = batch.base_offset.value() + batch.event_count;
      }
      if (!read->at_end) return FindEnd(read->next);
      for (std::uint64_t i = 0; i < kInFlight; ++i) AppendOne();
    });
  }

  void AppendOne() {
    const std::uint64_t offset = next_++;
    std::string body;
    RecordWriter(body).Add(RecordType::kEvent,
                           fmt::format("{}:", offset) + std::string(random_.Below(4000), 'x'));
    RecordBatch batch;
    batch.epoch = epoch_;
    batch.base_offset = Offset(offset);
    batch.event_count = 1;
    batch.record_count = 1;
    batch.body = std::make_shared<const std::string>(std::move(body));
    batch.notify.push_back([this, offset](const absl::Status& status) {
      TOCSIN_CHECK(status.ok(), "{}", status.ToString());
      TOCSIN_CHECK(write(pipe_, &offset, sizeof(offset)) == sizeof(offset));
    });
    journal_->Append(std::move(batch), [this](auto result) {
      TOCSIN_CHECK(result.ok());
      AppendOne();
    });
  }

  const int pipe_;
  SystemClock clock_;
  SeededRandom random_{SystemSeed()};
  std::unique_ptr<FileSystem> fs_;
  ThreadExecutor owner_{"owner", clock_};
  std::unique_ptr<FileJournal> journal_;
  Epoch epoch_;
  std::uint64_t next_ = 0;
};

// Opens the directory in this process and gives the offsets in the order they lie there.
std::vector<std::uint64_t> ReadBack(const std::string& dir) {
  auto fs = OpenSystemFileSystem(dir);
  TOCSIN_CHECK(fs.ok());
  VirtualClock clock;
  SeededRandom random(1);
  OneThreadExecutor executor(clock);
  auto journal = OpenFileJournal(
      Options(), FileJournalPorts{**fs, clock, random, executor, executor, executor});
  EXPECT_TRUE(journal.ok()) << journal.status();
  std::vector<std::uint64_t> offsets;
  if (!journal.ok()) return offsets;
  (*journal)->Open(PartitionId(0), executor, [&](absl::StatusOr<OpenResult> opened) {
    ASSERT_TRUE(opened.ok()) << opened.status();
    (*journal)->Read(PartitionId(0), opened->start, SIZE_MAX / 2, [&](auto read) {
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_TRUE(read->unreadable.empty());
      for (const StoredBatch& batch : read->batches) {
        RecordReader reader(*batch.body);
        RecordView record;
        ASSERT_TRUE(reader.Next(record));
        if (record.type != RecordType::kEvent) continue;
        std::uint64_t offset = 0;
        std::from_chars(record.body.data(), record.body.data() + record.body.size(), offset);
        EXPECT_EQ(offset, batch.base_offset.value());
        offsets.push_back(offset);
      }
    });
  });
  executor.RunUntilIdle();
  return offsets;
}

std::uint64_t FromEnvironment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

// The lives of one directory, each ended by a kill.
void KillWriters(const std::string& dir, SeededRandom& random, std::uint64_t lives) {
  std::set<std::uint64_t> told;
  for (std::uint64_t round = 0; round < lives; ++round) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      close(ends[0]);
      const Writer writer(dir, ends[1]);
      while (true) pause();
    }
    close(ends[1]);
    const std::uint64_t kill_after = 1 + random.Below(3000);
    std::uint64_t offset = 0;
    std::uint64_t heard = 0;
    while (read(ends[0], &offset, sizeof(offset)) == sizeof(offset)) {
      told.insert(offset);
      if (++heard == kill_after) kill(child, SIGKILL);
    }
    close(ends[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "the writer ended itself";
    const auto offsets = ReadBack(dir);
    for (std::size_t i = 0; i < offsets.size(); ++i) ASSERT_EQ(offsets[i], i);
    ASSERT_FALSE(told.empty());
    ASSERT_GE(offsets.size(), *told.rbegin() + 1) << "round " << round;
    // Beyond what was told there is at most what was under way.
    ASSERT_LE(offsets.size(), *told.rbegin() + 1 + 2 * kInFlight);
  }
}

// TOCSIN_KILLS asks for more.
TEST(JournalKillTest, F1WhatAWriterWasToldSurvivesItsKill) {
  const std::uint64_t seed = FromEnvironment("TOCSIN_SEED", SystemSeed());
  const std::uint64_t kills = FromEnvironment("TOCSIN_KILLS", kLives);
  fmt::print("TOCSIN_SEED={}, {} kills\n", seed, kills);
  SeededRandom random(seed);
  for (std::uint64_t done = 0; done < kills && !HasFatalFailure(); done += kLives) {
    std::string dir = (std::filesystem::temp_directory_path() / "tocsin-kill-XXXXXX").string();
    ASSERT_NE(mkdtemp(dir.data()), nullptr);
    KillWriters(dir, random, std::min<std::uint64_t>(kLives, kills - done));
    std::filesystem::remove_all(dir);
  }
}

}  // namespace
}  // namespace tocsin
