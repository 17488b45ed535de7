#include "broker/journal/segment.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <utility>

#include "broker/base/crc32c.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr std::string_view kSegmentMagic = "TOCSNSEG";
constexpr std::size_t kHeaderCrcAt = 8 + 4 + kDataDirIdBytes + 8 + 8;

template <typename T>
void Put(std::string& out, T value) {
  std::array<char, sizeof(T)> bytes;
  std::memcpy(bytes.data(), &value, sizeof(T));
  out.append(bytes.data(), bytes.size());
}

template <typename T>
T Get(std::string_view bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

std::size_t NonzeroEnd(std::string_view content) {
  std::size_t end = content.size();
  while (end >= 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, content.data() + end - 8, 8);
    if (word != 0) break;
    end -= 8;
  }
  while (end > 0 && content[end - 1] == '\0') --end;
  return end;
}

}  // namespace

std::string SegmentName(std::uint64_t first) { return fmt::format("{:016x}.seg", first); }

std::optional<std::uint64_t> ParseSegmentName(std::string_view name) {
  if (name.size() != 20 || name.substr(16) != ".seg") return std::nullopt;
  std::uint64_t first = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + 16, first, 16);
  if (error != std::errc() || end != name.data() + 16) return std::nullopt;
  return first;
}

std::string EncodeSegmentHeader(const SegmentHeader& header) {
  std::string out(kSegmentMagic);
  Put(out, header.format);
  out += header.data_dir_id;
  Put(out, header.first);
  Put(out, header.bytes);
  Put(out, Crc32c(AsBytes(out)));
  out.resize(kSegmentHeaderBytes, '\0');
  return out;
}

std::optional<SegmentHeader> DecodeSegmentHeader(std::string_view bytes) {
  if (bytes.size() < kHeaderCrcAt + 4 || !bytes.starts_with(kSegmentMagic) ||
      Get<std::uint32_t>(bytes, kHeaderCrcAt) != Crc32c(AsBytes(bytes.substr(0, kHeaderCrcAt)))) {
    return std::nullopt;
  }
  SegmentHeader header;
  header.format = Get<std::uint32_t>(bytes, 8);
  header.data_dir_id = std::string(bytes.substr(12, kDataDirIdBytes));
  header.first = Get<std::uint64_t>(bytes, 12 + kDataDirIdBytes);
  header.bytes = Get<std::uint64_t>(bytes, 20 + kDataDirIdBytes);
  return header;
}

absl::StatusOr<std::unique_ptr<File>> CreateSegment(FileSystem& fs, const std::string& dir,
                                                    const SegmentHeader& header, Fill fill) {
  const std::string path = fmt::format("{}/{}", dir, SegmentName(header.first));
  TOCSIN_ASSIGN_OR_RETURN(std::unique_ptr<File> file, fs.Create(path));
  // The header goes last: a segment that has one reads as zeros to its end.
  absl::Status status = file->Preallocate(header.bytes, fill);
  if (status.ok()) status = WriteOne(*file, 0, EncodeSegmentHeader(header));
  if (status.ok()) status = file->SyncData();
  if (status.ok()) status = fs.SyncDir(dir);
  if (!status.ok()) {
    file.reset();
    fs.Remove(path).IgnoreError();  // recovery removes it if this could not
    return status;
  }
  return file;
}

std::optional<std::uint64_t> FindHeader(std::string_view content, std::uint64_t position,
                                        std::uint64_t from) {
  static const std::string magic = [] {
    std::string text;
    Put(text, kBatchMagic);
    return text;
  }();
  std::size_t at = static_cast<std::size_t>(from - position);
  while ((at = content.find(magic, at)) != std::string_view::npos) {
    BatchHeader header;
    if (DecodeBatchHeader(AsBytes(content.substr(at)), position + at, header) ==
            HeaderCheck::kValid &&
        header.end() <= position + content.size()) {
      return position + at;
    }
    ++at;
  }
  return std::nullopt;
}

SegmentScan ScanSegment(std::string_view content, std::uint64_t first) {
  SegmentScan scan;
  std::uint64_t at = first + kSegmentHeaderBytes;
  scan.data_end = at;
  scan.nonzero_end = std::max(first + NonzeroEnd(content), at);
  const std::uint64_t end = first + content.size();
  while (at < scan.nonzero_end) {
    BatchHeader header;
    const std::string_view rest = content.substr(static_cast<std::size_t>(at - first));
    const HeaderCheck check = DecodeBatchHeader(AsBytes(rest), at, header);
    if (check == HeaderCheck::kValid && header.end() <= end) {
      const std::string_view body = rest.substr(kBatchHeaderBytes, header.body_bytes);
      if (Crc32c(AsBytes(body)) == header.body_crc) {
        scan.batches.push_back(header);
        scan.data_end = header.end();
      } else {
        scan.bad.push_back({at, header.end(), header});
      }
      at = header.end();
      continue;
    }
    const std::uint64_t next = FindHeader(content, first, at + 1).value_or(scan.nonzero_end);
    scan.bad.push_back({at, next, std::nullopt});
    at = next;
  }
  return scan;
}

absl::StatusOr<std::string> ReadRange(const File& file, std::uint64_t from, std::uint64_t to) {
  std::string content(static_cast<std::size_t>(to - from), '\0');
  TOCSIN_ASSIGN_OR_RETURN(
      const std::size_t got,
      file.ReadAt(from, std::as_writable_bytes(std::span<char>(content.data(), content.size()))));
  content.resize(got);
  return content;
}

absl::StatusOr<LargeBuffer> ReadLarge(const File& file, std::uint64_t from, std::uint64_t to) {
  LargeBuffer content(static_cast<std::size_t>(to - from));
  TOCSIN_ASSIGN_OR_RETURN(
      const std::size_t got,
      file.ReadAt(from, std::as_writable_bytes(std::span<char>(content.data(), content.size()))));
  content.Shorten(got);
  return content;
}

absl::StatusOr<bool> ReadsAsZeros(const File& file, std::uint64_t from, std::uint64_t to) {
  constexpr std::uint64_t kPieceBytes = std::uint64_t{256} << 10;  // stays in the processor's cache
  std::string piece(static_cast<std::size_t>(std::min(kPieceBytes, to - from)), '\0');
  while (from < to) {
    const std::size_t bytes = static_cast<std::size_t>(std::min(kPieceBytes, to - from));
    TOCSIN_ASSIGN_OR_RETURN(
        const std::size_t got,
        file.ReadAt(from, std::as_writable_bytes(std::span<char>(piece.data(), bytes))));
    if (got != bytes || NonzeroEnd({piece.data(), bytes}) != 0) return false;
    from += bytes;
  }
  return true;
}

absl::Status WriteOne(File& file, std::uint64_t position, std::string_view bytes) {
  const std::array<std::span<const std::byte>, 1> pieces = {AsBytes(bytes)};
  return file.WriteAt(position, pieces);
}

}  // namespace tocsin
