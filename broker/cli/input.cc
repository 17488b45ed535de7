#include "broker/cli/input.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "broker/base/status.h"
#include "broker/cli/console.h"

namespace tocsin::cli {
namespace {

constexpr std::size_t kPieceBytes = 64 * 1024;

absl::Status FileError(std::string_view what, const std::string& name, int error) {
  const std::string text = fmt::format("cannot {} {}: {}", what, name, std::strerror(error));
  if (error == ENOENT) return absl::NotFoundError(text);
  if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(text);
  return absl::FailedPreconditionError(text);
}

}  // namespace

InputFile::~InputFile() {
  if (fd_ > STDERR_FILENO) close(fd_);
}

InputFile::InputFile(InputFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), size_(other.size_), name_(std::move(other.name_)) {}

absl::StatusOr<InputFile> InputFile::Open(const std::string& path) {
  InputFile file;
  if (path == "-") {
    file.fd_ = STDIN_FILENO;
    file.name_ = "standard input";
  } else {
    file.name_ = path;
    file.fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file.fd_ < 0) return FileError("read", path, errno);
  }
  struct stat info {};
  if (fstat(file.fd_, &info) == 0) {
    if (S_ISDIR(info.st_mode)) return FileError("read", file.name_, EISDIR);
    if (S_ISREG(info.st_mode)) file.size_ = static_cast<std::uint64_t>(info.st_size);
  }
  return file;
}

absl::StatusOr<std::size_t> InputFile::Read(std::string& buffer) {
  const std::size_t before = buffer.size();
  buffer.resize(before + kPieceBytes);
  ssize_t n = 0;
  int error = 0;
  do {
    n = read(fd_, buffer.data() + before, kPieceBytes);
    error = errno;
  } while (n < 0 && error == EINTR && !Interrupted());
  buffer.resize(before + static_cast<std::size_t>(n > 0 ? n : 0));
  if (n < 0 && error != EINTR) return FileError("read", name_, error);
  return buffer.size() - before;
}

absl::Status WriteWhole(const std::string& path, std::string_view text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return FileError("write", path, errno);
  int error = 0;
  while (!text.empty() && error == 0) {
    const ssize_t n = write(fd, text.data(), text.size());
    if (n > 0) {
      text.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (close(fd) != 0 && error == 0) error = errno;
  return error == 0 ? absl::OkStatus() : FileError("write", path, error);
}

absl::StatusOr<std::string> ReadWhole(const std::string& path, std::size_t bytes_max) {
  TOCSIN_ASSIGN_OR_RETURN(InputFile file, InputFile::Open(path));
  std::string text;
  while (true) {
    TOCSIN_ASSIGN_OR_RETURN(const std::size_t n, file.Read(text));
    if (n == 0) return text;
    if (text.size() > bytes_max) {
      return absl::OutOfRangeError(
          fmt::format("{} is longer than {} bytes", file.name(), bytes_max));
    }
  }
}

void ObjectSplitter::Feed(std::string_view bytes) {
  // What was handed out goes here and not with each object: that would be quadratic.
  const std::size_t done = inside_ ? begin_ : next_;
  buffer_.erase(0, done);
  next_ -= done;
  begin_ = 0;
  buffer_ += bytes;
}

absl::Status ObjectSplitter::Wrong(std::string_view what) const {
  return absl::InvalidArgumentError(fmt::format("line {}: {}", line_, what));
}

absl::StatusOr<bool> ObjectSplitter::Next(Object& object) {
  for (; next_ < buffer_.size(); ++next_) {
    const char c = buffer_[next_];
    if (c == '\n') ++line_;
    if (inside_) {
      if (next_ - begin_ >= object_bytes_max_) {
        return absl::OutOfRangeError(fmt::format("line {}: an event of more than {} bytes of JSON",
                                                 begin_line_, object_bytes_max_));
      }
      if (in_string_) {
        if (escaped_) {
          escaped_ = false;
        } else if (c == '\\') {
          escaped_ = true;
        } else if (c == '"') {
          in_string_ = false;
        }
        continue;
      }
      if (c == '"') in_string_ = true;
      if (c == '{' || c == '[') ++depth_;
      if (c == '}' || c == ']') --depth_;
      if (depth_ > 0) continue;
      inside_ = false;
      ++next_;
      object.text = buffer_.substr(begin_, next_ - begin_);
      object.line = begin_line_;
      where_ = Where::kBetween;
      comma_needed_ = in_array_;
      element_needed_ = false;
      return true;
    }
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n') continue;
    if (where_ == Where::kAfterArray) return Wrong("something after the end of the array");
    if (c == '{') {
      if (comma_needed_) return Wrong("a comma is missing before this event");
      inside_ = true;
      begin_ = next_;
      begin_line_ = line_;
      depth_ = 1;
      in_string_ = escaped_ = false;
    } else if (c == '[' && where_ == Where::kStart) {
      in_array_ = true;
      where_ = Where::kBetween;
    } else if (c == ',' && comma_needed_) {
      comma_needed_ = false;
      element_needed_ = true;
    } else if (c == ']' && in_array_ && !element_needed_) {
      in_array_ = comma_needed_ = false;
      where_ = Where::kAfterArray;
    } else {
      return Wrong(fmt::format("an event (a JSON object) belongs here, not '{}'",
                               Clean(std::string_view(&c, 1))));
    }
  }
  return false;
}

absl::Status ObjectSplitter::End() const {
  if (inside_) {
    return absl::InvalidArgumentError(
        fmt::format("the text ends inside the event that begins at line {}", begin_line_));
  }
  if (in_array_) return Wrong("the text ends inside the array; ']' is missing");
  return absl::OkStatus();
}

}  // namespace tocsin::cli
