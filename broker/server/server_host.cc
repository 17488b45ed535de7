// What a running Server answers: the admin host, HTTP, reload, warnings.

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <variant>

#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/schedule/time_zone.h"
#include "broker/server/forget_source.h"
#include "broker/server/plan_builder.h"
#include "broker/server/server_impl.h"
#include "broker/server/snapshot_source.h"
#include "broker/server/source_kinds.h"
#include "connectors/database/postgres/postgres_source.h"
#include "connectors/source_runner.h"

namespace tocsin {
namespace {

// All of it, within what the command waits for an answer.
constexpr Duration kAskingMax = std::chrono::seconds(5);
// After the last change of the triggers: their definitions are in a checkpoint by then
// (`checkpoint_every` is a minute).
constexpr Duration kReturnMemoryAfter = std::chrono::seconds(75);
constexpr std::size_t kFreeBytesKept = std::size_t{64} << 20;

std::string_view StateName(ServerState state) {
  switch (state) {
    case ServerState::kStarting:
      return "starting";
    case ServerState::kServing:
      return "serving";
    case ServerState::kDraining:
    case ServerState::kStopped:
      return "draining";
  }
  return "";
}

}  // namespace

ReloadReport Server::Impl::ReloadNow() {
  MutexLock lock(reload_mutex);
  ReloadReport report;
  std::vector<ConfigError> errors;
  if (state.load() >= ServerState::kDraining) {
    report.errors.emplace_back("the broker is stopping");
    return report;
  }
  ReturnMemoryLater();
  absl::StatusOr<Config> loaded = Load(errors);
  absl::Status applied = loaded.status();
  if (applied.ok()) applied = CheckListeners(loaded->broker);
  if (applied.ok()) applied = CheckBoundListeners(bound, loaded->broker);
  if (applied.ok()) applied = CheckSources(*loaded);
  if (applied.ok() && loaded->broker.partitions_given &&
      loaded->broker.partitions != shards->partition_count()) {
    applied = absl::FailedPreconditionError(fmt::format(
        "broker.partitions: {} does not fit this data directory, which has {}: the number is fixed "
        "once there are data, and the next start would be refused",
        loaded->broker.partitions, shards->partition_count()));
  }
  std::shared_ptr<const RoutePlan> plan;
  std::vector<std::string> overridden;
  if (applied.ok()) {
    TakeApiTriggers(*loaded, overridden);
    absl::StatusOr<std::shared_ptr<const RoutePlan>> built = PlanOf(*loaded);
    applied = built.status();
    if (applied.ok()) plan = std::move(*built);
  }
  if (!applied.ok()) {
    std::vector<std::string> ignored;
    if (loaded.ok()) TakeApiTriggers(config, ignored);
    for (const ConfigError& error : errors) report.errors.push_back(error.ToString());
    if (report.errors.empty()) report.errors.emplace_back(MessageOf(applied));
    metrics.reloads(false)->Add();
    std::string told = fmt::format(
        "the configuration was not reloaded: {}{}", report.errors.front(),
        report.errors.size() > 1 ? fmt::format(" and {} more", report.errors.size() - 1) : "");
    log.Warn("T0207", told);
    MutexLock told_lock(told_mutex);
    reload_error = std::move(told);
    return report;
  }
  {
    MutexLock told_lock(told_mutex);
    reload_error.clear();
  }
  ++generation;
  report.changes = DescribeChanges(config, *loaded);
  authorizer.SetPolicy(AccessOf(loaded->broker));
  publisher->Reauthorize();
  workers->Reauthorize();
  registry->Reset(std::move(plan), true);
  ForgetOverridden(overridden);
  sources->Apply(loaded->sources);
  local->Apply(loaded->functions);
  config = std::move(*loaded);
  metrics.reloads(true)->Add();
  log.Info(fmt::format("reloaded: {} changes", report.changes.size()));
  for (const std::string& change : report.changes) log.Info(change);
  return report;
}

void Server::Impl::ReturnMemoryLater() {
  control->PostAt(clock.Monotonic() + kReturnMemoryAfter, [this, change = ++plan_changes] {
    if (change != plan_changes || mallinfo2().fordblks < kFreeBytesKept) return;
    malloc_trim(0);
  });
}

void Server::Impl::WatchTimeZones() {
  control->PostAt(clock.Monotonic() + options.zones_every, [this] {
    {
      MutexLock lock(reload_mutex);
      if (state.load() >= ServerState::kDraining) return;
      std::vector<std::string> names;
      for (const SourceConfig& source : config.sources) {
        const auto* timer = std::get_if<TimerSpec>(&source.spec);
        if (timer != nullptr) names.push_back(timer->schedule.timezone);
      }
      std::sort(names.begin(), names.end());
      names.erase(std::unique(names.begin(), names.end()), names.end());
      const std::vector<std::string> changed = TimeZone::Changed(names);
      if (!changed.empty()) {
        absl::StatusOr<std::shared_ptr<const RoutePlan>> plan = PlanOf(config);
        if (plan.ok()) {
          ++generation;
          registry->Reset(*std::move(plan), true);
          log.Info(fmt::format("the time zone database was updated ({}): schedules follow it",
                               fmt::join(changed, ", ")));
        } else {
          log.Limited(
              "zones", LogLevel::kWarn, "T0207",
              fmt::format("the time zone database was updated, but {}", MessageOf(plan.status())));
        }
      }
    }
    WatchTimeZones();
  });
}

void Server::Impl::Reload(absl::AnyInvocable<void(ReloadReport)> done) {
  control->Post([this, done = std::move(done)]() mutable { done(ReloadNow()); });
}

void Server::Impl::ForgetSource(const std::string& name, bool dry_run, ForgetDone done) {
  control->Post([this, name, dry_run, done = std::move(done)]() mutable {
    MutexLock lock(reload_mutex);
    if (state.load() >= ServerState::kDraining) {
      return done(absl::UnavailableError("the broker is stopping"));
    }
    const bool timer = std::any_of(
        config.sources.begin(), config.sources.end(), [&name](const SourceConfig& source) {
          return source.name == name && std::holds_alternative<TimerSpec>(source.spec);
        });
    if (timer) {
      return done(absl::FailedPreconditionError(fmt::format(
          "source `{}` is a timer: it remembers only which instants have fired", name)));
    }
    const bool configured = !dry_run && sources->StopOne(name);
    absl::StatusOr<ForgottenLanes> forgotten = ForgetLanes(name, dry_run, *shards);
    if (configured) sources->Apply(config.sources);
    if (!forgotten.ok()) return done(forgotten.status());
    if (!dry_run) {
      log.Info(fmt::format("source `{}`: forgot how far it had come ({} lanes)", name,
                           forgotten->lanes));
    }
    v1::ForgetSourceResponse response;
    response.set_lanes(forgotten->lanes);
    response.set_entries(forgotten->entries);
    response.set_configured(configured);
    done(std::move(response));
  });
}

absl::StatusOr<PostgresSpec> Server::Impl::SpecToRead(const v1::SnapshotSourceRequest& request) {
  MutexLock lock(reload_mutex);
  const auto found =
      std::find_if(config.sources.begin(), config.sources.end(),
                   [&](const SourceConfig& source) { return source.name == request.name(); });
  if (found == config.sources.end()) {
    return absl::NotFoundError(
        "there is no source of that name in the configuration; `tocsin sources` lists what there "
        "is");
  }
  const auto* spec = std::get_if<PostgresSpec>(&found->spec);
  if (spec == nullptr) {
    return absl::FailedPreconditionError(
        fmt::format("it is of kind {}: only those of kind postgres have tables to read again",
                    KindOfSource(found->spec)));
  }
  if (!request.after_gap()) return *spec;
  v1::ListSourcesResponse told;
  sources->Describe(told);
  for (const v1::SourceStatus& status : told.sources()) {
    const bool runs = status.state() == SourceStateName(SourceState::kRunning) ||
                      status.state() == SourceStateName(SourceState::kFull);
    if (status.name() == request.name() && runs) {
      return absl::FailedPreconditionError(fmt::format(
          "it runs: there is no gap to pass; `tocsin sources snapshot {}` reads the tables again "
          "beside the changes",
          request.name()));
    }
  }
  return *spec;
}

absl::Status Server::Impl::ReadAgain(const PostgresSpec& spec,
                                     const std::vector<std::string>& tables, bool after_gap) {
  MutexLock lock(reload_mutex);
  if (state.load() >= ServerState::kDraining) {
    return absl::UnavailableError("the broker is stopping");
  }
  const bool same = std::any_of(config.sources.begin(), config.sources.end(),
                                [&spec](const SourceConfig& source) {
                                  const auto* now = std::get_if<PostgresSpec>(&source.spec);
                                  return source.name == spec.name && now != nullptr && *now == spec;
                                });
  if (!same) {
    return absl::AbortedError(
        "the configuration was reloaded meanwhile: nothing was changed, ask "
        "again");
  }
  sources->StopOne(spec.name);
  const absl::Status asked = AskForSnapshot(spec.name, tables, after_gap, *shards);
  sources->Apply(config.sources);
  if (asked.ok()) {
    log.Info(fmt::format("source `{}`: {} tables are read again{}", spec.name, tables.size(),
                         after_gap ? ", behind a gap that may be passed once" : ""));
  }
  return asked;
}

void Server::Impl::SnapshotSource(const v1::SnapshotSourceRequest& request, SnapshotDone done) {
  control->Post([this, request, done = std::move(done)]() mutable {
    absl::StatusOr<PostgresSpec> spec = SpecToRead(request);
    if (!spec.ok()) return done(spec.status());
    PgSnapshotRequest wanted;
    wanted.tables.assign(request.tables().begin(), request.tables().end());
    wanted.after_gap = request.after_gap();
    const absl::Status fits = CheckPgSnapshotRequest(*spec, wanted);
    if (!fits.ok()) return done(fits);
    LaneState lane = StateOfSource(spec->name, *shards);
    // The server that is read may not answer for long, and others wait for this thread.
    const Instant end = clock.Monotonic() + kAskingMax;
    asker->Post([this, end, spec = *std::move(spec), wanted = std::move(wanted),
                 lane = std::move(lane), done = std::move(done)]() mutable {
      PostgresSpec impatient = spec;
      impatient.timeout = std::min(impatient.timeout, kAskingMax);
      absl::StatusOr<PgSnapshotTables> found =
          LookForPgSnapshot(impatient, wanted, lane, clock, [this, end] {
            return state.load() >= ServerState::kDraining || clock.Monotonic() > end;
          });
      control->Post([this, spec = std::move(spec), wanted = std::move(wanted),
                     found = std::move(found), done = std::move(done)]() mutable {
        if (absl::IsCancelled(found.status())) {
          return done(state.load() >= ServerState::kDraining
                          ? absl::UnavailableError("the broker is stopping")
                          : absl::FailedPreconditionError(fmt::format(
                                "its server has not answered within {}: nothing was changed",
                                FormatDuration(kAskingMax))));
        }
        if (!found.ok()) return done(found.status());
        const absl::Status asked = ReadAgain(spec, found->read, wanted.after_gap);
        if (!asked.ok()) return done(asked);
        v1::SnapshotSourceResponse response;
        for (const std::string& table : found->read) response.add_tables(table);
        for (const std::string& table : found->keyless) response.add_keyless(table);
        done(std::move(response));
      });
    });
  });
}

void Server::Impl::DescribeProcess(v1::StatusResponse& response) const {
  const JournalInfo info = journal->Info();
  response.set_version(kServerVersion);
  response.set_data_dir(data_dir);
  response.set_data_dir_id(info.data_dir_id);
  response.set_started_us(started.time_since_epoch().count());
  response.set_state(std::string(failed.load() ? "read_only" : StateName(state.load())));
  response.set_log_bytes(info.log_bytes);
  response.set_letter_bytes(info.letter_bytes);
  response.set_log_bytes_max(log_bytes_max);
  response.set_config_path(options.config_path);
  for (const std::string& warning : info.warnings) response.add_warnings(warning);
  if (info.reserve_only) {
    response.add_warnings("the disk is nearly full: publishes and sources are refused");
  } else if (info.log_bytes >= log_bytes_max) {
    response.add_warnings(
        "the log has reached retention.size: publishes and sources are refused until what pins it "
        "is settled");
  }
  MutexLock lock(told_mutex);
  if (!reload_error.empty()) response.add_warnings(reload_error);
}

void Server::Impl::DescribeSources(v1::ListSourcesResponse& response) const {
  sources->Describe(response);
}

void Server::Impl::Warn(PartitionId partition, std::string_view code, const std::string& message) {
  metrics.warnings()->Add();
  log.Limited(fmt::format("{}/{}/{}", partition.value(), code, message.substr(0, 40)),
              LogLevel::kWarn, code, fmt::format("partition {}: {}", partition.value(), message));
}

void Server::Impl::NotTaken(PartitionId partition, const LaneId& lane, std::string_view event,
                            std::optional<Offset> first, std::string_view why) {
  Refusal refusal;
  refusal.at = clock.Wall();
  refusal.lane = lane.source;
  refusal.partition = partition;
  refusal.first = first;
  refusal.reason = std::string(why);
  refusals.Add(event, std::move(refusal));
}

void Server::Impl::Failed(PartitionId partition, const absl::Status& status) {
  OnFatal(Annotate(status, fmt::format("partition {}", partition.value())));
}

void Server::Impl::OnFatal(const absl::Status& status) {
  if (failed.exchange(true)) return;
  log.Error("T0201",
            fmt::format("the journal failed, nothing more is accepted: {}", MessageOf(status)));
  if (options.on_fatal) options.on_fatal(status);
}

void Server::Impl::OnHttp(const HttpRequest& request, HttpServer::Reply reply) {
  if (request.path == "/healthz") {
    if (failed.load()) return reply({.status = 503, .body = "the journal failed\n"});
    return reply({.body = "ok\n"});
  }
  if (request.path == "/readyz") {
    if (failed.load()) return reply({.status = 503, .body = "the journal failed\n"});
    if (state.load() == ServerState::kServing) return reply({.body = "ready\n"});
    return reply({.status = 503, .body = fmt::format("{}\n", StateName(state.load()))});
  }
  if (request.path != "/metrics") return reply({.status = 404, .body = "not found\n"});
  Caller caller;
  if (request.authorization) caller.bearer = BearerToken(*request.authorization);
  const absl::Status allowed = authorizer.Authorize(caller, Scope::kAdmin, "/metrics");
  if (!allowed.ok()) {
    return reply({.status = absl::IsPermissionDenied(allowed) ? 403 : 401,
                  .body = fmt::format("{}\n", MessageOf(allowed))});
  }
  shards->Snapshots([this, reply = std::move(reply)](std::vector<PartitionSnapshot> snapshots) {
    // Printed on the control thread: a partition's own has better things to do.
    control->Post([this, reply, taken = std::move(snapshots)]() mutable {
      metrics.Update(std::move(taken));
      reply({.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = metrics.Print()});
    });
  });
}

}  // namespace tocsin
