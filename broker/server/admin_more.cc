// The admin service's part for schedules, functions and their runs.

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "broker/base/status.h"
#include "broker/server/admin_runs.h"
#include "broker/server/admin_schedules.h"
#include "broker/server/admin_service.h"
#include "broker/server/grpc_auth.h"
#include "broker/server/write_stream.h"

namespace tocsin {

grpc::ServerUnaryReactor* AdminService::AddSchedules(grpc::CallbackServerContext* context,
                                                     const v1::AddSchedulesRequest* request,
                                                     v1::AddSchedulesResponse* response) {
  grpc::ServerUnaryReactor* refused = nullptr;
  grpc::ServerUnaryReactor* reactor = Admit(context, "adding schedules", &refused);
  if (reactor == nullptr) return refused;
  AddSchedulesTo(ports_.shards, *request, ports_.event_limits, ports_.clock.Wall(),
                 [reactor, response](v1::AddSchedulesResponse answer) {
                   *response = std::move(answer);
                   reactor->Finish(grpc::Status::OK);
                 });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ControlSchedule(grpc::CallbackServerContext* context,
                                                        const v1::ControlScheduleRequest* request,
                                                        v1::ScheduleStatus* response) {
  grpc::ServerUnaryReactor* refused = nullptr;
  grpc::ServerUnaryReactor* reactor =
      Admit(context, "schedule `" + request->name() + "`", &refused);
  if (reactor == nullptr) return refused;
  ControlScheduleOf(ports_.shards, *request,
                    [reactor, response](absl::StatusOr<v1::ScheduleStatus> status) {
                      if (status.ok()) *response = *std::move(status);
                      reactor->Finish(ToGrpcStatus(status.status()));
                    });
  return reactor;
}

grpc::ServerWriteReactor<v1::ScheduleStatus>* AdminService::ListSchedules(
    grpc::CallbackServerContext* context, const v1::ListSchedulesRequest* request) {
  auto stream = std::make_shared<WriteStream<v1::ScheduleStatus>>();
  auto* reactor = stream->Begin();
  const absl::Status allowed = authorize_(*context, "the list of schedules");
  if (!allowed.ok()) {
    stream->Finish(ToGrpcStatus(allowed));
  } else {
    ListSchedulesTo(ports_.shards, *request, draining_, std::move(stream));
  }
  return reactor;
}

grpc::ServerWriteReactor<v1::BackfillProgress>* AdminService::BackfillSchedule(
    grpc::CallbackServerContext* context, const v1::BackfillScheduleRequest* request) {
  auto stream = std::make_shared<WriteStream<v1::BackfillProgress>>();
  auto* reactor = stream->Begin();
  const absl::Status allowed = authorize_(*context, "schedule `" + request->name() + "`");
  if (!allowed.ok()) {
    stream->Finish(ToGrpcStatus(allowed));
  } else {
    BackfillTo(ports_.shards, *request, draining_, std::move(stream));
  }
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ListFunctions(grpc::CallbackServerContext* context,
                                                      const v1::ListFunctionsRequest*,
                                                      v1::ListFunctionsResponse* response) {
  grpc::ServerUnaryReactor* refused = nullptr;
  grpc::ServerUnaryReactor* reactor = Admit(context, "the list of functions", &refused);
  if (reactor == nullptr) return refused;
  ports_.executor.Post([this, reactor, response] {
    std::map<std::string, v1::FunctionStatus> by_name;
    for (v1::FunctionStatus& one : ReadUsage(ports_.host.RunsDir())) {
      by_name[one.name()] = std::move(one);
    }
    for (const auto& [name, sessions] : ports_.dispatcher.Functions()) {
      v1::FunctionStatus& one = by_name[name];
      one.set_name(name);
      if (one.kind().empty()) one.set_kind("attached");
      one.set_workers(static_cast<std::uint32_t>(sessions));
    }
    for (auto& [name, one] : by_name) *response->add_functions() = std::move(one);
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerWriteReactor<v1::RunStatus>* AdminService::ListRuns(
    grpc::CallbackServerContext* context, const v1::ListRunsRequest* request) {
  auto stream = std::make_shared<WriteStream<v1::RunStatus>>();
  auto* reactor = stream->Begin();
  const absl::Status allowed = authorize_(*context, "the runs of functions");
  if (!allowed.ok()) {
    stream->Finish(ToGrpcStatus(allowed));
    return reactor;
  }
  struct Writing : std::enable_shared_from_this<Writing> {
    std::shared_ptr<WriteStream<v1::RunStatus>> stream;
    std::vector<v1::RunStatus> runs;
    std::size_t next = 0;

    void Next() {
      if (next == runs.size()) return stream->Finish(grpc::Status::OK);
      stream->Write(std::move(runs[next++]), [self = shared_from_this()](bool ok) {
        if (ok) return self->Next();
        self->stream->Finish(grpc::Status::OK);
      });
    }
  };
  ports_.executor.Post([this, stream, wanted = *request] {
    auto runs = ReadRuns(ports_.host.RunsDir(), wanted);
    if (!runs.ok()) return stream->Finish(ToGrpcStatus(runs.status()));
    auto writing = std::make_shared<Writing>();
    writing->stream = stream;
    writing->runs = std::move(*runs);
    writing->Next();
  });
  return reactor;
}

}  // namespace tocsin
