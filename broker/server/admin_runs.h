// What the supervisor has written of the runs of local functions: their logs (local/run_log.h) and
// what they used (local/usage_book.h).
//
// Reads files, so it blocks: not for a reactor. Thread-safe.

#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tocsin/v1/admin.pb.h"

namespace tocsin {

// Newest first; with `id` that one, with its output. kNotFound: it is not kept (any more).
absl::StatusOr<std::vector<v1::RunStatus>> ReadRuns(const std::string& runs_dir,
                                                    const v1::ListRunsRequest& request);

// By name; empty while nothing was written.
std::vector<v1::FunctionStatus> ReadUsage(const std::string& runs_dir);

}  // namespace tocsin
