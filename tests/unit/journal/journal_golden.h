// What is in tests/golden/journal-1, for the tool that wrote it and the test that opens it.

#pragma once

#include <string>

#include "broker/base/check.h"
#include "broker/base/system_file_system.h"
#include "broker/journal/file_journal.h"
#include "broker/journal/record.h"
#include "broker/virtual/one_thread_executor.h"

namespace tocsin {

inline constexpr int kGoldenBatches = 12;

inline std::string GoldenText(int batch) {
  return std::to_string(batch) + ":" + std::string(700, static_cast<char>('a' + batch));
}

// A file journal on a real directory, driven from one thread.
class GoldenJournal {
 public:
  explicit GoldenJournal(const std::string& dir) {
    auto fs = OpenSystemFileSystem(dir);
    TOCSIN_CHECK(fs.ok(), "{}", fs.status().ToString());
    fs_ = *std::move(fs);
    FileJournalOptions options;
    options.partitions = 2;
    options.version = "0.1.0";
    options.segment_bytes = 12288;
    options.letter_segment_bytes = 8192;
    options.segments_ahead = 1;
    options.checkpoint_bytes_per_second = 0;
    auto opened =
        OpenFileJournal(std::move(options),
                        FileJournalPorts{*fs_, clock_, random_, executor_, executor_, executor_});
    TOCSIN_CHECK(opened.ok(), "{}", opened.status().ToString());
    journal_ = *std::move(opened);
    Run();
  }

  FileJournal& operator*() { return *journal_; }
  void Run() { executor_.RunUntilIdle(); }

  OpenResult Open(PartitionId id) {
    OpenResult result;
    journal_->Open(id, executor_, [&result](absl::StatusOr<OpenResult> opened) {
      TOCSIN_CHECK(opened.ok(), "{}", opened.status().ToString());
      result = *std::move(opened);
    });
    Run();
    return result;
  }

  AppendResult Append(RecordBatch batch) {
    AppendResult result;
    journal_->Append(std::move(batch), [&result](absl::StatusOr<AppendResult> appended) {
      TOCSIN_CHECK(appended.ok(), "{}", appended.status().ToString());
      result = *std::move(appended);
    });
    Run();
    return result;
  }

  Executor& executor() { return executor_; }

 private:
  VirtualClock clock_;
  SeededRandom random_{20260101};
  OneThreadExecutor executor_{clock_};
  std::unique_ptr<FileSystem> fs_;
  std::unique_ptr<FileJournal> journal_;
};

}  // namespace tocsin
