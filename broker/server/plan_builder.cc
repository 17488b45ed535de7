#include "broker/server/plan_builder.h"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <set>
#include <system_error>
#include <utility>
#include <variant>

#include "absl/container/flat_hash_set.h"
#include "broker/base/status.h"
#include "broker/server/source_kinds.h"
#include "broker/server/timer_event.h"

namespace tocsin {
namespace {

template <typename T>
std::map<std::string, const T*> ByName(const std::vector<T>& all, std::string (*name)(const T&)) {
  std::map<std::string, const T*> result;
  for (const T& one : all) result.emplace(name(one), &one);
  return result;
}

std::string NameOfTrigger(const TriggerConfig& trigger) { return trigger.spec.name; }
std::string NameOfSource(const SourceConfig& source) { return source.name; }

void DescribeTriggers(const Config& before, const Config& after, std::vector<std::string>& lines) {
  const auto old_by_name = ByName<TriggerConfig>(before.triggers, NameOfTrigger);
  const auto new_by_name = ByName<TriggerConfig>(after.triggers, NameOfTrigger);
  std::set<std::string> renamed;
  for (const TriggerConfig& trigger : after.triggers) {
    const TriggerSpec& spec = trigger.spec;
    const auto old = old_by_name.find(spec.name);
    if (old != old_by_name.end()) {
      if (old->second->spec.config_hash != spec.config_hash) {
        lines.push_back(fmt::format("trigger `{}`: changed", spec.name));
      }
    } else if (!spec.was.empty() && old_by_name.contains(spec.was)) {
      renamed.insert(spec.was);
      lines.push_back(fmt::format("trigger `{}`: renamed from `{}`", spec.name, spec.was));
    } else {
      lines.push_back(fmt::format("trigger `{}`: added", spec.name));
    }
  }
  for (const TriggerConfig& trigger : before.triggers) {
    const std::string& name = trigger.spec.name;
    if (!new_by_name.contains(name) && !renamed.contains(name)) {
      lines.push_back(fmt::format("trigger `{}`: detached; what is pending is kept", name));
    }
  }
}

void DescribeSources(const Config& before, const Config& after, std::vector<std::string>& lines) {
  const auto old_by_name = ByName<SourceConfig>(before.sources, NameOfSource);
  const auto new_by_name = ByName<SourceConfig>(after.sources, NameOfSource);
  for (const SourceConfig& source : after.sources) {
    const auto old = old_by_name.find(source.name);
    if (old == old_by_name.end()) {
      lines.push_back(
          fmt::format("source `{}`: added ({})", source.name, KindOfSource(source.spec)));
    } else if (!(old->second->spec == source.spec) ||
               old->second->backoff_max != source.backoff_max) {
      lines.push_back(fmt::format("source `{}`: changed", source.name));
    }
  }
  for (const SourceConfig& source : before.sources) {
    if (!new_by_name.contains(source.name)) {
      lines.push_back(fmt::format("source `{}`: removed; its position is kept", source.name));
    }
  }
}

bool SameTokens(const BrokerConfig& a, const BrokerConfig& b) {
  if (a.tokens.size() != b.tokens.size()) return false;
  for (std::size_t i = 0; i < a.tokens.size(); ++i) {
    const TokenConfig& x = a.tokens[i];
    const TokenConfig& y = b.tokens[i];
    if (x.token.Reveal() != y.token.Reveal() || x.publish != y.publish || x.work != y.work ||
        x.admin != y.admin) {
      return false;
    }
  }
  return true;
}

bool SameTls(const std::optional<TlsConfig>& a, const std::optional<TlsConfig>& b) {
  if (a.has_value() != b.has_value()) return false;
  return !a || (a->cert == b->cert && a->key == b->key && a->client_ca == b->client_ca);
}

bool SameQueues(const QueueLimits& a, const QueueLimits& b) {
  return a.entries_max == b.entries_max && a.key_entries_max == b.key_entries_max &&
         a.skipped_keys_max == b.skipped_keys_max && a.spread_max == b.spread_max &&
         a.park_max_keys == b.park_max_keys;
}

void DescribeBroker(const BrokerConfig& before, const BrokerConfig& after,
                    std::vector<std::string>& lines) {
  if (!SameTokens(before, after)) lines.emplace_back("broker.tokens: changed");
  const auto restart = [&lines](std::string_view key, bool same) {
    if (!same) lines.push_back(fmt::format("broker.{}: changed; takes effect at a restart", key));
  };
  restart("data_dir", before.data_dir == after.data_dir);
  restart("listen", before.listen == after.listen);
  restart("http", before.http == after.http);
  restart("shards", before.shards == after.shards);
  restart("durability", before.durability == after.durability);
  restart("retention", before.retention_age == after.retention_age &&
                           before.retention_bytes == after.retention_bytes);
  restart("dedupe", before.dedupe_window == after.dedupe_window &&
                        before.dedupe_ids_max == after.dedupe_ids_max);
  restart("event_bytes_max",
          before.event_limits.event_bytes_max == after.event_limits.event_bytes_max);
  restart("ingest_bytes_max", before.ingest_bytes_max == after.ingest_bytes_max);
  restart("queues", SameQueues(before.queues, after.queues));
  restart("dead_letters",
          before.letters_age == after.letters_age && before.letters_bytes == after.letters_bytes);
  restart("detached_retention", before.detached_retention == after.detached_retention);
  restart("heartbeat",
          before.heartbeat == after.heartbeat && before.gone_after == after.gone_after);
  restart("tls", SameTls(before.tls, after.tls));
  restart("insecure", before.insecure == after.insecure);
}

absl::Status CheckListener(std::string_view key, const std::string& address, bool secured,
                           std::string_view remedy) {
  const std::optional<HostPort> parsed = ParseHostPort(address);
  if (!parsed) {
    return absl::InvalidArgumentError(
        fmt::format("broker.{}: `{}` is not an address and a port", key, address));
  }
  if (parsed->loopback || secured) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "T0205: broker.{} is {}, which other machines can reach: {}, or say `insecure: true`", key,
      address, remedy));
}

}  // namespace

TriggerNumber NumberTrigger(const TriggerSpec& spec, bool renamed, Dispatcher& dispatcher) {
  const TriggerPolicy& policy = spec.policy;
  return dispatcher.SetTrigger(spec.name, policy.function,
                               {policy.concurrency, policy.rate, policy.batch.events_max},
                               renamed ? spec.was : std::string());
}

absl::StatusOr<std::shared_ptr<const RoutePlan>> BuildPlan(
    const Config& config, std::uint64_t generation, Dispatcher& dispatcher,
    const std::vector<const TriggerConfig*>& more) {
  auto plan = std::make_shared<RoutePlan>();
  plan->generation = generation;
  for (const SourceConfig& source : config.sources) {
    const auto* timer = std::get_if<TimerSpec>(&source.spec);
    if (timer == nullptr) continue;
    absl::StatusOr<std::shared_ptr<const Schedule>> schedule = Schedule::Parse(timer->schedule);
    if (!schedule.ok()) {
      return Annotate(schedule.status(), fmt::format("source `{}`", source.name));
    }
    plan->schedules.push_back({.name = source.name,
                               .was = source.was,
                               .schedule = std::move(*schedule),
                               .spec = timer->schedule,
                               .make_event = [spec = *timer](WallTime nominal, WallTime actual) {
                                 return MakeTimerEvent(spec, nominal, actual);
                               }});
  }
  // After everything that can fail: the dispatcher keeps what it is told.
  std::vector<RouteSpec> routes;
  const std::size_t count = config.triggers.size() + more.size();
  routes.reserve(count);
  plan->triggers.reserve(count);
  plan->numbers.reserve(count);
  absl::flat_hash_set<std::string> names;
  for (const TriggerConfig& trigger : config.triggers) names.insert(trigger.spec.name);
  for (const TriggerConfig* trigger : more) names.insert(trigger->spec.name);
  const auto add = [&](const TriggerConfig& trigger) {
    routes.push_back(trigger.route);
    plan->triggers.push_back(trigger.spec);
    plan->numbers.push_back(
        NumberTrigger(trigger.spec, !names.contains(trigger.spec.was), dispatcher));
  };
  for (const TriggerConfig& trigger : config.triggers) add(trigger);
  for (const TriggerConfig* trigger : more) add(*trigger);
  plan->table = RouteTable::Build(std::move(routes));
  return plan;
}

std::vector<std::string> DescribeChanges(const Config& before, const Config& after) {
  std::vector<std::string> lines;
  DescribeBroker(before.broker, after.broker, lines);
  DescribeSources(before, after, lines);
  DescribeTriggers(before, after, lines);
  return lines;
}

PartitionOptions ToPartitionOptions(const BrokerConfig& config, std::uint32_t partitions,
                                    std::uint64_t hash_seed) {
  PartitionOptions options;
  options.partitions = partitions;
  options.hash_seed = hash_seed;
  options.event_limits = config.event_limits;
  options.answer_when_written = config.durability == Durability::kWritten;
  options.dedupe_window = config.dedupe_window;
  options.dedupe_ids_max = config.dedupe_ids_max;
  options.queues = config.queues;
  options.retention_age = config.retention_age;
  options.retention_bytes = config.retention_bytes;
  options.letters_age = config.letters_age;
  options.letters_bytes = config.letters_bytes;
  options.detached_retention = config.detached_retention;
  return options;
}

AccessPolicy ToAccessPolicy(const BrokerConfig& config) {
  AccessPolicy policy;
  for (const TokenConfig& token : config.tokens) {
    Scopes scopes;
    if (token.publish) scopes.Add(Scope::kPublish);
    if (token.work) scopes.Add(Scope::kWork);
    if (token.admin) scopes.Add(Scope::kAdmin);
    policy.tokens.push_back({.secret = token.token.Reveal(), .scopes = scopes});
  }
  if (config.tls && !config.tls->client_ca.empty()) policy.certificate_scopes = Scopes::All();
  return policy;
}

absl::Status CheckListeners(const BrokerConfig& config) {
  const bool identity =
      !config.tokens.empty() || (config.tls.has_value() && !config.tls->client_ca.empty());
  TOCSIN_RETURN_IF_ERROR(CheckListener("listen", config.listen,
                                       config.insecure || (config.tls.has_value() && identity),
                                       "set broker.tls and broker.tokens (or tls.client_ca)"));
  return CheckListener("http", config.http, config.insecure,
                       "it speaks no TLS; keep it on 127.0.0.1 behind a proxy");
}

absl::Status CheckBoundListeners(const BrokerConfig& bound, const BrokerConfig& policy) {
  BrokerConfig now = policy;
  now.listen = bound.listen;
  now.http = bound.http;
  now.insecure = bound.insecure;
  now.tls = bound.tls;
  // Certificates count only where both the listener asks for them and the new policy knows of them.
  const bool certificates = policy.tls.has_value() && !policy.tls->client_ca.empty();
  if (now.tls.has_value() && !certificates) now.tls->client_ca.clear();
  const absl::Status open = CheckListeners(now);
  if (open.ok()) return open;
  return absl::FailedPreconditionError(
      fmt::format("{}. It listens there until it is started anew", MessageOf(open)));
}

absl::Status CheckSources(const Config& config) {
  const auto absolute = [](const std::string& path) {
    std::error_code error;
    const std::filesystem::path resolved = std::filesystem::weakly_canonical(path, error);
    return (error ? std::filesystem::path(path) : resolved).string() + "/";
  };
  const std::string data = absolute(config.broker.data_dir);
  for (const SourceConfig& source : config.sources) {
    const auto* file = std::get_if<FileSpec>(&source.spec);
    if (file == nullptr) continue;
    const std::string watched = absolute(file->path);
    // `//` is the root of the file system.
    const bool inside = watched.starts_with(data) ||
                        (file->recursive && data.starts_with(watched)) ||
                        (file->recursive && watched == "//");
    if (!inside) continue;
    return absl::FailedPreconditionError(fmt::format(
        "T0110: source `{}` would watch the broker's own data directory {}; name another `path`, "
        "or another `data_dir`",
        source.name, config.broker.data_dir));
  }
  return absl::OkStatus();
}

}  // namespace tocsin
