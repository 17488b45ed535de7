#include <algorithm>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "broker/base/event_json.h"
#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/config/json_of_yaml.h"
#include "broker/config/read_model.h"
#include "broker/config/trigger_tests.h"
#include "broker/schedule/explain.h"

namespace tocsin {
namespace {

constexpr std::size_t kTestsMax = 10'000;
constexpr std::size_t kTestBytesMax = std::size_t{4} << 20;  // of one event
constexpr Duration kSpanMax = std::chrono::hours(24 * 366);
constexpr Duration kAnswerMax = std::chrono::hours(24 * 30);

constexpr std::pair<std::string_view, TestAnswer> kAnswers[] = {{"ack", TestAnswer::kAck},
                                                                {"retry", TestAnswer::kRetry},
                                                                {"reject", TestAnswer::kReject},
                                                                {"drop", TestAnswer::kDrop},
                                                                {"timeout", TestAnswer::kTimeout}};

constexpr std::pair<std::string_view, ExpectedOutcome> kOutcomes[] = {
    {"not_delivered", ExpectedOutcome::kNotDelivered},
    {"delivered", ExpectedOutcome::kDelivered},
    {"acked", ExpectedOutcome::kAcked},
    {"dropped", ExpectedOutcome::kDropped},
    {"dead", ExpectedOutcome::kDead},
    {"expired", ExpectedOutcome::kExpired},
    {"pending", ExpectedOutcome::kPending}};

constexpr std::string_view kReasons[] = {"exhausted", "rejected", "expired", "undecodable",
                                         "refused"};

template <typename T, std::size_t N>
std::vector<std::string_view> Words(const std::pair<std::string_view, T> (&pairs)[N]) {
  std::vector<std::string_view> words;
  for (const auto& [word, value] : pairs) words.push_back(word);
  return words;
}

template <typename T, std::size_t N>
std::optional<T> Find(const std::pair<std::string_view, T> (&pairs)[N], std::string_view word) {
  for (const auto& [name, value] : pairs) {
    if (name == word) return value;
  }
  return std::nullopt;
}

class TestReader {
 public:
  TestReader(ConfigReader& reader, const ConfigEnvironment& environment, std::string folder,
             std::vector<ConfigError>& config_errors)
      : reader_(reader),
        environment_(environment),
        folder_(std::move(folder)),
        config_errors_(config_errors) {}

  void Read(YamlNode root, TriggerTestFile& made) {
    Section section(reader_, root, "");
    std::uint32_t version = 1;
    section.Integer("version", version, 1, 1, "of this file's format");
    const YamlNode config = section.Value("config", "map or path", "{}", "the configuration");
    const YamlNode tests = section.List("tests", "what must happen");
    section.Require("config");
    section.Require("tests");
    section.Finish();
    if (config.present()) ReadConfig(config, made.config);
    if (!reader_.ok() || !config_errors_.empty()) return;
    for (TriggerConfig& trigger : made.config.triggers) {
      trigger.spec.policy.retry.jitter = Jitter::kNone;
    }
    SetCanonical(made.config);
    config_ = &made.config;
    if (tests.present() && tests.Elements().empty()) {
      section.Error("tests", config_code::kBadValue, "`tests` is empty: there is nothing to test");
    }
    absl::flat_hash_set<std::string> names;
    for (const YamlNode& node : tests.Elements()) {
      if (made.tests.size() == kTestsMax) {
        reader_.Error(node.location(), config_code::kBadValue,
                      fmt::format("more than {} tests in one file", kTestsMax));
        return;
      }
      ReadTest(node, made.tests.emplace_back());
      if (!names.insert(made.tests.back().name).second) {
        reader_.Error(node.location(), config_code::kBadValue,
                      fmt::format("two tests have the name `{}`", made.tests.back().name));
      }
    }
  }

 private:
  std::string PathOf(std::string_view path) const {
    return path.starts_with('/') ? std::string(path) : folder_ + std::string(path);
  }

  void ReadConfig(YamlNode node, Config& config) {
    if (node.kind() == YamlKind::kMap) {
      ReadFileModel(reader_, node, config);
      CheckFormerNames(reader_, config);
      return;
    }
    if (node.kind() != YamlKind::kScalar) {
      reader_.Error(node.location(), config_code::kBadValue,
                    "`config` is a configuration or the path of one");
      return;
    }
    const std::optional<ConfigText> path = reader_.Interpolate(node);
    if (!path) return;
    absl::StatusOr<Config> loaded = LoadConfig(PathOf(path->value), environment_, &config_errors_);
    if (loaded.ok()) config = *std::move(loaded);
  }

  void ReadTest(YamlNode node, TriggerTest& test) {
    Section section(reader_, node, "tests[]");
    test.location = ToConfigLocation(node.location());
    section.Text("name", test.name, "what must happen, in a few words");
    section.Require("name");
    std::string start = "2026-01-01T00:00:00Z";
    const bool has_start = section.Text("start", start, "where the clock starts, RFC 3339");
    Duration span{};
    if (section.TimeSpan("for", span, Duration::zero(), kSpanMax,
                         "how long; default: until nothing is pending")) {
      test.span = span;
    }
    const YamlNode events = section.List("events", "what comes in");
    const YamlNode functions = section.Map("functions", "how functions answer");
    const YamlNode expect = section.Map("expect", "what must become of it, by trigger");
    section.Require("expect");
    section.Finish();
    const absl::StatusOr<WallTime> from = ParseInZone(start, "UTC");
    if (from.ok()) {
      test.start = *from;
    } else if (has_start) {
      section.Error("start", config_code::kBadValue,
                    fmt::format("start: {}", MessageOf(from.status())));
    }
    std::uint64_t number = 0;
    if (events.present()) {
      for (const YamlNode& event : events.Elements()) ReadEvent(event, ++number, test);
    }
    if (functions.present()) ReadFunctions(functions, test);
    if (expect.present()) ReadExpect(expect, test);
    if (!test.span && test.events.empty() && reader_.ok()) {
      section.Error("events", config_code::kMissing,
                    "no events: give `events`, or `for` to let schedules fire");
    }
  }

  void ReadEvent(YamlNode node, std::uint64_t number, TriggerTest& test) {
    Section section(reader_, node, "tests[].events[]");
    TestEvent event;
    event.location = ToConfigLocation(node.location());
    section.TimeSpan("at", event.at, Duration::zero(), kSpanMax, "when, after the start");
    const bool has_source =
        section.Text("from", event.source, "the source that brings it; none: it is published");
    const YamlNode value = section.Value("event", "map or path", "{}", "the event");
    section.Require("event");
    section.Finish();
    if (has_source) {
      std::vector<std::string_view> names;
      for (const SourceConfig& source : config_->sources) names.push_back(source.name);
      CheckName(section.At("from"), event.source, names, "source");
    }
    if (!value.present()) return;
    const std::optional<Event> read = EventOf(value, fmt::format("{}", number), event.source);
    if (!read) return;
    const EventView view = read->View();
    event.id = std::string(view.id);
    event.bytes = read->bytes();
    for (const TestEvent& other : test.events) {
      EventView earlier;
      if (other.id != event.id || !ParseEvent(other.bytes, earlier).ok()) continue;
      if (earlier.source != view.source) {
        reader_.Error(value.location(), config_code::kBadValue,
                      fmt::format("an event of another source has the id `{}`, too; expectations "
                                  "go by the id",
                                  event.id));
      }
    }
    test.events.push_back(std::move(event));
  }

  // A map of the event in JSON form, or the path of a file with it. What is not given: the id is
  // the number in the list, the source /test or that of `from`.
  std::optional<Event> EventOf(YamlNode node, const std::string& id, const std::string& from) {
    std::string json;
    if (node.kind() == YamlKind::kScalar) {
      const std::optional<ConfigText> path = reader_.Interpolate(node);
      if (!path) return std::nullopt;
      absl::StatusOr<std::string> read = environment_.ReadFile(PathOf(path->value), kTestBytesMax);
      if (!read.ok()) {
        reader_.Error(node.location(), config_code::kBadValue,
                      std::string(MessageOf(read.status())));
        return std::nullopt;
      }
      json = *std::move(read);
    } else if (node.kind() == YamlKind::kMap) {
      JsonOfYaml made(reader_, kTestBytesMax);
      if (!made.Append(node)) return std::nullopt;
      json = made.json();
    } else {
      reader_.Error(node.location(), config_code::kBadValue,
                    "an event is a map of its attributes and `data`, or the path of a JSON file");
      return std::nullopt;
    }
    json = WithDefaults(json, {{"specversion", "1.0"},
                               {"id", id},
                               {"source", from.empty() ? "/test" : "/sources/" + from}});
    absl::StatusOr<Event> event = EventFromJson(json, config_->broker.event_limits);
    if (!event.ok()) {
      reader_.Error(node.location(), config_code::kBadValue,
                    fmt::format("no event: {}", MessageOf(event.status())));
      return std::nullopt;
    }
    return *std::move(event);
  }

  static std::string WithDefaults(
      const std::string& json,
      const std::vector<std::pair<std::string_view, std::string>>& values) {
    JsonValue root;
    if (!JsonScanner(json).ReadDocument(root).ok() || root.kind != JsonKind::kObject) return json;
    const std::vector<JsonMember> members = JsonMembers(root);
    std::string out = "{";
    for (const auto& [name, value] : values) {
      const bool given =
          std::any_of(members.begin(), members.end(),
                      [&key = name](const JsonMember& member) { return member.name == key; });
      if (given) continue;
      if (out.size() > 1) out += ',';
      AppendJsonString(out, name);
      out += ':';
      AppendJsonString(out, value);
    }
    if (out.size() > 1 && !members.empty()) out += ',';
    out += root.raw.substr(1);
    return out;
  }

  void CheckName(YamlLocation location, std::string_view name,
                 const std::vector<std::string_view>& known, std::string_view what) {
    if (std::find(known.begin(), known.end(), name) != known.end()) return;
    reader_.Error(location, config_code::kUnknownName,
                  fmt::format("there is no {} `{}` in the configuration{}", what,
                              name.substr(0, 128), DidYouMean(name, known)));
  }

  void ReadFunctions(YamlNode node, TriggerTest& test) {
    std::vector<std::string_view> known;
    for (const FunctionConfig& function : config_->functions) known.push_back(function.name);
    for (const YamlEntry& entry : NamedEntries(reader_, node, "function")) {
      CheckName(entry.key.location(), entry.key.text(), known, "function");
      FunctionScript& script = test.functions[std::string(entry.key.text())];
      if (entry.value.kind() != YamlKind::kMap) {
        ReadScript(entry.value, script.others);
        continue;
      }
      for (const YamlEntry& event : entry.value.Entries()) {
        if (event.key.kind() != YamlKind::kScalar) {
          reader_.Error(event.key.location(), config_code::kBadValue, "a key is an event's id");
          continue;
        }
        if (event.key.text() == "*") {
          ReadScript(event.value, script.others);
          continue;
        }
        CheckEvent(event.key, test);
        const auto [found, added] = script.by_event.try_emplace(std::string(event.key.text()));
        if (!added) {
          reader_.Error(event.key.location(), config_code::kDuplicateKey,
                        fmt::format("event `{}` is given twice", event.key.text().substr(0, 64)));
          continue;
        }
        ReadScript(event.value, found->second);
      }
    }
  }

  // The ids of schedules' events and of emitted ones are not in `events`.
  void CheckEvent(YamlNode key, const TriggerTest& test) {
    std::vector<std::string_view> ids;
    for (const TestEvent& event : test.events) ids.push_back(event.id);
    ids.insert(ids.end(), emitted_.begin(), emitted_.end());
    const std::string_view id = key.text();
    if (std::find(ids.begin(), ids.end(), id) != ids.end()) return;
    for (const SourceConfig& source : config_->sources) {
      if (std::holds_alternative<TimerSpec>(source.spec) && id.starts_with(source.name + "/")) {
        return;
      }
    }
    reader_.Error(key.location(), config_code::kUnknownName,
                  fmt::format("no event of this test has the id `{}`{}", id.substr(0, 128),
                              DidYouMean(id, ids)));
  }

  void ReadScript(YamlNode node, AnswerScript& script) {
    if (node.kind() != YamlKind::kList) return ReadStep(node, script);
    for (const YamlNode& step : node.Elements()) ReadStep(step, script);
    if (script.empty()) {
      reader_.Error(node.location(), config_code::kBadValue, "no answer: leave it out for ack");
    }
  }

  void ReadStep(YamlNode node, AnswerScript& script) {
    YamlNode key = node;
    YamlNode options;
    if (node.kind() == YamlKind::kMap) {
      const std::vector<YamlEntry> entries = node.Entries();
      if (entries.size() != 1 || entries.front().key.kind() != YamlKind::kScalar) {
        reader_.Error(node.location(), config_code::kBadValue,
                      "an answer is one word, or a map with it, such as `retry: { after: 10s }`");
        return;
      }
      key = entries.front().key;
      options = entries.front().value;
    }
    const std::optional<TestAnswer> answer =
        key.kind() == YamlKind::kScalar ? Find(kAnswers, key.text()) : std::nullopt;
    if (!answer) {
      reader_.Error(
          key.location(), config_code::kBadValue,
          fmt::format(
              "an answer is one of {}{}", fmt::join(Words(kAnswers), ", "),
              key.kind() == YamlKind::kScalar ? DidYouMean(key.text(), Words(kAnswers)) : ""));
      return;
    }
    AnswerStep& step = script.emplace_back();
    step.answer = *answer;
    if (!options.present() || options.kind() == YamlKind::kNull) return;
    Section section(reader_, options, "tests[].functions.*");
    if (*answer != TestAnswer::kTimeout) {
      section.TimeSpan("takes", step.takes, Duration::zero(), kAnswerMax, "until it answers");
    }
    if (*answer == TestAnswer::kRetry) {
      Duration after{};
      if (section.TimeSpan("after", after, Duration::zero(), std::chrono::hours(24),
                           "the wait, instead of the policy's")) {
        step.after = after;
      }
      section.Text("code", step.code, "of the attempt");
    }
    if (*answer != TestAnswer::kAck && *answer != TestAnswer::kTimeout) {
      section.Text("message", step.message, "of the answer");
    }
    YamlNode emit;
    if (*answer != TestAnswer::kRetry && *answer != TestAnswer::kTimeout) {
      emit = section.List("emit", "events that come with the answer");
    }
    section.Finish();
    if (!emit.present()) return;
    for (const YamlNode& element : emit.Elements()) {
      const std::optional<Event> event =
          EventOf(element, fmt::format("emitted-{}", emitted_.size() + 1), "");
      if (!event) continue;
      emitted_.emplace_back(event->View().id);
      step.emit.push_back(event->bytes());
    }
  }

  void ReadExpect(YamlNode node, TriggerTest& test) {
    std::vector<std::string_view> known;
    for (const TriggerConfig& trigger : config_->triggers) known.push_back(trigger.spec.name);
    for (const YamlEntry& entry : NamedEntries(reader_, node, "trigger")) {
      CheckName(entry.key.location(), entry.key.text(), known, "trigger");
      TriggerExpectation& trigger = test.expect.emplace_back();
      trigger.trigger = std::string(entry.key.text());
      trigger.location = ToConfigLocation(entry.key.location());
      if (entry.value.kind() != YamlKind::kMap && entry.value.kind() != YamlKind::kNull) {
        reader_.Error(entry.value.location(), config_code::kBadValue,
                      "a map from events' ids to what becomes of them; {} for nothing");
        continue;
      }
      absl::flat_hash_set<std::string_view> ids;
      for (const YamlEntry& event : entry.value.Entries()) {
        if (event.key.kind() != YamlKind::kScalar) {
          reader_.Error(event.key.location(), config_code::kBadValue, "a key is an event's id");
          continue;
        }
        if (!ids.insert(event.key.text()).second) {
          reader_.Error(event.key.location(), config_code::kDuplicateKey,
                        fmt::format("event `{}` is given twice", event.key.text().substr(0, 64)));
          continue;
        }
        CheckEvent(event.key, test);
        Expectation& expectation = trigger.events.emplace_back();
        expectation.event = std::string(event.key.text());
        expectation.location = ToConfigLocation(event.key.location());
        ReadExpectation(event.value, expectation);
      }
    }
  }

  bool ReadOutcome(YamlLocation location, std::string_view word, Expectation& made) {
    made.outcome = Find(kOutcomes, word);
    if (made.outcome) return true;
    reader_.Error(location, config_code::kBadValue,
                  fmt::format("an outcome is one of {}{}", fmt::join(Words(kOutcomes), ", "),
                              DidYouMean(word, Words(kOutcomes))));
    return false;
  }

  void ReadExpectation(YamlNode node, Expectation& made) {
    if (node.kind() == YamlKind::kScalar) {
      (void)ReadOutcome(node.location(), node.text(), made);
      return;
    }
    if (node.kind() != YamlKind::kMap) {
      reader_.Error(node.location(), config_code::kBadValue,
                    "an outcome such as `acked`, or a map with `outcome`, `attempts`, `at`, ...");
      return;
    }
    Section section(reader_, node, "tests[].expect.*.*");
    std::string outcome;
    if (section.Text("outcome", outcome, "how it ends")) {
      (void)ReadOutcome(section.At("outcome"), outcome, made);
    }
    std::uint64_t attempts = 0;
    if (section.Integer("attempts", attempts, 0, 1'000'000, "how many")) made.attempts = attempts;
    const YamlNode at = section.List("at", "when each attempt starts, after the event came in");
    if (section.Text("reason", made.reason, "of the dead letter") &&
        std::find(std::begin(kReasons), std::end(kReasons), made.reason) == std::end(kReasons)) {
      section.Error("reason", config_code::kBadValue,
                    fmt::format("a reason is one of {}", fmt::join(kReasons, ", ")));
    }
    section.Text("message", made.message, "a part of the dead letter's message");
    const YamlNode receives =
        section.Value("receives", "map", "{}", "a part of the event that the function gets");
    section.Finish();
    if (at.present()) ReadTimes(at, made);
    if (receives.present()) {
      JsonOfYaml json(reader_, kTestBytesMax);
      if (json.Append(receives)) made.receives = json.json();
    }
  }

  void ReadTimes(YamlNode node, Expectation& made) {
    made.at.emplace();
    for (const YamlNode& element : node.Elements()) {
      const absl::StatusOr<Duration> time =
          element.kind() == YamlKind::kScalar
              ? ParseDuration(element.text())
              : absl::StatusOr<Duration>(absl::InvalidArgumentError("a time such as 1s"));
      if (time.ok()) {
        made.at->push_back(*time);
      } else {
        reader_.Error(element.location(), config_code::kBadValue,
                      fmt::format("at: {}", MessageOf(time.status())));
      }
    }
  }

  ConfigReader& reader_;
  const ConfigEnvironment& environment_;
  const std::string folder_;  // with its slash; empty: the working directory
  std::vector<ConfigError>& config_errors_;
  const Config* config_ = nullptr;
  std::vector<std::string> emitted_;  // ids, of all tests
};

}  // namespace

std::string_view ExpectedOutcomeName(ExpectedOutcome outcome) {
  for (const auto& [name, value] : kOutcomes) {
    if (value == outcome) return name;
  }
  return "";
}

absl::StatusOr<TriggerTestFile> LoadTriggerTests(const std::string& path,
                                                 const ConfigEnvironment& environment,
                                                 std::vector<ConfigError>* errors) {
  TriggerTestFile made;
  made.file = path;
  ConfigReader reader(path, environment);
  std::vector<ConfigError> found;  // of the configuration's file
  const absl::StatusOr<std::string> text = environment.ReadFile(path, kConfigBytesMax);
  YamlTree tree;
  YamlLimits limits;
  limits.text_bytes_max = kConfigBytesMax;
  if (!text.ok()) {
    reader.Error({}, config_code::kUnreadable, std::string(MessageOf(text.status())));
  } else if (std::optional<YamlFault> fault = tree.Parse(*text, limits)) {
    reader.Error(fault->location, config_code::kUnreadable, std::move(fault->message));
  } else {
    const std::size_t slash = path.rfind('/');
    TestReader(reader, environment, slash == std::string::npos ? "" : path.substr(0, slash + 1),
               found)
        .Read(tree.root(), made);
  }
  for (ConfigError& error : reader.TakeErrors()) found.push_back(std::move(error));
  absl::Status status;
  if (!found.empty()) status = ErrorStatus(found);
  if (errors != nullptr) *errors = std::move(found);
  if (!status.ok()) return status;
  return made;
}

}  // namespace tocsin
