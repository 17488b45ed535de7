// Quarantine: copies of what recovery cuts off, so that nothing unreadable is ever thrown away
// unseen. Files `quarantine/<log>-<position, 16 hex digits>-<crc>.bin`, bounded in total.

#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "broker/base/file_system.h"

namespace tocsin {

class Quarantine {
 public:
  Quarantine(FileSystem& fs, std::uint64_t bytes_max) : fs_(fs), bytes_max_(bytes_max) {}

  // Reads what is there.
  absl::Status Open();

  // After OK the copy is durable, or does not fit any more: then as much of it as fits, and
  // `dropped()` rises. The same bytes of the same place are kept once.
  absl::Status Keep(const std::string& log, std::uint64_t position, std::string_view bytes);

  // Moves a whole file here, whatever its size.
  absl::Status Move(const std::string& path, const std::string& name);

  std::uint64_t files() const { return files_; }
  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t dropped() const { return dropped_; }

 private:
  absl::Status EnsureDir();

  FileSystem& fs_;
  const std::uint64_t bytes_max_;
  bool exists_ = false;
  // Read by any thread.
  std::atomic<std::uint64_t> files_ = 0;
  std::atomic<std::uint64_t> bytes_ = 0;
  std::atomic<std::uint64_t> dropped_ = 0;  // bytes
};

}  // namespace tocsin
