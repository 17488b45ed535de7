#include "connectors/file/tail_connector.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/str_split.h"
#include "broker/base/hash.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

using std::chrono::milliseconds;

constexpr Duration kLookEvery = milliseconds(100);
// A file that was renamed is still written to until its writer notices.
constexpr Duration kRotationGrace = std::chrono::seconds(1);
constexpr std::size_t kLineBytesMax = kBatchBytesMax;
constexpr std::size_t kReadBytes = std::size_t{256} << 10;
constexpr std::size_t kCheckBytes = 64;

struct Stat {
  bool regular = false;
  std::uint64_t inode = 0;
  std::int64_t born_ns = 0;
  std::int64_t modified_ns = 0;
  std::uint64_t size = 0;
};

std::int64_t Nanos(const statx_timestamp& time) {
  return time.tv_sec * std::int64_t{1'000'000'000} + time.tv_nsec;
}

std::optional<Stat> StatOf(int directory, const char* path, int flags) {
  struct statx found {};
  constexpr unsigned kWanted = STATX_BASIC_STATS | STATX_BTIME;
  if (::statx(directory, path, flags, kWanted, &found) != 0) return std::nullopt;
  Stat out;
  out.regular = S_ISREG(found.stx_mode);
  out.inode = found.stx_ino;
  if ((found.stx_mask & STATX_BTIME) != 0) out.born_ns = Nanos(found.stx_btime);
  out.modified_ns = Nanos(found.stx_mtime);
  out.size = found.stx_size;
  return out;
}

std::int64_t OrderOf(const Stat& stat) {
  return stat.born_ns != 0 ? stat.born_ns : stat.modified_ns;
}

std::string DirectoryOf(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

bool IsCompressed(std::string_view name) {
  for (const std::string_view end : {".gz", ".xz", ".zst", ".bz2", ".lz4"}) {
    if (name.ends_with(end)) return true;
  }
  return false;
}

template <typename T>
bool ReadNumber(const std::string& text, T& target) {
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, target);
  return error == std::errc() && at == end && !text.empty();
}

}  // namespace

std::string EncodeTailPosition(const TailPosition& position) {
  return fmt::format("tail {} {} {} {} {} {}", position.inode, position.born_ns,
                     position.generation, position.offset, position.check, position.mid ? 1 : 0);
}

std::optional<TailPosition> DecodeTailPosition(std::string_view text) {
  const std::vector<std::string> words = absl::StrSplit(std::string(text), ' ');
  TailPosition out;
  if (words.size() != 7 || words[0] != "tail" || !ReadNumber(words[1], out.inode) ||
      !ReadNumber(words[2], out.born_ns) || !ReadNumber(words[3], out.generation) ||
      !ReadNumber(words[4], out.offset) || !ReadNumber(words[5], out.check) ||
      (words[6] != "0" && words[6] != "1")) {
    return std::nullopt;
  }
  out.mid = words[6] == "1";
  return out;
}

TailConnector::TailConnector(const TailSpec& spec, RecordMapper mapper, Ports ports)
    : BlockingConnector(std::move(ports)), spec_(spec), mapper_(std::move(mapper)) {}

TailConnector::~TailConnector() {
  StopLane();
  CloseFile();
}

void TailConnector::CloseFile() {
  if (file_ >= 0) ::close(file_);
  file_ = -1;
  buffer_.clear();
  rotated_.reset();
}

absl::Status TailConnector::Open(const Candidate& file) {
  CloseFile();
  file_ = ::open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (file_ < 0) {
    return absl::UnavailableError(
        fmt::format("{} cannot be opened: {}", file.path, std::strerror(errno)));
  }
  return absl::OkStatus();
}

std::optional<TailConnector::Candidate> TailConnector::Named() const {
  const auto found = StatOf(AT_FDCWD, spec_.path.c_str(), AT_SYMLINK_NOFOLLOW);
  if (!found || !found->regular) return std::nullopt;
  return Candidate{spec_.path, found->inode, found->born_ns, OrderOf(*found), true};
}

std::vector<TailConnector::Candidate> TailConnector::Candidates() const {
  std::vector<Candidate> found;
  const std::string directory = DirectoryOf(spec_.path);
  const std::string name = spec_.path.substr(spec_.path.rfind('/') + 1);
  DIR* opened = ::opendir(directory.c_str());
  if (opened == nullptr) return found;
  while (const dirent* entry = ::readdir(opened)) {
    const std::string_view is = entry->d_name;
    if (!is.starts_with(name) || IsCompressed(is)) continue;
    const auto stat = StatOf(::dirfd(opened), entry->d_name, AT_SYMLINK_NOFOLLOW);
    if (!stat || !stat->regular) continue;
    found.push_back({fmt::format("{}/{}", directory, is), stat->inode, stat->born_ns,
                     OrderOf(*stat), is == name});
  }
  ::closedir(opened);
  std::sort(found.begin(), found.end(),
            [](const Candidate& a, const Candidate& b) {  // Of two born in one tick of the clock,
                                                          // the one with the name is the newer.
              return std::pair(a.order_ns, a.named) < std::pair(b.order_ns, b.named);
            });
  return found;
}

absl::StatusOr<std::uint64_t> TailConnector::CheckBefore(std::uint64_t offset) const {
  std::array<char, kCheckBytes> bytes;
  const std::size_t size = std::min<std::uint64_t>(offset, kCheckBytes);
  const ssize_t got = ::pread(file_, bytes.data(), size, static_cast<off_t>(offset - size));
  if (got < 0) return absl::UnavailableError(fmt::format("{} cannot be read", spec_.path));
  return HashKey(std::string_view(bytes.data(), static_cast<std::size_t>(got)));
}

std::uint64_t TailConnector::StartOfLastLine() const {
  const auto stat = StatOf(file_, "", AT_EMPTY_PATH);
  const std::uint64_t size = stat ? stat->size : 0;
  std::string end(std::min<std::uint64_t>(size, kReadBytes), '\0');
  const ssize_t got = ::pread(file_, end.data(), end.size(), static_cast<off_t>(size - end.size()));
  if (got != static_cast<ssize_t>(end.size())) return size;
  const std::size_t feed = end.rfind('\n');
  return feed == std::string::npos ? size - end.size() : size - end.size() + feed + 1;
}

absl::Status TailConnector::BeginAgain(std::string why) {
  ++position_.generation;
  position_.offset = 0;
  position_.mid = false;
  buffer_.clear();
  ++skipped_;
  TOCSIN_ASSIGN_OR_RETURN(position_.check, CheckBefore(0));
  Report([&](LaneReport& report) { report.note = std::move(why); });
  return absl::OkStatus();
}

// The file of the position is open: is it still what it was?
absl::Status TailConnector::Resume() {
  const auto stat = StatOf(file_, "", AT_EMPTY_PATH);
  if (!stat) return absl::UnavailableError(fmt::format("{} cannot be looked at", spec_.path));
  bool same = stat->size >= position_.offset;
  if (same) {
    TOCSIN_ASSIGN_OR_RETURN(const std::uint64_t check, CheckBefore(position_.offset));
    same = check == position_.check;
  }
  if (same) return absl::OkStatus();
  return BeginAgain(fmt::format("{} was truncated; it is read from its beginning", spec_.path));
}

absl::Status TailConnector::ConnectNow(const LaneState& restored) {
  CloseFile();
  announce_ = false;
  if (restored.position.value.empty()) {
    const auto named = Named();
    if (!named) return absl::NotFoundError(fmt::format("{} is not there", spec_.path));
    TOCSIN_RETURN_IF_ERROR(Open(*named));
    position_ = TailPosition();
    position_.inode = named->inode;
    position_.born_ns = named->born_ns;
    if (spec_.from_end) {
      position_.offset = StartOfLastLine();
      announce_ = true;
    }
    TOCSIN_ASSIGN_OR_RETURN(position_.check, CheckBefore(position_.offset));
    Show();
    return absl::OkStatus();
  }
  const auto stored = DecodeTailPosition(restored.position.value);
  if (!stored) {
    return absl::FailedPreconditionError(fmt::format(
        "the stored position ('{}') is of another kind of source; `tocsin sources forget {}` "
        "begins anew",
        restored.position.value.substr(0, 64), spec_.name));
  }
  position_ = *stored;
  for (const Candidate& file : Candidates()) {
    if (file.inode != position_.inode) continue;
    if (position_.born_ns != 0 && file.born_ns != position_.born_ns) continue;
    TOCSIN_RETURN_IF_ERROR(Open(file));
    TOCSIN_RETURN_IF_ERROR(Resume());
    Show();
    return absl::OkStatus();
  }
  const std::string what =
      fmt::format("the file that was {} is gone, and what it had behind byte {} with it",
                  spec_.path, position_.offset);
  if (!spec_.pass_gaps) {
    return absl::FailedPreconditionError(
        what + "; put it back beside it, or say `on_gap: continue` to go on with what is there");
  }
  // Without births nothing tells which of the others was read already: only the newest is sure.
  const auto named = Named();
  std::vector<Candidate> others;
  if (position_.born_ns != 0) {
    others = Candidates();
    std::erase_if(others, [&](const Candidate& file) { return file.born_ns <= position_.born_ns; });
  } else if (named) {
    others.push_back(*named);
  }
  for (const Candidate& file : others) {
    TOCSIN_RETURN_IF_ERROR(Open(file));
    position_ = {file.inode, file.born_ns, 0, 0, 0, false};
    ++skipped_;
    TOCSIN_ASSIGN_OR_RETURN(position_.check, CheckBefore(0));
    Report([&](LaneReport& report) { report.note = what; });
    Show();
    return absl::OkStatus();
  }
  return absl::NotFoundError(fmt::format("{} is not there", spec_.path));
}

void TailConnector::Add(std::string_view line, SourceBatch& batch, std::size_t& bytes) {
  const std::string offset = std::to_string(position_.offset);
  const std::string where = fmt::format("{} at byte {}", spec_.path, offset);
  const bool ended = line.ends_with('\n');
  if (position_.mid || (!ended && line.size() >= kLineBytesMax)) {
    batch.undecodable.push_back(
        {std::string(line), fmt::format("{}: part of a line longer than 1 MiB", where)});
    bytes += line.size();
    position_.mid = !ended;
  } else {
    std::string_view text = line;
    if (text.ends_with('\n')) text.remove_suffix(1);
    if (text.ends_with('\r')) text.remove_suffix(1);
    if (!text.empty()) {
      const std::string id = fmt::format("{:x}-{:x}-{}-{}", position_.inode, position_.born_ns,
                                         position_.generation, offset);
      const std::array<std::pair<std::string_view, std::string_view>, 2> names = {
          std::pair<std::string_view, std::string_view>{"file", spec_.path},
          std::pair<std::string_view, std::string_view>{"offset", offset}};
      OutsideRecord record;
      record.id = id;
      record.what = "line";
      record.subject = spec_.path;
      record.where = where;
      record.names = names;
      record.value = text;
      bytes += mapper_.MapInto(record, batch);
    }
  }
  position_.offset += line.size();
}

absl::StatusOr<bool> TailConnector::Read(SourceBatch& batch, std::size_t& bytes, bool to_the_end) {
  // The buffer begins at the position.
  const std::size_t had = buffer_.size();
  buffer_.resize(had + kReadBytes);
  const ssize_t got =
      ::pread(file_, buffer_.data() + had, kReadBytes, static_cast<off_t>(position_.offset + had));
  buffer_.resize(had + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  if (got < 0) {
    return absl::UnavailableError(
        fmt::format("{} cannot be read: {}", spec_.path, std::strerror(errno)));
  }
  std::string_view rest = buffer_;
  const std::uint64_t began = position_.offset;
  bool full = false;
  while (!rest.empty()) {
    full = batch.events.size() + batch.undecodable.size() >= kBatchEventsMax ||
           bytes >= kBatchBytesMax;
    if (full) break;
    std::size_t end = rest.find('\n');
    if (end == std::string_view::npos) {
      const bool last = to_the_end && got == 0;
      if (rest.size() < kLineBytesMax && !last) break;
      end = std::min(rest.size(), kLineBytesMax) - 1;
    }
    Add(rest.substr(0, end + 1), batch, bytes);
    rest.remove_prefix(end + 1);
  }
  buffer_.erase(0, static_cast<std::size_t>(position_.offset - began));
  if (position_.offset != began) {
    TOCSIN_ASSIGN_OR_RETURN(position_.check, CheckBefore(position_.offset));
  }
  return full || got > 0;
}

absl::StatusOr<bool> TailConnector::Follow(SourceBatch& batch, std::size_t& bytes) {
  const auto named = Named();
  const bool ours = named && named->inode == position_.inode &&
                    (position_.born_ns == 0 || named->born_ns == position_.born_ns);
  if (ours) {
    rotated_.reset();
    return false;
  }
  // The writer may still have the old one open: it is given up when it has been quiet for a while.
  const auto stat = StatOf(file_, "", AT_EMPTY_PATH);
  const std::uint64_t size = stat ? stat->size : 0;
  const Instant now = clock().Monotonic();
  if (!rotated_ || size != size_then_) {
    rotated_ = now;
    size_then_ = size;
  }
  if (now < *rotated_ + kRotationGrace) return false;
  std::optional<Candidate> next;
  const std::int64_t own = stat ? OrderOf(*stat) : position_.born_ns;
  for (const Candidate& file : Candidates()) {
    if (file.inode == position_.inode) continue;
    if (file.order_ns < own || (file.order_ns == own && !file.named)) continue;
    next = file;
    break;
  }
  if (!next) return false;
  TOCSIN_RETURN_IF_ERROR(Read(batch, bytes, true).status());
  if (!batch.empty()) return true;  // its last line is given first
  TOCSIN_RETURN_IF_ERROR(Open(*next));
  position_ = {next->inode, next->born_ns, 0, 0, 0, false};
  TOCSIN_ASSIGN_OR_RETURN(position_.check, CheckBefore(0));
  return true;
}

void TailConnector::Show() {
  const auto stat = file_ < 0 ? std::nullopt : StatOf(file_, "", AT_EMPTY_PATH);
  Report([&](LaneReport& report) {
    report.position = fmt::format("byte {}", position_.offset);
    report.skipped = skipped_;
    if (stat) report.lag = stat->size - std::min(stat->size, position_.offset);
  });
}

absl::StatusOr<SourceBatch> TailConnector::PollNow(Instant until) {
  SourceBatch batch;
  std::size_t bytes = 0;
  if (std::exchange(announce_, false)) {
    batch.position.value = EncodeTailPosition(position_);
    batch.puts.push_back({"begun", std::to_string(position_.offset)});
    return batch;
  }
  while (!cancelled()) {
    // It may have been truncated and have grown beyond what was read since the last look.
    if (position_.offset > 0) TOCSIN_RETURN_IF_ERROR(Resume());
    TOCSIN_ASSIGN_OR_RETURN(bool more, Read(batch, bytes, false));
    if (!more && batch.empty()) {
      TOCSIN_ASSIGN_OR_RETURN(more, Follow(batch, bytes));
    }
    const bool full = batch.events.size() + batch.undecodable.size() >= kBatchEventsMax ||
                      bytes >= kBatchBytesMax;
    if (!batch.empty() && (full || !more)) break;
    if (more) continue;
    const Instant now = clock().Monotonic();
    if (now >= until) break;
    pollfd waited{wake_fd(), POLLIN, 0};
    if (::poll(&waited, 1, MillisecondsUntil(std::min(until, now + kLookEvery))) > 0) Woken();
  }
  if (cancelled() && batch.empty()) return absl::CancelledError("cancelled");
  batch.position.value = EncodeTailPosition(position_);
  Show();
  return batch;
}

absl::StatusOr<std::unique_ptr<SourceConnector>> MakeTailConnector(const TailSpec& spec,
                                                                   BlockingConnector::Ports ports) {
  TOCSIN_ASSIGN_OR_RETURN(RecordMapper mapper, RecordMapper::Make(spec.name, "tail", spec.envelope,
                                                                  spec.event, TailTemplateNames()));
  return std::make_unique<TailConnector>(spec, std::move(mapper), std::move(ports));
}

}  // namespace tocsin
