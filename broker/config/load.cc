#include "broker/config/load.h"

#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "broker/base/status.h"
#include "broker/config/read_model.h"

namespace tocsin {
namespace {

// A former name is taken over once, and only after it is gone.
class FormerNames {
 public:
  FormerNames(ConfigReader& reader, std::string_view what) : reader_(reader), what_(what) {}

  void AddCurrent(std::string_view name) { current_.insert(name); }

  void Check(std::string_view name, std::string_view was, const ConfigLocation& location) {
    if (was.empty()) return;
    const auto refuse = [&](std::string message) {
      reader_.Error({location.line, location.column}, config_code::kConflict, std::move(message));
    };
    if (current_.contains(was)) {
      refuse(fmt::format("{} `{}` was `{}`, but there still is a {} of that name", what_, name,
                         was.substr(0, 128), what_));
    }
    const auto [found, added] = taken_.emplace(was, name);
    if (!added) {
      refuse(fmt::format("{}s `{}` and `{}` both were `{}`", what_, found->second, name,
                         was.substr(0, 128)));
    }
  }

 private:
  ConfigReader& reader_;
  std::string_view what_;
  absl::flat_hash_set<std::string_view> current_;
  absl::flat_hash_map<std::string_view, std::string_view> taken_;
};

}  // namespace

void CheckFormerNames(ConfigReader& reader, const Config& config) {
  FormerNames sources(reader, "source");
  for (const SourceConfig& source : config.sources) sources.AddCurrent(source.name);
  for (const SourceConfig& source : config.sources) {
    sources.Check(source.name, source.was, source.location);
  }
  FormerNames triggers(reader, "trigger");
  for (const TriggerConfig& trigger : config.triggers) triggers.AddCurrent(trigger.spec.name);
  for (const TriggerConfig& trigger : config.triggers) {
    triggers.Check(trigger.spec.name, trigger.spec.was, trigger.location);
  }
}

void SetCanonical(Config& config) {
  for (TriggerConfig& trigger : config.triggers) {
    trigger.spec.config_json = CanonicalTriggerJson(trigger.spec.policy, trigger.route);
    trigger.spec.config_hash = Sha256Hex(trigger.spec.config_json);
  }
}

absl::Status ErrorStatus(const std::vector<ConfigError>& errors) {
  std::string text;
  for (const ConfigError& error : errors) {
    if (!text.empty()) text += '\n';
    text += error.ToString();
  }
  return absl::InvalidArgumentError(text);
}

std::string ConfigError::ToString() const {
  return fmt::format("{}:{}:{}: {} [{}]", file, line, column, message, code);
}

void ReadFileModel(ConfigReader& reader, YamlNode root, Config& config) {
  Section section(reader, root, "");
  std::uint32_t version = 1;
  section.Integer("version", version, 1, 1, "of this file's format");
  // Each is read where it is named, so that a description lists keys in the order of the file.
  const YamlNode broker = section.Map("broker", "the broker itself");
  ReadBroker(reader, broker, config.broker);
  const YamlNode sources = section.NamedMap("sources", "what brings events in");
  ReadSources(reader, sources, config.sources);
  const YamlNode functions = section.NamedMap("functions", "what triggers call: `NAME: {}`");
  ReadFunctions(reader, functions, config.functions);
  const YamlNode triggers = section.NamedMap("triggers", "which events call which function");
  ReadTriggers(reader, triggers, config);
  section.Finish();
}

absl::StatusOr<Config> ParseConfig(std::string_view text, const std::string& file,
                                   const ConfigEnvironment& environment,
                                   std::vector<ConfigError>* errors) {
  ConfigReader reader(file, environment);
  Config config;
  auto tree = std::make_unique<YamlTree>();
  YamlLimits limits;
  limits.text_bytes_max = kConfigBytesMax;
  if (std::optional<YamlFault> fault = tree->Parse(text, limits)) {
    reader.Error(fault->location, config_code::kUnreadable, std::move(fault->message));
  } else {
    ReadFileModel(reader, tree->root(), config);
    CheckFormerNames(reader, config);
  }
  // The larger part of a large file's memory; the canonical texts take its place.
  tree.reset();
  std::vector<ConfigError> found = reader.TakeErrors();
  absl::Status status;
  if (!found.empty()) status = ErrorStatus(found);
  if (errors != nullptr) *errors = std::move(found);
  if (!status.ok()) return status;
  SetCanonical(config);
  return config;
}

absl::StatusOr<Config> LoadConfig(const std::string& path, const ConfigEnvironment& environment,
                                  std::vector<ConfigError>* errors) {
  const absl::StatusOr<std::string> text = environment.ReadFile(path, kConfigBytesMax);
  if (text.ok()) return ParseConfig(*text, path, environment, errors);
  ConfigError error{path, 1, 1, config_code::kUnreadable, std::string(MessageOf(text.status()))};
  const absl::Status status = ErrorStatus({error});
  if (errors != nullptr) *errors = {std::move(error)};
  return status;
}

}  // namespace tocsin
