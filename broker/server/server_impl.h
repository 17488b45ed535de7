// The parts of a Server and how they are joined; private to broker/server.

#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "broker/base/mutex.h"
#include "broker/base/random.h"
#include "broker/base/system_clock.h"
#include "broker/base/system_file_system.h"
#include "broker/base/thread_executor.h"
#include "broker/journal/file_journal.h"
#include "broker/partition/shards.h"
#include "broker/server/admin_service.h"
#include "broker/server/auth.h"
#include "broker/server/clock_watch.h"
#include "broker/server/grpc_listener.h"
#include "broker/server/http_server.h"
#include "broker/server/local_workers.h"
#include "broker/server/log.h"
#include "broker/server/publish_engine.h"
#include "broker/server/publish_service.h"
#include "broker/server/recent_refusals.h"
#include "broker/server/server.h"
#include "broker/server/server_metrics.h"
#include "broker/server/source_set.h"
#include "broker/server/trigger_registry.h"
#include "dispatch/dispatcher.h"
#include "dispatch/grpc/worker_service.h"

namespace tocsin {

enum class ServerState : std::uint8_t { kStarting, kServing, kDraining, kStopped };

struct Server::Impl final : public AdminHost, public PartitionObserver {
  explicit Impl(ServerOptions options_in);
  ~Impl() override;

  // Start(), in order.
  absl::Status Start();
  absl::StatusOr<Config> Load(std::vector<ConfigError>& errors);
  absl::Status OpenData(const BrokerConfig& broker);
  absl::Status OpenPartitions();
  absl::Status MakeLocalWorkers();
  void GatherLoads(std::function<void(LocalLoads)> done);
  AccessPolicy AccessOf(const BrokerConfig& broker) const;  // the supervisor's identity included
  void MakeServices(const BrokerConfig& broker);
  absl::Status Listen(const BrokerConfig& broker);
  absl::Status WriteEndpoints();

  absl::Status Drain(Duration within);
  ReloadReport ReloadNow();
  // Whether a snapshot of it can be asked for, as far as we know ourselves; and its options.
  absl::StatusOr<PostgresSpec> SpecToRead(const v1::SnapshotSourceRequest& request)
      ABSL_LOCKS_EXCLUDED(reload_mutex);
  // The server that is read has said yes: the source is stopped, its state changed, and started.
  absl::Status ReadAgain(const PostgresSpec& spec, const std::vector<std::string>& tables,
                         bool after_gap) ABSL_LOCKS_EXCLUDED(reload_mutex);
  // Every zones_every: plans anew where the tz database was updated beneath a schedule.
  void WatchTimeZones();
  // Reading a configuration and taking its triggers through journal and checkpoint needs as much
  // again as keeping it, which the allocator would keep for ever: of 100,000 triggers some 150 MB.
  void ReturnMemoryLater();
  void OnHttp(const HttpRequest& request, HttpServer::Reply reply);
  void OnFatal(const absl::Status& status);
  // Runs `finished` on the control thread every few milliseconds until it is true or `within` is
  // over.
  bool WaitFor(Duration within, std::function<bool()> finished);

  // AdminHost
  void DescribeProcess(v1::StatusResponse& response) const override;
  void DescribeSources(v1::ListSourcesResponse& response) const override;
  std::string RunsDir() const override { return runs_dir; }
  void Reload(absl::AnyInvocable<void(ReloadReport)> done) override;
  void ForgetSource(const std::string& name, bool dry_run, ForgetDone done) override;
  void SnapshotSource(const v1::SnapshotSourceRequest& request, SnapshotDone done) override;
  std::vector<PlannedRoute> Routes() const override;
  void ApplyTriggers(std::string text, std::string file, bool dry_run,
                     absl::AnyInvocable<void(absl::StatusOr<ReloadReport>)> done) override;
  void RemoveTriggers(std::vector<std::string> names,
                      absl::AnyInvocable<void(absl::Status)> done) override;
  std::set<std::string> ApiTriggers() const override;

  // server_triggers.cc: triggers of the API. What is stored of them read anew against the file's;
  // `overridden`: names that the file has taken.
  void TakeApiTriggers(const Config& of_file, std::vector<std::string>& overridden)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(reload_mutex);
  absl::StatusOr<std::shared_ptr<const RoutePlan>> PlanOf(const Config& of_file)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(reload_mutex);
  // `done` on the control thread.
  void StoreApiTriggers(std::vector<std::pair<std::string, std::string>> triggers,
                        absl::AnyInvocable<void(absl::Status)> done);
  void ForgetOverridden(const std::vector<std::string>& names);
  // When every partition has done what it was told before.
  void WhenAllMatch(absl::AnyInvocable<void()> done);

  // PartitionObserver
  void Warn(PartitionId partition, std::string_view code, const std::string& message) override;
  void Failed(PartitionId partition, const absl::Status& status) override;
  void NotTaken(PartitionId partition, const LaneId& lane, std::string_view event,
                std::optional<Offset> first, std::string_view why) override;

  // Set at construction, or by Start() before anything else runs.
  const ServerOptions options;
  SystemClock clock;
  Log log;
  WallTime started;
  std::string data_dir;
  Endpoints endpoints;
  std::uint64_t log_bytes_max = 0;
  BrokerConfig bound;  // as it began: where it listens and how, until it ends

  std::atomic<ServerState> state{ServerState::kStarting};
  std::atomic<bool> failed{false};

  mutable Mutex reload_mutex;  // one reload at a time; the configuration in force
  Config config ABSL_GUARDED_BY(reload_mutex);
  std::uint64_t generation ABSL_GUARDED_BY(reload_mutex) = 0;
  std::atomic<std::uint64_t> plan_changes{0};  // of which the last one gives memory back
  absl::flat_hash_set<std::string> file_names ABSL_GUARDED_BY(reload_mutex);  // of its triggers
  // Of the API: all that is stored, and what of it is in force.
  std::map<std::string, std::string> api_texts ABSL_GUARDED_BY(reload_mutex);
  std::map<std::string, TriggerConfig> api_triggers ABSL_GUARDED_BY(reload_mutex);

  // Beside reload_mutex, which a reload holds while it waits for partitions: what a partition's
  // thread asks is told under this one.
  mutable Mutex names_mutex;
  std::set<std::string> api_names ABSL_GUARDED_BY(names_mutex);  // of api_triggers

  mutable Mutex told_mutex;
  std::string reload_error ABSL_GUARDED_BY(told_mutex);  // of the last reload; empty: it worked

  // In the order of their making; Drain() ends them explicitly, in its own order.
  RecentRefusals refusals;
  ServerMetrics metrics;
  Authorizer authorizer{AccessPolicy()};
  SeededRandom journal_random{SystemSeed()};
  std::unique_ptr<FileSystem> file_system;
  std::unique_ptr<PublishEngine> engine;
  std::unique_ptr<PublishService> publisher;
  std::unique_ptr<WorkerService> workers;
  std::unique_ptr<AdminService> admin;
  std::unique_ptr<FileJournal> journal;
  std::vector<std::unique_ptr<SeededRandom>> randoms;
  std::unique_ptr<Dispatcher> dispatcher;
  std::unique_ptr<Shards> shards;
  std::vector<std::unique_ptr<ThreadExecutor>> shard_threads;
  std::unique_ptr<ThreadExecutor> control;
  std::unique_ptr<ThreadExecutor> builder;  // compiles routes
  std::unique_ptr<ThreadExecutor> asker;    // asks outside systems, which may block for seconds
  std::unique_ptr<TriggerRegistry> registry;
  std::unique_ptr<SourceSet> sources;
  std::unique_ptr<GrpcListener> listener;
  std::unique_ptr<HttpServer> http;
  std::string local_socket;  // where the supervisor attaches
  std::string local_token;
  std::string runs_dir;  // of local functions
  std::unique_ptr<LocalWorkers> local;
  std::unique_ptr<ClockWatch> clock_watch;
};

}  // namespace tocsin
