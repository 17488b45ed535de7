// Chain::Recover: from the files as a crash left them to a log that can be appended to.

#include <algorithm>
#include <optional>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/journal/chain.h"

namespace tocsin {
namespace {

// Bytes [from, to) of the file, as they are read.
absl::Status WriteAgain(File& file, std::uint64_t from, std::uint64_t to) {
  if (from >= to) return absl::OkStatus();
  TOCSIN_ASSIGN_OR_RETURN(const std::string bytes, ReadRange(file, from, to));
  return WriteOne(file, from, bytes);
}

}  // namespace

// A segment file as it was found.
struct Chain::Found {
  std::uint64_t first = 0;
  std::uint64_t bytes = 0;
  std::shared_ptr<File> file;
  bool header_ok = false;
  bool from_index = false;
  SegmentIndex index;  // of `scan.batches`, unless from_index
  SegmentScan scan;    // empty if from_index
  std::optional<BatchHeader> first_batch;
  bool removed = false;

  std::uint64_t limit() const { return first + bytes; }
  bool has_batches() const { return from_index || !scan.batches.empty(); }
  bool has_bytes() const { return from_index || scan.nonzero_end > first + kSegmentHeaderBytes; }
};

// Where the log ends.
struct Chain::Cut {
  std::uint64_t synced_through = 0;  // S: a bad batch at or beyond it is torn, before it damaged
  std::uint64_t end = 0;             // the next batch goes here
  std::uint32_t prev_crc = 0;
};

absl::Status Chain::Refuse(const std::string& why) {
  if (options_.degraded) {
    warnings_.push_back(why + "; going on without what is missing (degraded)");
    ++damaged_ranges_;
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      why + "; restore the file, or start with --degraded to serve the rest. Nothing was changed");
}

absl::StatusOr<std::vector<Chain::Found>> Chain::Load() {
  auto names = fs_.List(options_.dir);
  if (absl::IsNotFound(names.status())) return std::vector<Found>();
  TOCSIN_RETURN_IF_ERROR(names.status());
  std::vector<Found> all;
  for (const std::string& name : *names) {
    const std::optional<std::uint64_t> first = ParseSegmentName(name);
    if (!first) continue;
    Found found;
    found.first = *first;
    TOCSIN_ASSIGN_OR_RETURN(std::unique_ptr<File> file, fs_.Open(Path(name)));
    found.file = std::move(file);
    TOCSIN_ASSIGN_OR_RETURN(const std::uint64_t size, found.file->Size());
    TOCSIN_ASSIGN_OR_RETURN(const std::string bytes,
                            ReadRange(*found.file, 0, kSegmentHeaderBytes));
    found.bytes = size;
    if (const auto header = DecodeSegmentHeader(bytes)) {
      if (header->format > kJournalFormat) {
        return absl::FailedPreconditionError(
            fmt::format("{} has format {}; this version reads up to format {}: use the version "
                        "that wrote it, or a later one",
                        Path(name), header->format, kJournalFormat));
      }
      if (header->data_dir_id != options_.data_dir_id || header->first != *first) {
        return absl::FailedPreconditionError(
            fmt::format("{} belongs to another data directory or place; move it away", Path(name)));
      }
      found.header_ok = size >= header->bytes;
      found.bytes = header->bytes;
    }
    all.push_back(std::move(found));
  }
  return all;
}

absl::Status Chain::ReadSegments(std::vector<Found>& all) {
  const Found* next = nullptr;
  for (std::size_t i = all.size(); i-- > 0; next = &all[i]) {
    Found& found = all[i];
    if (next != nullptr && next->first_batch && next->first == found.limit() && found.header_ok) {
      if (auto file = fs_.Open(Path(SegmentIndexName(found.first))); file.ok()) {
        TOCSIN_ASSIGN_OR_RETURN(const std::uint64_t size, (*file)->Size());
        TOCSIN_ASSIGN_OR_RETURN(const std::string bytes, ReadRange(**file, 0, size));
        auto index = DecodeSegmentIndex(bytes);
        std::string last;
        if (index && index->last_position > found.first && index->last_position < found.limit()) {
          const std::uint64_t place = index->last_position - found.first;
          TOCSIN_ASSIGN_OR_RETURN(last, ReadRange(*found.file, place, place + kBatchHeaderBytes));
        }
        BatchHeader header;
        if (index &&
            DecodeBatchHeader(AsBytes(last), index->last_position, header) == HeaderCheck::kValid &&
            header.header_crc == index->last_header_crc && index->first == found.first &&
            index->end <= found.limit() &&
            index->last_header_crc == next->first_batch->prev_header_crc) {
          found.index = *std::move(index);
          found.from_index = true;
        } else {
          warnings_.push_back(fmt::format("{} does not fit its segment; rebuilt from the log",
                                          Path(SegmentIndexName(found.first))));
        }
      }
    }
    const std::uint64_t first_place = found.first + kSegmentHeaderBytes;
    if (found.from_index) {
      TOCSIN_ASSIGN_OR_RETURN(
          const std::string bytes,
          ReadRange(*found.file, kSegmentHeaderBytes, kSegmentHeaderBytes + kBatchHeaderBytes));
      BatchHeader header;
      if (DecodeBatchHeader(AsBytes(bytes), first_place, header) == HeaderCheck::kValid) {
        found.first_batch = header;
      }
      continue;
    }
    // Of those that were prepared and never written there is no more than the header.
    std::uint64_t bytes = found.bytes;
    if (found.header_ok && bytes > kSegmentHeaderBytes) {
      TOCSIN_ASSIGN_OR_RETURN(const bool unwritten,
                              ReadsAsZeros(*found.file, kSegmentHeaderBytes, bytes));
      if (unwritten) bytes = kSegmentHeaderBytes;
    }
    TOCSIN_ASSIGN_OR_RETURN(const LargeBuffer content, ReadLarge(*found.file, 0, bytes));
    found.scan = ScanSegment(content.view(), found.first);
    found.index.first = found.first;
    found.index.end = first_place;
    if (!found.scan.batches.empty() && found.scan.batches[0].log_position == first_place) {
      found.first_batch = found.scan.batches[0];
    }
  }
  return absl::OkStatus();
}

absl::Status Chain::CheckContiguous(const std::vector<Found>& all) {
  for (std::size_t i = 1; i < all.size(); ++i) {
    if (all[i - 1].limit() == all[i].first) continue;
    const bool data_behind = std::any_of(all.begin() + static_cast<std::ptrdiff_t>(i), all.end(),
                                         [](const Found& found) { return found.has_bytes(); });
    if (!data_behind) break;
    TOCSIN_RETURN_IF_ERROR(Refuse(fmt::format("the segment {} is missing (positions {} to {})",
                                              Path(SegmentName(all[i - 1].limit())),
                                              all[i - 1].limit(), all[i].first)));
    unknown_bytes_ += all[i].first - all[i - 1].limit();
  }
  return absl::OkStatus();
}

// The end of the segment that holds `position`, also if it is missing.
std::uint64_t Chain::SegmentEnd(const std::vector<Found>& all, std::uint64_t position) const {
  std::uint64_t end = 0;
  for (const Found& found : all) {
    for (const std::uint64_t border : {found.first, found.limit()}) {
      if (border > position) return border;
      end = border;
    }
  }
  return end + ((position - end) / options_.segment_bytes + 1) * options_.segment_bytes;
}

absl::StatusOr<Chain::Cut> Chain::FindCut(std::vector<Found>& all, std::uint64_t known_synced) {
  Cut cut;
  cut.synced_through = known_synced;
  for (const Found& found : all) {
    cut.synced_through = std::max(cut.synced_through, found.index.synced_through);
    for (const BatchHeader& header : found.scan.batches) {
      cut.synced_through = std::max(cut.synced_through, header.synced_through);
    }
  }
  // Walk in log order; stop at the first thing that is torn.
  std::optional<std::uint32_t> prev;
  if (!all.empty() && all[0].first == 0) prev = 0;
  std::map<std::uint32_t, std::uint32_t> epochs;
  if (!all.empty()) cut.end = all[0].first + kSegmentHeaderBytes;
  std::uint64_t limit_before = all.empty() ? 0 : all[0].first;
  bool torn = false;
  for (Found& found : all) {
    if (torn) break;
    // A missing segment in front of one that was never used breaks no chain.
    if (found.first != limit_before && found.has_bytes()) prev.reset();
    limit_before = found.limit();
    if (!found.header_ok && found.has_batches()) {
      warnings_.push_back(fmt::format("the header of {} is damaged; its batches are served",
                                      Path(SegmentName(found.first))));
    }
    if (found.from_index) {
      // The chain across the border behind it is what made the index credible.
      if (prev && found.first_batch && found.first_batch->prev_header_crc != *prev) {
        TOCSIN_RETURN_IF_ERROR(Refuse(
            fmt::format("{} does not continue the segment before it: one of them is an older copy",
                        Path(SegmentName(found.first)))));
        unknown_bytes_ += found.first - cut.end;  // what the older copy does not have
      }
      prev = found.index.last_header_crc;
      cut.end = found.index.end;
      for (const auto& [id, partition] : found.index.partitions) {
        epochs[id] = std::max(epochs[id], partition.epoch_max);
      }
      continue;
    }
    auto bad = found.scan.bad.begin();
    const auto pass_bad = [&](std::uint64_t before) {
      for (; bad != found.scan.bad.end() && bad->from < before; ++bad) {
        if (bad->from >= cut.synced_through) {
          torn = true;
          cut.end = bad->from;
          return;
        }
        prev.reset();
        if (bad->header) {
          prev = bad->header->header_crc;
          // Its offsets were given out, whatever its body was.
          SegmentIndex::Partition& partition = found.index.partitions[bad->header->partition];
          partition.next_offset =
              std::max(partition.next_offset, bad->header->base_offset + bad->header->event_count);
        }
        // Damage may run into a torn tail; they part at S, where a group began.
        torn = bad->to > cut.synced_through;
        if (torn) bad->to = cut.synced_through;
        cut.end = bad->to;
        ++damaged_ranges_;
        if (!bad->header) unknown_bytes_ += bad->to - bad->from;
        warnings_.push_back(
            bad->header
                ? fmt::format("{}: the batch at {} is damaged (partition {}, offsets {} to {}); "
                              "what follows is served",
                              Path(SegmentName(found.first)), bad->from, bad->header->partition,
                              bad->header->base_offset,
                              bad->header->base_offset + bad->header->event_count)
                : fmt::format("{}: the bytes from {} to {} are damaged; what follows is served",
                              Path(SegmentName(found.first)), bad->from, bad->to));
        if (torn) return;
      }
    };
    for (const BatchHeader& header : found.scan.batches) {
      pass_bad(header.log_position);
      if (torn) break;
      const auto epoch = epochs.find(header.partition);
      const bool epoch_back = epoch != epochs.end() && header.epoch < epoch->second;
      if ((prev && header.prev_header_crc != *prev) || epoch_back) {
        if (header.log_position >= cut.synced_through) {
          torn = true;
          cut.end = header.log_position;
          break;
        }
        TOCSIN_RETURN_IF_ERROR(Refuse(fmt::format(
            "{}: the batch at {} does not continue the one before it{}: a file is an older copy",
            Path(SegmentName(found.first)), header.log_position,
            epoch_back ? " (its epoch is older)" : "")));
        unknown_bytes_ += header.log_position - cut.end;  // what the older copy does not have
      }
      prev = header.header_crc;
      epochs[header.partition] = header.epoch;
      found.index.Add(header);
      cut.end = header.end();
    }
    if (!torn) pass_bad(UINT64_MAX);
  }
  if (cut.end < cut.synced_through) {
    TOCSIN_RETURN_IF_ERROR(Refuse(
        fmt::format("{}: the log ends at {}, but was durable up to {}: a segment is missing, or is "
                    "an older copy",
                    options_.dir, cut.end, cut.synced_through)));
    // What was durable later than S is known may have filled the rest of its segment.
    unknown_bytes_ += SegmentEnd(all, cut.synced_through) - cut.end;
    cut.end = cut.synced_through;
    prev.reset();
  }
  cut.prev_crc = prev.value_or(0);
  return cut;
}

absl::Status Chain::CutOff(std::vector<Found>& all, const Cut& cut) {
  for (Found& found : all) {
    if (found.from_index || found.limit() <= cut.end) continue;
    const std::uint64_t from = std::max(cut.end, found.first + kSegmentHeaderBytes);
    if (found.scan.nonzero_end <= from) continue;
    TOCSIN_ASSIGN_OR_RETURN(
        const std::string bytes,
        ReadRange(*found.file, from - found.first, found.scan.nonzero_end - found.first));
    TOCSIN_RETURN_IF_ERROR(quarantine_.Keep(options_.dir, from, bytes));
    TOCSIN_RETURN_IF_ERROR(
        WriteOne(*found.file, from - found.first, std::string(bytes.size(), '\0')));
    TOCSIN_RETURN_IF_ERROR(found.file->SyncData());
    cut_bytes_ += bytes.size();
    warnings_.push_back(
        fmt::format("{}: {} bytes from {} on were never synced nor answered; cut off and kept in "
                    "quarantine/",
                    options_.dir, bytes.size(), from));
  }
  // What is kept may still be only in the page cache; the next header will call it durable. And
  // after a sync that failed the cache calls clean what the disk does not have: it is written anew.
  for (const Found& found : all) {
    if (found.from_index || (!found.header_ok && !found.has_batches())) continue;
    if (found.header_ok) TOCSIN_RETURN_IF_ERROR(WriteAgain(*found.file, 0, kSegmentHeaderBytes));
    if (found.has_batches()) {
      const std::uint64_t from =
          std::max(cut.synced_through, found.first + kSegmentHeaderBytes) - found.first;
      const std::uint64_t to = std::min(std::max(cut.end, found.first), found.limit());
      TOCSIN_RETURN_IF_ERROR(WriteAgain(*found.file, from, to - found.first));
    }
    TOCSIN_RETURN_IF_ERROR(found.file->SyncData());
  }
  return absl::OkStatus();
}

absl::Status Chain::Adopt(std::vector<Found>& all, const Cut& cut) {
  TOCSIN_RETURN_IF_ERROR(fs_.CreateDir(options_.dir));
  TOCSIN_RETURN_IF_ERROR(fs_.SyncDir(""));
  const MutexLock lock(mutex_);
  std::uint64_t next = all.empty() ? 0 : all[0].first;
  for (Found& found : all) {
    // Segments behind the end are empty. They are used if they are whole, else made anew.
    const bool behind = found.first + kSegmentHeaderBytes >= cut.end;
    if (behind && !found.has_batches() && (!found.header_ok || found.first != next)) {
      found.file.reset();
      TOCSIN_RETURN_IF_ERROR(fs_.Remove(Path(SegmentName(found.first))));
      TOCSIN_RETURN_IF_ERROR(fs_.SyncDir(options_.dir));
      continue;
    }
    next = found.limit();
    auto segment = std::make_shared<Segment>();
    segment->first = found.first;
    segment->bytes = found.bytes;
    segment->file = std::move(found.file);
    segment->index = std::move(found.index);
    segment->index_saved = found.from_index;
    // Damage at the end of a segment is part of it: readers must meet and report it.
    segment->end = segment->index.end;
    if (!found.scan.bad.empty()) segment->end = std::max(segment->end, found.scan.bad.back().to);
    if (behind && found.first + kSegmentHeaderBytes != cut.end) {
      prepared_.push_back(std::move(segment));
    } else {
      segments_.emplace(segment->first, std::move(segment));
    }
  }
  std::uint64_t end = cut.end;
  while (segments_.empty() || segments_.rbegin()->second->limit() < end) {
    // A new directory, or (degraded) the segments that the end lies in are gone.
    prepared_.clear();
    const std::uint64_t first = segments_.empty() ? next : segments_.rbegin()->second->limit();
    auto file = CreateSegment(fs_, options_.dir, HeaderFor(first), Fill::kZeros);
    TOCSIN_RETURN_IF_ERROR(Annotate(file.status(), "creating a segment"));
    auto segment = std::make_shared<Segment>();
    segment->first = first;
    segment->bytes = options_.segment_bytes;
    segment->file = *std::move(file);
    segment->index.first = first;
    segment->index.end = first + kSegmentHeaderBytes;
    segment->end = segment->index.end;
    end = std::max(end, segment->end);
    segments_.emplace(first, std::move(segment));
  }
  active_ = segments_.rbegin()->second;
  active_->end = end;
  active_->index_saved = false;
  fs_.Remove(Path(SegmentIndexName(active_->first))).IgnoreError();
  write_end_ = end;
  durable_end_ = end;
  prev_crc_ = cut.prev_crc;
  return absl::OkStatus();
}

absl::Status Chain::Recover(std::uint64_t known_synced) {
  TOCSIN_ASSIGN_OR_RETURN(std::vector<Found> all, Load());
  TOCSIN_RETURN_IF_ERROR(ReadSegments(all));
  TOCSIN_RETURN_IF_ERROR(CheckContiguous(all));
  TOCSIN_ASSIGN_OR_RETURN(const Cut cut, FindCut(all, known_synced));
  TOCSIN_RETURN_IF_ERROR(CutOff(all, cut));
  return Adopt(all, cut);
}

}  // namespace tocsin
