// Any bytes as what a partition reads back: batches, pages of checkpoints, letters, states of
// schedules and of files. Refused, or taken; what was taken can be written and taken again.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "broker/base/check.h"
#include "broker/partition/letter.h"
#include "broker/partition/partition_state.h"
#include "broker/schedule/schedule.h"
#include "connectors/file/seen_file.h"

namespace tocsin {
namespace {

PartitionState Fresh() { return PartitionState(PartitionId(0), 7, 600'000'000, 1000); }

void ApplyThenWrite(std::string_view body) {
  PartitionState state = Fresh();
  if (!state.ApplyBatch(body, Offset(5), 1'000'000).ok()) return;
  CheckpointDelta delta;
  delta.base = true;
  state.TakePages(true, delta);
  PartitionState again = Fresh();
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
      tocsin::ApplyThenWrite(bytes);
      break;
    case 1: {
      tocsin::PartitionState state = tocsin::Fresh();
      static_cast<void>(state.LoadPages({{data[1], 0, std::string(bytes)}}));
      break;
    }
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
