// Dead letters over the admin service: listing and closing (redrive, discard), a step at a time.
//
// Threading: each step runs where the last one ended; nothing blocks. The shards, the executor, the
// clock and `draining` outlive the call.

#pragma once

#include <atomic>
#include <memory>

#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/partition/shards.h"
#include "broker/server/write_stream.h"
#include "tocsin/v1/admin.grpc.pb.h"

namespace tocsin {

// Writes every open letter that the filter lets through, by partition and id, and finishes.
void ListLettersTo(Shards& shards, const v1::ListLettersRequest& request,
                   const std::atomic<bool>& draining,
                   std::shared_ptr<WriteStream<v1::Letter>> stream);

// Selects as ListLettersTo does, then redrives or discards them one after the other at `rate` and
// tells of each. With `dry_run` it tells what it would do.
void CloseLettersTo(Shards& shards, const v1::CloseLettersRequest& request, Executor& executor,
                    const Clock& clock, const std::atomic<bool>& draining,
                    std::shared_ptr<WriteStream<v1::CloseLettersProgress>> stream);

}  // namespace tocsin
