// SeenFile: what a file source remembers of a file it is done with, as an entry of its lane: the
// key is the file's identity, the value its size, time of last change and path. Text, so that a
// person can read a dump; written by this version, read by later ones.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "connectors/file/directory_tree.h"

namespace tocsin {

struct SeenFile {
  std::uint64_t size = 0;
  std::int64_t modified_ns = 0;
  std::string path;

  friend bool operator==(const SeenFile&, const SeenFile&) = default;
};

// A lane entry's value is at most 4 KiB.
inline constexpr std::size_t kSeenPathBytesMax = 3900;

std::string EncodeIdentity(const FileIdentity& identity);
std::optional<FileIdentity> DecodeIdentity(std::string_view key);
std::string EncodeSeenFile(const SeenFile& seen);
std::optional<SeenFile> DecodeSeenFile(std::string_view value);

// The id of the event that says what became of a file: the same when the same state of the same
// file is read twice.
std::string FileEventId(const FileIdentity& identity, std::uint64_t size, std::int64_t modified_ns);
struct FileEventKey {
  FileIdentity identity;
  std::uint64_t size = 0;
  std::int64_t modified_ns = 0;
};
std::optional<FileEventKey> ParseFileEventId(std::string_view id);

// The lane's position: which directory it was.
std::string EncodeRoot(const FileIdentity& root);
std::optional<FileIdentity> DecodeRoot(std::string_view position);

}  // namespace tocsin
