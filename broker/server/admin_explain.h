// Explain over the admin service: why an event came to a trigger or did not, and what became of
// it.
//
//   place, or id and source --> [dedupe table, else a scan] --> Partition::Explain
//                                                       verdicts of all triggers --> stream
//
// Threading: each step runs where the last one ended, the verdicts on `executor`; nothing blocks.
// What Ports name outlives the call.

#pragma once

#include <atomic>
#include <memory>

#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/partition/shards.h"
#include "broker/server/admin_service.h"
#include "broker/server/write_stream.h"
#include "dispatch/dispatcher.h"
#include "tocsin/v1/admin.grpc.pb.h"

namespace tocsin {

// Writes what is known of the event, then one verdict per trigger, and finishes.
//   INVALID_ARGUMENT  nothing to explain was named, or what was is malformed
//   NOT_FOUND         no such event, and none was refused
void ExplainTo(const AdminService::Ports& ports, const v1::ExplainRequest& request,
               const std::atomic<bool>& draining,
               std::shared_ptr<WriteStream<v1::ExplainItem>> stream);

}  // namespace tocsin
