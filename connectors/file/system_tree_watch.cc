// SystemTree's watching: inotify(7) for changes, an eventfd for Interrupt().

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "broker/base/status.h"
#include "connectors/file/system_tree_impl.h"

namespace tocsin {
namespace {

constexpr std::uint32_t kFileChanges =
    IN_CREATE | IN_MODIFY | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE;
constexpr std::uint32_t kOwnChanges = IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT;
// The longest one wait lasts: a step of the clock or a lost wake-up costs no more.
constexpr Duration kWaitMax = std::chrono::seconds(60);

}  // namespace

absl::Status SystemTree::Watch(const std::string& directory) {
  if (!inotify_.valid()) {
    inotify_ = Descriptor(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (!inotify_.valid()) {
      return absl::ResourceExhaustedError(fmt::format(
          "inotify_init1: {}; raise fs.inotify.max_user_instances", std::strerror(errno)));
    }
  }
  TOCSIN_ASSIGN_OR_RETURN(const Descriptor opened, OpenDirectory(root_.get(), directory, false));
  // By descriptor: the name may lead elsewhere by now.
  const std::string path = fmt::format("/proc/self/fd/{}", opened.get());
  const int watch =
      ::inotify_add_watch(inotify_.get(), path.c_str(), kFileChanges | kOwnChanges | IN_ONLYDIR);
  if (watch < 0) {
    if (errno == ENOSPC) {
      return absl::ResourceExhaustedError(
          "the limit of inotify watches is reached; raise fs.inotify.max_user_watches");
    }
    return ErrnoStatus(errno, "cannot watch", directory);
  }
  watched_[watch] = directory;
  return absl::OkStatus();
}

void SystemTree::ForgetWatches() {
  inotify_ = Descriptor();
  watched_.clear();
}

void SystemTree::Interrupt() {
  const std::uint64_t one = 1;
  static_cast<void>(!::write(wake_.get(), &one, sizeof(one)));
}

void SystemTree::Wait(Instant until, std::vector<TreeChange>& changes) {
  std::array<pollfd, 2> waited{pollfd{wake_.get(), POLLIN, 0}, pollfd{inotify_.get(), POLLIN, 0}};
  const Duration left =
      std::clamp<Duration>(until - clock_.Monotonic(), Duration::zero(), kWaitMax);
  const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
  const timespec timeout{seconds.count(), (left - seconds).count()};
  const nfds_t count = inotify_.valid() ? 2 : 1;
  if (::ppoll(waited.data(), count, &timeout, nullptr) <= 0) return;
  if ((waited[0].revents & POLLIN) != 0) {
    std::uint64_t value = 0;
    static_cast<void>(!::read(wake_.get(), &value, sizeof(value)));
  }
  if (count == 2 && waited[1].revents != 0) ReadEvents(changes);
}

void SystemTree::ReadEvents(std::vector<TreeChange>& changes) {
  alignas(inotify_event) std::array<char, std::size_t{64} << 10> buffer{};
  const ssize_t bytes = ::read(inotify_.get(), buffer.data(), buffer.size());
  if (bytes <= 0) return;
  std::size_t at = 0;
  while (at + sizeof(inotify_event) <= static_cast<std::size_t>(bytes)) {
    inotify_event event{};
    std::memcpy(&event, buffer.data() + at, sizeof(event));
    const char* name = buffer.data() + at + sizeof(event);
    Translate(event.wd, event.mask, event.len == 0 ? std::string_view() : std::string_view(name),
              changes);
    at += sizeof(event) + event.len;
  }
}

void SystemTree::Translate(int watch, std::uint32_t mask, std::string_view name,
                           std::vector<TreeChange>& changes) {
  if ((mask & IN_Q_OVERFLOW) != 0) {
    changes.push_back({TreeChangeKind::kOverflow, ""});
    return;
  }
  const auto watched = watched_.find(watch);
  if (watched == watched_.end()) return;
  const std::string& directory = watched->second;
  if ((mask & kOwnChanges) != 0) {
    // The files of a directory that was removed were each reported gone before.
    if (directory.empty()) {
      changes.push_back({TreeChangeKind::kRootGone, directory});
    } else if ((mask & IN_DELETE_SELF) == 0) {
      changes.push_back({TreeChangeKind::kDirectoryMoved, directory});
    }
    return;
  }
  if ((mask & IN_IGNORED) != 0) {
    watched_.erase(watched);
    return;
  }
  std::string path = directory.empty() ? std::string(name) : fmt::format("{}/{}", directory, name);
  if ((mask & IN_ISDIR) != 0) {
    if ((mask & (IN_CREATE | IN_MOVED_TO)) != 0) {
      changes.push_back({TreeChangeKind::kDirectory, std::move(path)});
    } else if ((mask & IN_MOVED_FROM) != 0) {
      changes.push_back({TreeChangeKind::kDirectoryMoved, std::move(path)});
    }
    return;
  }
  TreeChangeKind kind = TreeChangeKind::kTouched;
  if ((mask & (IN_CLOSE_WRITE | IN_MOVED_TO)) != 0) {
    kind = TreeChangeKind::kComplete;
  } else if ((mask & (IN_MOVED_FROM | IN_DELETE)) != 0) {
    kind = TreeChangeKind::kGone;
  }
  changes.push_back({kind, std::move(path)});
}

}  // namespace tocsin
