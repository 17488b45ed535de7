// The connector that a PostgresSpec asks for, and a look at what it would find.

#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "connectors/blocking_connector.h"
#include "connectors/database/postgres/postgres_spec.h"

namespace tocsin {

// `reader`: an executor of its own, for snapshots.
//   kInvalidArgument  a template of the `event:` block
absl::StatusOr<std::unique_ptr<SourceConnector>> MakePostgresConnector(
    const PostgresSpec& spec, BlockingConnector::Ports ports, std::unique_ptr<Executor> reader);

// Connects, logs in and looks: one line of what is there, or all that is missing, each with the
// statement that mends it. Blocks, changes nothing.
absl::StatusOr<std::string> CheckPostgres(const PostgresSpec& spec, const Clock& clock);

}  // namespace tocsin
