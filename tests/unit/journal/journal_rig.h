// JournalRig: a file journal on a simulated disk, driven from one thread, for tests of faults.

#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/status.h"
#include "broker/journal/file_journal.h"
#include "broker/journal/record.h"
#include "broker/journal/segment.h"
#include "broker/virtual/one_thread_executor.h"
#include "tests/sim/sim_file_system.h"

namespace tocsin {

class JournalRig {
 public:
  explicit JournalRig(std::uint64_t seed = 1) : fs(seed) {}
  ~JournalRig() { Kill(); }

  FileJournalOptions Options() {
    FileJournalOptions options;
    options.partitions = partitions;
    options.version = version;
    options.segment_bytes = 32 * 1024;
    options.letter_segment_bytes = 16 * 1024;
    options.batch_bytes_max = 8 * 1024;
    options.checkpoint_bytes_per_second = 0;
    options.reserve_bytes = reserve_bytes;
    options.quarantine_bytes_max = quarantine_bytes_max;
    options.degraded = degraded;
    options.checkpoints_kept_max = checkpoints_kept_max;
    options.on_fatal = [this](const absl::Status& status) {
      ++fatal_calls;
      fatal = status;
    };
    return options;
  }

  absl::Status Start() {
    auto opened =
        OpenFileJournal(Options(), FileJournalPorts{fs, clock, random, committer, engine, engine});
    if (!opened.ok()) return opened.status();
    journal = *std::move(opened);
    Run();
    return absl::OkStatus();
  }

  void Run() {
    while (committer.RunUntilIdle() + engine.RunUntilIdle() + owner.RunUntilIdle() > 0) {
    }
  }

  // The process ends at once; the disk keeps everything written.
  void Kill() {
    committer.Clear();
    engine.Clear();
    owner.Clear();
    journal.reset();
  }

  absl::Status Restart(SimFileSystem::Coins coins = SimFileSystem::Coins::kAll) {
    Kill();
    fs.Crash(coins);
    return Start();
  }

  absl::StatusOr<OpenResult> Open(PartitionId partition = PartitionId(0)) {
    std::optional<absl::StatusOr<OpenResult>> result;
    journal->Open(partition, owner, [&](auto opened) { result = std::move(opened); });
    Run();
    if (!result) return absl::DeadlineExceededError("not answered");
    if (result->ok()) epoch = (**result).epoch;
    return *std::move(result);
  }

  // Starts, and opens partition 0.
  OpenResult StartAndOpen() {
    EXPECT_TRUE(Start().ok());
    auto opened = Open();
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? *std::move(opened) : OpenResult();
  }

  RecordBatch Batch(const std::string& text, std::uint32_t events = 1) {
    std::string body;
    RecordWriter writer(body);
    for (std::uint32_t i = 0; i < events; ++i) writer.Add(RecordType::kEvent, text);
    if (events == 0) writer.Add(RecordType::kSettled, text);
    RecordBatch batch;
    batch.epoch = epoch;
    batch.base_offset = Offset(next_offset);
    batch.event_count = events;
    batch.record_count = writer.count();
    batch.append_time_us = 7;
    batch.body = std::make_shared<const std::string>(std::move(body));
    next_offset += events;
    return batch;
  }

  absl::StatusOr<AppendResult> Append(RecordBatch batch) {
    std::optional<absl::StatusOr<AppendResult>> result;
    journal->Append(std::move(batch), [&](auto done) { result = std::move(done); });
    Run();
    return result.value_or(absl::DeadlineExceededError("not answered"));
  }
  absl::StatusOr<AppendResult> Append(const std::string& text) { return Append(Batch(text)); }

  ReadResult ReadAll() {
    std::optional<absl::StatusOr<ReadResult>> result;
    journal->Read(PartitionId(0), journal->Info().start, SIZE_MAX / 2,
                  [&](auto done) { result = std::move(done); });
    Run();
    EXPECT_TRUE(result.has_value() && result->ok());
    return result && result->ok() ? **result : ReadResult();
  }

  std::vector<std::string> Texts() {
    std::vector<std::string> texts;
    for (const StoredBatch& batch : ReadAll().batches) {
      RecordReader reader(*batch.body);
      RecordView record;
      while (reader.Next(record)) {
        if (record.type == RecordType::kEvent) texts.emplace_back(record.body);
      }
    }
    return texts;
  }

  absl::Status WriteCheckpoint(const std::string& text, JournalPosition replay_from,
                               bool base = true) {
    std::optional<absl::Status> result;
    CheckpointDelta delta{PartitionId(0), epoch, base, {{1, 0, text}}};
    journal->WriteCheckpoint(std::move(delta), replay_from, [&](auto done) { result = done; });
    Run();
    return result.value_or(absl::DeadlineExceededError("not answered"));
  }

  std::vector<std::string> Paths(const std::string& prefix, const std::string& suffix = "") {
    std::vector<std::string> paths;
    for (const std::string& path : fs.Paths()) {
      if (path.starts_with(prefix) && path.ends_with(suffix)) paths.push_back(path);
    }
    return paths;
  }

  // The segment's path and the place in it of a position of the log.
  std::pair<std::string, std::uint64_t> Place(JournalPosition position) {
    std::pair<std::string, std::uint64_t> place;
    for (const std::string& path : Paths("log/", ".seg")) {
      const std::uint64_t first = *ParseSegmentName(path.substr(4));
      if (first <= position.value()) place = {path, position.value() - first};
    }
    return place;
  }

  std::uint32_t partitions = 1;
  std::string version = "1.2.3";
  std::uint64_t reserve_bytes = 0;
  std::uint64_t quarantine_bytes_max = 1 << 20;
  std::size_t checkpoints_kept_max = std::size_t{1} << 20;
  bool degraded = false;

  SimFileSystem fs;
  VirtualClock clock;
  SeededRandom random{9};
  OneThreadExecutor committer{clock};
  OneThreadExecutor engine{clock};
  OneThreadExecutor owner{clock};
  std::unique_ptr<FileJournal> journal;
  int fatal_calls = 0;
  absl::Status fatal;
  Epoch epoch;
  std::uint64_t next_offset = 0;
};

}  // namespace tocsin
