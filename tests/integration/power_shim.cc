// Preloaded into a broker (LD_PRELOAD): keeps what a power cut would need to know. What the broker
// writes beneath TOCSIN_POWER_DIR goes to the files as ever; beside it, this notes what was there
// before, and what was synced. After a SIGKILL power_cut.py takes back what was not.
//
//   TOCSIN_POWER_DIR    the directory, absolute
//   TOCSIN_POWER_LOG    the notes; a file outside
//   TOCSIN_POWER_ATTIC  a directory outside, on the same file system: a link to every file, so that
//                       one that was removed can come back
//   TOCSIN_POWER_SLOW   milliseconds that a sync takes longer, so that more is unsynced
//   TOCSIN_POWER_LIE    set: syncs of files are not noted, so that a run must find losses
//
// The notes are records `kind u8 | inode u64 | a u64 | b u64 | c u64 | n u32 | n bytes`, in the
// order in which things were done, each noted before it is done; little-endian:
//
//   W  a write at a, b bytes long, to a file that was c bytes long; bytes: what was at a
//   T  the file, c bytes long, gets a bytes; bytes: what was cut off
//   S  synced: all before note a
//   C  created; bytes: path
//   R  renamed; bytes: from \0 to
//   U  removed; bytes: path
//   M  a directory made; bytes: path
//   D  a directory synced: all before note a; bytes: path
//
// A note's number is the count of those before it. Paths are relative to the directory.

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "broker/base/mutex.h"

namespace {

using tocsin::Mutex;
using tocsin::MutexLock;

template <typename Function>
Function Next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

using OpenAt = int (*)(int, const char*, int, ...);
using Write = ssize_t (*)(int, const void*, size_t, off_t);
using WriteVector = ssize_t (*)(int, const iovec*, int, off_t);
using Sync = int (*)(int);

std::string Setting(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

class Notes {
 public:
  static Notes& Get() {
    static Notes notes;
    return notes;
  }

  bool on() const { return log_ >= 0; }
  Mutex& mutex() { return mutex_; }
  std::uint64_t count() const { return count_; }

  void Add(char kind, std::uint64_t inode, std::uint64_t a, std::uint64_t b, std::uint64_t c,
           std::string_view bytes) {
    std::string note(1, kind);
    const auto put = [&note](auto value) {
      note.append(reinterpret_cast<const char*>(&value), sizeof(value));
    };
    put(inode);
    put(a);
    put(b);
    put(c);
    put(static_cast<std::uint32_t>(bytes.size()));
    note.append(bytes);
    if (write(log_, note.data(), note.size()) != static_cast<ssize_t>(note.size())) std::abort();
    ++count_;
  }

  // Its path beneath the directory; false if it is elsewhere.
  bool Beneath(int fd, std::string& path) const {
    std::array<char, 4096> buffer;
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    const ssize_t got = readlink(link.c_str(), buffer.data(), buffer.size());
    const std::string_view full(buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
    if (!full.starts_with(dir_)) return false;
    path = full.substr(dir_.size());
    if (path.starts_with('/')) path.erase(0, 1);
    return path.empty() || full[dir_.size()] == '/';
  }

  // Of a call with a directory's descriptor and a path; false if that is elsewhere.
  bool Beneath(int dir, const char* name, std::string& path) const {
    if (name[0] == '/' || dir == AT_FDCWD) return false;
    if (!Beneath(dir, path)) return false;
    path += (path.empty() ? "" : "/") + std::string(name);
    return true;
  }

  void KeepLink(const std::string& path, std::uint64_t inode) const {
    const std::string from = dir_ + "/" + path;
    const std::string to = attic_ + "/" + std::to_string(inode);
    (void)link(from.c_str(), to.c_str());  // one that is there will do
  }

  bool lies() const { return lies_; }
  int slow_ms() const { return slow_ms_; }

 private:
  Notes()
      : dir_(Setting("TOCSIN_POWER_DIR")),
        attic_(Setting("TOCSIN_POWER_ATTIC")),
        lies_(!Setting("TOCSIN_POWER_LIE").empty()),
        slow_ms_(std::atoi(Setting("TOCSIN_POWER_SLOW").c_str())) {
    const std::string log = Setting("TOCSIN_POWER_LOG");
    if (dir_.empty() || attic_.empty() || log.empty()) return;
    log_ = Next<OpenAt>("openat")(AT_FDCWD, log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC,
                                  0600);
  }

  const std::string dir_;
  const std::string attic_;
  const bool lies_;
  const int slow_ms_;
  int log_ = -1;
  std::uint64_t count_ = 0;
  Mutex mutex_;
};

struct stat Info(int fd) {
  struct stat info {};
  if (fstat(fd, &info) != 0) std::abort();
  return info;
}

// A regular file beneath the directory.
bool Concerns(int fd) {
  std::string path;
  return Notes::Get().on() && Notes::Get().Beneath(fd, path) && S_ISREG(Info(fd).st_mode);
}

std::string ReadOld(int fd, std::uint64_t from, std::uint64_t to) {
  // The descriptor may be for direct or for writing only.
  const int own = Next<OpenAt>("openat")(AT_FDCWD, ("/proc/self/fd/" + std::to_string(fd)).c_str(),
                                         O_RDONLY | O_CLOEXEC);
  if (own < 0) std::abort();
  std::string old(to - from, '\0');
  std::size_t done = 0;
  while (done < old.size()) {
    const ssize_t got =
        pread(own, old.data() + done, old.size() - done, static_cast<off_t>(from + done));
    if (got <= 0) break;
    done += static_cast<std::size_t>(got);
  }
  close(own);
  return old;
}

void NoteWrite(int fd, const iovec* pieces, int count, off_t offset) {
  std::string fresh;
  for (int i = 0; i < count; ++i) {
    fresh.append(static_cast<const char*>(pieces[i].iov_base), pieces[i].iov_len);
  }
  const struct stat info = Info(fd);
  const auto size = static_cast<std::uint64_t>(info.st_size);
  const auto from = static_cast<std::uint64_t>(offset);
  const std::string old = ReadOld(fd, std::min(from, size), std::min(from + fresh.size(), size));
  if (old == fresh) return;  // the zeros of a preallocation, over zeros
  Notes::Get().Add('W', info.st_ino, from, fresh.size(), size, old);
}

int NoteSync(int fd, int (*sync)(int)) {
  Notes& notes = Notes::Get();
  std::string path;
  if (!notes.on() || !notes.Beneath(fd, path)) return sync(fd);
  std::uint64_t before = 0;
  {
    const MutexLock lock(notes.mutex());
    before = notes.count();
  }
  poll(nullptr, 0, notes.slow_ms());
  const int result = sync(fd);
  if (result != 0) return result;
  const MutexLock lock(notes.mutex());
  const struct stat info = Info(fd);
  if (S_ISDIR(info.st_mode)) {
    notes.Add('D', info.st_ino, before, 0, 0, path);
  } else if (!notes.lies()) {
    notes.Add('S', info.st_ino, before, 0, 0, "");
  }
  return result;
}

}  // namespace

extern "C" {

ssize_t pwritev(int fd, const iovec* pieces, int count, off_t offset) {
  const auto next = Next<WriteVector>("pwritev");
  if (!Concerns(fd)) return next(fd, pieces, count, offset);
  const MutexLock lock(Notes::Get().mutex());
  NoteWrite(fd, pieces, count, offset);
  return next(fd, pieces, count, offset);
}

ssize_t pwrite(int fd, const void* bytes, size_t count, off_t offset) {
  const auto next = Next<Write>("pwrite");
  if (!Concerns(fd)) return next(fd, bytes, count, offset);
  const MutexLock lock(Notes::Get().mutex());
  const iovec piece{const_cast<void*>(bytes), count};
  NoteWrite(fd, &piece, 1, offset);
  return next(fd, bytes, count, offset);
}

int ftruncate(int fd, off_t bytes) {
  const auto next = Next<int (*)(int, off_t)>("ftruncate");
  if (!Concerns(fd)) return next(fd, bytes);
  const MutexLock lock(Notes::Get().mutex());
  const struct stat info = Info(fd);
  const auto size = static_cast<std::uint64_t>(info.st_size);
  const auto fresh = static_cast<std::uint64_t>(bytes);
  Notes::Get().Add('T', info.st_ino, fresh, 0, size, ReadOld(fd, std::min(fresh, size), size));
  return next(fd, bytes);
}

int posix_fallocate(int fd, off_t offset, off_t bytes) {
  const auto next = Next<int (*)(int, off_t, off_t)>("posix_fallocate");
  if (!Concerns(fd)) return next(fd, offset, bytes);
  const MutexLock lock(Notes::Get().mutex());
  const struct stat info = Info(fd);
  const auto size = static_cast<std::uint64_t>(info.st_size);
  const std::uint64_t fresh = std::max(size, static_cast<std::uint64_t>(offset + bytes));
  if (fresh != size) Notes::Get().Add('T', info.st_ino, fresh, 0, size, "");
  return next(fd, offset, bytes);
}

int fdatasync(int fd) { return NoteSync(fd, Next<Sync>("fdatasync")); }
int fsync(int fd) { return NoteSync(fd, Next<Sync>("fsync")); }

int openat(int dir, const char* name, int flags, ...) {
  mode_t mode = 0;
  if ((flags & O_CREAT) != 0) {
    va_list arguments;
    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
  }
  const auto next = Next<OpenAt>("openat");
  Notes& notes = Notes::Get();
  std::string path;
  if (!notes.on() || !notes.Beneath(dir, name, path)) return next(dir, name, flags, mode);
  const MutexLock lock(notes.mutex());
  const bool fresh = (flags & O_CREAT) != 0 && faccessat(dir, name, F_OK, 0) != 0;
  const int fd = next(dir, name, flags, mode);
  if (fd < 0) return fd;
  const struct stat info = Info(fd);
  if (S_ISREG(info.st_mode)) {
    notes.KeepLink(path, info.st_ino);
    if (fresh) notes.Add('C', info.st_ino, 0, 0, 0, path);
  }
  return fd;
}

int renameat(int from_dir, const char* from, int to_dir, const char* to) {
  const auto next = Next<int (*)(int, const char*, int, const char*)>("renameat");
  Notes& notes = Notes::Get();
  std::string from_path;
  std::string to_path;
  if (!notes.on() || !notes.Beneath(from_dir, from, from_path) ||
      !notes.Beneath(to_dir, to, to_path)) {
    return next(from_dir, from, to_dir, to);
  }
  const MutexLock lock(notes.mutex());
  struct stat info {};
  if (fstatat(from_dir, from, &info, 0) == 0) {
    notes.KeepLink(from_path, info.st_ino);
    notes.Add('R', info.st_ino, 0, 0, 0, from_path + '\0' + to_path);
  }
  if (fstatat(to_dir, to, &info, 0) == 0) notes.KeepLink(to_path, info.st_ino);
  return next(from_dir, from, to_dir, to);
}

int unlinkat(int dir, const char* name, int flags) {
  const auto next = Next<int (*)(int, const char*, int)>("unlinkat");
  Notes& notes = Notes::Get();
  std::string path;
  if (!notes.on() || !notes.Beneath(dir, name, path)) return next(dir, name, flags);
  const MutexLock lock(notes.mutex());
  struct stat info {};
  if (fstatat(dir, name, &info, 0) == 0) {
    notes.KeepLink(path, info.st_ino);
    notes.Add('U', info.st_ino, 0, 0, 0, path);
  }
  return next(dir, name, flags);
}

int mkdirat(int dir, const char* name, mode_t mode) {
  const auto next = Next<int (*)(int, const char*, mode_t)>("mkdirat");
  Notes& notes = Notes::Get();
  std::string path;
  if (!notes.on() || !notes.Beneath(dir, name, path)) return next(dir, name, mode);
  const MutexLock lock(notes.mutex());
  const int result = next(dir, name, mode);
  if (result == 0) notes.Add('M', 0, 0, 0, 0, path);
  return result;
}

}  // extern "C"
