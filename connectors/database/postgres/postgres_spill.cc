#include "connectors/database/postgres/postgres_spill.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "broker/base/check.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

struct Head {
  std::uint32_t size = 0;
  std::uint32_t xid = 0;
};

}  // namespace

PgSpill::~PgSpill() {
  if (file_ >= 0) ::close(file_);
}

absl::Status PgSpill::Failed(std::string_view doing) const {
  return absl::UnavailableError(
      fmt::format("a transaction in progress cannot be {} a file in {}: {}; make room there, name "
                  "another `spill_dir`, or say `streaming: false`",
                  doing, folder_, std::strerror(errno)));
}

absl::Status PgSpill::Flush() {
  if (file_ < 0) {
    file_ = ::open(folder_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file_ < 0) {
      // A file system without O_TMPFILE.
      std::string name = folder_ + "/tocsin-spill-XXXXXX";
      file_ = ::mkostemp(name.data(), O_CLOEXEC);
      if (file_ < 0) return Failed("kept in");
      ::unlink(name.c_str());
    }
  }
  std::string_view rest = memory_;
  while (!rest.empty()) {
    const ssize_t put = ::pwrite(file_, rest.data(), rest.size(), static_cast<off_t>(flushed_));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return Failed("written to");
    rest.remove_prefix(static_cast<std::size_t>(put));
    flushed_ += static_cast<std::uint64_t>(put);
  }
  memory_.clear();
  return absl::OkStatus();
}

absl::Status PgSpill::Append(std::uint32_t xid, std::string_view record) {
  TOCSIN_CHECK(!reading_, "a spill is written after it was read");
  const Head head{static_cast<std::uint32_t>(record.size()), xid};
  char raw[sizeof(Head)];
  std::memcpy(raw, &head, sizeof(head));
  memory_.append(raw, sizeof(raw));
  memory_.append(record);
  bytes_ += sizeof(raw) + record.size();
  if (memory_.size() < kMemoryMax) return absl::OkStatus();
  return Flush();
}

// Makes `wanted` bytes lie ahead in memory_, or what is left.
absl::Status PgSpill::Fill(std::size_t wanted) {
  if (memory_.size() - at_ >= wanted || file_ < 0) return absl::OkStatus();
  memory_.erase(0, at_);
  at_ = 0;
  while (memory_.size() < wanted && read_ < flushed_) {
    const std::size_t before = memory_.size();
    const std::size_t want =
        std::min<std::uint64_t>(std::max(kMemoryMax, wanted - before), flushed_ - read_);
    memory_.resize(before + want);
    const ssize_t got = ::pread(file_, memory_.data() + before, want, static_cast<off_t>(read_));
    if (got <= 0) {
      memory_.resize(before);
      if (got < 0 && errno == EINTR) continue;
      return Failed("read from");
    }
    memory_.resize(before + static_cast<std::size_t>(got));
    read_ += static_cast<std::uint64_t>(got);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> PgSpill::Next(std::uint32_t& xid, std::string& record) {
  if (!reading_) {
    if (file_ >= 0) TOCSIN_RETURN_IF_ERROR(Flush());
    reading_ = true;
  }
  TOCSIN_RETURN_IF_ERROR(Fill(sizeof(Head)));
  if (memory_.size() - at_ < sizeof(Head)) return false;
  Head head;
  std::memcpy(&head, memory_.data() + at_, sizeof(head));
  TOCSIN_RETURN_IF_ERROR(Fill(sizeof(Head) + head.size));
  TOCSIN_CHECK(memory_.size() - at_ >= sizeof(Head) + head.size);
  xid = head.xid;
  record.assign(memory_, at_ + sizeof(Head), head.size);
  at_ += sizeof(Head) + head.size;
  return true;
}

}  // namespace tocsin
