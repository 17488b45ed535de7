// FileEvent: the event that says what became of a file.
//
//   id            the file's identity, size and time of change (seen_file.h)
//   source        /sources/<name>          type      dev.tocsin.file.created, .modified, .deleted
//   subject       the path beneath the watched directory; also `partitionkey`, if short enough
//   time          when it was changed last; of a deleted one when that was noticed
//   data          {"path": absolute, "name", "size": bytes, "modified": RFC 3339}

#pragma once

#include <cstdint>
#include <string>

#include "broker/base/clock.h"
#include "broker/base/event.h"
#include "connectors/file/directory_tree.h"
#include "connectors/file/file_spec.h"

namespace tocsin {

enum class FileHappened : std::uint8_t { kCreated, kModified, kDeleted };

struct FileOccurrence {
  FileHappened what = FileHappened::kCreated;
  std::string path;  // beneath the root; FileNameIsUsable()
  FileIdentity identity;
  std::uint64_t size = 0;
  std::int64_t modified_ns = 0;
};

// False for what no attribute can carry: not UTF-8, control characters, too long.
bool FileNameIsUsable(const std::string& path);

// `now` is when it was noticed.
Event MakeFileEvent(const FileSpec& spec, const FileOccurrence& occurrence, WallTime now);

}  // namespace tocsin
