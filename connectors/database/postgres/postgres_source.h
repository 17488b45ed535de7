// The connector that a PostgresSpec asks for, and a look at what it would find.

#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "connectors/blocking_connector.h"
#include "connectors/database/postgres/postgres_request.h"
#include "connectors/database/postgres/postgres_spec.h"

namespace tocsin {

// `reader`: an executor of its own, for snapshots.
//   kInvalidArgument  a template of the `event:` block
absl::StatusOr<std::unique_ptr<SourceConnector>> MakePostgresConnector(
    const PostgresSpec& spec, BlockingConnector::Ports ports, std::unique_ptr<Executor> reader);

// Connects, logs in and looks: one line of what is there, or all that is missing, each with the
// statement that mends it. Blocks, changes nothing.
absl::StatusOr<std::string> CheckPostgres(const PostgresSpec& spec, const Clock& clock);

struct PgSnapshotTables {
  std::vector<std::string> read;     // will be; not empty
  std::vector<std::string> keyless;  // cannot be: without a primary key
};

// Whether the source and the server can do what is asked: which tables, the rights, the gap.
// `state` is the lane's. Blocks until `cancelled` at the longest, changes nothing.
//   those of CheckPgSnapshotRequest()
//   kNotFound            a table that is not there, or not published
//   kFailedPrecondition  no right, no primary key, no gap, or one that is never passed; the server
//                        does not answer
//   kCancelled
absl::StatusOr<PgSnapshotTables> LookForPgSnapshot(const PostgresSpec& spec,
                                                   const PgSnapshotRequest& request,
                                                   const LaneState& state, const Clock& clock,
                                                   const std::function<bool()>& cancelled);

}  // namespace tocsin
