// Config: the validated model of tocsin.yaml, with every default filled in.
//
// The structs hold the defaults of the file (those of triggers, sources and events are the structs
// of dispatch, connectors and base that they are made of). broker/config/load.h reads the file.

#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "broker/base/clock.h"
#include "broker/base/event.h"
#include "broker/config/local_function.h"
#include "broker/routing/route_table.h"
#include "connectors/database/postgres/postgres_spec.h"
#include "connectors/file/file_spec.h"
#include "connectors/file/tail_spec.h"
#include "connectors/kafka/kafka_spec.h"
#include "connectors/redis/redis_spec.h"
#include "connectors/timer/timer_spec.h"
#include "connectors/zeromq/zeromq_spec.h"
#include "dispatch/trigger_spec.h"

namespace tocsin {

// A text that no error, log line or dump shows: it has no operator<< and no formatter.
class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string value) : value_(std::move(value)) {}

  const std::string& Reveal() const { return value_; }
  bool empty() const { return value_.empty(); }

 private:
  std::string value_;
};

// Where in the file, from 1.
struct ConfigLocation {
  std::uint32_t line = 1;
  std::uint32_t column = 1;
};

enum class Durability : std::uint8_t { kDurable, kWritten };

struct TlsConfig {
  std::string cert;  // paths of PEM files
  std::string key;
  std::string client_ca;  // empty: clients show no certificate
};

struct TokenConfig {
  Secret token;
  bool publish = false;
  bool work = false;
  bool admin = false;
};

struct BrokerConfig {
  std::string data_dir = "./tocsin-data";
  std::string listen = "127.0.0.1:7420";
  std::string http = "127.0.0.1:7421";
  std::uint32_t partitions = 4;  // in a new data directory
  bool partitions_given = false;
  std::uint32_t shards = 0;  // 0: min(cores, partitions)
  Durability durability = Durability::kDurable;

  Duration retention_age = std::chrono::hours(7 * 24);
  std::uint64_t retention_bytes = std::uint64_t{10} << 30;
  Duration dedupe_window = std::chrono::minutes(10);
  std::uint64_t dedupe_ids_max = 1'000'000;  // per partition
  EventLimits event_limits;
  std::uint64_t ingest_bytes_max = std::uint64_t{16} << 20;  // per shard
  QueueLimits queues;
  Duration letters_age = std::chrono::hours(30 * 24);
  std::uint64_t letters_bytes = std::uint64_t{2} << 30;
  Duration detached_retention = std::chrono::hours(7 * 24);
  Duration heartbeat = std::chrono::seconds(4);
  Duration gone_after = std::chrono::seconds(30);

  std::optional<TlsConfig> tls;
  std::vector<TokenConfig> tokens;
  bool insecure = false;

  TriggerPolicy defaults;  // of triggers that do not say otherwise; `function` is empty
};

using SourceSpec =
    std::variant<FileSpec, TailSpec, TimerSpec, KafkaSpec, RedisSpec, ZeromqSpec, PostgresSpec>;

struct SourceConfig {
  std::string name;
  std::string was;
  SourceSpec spec;
  Duration backoff_max = std::chrono::seconds(30);  // between tries to reach the outside
  ConfigLocation location;
};

struct FunctionConfig {
  std::string name;
  ConfigLocation location;
  // Without both served by attached workers alone; never both.
  std::optional<ExecSpec> exec;
  std::optional<RunSpec> run;
};

struct TriggerConfig {
  TriggerSpec spec;  // was, from_start, config_json and config_hash included
  RouteSpec route;
  ConfigLocation location;
};

struct Config {
  BrokerConfig broker;
  std::vector<SourceConfig> sources;  // in the order of the file, like all below
  std::vector<FunctionConfig> functions;
  std::vector<TriggerConfig> triggers;
};

// The effective configuration of a trigger as canonical JSON: sorted keys, every default filled in,
// without its name. Equal text means equal behaviour.
std::string CanonicalTriggerJson(const TriggerPolicy& policy, const RouteSpec& route);

// Hexadecimal.
std::string Sha256Hex(std::string_view bytes);

struct HostPort {
  std::string host;  // without brackets
  std::uint16_t port = 0;
  bool loopback = false;
};

// `127.0.0.1:7420`, `[::1]:7420`, `localhost:0`; nullopt if it is not host and port.
std::optional<HostPort> ParseHostPort(std::string_view text);

}  // namespace tocsin
