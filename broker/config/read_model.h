// The parts of the file, each read into its part of the model. Also run in describing mode, with
// absent nodes, to list the keys.

#pragma once

#include "broker/config/config.h"
#include "broker/config/section.h"

namespace tocsin {

inline ConfigLocation ToConfigLocation(YamlLocation location) {
  return {location.line, location.column};
}

void ReadBroker(ConfigReader& reader, YamlNode node, BrokerConfig& broker);
void ReadSources(ConfigReader& reader, YamlNode node, std::vector<SourceConfig>& sources);
void ReadKafka(ConfigReader& reader, YamlNode node, KafkaSpec& kafka);
void ReadPostgres(ConfigReader& reader, YamlNode node, PostgresSpec& postgres);
void ReadRedis(ConfigReader& reader, YamlNode node, RedisSpec& redis);
void ReadTail(ConfigReader& reader, YamlNode node, TailSpec& tail);
void ReadZeromq(ConfigReader& reader, YamlNode node, ZeromqSpec& zeromq);
void ReadFunctions(ConfigReader& reader, YamlNode node, std::vector<FunctionConfig>& functions);

// After the others: `config` holds what triggers refer to and their defaults.
void ReadTriggers(ConfigReader& reader, YamlNode node, Config& config);

// The keys that a trigger and `broker.defaults` share, into a policy that holds the defaults.
void ReadPolicy(ConfigReader& reader, Section& section, TriggerPolicy& policy);

// The whole file.
void ReadFileModel(ConfigReader& reader, YamlNode root, Config& config);
// After it: former names that cannot be taken over are errors.
void CheckFormerNames(ConfigReader& reader, const Config& config);
// After both, if there were no errors: the canonical text of each trigger and its hash.
void SetCanonical(Config& config);

// One line per error.
//   kInvalidArgument
absl::Status ErrorStatus(const std::vector<ConfigError>& errors);

}  // namespace tocsin
