// Triggers that come over the API: the `triggers` of a file, against the configuration in force.

#include <charconv>
#include <memory>
#include <utility>

#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/config/read_model.h"

namespace tocsin {
namespace {

constexpr std::size_t kTriggerTextMax = std::size_t{256} << 10;

// Whoever may apply triggers must not read the broker's variables and files by it.
class NoEnvironment final : public ConfigEnvironment {
 public:
  std::optional<std::string> Variable(const std::string&) const override { return std::nullopt; }
  absl::StatusOr<std::string> ReadFile(const std::string&, std::size_t) const override {
    return absl::PermissionDeniedError("triggers of the API read no files");
  }
};

bool IsJsonToken(std::string_view text) {
  JsonValue value;
  return JsonScanner(text).ReadDocument(value).ok() &&
         (value.kind == JsonKind::kNumber || value.kind == JsonKind::kBoolean);
}

// On one line, and read again as the same.
void AppendNode(YamlNode node, std::string& out) {
  switch (node.kind()) {
    case YamlKind::kNull:
      out += "null";
      return;
    case YamlKind::kScalar:
      if (node.plain() && IsJsonToken(node.text())) {
        out += node.text();
      } else {
        AppendJsonString(out, node.text());
      }
      return;
    case YamlKind::kList: {
      out += '[';
      const std::size_t begin = out.size();
      for (const YamlNode& element : node.Elements()) {
        if (out.size() > begin) out += ", ";
        AppendNode(element, out);
      }
      out += ']';
      return;
    }
    case YamlKind::kMap: {
      out += '{';
      const std::size_t begin = out.size();
      for (const YamlEntry& entry : node.Entries()) {
        if (out.size() > begin) out += ", ";
        AppendJsonString(out, entry.key.text());
        out += ": ";
        AppendNode(entry.value, out);
      }
      out += '}';
      return;
    }
  }
}

}  // namespace

absl::StatusOr<std::vector<AppliedTrigger>> ParseTriggers(std::string_view text,
                                                          const std::string& file,
                                                          const Config& config,
                                                          std::vector<ConfigError>* errors) {
  const NoEnvironment environment;
  ConfigReader reader(file, environment);
  Config read;
  read.broker.defaults = config.broker.defaults;
  read.sources = config.sources;
  read.functions = config.functions;
  std::vector<AppliedTrigger> applied;
  YamlTree tree;
  YamlLimits limits;
  limits.text_bytes_max = kConfigBytesMax;
  if (std::optional<YamlFault> fault = tree.Parse(text, limits)) {
    reader.Error(fault->location, config_code::kUnreadable, std::move(fault->message));
  } else {
    Section section(reader, tree.root(), "");
    std::uint32_t version = 1;
    section.Integer("version", version, 1, 1, "of this file's format");
    const YamlNode triggers = section.NamedMap("triggers", "which events call which function");
    section.Require("triggers");
    section.Finish();
    if (triggers.present()) ReadTriggers(reader, triggers, read);
    for (TriggerConfig& trigger : read.triggers) {
      if (!trigger.spec.was.empty()) {
        reader.Error(
            {trigger.location.line, trigger.location.column}, config_code::kNotSupported,
            fmt::format("trigger `{}`: `was` is for the configuration file", trigger.spec.name));
      }
    }
    if (reader.ok() && triggers.present()) {
      const std::vector<YamlEntry> entries = triggers.Entries();
      for (std::size_t i = 0; i < read.triggers.size() && i < entries.size(); ++i) {
        AppliedTrigger& one = applied.emplace_back();
        one.config = std::move(read.triggers[i]);
        AppendNode(entries[i].value, one.text);
        if (one.text.size() > kTriggerTextMax) {
          reader.Error(entries[i].key.location(), config_code::kBadValue,
                       fmt::format("trigger `{}` has more than {} KiB", one.config.spec.name,
                                   kTriggerTextMax >> 10));
        }
        one.config.spec.config_json =
            CanonicalTriggerJson(one.config.spec.policy, one.config.route);
        one.config.spec.config_hash = Sha256Hex(one.config.spec.config_json);
      }
    }
  }
  std::vector<ConfigError> found = reader.TakeErrors();
  absl::Status status;
  if (!found.empty()) {
    std::string all;
    for (const ConfigError& error : found) {
      all += fmt::format("{}{}", all.empty() ? "" : "\n", error.ToString());
    }
    status = absl::InvalidArgumentError(all);
  }
  if (errors != nullptr) *errors = std::move(found);
  if (!status.ok()) return status;
  return applied;
}

std::string TriggersText(const std::map<std::string, std::string>& stored) {
  std::string text = "triggers:\n";
  for (const auto& [name, value] : stored) {
    text += "  ";
    AppendJsonString(text, name);
    text += fmt::format(": {}\n", value);
  }
  return stored.empty() ? "triggers: {}\n" : text;
}

}  // namespace tocsin
