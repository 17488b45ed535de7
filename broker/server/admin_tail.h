// Stored events over the admin service, from a place on, and with `follow` what comes after.
//
// Bounded: one page of one partition is held at a time, and the next is read when the client has
// taken it. Threading: as admin_letters.h.

#pragma once

#include <atomic>
#include <memory>

#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/partition/shards.h"
#include "broker/server/write_stream.h"
#include "tocsin/v1/admin.grpc.pb.h"

namespace tocsin {

// `from` is `start`, `end` (or empty), or `<partition>/<offset>`, which tails that partition alone.
void TailTo(Shards& shards, const v1::TailRequest& request, Executor& executor, const Clock& clock,
            const std::atomic<bool>& draining, std::shared_ptr<WriteStream<v1::TailEvent>> stream);

}  // namespace tocsin
