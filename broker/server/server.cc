#include "broker/server/server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <future>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/hash.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/config/environment.h"
#include "broker/config/lint_config.h"
#include "broker/journal/manifest.h"
#include "broker/server/admin_runs.h"
#include "broker/server/grpc_auth.h"
#include "broker/server/plan_builder.h"
#include "broker/server/server_impl.h"

namespace tocsin {
namespace {

constexpr Duration kPollEvery = std::chrono::milliseconds(10);
constexpr Duration kSupervisorEndsWithin = std::chrono::seconds(5);
constexpr Duration kListenerEndsWithin = std::chrono::seconds(2);
constexpr auto kCloseWithin = std::chrono::seconds(60);
constexpr int kRoutesNice = 5;

// How many partitions the data directory has; nullopt if it is new, or unreadable (which opening
// the journal reports).
std::optional<std::uint32_t> StoredPartitions(FileSystem& file_system) {
  const absl::StatusOr<std::unique_ptr<File>> file = file_system.Open("manifest.json");
  if (!file.ok()) return std::nullopt;
  std::string text(std::size_t{64} << 10, '\0');
  const absl::StatusOr<std::size_t> bytes =
      (*file)->ReadAt(0, std::as_writable_bytes(std::span(text)));
  if (!bytes.ok()) return std::nullopt;
  text.resize(*bytes);
  const absl::StatusOr<Manifest> manifest = DecodeManifest(text);
  if (!manifest.ok()) return std::nullopt;
  return manifest->partitions;
}

// A number for this boot of the kernel; 0 if it does not say.
std::uint64_t KernelBootId() {
  const int file = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  char text[64];
  const ssize_t bytes = read(file, text, sizeof text);
  close(file);
  return bytes <= 0 ? 0 : HashKey(std::string_view(text, static_cast<std::size_t>(bytes)), 1);
}

std::uint32_t ShardCount(const BrokerConfig& broker, std::uint32_t partitions) {
  if (broker.shards > 0) return std::min(broker.shards, partitions);
  const long cores = sysconf(_SC_NPROCESSORS_ONLN);
  return std::clamp<std::uint32_t>(static_cast<std::uint32_t>(std::max(1L, cores)), 1, partitions);
}

}  // namespace

Server::Impl::Impl(ServerOptions options_in)
    : options(std::move(options_in)), log(options.log, clock), started(clock.Wall()) {}

Server::Impl::~Impl() {
  if (state.load() != ServerState::kStopped) static_cast<void>(Drain(Duration::zero()));
}

absl::StatusOr<Config> Server::Impl::Load(std::vector<ConfigError>& errors) {
  absl::StatusOr<Config> loaded;
  if (options.load) {
    loaded = options.load(errors);
  } else if (options.config_path.empty()) {
    loaded = Config();
  } else {
    loaded = LoadConfig(options.config_path, SystemConfigEnvironment(), &errors);
  }
  if (!loaded.ok()) return loaded;
  constexpr std::size_t kShownMax = 20;
  const std::vector<ConfigWarning> warnings = LintConfig(*loaded);
  for (std::size_t i = 0; i < warnings.size() && i < kShownMax; ++i) {
    log.Warn("", warnings[i].ToString());
  }
  if (warnings.size() > kShownMax) {
    log.Warn("", fmt::format("{} more warnings; `tocsin validate` shows them",
                             warnings.size() - kShownMax));
  }
  if (options.data_dir) loaded->broker.data_dir = *options.data_dir;
  if (options.listen) loaded->broker.listen = *options.listen;
  if (options.http) loaded->broker.http = *options.http;
  return loaded;
}

absl::Status Server::Impl::Start() {
  std::vector<ConfigError> errors;
  TOCSIN_ASSIGN_OR_RETURN(Config loaded, Load(errors));
  TOCSIN_RETURN_IF_ERROR(CheckListeners(loaded.broker));
  TOCSIN_RETURN_IF_ERROR(CheckSources(loaded));
  bound = loaded.broker;
  {
    MutexLock lock(reload_mutex);
    config = std::move(loaded);
  }
  TOCSIN_RETURN_IF_ERROR(OpenData(config.broker));
  TOCSIN_RETURN_IF_ERROR(MakeLocalWorkers());
  authorizer.SetPolicy(AccessOf(config.broker));
  TOCSIN_RETURN_IF_ERROR(OpenPartitions());
  MakeServices(config.broker);
  TOCSIN_RETURN_IF_ERROR(Listen(config.broker));
  sources->Apply(config.sources);
  local->Apply(config.functions);
  WatchTimeZones();
  ReturnMemoryLater();
  clock_watch = std::make_unique<ClockWatch>(clock, [this] {
    for (std::uint32_t id = 0; id < shards->partition_count(); ++id) shards->Wake(PartitionId(id));
  });
  TOCSIN_RETURN_IF_ERROR(WriteEndpoints());
  state.store(ServerState::kServing);
  listener->SetServing(true);
  log.Info(fmt::format("tocsin {} serves {} partitions from {}", kServerVersion,
                       shards->partition_count(), data_dir));
  log.Info(fmt::format("gRPC on {}{}", endpoints.grpc,
                       endpoints.http.empty() ? "" : ", HTTP on " + endpoints.http));
  return absl::OkStatus();
}

namespace {

std::uint64_t SegmentBytes(std::uint64_t log_bytes, std::uint64_t most) {
  constexpr std::uint64_t kLeast = std::uint64_t{8} << 20;
  constexpr std::uint64_t kStep = std::uint64_t{1} << 20;
  return std::clamp(log_bytes / 4 / kStep * kStep, kLeast, most);
}

}  // namespace

absl::Status Server::Impl::OpenData(const BrokerConfig& broker) {
  data_dir = broker.data_dir;
  log_bytes_max = broker.retention_bytes;
  TOCSIN_ASSIGN_OR_RETURN(file_system, OpenSystemFileSystem(data_dir));
  std::uint32_t partitions = broker.partitions;
  if (!broker.partitions_given) {
    partitions = StoredPartitions(*file_system).value_or(partitions);
  }
  FileJournalOptions journal_options;
  journal_options.partitions = partitions;
  journal_options.version = kServerVersion;
  journal_options.degraded = options.degraded;
  // A log is given up by whole segments and never the one in use: two must fit into the least size
  // that the configuration takes, four into others.
  journal_options.segment_bytes = SegmentBytes(broker.retention_bytes, std::uint64_t{64} << 20);
  journal_options.letter_segment_bytes =
      SegmentBytes(broker.letters_bytes, std::uint64_t{16} << 20);
  journal_options.on_fatal = [this](const absl::Status& status) { OnFatal(status); };
  TOCSIN_ASSIGN_OR_RETURN(
      journal, OpenFileJournal(std::move(journal_options), *file_system, clock, journal_random));
  // Left behind by a process that did not end in order: nobody may take it for ours. Only after the
  // lock is held, because a running broker's must stay.
  const absl::Status removed = file_system->Remove(kEndpointsFile);
  if (!removed.ok() && !absl::IsNotFound(removed)) return removed;
  for (const std::string& warning : journal->Info().warnings) log.Warn("", warning);

  ShardsOptions shards_options;
  shards_options.partition = ToPartitionOptions(broker, partitions, journal->Info().hash_seed);
  shards_options.partition.boot_id = KernelBootId();
  shards_options.ingest_bytes_max = broker.ingest_bytes_max;
  std::vector<Executor*> executors;
  std::vector<Random*> shard_randoms;
  for (std::uint32_t shard = 0; shard < ShardCount(broker, partitions); ++shard) {
    shard_threads.push_back(std::make_unique<ThreadExecutor>(fmt::format("shard-{}", shard), clock,
                                                             ThreadExecutor::Gathered::kYes));
    randoms.push_back(std::make_unique<SeededRandom>(SystemSeed()));
    executors.push_back(shard_threads.back().get());
    shard_randoms.push_back(randoms.back().get());
  }
  control = std::make_unique<ThreadExecutor>("control", clock);
  shards = std::make_unique<Shards>(shards_options, Shards::Ports{.journal = *journal,
                                                                  .executors = executors,
                                                                  .clock = clock,
                                                                  .randoms = shard_randoms,
                                                                  .observer = *this});
  dispatcher = std::make_unique<Dispatcher>(*shards, *shards);
  shards->SetDispatcher(*dispatcher);
  builder = std::make_unique<ThreadExecutor>("routes", clock);
  // Compiling 100,000 triggers anew gives way to events and to whoever changes another one. What
  // refuses that is no reason not to start.
  builder->Post([] { (void)setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kRoutesNice); });
  asker = std::make_unique<ThreadExecutor>("asker", clock);
  registry = std::make_unique<TriggerRegistry>(
      TriggerRegistry::Ports{.shards = *shards, .dispatcher = *dispatcher, .builder = *builder});
  sources =
      std::make_unique<SourceSet>(SourceSet::Ports{.shards = *shards, .clock = clock, .log = log});
  return absl::OkStatus();
}

absl::Status Server::Impl::OpenPartitions() {
  std::promise<absl::Status> opened;
  std::vector<std::string> overridden;
  shards->Open(
      [this, &overridden](const Shards::StoredTriggers& stored)
          -> absl::StatusOr<std::shared_ptr<const RoutePlan>> {
        MutexLock lock(reload_mutex);
        api_texts = stored;
        TakeApiTriggers(config, overridden);
        TOCSIN_ASSIGN_OR_RETURN(std::shared_ptr<const RoutePlan> plan, PlanOf(config));
        ++generation;
        registry->Reset(plan, false);
        return plan;
      },
      [&opened](absl::Status status) { opened.set_value(std::move(status)); });
  TOCSIN_RETURN_IF_ERROR(opened.get_future().get());
  ForgetOverridden(overridden);
  return absl::OkStatus();
}

void Server::Impl::MakeServices(const BrokerConfig& broker) {
  const PublishEngineOptions engine_options{
      .event_limits = broker.event_limits,
      .hash_seed = journal->Info().hash_seed,
      .partitions = shards->partition_count(),
      .durable = broker.durability == Durability::kDurable,
  };
  engine = std::make_unique<PublishEngine>(
      engine_options,
      [this](PartitionId partition, PublishBatch& batch) {
        return shards->TryPublish(partition, batch);
      },
      [this](std::string_view event, const absl::Status& why) {
        Refusal refusal;
        refusal.at = clock.Wall();
        refusal.reason = std::string(MessageOf(why));
        refusals.Add(event, std::move(refusal));
      });
  publisher = std::make_unique<PublishService>(
      PublishServiceOptions(), *engine, clock,
      [this](const grpc::ServerContextBase& context) {
        return authorizer.Authorize(CallerOf(context), Scope::kPublish, "publishing");
      },
      metrics.publish_latency());

  WorkerServiceOptions worker_options;
  worker_options.broker = fmt::format("tocsin {}", kServerVersion);
  worker_options.heartbeat = broker.heartbeat;
  worker_options.gone_after = broker.gone_after;
  workers = std::make_unique<WorkerService>(
      worker_options, *dispatcher, clock,
      [this](const grpc::ServerContextBase& context, const std::vector<std::string>* functions) {
        const std::string object = functions == nullptr || functions->empty()
                                       ? "attaching a worker"
                                       : fmt::format("serving function `{}`", functions->front());
        return authorizer.Authorize(CallerOf(context), Scope::kWork, object);
      });
  workers->Start(*control);

  admin = std::make_unique<AdminService>(
      AdminService::Ports{.shards = *shards,
                          .dispatcher = *dispatcher,
                          .host = *this,
                          .executor = *control,
                          .clock = clock,
                          .refusals = refusals,
                          .event_limits = broker.event_limits,
                          .hash_seed = journal->Info().hash_seed},
      [this](const grpc::ServerContextBase& context, std::string_view object) {
        return authorizer.Authorize(CallerOf(context), Scope::kAdmin, object);
      });

  metrics.Register({.publish = &engine->counters(),
                    .workers = &workers->counters(),
                    .dispatcher = dispatcher.get(),
                    .journal = [this] { return journal->Info(); },
                    .sources = [this] { return sources->Samples(); },
                    .functions = [this] { return ReadUsage(runs_dir); },
                    .version = kServerVersion});
}

absl::Status Server::Impl::MakeLocalWorkers() {
  std::array<char, PATH_MAX> absolute{};
  if (realpath(data_dir.c_str(), absolute.data()) == nullptr) {
    return absl::FailedPreconditionError(fmt::format("{}: {}", data_dir, std::strerror(errno)));
  }
  const std::string dir(absolute.data());
  local_socket = dir + "/local.sock";
  if (local_socket.size() >= sizeof(sockaddr_un::sun_path)) {
    // A path that no socket can have: any short one will do, it is told to the supervisor alone.
    local_socket = fmt::format("/tmp/tocsin-{}-{}.sock", getuid(), getpid());
  }
  SeededRandom random(SystemSeed());
  local_token = fmt::format("{:016x}{:016x}{:016x}", SystemSeed(), random.Next(), SystemSeed());
  runs_dir = dir + "/runs";
  local = std::make_unique<LocalWorkers>(
      LocalWorkersOptions{.command = options.supervisor,
                          .target = "unix:" + local_socket,
                          .token = local_token,
                          .runs_dir = runs_dir},
      LocalWorkers::Ports{
          .executor = *control,
          .clock = clock,
          .log = log,
          .loads = [this](std::function<void(LocalLoads)> done) { GatherLoads(std::move(done)); }});
  dispatcher->OnUnserved([this] { local->Nudge(); });
  return absl::OkStatus();
}

void Server::Impl::GatherLoads(std::function<void(LocalLoads)> done) {
  shards->Snapshots([this, done = std::move(done)](const std::vector<PartitionSnapshot>& taken) {
    LocalLoads loads;
    std::set<std::string> throttled;
    for (const PartitionSnapshot& partition : taken) {
      for (const TriggerBooks& books : partition.triggers) {
        if (books.function.empty()) continue;
        LocalLoad& load = loads[books.function];
        // For those that wait for their rate one more worker is enough.
        if (books.ready > 0 && dispatcher->Throttled(books.name)) {
          load.queued += throttled.insert(books.name).second ? 1u : 0u;
        } else {
          load.queued += books.ready;
        }
        load.in_flight += books.leased;
      }
    }
    control->Post([done, loads = std::move(loads)] { done(loads); });
  });
}

AccessPolicy Server::Impl::AccessOf(const BrokerConfig& broker) const {
  AccessPolicy policy = ToAccessPolicy(broker);
  // Where nobody needs an identity, it needs none either.
  const bool open = policy.tokens.empty() && !policy.certificate_scopes;
  if (!open) {
    Scopes work;
    work.Add(Scope::kWork);
    policy.tokens.push_back({.secret = local_token, .scopes = work});
  }
  return policy;
}

absl::Status Server::Impl::Listen(const BrokerConfig& broker) {
  GrpcListenerOptions listener_options;
  listener_options.address = broker.listen;
  listener_options.tls = broker.tls;
  if (!options.supervisor.empty()) listener_options.local_path = local_socket;
  TOCSIN_ASSIGN_OR_RETURN(
      listener, GrpcListener::Start(listener_options, clock,
                                    [this](std::string_view code, const std::string& text) {
                                      log.Warn(code, text);
                                    },
                                    {publisher.get(), workers.get(), admin.get()}));
  listener->SetServing(false);
  endpoints.grpc = listener->address();
  endpoints.grpc_port = listener->port();
  if (broker.http.empty()) return absl::OkStatus();
  TOCSIN_ASSIGN_OR_RETURN(
      http, HttpServer::Start(broker.http, HttpLimits(), clock,
                              [this](const HttpRequest& request, HttpServer::Reply reply) {
                                OnHttp(request, std::move(reply));
                              }));
  endpoints.http = http->address();
  endpoints.http_port = http->port();
  return absl::OkStatus();
}

absl::Status Server::Impl::WriteEndpoints() {
  std::string text = fmt::format("{{\"pid\":{},\"grpc\":", getpid());
  AppendJsonString(text, endpoints.grpc);
  text += ",\"http\":";
  AppendJsonString(text, endpoints.http);
  text += "}\n";
  const std::string temporary = fmt::format("{}.tmp", kEndpointsFile);
  const absl::Status removed = file_system->Remove(temporary);
  if (!removed.ok() && !absl::IsNotFound(removed)) return removed;
  {
    TOCSIN_ASSIGN_OR_RETURN(const std::unique_ptr<File> file, file_system->Create(temporary));
    const std::span<const std::byte> piece = std::as_bytes(std::span(text));
    TOCSIN_RETURN_IF_ERROR(file->WriteAt(0, std::span(&piece, 1)));
    TOCSIN_RETURN_IF_ERROR(file->SyncData());
  }
  TOCSIN_RETURN_IF_ERROR(file_system->Rename(temporary, kEndpointsFile));
  return file_system->SyncDir("");
}

bool Server::Impl::WaitFor(Duration within, std::function<bool()> finished) {
  struct Waiting {
    std::promise<bool> result;
    std::function<bool()> finished;
    std::function<void()> step;
  };
  const auto waiting = std::make_shared<Waiting>();
  waiting->finished = std::move(finished);
  const Instant end = clock.Monotonic() + within;
  waiting->step = [this, raw = waiting.get(), end] {
    const bool over = raw->finished();
    if (over || clock.Monotonic() >= end) {
      raw->result.set_value(over);
      return;
    }
    control->PostAt(clock.Monotonic() + kPollEvery, [raw] { raw->step(); });
  };
  std::future<bool> result = waiting->result.get_future();
  control->Post([waiting] { waiting->step(); });
  return result.get();
}

absl::Status Server::Impl::Drain(Duration within) {
  state.store(ServerState::kDraining);
  if (sources != nullptr) {
    MutexLock lock(reload_mutex);  // a reload that is under way must not start them again
    sources->Stop();
  }
  if (listener != nullptr) {
    listener->SetServing(false);
    publisher->Drain();
    workers->RefuseNew();
    dispatcher->DrainAll("the broker is stopping");
    const bool left = WaitFor(within, [this] { return workers->stream_count() == 0; });
    if (!left) {
      log.Warn("", fmt::format("{} workers are still attached: what they hold is delivered again",
                               workers->stream_count()));
    }
    workers->EndAll(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the broker is stopping"));
    admin->Drain();
    local->Stop(kSupervisorEndsWithin);
    listener->Shutdown(kListenerEndsWithin);
  }
  clock_watch.reset();
  if (http != nullptr) http->Stop();
  if (local != nullptr) local->Stop(kSupervisorEndsWithin);
  if (asker != nullptr) asker->Stop();
  if (control != nullptr) control->Stop();
  if (builder != nullptr) builder->Stop();
  absl::Status closed;
  if (publisher != nullptr) {
    // Every partition was opened.
    const auto done = std::make_shared<std::promise<absl::Status>>();
    std::future<absl::Status> result = done->get_future();
    shards->Close([done](absl::Status status) { done->set_value(std::move(status)); });
    closed = result.wait_for(failed.load() ? std::chrono::seconds(1) : kCloseWithin) ==
                     std::future_status::ready
                 ? result.get()
                 : absl::DeadlineExceededError("the partitions did not close in time");
  }
  for (const auto& thread : shard_threads) thread->Stop();
  sources.reset();
  registry.reset();
  shards.reset();
  dispatcher.reset();
  journal.reset();
  if (!endpoints.grpc.empty()) static_cast<void>(file_system->Remove(kEndpointsFile));
  state.store(ServerState::kStopped);
  if (failed.load()) return absl::UnavailableError("the journal failed");
  return closed;
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Start(ServerOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  const absl::Status started = impl->Start();
  if (!started.ok()) return started;
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

const Endpoints& Server::endpoints() const { return impl_->endpoints; }

ReloadReport Server::Reload() { return impl_->ReloadNow(); }

absl::Status Server::Drain() {
  TOCSIN_CHECK(impl_->state.load() != ServerState::kStopped, "drained twice");
  impl_->log.Info("draining");
  const absl::Status drained = impl_->Drain(impl_->options.drain_within);
  if (drained.ok()) impl_->log.Info("stopped");
  return drained;
}

}  // namespace tocsin
