// What is refused, where, and with which code and words.

#include <gtest/gtest.h>

#include "broker/base/status.h"
#include "broker/config/load.h"
#include "tests/unit/config/fake_environment.h"

namespace tocsin {
namespace {

std::vector<ConfigError> Errors(std::string_view text, const FakeEnvironment& environment = {}) {
  std::vector<ConfigError> errors;
  const absl::StatusOr<Config> config = ParseConfig(text, "t.yaml", environment, &errors);
  EXPECT_EQ(config.ok(), errors.empty());
  return errors;
}

// Exactly one error, whose line has `expected` in it.
void ExpectError(std::string_view text, std::string_view expected,
                 const FakeEnvironment& environment = {}) {
  const std::vector<ConfigError> errors = Errors(text, environment);
  std::string all;
  for (const ConfigError& error : errors) all += error.ToString() + "\n";
  EXPECT_EQ(errors.size(), 1u) << text << "\n" << all;
  EXPECT_NE(all.find(expected), std::string::npos) << text << "\n" << all;
}

void ExpectTriggerError(std::string_view keys, std::string_view expected) {
  ExpectError(fmt::format("functions: {{ f: }}\ntriggers:\n  a:\n    function: f\n    {}\n", keys),
              expected);
}

TEST(ConfigErrorsTest, AllErrorsComeAtOnceInTheOrderOfTheFile) {
  const std::vector<ConfigError> errors = Errors(
      "triggers:\n  a: { function: g, timeout: 5 }\nfunctions: { f: }\nbroker: { partitions: 0 "
      "}\n");
  ASSERT_EQ(errors.size(), 3u);
  EXPECT_EQ(errors[0].ToString(),
            "t.yaml:2:18: there is no function `g` in `functions`; did you mean `f`? [T0107]");
  EXPECT_EQ(errors[1].ToString(),
            "t.yaml:2:30: `timeout` takes a duration such as 200ms, 30s, 1m30s or 7d, not `5` "
            "[T0104]");
  EXPECT_EQ(errors[2].ToString(),
            "t.yaml:4:23: `partitions` takes a whole number from 1 to 64, not `0` [T0104]");
}

TEST(ConfigErrorsTest, UnknownKeysGetAHint) {
  ExpectError("brokr: {}\n", "t.yaml:1:1: unknown key `brokr`; did you mean `broker`? [T0102]");
  ExpectTriggerError("retries: {}",
                     "t.yaml:5:5: unknown key `retries` in `triggers.*`; did you mean `retry`?");
  ExpectTriggerError("retry: { backoff_max: 1s }", "did you mean `max_backoff`?");
  ExpectTriggerError("timout: 1s", "did you mean `timeout`?");
  ExpectError("zzzzzzzzzz: 1\n", "unknown key `zzzzzzzzzz` [T0102]");
  ExpectTriggerError("<<: { timeout: 1s }", "unknown key `<<`");
}

TEST(ConfigErrorsTest, DuplicateKeysAreErrors) {
  ExpectError("broker: {}\nbroker: {}\n", "t.yaml:2:1: `broker` is given twice [T0103]");
  ExpectError("functions:\n  f: {}\n  f: {}\n", "t.yaml:3:3: function `f` is given twice [T0103]");
  ExpectTriggerError("filters: [ { exact: { id: a, id: b } } ]", "attribute `id` is given twice");
}

// FAULTS F51: YAML 1.1 booleans.
TEST(ConfigErrorsTest, NoIsNotABoolean) {
  for (const char* word : {"no", "yes", "off", "True", "1", "~"}) {
    ExpectTriggerError(fmt::format("paused: {}", word), "`paused`");
  }
}

TEST(ConfigErrorsTest, HostileYamlIsRefusedWithItsPlace) {
  ExpectError("a: [1\n", "not YAML");
  ExpectError("a: !!int 3\n", "t.yaml:1:4: YAML tags are not supported [T0101]");
  ExpectError(std::string(200, '['), "[T0101]");
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 10; ++i) {
    bomb += fmt::format("a{}: &a{} [", i, i);
    for (int j = 0; j < 10; ++j) bomb += fmt::format("{}*a{}", j == 0 ? "" : ", ", i - 1);
    bomb += "]\n";
  }
  ExpectError(bomb, "aliases expand to more than 10000 values [T0101]");
  ExpectError(std::string(kConfigBytesMax + 1, '#'), "at most 67108864 are read [T0101]");
}

TEST(ConfigErrorsTest, WrongShapesAreRefused) {
  ExpectError("[]\n", "the file takes a map");
  ExpectError("broker: 5\n", "`broker` takes a map");
  ExpectError("functions: [f]\n", "`functions` takes a map from names");
  ExpectTriggerError("timeout: [1s]", "takes one value, not a list");
  ExpectTriggerError("timeout:", "`timeout` has no value");
  ExpectTriggerError("sources: inbox", "`sources` takes a list");
  ExpectTriggerError("filters: { exact: { id: x } }", "`filters` takes a list of filters");
  ExpectError("{ [a]: 1 }\n", "a key is a word");
  ExpectError("functions: { '../x': }\n", "is not a name for a function");
}

TEST(ConfigErrorsTest, ValuesOutOfRangeAreRefused) {
  ExpectTriggerError("concurrency: 0", "whole number from 1");
  ExpectTriggerError("concurrency: -1", "whole number");
  ExpectTriggerError("rate: 5", "such as 20/s or 600/m");
  ExpectError("functions: { f: }\ntriggers: { a: { function: f, rate: 5 } }\n",
              "t.yaml:2:37: `rate` takes so many per second");
  ExpectTriggerError("rate: 0/s", "such as 20/s");
  ExpectTriggerError("rate: 5/w", "such as 20/s");
  ExpectTriggerError("rate: 1000001/s", "at most 1000000");
  ExpectTriggerError("batch: { max_events: 0 }", "whole number from 1");
  ExpectTriggerError("batch: { max_wait: 0s }", "`max_wait` takes a duration");
  ExpectTriggerError("retry: { attempts: 1.5 }", "whole number");
  ExpectTriggerError("retry: { attempts: unlimted }", "whole number");
  ExpectTriggerError("retry: { factor: .nan }", "a number from 1 to 100");
  ExpectTriggerError("retry: { factor: 0.5 }", "a number from 1 to 100");
  ExpectTriggerError("timeout: 1000000d", "`timeout` takes a duration");
  ExpectTriggerError("order: keys",
                     "`order` takes `key`, `partition` or `none`, not `keys`; did "
                     "you mean `key`?");
  ExpectError("broker: { event_bytes_max: 4MiB }\n", "a size from 64KiB to 3MiB");
  ExpectTriggerError("from: begin", "`from` takes `end` or `start`, not `begin`");
  ExpectError("version: 2\n", "`version`");
  ExpectError("broker: { listen: here }\n", "host:port");
}

TEST(ConfigErrorsTest, ContradictionsAreRefused) {
  ExpectTriggerError("timeout: 2h\n    timeout_max: 1h",
                     "`timeout_max` is below `timeout` [T0110]");
  ExpectTriggerError("retry: { max_backoff: 1ms }", "`max_backoff` is below `backoff`");
  ExpectTriggerError("batch: { max_events: 9 }\n    concurrency: 8",
                     "`max_events` is above `concurrency` [T0110]");
  ExpectTriggerError("batch: { max_events: 9 }\n    order: partition",
                     "has one delivery under way: there are no batches [T0110]");
  ExpectTriggerError("was: a", "there still is a trigger of that name");
  ExpectError(
      "functions: { f: }\ntriggers:\n  a: { function: f, was: x }\n"
      "  b: { function: f, was: x }\n",
      "t.yaml:4:3: triggers `a` and `b` both were `x`");
  ExpectError("broker: { gone: 2s }\n", "`gone` must be longer than `heartbeat`");
  ExpectError("broker: { shards: 5 }\n", "`shards` (5) is larger than `partitions` (4)");
  ExpectError("sources: { s: { timer: { cron: '@hourly' }, file: { path: x } } }\n",
              "a source has one kind");
  ExpectError("sources: { s: { file: { path: x, move_to: y } } }\n", "needs `after: move`");
}

TEST(ConfigErrorsTest, WhatIsMissingIsNamed) {
  ExpectError("triggers: { a: {} }\n", "`function` is missing [T0105]");
  ExpectError("sources: { s: }\n", "source `s` has no kind");
  ExpectError("sources: { s: {} }\n", "source `s` has no kind");
  ExpectError("sources: { s: { file: {} } }\n", "`path` is missing");
  ExpectError("sources: { s: { file: { path: x, after: move } } }\n", "needs `move_to`");
  ExpectError("broker: { tls: { cert: c } }\n", "`key` is missing");
}

TEST(ConfigErrorsTest, UnknownNamesGetAHint) {
  ExpectTriggerError("sources: [inbox]", "there is no source `inbox`");
  ExpectError("functions: { import-csv: }\ntriggers: { a: { function: import_csv } }\n",
              "did you mean `import-csv`? [T0107]");
}

TEST(ConfigErrorsTest, WhatThisVersionLacksIsSaid) {
  ExpectError("sources: { s: { redis: { url: 'rediss://h', stream: s } } }\n", "[T0106]");
  ExpectError("sources: { s: { timer: { cron: '@hourly', overlap: alow } } }\n",
              "did you mean `allow`? [T0104]");
}

TEST(ConfigErrorsTest, LocalFunctionsAreChecked) {
  const auto expect = [](const std::string& function, const std::string& error) {
    ExpectError(fmt::format("functions: {{ f: {{ {} }} }}\n", function), error);
  };
  expect("exec: {}", "`command` is missing");
  expect("exec: { command: [] }", "`command` is empty");
  expect("exec: { command: [''] }", "`command` has an empty element");
  expect("exec: { command: [a], comand: [b] }", "did you mean `command`?");
  expect("exec: { command: [a], environment: { 'A B': c } }", "names such as LANG");
  expect("exec: { command: [a], environment: { CE_ID: c } }", "`CE_ID` is set by the broker");
  expect("exec: { command: [a], environment: [b] }", "takes a map from names to values");
  expect("exec: { command: [a], input: data, stdin: x }", "[T0110]");
  expect("exec: { command: [a], timeout: 0s }", "`timeout`");
  expect("exec: { command: [a] }, run: { command: [a] }", "one kind: `exec` or `run`");
  expect("run: { command: [a], min: 3, max: 2 }", "`max` is below `min`");
}

TEST(ConfigErrorsTest, FilterErrorsHaveTheirPlace) {
  ExpectTriggerError("filters:\n      - not: { exact: { Bad: x } }",
                     "t.yaml:6:25: \"Bad\" is not an attribute's name");
  ExpectTriggerError("filters: [ { exat: { id: x } } ]", "unknown filter dialect `exat`");
  ExpectTriggerError("filters: [ { all: [] } ]", "needs at least one filter");
  ExpectTriggerError("filters: [ { exact: { id: '' } } ]", "the value for `id` is empty");
  std::string deep = "{ exact: { id: x } }";
  for (int i = 0; i < 25; ++i) deep = "{ not: " + deep + " }";
  EXPECT_TRUE(
      Errors("functions: { f: }\ntriggers: { a: { function: f, filters: [ " + deep + " ] } }\n")
          .empty());
}

TEST(ConfigErrorsTest, ExpressionErrorsHaveTheirPlace) {
  ExpectTriggerError("filters: [ { cesql: this is wrong } ]",
                     "t.yaml:5:30: cesql: `is` is not expected here [T0104]");
  ExpectTriggerError("filters: [ { sql: 'this is wrong' } ]",
                     "t.yaml:5:29: sql: `is` is not expected here [T0104]");
  ExpectTriggerError("filters:\n      - not: { cesql: \"a = $\" }", "t.yaml:6:28: cesql: a char");
  ExpectTriggerError("filters:\n      - cesql: |\n          a = 1\n          AND AND\n",
                     "t.yaml:6:16: cesql: column 11: expected a value and not `AND`");
  ExpectTriggerError("filters: [ { cesql: LENGTH(subject) } ]",
                     "can never be TRUE: its value is an Integer");
  ExpectTriggerError("filters: [ { cesql: [ a ] } ]", "`cesql` takes an expression");
}

TEST(ConfigErrorsTest, PatternErrorsHaveTheirPlace) {
  ExpectTriggerError("pattern: { data: {} }", "t.yaml:5:22: an empty object matches nothing");
  ExpectTriggerError("pattern: { data: { size: [ { numeric: ['>', x] } ] } }",
                     "t.yaml:5:49: behind `>` stands a number [T0104]");
  ExpectTriggerError("pattern:\n      data:\n        size:\n          - numeric: ['>>', 0]\n",
                     "t.yaml:8:23: \">>\" is none of =, <, <=, >, >= [T0104]");
  ExpectTriggerError("pattern: { Type: [x] }", "t.yaml:5:22: \"Type\" is not an attribute's name");
  ExpectTriggerError("pattern: { data: { a: x } }", "\"a\" takes an array of values");
  ExpectTriggerError("pattern: { data: { a: [x], a: [y] } }", "t.yaml:5:32: `a` is given twice");
  ExpectTriggerError("pattern: { data: { a: [ { wildcard: 'a**' } ] } }", "`**` at byte 1");
  ExpectTriggerError("pattern: [ x ]", "t.yaml:5:14: a pattern is an object");
  ExpectTriggerError("transform: { data: { a: '{data.b' } }",
                     "t.yaml:5:29: transform: `{` at 1 is not closed");
  ExpectTriggerError("transform: { data: { a: {data.b} } }",
                     "t.yaml:5:29: transform: a hole is written in quotes: \"{data.b}\" [T0104]");
  ExpectTriggerError("transform: { attributes: { id: x } }",
                     "t.yaml:5:36: transform: `id` cannot be changed");
  ExpectTriggerError("transform: { date: x }", "transform: `date` is not known here");
  ExpectTriggerError("transform: {}", "transform: it changes nothing");
}

TEST(ConfigErrorsTest, TimersAreCheckedAtTheirPlace) {
  ExpectError("sources:\n  s:\n    timer:\n      cron: 0 0 30 2 *\n", "t.yaml:4:13:");
  ExpectError("sources: { s: { timer: { cron: '@hourly', timezone: Europe/Berlim } } }\n",
              "t.yaml:1:53:");
}

TEST(ConfigErrorsTest, EventOverridesMustMakeEvents) {
  const auto source = [](std::string_view event) {
    return fmt::format("sources: {{ s: {{ timer: {{ cron: '@hourly' }}, event: {} }} }}\n", event);
  };
  ExpectError(source("{ source: 'has space' }"), "URI-reference");
  ExpectError(source("{ attributes: { Bad: x } }"), "a-z and 0-9");
  ExpectError(source("{ attributes: { tocsinhops: x } }"), "cannot be set here");
  ExpectError(source("{ data: { a: 1, a: 2 } }"), "`data` has a name twice");
  ExpectError(source("{ type: t, type_prefix: p }"), "has no effect");
}

TEST(ConfigErrorsTest, ListenersOthersReachNeedTlsAndIdentity) {
  const std::string tls = "tls: { cert: c, key: k }";
  const std::string tokens = "tokens: [ { token: abc, scopes: [publish] } ]";
  ExpectError("broker: { listen: 0.0.0.0:7420 }\n", "both are missing");
  ExpectError("broker: { listen: 0.0.0.0:7420, " + tls + " }\n", "the identity is missing");
  ExpectError("broker: { listen: 0.0.0.0:7420, " + tokens + " }\n", "`tls` is missing");
  ExpectError("broker: { http: '[::]:7421' }\n", "t.yaml:1:17: `http` is not a loopback");
  EXPECT_TRUE(Errors("broker: { listen: 0.0.0.0:7420, " + tls + ", " + tokens + " }\n").empty());
  EXPECT_TRUE(
      Errors("broker: { listen: 0.0.0.0:1, tls: { cert: c, key: k, client_ca: a } }\n").empty());
  EXPECT_TRUE(Errors("broker: { listen: 0.0.0.0:7420, insecure: true }\n").empty());
  ExpectError("broker: { insecure: yes }\n", "true or false");
}

TEST(ConfigErrorsTest, InterpolationSaysWhatIsMissing) {
  FakeEnvironment environment;
  environment.variables = {{"T", "10s"}};
  ExpectError("broker: { data_dir: '${env:NONE}' }\n", "no variable `NONE` [T0108]", environment);
  ExpectError("broker: { data_dir: '${file:/none}' }\n", "cannot read /none", environment);
  ExpectError("broker: { data_dir: '${HOME}' }\n", "write $${", environment);
  ExpectError("broker: { data_dir: '${env:T' }\n", "write $${", environment);
  ExpectError("broker: { data_dir: '${env:}' }\n", "write $${", environment);
  EXPECT_TRUE(Errors("broker: { heartbeat: '${env:T}' }\n", environment).empty());
}

// Whatever is wrong with a value that came from outside, it is not shown.
TEST(ConfigErrorsTest, SecretsNeverAppear) {
  FakeEnvironment environment;
  environment.variables = {{"S", "hunter2 hunter2"}};
  environment.files = {{"/s", "hunter2"}};
  std::string all;
  for (const char* text :
       {"broker: { tokens: [ { token: '${env:S}', scopes: [publish] } ] }\n",
        "broker: { tokens: [ { token: 'hunter2 x', scopes: [x] } ] }\n",
        "broker: { tokens: [ { token: hunter2, scopes: [work] }, { token: hunter2, scopes: [work] "
        "} "
        "] }\n",
        "broker: { heartbeat: '${file:/s}' }\n", "broker: { partitions: '${file:/s}' }\n",
        "broker: { durability: '${file:/s}' }\n", "broker: { listen: '${file:/s}' }\n",
        "broker: { event_bytes_max: '${file:/s}' }\n", "broker: { insecure: '${file:/s}' }\n",
        "functions: { f: }\ntriggers: { a: { function: f, retry: { factor: '${file:/s}' } } }\n"}) {
    const std::vector<ConfigError> errors = Errors(text, environment);
    EXPECT_FALSE(errors.empty()) << text;
    for (const ConfigError& error : errors) all += error.ToString() + "\n";
  }
  EXPECT_EQ(all.find("hunter2"), std::string::npos) << all;
  EXPECT_NE(all.find("the value of `${file:/s}`"), std::string::npos) << all;
}

TEST(ConfigErrorsTest, BeyondAHundredErrorsAreCounted) {
  std::string text = "functions: { f: }\ntriggers:\n";
  for (int i = 0; i < 500; ++i) text += fmt::format("  t{}: {{ function: f, timeout: x }}\n", i);
  const std::vector<ConfigError> errors = Errors(text);
  ASSERT_EQ(errors.size(), kConfigErrorsMax + 1);
  EXPECT_EQ(errors.back().message, "and 400 more errors");
}

TEST(ConfigErrorsTest, AFileThatIsNotThereIsAnError) {
  std::vector<ConfigError> errors;
  const absl::StatusOr<Config> config = LoadConfig("/none.yaml", FakeEnvironment(), &errors);
  EXPECT_FALSE(config.ok());
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_EQ(errors[0].ToString(), "/none.yaml:1:1: cannot read /none.yaml: no such file [T0101]");
}

}  // namespace
}  // namespace tocsin
