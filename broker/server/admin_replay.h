// Replays over the admin service: begun on each partition, then told of until they are over.
//
// Threading: each step runs where the last one ended; nothing blocks. What Ports name outlives the
// call.

#pragma once

#include <atomic>
#include <memory>

#include "broker/server/admin_service.h"
#include "broker/server/write_stream.h"
#include "tocsin/v1/admin.grpc.pb.h"

namespace tocsin {

// A call that ends early leaves the replay going on. Refused by one partition, it is not begun on
// the others, or stopped there.
void ReplayTo(const AdminService::Ports& ports, const v1::ReplayRequest& request,
              const std::atomic<bool>& draining,
              std::shared_ptr<WriteStream<v1::ReplayReport>> stream);

}  // namespace tocsin
