// PgSpill: what was streamed of one transaction that is still in progress: in memory while it is
// small, beyond that in a file without a name, which is gone with the process.
//
// Threading: one thread. Written first, then read from the start, once.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tocsin {

class PgSpill {
 public:
  // Bytes in memory at most, but for one record that is larger.
  static constexpr std::size_t kMemoryMax = std::size_t{256} << 10;

  explicit PgSpill(std::string folder) : folder_(std::move(folder)) {}
  ~PgSpill();
  PgSpill(const PgSpill&) = delete;
  PgSpill& operator=(const PgSpill&) = delete;

  //   kUnavailable  the file cannot be made or written; names the folder
  absl::Status Append(std::uint32_t xid, std::string_view record);
  // The next record, false behind the last one. No Append() afterwards.
  absl::StatusOr<bool> Next(std::uint32_t& xid, std::string& record);

  std::uint64_t bytes() const { return bytes_; }
  bool in_file() const { return file_ >= 0; }

 private:
  absl::Status Flush();
  absl::Status Fill(std::size_t wanted);
  absl::Status Failed(std::string_view doing) const;

  const std::string folder_;
  std::string memory_;      // written: not yet in the file; read: what is ahead
  std::size_t at_ = 0;      // of memory_, when read
  std::uint64_t read_ = 0;  // of the file
  std::uint64_t flushed_ = 0;
  std::uint64_t bytes_ = 0;
  int file_ = -1;
  bool reading_ = false;
};

}  // namespace tocsin
