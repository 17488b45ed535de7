// KafkaSource: the lanes of a source of kind `kafka`: one for each partition of its topics, or for
// each that the group gives it.
//
// New topics and partitions are looked for every `discover`, more often while something is missing.
// A partition never goes; a topic that was found by a pattern and is gone is given up.
//
// Threading: as SourceLanes says.

#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/base/thread_executor.h"
#include "connectors/kafka/kafka_spec.h"
#include "connectors/source_lanes.h"

namespace tocsin {

struct KafkaSourcePorts {
  const Clock& clock;
  Executor& owner;
  std::unique_ptr<ThreadExecutor> lanes;    // of this source alone
  std::unique_ptr<ThreadExecutor> control;  // of this source alone; may be blocked
};

//   kInvalidArgument  a template of the `event:` block, a setting the library refuses
absl::StatusOr<std::unique_ptr<SourceLanes>> MakeKafkaSource(const KafkaSpec& spec,
                                                             KafkaSourcePorts ports);

// Connects and looks for the topics: one line of what is there, or why it would not work. Blocks.
absl::StatusOr<std::string> CheckKafka(const KafkaSpec& spec, KafkaSourcePorts ports);

}  // namespace tocsin
