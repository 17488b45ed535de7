// Preloaded into a broker (LD_PRELOAD): makes calls on files of its data directory fail or wait, as
// the file named by TOCSIN_FAULTS says at that moment. One fault per line:
//
//   fail CALL ERRNO PATH [SKIP]   CALL of this kind on a path that contains PATH fails, after SKIP
//                                 good ones since the fault was first seen
//   hold CALL PATH                waits until the line is gone
//   slow CALL MILLISECONDS PATH   takes so much longer
//   disturb write PATH            writes in turn are interrupted (EINTR), put off (EAGAIN), short;
//                                 each adds a byte to the file TOCSIN_FAULTS.disturbed
//   free BYTES                    what the file system says is free
//
// With TOCSIN_SKIP_ZEROS the zeros of a preallocation, which are there already, are not written:
// a test that starts many brokers is not held up by the disk.
//
// CALL: write, allocate, create, sync. ERRNO: ENOSPC, EDQUOT, EIO, EROFS,
// EACCES. PATH: `/` is every file.

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace {

template <typename Function>
Function Next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

// Which good calls of a kind were let through; one fault with SKIP at a time is enough for tests.
std::array<std::atomic<int>, 4> skipped{};

int KindIndex(std::string_view call) {
  constexpr std::array<std::string_view, 4> kKinds = {"write", "allocate", "create", "sync"};
  for (int i = 0; i < 4; ++i) {
    if (kKinds[static_cast<std::size_t>(i)] == call) return i;
  }
  return -1;
}

std::string Faults() {
  const char* path = std::getenv("TOCSIN_FAULTS");
  if (path == nullptr) return "";
  const int fd = static_cast<int>(Next<int (*)(const char*, int, ...)>("open")(path, O_RDONLY));
  if (fd < 0) return "";
  std::array<char, 4096> buffer;
  const ssize_t got = read(fd, buffer.data(), buffer.size());
  close(fd);
  return {buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0};
}

std::string_view Word(std::string_view& line) {
  while (!line.empty() && line.front() == ' ') line.remove_prefix(1);
  const std::string_view word = line.substr(0, line.find(' '));
  line.remove_prefix(word.size());
  return word;
}

long long Number(std::string_view text) {
  long long value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

std::string PathOf(int fd) {
  std::array<char, 4096> buffer;
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t got = readlink(link.c_str(), buffer.data(), buffer.size());
  return {buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0};
}

int ErrorNumber(std::string_view name) {
  if (name == "EDQUOT") return EDQUOT;
  if (name == "EIO") return EIO;
  if (name == "EROFS") return EROFS;
  if (name == "EACCES") return EACCES;
  return ENOSPC;
}

// 0, or the errno this call fails with. Waits while it is held.
int Fault(std::string_view call, const std::string& path) {
  while (true) {
    const std::string faults = Faults();
    bool held = false;
    for (std::string_view rest = faults; !rest.empty();) {
      std::string_view line = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(rest.size(), line.size() + 1));
      const std::string_view verb = Word(line);
      if (verb != "fail" && verb != "hold" && verb != "slow") continue;
      if (Word(line) != call) continue;
      const std::string_view detail = verb == "hold" ? "" : Word(line);
      if (path.find(Word(line)) == std::string::npos) continue;
      if (verb == "hold") {
        held = true;
        continue;
      }
      if (verb == "slow") {
        poll(nullptr, 0, static_cast<int>(Number(detail)));
        continue;
      }
      const long long skip = Number(Word(line));
      if (skipped[static_cast<std::size_t>(KindIndex(call))].fetch_add(1) < skip) continue;
      return ErrorNumber(detail);
    }
    if (!held) return 0;
    poll(nullptr, 0, 5);
  }
}

constexpr std::size_t kZerosMin = 4096;

bool SkipsZeros() {
  static const bool skips = std::getenv("TOCSIN_SKIP_ZEROS") != nullptr;
  return skips;
}

bool IsZero(const void* bytes, std::size_t count) {
  const auto* text = static_cast<const char*>(bytes);
  return text[0] == 0 && std::memcmp(text, text + 1, count - 1) == 0;
}

bool IsDisturbed(const std::string& path) {
  const std::string faults = Faults();
  for (std::string_view rest = faults; !rest.empty();) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    if (Word(line) == "disturb" && Word(line) == "write" &&
        path.find(Word(line)) != std::string::npos) {
      return true;
    }
  }
  return false;
}

// How many of `bytes` a write is to write; all, unless it is disturbed. 0: errno is set.
std::size_t Disturbed(int fd, std::size_t bytes) {
  if (bytes < 2 || !IsDisturbed(PathOf(fd))) return bytes;
  static std::atomic<std::size_t> turns{0};
  const std::size_t turn = turns.fetch_add(1);
  if (turn % 7 == 6) return bytes;
  const std::string told = std::string(std::getenv("TOCSIN_FAULTS")) + ".disturbed";
  const int log = static_cast<int>(Next<int (*)(const char*, int, ...)>("open")(
      told.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600));
  if (log >= 0) {
    if (write(log, "x", 1) != 1) std::abort();
    close(log);
  }
  if (turn % 7 < 2) {
    errno = turn % 7 == 0 ? EINTR : EAGAIN;
    return 0;
  }
  return std::max<std::size_t>(1, bytes * (turn % 11 + 1) / 13);
}

bool Fails(std::string_view call, int fd) {
  const int error = Fault(call, PathOf(fd));
  if (error != 0) errno = error;
  return error != 0;
}

}  // namespace

extern "C" {

ssize_t pwritev(int fd, const iovec* pieces, int count, off_t offset) {
  if (Fails("write", fd)) return -1;
  std::vector<iovec> wanted(pieces, pieces + count);
  std::size_t bytes = 0;
  for (const iovec& piece : wanted) bytes += piece.iov_len;
  std::size_t left = Disturbed(fd, bytes);
  if (left == 0 && bytes > 0) return -1;
  for (iovec& piece : wanted) {
    piece.iov_len = std::min(piece.iov_len, left);
    left -= piece.iov_len;
  }
  return Next<ssize_t (*)(int, const iovec*, int, off_t)>("pwritev")(fd, wanted.data(), count,
                                                                     offset);
}

ssize_t pwrite(int fd, const void* bytes, size_t count, off_t offset) {
  if (Fails("write", fd)) return -1;
  if (count >= kZerosMin && SkipsZeros() && IsZero(bytes, count)) {
    return static_cast<ssize_t>(count);
  }
  const std::size_t part = Disturbed(fd, count);
  if (part == 0 && count > 0) return -1;
  return Next<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite")(fd, bytes, part, offset);
}

int posix_fallocate(int fd, off_t offset, off_t bytes) {
  const int error = Fault("allocate", PathOf(fd));
  if (error != 0) return error;
  return Next<int (*)(int, off_t, off_t)>("posix_fallocate")(fd, offset, bytes);
}

int fdatasync(int fd) {
  if (Fails("sync", fd)) return -1;
  return Next<int (*)(int)>("fdatasync")(fd);
}

int openat(int dir, const char* path, int flags, ...) {
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    va_list arguments;
    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
    const int error = Fault("create", "/" + std::string(path));
    if (error != 0) {
      errno = error;
      return -1;
    }
  }
  return Next<int (*)(int, const char*, int, ...)>("openat")(dir, path, flags, mode);
}

int fstatvfs(int fd, struct statvfs* info) {
  const int result = Next<int (*)(int, struct statvfs*)>("fstatvfs")(fd, info);
  const std::string faults = Faults();
  const std::size_t at = faults.find("free ");
  if (result == 0 && at != std::string::npos) {
    std::string_view line = std::string_view(faults).substr(at + 5);
    info->f_bavail = static_cast<fsblkcnt_t>(Number(line.substr(0, line.find('\n')))) /
                     static_cast<fsblkcnt_t>(info->f_frsize);
  }
  return result;
}

}  // extern "C"
