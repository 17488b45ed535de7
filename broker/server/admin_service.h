// AdminService: tocsin.v1.Admin over gRPC's callback API: what is seen and done by the command.
//
// Everything it shows comes from snapshots that the partitions take on their own threads, gathered
// per trigger over all partitions; everything it does is control work on each partition.
//
// Threading: handlers run on gRPC's threads and never block; answers come from the partitions'
// executors. Shards, dispatcher, host, executor and clock outlive the service; calls under way end
// before the shards close.

#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/partition/route_plan.h"
#include "broker/partition/shards.h"
#include "broker/server/recent_refusals.h"
#include "dispatch/dispatcher.h"
#include "tocsin/v1/admin.grpc.pb.h"

namespace tocsin {

struct ReloadReport {
  std::vector<std::string> changes;
  std::vector<std::string> errors;  // not empty: nothing was changed
};

// A trigger in force: a route of a plan.
struct PlannedRoute {
  std::shared_ptr<const RoutePlan> plan;
  std::uint32_t route = 0;
};

// Port: what only the composition root knows. Thread-safe; the methods do not block.
class AdminHost {
 public:
  virtual ~AdminHost() = default;
  // The fields of the process and its disk; partitions and workers are filled in by the service.
  virtual void DescribeProcess(v1::StatusResponse& response) const = 0;
  // Every configured source that is no schedule, one entry per lane.
  virtual void DescribeSources(v1::ListSourcesResponse& response) const = 0;
  virtual void Reload(absl::AnyInvocable<void(ReloadReport)> done) = 0;
  // Where the supervisor of local functions writes.
  virtual std::string RunsDir() const = 0;
  // Its lanes begin anew, at once if it is configured. See ForgetLanes().
  using ForgetDone = absl::AnyInvocable<void(absl::StatusOr<v1::ForgetSourceResponse>)>;
  virtual void ForgetSource(const std::string& name, bool dry_run, ForgetDone done) = 0;
  // Tables are read again, beside the changes; durable at `done`. See LookForPgSnapshot().
  using SnapshotDone = absl::AnyInvocable<void(absl::StatusOr<v1::SnapshotSourceResponse>)>;
  virtual void SnapshotSource(const v1::SnapshotSourceRequest& request, SnapshotDone done) = 0;
  // All triggers in force, those of the file first.
  virtual std::vector<PlannedRoute> Routes() const = 0;
  // `text` as ParseTriggers() takes it, `file` its name in errors. `done` when they are durable and
  // every partition matches by them. With errors nothing was changed.
  virtual void ApplyTriggers(std::string text, std::string file, bool dry_run,
                             absl::AnyInvocable<void(absl::StatusOr<ReloadReport>)> done) = 0;
  // Of the API alone. kNotFound, kFailedPrecondition (of the file): nothing was changed.
  virtual void RemoveTriggers(std::vector<std::string> names,
                              absl::AnyInvocable<void(absl::Status)> done) = 0;
  virtual std::set<std::string> ApiTriggers() const = 0;
};

class AdminService final : public v1::Admin::CallbackService {
 public:
  using Authorize =
      std::function<absl::Status(const grpc::ServerContextBase& context, std::string_view object)>;
  struct Ports {
    Shards& shards;
    Dispatcher& dispatcher;
    AdminHost& host;
    Executor& executor;  // for pauses between steps and for what takes long
    const Clock& clock;
    const RecentRefusals& refusals;
    EventLimits event_limits;
    std::uint64_t hash_seed = 0;  // of the data directory
  };

  AdminService(const Ports& ports, Authorize authorize);

  // Streams under way end with UNAVAILABLE at their next step.
  void Drain() { draining_.store(true); }

  grpc::ServerUnaryReactor* Status(grpc::CallbackServerContext* context,
                                   const v1::StatusRequest* request,
                                   v1::StatusResponse* response) override;
  grpc::ServerUnaryReactor* ListTriggers(grpc::CallbackServerContext* context,
                                         const v1::ListTriggersRequest* request,
                                         v1::ListTriggersResponse* response) override;
  grpc::ServerUnaryReactor* SetTriggerState(grpc::CallbackServerContext* context,
                                            const v1::SetTriggerStateRequest* request,
                                            v1::SetTriggerStateResponse* response) override;
  grpc::ServerUnaryReactor* ForgetSource(grpc::CallbackServerContext* context,
                                         const v1::ForgetSourceRequest* request,
                                         v1::ForgetSourceResponse* response) override;
  grpc::ServerUnaryReactor* SnapshotSource(grpc::CallbackServerContext* context,
                                           const v1::SnapshotSourceRequest* request,
                                           v1::SnapshotSourceResponse* response) override;
  grpc::ServerUnaryReactor* ListSources(grpc::CallbackServerContext* context,
                                        const v1::ListSourcesRequest* request,
                                        v1::ListSourcesResponse* response) override;
  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* context,
                                        const v1::ListWorkersRequest* request,
                                        v1::ListWorkersResponse* response) override;
  grpc::ServerWriteReactor<v1::Letter>* ListLetters(grpc::CallbackServerContext* context,
                                                    const v1::ListLettersRequest* request) override;
  grpc::ServerWriteReactor<v1::CloseLettersProgress>* CloseLetters(
      grpc::CallbackServerContext* context, const v1::CloseLettersRequest* request) override;
  grpc::ServerUnaryReactor* Reload(grpc::CallbackServerContext* context,
                                   const v1::ReloadRequest* request,
                                   v1::ReloadResponse* response) override;
  grpc::ServerWriteReactor<v1::TailEvent>* Tail(grpc::CallbackServerContext* context,
                                                const v1::TailRequest* request) override;
  grpc::ServerUnaryReactor* ApplyTriggers(grpc::CallbackServerContext* context,
                                          const v1::ApplyTriggersRequest* request,
                                          v1::ApplyTriggersResponse* response) override;
  grpc::ServerUnaryReactor* RemoveTriggers(grpc::CallbackServerContext* context,
                                           const v1::RemoveTriggersRequest* request,
                                           v1::RemoveTriggersResponse* response) override;
  grpc::ServerWriteReactor<v1::ReplayReport>* Replay(grpc::CallbackServerContext* context,
                                                     const v1::ReplayRequest* request) override;
  grpc::ServerWriteReactor<v1::ExplainItem>* Explain(grpc::CallbackServerContext* context,
                                                     const v1::ExplainRequest* request) override;
  // admin_more.cc
  grpc::ServerUnaryReactor* AddSchedules(grpc::CallbackServerContext* context,
                                         const v1::AddSchedulesRequest* request,
                                         v1::AddSchedulesResponse* response) override;
  grpc::ServerUnaryReactor* ControlSchedule(grpc::CallbackServerContext* context,
                                            const v1::ControlScheduleRequest* request,
                                            v1::ScheduleStatus* response) override;
  grpc::ServerWriteReactor<v1::ScheduleStatus>* ListSchedules(
      grpc::CallbackServerContext* context, const v1::ListSchedulesRequest* request) override;
  grpc::ServerWriteReactor<v1::BackfillProgress>* BackfillSchedule(
      grpc::CallbackServerContext* context, const v1::BackfillScheduleRequest* request) override;
  grpc::ServerUnaryReactor* ListFunctions(grpc::CallbackServerContext* context,
                                          const v1::ListFunctionsRequest* request,
                                          v1::ListFunctionsResponse* response) override;
  grpc::ServerWriteReactor<v1::RunStatus>* ListRuns(grpc::CallbackServerContext* context,
                                                    const v1::ListRunsRequest* request) override;

 private:
  // The reactor of a unary call; null when the call was refused and `*refused` is its reactor.
  grpc::ServerUnaryReactor* Admit(grpc::CallbackServerContext* context, std::string_view object,
                                  grpc::ServerUnaryReactor** refused);

  const Ports ports_;
  const Authorize authorize_;
  std::atomic<bool> draining_{false};
};

// The books of one trigger over all partitions, by name, sorted. `now` is for the oldest's age.
std::vector<v1::TriggerStatus> GatherTriggers(const std::vector<PartitionSnapshot>& snapshots,
                                              const Dispatcher& dispatcher, WallTime now);

std::string_view TriggerStateName(TriggerState state);

}  // namespace tocsin
