// The contract of the Journal port, as tests that run against every implementation. A test program
// includes this once and instantiates JournalContractTest with its factories.

#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/status.h"
#include "broker/journal/journal.h"
#include "broker/journal/record.h"

namespace tocsin {

// An implementation with partitions 0 and 1, and the means to drive it.
class JournalUnderTest {
 public:
  virtual ~JournalUnderTest() = default;
  virtual Journal& journal() = 0;
  virtual Executor& owner() = 0;
  // Until nothing is left to do.
  virtual void Run() = 0;
  // The process ends and starts again; what was durable is there.
  virtual void Restart() = 0;
  // How a log too full for `batch` is made and unmade.
  virtual void FillDisk() = 0;
  virtual void FreeDisk() = 0;
};

struct NamedJournal {
  std::string name;
  std::function<std::unique_ptr<JournalUnderTest>()> make;
};

class JournalContractTest : public testing::TestWithParam<NamedJournal> {
 protected:
  void SetUp() override { under_ = GetParam().make(); }

  Journal& journal() { return under_->journal(); }

  OpenResult Open(PartitionId partition) {
    std::optional<absl::StatusOr<OpenResult>> result;
    journal().Open(partition, under_->owner(), [&](auto opened) { result = std::move(opened); });
    under_->Run();
    EXPECT_TRUE(result.has_value() && result->ok());
    if (!result || !result->ok()) return {};
    epoch_ = (**result).epoch;
    return **std::move(result);
  }

  // `events` records with this text; offsets go on by themselves.
  RecordBatch Batch(PartitionId partition, std::uint32_t events, const std::string& text) {
    std::string body;
    RecordWriter writer(body);
    for (std::uint32_t i = 0; i < events; ++i) writer.Add(RecordType::kEvent, text);
    if (events == 0) writer.Add(RecordType::kSettled, text);
    RecordBatch batch;
    batch.partition = partition;
    batch.epoch = epoch_;
    batch.base_offset = Offset(next_[partition.value()]);
    batch.event_count = events;
    batch.record_count = writer.count();
    batch.append_time_us = 1000;
    batch.body = std::make_shared<const std::string>(std::move(body));
    next_[partition.value()] += events;
    return batch;
  }

  absl::StatusOr<AppendResult> Append(RecordBatch batch) {
    std::optional<absl::StatusOr<AppendResult>> result;
    journal().Append(std::move(batch), [&](auto done) { result = std::move(done); });
    under_->Run();
    return result.value_or(absl::DeadlineExceededError("not answered"));
  }

  absl::StatusOr<ReadResult> Read(PartitionId partition, JournalPosition from,
                                  std::size_t bytes_max = 1 << 20) {
    std::optional<absl::StatusOr<ReadResult>> result;
    journal().Read(partition, from, bytes_max, [&](auto done) { result = std::move(done); });
    under_->Run();
    return result.value_or(absl::DeadlineExceededError("not answered"));
  }

  // The bodies of the batches with events, from `from` on.
  std::vector<std::string> Texts(PartitionId partition, JournalPosition from) {
    const auto result = Read(partition, from);
    EXPECT_TRUE(result.ok()) << result.status();
    std::vector<std::string> texts;
    if (!result.ok()) return texts;
    for (const StoredBatch& batch : result->batches) {
      RecordReader reader(*batch.body);
      RecordView record;
      while (reader.Next(record)) {
        if (record.type == RecordType::kEvent) texts.emplace_back(record.body);
      }
    }
    return texts;
  }

  absl::Status WriteCheckpoint(CheckpointDelta delta, JournalPosition replay_from) {
    std::optional<absl::Status> result;
    journal().WriteCheckpoint(std::move(delta), replay_from, [&](auto done) { result = done; });
    under_->Run();
    return result.value_or(absl::DeadlineExceededError("not answered"));
  }

  CheckpointDelta Delta(bool base, std::vector<CheckpointPage> pages) {
    return CheckpointDelta{PartitionId(0), epoch_, base, std::move(pages)};
  }

  std::vector<LetterRef> Letters(PartitionId partition, LetterPosition from) {
    std::optional<absl::StatusOr<std::vector<LetterRef>>> result;
    journal().ListLetters(partition, from, [&](auto done) { result = std::move(done); });
    under_->Run();
    EXPECT_TRUE(result.has_value() && result->ok());
    return result && result->ok() ? **result : std::vector<LetterRef>();
  }

  absl::StatusOr<std::string> Letter(PartitionId partition, LetterPosition position) {
    std::optional<absl::StatusOr<std::string>> result;
    journal().ReadLetter(partition, position, [&](auto done) { result = std::move(done); });
    under_->Run();
    return result.value_or(absl::DeadlineExceededError("not answered"));
  }

  const PartitionId p0_{0};
  const PartitionId p1_{1};
  std::unique_ptr<JournalUnderTest> under_;
  Epoch epoch_;
  std::uint64_t next_[2] = {0, 0};
};

TEST_P(JournalContractTest, OpeningRaisesTheEpochAndWritesIt) {
  const OpenResult first = Open(p0_);
  EXPECT_FALSE(first.checkpoint.has_value());
  EXPECT_TRUE(first.warnings.empty());
  const auto read = Read(p0_, first.start);
  ASSERT_TRUE(read.ok());
  ASSERT_EQ(read->batches.size(), 1u);
  RecordReader reader(*read->batches[0].body);
  RecordView record;
  ASSERT_TRUE(reader.Next(record));
  EXPECT_EQ(record.type, RecordType::kOwnerOpened);
  EXPECT_EQ(OwnerOpened::Decode(record.body)->epoch, first.epoch);
  const OpenResult second = Open(p0_);
  EXPECT_GT(second.epoch, first.epoch);
  under_->Restart();
  EXPECT_GT(Open(p0_).epoch, second.epoch);
}

TEST_P(JournalContractTest, BatchesAreReadInOrderAndOnlyOfThePartition) {
  const OpenResult opened = Open(p0_);
  const Epoch epoch0 = epoch_;
  Open(p1_);
  const Epoch epoch1 = epoch_;
  for (int i = 0; i < 20; ++i) {
    epoch_ = epoch0;
    ASSERT_TRUE(Append(Batch(p0_, 1, fmt::format("a{}", i))).ok());
    epoch_ = epoch1;
    ASSERT_TRUE(Append(Batch(p1_, 2, fmt::format("b{}", i))).ok());
  }
  const auto texts = Texts(p0_, opened.start);
  ASSERT_EQ(texts.size(), 20u);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(texts[static_cast<std::size_t>(i)], fmt::format("a{}", i));
  EXPECT_EQ(Texts(p1_, opened.start).size(), 40u);
}

TEST_P(JournalContractTest, NotifyRunsBeforeDoneAndInOrder) {
  Open(p0_);
  std::vector<std::string> heard;
  for (int i = 0; i < 3; ++i) {
    RecordBatch batch = Batch(p0_, 1, "x");
    batch.notify_written.push_back([&heard, i](const absl::Status& status) {
      EXPECT_TRUE(status.ok());
      heard.push_back(fmt::format("written {}", i));
    });
    batch.notify.push_back([&heard, i](const absl::Status& status) {
      EXPECT_TRUE(status.ok());
      heard.push_back(fmt::format("notify {}", i));
    });
    journal().Append(std::move(batch),
                     [&heard, i](auto) { heard.push_back(fmt::format("done {}", i)); });
  }
  EXPECT_TRUE(heard.empty());  // never inside the call
  under_->Run();
  ASSERT_EQ(heard.size(), 9u);
  const auto place = [&heard](const std::string& what) {
    return std::find(heard.begin(), heard.end(), what) - heard.begin();
  };
  for (int i = 0; i < 3; ++i) {
    EXPECT_LT(place(fmt::format("written {}", i)), place(fmt::format("notify {}", i)));
    EXPECT_LT(place(fmt::format("notify {}", i)), place(fmt::format("done {}", i)));
    if (i == 0) continue;
    EXPECT_LT(place(fmt::format("notify {}", i - 1)), place(fmt::format("notify {}", i)));
    EXPECT_LT(place(fmt::format("done {}", i - 1)), place(fmt::format("done {}", i)));
  }
}

TEST_P(JournalContractTest, WhatWasAnsweredSurvivesARestart) {
  const OpenResult opened = Open(p0_);
  const auto appended = Append(Batch(p0_, 3, "kept"));
  ASSERT_TRUE(appended.ok());
  EXPECT_GE(appended->position, opened.end);
  EXPECT_GT(appended->end, appended->position);
  under_->Restart();
  const OpenResult again = Open(p0_);
  EXPECT_GE(again.end, appended->end);
  const auto read = Read(p0_, appended->position);
  ASSERT_TRUE(read.ok());
  ASSERT_FALSE(read->batches.empty());
  EXPECT_EQ(read->batches[0].position, appended->position);
  EXPECT_EQ(read->batches[0].event_count, 3u);
  EXPECT_EQ(read->batches[0].base_offset, Offset(0));
  EXPECT_TRUE(read->at_end);
  // The opening after it goes on with the offsets.
  EXPECT_EQ(read->batches.back().base_offset, Offset(3));
}

TEST_P(JournalContractTest, AnOlderEpochIsFenced) {
  Open(p0_);
  RecordBatch stale = Batch(p0_, 1, "stale");
  Open(p0_);
  std::optional<absl::Status> told;
  stale.notify.push_back([&told](const absl::Status& status) { told = status; });
  EXPECT_EQ(Append(std::move(stale)).status().code(), absl::StatusCode::kAborted);
  ASSERT_TRUE(told.has_value());
  EXPECT_EQ(told->code(), absl::StatusCode::kAborted);
}

TEST_P(JournalContractTest, AUsedOffsetIsNeverWrittenAgain) {
  const OpenResult opened = Open(p0_);
  ASSERT_TRUE(Append(Batch(p0_, 2, "first")).ok());
  next_[0] = 1;
  EXPECT_EQ(Append(Batch(p0_, 1, "second")).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Texts(p0_, opened.start), (std::vector<std::string>{"first", "first"}));
}

TEST_P(JournalContractTest, ReadStopsAtBytesMaxAndGoesOnAtNext) {
  const OpenResult opened = Open(p0_);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(Append(Batch(p0_, 1, std::string(100, 'x'))).ok());
  std::size_t batches = 0;
  std::size_t reads = 0;
  JournalPosition from = opened.start;
  while (true) {
    const auto read = Read(p0_, from, 250);
    ASSERT_TRUE(read.ok());
    ASSERT_FALSE(read->batches.empty() && !read->at_end);
    batches += read->batches.size();
    from = read->next;
    if (read->at_end) break;
    ASSERT_LT(++reads, 20u);
  }
  EXPECT_EQ(batches, 11u);
  EXPECT_GE(reads, 4u);
  // At the end there is nothing, and what comes is read from there.
  const auto nothing = Read(p0_, from);
  ASSERT_TRUE(nothing.ok());
  EXPECT_TRUE(nothing->batches.empty() && nothing->at_end);
  ASSERT_TRUE(Append(Batch(p0_, 1, "new")).ok());
  EXPECT_EQ(Texts(p0_, from), std::vector<std::string>{"new"});
}

TEST_P(JournalContractTest, ABatchOverTheLimitIsRefusedAndTheNextOneWritten) {
  const OpenResult opened = Open(p0_);
  const std::string big(journal().batch_bytes_max(), 'x');
  EXPECT_EQ(Append(Batch(p0_, 1, big)).status().code(), absl::StatusCode::kResourceExhausted);
  next_[0] = 0;
  EXPECT_TRUE(Append(Batch(p0_, 1, "small")).ok());
  EXPECT_EQ(Texts(p0_, opened.start), std::vector<std::string>{"small"});
}

TEST_P(JournalContractTest, LocateIsAtOrBeforeTheBatchOfAnOffset) {
  Open(p0_);
  std::vector<JournalPosition> positions;
  for (int i = 0; i < 50; ++i) {
    const auto appended = Append(Batch(p0_, 2, std::string(3000, 'x')));
    ASSERT_TRUE(appended.ok());
    positions.push_back(appended->position);
  }
  for (std::uint64_t i = 0; i < 50; ++i) {
    for (const std::uint64_t offset : {2 * i, 2 * i + 1}) {
      const JournalPosition found = journal().Locate(p0_, Offset(offset));
      EXPECT_LE(found, positions[i]);
      const std::uint64_t distance = positions[i].value() - found.value();
      EXPECT_LT(distance, 80u * 1024) << offset;
    }
  }
}

TEST_P(JournalContractTest, CheckpointsMergeAndComeBack) {
  const OpenResult opened = Open(p0_);
  ASSERT_TRUE(
      WriteCheckpoint(Delta(true, {{1, 0, "a"}, {1, 5, "b"}, {2, 0, "c"}}), opened.end).ok());
  ASSERT_TRUE(
      WriteCheckpoint(Delta(false, {{1, 5, "B"}, {2, 0, ""}, {3, 7, "d"}}), opened.end).ok());
  const auto appended = Append(Batch(p0_, 1, "x"));
  ASSERT_TRUE(appended.ok());
  ASSERT_TRUE(WriteCheckpoint(Delta(false, {{3, 8, "e"}}), appended->end).ok());
  under_->Restart();
  const OpenResult again = Open(p0_);
  ASSERT_TRUE(again.checkpoint.has_value());
  EXPECT_EQ(again.checkpoint->replay_from, appended->end);
  std::string pages;
  for (const CheckpointPage& page : again.checkpoint->pages) {
    pages += fmt::format("{}/{}={} ", page.table, page.page, page.bytes);
  }
  EXPECT_EQ(pages, "1/0=a 1/5=B 3/7=d 3/8=e ");
  EXPECT_TRUE(again.warnings.empty());
  ASSERT_TRUE(WriteCheckpoint(Delta(true, {{9, 9, "only"}}), again.end).ok());
  under_->Restart();
  EXPECT_EQ(Open(p0_).checkpoint->pages.size(), 1u);
}

TEST_P(JournalContractTest, ACheckpointOfAnOlderEpochIsRefused) {
  const OpenResult opened = Open(p0_);
  const CheckpointDelta stale = Delta(true, {{1, 0, "a"}});
  Open(p0_);
  EXPECT_EQ(WriteCheckpoint(stale, opened.end).code(), absl::StatusCode::kAborted);
}

TEST_P(JournalContractTest, TrimmingNeedsPermissionAndCheckpoints) {
  const OpenResult opened = Open(p0_);
  JournalPosition end;
  for (int i = 0; i < 40; ++i) {
    const auto appended = Append(Batch(p0_, 1, std::string(3000, 'x')));
    ASSERT_TRUE(appended.ok());
    end = appended->end;
  }
  EXPECT_EQ(journal().end(), end);
  const std::uint64_t before = journal().log_bytes();
  // A third of it, by whole segments: more than asked for, less than all.
  const JournalPosition third = journal().PositionToFree(before / 3);
  EXPECT_GE(third.value(), opened.start.value() + before / 3);
  EXPECT_LT(third, end);
  EXPECT_LE(journal().PositionToFree(before * 9), end);
  journal().TrimBelow(p0_, end);
  under_->Run();
  EXPECT_EQ(journal().log_bytes(), before);  // without a checkpoint nothing goes
  EXPECT_TRUE(Read(p0_, opened.start).ok());
  Open(p1_);
  journal().TrimBelow(p1_, end);
  CheckpointDelta other{p1_, epoch_, true, {{1, 0, "p1"}}};
  ASSERT_TRUE(WriteCheckpoint(other, end).ok());
  ASSERT_TRUE(WriteCheckpoint(other, end).ok());
  epoch_ = Epoch(opened.epoch);
  ASSERT_TRUE(WriteCheckpoint(Delta(true, {{1, 0, "a"}}), end).ok());
  ASSERT_TRUE(WriteCheckpoint(Delta(true, {{1, 0, "b"}}), end).ok());
  EXPECT_LT(journal().log_bytes(), before);
  EXPECT_EQ(Read(p0_, opened.start).status().code(), absl::StatusCode::kOutOfRange);
  under_->Restart();
  const OpenResult again = Open(p0_);
  EXPECT_GT(again.start, opened.start);
  EXPECT_TRUE(Read(p0_, again.checkpoint->replay_from).ok());
  // Offsets go on although their batches are gone.
  const auto read = Read(p0_, again.checkpoint->replay_from);
  EXPECT_EQ(read->batches.back().base_offset, Offset(40));
}

TEST_P(JournalContractTest, LettersAreListedReadAndTrimmed) {
  Open(p0_);
  RecordBatch batch = Batch(p0_, 0, "dead");
  const DeliveryId first{p0_, Offset(7), TriggerOrdinal(3), 0};
  const DeliveryId second{p0_, Offset(8), TriggerOrdinal(300), 2};
  batch.letters.push_back({first, "letter one"});
  batch.letters.push_back({second, std::string(5000, 'z')});
  const auto appended = Append(std::move(batch));
  ASSERT_TRUE(appended.ok());
  ASSERT_EQ(appended->letters.size(), 2u);
  EXPECT_LT(appended->letters[0], appended->letters[1]);
  EXPECT_LT(appended->letters[1], journal().letters_end());
  under_->Restart();
  Open(p1_);
  Open(p0_);
  const auto letters = Letters(p0_, LetterPosition(0));
  ASSERT_EQ(letters.size(), 2u);
  EXPECT_EQ(letters[0].id, first);
  EXPECT_EQ(letters[0].position, appended->letters[0]);
  EXPECT_EQ(letters[0].bytes, 10u);
  EXPECT_EQ(letters[1].id, second);
  EXPECT_EQ(*Letter(p0_, letters[0].position), "letter one");
  EXPECT_EQ(*Letter(p0_, letters[1].position), std::string(5000, 'z'));
  EXPECT_EQ(Letter(p1_, letters[0].position).status().code(), absl::StatusCode::kNotFound);
  journal().TrimLettersBelow(p0_, letters[1].position);
  EXPECT_EQ(Letters(p0_, LetterPosition(0)).size(), 1u);
  EXPECT_EQ(Letter(p0_, letters[0].position).status().code(), absl::StatusCode::kNotFound);
}

TEST_P(JournalContractTest, F5AFullDiskRefusesAndGoesOnByItself) {
  const OpenResult opened = Open(p0_);
  ASSERT_TRUE(Append(Batch(p0_, 1, "before")).ok());
  under_->FillDisk();
  std::vector<absl::StatusCode> codes;
  const std::uint64_t next = next_[0];
  for (int i = 0; i < 100; ++i) {
    journal().Append(Batch(p0_, 1, fmt::format("full {}", i) + std::string(3000, 'x')),
                     [&codes](auto result) { codes.push_back(result.status().code()); });
  }
  under_->Run();
  ASSERT_EQ(codes.size(), 100u);
  // Once one is refused, those behind it are too.
  const auto first = std::find(codes.begin(), codes.end(), absl::StatusCode::kResourceExhausted);
  ASSERT_NE(first, codes.end());
  EXPECT_TRUE(std::all_of(first, codes.end(), [](absl::StatusCode code) {
    return code == absl::StatusCode::kResourceExhausted;
  }));
  const auto written = static_cast<std::uint64_t>(first - codes.begin());
  EXPECT_EQ(Texts(p0_, opened.start).size(), 1 + written);
  under_->FreeDisk();
  next_[0] = next + written;
  // The space is noticed by trying.
  absl::Status status;
  for (int i = 0; i < 3; ++i) {
    RecordBatch batch = Batch(p0_, 1, "after");
    status = Append(std::move(batch)).status();
    if (status.ok()) break;
    next_[0] = next + written;
  }
  EXPECT_TRUE(status.ok()) << status;
  under_->Restart();
  Open(p0_);
  const auto texts = Texts(p0_, opened.start);
  EXPECT_EQ(texts.size(), 2 + written);
  EXPECT_EQ(texts.back(), "after");
}

}  // namespace tocsin
