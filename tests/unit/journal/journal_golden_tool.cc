// Writes tests/golden/journal-1. Run once per format, never again for a format that was released:
//   journal_golden_tool DIR

#include <fmt/format.h>

#include "tests/unit/journal/journal_golden.h"

namespace tocsin {
namespace {

void Write(const std::string& dir) {
  GoldenJournal journal(dir);
  for (std::uint32_t p = 0; p < 2; ++p) {
    const PartitionId id(p);
    const OpenResult opened = journal.Open(id);
    std::uint64_t offset = 0;
    JournalPosition end = opened.end;
    for (int i = 0; i < kGoldenBatches; ++i) {
      std::string body;
      RecordWriter writer(body);
      writer.Add(RecordType::kEvent, GoldenText(i));
      writer.Add(RecordType::kLaneState, fmt::format("lane {}", i));
      RecordBatch batch;
      batch.partition = id;
      batch.epoch = opened.epoch;
      batch.base_offset = Offset(offset++);
      batch.event_count = 1;
      batch.record_count = writer.count();
      batch.append_time_us = 1'767'225'600'000'000 + i;
      batch.body = std::make_shared<const std::string>(std::move(body));
      if (i == 5) batch.letters.push_back({{id, Offset(3), TriggerOrdinal(1), 0}, "golden letter"});
      end = journal.Append(std::move(batch)).end;
      if (i % 4 != 3) continue;
      CheckpointDelta delta{id, opened.epoch, i == 3, {{1, static_cast<std::uint64_t>(i), "page"}}};
      (*journal).WriteCheckpoint(std::move(delta), end, [](absl::Status status) {
        TOCSIN_CHECK(status.ok(), "{}", status.ToString());
      });
      journal.Run();
    }
  }
}

}  // namespace
}  // namespace tocsin

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: {} DIR\n", argv[0]);
    return 2;
  }
  tocsin::Write(argv[1]);
  return 0;
}
