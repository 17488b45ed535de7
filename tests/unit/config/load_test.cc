#include "broker/config/load.h"

#include <gtest/gtest.h>

#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "tests/unit/config/fake_environment.h"

namespace tocsin {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

Config Load(std::string_view text, const FakeEnvironment& environment = {}) {
  absl::StatusOr<Config> config = ParseConfig(text, "tocsin.yaml", environment);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *std::move(config) : Config();
}

TEST(ConfigLoadTest, AnEmptyFileGivesEveryDefault) {
  const Config config = Load("");
  EXPECT_EQ(config.broker.listen, "127.0.0.1:7420");
  EXPECT_EQ(config.broker.partitions, 4u);
  EXPECT_FALSE(config.broker.partitions_given);
  EXPECT_EQ(config.broker.shards, 0u);
  EXPECT_EQ(config.broker.event_limits.event_bytes_max, 1u << 20);
  EXPECT_EQ(config.broker.queues.entries_max, 8192u);
  EXPECT_FALSE(config.broker.tls);
  EXPECT_TRUE(config.triggers.empty());
}

constexpr std::string_view kFull = R"(version: 1
broker:
  data_dir: /var/lib/tocsin
  listen: 0.0.0.0:7420
  http: "[::1]:0"
  partitions: 8
  shards: 2
  durability: written
  retention: { age: 3d, size: 5GiB }
  dedupe: { window: 5m, max_ids: 5000 }
  event_bytes_max: 3MiB
  ingest_bytes_max: 32MiB
  queues: { entries_max: 100, key_entries_max: 10, skipped_keys_max: 7, spread_max: 2048 }
  dead_letters: { age: 1d, size: 1GiB }
  detached_retention: 1d
  heartbeat: 2s
  gone: 9s
  tls: { cert: c.pem, key: k.pem, client_ca: ca.pem }
  tokens:
    - { token: "${env:TOKEN}", scopes: [publish, admin] }
    - { token: "${file:/run/token}", scopes: [work] }
  defaults: { timeout: 1m, retry: { attempts: 3 } }
sources:
  inbox:
    was: old-inbox
    file: { path: "${env:DIR}/in", include: ["*.csv"], exclude: [x], recursive: true,
            settle: 200ms, rescan: 5s, mode: poll, on: [created, deleted],
            after: move, move_to: done, files_max: 9 }
    event: { source: /in, type: a.b, subject: s, attributes: { region: eu },
             data: { a: [1, "1", no, true] } }
  nightly:
    timer: { cron: "30 2 * * *", timezone: Europe/Berlin,
             missed: { policy: all, window: 1h, max: 5 }, dst: { gap: skip, overlap: both },
             overlap: queue_one, spread: 5m, jitter: 10s, paused: true }
functions:
  import-csv: {}
  no:
triggers:
  import:
    sources: [nightly, inbox, inbox]
    filters:
      - suffix: { subject: .csv }
      - not: { any: [ { exact: { type: x, id: 1 } }, { prefix: { subject: "$${a}" } } ] }
    function: import-csv
    timeout: 30s
    timeout_max: 1h
    concurrency: 8
    rate: 600/m
    order: partition
    retry: { attempts: unlimited, backoff: 200ms, factor: 1.5, max_backoff: 1m,
             jitter: none, max_age: 1d }
    on_exhausted: park
    backlog: { max_age: 2h, max_size: 1000, when_full: drop }
    was: old
    paused: true
  plain: { function: no, retry: { max_age: unset }, concurrency: unlimited,
           batch: { max_events: 100, max_wait: 2s } }
)";

FakeEnvironment FullEnvironment() {
  FakeEnvironment environment;
  environment.variables = {{"TOKEN", "secret-one"}, {"DIR", "/srv"}};
  environment.files = {{"/run/token", "secret-two\n"}};
  return environment;
}

TEST(ConfigLoadTest, EveryBrokerKeyIsRead) {
  const BrokerConfig broker = Load(kFull, FullEnvironment()).broker;
  EXPECT_EQ(broker.data_dir, "/var/lib/tocsin");
  EXPECT_EQ(broker.listen, "0.0.0.0:7420");
  EXPECT_EQ(broker.http, "[::1]:0");
  EXPECT_EQ(broker.partitions, 8u);
  EXPECT_TRUE(broker.partitions_given);
  EXPECT_EQ(broker.shards, 2u);
  EXPECT_EQ(broker.durability, Durability::kWritten);
  EXPECT_EQ(broker.retention_age, hours(72));
  EXPECT_EQ(broker.retention_bytes, std::uint64_t{5} << 30);
  EXPECT_EQ(broker.dedupe_window, minutes(5));
  EXPECT_EQ(broker.dedupe_ids_max, 5000u);
  EXPECT_EQ(broker.event_limits.event_bytes_max, 3u << 20);
  EXPECT_EQ(broker.ingest_bytes_max, 32u << 20);
  EXPECT_EQ(broker.queues.entries_max, 100u);
  EXPECT_EQ(broker.queues.key_entries_max, 10u);
  EXPECT_EQ(broker.queues.skipped_keys_max, 7u);
  EXPECT_EQ(broker.queues.spread_max, 2048u);
  EXPECT_EQ(broker.letters_age, hours(24));
  EXPECT_EQ(broker.letters_bytes, std::uint64_t{1} << 30);
  EXPECT_EQ(broker.detached_retention, hours(24));
  EXPECT_EQ(broker.heartbeat, seconds(2));
  EXPECT_EQ(broker.gone_after, seconds(9));
  ASSERT_TRUE(broker.tls);
  EXPECT_EQ(broker.tls->client_ca, "ca.pem");
  ASSERT_EQ(broker.tokens.size(), 2u);
  EXPECT_EQ(broker.tokens[0].token.Reveal(), "secret-one");
  EXPECT_TRUE(broker.tokens[0].publish && broker.tokens[0].admin && !broker.tokens[0].work);
  EXPECT_EQ(broker.tokens[1].token.Reveal(), "secret-two");
  EXPECT_EQ(broker.defaults.timeout, minutes(1));
}

TEST(ConfigLoadTest, EverySourceKeyIsRead) {
  const Config config = Load(kFull, FullEnvironment());
  ASSERT_EQ(config.sources.size(), 2u);
  EXPECT_EQ(config.sources[0].was, "old-inbox");
  EXPECT_EQ(config.sources[0].location.line, 24u);
  FileSpec file;
  file.name = "inbox";
  file.path = "/srv/in";
  file.include = {"*.csv"};
  file.exclude = {"x"};
  file.recursive = true;
  file.settle = milliseconds(200);
  file.rescan = seconds(5);
  file.mode = WatchMode::kPoll;
  file.on_deleted = true;
  file.after = AfterFile::kMove;
  file.move_to = "done";
  file.files_max = 9;
  file.event.source = "/in";
  file.event.type = "a.b";
  file.event.subject = "s";
  file.event.attributes = {{"region", "eu"}};
  file.event.data = R"({"a":[1,"1","no",true]})";
  EXPECT_EQ(std::get<FileSpec>(config.sources[0].spec), file);
  TimerSpec timer;
  timer.schedule.name = "nightly";
  timer.schedule.cron = "30 2 * * *";
  timer.schedule.timezone = "Europe/Berlin";
  timer.schedule.missed = MissedPolicy::kAll;
  timer.schedule.missed_window = hours(1);
  timer.schedule.missed_max = 5;
  timer.schedule.dst_gap = DstGap::kSkip;
  timer.schedule.dst_overlap = DstOverlap::kBoth;
  timer.schedule.overlap = OverlapPolicy::kQueueOne;
  timer.schedule.spread = minutes(5);
  timer.schedule.jitter = seconds(10);
  timer.schedule.paused = true;
  EXPECT_EQ(std::get<TimerSpec>(config.sources[1].spec), timer);
}

TEST(ConfigLoadTest, EveryKeyOfLocalFunctionsIsRead) {
  const Config config = Load(R"(
functions:
  report:
    exec:
      command: [/bin/report, --all]
      environment: { LANG: C, MODE: "$${MODE}" }
      directory: /srv
      user: www
      input: data
      timeout: 90s
      concurrency: 3
      output: 1MiB
  mail: { exec: { command: [mail], stdin: "a\nb" } }
  remote: {}
  thumbs: { run: { command: [thumbs], min: 1, max: 4, warm: 2, idle: 30s, user: www } }
  many: { run: { command: [many], min: 3 } }
)");
  ASSERT_EQ(config.functions.size(), 5u);
  ExecSpec exec;
  exec.process.command = {"/bin/report", "--all"};
  exec.process.environment = {{"LANG", "C"}, {"MODE", "${MODE}"}};
  exec.process.directory = "/srv";
  exec.process.user = "www";
  exec.input = ExecInput::kData;
  exec.timeout = seconds(90);
  exec.concurrency = 3;
  exec.output_bytes_max = 1 << 20;
  EXPECT_EQ(config.functions[0].exec, exec);
  const ExecSpec& mail = config.functions[1].exec.value();
  EXPECT_EQ(mail.input, ExecInput::kText);
  EXPECT_EQ(mail.stdin_text, "a\nb");
  EXPECT_EQ(mail.process.command, std::vector<std::string>{"mail"});
  EXPECT_FALSE(config.functions[2].exec.has_value());
  EXPECT_FALSE(config.functions[2].run.has_value());
  RunSpec run;
  run.process.command = {"thumbs"};
  run.process.user = "www";
  run.min = 1;
  run.max = 4;
  run.warm = 2;
  run.idle = seconds(30);
  EXPECT_EQ(config.functions[3].run, run);
  EXPECT_EQ(config.functions[4].run.value().max, 3u);
}

TEST(ConfigLoadTest, EveryTriggerKeyIsRead) {
  const Config config = Load(kFull, FullEnvironment());
  ASSERT_EQ(config.triggers.size(), 2u);
  const TriggerConfig& trigger = config.triggers[0];
  TriggerPolicy policy;
  policy.function = "import-csv";
  policy.timeout_max = hours(1);
  policy.concurrency = 8;
  policy.rate = {600, minutes(1)};
  policy.order = Order::kPartition;
  policy.retry = {0, milliseconds(200), 1.5, minutes(1), Jitter::kNone, hours(24)};
  policy.on_exhausted = OnExhausted::kPark;
  policy.backlog = {hours(2), 1000, WhenFull::kDrop};
  EXPECT_EQ(trigger.spec.policy, policy);
  EXPECT_EQ(trigger.spec.name, "import");
  EXPECT_EQ(trigger.spec.was, "old");
  EXPECT_TRUE(trigger.spec.paused);
  EXPECT_EQ(trigger.route.sources, (std::vector<std::string>{"inbox", "nightly"}));
  EXPECT_EQ(trigger.route.filter->ToJson(),
            R"({"all":[{"suffix":{"subject":".csv"}},{"not":{"any":[{"exact":{"id":"1",)"
            R"("type":"x"}},{"prefix":{"subject":"${a}"}}]}}]})");
  const TriggerConfig& plain = config.triggers[1];
  EXPECT_EQ(plain.spec.policy.function, "no");  // a word, not false
  EXPECT_EQ(plain.spec.policy.timeout, minutes(1));
  EXPECT_EQ(plain.spec.policy.retry.attempts_max, 3u);
  EXPECT_EQ(plain.spec.policy.batch, (BatchPolicy{100, seconds(2)}));
  EXPECT_EQ(plain.route.filter, nullptr);
}

TEST(ConfigLoadTest, ConfigHashFollowsBehaviourAndNothingElse) {
  const auto hash = [](std::string_view trigger) {
    const Config config = Load(fmt::format(
        "functions: {{ f: {{}} }}\nsources: {{ s: {{ timer: {{ cron: '@hourly' }} }} }}\n"
        "triggers:\n  {}\n",
        trigger));
    return config.triggers.empty() ? "" : config.triggers[0].spec.config_hash;
  };
  const std::string plain = hash("a: { function: f }");
  EXPECT_EQ(plain.size(), 64u);
  EXPECT_EQ(plain, hash("b: { function: f, was: a, paused: true }"));
  EXPECT_EQ(plain, hash("a: { function: f, timeout: 30000ms, retry: { attempts: 8 } }"));
  EXPECT_NE(plain, hash("a: { function: f, timeout: 31s }"));
  EXPECT_NE(plain, hash("a: { function: f, sources: [s] }"));
  EXPECT_NE(plain, hash("a: { function: f, rate: 5/s }"));
  EXPECT_EQ(plain, hash("a: { function: f, rate: unlimited }"));
  EXPECT_NE(plain, hash("a: { function: f, filters: [ { exact: { id: x } } ] }"));
  EXPECT_EQ(hash("a: { function: f, filters: [ { exact: { id: x, type: y } } ] }"),
            hash("a: { function: f, filters: [ { exact: { type: y, id: x } } ] }"));
}

// The hash is journaled: an upgrade must not make every trigger a new generation.
TEST(ConfigLoadTest, CanonicalJsonStaysAsItIs) {
  const Config config = Load("functions: { f: }\ntriggers: { a: { function: f } }\n");
  EXPECT_EQ(config.triggers.at(0).spec.config_json,
            R"({"backlog":{"max_age":null,"max_size":null,"when_full":"refuse"},"concurrency":0,)"
            R"("filters":null,"function":"f","on_exhausted":"skip","order":"key",)"
            R"("retry":{"attempts":8,"backoff":"1s","factor":2,"jitter":"full","max_age":null,)"
            R"("max_backoff":"5m"},"sources":[],"timeout":"30s","timeout_max":"12h"})");
  const Config paced = Load("functions: { f: }\ntriggers: { a: { function: f, rate: 600/m } }\n");
  EXPECT_NE(paced.triggers.at(0).spec.config_json.find(R"("order":"key","rate":"600/m","retry")"),
            std::string::npos);
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(ConfigLoadTest, PatternsAreReadWithTheTypesOfYaml) {
  const Config config = Load(R"(
functions: { f: }
triggers:
  a:
    function: f
    pattern:
      type: [order.paid]
      data:
        total: [ { numeric: [">", 100] }, 7, "7", 0x7, ~, true, "true" ]
        name.first: [ { prefix: "${env:NAME}" } ]
)",
                             [] {
                               FakeEnvironment environment;
                               environment.variables["NAME"] = "12";
                               return environment;
                             }());
  const TriggerConfig& trigger = config.triggers.at(0);
  const std::string pattern =
      R"({"type":["order.paid"],"data":{"name":{"first":[{"prefix":"12"}]},)"
      R"("total":["0x7","7","true",7,true,null,{"numeric":[">",100]}]}})";
  EXPECT_EQ(trigger.route.pattern->ToJson(), pattern);
  // Part of what makes a generation.
  EXPECT_NE(trigger.spec.config_json.find("\"pattern\":" + pattern + ",\"retry\""),
            std::string::npos);
  const Config batched =
      Load("functions: { f: }\ntriggers: { a: { function: f, batch: { max_events: 9 } } }\n");
  EXPECT_NE(batched.triggers.at(0).spec.config_json.find(
                R"("batch":{"max_events":9,"max_wait":"200ms"},"concurrency":0)"),
            std::string::npos);
}

TEST(ConfigLoadTest, ATimeoutAboveTheDefaultBoundRaisesIt) {
  const Config config = Load("functions: { f: }\ntriggers: { a: { function: f, timeout: 1d } }\n");
  EXPECT_EQ(config.triggers.at(0).spec.policy.timeout_max, hours(24));
}

TEST(ConfigLoadTest, AliasesServeSharedSettings) {
  const Config config = Load(
      "functions: { f: }\n"
      "triggers:\n  a: { function: f, retry: &slow { backoff: 1m } }\n"
      "  b: { function: f, retry: *slow }\n");
  EXPECT_EQ(config.triggers.at(1).spec.policy.retry.backoff, minutes(1));
}

TEST(ConfigLoadTest, HostsAndPortsAreToldApart) {
  EXPECT_EQ(ParseHostPort("[::1]:7420")->host, "::1");
  EXPECT_TRUE(ParseHostPort("[::1]:7420")->loopback);
  EXPECT_TRUE(ParseHostPort("127.8.9.1:0")->loopback);
  EXPECT_TRUE(ParseHostPort("localhost:1")->loopback);
  EXPECT_FALSE(ParseHostPort("0.0.0.0:7420")->loopback);
  EXPECT_FALSE(ParseHostPort("[::]:7420")->loopback);
  EXPECT_FALSE(ParseHostPort("127.example.com:7420")->loopback);
  for (const char* text : {"", ":1", "x", "x:", "x:70000", "x:-1", "::1:7420", "[::1]", "a b:1",
                           "[x]:1", "http://x:1"}) {
    EXPECT_FALSE(ParseHostPort(text)) << text;
  }
}

TEST(ConfigLoadTest, TwentyThousandTriggersLoadInSeconds) {
  std::string text =
      "functions: { f: {} }\nsources: { s: { timer: { cron: '@hourly' } } }\n"
      "triggers:\n";
  for (int i = 0; i < 20'000; ++i) {
    text += fmt::format(
        "  t{}:\n    sources: [s]\n    filters:\n      - exact: {{ subject: order-{} }}\n"
        "    function: f\n    timeout: 10s\n",
        i, i);
  }
  const SystemClock clock;
  const Instant start = clock.Monotonic();
  EXPECT_EQ(Load(text).triggers.size(), 20'000u);
  EXPECT_LT(clock.Monotonic() - start, seconds(30));
}

}  // namespace
}  // namespace tocsin
