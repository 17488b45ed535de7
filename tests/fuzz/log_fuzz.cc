// Any bytes where the journal keeps its files: read, or refused, and what is read lies inside. The
// first byte says which file they are.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "broker/base/check.h"
#include "broker/journal/manifest.h"
#include "broker/journal/record.h"
#include "broker/journal/segment.h"
#include "broker/journal/segment_index.h"

namespace tocsin {
namespace {

void ReadSegment(std::string_view content) {
  static_cast<void>(DecodeSegmentHeader(content));
  constexpr std::uint64_t kFirst = 1 << 20;
  const SegmentScan scan = ScanSegment(content, kFirst);
  std::uint64_t end = kFirst;
  for (const BatchHeader& header : scan.batches) {
    TOCSIN_CHECK(header.log_position >= end && header.end() <= kFirst + content.size());
    end = header.end();
    const std::string_view body =
        content.substr(static_cast<std::size_t>(header.log_position - kFirst) + kBatchHeaderBytes,
                       header.body_bytes);
    RecordReader reader(body);
    RecordView record;
    while (reader.Next(record)) {
      TOCSIN_CHECK(record.body.empty() ||
                   (record.body.data() >= body.data() &&
                    record.body.data() + record.body.size() <= body.data() + body.size()));
    }
  }
  for (const auto& bad : scan.bad) TOCSIN_CHECK(bad.from < bad.to);
}

}  // namespace
}  // namespace tocsin

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      tocsin::ReadSegment(bytes);
      break;
    case 1:
      if (const auto index = tocsin::DecodeSegmentIndex(bytes)) {
        TOCSIN_CHECK(tocsin::DecodeSegmentIndex(tocsin::EncodeSegmentIndex(*index)).has_value());
      }
      break;
    case 2:
      static_cast<void>(tocsin::DecodeManifest(std::string(bytes)));
      break;
    default: {
      tocsin::RecordReader reader(bytes);
      tocsin::RecordView record;
      while (reader.Next(record)) {
      }
    }
  }
  return 0;
}
