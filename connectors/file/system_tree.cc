#include "connectors/file/system_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "broker/base/status.h"
#include "connectors/file/system_tree_impl.h"

namespace tocsin {
namespace {

constexpr unsigned kWanted =
    STATX_TYPE | STATX_INO | STATX_SIZE | STATX_MTIME | STATX_NLINK | STATX_BTIME;
constexpr int kNamesMax = 10'000;  // `.1`, `.2`, ... of a name that is taken

// Others than this machine's kernel write to these, so nothing tells of changes or of writers.
bool IsRemote(const struct statfs& about) {
  constexpr std::array<std::uint32_t, 9> kRemote = {
      NFS_SUPER_MAGIC,        SMB_SUPER_MAGIC, 0xFF534D42U /* CIFS */,
      0xFE534D42U /* SMB2 */, AFS_SUPER_MAGIC, CODA_SUPER_MAGIC,
      0x65735546U /* FUSE */, V9FS_MAGIC,      0x00C36400U /* Ceph */};
  const auto type = static_cast<std::uint32_t>(about.f_type);
  return std::find(kRemote.begin(), kRemote.end(), type) != kRemote.end();
}

FileFacts ToFacts(const struct statx& about, std::uint64_t root_device) {
  constexpr std::int64_t kNanos = 1'000'000'000;
  FileFacts facts;
  facts.kind = S_ISREG(about.stx_mode)   ? FileKind::kRegular
               : S_ISDIR(about.stx_mode) ? FileKind::kDirectory
                                         : FileKind::kOther;
  const std::uint64_t device = makedev(about.stx_dev_major, about.stx_dev_minor);
  facts.identity.device = device == root_device ? 0 : device;
  facts.identity.inode = about.stx_ino;
  if ((about.stx_mask & STATX_BTIME) != 0) {
    facts.identity.born_ns = about.stx_btime.tv_sec * kNanos + about.stx_btime.tv_nsec;
  }
  facts.size = about.stx_size;
  facts.modified_ns = about.stx_mtime.tv_sec * kNanos + about.stx_mtime.tv_nsec;
  facts.links = about.stx_nlink;
  return facts;
}

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

}  // namespace

absl::StatusOr<std::unique_ptr<DirectoryTree>> MakeSystemTree(const std::string& root,
                                                              const Clock& clock) {
  Descriptor wake(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!wake.valid()) {
    return absl::ResourceExhaustedError(
        fmt::format("eventfd: {}; raise the limit of open files", std::strerror(errno)));
  }
  return std::make_unique<SystemTree>(root, clock, std::move(wake));
}

absl::Status SystemTree::ErrnoStatus(int error, std::string_view what,
                                     std::string_view path) const {
  std::string where = root_path_;
  if (!path.empty()) where = fmt::format("{}/{}", root_path_, path);
  const std::string text = fmt::format("{} {}: {}", what, where, std::strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ELOOP:  // a symbolic link, which is not followed
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(text + "; the broker's user needs the right");
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::ResourceExhaustedError(text);
    default:
      return absl::UnavailableError(text);
  }
}

absl::StatusOr<TreeRoot> SystemTree::Open() {
  ForgetWatches();
  root_ = Descriptor();
  Descriptor root(::open(root_path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root.valid()) {
    if (errno == ENOTDIR) {
      return absl::FailedPreconditionError(
          fmt::format("{} is not a directory; name the directory to watch", root_path_));
    }
    return ErrnoStatus(errno, "cannot open the watched directory", "");
  }
  struct statfs about {};
  struct statx facts {};
  if (::fstatfs(root.get(), &about) != 0 ||
      ::statx(root.get(), "", AT_EMPTY_PATH, kWanted, &facts) != 0) {
    return ErrnoStatus(errno, "cannot look at", "");
  }
  root_ = std::move(root);
  root_device_ = makedev(facts.stx_dev_major, facts.stx_dev_minor);
  const bool remote = IsRemote(about);
  leases_ = !remote;
  return TreeRoot{ToFacts(facts, root_device_).identity, remote};
}

absl::StatusOr<Descriptor> SystemTree::OpenDirectory(int base, std::string_view path,
                                                     bool make) const {
  Descriptor at(::openat(base, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  std::string_view rest = path;
  while (at.valid() && !rest.empty()) {
    const std::size_t slash = std::min(rest.find('/'), rest.size());
    const std::string name(rest.substr(0, slash));
    rest.remove_prefix(std::min(slash + 1, rest.size()));
    if (name.empty() || name == ".") continue;
    if (name == "..") {
      return absl::InvalidArgumentError(fmt::format("`..` in {}", path));
    }
    if (make && ::mkdirat(at.get(), name.c_str(), 0777) != 0 && errno != EEXIST) {
      return ErrnoStatus(errno, "cannot make", path);
    }
    at = Descriptor(
        ::openat(at.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  }
  if (!at.valid()) return ErrnoStatus(errno, "cannot open", path);
  return at;
}

absl::StatusOr<SystemTree::Place> SystemTree::Find(const std::string& path) const {
  const std::size_t slash = path.rfind('/');
  Place place;
  place.name = slash == std::string::npos ? path : path.substr(slash + 1);
  if (place.name.empty() || place.name == "." || place.name == "..") {
    return absl::InvalidArgumentError(fmt::format("`{}` does not name a file", path));
  }
  const std::string_view parent =
      slash == std::string::npos ? std::string_view() : std::string_view(path).substr(0, slash);
  TOCSIN_ASSIGN_OR_RETURN(place.directory, OpenDirectory(root_.get(), parent, false));
  return place;
}

absl::StatusOr<FileFacts> SystemTree::FactsAt(int directory, const std::string& name) const {
  struct statx about {};
  if (::statx(directory, name.c_str(), AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, kWanted, &about) !=
      0) {
    return ErrnoStatus(errno, "cannot look at", name);
  }
  return ToFacts(about, root_device_);
}

absl::StatusOr<std::vector<TreeEntry>> SystemTree::List(const std::string& directory) {
  TOCSIN_ASSIGN_OR_RETURN(Descriptor opened, OpenDirectory(root_.get(), directory, false));
  const int number = opened.get();
  const std::unique_ptr<DIR, CloseDirectory> stream(::fdopendir(number));
  if (stream == nullptr) return ErrnoStatus(errno, "cannot read", directory);
  static_cast<void>(opened.Release());
  std::vector<TreeEntry> entries;
  while (true) {
    errno = 0;
    const dirent* entry = ::readdir(stream.get());
    if (entry == nullptr) break;
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    absl::StatusOr<FileFacts> facts = FactsAt(number, name);
    if (!facts.ok()) {
      if (absl::IsNotFound(facts.status())) continue;
      return facts.status();
    }
    entries.push_back({directory.empty() ? name : fmt::format("{}/{}", directory, name), *facts});
  }
  if (errno != 0) return ErrnoStatus(errno, "cannot read", directory);
  return entries;
}

absl::StatusOr<FileFacts> SystemTree::Facts(const std::string& path) {
  TOCSIN_ASSIGN_OR_RETURN(const Place place, Find(path));
  return FactsAt(place.directory.get(), place.name);
}

WriterState SystemTree::Writer(const std::string& path) {
  if (!leases_) return WriterState::kUnknown;
  const absl::StatusOr<Place> place = Find(path);
  if (!place.ok()) return WriterState::kUnknown;
  const Descriptor file(::openat(place->directory.get(), place->name.c_str(),
                                 O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!file.valid()) return WriterState::kUnknown;
  // Whoever opens it while we hold the lease waits until it is closed, a moment later; the signal
  // that tells us of that is one that nobody minds, not SIGIO, which would end the process.
  if (::fcntl(file.get(), F_SETSIG, SIGURG) != 0) return WriterState::kUnknown;
  if (::fcntl(file.get(), F_SETLEASE, F_RDLCK) == 0) {
    static_cast<void>(::fcntl(file.get(), F_SETLEASE, F_UNLCK));
    return WriterState::kNone;
  }
  return errno == EAGAIN ? WriterState::kWriting : WriterState::kUnknown;
}

absl::Status SystemTree::CheckSame(const Place& place, const std::string& path,
                                   const FileFacts& facts) const {
  TOCSIN_ASSIGN_OR_RETURN(const FileFacts now, FactsAt(place.directory.get(), place.name));
  if (now.identity == facts.identity && now.size == facts.size &&
      now.modified_ns == facts.modified_ns) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      fmt::format("{}/{} was changed after its event; it stays", root_path_, path));
}

absl::Status SystemTree::Remove(const std::string& path, const FileFacts& facts) {
  TOCSIN_ASSIGN_OR_RETURN(const Place place, Find(path));
  TOCSIN_RETURN_IF_ERROR(CheckSame(place, path, facts));
  if (::unlinkat(place.directory.get(), place.name.c_str(), 0) != 0) {
    return ErrnoStatus(errno, "cannot delete", path);
  }
  return absl::OkStatus();
}

absl::Status SystemTree::MoveTo(const std::string& path, const FileFacts& facts,
                                const std::string& directory) {
  TOCSIN_ASSIGN_OR_RETURN(const Place place, Find(path));
  TOCSIN_RETURN_IF_ERROR(CheckSame(place, path, facts));
  const std::size_t slash = path.rfind('/');
  const std::string parent = slash == std::string::npos ? "" : path.substr(0, slash);
  Descriptor target;
  if (directory.starts_with('/')) {
    if (::mkdir(directory.c_str(), 0777) != 0 && errno != EEXIST) {
      return ErrnoStatus(errno, fmt::format("cannot make {} for", directory), path);
    }
    const Descriptor base(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!base.valid())
      return ErrnoStatus(errno, fmt::format("cannot open {} for", directory), path);
    TOCSIN_ASSIGN_OR_RETURN(target, OpenDirectory(base.get(), parent, true));
  } else {
    TOCSIN_ASSIGN_OR_RETURN(
        target, OpenDirectory(root_.get(), fmt::format("{}/{}", directory, parent), true));
  }
  for (int i = 0; i < kNamesMax; ++i) {
    const std::string name = i == 0 ? place.name : fmt::format("{}.{}", place.name, i);
    if (::renameat2(place.directory.get(), place.name.c_str(), target.get(), name.c_str(),
                    RENAME_NOREPLACE) == 0) {
      return absl::OkStatus();
    }
    if (errno == EXDEV) {
      return absl::FailedPreconditionError(
          fmt::format("cannot move {}/{} to {}: it is on another file system; name a `move_to` on "
                      "the same one",
                      root_path_, path, directory));
    }
    if (errno != EEXIST) {
      return ErrnoStatus(errno, fmt::format("cannot move to {}", directory), path);
    }
  }
  return absl::UnavailableError(
      fmt::format("{} has {} files named {}; clear it", directory, kNamesMax, place.name));
}

}  // namespace tocsin
