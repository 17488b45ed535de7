// The connector that a RedisSpec asks for, and a look at what it would find.

#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "connectors/blocking_connector.h"
#include "connectors/redis/redis_spec.h"

namespace tocsin {

//   kInvalidArgument  a template of the `event:` block
absl::StatusOr<std::unique_ptr<SourceConnector>> MakeRedisConnector(const RedisSpec& spec,
                                                                    BlockingConnector::Ports ports);

// Connects, logs in and looks: one line of what is there, or why it would not work. Blocks, changes
// nothing.
absl::StatusOr<std::string> CheckRedis(const RedisSpec& spec, const Clock& clock);

}  // namespace tocsin
