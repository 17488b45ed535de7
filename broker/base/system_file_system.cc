#include "broker/base/system_file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr std::size_t kZeroBytes = std::size_t{1} << 20;
constexpr std::uint64_t kBlockBytes = 4096;  // alignment O_DIRECT needs
constexpr int kPiecesMax = 64;

absl::Status ErrnoStatus(const std::string& what, int error) {
  const std::string message = fmt::format("{}: {}", what, strerrordesc_np(error));
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(message);
    case EEXIST:
      return absl::AlreadyExistsError(message);
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::InternalError(message);
  }
}

absl::Status OpenErrnoStatus(const std::string& what, int error) {
  if (error == EACCES || error == EPERM || error == EROFS) {
    return absl::PermissionDeniedError(fmt::format("{}: {}", what, strerrordesc_np(error)));
  }
  return ErrnoStatus(what, error);
}

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_;
};

Descriptor OpenAt(int dir, const std::string& path, int flags, mode_t mode = 0) {
  while (true) {
    const int fd = openat(dir, path.c_str(), flags | O_CLOEXEC, mode);
    if (fd >= 0 || errno != EINTR) return Descriptor(fd);
  }
}

// Zeros, aligned for O_DIRECT.
struct ZeroBlock {
  ZeroBlock() : data(static_cast<char*>(std::aligned_alloc(kBlockBytes, kZeroBytes))) {
    if (data != nullptr) std::memset(data, 0, kZeroBytes);
  }
  ~ZeroBlock() { std::free(data); }
  ZeroBlock(const ZeroBlock&) = delete;
  ZeroBlock& operator=(const ZeroBlock&) = delete;
  char* data;
};

class SystemFile final : public File {
 public:
  SystemFile(Descriptor fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  absl::StatusOr<std::size_t> ReadAt(std::uint64_t position,
                                     std::span<std::byte> buffer) const override {
    std::size_t done = 0;
    while (done < buffer.size()) {
      const ssize_t got = pread(fd_.get(), buffer.data() + done, buffer.size() - done,
                                static_cast<off_t>(position + done));
      if (got == 0) break;
      if (got < 0) {
        if (errno == EINTR) continue;
        return ErrnoStatus(fmt::format("cannot read {}", path_), errno);
      }
      done += static_cast<std::size_t>(got);
    }
    return done;
  }

  absl::Status WriteAt(std::uint64_t position,
                       std::span<const std::span<const std::byte>> pieces) override {
    std::array<iovec, kPiecesMax> vectors;
    std::size_t piece = 0;
    std::size_t skip = 0;  // bytes of pieces[piece] already written
    while (true) {
      int count = 0;
      for (std::size_t i = piece; i < pieces.size() && count < kPiecesMax; ++i) {
        const std::size_t from = i == piece ? skip : 0;
        if (pieces[i].size() == from) continue;
        vectors[static_cast<std::size_t>(count)].iov_base =
            const_cast<std::byte*>(pieces[i].data() + from);
        vectors[static_cast<std::size_t>(count)].iov_len = pieces[i].size() - from;
        ++count;
      }
      if (count == 0) return absl::OkStatus();
      const ssize_t wrote = pwritev(fd_.get(), vectors.data(), count, static_cast<off_t>(position));
      if (wrote < 0) {
        if (errno == EINTR || errno == EAGAIN) continue;
        return ErrnoStatus(fmt::format("cannot write {}", path_), errno);
      }
      if (wrote == 0) return absl::InternalError(fmt::format("cannot write {}: no bytes", path_));
      position += static_cast<std::uint64_t>(wrote);
      auto left = static_cast<std::size_t>(wrote);
      while (piece < pieces.size() && left >= pieces[piece].size() - skip) {
        left -= pieces[piece].size() - skip;
        skip = 0;
        ++piece;
      }
      skip += left;
    }
  }

  absl::StatusOr<std::uint64_t> Size() const override {
    struct stat info {};
    if (fstat(fd_.get(), &info) != 0) {
      return ErrnoStatus(fmt::format("cannot stat {}", path_), errno);
    }
    return static_cast<std::uint64_t>(info.st_size);
  }

  absl::Status SyncData() override {
    // Not repeated after EIO: the kernel has dropped the dirty pages and would answer OK.
    if (fdatasync(fd_.get()) != 0) return ErrnoStatus(fmt::format("cannot sync {}", path_), errno);
    return absl::OkStatus();
  }

  absl::Status Truncate(std::uint64_t bytes) override {
    if (ftruncate(fd_.get(), static_cast<off_t>(bytes)) != 0) {
      return ErrnoStatus(fmt::format("cannot truncate {}", path_), errno);
    }
    return absl::OkStatus();
  }

  absl::Status Preallocate(std::uint64_t bytes, Fill fill) override {
    TOCSIN_ASSIGN_OR_RETURN(const std::uint64_t size, Size());
    if (size >= bytes) return absl::OkStatus();
    const std::string what = fmt::format("cannot preallocate {}", path_);
    int error = 0;
    do {
      error =
          posix_fallocate(fd_.get(), static_cast<off_t>(size), static_cast<off_t>(bytes - size));
    } while (error == EINTR);
    if (error != 0 && error != EOPNOTSUPP && error != EINVAL) return ErrnoStatus(what, error);
    if (error == 0 && fill == Fill::kNone) {
      return fsync(fd_.get()) == 0 ? absl::OkStatus() : ErrnoStatus(what, errno);
    }

    const ZeroBlock zeros;
    if (zeros.data == nullptr) return absl::ResourceExhaustedError(what + ": no memory");
    // Direct writes keep 64 MiB of zeros out of the page cache, where they would wait for the
    // committer's next sync.
    Descriptor direct =
        OpenAt(AT_FDCWD, fmt::format("/proc/self/fd/{}", fd_.get()), O_WRONLY | O_DIRECT);
    std::uint64_t position = size;
    while (position < bytes) {
      std::uint64_t length = std::min<std::uint64_t>(bytes - position, kZeroBytes);
      const std::uint64_t misaligned = position % kBlockBytes;
      if (misaligned != 0) length = std::min(length, kBlockBytes - misaligned);
      const bool aligned = misaligned == 0 && length % kBlockBytes == 0;
      const bool use_direct = direct.valid() && aligned;
      const ssize_t wrote = pwrite(use_direct ? direct.get() : fd_.get(), zeros.data, length,
                                   static_cast<off_t>(position));
      if (wrote < 0) {
        if (errno == EINTR || errno == EAGAIN) continue;
        if (use_direct && errno == EINVAL) {
          direct = Descriptor();
          continue;
        }
        return ErrnoStatus(what, errno);
      }
      position += static_cast<std::uint64_t>(wrote);
      if (!use_direct && fdatasync(fd_.get()) != 0) return ErrnoStatus(what, errno);
    }
    if (fsync(fd_.get()) != 0) return ErrnoStatus(what, errno);
    return absl::OkStatus();
  }

 private:
  const Descriptor fd_;
  const std::string path_;
};

class SystemFileLock final : public FileLock {
 public:
  explicit SystemFileLock(Descriptor fd) : fd_(std::move(fd)) {}

 private:
  const Descriptor fd_;
};

std::string ReadSmall(int fd) {
  std::array<char, 256> buffer;
  const ssize_t got = pread(fd, buffer.data(), buffer.size(), 0);
  std::string text(buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  while (!text.empty() && (text.back() == '\n' || text.back() == '\0')) text.pop_back();
  return text;
}

std::string BootId() {
  const Descriptor fd = OpenAt(AT_FDCWD, "/proc/sys/kernel/random/boot_id", O_RDONLY);
  return fd.valid() ? ReadSmall(fd.get()) : std::string("unknown");
}

class SystemFileSystem final : public FileSystem {
 public:
  SystemFileSystem(Descriptor root, std::string name)
      : root_(std::move(root)), name_(std::move(name)) {}

  absl::StatusOr<std::unique_ptr<File>> Create(const std::string& path) override {
    return OpenFile(path, O_RDWR | O_CREAT | O_EXCL, "create");
  }

  absl::StatusOr<std::unique_ptr<File>> Open(const std::string& path) override {
    return OpenFile(path, O_RDWR, "open");
  }

  absl::StatusOr<std::unique_ptr<FileLock>> Lock(const std::string& path) override {
    TOCSIN_RETURN_IF_ERROR(CheckPath(path));
    Descriptor fd = OpenAt(root_.get(), path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    if (!fd.valid()) return OpenErrnoStatus(fmt::format("cannot open {}", Full(path)), errno);
    struct flock request {};
    request.l_type = F_WRLCK;
    request.l_whence = SEEK_SET;
    while (fcntl(fd.get(), F_OFD_SETLK, &request) != 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EACCES) {
        return absl::FailedPreconditionError(
            fmt::format("{} is held by another process ({}); stop it, or use another directory",
                        Full(path), ReadSmall(fd.get())));
      }
      return ErrnoStatus(fmt::format("cannot lock {}", Full(path)), errno);
    }
    const std::string holder = fmt::format("pid {} boot {}\n", getpid(), BootId());
    // Only for the message above: the lock holds without it, on a full disk too.
    if (ftruncate(fd.get(), 0) == 0) {
      [[maybe_unused]] const ssize_t wrote = pwrite(fd.get(), holder.data(), holder.size(), 0);
    }
    return std::unique_ptr<FileLock>(std::make_unique<SystemFileLock>(std::move(fd)));
  }

  absl::Status CreateDir(const std::string& dir) override {
    TOCSIN_RETURN_IF_ERROR(CheckPath(dir));
    if (mkdirat(root_.get(), dir.c_str(), 0700) != 0 && errno != EEXIST) {
      return OpenErrnoStatus(fmt::format("cannot create directory {}", Full(dir)), errno);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::string>> List(const std::string& dir) override {
    TOCSIN_ASSIGN_OR_RETURN(Descriptor fd, OpenDir(dir));
    const int copy = dup(fd.get());
    DIR* stream = copy >= 0 ? fdopendir(copy) : nullptr;
    if (stream == nullptr) {
      const absl::Status status = ErrnoStatus(fmt::format("cannot list {}", Full(dir)), errno);
      if (copy >= 0) close(copy);
      return status;
    }
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = readdir(stream)) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
      errno = 0;
    }
    const int error = errno;
    closedir(stream);
    if (error != 0) return ErrnoStatus(fmt::format("cannot list {}", Full(dir)), error);
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    TOCSIN_RETURN_IF_ERROR(CheckPath(from));
    TOCSIN_RETURN_IF_ERROR(CheckPath(to));
    if (renameat(root_.get(), from.c_str(), root_.get(), to.c_str()) != 0) {
      return ErrnoStatus(fmt::format("cannot rename {} to {}", Full(from), to), errno);
    }
    return absl::OkStatus();
  }

  absl::Status Remove(const std::string& path) override {
    TOCSIN_RETURN_IF_ERROR(CheckPath(path));
    if (unlinkat(root_.get(), path.c_str(), 0) != 0) {
      return ErrnoStatus(fmt::format("cannot remove {}", Full(path)), errno);
    }
    return absl::OkStatus();
  }

  absl::Status SyncDir(const std::string& dir) override {
    TOCSIN_ASSIGN_OR_RETURN(const Descriptor fd, OpenDir(dir));
    if (fsync(fd.get()) != 0) {
      return ErrnoStatus(fmt::format("cannot sync directory {}", Full(dir)), errno);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::uint64_t> FreeBytes() override {
    struct statvfs info {};
    if (fstatvfs(root_.get(), &info) != 0) {
      return ErrnoStatus(fmt::format("cannot read the free space of {}", name_), errno);
    }
    return std::uint64_t{info.f_bavail} * info.f_frsize;
  }

 private:
  // Paths stay beneath the root: relative, no empty, `.` or `..` part.
  static absl::Status CheckPath(std::string_view path) {
    std::size_t begin = 0;
    while (true) {
      const std::size_t end = std::min(path.find('/', begin), path.size());
      const std::string_view part = path.substr(begin, end - begin);
      if (part.empty() || part == "." || part == ".." ||
          part.find('\0') != std::string_view::npos) {
        return absl::InvalidArgumentError(fmt::format("'{}' is not a path beneath a root", path));
      }
      if (end == path.size()) return absl::OkStatus();
      begin = end + 1;
    }
  }

  std::string Full(const std::string& path) const { return fmt::format("{}/{}", name_, path); }

  absl::StatusOr<std::unique_ptr<File>> OpenFile(const std::string& path, int flags,
                                                 std::string_view verb) {
    TOCSIN_RETURN_IF_ERROR(CheckPath(path));
    Descriptor fd = OpenAt(root_.get(), path, flags | O_NOFOLLOW, 0600);
    if (!fd.valid()) {
      return OpenErrnoStatus(fmt::format("cannot {} {}", verb, Full(path)), errno);
    }
    return std::unique_ptr<File>(std::make_unique<SystemFile>(std::move(fd), Full(path)));
  }

  absl::StatusOr<Descriptor> OpenDir(const std::string& dir) {
    if (!dir.empty()) TOCSIN_RETURN_IF_ERROR(CheckPath(dir));
    Descriptor fd = OpenAt(root_.get(), dir.empty() ? "." : dir, O_RDONLY | O_DIRECTORY);
    if (!fd.valid()) {
      return OpenErrnoStatus(fmt::format("cannot open directory {}", Full(dir)), errno);
    }
    return fd;
  }

  const Descriptor root_;
  const std::string name_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<FileSystem>> OpenSystemFileSystem(const std::string& root) {
  std::size_t end = 0;
  while (end != std::string::npos) {
    end = root.find('/', end + 1);
    const std::string part = root.substr(0, end);
    if (mkdir(part.c_str(), 0700) != 0 && errno != EEXIST && errno != EISDIR) {
      const int error = errno;
      struct stat info {};
      if (stat(part.c_str(), &info) == 0) continue;  // a read-only parent that is there
      if (error == ENOTDIR) {
        return absl::FailedPreconditionError(fmt::format("{} is not a directory", part));
      }
      return OpenErrnoStatus(fmt::format("cannot create directory {}", part), error);
    }
  }
  Descriptor fd = OpenAt(AT_FDCWD, root, O_RDONLY | O_DIRECTORY);
  if (!fd.valid()) {
    if (errno == ENOTDIR) {
      return absl::FailedPreconditionError(fmt::format("{} is not a directory", root));
    }
    return OpenErrnoStatus(fmt::format("cannot open {}", root), errno);
  }
  if (faccessat(fd.get(), ".", R_OK | W_OK | X_OK, AT_EACCESS) != 0) {
    return absl::PermissionDeniedError(fmt::format("{} is not writable by this user", root));
  }
  return std::unique_ptr<FileSystem>(std::make_unique<SystemFileSystem>(std::move(fd), root));
}

}  // namespace tocsin
