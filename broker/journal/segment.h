// Segment files: names, headers, scanning.
//
//   <first log position, 16 hex digits>.seg, preallocated and zero-filled
//   | header, 4 KiB | batch | batch | ... | zeros |
//
// The header: magic u64 | format u32 | data-dir id 16 bytes | first position u64 | bytes u64 |
// CRC-32C u32, then zeros. A position of the log is the segment's first position plus the byte's
// place in the file, so the next segment begins at first + bytes.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/file_system.h"
#include "broker/base/large_array.h"
#include "broker/journal/batch_header.h"

namespace tocsin {

inline constexpr std::uint32_t kJournalFormat = 1;
inline constexpr std::size_t kSegmentHeaderBytes = 4096;
inline constexpr std::size_t kDataDirIdBytes = 16;

std::string SegmentName(std::uint64_t first);  // without the folder
std::optional<std::uint64_t> ParseSegmentName(std::string_view name);

struct SegmentHeader {
  std::uint32_t format = kJournalFormat;
  std::string data_dir_id;  // kDataDirIdBytes raw bytes
  std::uint64_t first = 0;
  std::uint64_t bytes = 0;
};

std::string EncodeSegmentHeader(const SegmentHeader& header);  // kSegmentHeaderBytes long
std::optional<SegmentHeader> DecodeSegmentHeader(std::string_view bytes);

// A new segment: reads as zeros, its header and its name durable. On an error nothing is left.
absl::StatusOr<std::unique_ptr<File>> CreateSegment(FileSystem& fs, const std::string& dir,
                                                    const SegmentHeader& header, Fill fill);

// Bytes between two readable batches that are not a readable batch.
struct BadRange {
  std::uint64_t from = 0;
  std::uint64_t to = 0;               // just after the last of them
  std::optional<BatchHeader> header;  // if only the body is bad
};

struct SegmentScan {
  std::vector<BatchHeader> batches;  // readable, header and body
  std::vector<BadRange> bad;
  std::uint64_t data_end = 0;     // just after the last readable batch; the first place if none
  std::uint64_t nonzero_end = 0;  // just after the last byte that is not 0; at least data_end
};

// `content` is the whole file of the segment that begins at `first`.
SegmentScan ScanSegment(std::string_view content, std::uint64_t first);

// The place of the next readable header after `from`, in `content` that lies at `position`.
std::optional<std::uint64_t> FindHeader(std::string_view content, std::uint64_t position,
                                        std::uint64_t from);

// The file's bytes in [from, to), short at its end.
absl::StatusOr<std::string> ReadRange(const File& file, std::uint64_t from, std::uint64_t to);
// The same for many bytes.
absl::StatusOr<LargeBuffer> ReadLarge(const File& file, std::uint64_t from, std::uint64_t to);
// False also if the file ends before `to`. Needs no memory for what it reads.
absl::StatusOr<bool> ReadsAsZeros(const File& file, std::uint64_t from, std::uint64_t to);

// Writes one piece.
absl::Status WriteOne(File& file, std::uint64_t position, std::string_view bytes);

}  // namespace tocsin
