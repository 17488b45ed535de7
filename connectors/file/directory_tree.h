// DirectoryTree: what the file connector sees of the disk: one directory and, if asked, what is
// beneath it. Private to connectors/file; SystemTree is the real one, tests have one in memory.
//
// Paths are relative to the root, with `/` between names; "" is the root. No call follows a
// symbolic link or leaves the root. Calls may block.
//
// Threading: one thread, except Interrupt().

#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "broker/base/clock.h"

namespace tocsin {

// Which file it is, whatever its name: the inode, and when it was made, because inodes are used
// again.
struct FileIdentity {
  std::uint64_t device = 0;  // 0: the root's, whose number may be another after a reboot
  std::uint64_t inode = 0;
  std::int64_t born_ns = 0;  // since 1970; 0: the file system does not say

  friend auto operator<=>(const FileIdentity&, const FileIdentity&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const FileIdentity& id) {
    return H::combine(std::move(h), id.device, id.inode, id.born_ns);
  }
};

enum class FileKind : std::uint8_t { kRegular, kDirectory, kOther };

struct FileFacts {
  FileKind kind = FileKind::kRegular;
  FileIdentity identity;
  std::uint64_t size = 0;
  std::int64_t modified_ns = 0;
  std::uint32_t links = 1;

  friend bool operator==(const FileFacts&, const FileFacts&) = default;
};

struct TreeEntry {
  std::string path;
  FileFacts facts;
};

enum class TreeChangeKind : std::uint8_t {
  kTouched,         // made, or written to: its writer may have it open
  kComplete,        // closed by a writer, or moved here
  kGone,            // a file was removed, or moved away
  kDirectory,       // a directory appeared: to be watched and listed
  kDirectoryMoved,  // a watched directory has another name now, or is gone
  kOverflow,        // changes were lost
  kRootGone,        // the root was removed, moved or unmounted
};

struct TreeChange {
  TreeChangeKind kind = TreeChangeKind::kOverflow;
  std::string path;
};

enum class WriterState : std::uint8_t {
  kNone,     // no process has it open for writing
  kWriting,  // some process has
  kUnknown,  // the file system or our rights do not let us know
};

struct TreeRoot {
  FileIdentity identity;
  bool remote = false;  // a network or user-space file system: changes by others go unnoticed
};

class DirectoryTree {
 public:
  virtual ~DirectoryTree() = default;

  // Opens the root; again after a failure. Forgets every watch.
  //   kNotFound, kPermissionDenied, kFailedPrecondition (not a directory)
  virtual absl::StatusOr<TreeRoot> Open() = 0;

  // The entries of a directory; one that vanishes meanwhile is left out.
  //   kNotFound, kPermissionDenied, kUnavailable (an I/O error: what is beneath is not known)
  virtual absl::StatusOr<std::vector<TreeEntry>> List(const std::string& directory) = 0;

  // kNotFound also if a part of the path is no directory any more.
  virtual absl::StatusOr<FileFacts> Facts(const std::string& path) = 0;

  virtual WriterState Writer(const std::string& path) = 0;

  // Changes in this one directory are reported from now on; OK if they are already.
  //   kNotFound, kPermissionDenied, kResourceExhausted (the limit of watches),
  //   kUnimplemented (this file system has none)
  virtual absl::Status Watch(const std::string& directory) = 0;
  virtual void ForgetWatches() = 0;

  // Waits for changes until `until` at most, and gives what there is, in order; returns early,
  // maybe with nothing, after Interrupt(), which lasts until the next call has seen it.
  // Thread-safe.
  virtual void Wait(Instant until, std::vector<TreeChange>& changes) = 0;
  virtual void Interrupt() = 0;

  // Both only if the file at `path` is still as in `facts`: kFailedPrecondition if not.
  virtual absl::Status Remove(const std::string& path, const FileFacts& facts) = 0;
  // `directory` is absolute or beneath the root and is made if missing; the file keeps its path
  // beneath it. A name that is taken gets `.1`, `.2`, ...: nothing is ever overwritten.
  //   kFailedPrecondition  also: on another file system
  virtual absl::Status MoveTo(const std::string& path, const FileFacts& facts,
                              const std::string& directory) = 0;
};

}  // namespace tocsin
