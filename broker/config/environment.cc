#include "broker/config/environment.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "broker/base/status.h"

namespace tocsin {

std::optional<std::string> SystemConfigEnvironment::Variable(const std::string& name) const {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr) return std::nullopt;
  return std::string(value);
}

absl::StatusOr<std::string> SystemConfigEnvironment::ReadFile(const std::string& path,
                                                              std::size_t bytes_max) const {
  const auto failed = [&](int error) -> absl::Status {
    const std::string message = fmt::format("cannot read {}: {}", path, std::strerror(error));
    if (error == ENOENT || error == ENOTDIR) return absl::NotFoundError(message);
    if (error == EACCES || error == EPERM) return absl::PermissionDeniedError(message);
    return absl::UnavailableError(message);
  };
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return failed(errno);
  const absl::Status too_large = absl::OutOfRangeError(
      fmt::format("{} has more than {} bytes, the most that is read", path, bytes_max));
  struct stat info {};
  if (::fstat(fd, &info) == 0 && info.st_size > 0 &&
      static_cast<std::uint64_t>(info.st_size) > bytes_max) {
    ::close(fd);
    return too_large;
  }
  // What tells no size (a pipe, /proc) is read as far as it may go.
  std::string text;
  char buffer[65536];
  while (true) {
    const ssize_t count = ::read(fd, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const int error = errno;
      ::close(fd);
      if (count < 0) return failed(error);
      return text;
    }
    text.append(buffer, static_cast<std::size_t>(count));
    if (text.size() > bytes_max) {
      ::close(fd);
      return too_large;
    }
  }
}

}  // namespace tocsin
