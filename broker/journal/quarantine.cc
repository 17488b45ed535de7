#include "broker/journal/quarantine.h"

#include <algorithm>
#include <utility>

#include "broker/base/crc32c.h"
#include "broker/base/status.h"
#include "broker/journal/segment.h"

namespace tocsin {
namespace {

constexpr char kDir[] = "quarantine";

}  // namespace

absl::Status Quarantine::Open() {
  auto names = fs_.List(kDir);
  if (absl::IsNotFound(names.status())) return absl::OkStatus();
  TOCSIN_RETURN_IF_ERROR(names.status());
  exists_ = true;
  for (const std::string& name : *names) {
    TOCSIN_ASSIGN_OR_RETURN(const auto file, fs_.Open(fmt::format("{}/{}", kDir, name)));
    TOCSIN_ASSIGN_OR_RETURN(const std::uint64_t size, file->Size());
    ++files_;
    bytes_ += size;
  }
  return absl::OkStatus();
}

absl::Status Quarantine::EnsureDir() {
  if (exists_) return absl::OkStatus();
  TOCSIN_RETURN_IF_ERROR(fs_.CreateDir(kDir));
  TOCSIN_RETURN_IF_ERROR(fs_.SyncDir(""));
  exists_ = true;
  return absl::OkStatus();
}

absl::Status Quarantine::Keep(const std::string& log, std::uint64_t position,
                              std::string_view bytes) {
  const std::string path =
      fmt::format("{}/{}-{:016x}-{:08x}.bin", kDir, log, position, Crc32c(AsBytes(bytes)));
  TOCSIN_RETURN_IF_ERROR(EnsureDir());
  if (auto old = fs_.Open(path); old.ok()) {
    // A recovery that crashed left it; its bytes may not have reached the disk.
    TOCSIN_ASSIGN_OR_RETURN(const std::uint64_t size, (*old)->Size());
    old->reset();
    TOCSIN_RETURN_IF_ERROR(fs_.Remove(path));
    --files_;
    bytes_ -= std::min(bytes_.load(), size);
  }
  const std::uint64_t room = bytes_max_ > bytes_.load() ? bytes_max_ - bytes_.load() : 0;
  const std::string_view kept =
      bytes.substr(0, static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), room)));
  dropped_ += bytes.size() - kept.size();
  if (kept.empty()) return absl::OkStatus();
  TOCSIN_ASSIGN_OR_RETURN(const auto file, fs_.Create(path));
  absl::Status status = WriteOne(*file, 0, kept);
  if (absl::IsResourceExhausted(status)) {
    // The journal must open on a full disk; what is cut was never answered.
    dropped_ += kept.size();
    return fs_.Remove(path);
  }
  TOCSIN_RETURN_IF_ERROR(status);
  TOCSIN_RETURN_IF_ERROR(file->SyncData());
  TOCSIN_RETURN_IF_ERROR(fs_.SyncDir(kDir));
  ++files_;
  bytes_ += kept.size();
  return absl::OkStatus();
}

absl::Status Quarantine::Move(const std::string& path, const std::string& name) {
  TOCSIN_RETURN_IF_ERROR(EnsureDir());
  TOCSIN_RETURN_IF_ERROR(fs_.Rename(path, fmt::format("{}/{}", kDir, name)));
  TOCSIN_RETURN_IF_ERROR(fs_.SyncDir(kDir));
  ++files_;
  return absl::OkStatus();
}

}  // namespace tocsin
