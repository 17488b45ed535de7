#include "broker/journal/chain.h"

#include <algorithm>
#include <array>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

// Bodies up to this size are copied behind their header: cheaper than a piece of their own.
constexpr std::size_t kCopyMax = 8 * 1024;
constexpr std::size_t kPageBytes = 4096;
constexpr std::array<std::byte, kPageBytes> kZeros{};

}  // namespace

Chain::Chain(FileSystem& fs, Quarantine& quarantine, ChainOptions options)
    : fs_(fs), quarantine_(quarantine), options_(std::move(options)) {}

SegmentHeader Chain::HeaderFor(std::uint64_t first) const {
  return SegmentHeader{kJournalFormat, options_.data_dir_id, first, options_.segment_bytes};
}

bool Chain::Fits(std::uint64_t bytes) const {
  return active_ != nullptr && write_end_ + group_bytes_ + bytes <= active_->limit();
}

bool Chain::Roll() {
  TOCSIN_CHECK(group_.empty());
  const MutexLock lock(mutex_);
  if (prepared_.empty()) return false;
  active_ = std::move(prepared_.front());
  prepared_.pop_front();
  write_end_ = active_->first + kSegmentHeaderBytes;
  active_->end = write_end_;
  active_->index.first = active_->first;
  active_->index.end = write_end_;
  segments_.emplace(active_->first, active_);
  return true;
}

std::uint64_t Chain::Add(BatchHeader header, std::string_view body) {
  header.log_position = write_end_ + group_bytes_;
  header.body_bytes = static_cast<std::uint32_t>(body.size());
  header.synced_through = write_end_;
  header.prev_header_crc = group_.empty() ? prev_crc_ : group_crc_;
  const std::size_t at = copied_.size();
  copied_.resize(at + kBatchHeaderBytes);
  EncodeBatchHeader(header, reinterpret_cast<std::byte*>(copied_.data() + at));
  if (body.size() <= kCopyMax) copied_.append(body);
  group_crc_ = header.header_crc;
  group_bytes_ += kBatchHeaderBytes + body.size();
  group_.push_back({header, body, at});
  return header.log_position;
}

// A page of which only a part is written, and which is not in memory, is read from the disk first.
// So the one that the group ends in, if nothing of it is used, is written whole before: zeros over
// zeros, and not behind the group, which is not to be there when a write that had it is refused.
absl::Status Chain::BeginLastPage() {
  const std::uint64_t used = write_end_ - active_->first;
  const std::uint64_t end = used + group_bytes_;
  const std::uint64_t page = end / kPageBytes * kPageBytes;
  if (page == end || page < used) return absl::OkStatus();
  const std::uint64_t bytes = std::min<std::uint64_t>(kPageBytes, active_->bytes - page);
  const std::array<std::span<const std::byte>, 1> zeros = {std::span(kZeros).first(bytes)};
  return active_->file->WriteAt(page, zeros);
}

absl::Status Chain::Write() {
  if (group_.empty()) return absl::OkStatus();
  std::vector<std::span<const std::byte>> pieces;
  std::size_t from = 0;  // start of copied bytes not yet in a piece
  for (const Pending& batch : group_) {
    if (batch.body.size() <= kCopyMax) continue;
    const std::size_t to = batch.copied_at + kBatchHeaderBytes;
    pieces.push_back(AsBytes(std::string_view(copied_).substr(from, to - from)));
    pieces.push_back(AsBytes(batch.body));
    from = to;
  }
  if (from < copied_.size()) pieces.push_back(AsBytes(std::string_view(copied_).substr(from)));

  if (absl::Status begun = BeginLastPage(); !begun.ok()) {
    ClearGroup();
    return begun;
  }
  absl::Status status = active_->file->WriteAt(write_end_ - active_->first, pieces);
  if (absl::IsResourceExhausted(status)) {
    dirty_bytes_ = group_bytes_;
    if (const absl::Status undone = Clean(); !undone.ok() && !absl::IsResourceExhausted(undone)) {
      status = undone;
    }
  }
  if (!status.ok()) ClearGroup();
  return status;
}

absl::Status Chain::Sync() {
  if (group_.empty()) return absl::OkStatus();
  absl::Status status = active_->file->SyncData();
  if (status.ok()) {
    write_end_ += group_bytes_;
    prev_crc_ = group_crc_;
    const MutexLock lock(mutex_);
    for (const Pending& batch : group_) active_->index.Add(batch.header);
    active_->end = write_end_;
    durable_end_ = write_end_;
  } else {
    // Whatever the code: pages may be gone, and only a restart knows what is there.
    status = absl::InternalError(std::string(MessageOf(status)));
  }
  ClearGroup();
  return status;
}

void Chain::ClearGroup() {
  group_.clear();
  copied_.clear();
  group_bytes_ = 0;
}

// A part of the group may be in the file. It was answered "not written", so it must not come back
// to life behind what is written later: zeros over it, durably, before anything else is. A file
// system that copies on writing has no room for them either; then this is tried again.
absl::Status Chain::Clean() {
  if (dirty_bytes_ == 0) return absl::OkStatus();
  const std::string zeros(static_cast<std::size_t>(dirty_bytes_), '\0');
  absl::Status status = WriteOne(*active_->file, write_end_ - active_->first, zeros);
  if (absl::IsResourceExhausted(status)) return status;
  if (status.ok()) status = active_->file->SyncData();
  if (!status.ok()) {
    return absl::InternalError(fmt::format(
        "what was written for want of space could not be undone: {}", MessageOf(status)));
  }
  dirty_bytes_ = 0;
  return absl::OkStatus();
}

absl::Status Chain::Prepare(Fill fill) {
  while (true) {
    std::uint64_t first = 0;
    {
      const MutexLock lock(mutex_);
      if (prepared_.size() >= options_.segments_ahead) return absl::OkStatus();
      if (!prepared_.empty()) {
        first = prepared_.back()->limit();
      } else if (!segments_.empty()) {
        first = segments_.rbegin()->second->limit();
      }
    }
    auto file = CreateSegment(fs_, options_.dir, HeaderFor(first), fill);
    if (absl::IsAlreadyExists(file.status())) {
      // Left by a preparation that failed and could not clean up; it was never used.
      TOCSIN_RETURN_IF_ERROR(fs_.Remove(Path(SegmentName(first))));
      file = CreateSegment(fs_, options_.dir, HeaderFor(first), fill);
    }
    TOCSIN_RETURN_IF_ERROR(Annotate(file.status(), "preparing a segment"));
    auto segment = std::make_shared<Segment>();
    segment->first = first;
    segment->bytes = options_.segment_bytes;
    segment->file = *std::move(file);
    const MutexLock lock(mutex_);
    prepared_.push_back(std::move(segment));
  }
}

void Chain::SaveIndexes() {
  std::vector<std::pair<std::uint64_t, std::string>> files;
  {
    const MutexLock lock(mutex_);
    for (auto& [first, segment] : segments_) {
      if (segment->index_saved || first == segments_.rbegin()->first) continue;
      segment->index_saved = true;
      files.emplace_back(first, EncodeSegmentIndex(segment->index));
    }
  }
  for (const auto& [first, bytes] : files) {
    const std::string path = Path(SegmentIndexName(first));
    fs_.Remove(path).IgnoreError();
    auto file = fs_.Create(path);
    // Without it the next start reads the segment.
    if (file.ok()) WriteOne(**file, 0, bytes).IgnoreError();
  }
}

absl::Status Chain::TrimBelow(std::uint64_t position) {
  while (true) {
    std::uint64_t first = 0;
    {
      const MutexLock lock(mutex_);
      if (segments_.size() < 2 || segments_.begin()->second->limit() > position) {
        return absl::OkStatus();
      }
      first = segments_.begin()->first;
    }
    // One at a time, each durably: a crash must not leave an older one behind a missing one. Until
    // it is gone for good it stays known, so that no trim goes on with the one behind it; one that
    // an earlier trial removed, and could not sync, is not found any more.
    absl::Status removed = fs_.Remove(Path(SegmentName(first)));
    if (!removed.ok() && !absl::IsNotFound(removed)) return removed;
    fs_.Remove(Path(SegmentIndexName(first))).IgnoreError();
    TOCSIN_RETURN_IF_ERROR(fs_.SyncDir(options_.dir));
    const MutexLock lock(mutex_);
    segments_.erase(first);
  }
}

std::uint64_t Chain::start() const {
  const MutexLock lock(mutex_);
  return segments_.empty() ? 0 : segments_.begin()->first;
}

std::uint64_t Chain::durable_end() const {
  const MutexLock lock(mutex_);
  return durable_end_;
}

std::size_t Chain::prepared() const {
  const MutexLock lock(mutex_);
  return prepared_.size();
}

std::size_t Chain::segments() const {
  const MutexLock lock(mutex_);
  return segments_.size();
}

std::uint64_t Chain::PositionToFree(std::uint64_t bytes) const {
  const MutexLock lock(mutex_);
  std::uint64_t freed = 0;
  for (const auto& [first, segment] : segments_) {
    if (freed >= bytes || first == segments_.rbegin()->first) return first;
    freed += segment->bytes;
  }
  return 0;
}

std::uint64_t Chain::bytes_used() const {
  const MutexLock lock(mutex_);
  std::uint64_t bytes = 0;
  for (const auto& [first, segment] : segments_) {
    bytes += (first == segments_.rbegin()->first ? segment->end : segment->limit()) - first;
  }
  return bytes;
}

std::optional<SegmentView> Chain::Find(std::uint64_t position) const {
  const MutexLock lock(mutex_);
  auto at = segments_.upper_bound(position);
  if (at != segments_.begin() && std::prev(at)->second->limit() > position) --at;
  if (at == segments_.end()) return std::nullopt;
  const Segment& segment = *at->second;
  return SegmentView{segment.first, segment.bytes, segment.end, segment.file};
}

std::optional<std::uint64_t> Chain::Locate(std::uint32_t partition, std::uint64_t offset) const {
  const MutexLock lock(mutex_);
  for (auto at = segments_.rbegin(); at != segments_.rend(); ++at) {
    if (const auto found = at->second->index.Locate(partition, offset)) return found;
  }
  return std::nullopt;
}

std::vector<Journal::Age> Chain::Ages(std::uint32_t partition) const {
  const MutexLock lock(mutex_);
  std::vector<Journal::Age> ages;
  for (const auto& [first, segment] : segments_) {
    const auto found = segment->index.partitions.find(partition);
    if (found == segment->index.partitions.end()) continue;
    ages.push_back({found->second.append_time_us, Offset(found->second.next_offset)});
  }
  return ages;
}

std::map<std::uint32_t, PartitionEnd> Chain::PartitionEnds() const {
  const MutexLock lock(mutex_);
  std::map<std::uint32_t, PartitionEnd> ends;
  for (const auto& [first, segment] : segments_) {
    for (const auto& [id, partition] : segment->index.partitions) {
      PartitionEnd& end = ends[id];
      end.epoch = std::max(end.epoch, partition.epoch_max);
      end.next_offset = std::max(end.next_offset, partition.next_offset);
      end.append_time_us = std::max(end.append_time_us, partition.append_time_us);
    }
  }
  return ends;
}

}  // namespace tocsin
