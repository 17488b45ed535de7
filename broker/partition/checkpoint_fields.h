// What the pages of a partition's checkpoint are made of: fields one after the other. Private to
// broker/partition.

#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "broker/base/wire.h"

namespace tocsin {

// Tables of the checkpoint that more than one file knows.
inline constexpr std::uint32_t kTriggerPastTable = 20;
inline constexpr std::uint32_t kStoredTriggerTable = 21;

inline absl::Status MalformedItem(std::uint32_t table, std::uint64_t item) {
  return absl::DataLossError(
      fmt::format("checkpoint: item {} of table {} is malformed", item, table));
}

// Reads fields; after the first that is not there all are empty and ok() is false.
class PageReader {
 public:
  explicit PageReader(std::string_view bytes) : reader_(bytes) {}
  std::uint64_t U64() {
    std::uint64_t value = 0;
    ok_ = ok_ && reader_.ReadVarint(value);
    return ok_ ? value : 0;
  }
  std::uint32_t U32() { return static_cast<std::uint32_t>(U64()); }
  std::int64_t I64() { return static_cast<std::int64_t>(U64()); }
  bool Flag() { return U64() != 0; }
  std::string_view View() {
    std::string_view value;
    ok_ = ok_ && reader_.ReadBytes(value);
    return ok_ ? value : std::string_view();
  }
  std::string Text() { return std::string(View()); }
  bool More() const { return ok_ && !reader_.AtEnd(); }
  bool ok() const { return ok_; }

 private:
  WireReader reader_;
  bool ok_ = true;
};

inline void PutI64(std::string& out, std::int64_t value) {
  PutVarint(out, static_cast<std::uint64_t>(value));
}

}  // namespace tocsin
