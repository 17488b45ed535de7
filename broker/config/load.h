// Reads tocsin.yaml: text -> tree -> Config, all errors at once, each with its place.
//
// Every error has a stable code (docs/errors): `tocsin.yaml:7:3: unknown key `retries`; did you
// mean `retry`? [T0102]`. Values that came through ${env:...} or ${file:...} and the values of
// secret keys never appear in an error.

#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/config/config.h"
#include "broker/config/environment.h"

namespace tocsin {

inline constexpr std::size_t kConfigBytesMax = std::size_t{64} << 20;
inline constexpr std::size_t kConfigErrorsMax = 100;  // those beyond are counted only

struct ConfigError {
  std::string file;
  std::uint32_t line = 1;
  std::uint32_t column = 1;
  std::string code;     // "T0102"
  std::string message;  // without place and code

  std::string ToString() const;  // `file:line:col: message [code]`
};

// kInvalidArgument: one line per error, in the order of the file; `errors`, if given, is replaced
// by them. Nothing is applied halfway. Files are reached as `path` is: from the working directory.
absl::StatusOr<Config> LoadConfig(const std::string& path, const ConfigEnvironment& environment,
                                  std::vector<ConfigError>* errors = nullptr);

// The same of a text; `file` is the name in errors.
absl::StatusOr<Config> ParseConfig(std::string_view text, const std::string& file,
                                   const ConfigEnvironment& environment,
                                   std::vector<ConfigError>* errors = nullptr);

// A trigger that comes over the API.
struct AppliedTrigger {
  TriggerConfig config;
  std::string text;  // the value that was given for its name, on one line; see TriggersText()
};

// `triggers` of a text as in the file, and nothing else; sources, functions and defaults are those
// of `config`. It reads no environment and no files. Errors as ParseConfig().
absl::StatusOr<std::vector<AppliedTrigger>> ParseTriggers(
    std::string_view text, const std::string& file, const Config& config,
    std::vector<ConfigError>* errors = nullptr);

// The text of stored triggers, by name, that ParseTriggers() reads.
std::string TriggersText(const std::map<std::string, std::string>& stored);

// Every key that the reader knows, in the order of the reference. `*` stands for a name, `[]` for
// an element: `triggers.*.retry.attempts`, `broker.tokens[].scopes`.
struct ConfigKey {
  std::string path;
  std::string type;           // duration, size, integer, number, boolean, text, ...
  std::string default_value;  // as one would write it; `required`, or empty if there is none
  std::string description;
  std::string schema;  // the value's JSON Schema, as a JSON object; `type` map: its own keys follow
};
std::vector<ConfigKey> DescribeConfig();

// docs/tocsin.schema.json, made of DescribeConfig().
std::string ConfigSchema();

// The table of docs/reference/tocsin.yaml.md: one line per key.
std::string ConfigReferenceTable();

}  // namespace tocsin
