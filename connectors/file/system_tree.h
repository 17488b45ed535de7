// SystemTree: a DirectoryTree on the real disk. Every path is walked from the open root, one name
// at a time, without following symbolic links, so nothing a stranger puts there leads out of it.
// Changes come from inotify(7); whether a file is being written is asked with a read lease
// (fcntl(2), F_SETLEASE), which no file open for writing gets.

#pragma once

#include <memory>
#include <string>

#include "connectors/file/directory_tree.h"

namespace tocsin {

// Opens nothing yet. `clock` outlives the tree. kResourceExhausted: no descriptor for waiting.
absl::StatusOr<std::unique_ptr<DirectoryTree>> MakeSystemTree(const std::string& root,
                                                              const Clock& clock);

}  // namespace tocsin
