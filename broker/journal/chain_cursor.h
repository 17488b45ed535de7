// ChainCursor: walks the durable batches of a chain from a position, across segments, and over what
// cannot be read. Files are read through a window, bodies that nobody asks for are passed over.

#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "broker/journal/chain.h"

namespace tocsin {

class ChainCursor {
 public:
  // `chain` must outlive it. The end is the durable end at construction.
  ChainCursor(const Chain& chain, std::uint64_t from);

  enum class Step { kBatch, kBad, kEnd };

  // kBatch: header() is the next batch's. kBad: bad() says what was passed over.
  // Errors are the file system's.
  absl::StatusOr<Step> Next();

  const BatchHeader& header() const { return header_; }
  const BadRange& bad() const { return bad_; }
  // Where the next batch is looked for; after kEnd, the durable end.
  std::uint64_t position() const { return position_; }

  // The body of the batch that Next() stopped at; nullopt if its CRC does not fit.
  absl::StatusOr<std::optional<std::string>> Body();

 private:
  // Makes [position, position + bytes) of the segment visible; false if the segment is shorter.
  absl::StatusOr<bool> Fill(std::uint64_t position, std::size_t bytes);

  const Chain& chain_;
  const std::uint64_t end_;
  std::uint64_t position_;
  SegmentView segment_;
  std::string window_;
  std::uint64_t window_from_ = 0;
  BatchHeader header_;
  BadRange bad_;
};

}  // namespace tocsin
