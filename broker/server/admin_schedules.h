// Schedules over the admin service: added, controlled, listed, backfilled.
//
// Threading: as AdminService; everything is control work on the partition of the schedule's name.
// What is given by reference outlives the call.

#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/base/event.h"
#include "broker/partition/shards.h"
#include "broker/server/write_stream.h"
#include "tocsin/v1/admin.pb.h"

namespace tocsin {

// What the partition takes, or kInvalidArgument (T0339): what is wrong. `now`: for `in`.
absl::StatusOr<NewSchedule> ToNewSchedule(const v1::Schedule& schedule, const EventLimits& limits,
                                          WallTime now);
v1::ScheduleStatus ToScheduleStatus(const ScheduleInfo& info, PartitionId partition);

// `done` when all that were not refused are durable.
void AddSchedulesTo(Shards& shards, const v1::AddSchedulesRequest& request,
                    const EventLimits& limits, WallTime now,
                    absl::AnyInvocable<void(v1::AddSchedulesResponse)> done);
void ControlScheduleOf(Shards& shards, const v1::ControlScheduleRequest& request,
                       absl::AnyInvocable<void(absl::StatusOr<v1::ScheduleStatus>)> done);
void ListSchedulesTo(Shards& shards, const v1::ListSchedulesRequest& request,
                     const std::atomic<bool>& draining,
                     std::shared_ptr<WriteStream<v1::ScheduleStatus>> stream);
void BackfillTo(Shards& shards, const v1::BackfillScheduleRequest& request,
                const std::atomic<bool>& draining,
                std::shared_ptr<WriteStream<v1::BackfillProgress>> stream);

}  // namespace tocsin
