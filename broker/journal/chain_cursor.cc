#include "broker/journal/chain_cursor.h"

#include <algorithm>
#include <utility>

#include "broker/base/crc32c.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

// Enough for small batches to come many at a time; of a large one that is of another partition not
// much more than the header is read.
constexpr std::size_t kWindowBytes = 16 * 1024;

}  // namespace

ChainCursor::ChainCursor(const Chain& chain, std::uint64_t from)
    : chain_(chain), end_(chain.durable_end()), position_(from) {}

absl::StatusOr<bool> ChainCursor::Fill(std::uint64_t position, std::size_t bytes) {
  if (position + bytes > segment_.end) return false;
  if (position >= window_from_ && position + bytes <= window_from_ + window_.size()) return true;
  const std::uint64_t to = std::min(segment_.end, position + std::max(bytes, kWindowBytes));
  TOCSIN_ASSIGN_OR_RETURN(
      window_, ReadRange(*segment_.file, position - segment_.first, to - segment_.first));
  window_from_ = position;
  return window_.size() >= bytes;
}

absl::StatusOr<ChainCursor::Step> ChainCursor::Next() {
  while (position_ < end_) {
    if (segment_.file == nullptr || position_ < segment_.first ||
        position_ >= segment_.first + segment_.bytes) {
      const auto found = chain_.Find(position_);
      if (!found) break;
      segment_ = *found;
      window_.clear();
      if (segment_.first > position_) {  // a segment is missing, and degraded mode was asked for
        bad_ = BadRange{position_, segment_.first, std::nullopt};
        position_ = segment_.first;
        return Step::kBad;
      }
    }
    position_ = std::max(position_, segment_.first + kSegmentHeaderBytes);
    if (position_ >= segment_.end) {
      if (segment_.first + segment_.bytes >= end_) break;
      position_ = segment_.first + segment_.bytes;
      continue;
    }
    TOCSIN_ASSIGN_OR_RETURN(const bool filled, Fill(position_, kBatchHeaderBytes));
    if (filled) {
      const std::string_view bytes =
          std::string_view(window_).substr(static_cast<std::size_t>(position_ - window_from_));
      if (DecodeBatchHeader(AsBytes(bytes), position_, header_) == HeaderCheck::kValid &&
          header_.end() <= segment_.end) {
        position_ = header_.end();
        return Step::kBatch;
      }
    }
    TOCSIN_ASSIGN_OR_RETURN(
        const std::string rest,
        ReadRange(*segment_.file, position_ - segment_.first, segment_.end - segment_.first));
    const std::uint64_t next =
        rest.empty() ? segment_.end
                     : FindHeader(rest, position_, position_ + 1).value_or(segment_.end);
    bad_ = BadRange{position_, next, std::nullopt};
    position_ = next;
    return Step::kBad;
  }
  position_ = std::max(position_, end_);
  return Step::kEnd;
}

absl::StatusOr<std::optional<std::string>> ChainCursor::Body() {
  const std::uint64_t from = header_.log_position + kBatchHeaderBytes;
  std::string body;
  if (header_.body_bytes <= kWindowBytes) {
    TOCSIN_ASSIGN_OR_RETURN(const bool filled, Fill(from, header_.body_bytes));
    if (!filled) return std::optional<std::string>();
    body = window_.substr(static_cast<std::size_t>(from - window_from_), header_.body_bytes);
  } else {
    TOCSIN_ASSIGN_OR_RETURN(body, ReadRange(*segment_.file, from - segment_.first,
                                            from + header_.body_bytes - segment_.first));
  }
  if (body.size() != header_.body_bytes || Crc32c(AsBytes(body)) != header_.body_crc) {
    return std::optional<std::string>();
  }
  return std::optional<std::string>(std::move(body));
}

}  // namespace tocsin
