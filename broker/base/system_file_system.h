// The real file system beneath one root directory (the data directory).
//
// Write errors: EINTR and short writes are continued; ENOSPC and EDQUOT are kResourceExhausted;
// all else is kInternal with errno's text. Lock() is F_OFD_SETLK, so a fork does not release it.

#pragma once

#include <memory>
#include <string>

#include "broker/base/file_system.h"

namespace tocsin {

// Creates `root` (mode 0700) with its parents if missing.
//   kPermissionDenied, kFailedPrecondition (not a directory)
absl::StatusOr<std::unique_ptr<FileSystem>> OpenSystemFileSystem(const std::string& root);

}  // namespace tocsin
