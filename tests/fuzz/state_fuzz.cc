// Any bytes as what a partition reads back: batches, pages of checkpoints, letters, states of
// schedules and of files. Refused, or taken; what was taken can be written and taken again.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "broker/base/check.h"
#include "broker/journal/record.h"
#include "broker/partition/letter.h"
#include "broker/partition/partition_state.h"
#include "broker/partition/records.h"
#include "broker/schedule/schedule.h"
#include "connectors/file/seen_file.h"

namespace tocsin {
namespace {

void Check(const absl::Status&) {}

// Each record by its own decoder. What several records mean together is the partition's own to
// write: of those it has written and that are whole, it believes that.
void ReadRecords(std::string_view body) {
  RecordReader reader(body);
  RecordView record;
  while (reader.Next(record)) {
    EventRecord event;
    RangesRecord ranges;
    DeadRecord dead;
    AttemptFailedRecord attempt;
    DeadClosedRecord closed;
    LaneStateRecord lane;
    TriggerDefinedRecord defined;
    TriggerDetachedRecord detached;
    TriggerCatchUpRecord catch_up;
    ScheduleRecord schedule;
    OutgoingRecord outgoing;
    OutgoingDoneRecord done;
    switch (record.type) {
      case RecordType::kEvent:
        if (DecodeEvent(record.body, event).ok()) {
          std::string again;
          EncodeEventPrefix(event, again);
          again += event.event;
          TOCSIN_CHECK(DecodeEvent(again, event).ok());
        }
        break;
      case RecordType::kLaneState:
        Check(DecodeLaneState(record.body, lane));
        break;
      case RecordType::kSettled:
      case RecordType::kDropped:
        Check(DecodeRanges(record.body, ranges));
        break;
      case RecordType::kExpired:
        Check(DecodeDead(record.body, dead));
        break;
      case RecordType::kAttemptFailed:
        Check(DecodeAttemptFailed(record.body, attempt));
        break;
      case RecordType::kDeadClosed:
        Check(DecodeDeadClosed(record.body, closed));
        break;
      case RecordType::kTriggerDefined:
        Check(DecodeTriggerDefined(record.body, defined));
        break;
      case RecordType::kTriggerDetached:
        Check(DecodeTriggerDetached(record.body, detached));
        break;
      case RecordType::kTriggerCatchUp:
        Check(DecodeTriggerCatchUp(record.body, catch_up));
        break;
      case RecordType::kScheduleSet:
      case RecordType::kScheduleFired:
      case RecordType::kScheduleSkipped:
        Check(DecodeSchedule(record.body, schedule));
        break;
      case RecordType::kOutgoing:
        Check(DecodeOutgoing(record.body, outgoing));
        break;
      case RecordType::kOutgoingDone:
        Check(DecodeOutgoingDone(record.body, done));
        break;
      default:
        break;
    }
  }
}

// What was taken can be written and taken again.
void ReadPage(std::uint32_t table, std::string_view page) {
  PartitionState state(PartitionId(0), 7, 600'000'000, 1000);
  if (!state.LoadPages({{table, 0, std::string(page)}}).ok()) return;
  CheckpointDelta delta;
  delta.base = true;
  state.TakePages(true, delta);
  while (!state.dynamic().NextPages(SIZE_MAX, delta)) {
  }
  PartitionState again(PartitionId(0), 7, 600'000'000, 1000);
  std::sort(delta.pages.begin(), delta.pages.end(), [](const auto& a, const auto& b) {
    return std::pair(a.table, a.page) < std::pair(b.table, b.page);
  });
  std::erase_if(delta.pages, [](const CheckpointPage& one) { return one.bytes.empty(); });
  TOCSIN_CHECK(again.LoadPages(delta.pages).ok());
  TOCSIN_CHECK(again.end() == state.end());
}

}  // namespace
}  // namespace tocsin

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  switch (data[0] % 5) {
    case 0:
      tocsin::ReadRecords(bytes);
      break;
    case 1:
      tocsin::ReadPage(data[1] % 10, bytes);
      break;
    case 2:
      static_cast<void>(tocsin::DecodeLetter(bytes));
      break;
    case 3:
      static_cast<void>(tocsin::DecodeScheduleState(bytes));
      break;
    default:
      static_cast<void>(tocsin::DecodeIdentity(bytes));
      static_cast<void>(tocsin::DecodeSeenFile(bytes));
      static_cast<void>(tocsin::DecodeRoot(bytes));
  }
  return 0;
}
