#include "broker/config/section.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/container/flat_hash_set.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"

namespace tocsin {
namespace {

constexpr std::size_t kShownMax = 80;
constexpr std::size_t kInterpolatedMax = std::size_t{1} << 20;

std::string Shortened(std::string_view text) {
  std::string shown;
  AppendJsonString(shown, text.substr(0, kShownMax));
  // Back-quotes as everywhere else; what JSON escapes stays escaped.
  shown = "`" + shown.substr(1, shown.size() - 2) + (text.size() > kShownMax ? "...`" : "`");
  return shown;
}

// Optimal string alignment: insert, delete, replace, swap of neighbours.
std::size_t Distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (std::size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

// `backoff_max` and `max_backoff`: the same words in another order.
std::string SortedWords(std::string_view text) {
  std::vector<std::string_view> words;
  while (true) {
    const std::size_t end = std::min(text.find_first_of("_-."), text.size());
    words.push_back(text.substr(0, end));
    if (end == text.size()) break;
    text.remove_prefix(end + 1);
  }
  std::sort(words.begin(), words.end());
  return fmt::format("{}", fmt::join(words, "_"));
}

std::string JsonText(std::string_view text) {
  std::string out;
  AppendJsonString(out, text);
  return out;
}

}  // namespace

std::string DidYouMean(std::string_view word, const std::vector<std::string_view>& known) {
  constexpr std::size_t kWordMax = 64;
  // Of a hundred thousand names only so many are compared: the hint is a courtesy.
  constexpr std::size_t kComparedMax = 2000;
  if (word.size() > kWordMax) return {};
  std::string_view best;
  std::size_t best_distance = std::max<std::size_t>(2, word.size() / 3) + 1;
  std::size_t compared = 0;
  for (const std::string_view candidate : known) {
    if (++compared > kComparedMax) break;
    if (candidate.size() > kWordMax) continue;
    std::size_t distance = std::min(Distance(word, candidate),
                                    SortedWords(word) == SortedWords(candidate) ? 1u : kWordMax);
    if (word.size() > 3 && candidate.size() > 3 &&
        (candidate.find(word) != std::string_view::npos ||
         word.find(candidate) != std::string_view::npos)) {
      distance = std::min<std::size_t>(distance, 2);
    }
    // `retries` for `retry`: another form of the same word.
    constexpr std::size_t kStem = 4;
    if (word.size() > kStem && candidate.size() > kStem &&
        word.substr(0, kStem) == candidate.substr(0, kStem)) {
      distance = std::min<std::size_t>(distance, 2);
    }
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best.empty() ? std::string() : fmt::format("; did you mean `{}`?", best);
}

void ConfigReader::Error(YamlLocation location, const char* code, std::string message) {
  if (errors_.size() >= kConfigErrorsMax) {
    ++dropped_;
    return;
  }
  errors_.push_back({file_, location.line, location.column, code, std::move(message)});
}

std::vector<ConfigError> ConfigReader::TakeErrors() {
  std::stable_sort(errors_.begin(), errors_.end(), [](const auto& a, const auto& b) {
    return std::pair(a.line, a.column) < std::pair(b.line, b.column);
  });
  if (dropped_ > 0) {
    const ConfigError& last = errors_.back();
    errors_.push_back({last.file, last.line, last.column, last.code,
                       fmt::format("and {} more errors", dropped_)});
  }
  return std::move(errors_);
}

std::optional<ConfigText> ConfigReader::Interpolate(YamlNode node) {
  const std::string_view raw = node.text();
  ConfigText text;
  text.shown = Shortened(raw);
  std::size_t position = 0;
  while (true) {
    const std::size_t at = raw.find("${", position);
    if (at == std::string_view::npos) break;
    if (at > 0 && at > position && raw[at - 1] == '$') {
      text.value += raw.substr(position, at - 1 - position);
      text.value += "${";
      position = at + 2;
      continue;
    }
    text.value += raw.substr(position, at - position);
    const std::size_t end = raw.find('}', at);
    const std::string_view inside =
        end == std::string_view::npos ? std::string_view() : raw.substr(at + 2, end - at - 2);
    const std::size_t colon = inside.find(':');
    const std::string_view kind = inside.substr(0, colon);
    const std::string name(colon == std::string_view::npos ? std::string_view()
                                                           : inside.substr(colon + 1));
    if (name.empty() || (kind != "env" && kind != "file")) {
      Error(node.location(), config_code::kInterpolation,
            fmt::format("{}: `${{` begins ${{env:NAME}} or ${{file:PATH}}; write $${{ for the "
                        "characters themselves",
                        text.shown));
      return std::nullopt;
    }
    if (kind == "env") {
      const std::optional<std::string> value = environment_.Variable(name);
      if (!value) {
        Error(node.location(), config_code::kInterpolation,
              fmt::format("the environment has no variable `{}`", name));
        return std::nullopt;
      }
      text.value += *value;
    } else {
      absl::StatusOr<std::string> value = environment_.ReadFile(name, kInterpolatedMax);
      if (!value.ok()) {
        Error(node.location(), config_code::kInterpolation, std::string(MessageOf(value.status())));
        return std::nullopt;
      }
      // The line's end that editors and `echo` leave is not part of a secret.
      if (!value->empty() && value->back() == '\n') value->pop_back();
      if (!value->empty() && value->back() == '\r') value->pop_back();
      text.value += *value;
    }
    text.interpolated = true;
    position = end + 1;
    if (text.value.size() > kInterpolatedMax) {
      Error(node.location(), config_code::kInterpolation,
            fmt::format("{}: the value is longer than 1 MiB", text.shown));
      return std::nullopt;
    }
  }
  text.value += raw.substr(position);
  return text;
}

Section::Section(ConfigReader& reader, YamlNode node, std::string path)
    : reader_(reader), path_(std::move(path)) {
  if (!node.present()) return;
  location_ = node.location();
  if (node.kind() == YamlKind::kNull) return;
  if (node.kind() != YamlKind::kMap) {
    reader_.Error(location_, config_code::kBadValue,
                  fmt::format("{} takes a map of keys and values",
                              path_.empty() ? "the file" : fmt::format("`{}`", path_)));
    return;
  }
  absl::flat_hash_set<std::string_view> names;
  for (const YamlEntry& entry : node.Entries()) {
    if (entry.key.kind() != YamlKind::kScalar) {
      reader_.Error(entry.key.location(), config_code::kBadValue, "a key is a word");
      continue;
    }
    if (!names.insert(entry.key.text()).second) {
      reader_.Error(entry.key.location(), config_code::kDuplicateKey,
                    fmt::format("{} is given twice", Shortened(entry.key.text())));
      continue;
    }
    entries_.push_back({entry.key, entry.value, false});
  }
}

std::string Section::PathOf(std::string_view name) const {
  return path_.empty() ? std::string(name) : fmt::format("{}.{}", path_, name);
}

bool Section::Has(std::string_view name) const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [&](const Entry& entry) { return entry.key.text() == name; });
}

YamlLocation Section::At(std::string_view name) const {
  for (const Entry& entry : entries_) {
    if (entry.key.text() == name) return entry.value.location();
  }
  return location_;
}

void Section::Error(std::string_view name, const char* code, std::string message) {
  reader_.Error(At(name), code, std::move(message));
}

YamlNode Section::Take(std::string_view name, std::string_view type, std::string default_value,
                       std::string schema, std::string_view description) {
  known_.push_back(name);
  if (reader_.describing != nullptr) {
    reader_.describing->push_back({PathOf(name), std::string(type), std::move(default_value),
                                   std::string(description), std::move(schema)});
    return {};
  }
  for (Entry& entry : entries_) {
    if (entry.key.text() == name) {
      entry.known = true;
      return entry.value;
    }
  }
  return {};
}

std::optional<ConfigText> Section::Scalar(std::string_view name, YamlNode node) {
  if (!node.present()) return std::nullopt;
  if (node.kind() == YamlKind::kNull) {
    reader_.Error(node.location(), config_code::kBadValue,
                  fmt::format("`{}` has no value; leave the key out for the default", name));
    return std::nullopt;
  }
  if (node.kind() != YamlKind::kScalar) {
    reader_.Error(node.location(), config_code::kBadValue,
                  fmt::format("`{}` takes one value, not a {}", name,
                              node.kind() == YamlKind::kMap ? "map" : "list"));
    return std::nullopt;
  }
  return reader_.Interpolate(node);
}

void Section::BadValue(std::string_view name, YamlNode node, const ConfigText& text,
                       std::string_view expected) {
  reader_.Error(node.location(), config_code::kBadValue,
                fmt::format("`{}` takes {}, not {}{}", name, expected,
                            text.interpolated ? "the value of " : "", text.shown));
}

bool Section::Text(std::string_view name, std::string& target, std::string_view description) {
  const YamlNode node =
      Take(name, "text", target, R"({"type":["string","number","boolean"]})", description);
  std::optional<ConfigText> text = Scalar(name, node);
  if (!text) return false;
  if (text->value.empty()) {
    reader_.Error(node.location(), config_code::kBadValue, fmt::format("`{}` is empty", name));
    return false;
  }
  if (text->value.find('\0') != std::string::npos) {
    reader_.Error(node.location(), config_code::kBadValue,
                  fmt::format("`{}` has a NUL character", name));
    return false;
  }
  target = std::move(text->value);
  return true;
}

bool Section::SecretText(std::string_view name, Secret& target, std::string_view description) {
  std::string value;
  const bool given = Text(name, value, description);
  if (given) target = Secret(std::move(value));
  return given;
}

bool Section::ReadTimeSpan(std::string_view name, YamlNode node, const ConfigText& text,
                           Duration min, Duration max, Duration& target) {
  const absl::StatusOr<Duration> duration = ParseDuration(text.value);
  if (!duration.ok()) {
    BadValue(name, node, text, "a duration such as 200ms, 30s, 1m30s or 7d");
    return false;
  }
  if (*duration < min || *duration > max) {
    BadValue(name, node, text,
             fmt::format("a duration from {} to {}", FormatDuration(min), FormatDuration(max)));
    return false;
  }
  target = *duration;
  return true;
}

bool Section::TimeSpan(std::string_view name, Duration& target, Duration min, Duration max,
                       std::string_view description) {
  const YamlNode node =
      Take(name, "duration", FormatDuration(target), R"({"type":"string"})", description);
  const std::optional<ConfigText> text = Scalar(name, node);
  return text && ReadTimeSpan(name, node, *text, min, max, target);
}

bool Section::OptionalTimeSpan(std::string_view name, std::optional<Duration>& target, Duration min,
                               Duration max, std::string_view description) {
  const YamlNode node =
      Take(name, "duration or `unset`", target ? FormatDuration(*target) : "unset",
           R"({"type":"string"})", description);
  const std::optional<ConfigText> text = Scalar(name, node);
  if (!text) return false;
  if (text->value == "unset") {
    target.reset();
    return true;
  }
  Duration value{};
  if (!ReadTimeSpan(name, node, *text, min, max, value)) return false;
  target = value;
  return true;
}

bool Section::SizeValue(std::string_view name, std::uint64_t& target, std::uint64_t min,
                        std::uint64_t max, std::string_view description) {
  const YamlNode node =
      Take(name, "size", FormatBytes(target), R"({"type":["string","integer"]})", description);
  const std::optional<ConfigText> text = Scalar(name, node);
  if (!text) return false;
  const absl::StatusOr<std::uint64_t> bytes = ParseBytes(text->value);
  if (!bytes.ok()) {
    BadValue(name, node, *text, "a size such as 512, 64KiB, 5MB or 10GiB");
    return false;
  }
  if (*bytes < min || *bytes > max) {
    BadValue(name, node, *text,
             fmt::format("a size from {} to {}", FormatBytes(min), FormatBytes(max)));
    return false;
  }
  target = *bytes;
  return true;
}

bool Section::ReadInteger(std::string_view name, YamlNode node, const ConfigText& text,
                          std::uint64_t min, std::uint64_t max, std::uint64_t& target) {
  std::uint64_t value = 0;
  const char* const end = text.value.data() + text.value.size();
  const auto [rest, error] = std::from_chars(text.value.data(), end, value);
  if (text.value.empty() || error != std::errc() || rest != end || value < min || value > max) {
    BadValue(name, node, text,
             max == std::numeric_limits<std::uint64_t>::max()
                 ? fmt::format("a whole number from {}", min)
                 : fmt::format("a whole number from {} to {}", min, max));
    return false;
  }
  target = value;
  return true;
}

bool Section::IntegerValue(std::string_view name, std::uint64_t& target, std::uint64_t min,
                           std::uint64_t max, std::string_view description, std::string_view zero) {
  std::string schema = fmt::format(R"({{"type":"integer","minimum":{},"maximum":{}}})", min, max);
  std::string type = "integer";
  std::string default_value = fmt::format("{}", target);
  if (!zero.empty()) {
    schema = fmt::format(R"({{"anyOf":[{{"const":"{}"}},{}]}})", zero, schema);
    type = fmt::format("integer or `{}`", zero);
    if (target == 0) default_value = zero;
  }
  const YamlNode node = Take(name, type, default_value, std::move(schema), description);
  const std::optional<ConfigText> text = Scalar(name, node);
  if (!text) return false;
  if (!zero.empty() && text->value == zero) {
    target = 0;
    return true;
  }
  return ReadInteger(name, node, *text, min, max, target);
}

bool Section::OptionalInteger(std::string_view name, std::optional<std::uint64_t>& target,
                              std::uint64_t min, std::uint64_t max, std::string_view description) {
  const YamlNode node = Take(
      name, "integer or `unset`", target ? fmt::format("{}", *target) : "unset",
      fmt::format(R"({{"anyOf":[{{"const":"unset"}},{{"type":"integer","minimum":{}}}]}})", min),
      description);
  const std::optional<ConfigText> text = Scalar(name, node);
  if (!text) return false;
  if (text->value == "unset") {
    target.reset();
    return true;
  }
  std::uint64_t value = 0;
  if (!ReadInteger(name, node, *text, min, max, value)) return false;
  target = value;
  return true;
}

bool Section::Number(std::string_view name, double& target, double min, double max,
                     std::string_view description) {
  const YamlNode node =
      Take(name, "number", fmt::format("{}", target),
           fmt::format(R"({{"type":"number","minimum":{},"maximum":{}}})", min, max), description);
  const std::optional<ConfigText> text = Scalar(name, node);
  if (!text) return false;
  double value = 0;
  const char* const end = text->value.data() + text->value.size();
  const auto [rest, error] = std::from_chars(text->value.data(), end, value);
  if (error != std::errc() || rest != end || !std::isfinite(value) || value < min || value > max) {
    BadValue(name, node, *text, fmt::format("a number from {} to {}", min, max));
    return false;
  }
  target = value;
  return true;
}

bool Section::Boolean(std::string_view name, bool& target, std::string_view description) {
  const YamlNode node =
      Take(name, "boolean", target ? "true" : "false", R"({"type":"boolean"})", description);
  const std::optional<ConfigText> text = Scalar(name, node);
  if (!text) return false;
  if (text->value != "true" && text->value != "false") {
    BadValue(name, node, *text, "true or false");
    return false;
  }
  target = text->value == "true";
  return true;
}

bool Section::ChoiceValue(std::string_view name, const std::vector<std::string_view>& choices,
                          std::size_t& index, std::string_view description) {
  std::string list;
  std::string schema = R"({"enum":[)";
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (i > 0) list += i + 1 == choices.size() ? " or " : ", ";
    list += fmt::format("`{}`", choices[i]);
    schema += fmt::format("{}{}", i > 0 ? "," : "", JsonText(choices[i]));
  }
  const YamlNode node = Take(name, list, std::string(choices[index]), schema + "]}", description);
  const std::optional<ConfigText> text = Scalar(name, node);
  if (!text) return false;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    if (choices[i] == text->value) {
      index = i;
      return true;
    }
  }
  reader_.Error(node.location(), config_code::kBadValue,
                fmt::format("`{}` takes {}, not {}{}{}", name, list,
                            text->interpolated ? "the value of " : "", text->shown,
                            text->interpolated ? "" : DidYouMean(text->value, choices)));
  return false;
}

bool Section::TextList(std::string_view name, std::vector<std::string>& target,
                       std::string_view description) {
  const YamlNode node = Take(name, "list of text", "[]",
                             R"({"type":"array","items":{"type":"string"}})", description);
  if (!node.present()) return false;
  if (node.kind() != YamlKind::kList) {
    reader_.Error(node.location(), config_code::kBadValue,
                  fmt::format("`{}` takes a list, such as [a, b]", name));
    return false;
  }
  std::vector<std::string> values;
  bool good = true;
  for (const YamlNode& element : node.Elements()) {
    std::optional<ConfigText> text = Scalar(name, element);
    if (text && text->value.empty()) {
      reader_.Error(element.location(), config_code::kBadValue,
                    fmt::format("`{}` has an empty element", name));
      text.reset();
    }
    good = good && text.has_value();
    if (text) values.push_back(std::move(text->value));
  }
  if (good) target = std::move(values);
  return good;
}

YamlNode Section::Map(std::string_view name, std::string_view description) {
  return Take(name, "map", "{}", R"({"type":"object"})", description);
}

YamlNode Section::NamedMap(std::string_view name, std::string_view description) {
  return Take(name, "map of names", "{}", R"({"type":"object"})", description);
}

YamlNode Section::List(std::string_view name, std::string_view description) {
  const YamlNode node = Take(name, "list of maps", "[]", R"({"type":"array"})", description);
  if (node.present() && node.kind() != YamlKind::kList && node.kind() != YamlKind::kNull) {
    reader_.Error(node.location(), config_code::kBadValue, fmt::format("`{}` takes a list", name));
    return {};
  }
  return node;
}

YamlNode Section::Value(std::string_view name, std::string_view type, std::string_view schema,
                        std::string_view description) {
  return Take(name, type, "", std::string(schema), description);
}

void Section::Unsupported(std::string_view name, std::string_view message) {
  if (reader_.describing != nullptr) return;
  for (Entry& entry : entries_) {
    if (entry.key.text() != name) continue;
    entry.known = true;
    reader_.Error(entry.key.location(), config_code::kNotSupported,
                  fmt::format("`{}` is not supported by this version; {}", name, message));
  }
}

void Section::Require(std::string_view name) {
  if (reader_.describing != nullptr) {
    for (ConfigKey& key : *reader_.describing) {
      if (key.path == PathOf(name)) key.default_value = "required";
    }
    return;
  }
  if (!Has(name)) {
    reader_.Error(location_, config_code::kMissing, fmt::format("`{}` is missing", name));
  }
}

void Section::Finish() {
  for (const Entry& entry : entries_) {
    if (entry.known) continue;
    const std::vector<std::string_view> known(known_.begin(), known_.end());
    reader_.Error(entry.key.location(), config_code::kUnknownKey,
                  fmt::format("unknown key {}{}{}", Shortened(entry.key.text()),
                              path_.empty() ? "" : fmt::format(" in `{}`", path_),
                              DidYouMean(entry.key.text(), known)));
  }
}

std::vector<YamlEntry> NamedEntries(ConfigReader& reader, YamlNode node, std::string_view what) {
  std::vector<YamlEntry> good;
  if (!node.present() || node.kind() == YamlKind::kNull) return good;
  if (node.kind() != YamlKind::kMap) {
    reader.Error(node.location(), config_code::kBadValue,
                 fmt::format("`{}s` takes a map from names", what));
    return good;
  }
  absl::flat_hash_set<std::string_view> names;
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  for (const YamlEntry& entry : node.Entries()) {
    const YamlNode key = entry.key;
    const std::string_view name = key.kind() == YamlKind::kScalar ? key.text() : std::string_view();
    const bool in_form = !name.empty() && name.size() <= 128 && is_plain(name.front()) &&
                         std::all_of(name.begin(), name.end(), [&](char c) {
                           return is_plain(c) || c == '.' || c == '_' || c == '-';
                         });
    if (!in_form) {
      reader.Error(key.location(), config_code::kBadValue,
                   fmt::format("{} is not a name for a {}: letters, digits, `.`, `_` and `-`, "
                               "the first a letter or digit, at most 128",
                               Shortened(name), what));
      continue;
    }
    if (!names.insert(name).second) {
      reader.Error(key.location(), config_code::kDuplicateKey,
                   fmt::format("{} `{}` is given twice", what, name));
      continue;
    }
    good.push_back(entry);
  }
  return good;
}

}  // namespace tocsin
