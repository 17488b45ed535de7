// The triggers of the API: kept by partition 0, in force on all, beside those of the file.

#include <fmt/format.h>

#include <atomic>
#include <utility>

#include "broker/base/status.h"
#include "broker/server/plan_builder.h"
#include "broker/server/server_impl.h"

namespace tocsin {
namespace {

constexpr std::size_t kApiTriggersMax = 500'000;
constexpr const char* kOfTheFile = "T0320";

}  // namespace

void Server::Impl::TakeApiTriggers(const Config& of_file, std::vector<std::string>& overridden) {
  file_names.clear();
  for (const TriggerConfig& trigger : of_file.triggers) file_names.insert(trigger.spec.name);
  for (auto stored = api_texts.begin(); stored != api_texts.end();) {
    if (!file_names.contains(stored->first)) {
      ++stored;
      continue;
    }
    log.Warn("T0321", fmt::format("trigger `{}` was applied by the API and is now in the "
                                  "configuration file, which counts",
                                  stored->first));
    overridden.push_back(stored->first);
    stored = api_texts.erase(stored);
  }
  api_triggers.clear();
  const auto take = [this](std::vector<AppliedTrigger> applied) {
    for (AppliedTrigger& one : applied) {
      const std::string name = one.config.spec.name;
      api_triggers.emplace(name, std::move(one.config));
    }
  };
  auto all = ParseTriggers(TriggersText(api_texts), "api", of_file);
  if (all.ok()) {
    take(*std::move(all));
  } else {
    for (const auto& [name, text] : api_texts) {
      auto one = ParseTriggers(TriggersText({{name, text}}), "api", of_file);
      if (one.ok()) {
        take(*std::move(one));
        continue;
      }
      log.Warn("T0322", fmt::format("trigger `{}` of the API is not in force: {}", name,
                                    MessageOf(one.status())));
    }
  }
  std::set<std::string> names;
  for (const auto& [name, trigger] : api_triggers) names.insert(name);
  MutexLock lock(names_mutex);
  api_names = std::move(names);
}

absl::StatusOr<std::shared_ptr<const RoutePlan>> Server::Impl::PlanOf(const Config& of_file) {
  std::vector<const TriggerConfig*> more;
  more.reserve(api_triggers.size());
  for (const auto& [name, trigger] : api_triggers) more.push_back(&trigger);
  return BuildPlan(of_file, generation + 1, *dispatcher, more);
}

void Server::Impl::StoreApiTriggers(std::vector<std::pair<std::string, std::string>> triggers,
                                    absl::AnyInvocable<void(absl::Status)> done) {
  shards->Post(PartitionId(0), [this, triggers = std::move(triggers),
                                done = std::move(done)](Partition& partition) mutable {
    partition.StoreTriggers(triggers, [this, done = std::move(done)](absl::Status status) mutable {
      control->Post([done = std::move(done), status = std::move(status)]() mutable {
        done(std::move(status));
      });
    });
  });
}

void Server::Impl::ForgetOverridden(const std::vector<std::string>& names) {
  if (names.empty()) return;
  std::vector<std::pair<std::string, std::string>> erased;
  for (const std::string& name : names) erased.emplace_back(name, "");
  // If this is lost the next start says it again.
  StoreApiTriggers(std::move(erased), [](const absl::Status&) {});
}

void Server::Impl::WhenAllMatch(absl::AnyInvocable<void()> done) {
  struct Waiting {
    std::atomic<std::uint32_t> left{0};
    absl::AnyInvocable<void()> done;
  };
  auto waiting = std::make_shared<Waiting>();
  waiting->left = shards->partition_count();
  waiting->done = std::move(done);
  for (std::uint32_t id = 0; id < shards->partition_count(); ++id) {
    shards->Post(PartitionId(id), [waiting](Partition&) {
      if (--waiting->left == 0) waiting->done();
    });
  }
}

void Server::Impl::ApplyTriggers(std::string text, std::string file, bool dry_run,
                                 absl::AnyInvocable<void(absl::StatusOr<ReloadReport>)> done) {
  control->Post([this, text = std::move(text), file = std::move(file), dry_run,
                 done = std::move(done)]() mutable {
    std::vector<ConfigError> errors;
    ReloadReport report;
    auto applied = std::make_shared<std::vector<AppliedTrigger>>();
    {
      MutexLock lock(reload_mutex);
      auto parsed = ParseTriggers(text, file, config, &errors);
      if (parsed.ok()) *applied = *std::move(parsed);
      for (const AppliedTrigger& one : *applied) {
        const std::string& name = one.config.spec.name;
        const auto known = api_triggers.find(name);
        if (file_names.contains(name)) {
          errors.push_back({file, one.config.location.line, one.config.location.column, kOfTheFile,
                            fmt::format("trigger `{}` is in the configuration file: change it "
                                        "there and reload",
                                        name)});
        } else if (known == api_triggers.end()) {
          report.changes.push_back(fmt::format("trigger `{}`: added", name));
        } else if (known->second.spec.config_hash != one.config.spec.config_hash) {
          report.changes.push_back(fmt::format("trigger `{}`: changed", name));
        }
      }
      if (api_texts.size() + applied->size() > kApiTriggersMax) {
        return done(absl::ResourceExhaustedError(
            fmt::format("at most {} triggers may be applied by the API", kApiTriggersMax)));
      }
    }
    if (!errors.empty()) {
      report.changes.clear();
      for (const ConfigError& error : errors) report.errors.push_back(error.ToString());
      return done(std::move(report));
    }
    if (dry_run || applied->empty()) return done(std::move(report));
    std::vector<std::pair<std::string, std::string>> stored;
    for (const AppliedTrigger& one : *applied) {
      stored.emplace_back(one.config.spec.name, one.text);
    }
    StoreApiTriggers(std::move(stored), [this, applied, report = std::move(report),
                                         done = std::move(done)](absl::Status status) mutable {
      if (!status.ok() && !IsTakenWithoutRoom(status)) return done(status);
      std::vector<TriggerConfig> put;
      {
        MutexLock lock(reload_mutex);
        for (AppliedTrigger& one : *applied) {
          const std::string name = one.config.spec.name;
          // The file may have taken the name meanwhile.
          if (file_names.contains(name)) continue;
          api_texts[name] = std::move(one.text);
          put.push_back(one.config);
          api_triggers.insert_or_assign(name, std::move(one.config));
        }
        {
          MutexLock names_lock(names_mutex);
          for (const TriggerConfig& trigger : put) api_names.insert(trigger.spec.name);
        }
        registry->Change(put, {});
        ReturnMemoryLater();
      }
      for (const std::string& change : report.changes) log.Info(change + " by the API");
      WhenAllMatch([done = std::move(done), report = std::move(report),
                    status = std::move(status)]() mutable {
        if (!status.ok()) return done(std::move(status));
        done(std::move(report));
      });
    });
  });
}

void Server::Impl::RemoveTriggers(std::vector<std::string> names,
                                  absl::AnyInvocable<void(absl::Status)> done) {
  control->Post([this, names = std::move(names), done = std::move(done)]() mutable {
    std::vector<std::pair<std::string, std::string>> erased;
    {
      MutexLock lock(reload_mutex);
      for (const std::string& name : names) {
        if (file_names.contains(name)) {
          return done(absl::FailedPreconditionError(fmt::format(
              "{}: trigger `{}` is in the configuration file: take it away there and reload",
              kOfTheFile, name)));
        }
        if (!api_texts.contains(name)) {
          return done(absl::NotFoundError(
              fmt::format("there is no trigger `{}` of the API; nothing was removed", name)));
        }
        erased.emplace_back(name, "");
      }
    }
    StoreApiTriggers(std::move(erased), [this, names = std::move(names),
                                         done = std::move(done)](absl::Status status) mutable {
      if (!status.ok() && !IsTakenWithoutRoom(status)) return done(status);
      {
        MutexLock lock(reload_mutex);
        std::vector<std::string> gone;
        for (const std::string& name : names) {
          api_texts.erase(name);
          if (api_triggers.erase(name) > 0) gone.push_back(name);
        }
        {
          MutexLock names_lock(names_mutex);
          for (const std::string& name : gone) api_names.erase(name);
        }
        registry->Change({}, gone);
      }
      for (const std::string& name : names) {
        log.Info(fmt::format("trigger `{}`: removed by the API", name));
      }
      WhenAllMatch([done = std::move(done), status = std::move(status)]() mutable {
        done(std::move(status));
      });
    });
  });
}

std::set<std::string> Server::Impl::ApiTriggers() const {
  MutexLock lock(names_mutex);
  return api_names;
}

std::vector<PlannedRoute> Server::Impl::Routes() const { return registry->Routes(); }

}  // namespace tocsin
