#include "broker/server/admin_service.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <utility>

#include "broker/base/mutex.h"
#include "broker/base/status.h"
#include "broker/server/admin_explain.h"
#include "broker/server/admin_letters.h"
#include "broker/server/admin_replay.h"
#include "broker/server/admin_tail.h"
#include "broker/server/grpc_auth.h"
#include "broker/server/write_stream.h"

namespace tocsin {
namespace {

std::int64_t Milliseconds(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

// The state to show for a trigger that is in different ones on different partitions: what needs
// the operator most.
int Rank(TriggerState state) {
  switch (state) {
    case TriggerState::kBlockedByKey:
      return 3;
    case TriggerState::kPaused:
      return 2;
    case TriggerState::kActive:
      return 1;
    case TriggerState::kDetached:
      return 0;
  }
  return 0;
}

// What SetTriggerState gathers over the partitions.
struct StateChange {
  Mutex mutex;
  std::size_t open ABSL_GUARDED_BY(mutex) = 0;
  std::uint64_t pending ABSL_GUARDED_BY(mutex) = 0;
  bool found ABSL_GUARDED_BY(mutex) = false;
  absl::Status failed ABSL_GUARDED_BY(mutex);
};

}  // namespace

std::string_view TriggerStateName(TriggerState state) {
  switch (state) {
    case TriggerState::kActive:
      return "active";
    case TriggerState::kPaused:
      return "paused";
    case TriggerState::kDetached:
      return "detached";
    case TriggerState::kBlockedByKey:
      return "blocked_by_key";
  }
  return "";
}

std::vector<v1::TriggerStatus> GatherTriggers(const std::vector<PartitionSnapshot>& snapshots,
                                              const Dispatcher& dispatcher, WallTime now) {
  struct Gathered {
    v1::TriggerStatus status;
    TriggerState state = TriggerState::kDetached;
    std::optional<WallTime> oldest;
  };
  std::map<std::string, Gathered> by_name;
  for (const PartitionSnapshot& snapshot : snapshots) {
    for (const TriggerBooks& books : snapshot.triggers) {
      Gathered& gathered = by_name[books.name];
      v1::TriggerStatus& status = gathered.status;
      if (status.name().empty() || Rank(books.state) > Rank(gathered.state)) {
        status.set_name(books.name);
        status.set_function(books.function);
        status.set_config_hash(books.config_hash);
        gathered.state = books.state;
      }
      if (!books.blocking_key.empty()) status.set_blocking_key(books.blocking_key);
      status.set_matched(status.matched() + books.matched);
      status.set_acked(status.acked() + books.acked);
      status.set_dead(status.dead() + books.dead);
      status.set_dropped(status.dropped() + books.dropped);
      status.set_expired(status.expired() + books.expired);
      status.set_pending(status.pending() + books.pending);
      status.set_ready(status.ready() + books.ready);
      status.set_leased(status.leased() + books.leased);
      status.set_delayed(status.delayed() + books.delayed);
      status.set_parked_keys(status.parked_keys() + books.parked_keys);
      if (books.oldest && (!gathered.oldest || *books.oldest < *gathered.oldest)) {
        gathered.oldest = books.oldest;
      }
    }
  }
  std::map<std::string, std::size_t> workers;
  for (const auto& [function, sessions] : dispatcher.Functions()) workers[function] = sessions;
  std::vector<v1::TriggerStatus> triggers;
  triggers.reserve(by_name.size());
  for (auto& [name, gathered] : by_name) {
    v1::TriggerStatus& status = gathered.status;
    status.set_state(std::string(TriggerStateName(gathered.state)));
    status.set_oldest_age_ms(
        gathered.oldest ? std::max<std::int64_t>(0, Milliseconds(now - *gathered.oldest)) : -1);
    const auto serving = workers.find(status.function());
    if (gathered.state == TriggerState::kActive && status.ready() > 0 &&
        dispatcher.Throttled(name)) {
      status.set_state("throttled");
    }
    if (serving != workers.end()) status.set_workers(static_cast<std::uint32_t>(serving->second));
    triggers.push_back(std::move(status));
  }
  return triggers;
}

AdminService::AdminService(const Ports& ports, Authorize authorize)
    : ports_(ports), authorize_(std::move(authorize)) {}

grpc::ServerUnaryReactor* AdminService::Admit(grpc::CallbackServerContext* context,
                                              std::string_view object,
                                              grpc::ServerUnaryReactor** refused) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  *refused = reactor;
  const absl::Status allowed = authorize_(*context, object);
  if (allowed.ok()) return reactor;
  reactor->Finish(ToGrpcStatus(allowed));
  return nullptr;
}

grpc::ServerUnaryReactor* AdminService::Status(grpc::CallbackServerContext* context,
                                               const v1::StatusRequest*,
                                               v1::StatusResponse* response) {
  grpc::ServerUnaryReactor* refused = nullptr;
  grpc::ServerUnaryReactor* reactor = Admit(context, "status", &refused);
  if (reactor == nullptr) return refused;
  ports_.shards.Snapshots([this, reactor, response](std::vector<PartitionSnapshot> snapshots) {
    ports_.host.DescribeProcess(*response);
    response->set_workers(static_cast<std::uint32_t>(ports_.dispatcher.Sessions().size()));
    for (const PartitionSnapshot& snapshot : snapshots) {
      v1::PartitionStatus& partition = *response->add_partitions();
      partition.set_partition(snapshot.id.value());
      partition.set_epoch(snapshot.epoch.value());
      partition.set_start_offset(snapshot.start.value());
      partition.set_durable_end(snapshot.durable_end.value());
      partition.set_open_letters(snapshot.open_letters);
      partition.set_unmatched(snapshot.unmatched);
      partition.set_duplicates(snapshot.duplicates);
      partition.set_refused(snapshot.refused);
      partition.set_pinned_by(snapshot.pinned_by);
      partition.set_pinned_bytes(snapshot.pinned_bytes);
      partition.set_deduped_ids(snapshot.deduped_ids);
      if (snapshot.letters_full) {
        response->add_warnings(
            fmt::format("partition {}: the dead letters are at their quota: discard or "
                        "redrive some",
                        snapshot.id.value()));
      }
      for (const auto& [what, count] : snapshot.unmatched_by) {
        response->add_warnings(fmt::format("partition {}: {} events of {} matched no trigger",
                                           snapshot.id.value(), count, what));
      }
    }
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ListTriggers(grpc::CallbackServerContext* context,
                                                     const v1::ListTriggersRequest*,
                                                     v1::ListTriggersResponse* response) {
  grpc::ServerUnaryReactor* refused = nullptr;
  grpc::ServerUnaryReactor* reactor = Admit(context, "the list of triggers", &refused);
  if (reactor == nullptr) return refused;
  ports_.shards.Snapshots([this, reactor, response](std::vector<PartitionSnapshot> snapshots) {
    const std::set<std::string> api = ports_.host.ApiTriggers();
    for (v1::TriggerStatus& status :
         GatherTriggers(snapshots, ports_.dispatcher, ports_.clock.Wall())) {
      status.set_origin(api.contains(status.name())    ? "api"
                        : status.state() == "detached" ? ""
                                                       : "file");
      *response->add_triggers() = std::move(status);
    }
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::SetTriggerState(grpc::CallbackServerContext* context,
                                                        const v1::SetTriggerStateRequest* request,
                                                        v1::SetTriggerStateResponse* response) {
  using Request = v1::SetTriggerStateRequest;
  const std::string name = request->name();
  const Request::Action action = request->action();
  const bool dry_run = request->dry_run();
  grpc::ServerUnaryReactor* refused = nullptr;
  grpc::ServerUnaryReactor* reactor = Admit(context, "trigger `" + name + "`", &refused);
  if (reactor == nullptr) return refused;
  if (action != Request::PAUSE && action != Request::RESUME && action != Request::FORGET) {
    reactor->Finish(
        {grpc::StatusCode::INVALID_ARGUMENT, "`action` must be pause, resume or forget"});
    return reactor;
  }
  auto change = std::make_shared<StateChange>();
  const std::uint32_t partitions = ports_.shards.partition_count();
  {
    MutexLock lock(change->mutex);
    change->open = partitions;
  }
  for (std::uint32_t number = 0; number < partitions; ++number) {
    ports_.shards.Post(PartitionId(number), [=](Partition& partition) {
      absl::StatusOr<std::uint64_t> result = std::uint64_t{0};
      if (action == Request::FORGET) {
        result = partition.Forget(name, dry_run);
      } else if (dry_run) {
        const PartitionSnapshot snapshot = partition.Snapshot();
        const bool here =
            std::any_of(snapshot.triggers.begin(), snapshot.triggers.end(),
                        [&](const TriggerBooks& books) { return books.name == name; });
        if (!here) result = absl::NotFoundError("no such trigger");
      } else if (const absl::Status set = partition.SetPaused(name, action == Request::PAUSE);
                 !set.ok()) {
        result = set;
      } else {
        for (const TriggerBooks& books : partition.Snapshot().triggers) {
          if (books.name == name) result = books.pending;
        }
      }
      // A crash must not take back what was confirmed.
      partition.OnceDurable([=](const absl::Status& durable) {
        absl::Status failed;
        {
          MutexLock lock(change->mutex);
          if (result.ok()) {
            if (!dry_run) change->failed.Update(durable);
            change->found = true;
            change->pending += *result;
          } else if (!absl::IsNotFound(result.status())) {
            change->failed = result.status();
          }
          if (--change->open > 0) return;
          failed = change->failed;
          if (failed.ok() && !change->found) {
            failed = absl::NotFoundError(fmt::format("there is no trigger `{}`", name));
          } else if (absl::IsResourceExhausted(failed) && change->found &&
                     !IsTakenWithoutRoom(failed)) {
            failed = Annotate(failed, "on some partitions only; on others");
          }
          response->set_pending(change->pending);
        }
        reactor->Finish(ToGrpcStatus(failed));
      });
    });
  }
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ListSources(grpc::CallbackServerContext* context,
                                                    const v1::ListSourcesRequest*,
                                                    v1::ListSourcesResponse* response) {
  grpc::ServerUnaryReactor* refused = nullptr;
  grpc::ServerUnaryReactor* reactor = Admit(context, "the list of sources", &refused);
  if (reactor == nullptr) return refused;
  ports_.shards.Snapshots([this, reactor, response](std::vector<PartitionSnapshot> snapshots) {
    ports_.host.DescribeSources(*response);
    for (const PartitionSnapshot& snapshot : snapshots) {
      for (const LaneStatus& lane : snapshot.lanes) {
        if (lane.lane.source.starts_with(kPartitionLanePrefix)) continue;
        // What the partition knows of a lane joins what the host knows of its source.
        v1::SourceStatus* status = nullptr;
        for (v1::SourceStatus& candidate : *response->mutable_sources()) {
          if (candidate.name() == lane.lane.source && candidate.lane() == lane.lane.key) {
            status = &candidate;
          }
        }
        if (status == nullptr) {
          status = response->add_sources();
          status->set_name(lane.lane.source);
          status->set_lane(lane.lane.key);
          status->set_state("absent");
        }
        status->set_partition(snapshot.id.value());
        status->set_events(lane.events);
        if (status->position().empty()) status->set_position(lane.position);
      }
      for (const ScheduleStatus& schedule : snapshot.schedules) {
        v1::SourceStatus& status = *response->add_sources();
        status.set_name(schedule.name);
        status.set_kind("timer");
        status.set_state(schedule.busy ? "busy" : "waiting");
        status.set_partition(snapshot.id.value());
        status.set_events(schedule.fired);
        status.set_skipped(schedule.skipped);
        if (schedule.next) status.set_next_us(schedule.next->time_since_epoch().count());
      }
    }
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ForgetSource(grpc::CallbackServerContext* context,
                                                     const v1::ForgetSourceRequest* request,
                                                     v1::ForgetSourceResponse* response) {
  grpc::ServerUnaryReactor* refused = nullptr;
  grpc::ServerUnaryReactor* reactor = Admit(context, "forgetting a source", &refused);
  if (reactor == nullptr) return refused;
  ports_.host.ForgetSource(request->name(), request->dry_run(),
                           [reactor, response](absl::StatusOr<v1::ForgetSourceResponse> forgotten) {
                             if (forgotten.ok()) *response = *std::move(forgotten);
                             reactor->Finish(ToGrpcStatus(forgotten.status()));
                           });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::SnapshotSource(grpc::CallbackServerContext* context,
                                                       const v1::SnapshotSourceRequest* request,
                                                       v1::SnapshotSourceResponse* response) {
  grpc::ServerUnaryReactor* refused = nullptr;
  grpc::ServerUnaryReactor* reactor = Admit(context, "reading the tables of a source", &refused);
  if (reactor == nullptr) return refused;
  ports_.host.SnapshotSource(*request,
                             [reactor, response](absl::StatusOr<v1::SnapshotSourceResponse> asked) {
                               if (asked.ok()) *response = *std::move(asked);
                               reactor->Finish(ToGrpcStatus(asked.status()));
                             });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ListWorkers(grpc::CallbackServerContext* context,
                                                    const v1::ListWorkersRequest*,
                                                    v1::ListWorkersResponse* response) {
  grpc::ServerUnaryReactor* refused = nullptr;
  grpc::ServerUnaryReactor* reactor = Admit(context, "the list of workers", &refused);
  if (reactor == nullptr) return refused;
  const Instant now = ports_.clock.Monotonic();
  for (const SessionInfo& session : ports_.dispatcher.Sessions()) {
    v1::WorkerStatus& worker = *response->add_workers();
    worker.set_session(session.id.value());
    worker.set_worker(session.hello.worker);
    worker.set_instance(session.hello.instance);
    worker.set_version(session.hello.version);
    worker.set_peer(session.hello.peer);
    for (const std::string& function : session.hello.functions) worker.add_functions(function);
    worker.set_credit(session.hello.credit.events);
    worker.set_in_flight(session.in_flight);
    worker.set_delivered(session.delivered);
    worker.set_acked(session.acked);
    worker.set_retried(session.retried);
    worker.set_rejected(session.rejected);
    worker.set_dropped(session.dropped);
    worker.set_stale(session.stale);
    worker.set_attached_ms_ago(Milliseconds(now - session.attached));
    worker.set_heard_ms_ago(Milliseconds(now - session.last_heard));
    worker.set_draining(session.draining);
  }
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::Reload(grpc::CallbackServerContext* context,
                                               const v1::ReloadRequest*,
                                               v1::ReloadResponse* response) {
  grpc::ServerUnaryReactor* refused = nullptr;
  grpc::ServerUnaryReactor* reactor = Admit(context, "reload", &refused);
  if (reactor == nullptr) return refused;
  ports_.host.Reload([reactor, response](const ReloadReport& report) {
    for (const std::string& change : report.changes) response->add_changes(change);
    for (const std::string& error : report.errors) response->add_errors(error);
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerWriteReactor<v1::Letter>* AdminService::ListLetters(
    grpc::CallbackServerContext* context, const v1::ListLettersRequest* request) {
  auto stream = std::make_shared<WriteStream<v1::Letter>>();
  auto* reactor = stream->Begin();
  const absl::Status allowed = authorize_(*context, "dead letters");
  if (!allowed.ok()) {
    stream->Finish(ToGrpcStatus(allowed));
  } else {
    ListLettersTo(ports_.shards, *request, draining_, std::move(stream));
  }
  return reactor;
}

grpc::ServerWriteReactor<v1::CloseLettersProgress>* AdminService::CloseLetters(
    grpc::CallbackServerContext* context, const v1::CloseLettersRequest* request) {
  auto stream = std::make_shared<WriteStream<v1::CloseLettersProgress>>();
  auto* reactor = stream->Begin();
  const absl::Status allowed = authorize_(*context, "dead letters");
  if (!allowed.ok()) {
    stream->Finish(ToGrpcStatus(allowed));
  } else {
    CloseLettersTo(ports_.shards, *request, ports_.executor, ports_.clock, draining_,
                   std::move(stream));
  }
  return reactor;
}

grpc::ServerWriteReactor<v1::TailEvent>* AdminService::Tail(grpc::CallbackServerContext* context,
                                                            const v1::TailRequest* request) {
  auto stream = std::make_shared<WriteStream<v1::TailEvent>>();
  auto* reactor = stream->Begin();
  const absl::Status allowed = authorize_(*context, "stored events");
  if (!allowed.ok()) {
    stream->Finish(ToGrpcStatus(allowed));
  } else {
    TailTo(ports_.shards, *request, ports_.executor, ports_.clock, draining_, std::move(stream));
  }
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ApplyTriggers(grpc::CallbackServerContext* context,
                                                      const v1::ApplyTriggersRequest* request,
                                                      v1::ApplyTriggersResponse* response) {
  grpc::ServerUnaryReactor* refused = nullptr;
  grpc::ServerUnaryReactor* reactor = Admit(context, "applying triggers", &refused);
  if (reactor == nullptr) return refused;
  const std::string file = request->file().empty() ? "request" : request->file();
  ports_.host.ApplyTriggers(request->text(), file, request->dry_run(),
                            [reactor, response](const absl::StatusOr<ReloadReport>& report) {
                              if (report.ok()) {
                                for (const std::string& change : report->changes) {
                                  response->add_changes(change);
                                }
                                for (const std::string& error : report->errors) {
                                  response->add_errors(error);
                                }
                              }
                              reactor->Finish(ToGrpcStatus(report.status()));
                            });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::RemoveTriggers(grpc::CallbackServerContext* context,
                                                       const v1::RemoveTriggersRequest* request,
                                                       v1::RemoveTriggersResponse*) {
  grpc::ServerUnaryReactor* refused = nullptr;
  grpc::ServerUnaryReactor* reactor = Admit(context, "removing triggers", &refused);
  if (reactor == nullptr) return refused;
  ports_.host.RemoveTriggers(
      {request->names().begin(), request->names().end()},
      [reactor](const absl::Status& status) { reactor->Finish(ToGrpcStatus(status)); });
  return reactor;
}

grpc::ServerWriteReactor<v1::ReplayReport>* AdminService::Replay(
    grpc::CallbackServerContext* context, const v1::ReplayRequest* request) {
  auto stream = std::make_shared<WriteStream<v1::ReplayReport>>();
  auto* reactor = stream->Begin();
  const absl::Status allowed = authorize_(*context, "trigger `" + request->trigger() + "`");
  if (!allowed.ok()) {
    stream->Finish(ToGrpcStatus(allowed));
  } else {
    ReplayTo(ports_, *request, draining_, std::move(stream));
  }
  return reactor;
}

grpc::ServerWriteReactor<v1::ExplainItem>* AdminService::Explain(
    grpc::CallbackServerContext* context, const v1::ExplainRequest* request) {
  auto stream = std::make_shared<WriteStream<v1::ExplainItem>>();
  auto* reactor = stream->Begin();
  const absl::Status allowed = authorize_(*context, "stored events");
  if (!allowed.ok()) {
    stream->Finish(ToGrpcStatus(allowed));
  } else {
    ExplainTo(ports_, *request, draining_, std::move(stream));
  }
  return reactor;
}

}  // namespace tocsin
