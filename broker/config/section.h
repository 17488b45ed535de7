// Section: one map of the configuration, read key by key into the model; and ConfigReader, which
// collects errors and answers interpolation for all of them.
//
// Each key is spoken of once, in the call that reads it: name, target, limits, description. What is
// in the target before the call is the default. Finish() reports what was not asked for. The same
// calls in describing mode (no file) list the keys, so schema and reference cannot drift from the
// code.
//
// Threading: one thread.

#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "broker/base/clock.h"
#include "broker/config/environment.h"
#include "broker/config/load.h"
#include "broker/config/yaml_tree.h"

namespace tocsin {

// docs/errors, one page each.
namespace config_code {
inline constexpr const char* kUnreadable = "T0101";
inline constexpr const char* kUnknownKey = "T0102";
inline constexpr const char* kDuplicateKey = "T0103";
inline constexpr const char* kBadValue = "T0104";
inline constexpr const char* kMissing = "T0105";
inline constexpr const char* kNotSupported = "T0106";
inline constexpr const char* kUnknownName = "T0107";
inline constexpr const char* kInterpolation = "T0108";
inline constexpr const char* kInsecure = "T0109";
inline constexpr const char* kConflict = "T0110";
}  // namespace config_code

// A scalar after interpolation. `shown` is what errors may show.
struct ConfigText {
  std::string value;
  std::string shown;
  bool interpolated = false;
};

class ConfigReader {
 public:
  ConfigReader(std::string file, const ConfigEnvironment& environment)
      : file_(std::move(file)), environment_(environment) {}

  void Error(YamlLocation location, const char* code, std::string message);

  // nullopt after an error. Of a scalar.
  std::optional<ConfigText> Interpolate(YamlNode node);

  // Sorted by place.
  std::vector<ConfigError> TakeErrors();
  bool ok() const { return errors_.empty(); }

  std::vector<ConfigKey>* describing = nullptr;

 private:
  std::string file_;
  const ConfigEnvironment& environment_;
  std::vector<ConfigError> errors_;
  std::size_t dropped_ = 0;
};

// The nearest of `known` to `word`, as `; did you mean ...?`, or empty.
std::string DidYouMean(std::string_view word, const std::vector<std::string_view>& known);

class Section {
 public:
  // An absent or null node is an empty map; `path` is the keys' prefix in describing mode.
  Section(ConfigReader& reader, YamlNode node, std::string path);

  // Each gives true if the key is there and its value was good.
  bool Text(std::string_view name, std::string& target, std::string_view description);
  bool SecretText(std::string_view name, Secret& target, std::string_view description);
  bool TimeSpan(std::string_view name, Duration& target, Duration min, Duration max,
                std::string_view description);
  // `unset` or a duration.
  bool OptionalTimeSpan(std::string_view name, std::optional<Duration>& target, Duration min,
                        Duration max, std::string_view description);
  template <typename T>
  bool Size(std::string_view name, T& target, std::uint64_t min, std::uint64_t max,
            std::string_view description) {
    std::uint64_t value = target;
    const bool given = SizeValue(name, value, min, max, description);
    target = static_cast<T>(value);
    return given;
  }
  // `zero`: the word that stands for 0, if there is one; 0 itself is then refused.
  template <typename T>
  bool Integer(std::string_view name, T& target, std::uint64_t min, std::uint64_t max,
               std::string_view description, std::string_view zero = {}) {
    std::uint64_t value = target;
    const bool given = IntegerValue(name, value, min, max, description, zero);
    target = static_cast<T>(value);
    return given;
  }
  bool OptionalInteger(std::string_view name, std::optional<std::uint64_t>& target,
                       std::uint64_t min, std::uint64_t max, std::string_view description);
  bool Number(std::string_view name, double& target, double min, double max,
              std::string_view description);
  // `20/s`, `600/m`, per second, minute, hour or day; `unlimited` is a count of 0.
  bool PerTime(std::string_view name, std::uint32_t& count, Duration& per,
               std::string_view description);
  bool Boolean(std::string_view name, bool& target, std::string_view description);
  bool TextList(std::string_view name, std::vector<std::string>& target,
                std::string_view description);

  template <typename E>
  struct Word {
    std::string_view word;
    E value;
  };
  template <typename E>
  bool Choice(std::string_view name, E& target,
              std::initializer_list<Word<std::type_identity_t<E>>> words,
              std::string_view description) {
    std::vector<std::string_view> choices;
    std::size_t index = 0;
    for (const auto& word : words) {
      if (word.value == target) index = choices.size();
      choices.push_back(word.word);
    }
    const bool given = ChoiceValue(name, choices, index, description);
    target = (words.begin() + index)->value;
    return given;
  }

  // The node, absent if the key is. The caller reads it; in describing mode it goes on with an
  // absent one and PathOf(name).
  YamlNode Map(std::string_view name, std::string_view description);
  // Of a map from names of the user's choice; the values' path is PathOf(name) + ".*".
  YamlNode NamedMap(std::string_view name, std::string_view description);
  YamlNode List(std::string_view name, std::string_view description);
  // Any shape; `schema` is its JSON Schema.
  YamlNode Value(std::string_view name, std::string_view type, std::string_view schema,
                 std::string_view description);

  // A key that is known and refused.
  void Unsupported(std::string_view name, std::string_view message);
  // An error if the key is not there. In describing mode its default becomes `required`.
  void Require(std::string_view name);

  bool Has(std::string_view name) const;
  // Of the key's value; of the section if it is not there.
  YamlLocation At(std::string_view name) const;
  YamlLocation location() const { return location_; }
  std::string PathOf(std::string_view name) const;
  void Error(std::string_view name, const char* code, std::string message);

  // Reports unknown keys. Call it last.
  void Finish();

 private:
  struct Entry {
    YamlNode key;
    YamlNode value;
    bool known = false;
  };

  YamlNode Take(std::string_view name, std::string_view type, std::string default_value,
                std::string schema, std::string_view description);
  std::optional<ConfigText> Scalar(std::string_view name, YamlNode node);
  void BadValue(std::string_view name, YamlNode node, const ConfigText& text,
                std::string_view expected);
  bool SizeValue(std::string_view name, std::uint64_t& target, std::uint64_t min, std::uint64_t max,
                 std::string_view description);
  bool IntegerValue(std::string_view name, std::uint64_t& target, std::uint64_t min,
                    std::uint64_t max, std::string_view description, std::string_view zero);
  bool ChoiceValue(std::string_view name, const std::vector<std::string_view>& choices,
                   std::size_t& index, std::string_view description);
  bool ReadTimeSpan(std::string_view name, YamlNode node, const ConfigText& text, Duration min,
                    Duration max, Duration& target);
  bool ReadInteger(std::string_view name, YamlNode node, const ConfigText& text, std::uint64_t min,
                   std::uint64_t max, std::uint64_t& target);

  ConfigReader& reader_;
  std::string path_;
  YamlLocation location_;
  absl::InlinedVector<Entry, 12> entries_;
  absl::InlinedVector<std::string_view, 24> known_;
};

// The entries of a map from names, after an error for each name that is out of form or given twice:
// [A-Za-z0-9] first, then also `.`, `_`, `-`, at most 128 bytes.
std::vector<YamlEntry> NamedEntries(ConfigReader& reader, YamlNode node, std::string_view what);

}  // namespace tocsin
