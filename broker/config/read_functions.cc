#include <algorithm>

#include "broker/config/read_model.h"

namespace tocsin {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

bool IsVariableName(std::string_view name) {
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  return !name.empty() && letter(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

void ReadEnvironment(ConfigReader& reader, YamlNode node, LocalCommand& process) {
  if (!node.present() || node.kind() == YamlKind::kNull) return;
  if (node.kind() != YamlKind::kMap) {
    reader.Error(node.location(), config_code::kBadValue,
                 "`environment` takes a map from names to values");
    return;
  }
  for (const YamlEntry& entry : node.Entries()) {
    if (entry.key.kind() != YamlKind::kScalar || entry.value.kind() != YamlKind::kScalar ||
        !IsVariableName(entry.key.text())) {
      reader.Error(entry.key.location(), config_code::kBadValue,
                   "`environment` takes names such as LANG and single values");
      continue;
    }
    const std::string name(entry.key.text());
    if (name.starts_with("CE_") || name.starts_with("TOCSIN_")) {
      reader.Error(entry.key.location(), config_code::kBadValue,
                   fmt::format("`{}` is set by the broker", name.substr(0, 64)));
      continue;
    }
    std::optional<ConfigText> text = reader.Interpolate(entry.value);
    if (!text) continue;
    if (text->value.find('\0') != std::string::npos) {
      reader.Error(entry.value.location(), config_code::kBadValue,
                   fmt::format("`{}` holds a null character", name.substr(0, 64)));
    } else if (!process.environment.emplace(name, std::move(text->value)).second) {
      reader.Error(entry.key.location(), config_code::kDuplicateKey,
                   fmt::format("`{}` is given twice", name.substr(0, 64)));
    }
  }
}

// The keys that `exec` and `run` share.
void ReadProcess(ConfigReader& reader, Section& section, LocalCommand& process) {
  const bool command = section.TextList("command", process.command,
                                        "the program, looked up in PATH, and its arguments");
  section.Require("command");
  const YamlNode environment =
      section.Value("environment", "map of text", R"({"type":["object","null"]})",
                    "variables beside those of the broker");
  section.Text("directory", process.directory,
               "where it starts; the home of `user` if there is one, else the broker's");
  section.Text("user", process.user, "as whom it runs; needs a broker that runs as root");
  if (reader.describing != nullptr) return;
  ReadEnvironment(reader, environment, process);
  if (command && process.command.empty()) {
    section.Error("command", config_code::kBadValue, "`command` is empty: name a program");
  }
  for (const std::string& argument : process.command) {
    if (argument.find('\0') == std::string::npos) continue;
    section.Error("command", config_code::kBadValue, "`command` holds a null character");
    break;
  }
}

void ReadExec(ConfigReader& reader, YamlNode node, ExecSpec& exec) {
  Section section(reader, node, "functions.*.exec");
  ReadProcess(reader, section, exec.process);
  const bool input = section.Choice(
      "input", exec.input,
      {{"event", ExecInput::kEvent}, {"data", ExecInput::kData}, {"none", ExecInput::kNone}},
      "standard input: the event as JSON, its data alone, nothing");
  const bool text = section.Text("stdin", exec.stdin_text, "this text as standard input");
  section.OptionalTimeSpan("timeout", exec.timeout, milliseconds(10), hours(24 * 30),
                           "ends a run: TERM, then KILL, to its whole process group");
  section.Integer("concurrency", exec.concurrency, 1, 1024, "commands at a time");
  section.Size("output", exec.output_bytes_max, 0, std::uint64_t{16} << 20,
               "bytes kept of a run's output: its beginning and its end");
  section.Finish();
  if (reader.describing != nullptr) return;
  if (text && input) {
    section.Error("stdin", config_code::kConflict, "`input` says what the standard input is");
  }
  if (text) exec.input = ExecInput::kText;
}

void ReadRun(ConfigReader& reader, YamlNode node, RunSpec& run) {
  Section section(reader, node, "functions.*.run");
  ReadProcess(reader, section, run.process);
  section.Integer("min", run.min, 0, 1024, "workers that always run");
  const bool max = section.Integer("max", run.max, 1, 1024, "workers at most");
  section.Integer("warm", run.warm, 0, 1024,
                  "workers ready beyond those that are busy, while it is in use");
  section.TimeSpan("idle", run.idle, milliseconds(100), hours(24 * 30),
                   "without anything to do for so long, a worker is stopped");
  section.Finish();
  if (reader.describing != nullptr || run.max >= run.min) return;
  if (max) {
    section.Error("max", config_code::kConflict, "`max` is below `min`");
  } else {
    run.max = run.min;
  }
}

void ReadFunction(ConfigReader& reader, YamlNode node, FunctionConfig& function) {
  Section section(reader, node, "functions.*");
  const YamlNode exec = section.Map("exec", "a command per event, run by the broker's supervisor");
  const YamlNode run = section.Map("run", "workers that the broker's supervisor starts and stops");
  section.Finish();
  const bool describing = reader.describing != nullptr;
  if (exec.present() && run.present()) {
    section.Error("run", config_code::kConflict, "a function has one kind: `exec` or `run`");
  }
  if (exec.present() || describing) ReadExec(reader, exec, function.exec.emplace());
  if (run.present() || describing) ReadRun(reader, run, function.run.emplace());
}

}  // namespace

void ReadFunctions(ConfigReader& reader, YamlNode node, std::vector<FunctionConfig>& functions) {
  if (reader.describing != nullptr) {
    FunctionConfig function;
    ReadFunction(reader, {}, function);
    return;
  }
  for (const YamlEntry& entry : NamedEntries(reader, node, "function")) {
    FunctionConfig& function = functions.emplace_back();
    function.name = std::string(entry.key.text());
    function.location = ToConfigLocation(entry.key.location());
    ReadFunction(reader, entry.value, function);
  }
}

}  // namespace tocsin
