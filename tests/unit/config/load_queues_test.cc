// Sources of kind kafka, redis, zeromq and postgres: what is read, and every refusal.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "broker/config/load.h"
#include "tests/unit/config/fake_environment.h"

namespace tocsin {
namespace {

std::string Errors(const std::string& source) {
  std::vector<ConfigError> errors;
  FakeEnvironment environment;
  environment.variables["SECRET"] = "hunter2";
  (void)ParseConfig("sources:\n  s:\n" + source, "t.yaml", environment, &errors);
  std::string all;
  for (const ConfigError& error : errors) all += error.ToString() + "\n";
  return all;
}

template <typename Spec>
Spec Load(const std::string& source) {
  FakeEnvironment environment;
  environment.variables["SECRET"] = "hunter2";
  const auto config = ParseConfig("sources:\n  s:\n" + source, "t.yaml", environment);
  EXPECT_TRUE(config.ok()) << config.status();
  if (!config.ok()) return {};
  return std::get<Spec>(config->sources[0].spec);
}

void ExpectError(const std::string& source, std::string_view wanted) {
  const std::string found = Errors(source);
  EXPECT_NE(found.find(wanted), std::string::npos) << source << "\n" << found;
  EXPECT_EQ(found.find("hunter2"), std::string::npos) << found;
}

TEST(ConfigQueuesTest, RedisIsReadWithItsDefaults) {
  RedisSpec wanted;
  wanted.name = "s";
  wanted.key = "jobs";
  EXPECT_EQ(Load<RedisSpec>("    redis: { url: 'redis://127.0.0.1', stream: jobs }\n"), wanted);
  wanted.host = "h";
  wanted.port = 7;
  wanted.user = "u";
  wanted.password = "hunter2";
  wanted.group = "g";
  wanted.member = "m";
  wanted.claim_after = std::chrono::seconds(5);
  wanted.from_end = true;
  wanted.data_field = "payload";
  wanted.envelope = Envelope::kRaw;
  wanted.event.attributes = {{"partitionkey", "{field.user}"}};
  EXPECT_EQ(Load<RedisSpec>("    event: { partitionkey: '{field.user}' }\n"
                            "    redis: { url: 'redis://h:7', user: u, password: '${env:SECRET}',"
                            " stream: jobs, group: g, member: m, claim_after: 5s, start: latest,"
                            " data_field: payload, envelope: raw }\n"),
            wanted);
  const auto list =
      Load<RedisSpec>("    redis: { url: 'unix:///r', list: l, processing: p, take: left }\n");
  EXPECT_EQ(list.take, RedisTake::kList);
  EXPECT_EQ(list.key, "l");
  EXPECT_TRUE(list.take_left);
  const auto keys =
      Load<RedisSpec>("    redis: { url: 'redis://h', keyevents: [expired], keys: 'a:*' }\n");
  EXPECT_EQ(keys.take, RedisTake::kKeyevents);
  const auto channels = Load<RedisSpec>("    redis: { url: 'redis://h', patterns: ['a*'] }\n");
  EXPECT_EQ(channels.take, RedisTake::kChannels);
}

TEST(ConfigQueuesTest, RedisRefusals) {
  const std::string url = "url: 'redis://h'";
  ExpectError("    redis: { stream: a }\n", "`url` is missing");
  ExpectError("    redis: { url: 'http://u:${env:SECRET}@h', stream: a }\n",
              "begin with `redis://`");
  ExpectError("    redis: { url: 'rediss://u:${env:SECRET}@h', stream: a }\n", "T0106");
  ExpectError("    redis: { " + url + " }\n", "a redis source reads one thing");
  ExpectError("    redis: { " + url + ", stream: a, list: b }\n", "a redis source reads one thing");
  ExpectError("    redis: { " + url + ", list: a, group: g }\n", "`group` needs `stream`");
  ExpectError("    redis: { " + url + ", stream: a, member: g }\n", "`member` needs `group`");
  ExpectError("    redis: { " + url + ", stream: a, keys: g }\n", "`keys` needs `keyevents`");
  ExpectError("    redis: { " + url + ", list: a, processing: a }\n", "is the list itself");
  ExpectError("    redis: { " + url + ", stream: a, claim_after: 1ms, group: g }\n", "from 1s");
  ExpectError("    redis: { " + url + ", stream: a, streem: b }\n", "did you mean `stream`");
  ExpectError("    event: { type: 'a{nope}' }\n    redis: { " + url + ", stream: a }\n",
              "type: `{nope}` is not known here");
  ExpectError("    event: { partitionkey: a, attributes: { partitionkey: b } }\n    redis: { " +
                  url + ", stream: a }\n",
              "given twice");
}

TEST(ConfigQueuesTest, KafkaIsReadWithItsDefaults) {
  KafkaSpec wanted;
  wanted.name = "s";
  wanted.brokers = {"a:1", "b:2"};
  wanted.topics = {"orders", "^x-"};
  EXPECT_EQ(Load<KafkaSpec>("    kafka: { brokers: ['a:1', 'b:2'], topics: [orders, '^x-'] }\n"),
            wanted);
  wanted.group = "g";
  wanted.start = KafkaStart::kTime;
  wanted.start_time = WallTime(std::chrono::seconds(1'000'000'000));
  wanted.pass_gaps = wanted.read_uncommitted = true;
  wanted.sasl_mechanism = "SCRAM-SHA-256";
  wanted.sasl_user = "u";
  wanted.sasl_password = "hunter2";
  wanted.tls = true;
  wanted.tls_ca = "ca.pem";
  wanted.settings = {{"fetch.wait.max.ms", "5"}};
  EXPECT_EQ(Load<KafkaSpec>(
                "    kafka: { brokers: ['a:1', 'b:2'], topics: [orders, '^x-'], group: g,"
                " start: '2001-09-09T01:46:40Z', on_gap: continue, isolation: read_uncommitted,"
                " sasl: { mechanism: SCRAM-SHA-256, user: u, password: '${env:SECRET}' },"
                " tls: { ca: ca.pem }, settings: { fetch.wait.max.ms: 5 } }\n"),
            wanted);
}

TEST(ConfigQueuesTest, KafkaRefusals) {
  const std::string least = "brokers: ['a:1'], topics: [t]";
  ExpectError("    kafka: { topics: [t] }\n", "`brokers` is missing");
  ExpectError("    kafka: { brokers: ['a:1'] }\n", "`topics` is missing");
  ExpectError("    kafka: { " + least + ", start: yesterday }\n", "earliest, latest or a time");
  ExpectError("    kafka: { " + least + ", sasl: { mechanism: GSSAPI, user: u, password: p } }\n",
              "SCRAM-SHA-512");
  ExpectError("    kafka: { " + least + ", sasl: { user: '${env:SECRET}' } }\n",
              "`password` is missing");
  ExpectError("    kafka: { " + least + ", tls: { cert: c.pem } }\n", "come together");
  ExpectError("    kafka: { " + least + ", settings: { group.id: x } }\n",
              "`group.id` cannot be set");
  ExpectError("    kafka: { " + least + ", settings: [a] }\n", "takes a map");
}

TEST(ConfigQueuesTest, ZeromqIsReadWithItsDefaults) {
  ZeromqSpec wanted;
  wanted.name = "s";
  wanted.bind = {"tcp://127.0.0.1:5555"};
  EXPECT_EQ(Load<ZeromqSpec>("    zeromq: { bind: ['tcp://127.0.0.1:5555'] }\n"), wanted);
  const auto sub = Load<ZeromqSpec>(
      "    zeromq: { socket: sub, connect: ['tcp://h:1'], subscribe: [a], high_water_mark: 5,"
      " parts: [topic, key, attributes, data] }\n");
  EXPECT_EQ(sub.socket, ZeromqSocket::kSub);
  EXPECT_EQ(sub.parts.size(), 4U);
  EXPECT_EQ(sub.high_water_mark, 5U);
}

TEST(ConfigQueuesTest, ZeromqRefusals) {
  ExpectError("    zeromq: { socket: pull }\n", "one of `bind` and `connect`");
  ExpectError("    zeromq: { bind: ['tcp://a:1'], connect: ['tcp://a:1'] }\n",
              "one of `bind` and `connect`");
  ExpectError("    zeromq: { bind: ['a:1'] }\n", "is no endpoint");
  ExpectError("    zeromq: { bind: ['tcp://a:1'], subscribe: [a] }\n", "needs `socket: sub`");
  ExpectError("    zeromq: { bind: ['tcp://a:1'], parts: [topics] }\n", "did you mean `topic`");
  ExpectError("    zeromq: { bind: ['tcp://a:1'], parts: [data, data] }\n", "more than once");
  ExpectError("    zeromq: { bind: ['tcp://a:1'], curve: { secret: '${env:SECRET}' } }\n",
              "no key in Z85");
  ExpectError("    zeromq: { bind: ['tcp://a:1'], curve: {} }\n", "`secret` is missing");
}

TEST(ConfigQueuesTest, ASourceHasOneKind) {
  ExpectError("    kafka: { brokers: ['a:1'], topics: [t] }\n    zeromq: { bind: ['tcp://a:1'] }\n",
              "a source has one kind");
}

TEST(ConfigQueuesTest, PostgresIsReadWithItsDefaultsAndItsRefusals) {
  PostgresSpec wanted;
  wanted.name = "s";
  wanted.url = "postgresql://u:hunter2@h/d";
  wanted.tables = {"public.a", "b.*"};
  const std::string url = "url: 'postgresql://u:${env:SECRET}@h/d'";
  const std::string start = "    postgres: { " + url + ", tables: [public.a, 'b.*']";
  EXPECT_EQ(Load<PostgresSpec>(start + " }\n"), wanted);
  wanted.exclude = {{"public.a", {"x", "y"}}};
  wanted.where = {{"b.c", "id > 1"}};
  wanted.snapshot = PgSnapshot::kWhenNeeded;
  wanted.snapshot_rate = 500;
  wanted.pass_gaps = true;
  wanted.slot_lag_bytes_max = std::uint64_t{1} << 30;
  wanted.drop_slot = true;
  EXPECT_EQ(Load<PostgresSpec>(start + ", exclude: { public.a: [x, y] }, where: { b.c: 'id > 1' },"
                                       " snapshot: when_needed, snapshot_rate: 500, on_gap: "
                                       "continue, max_slot_lag: 1GiB, at_max_slot_lag: drop_slot }"
                                       "\n"),
            wanted);
  ExpectError("    postgres: { tables: [public.a] }\n", "`url` is missing");
  ExpectError("    postgres: { " + url + " }\n", "`tables` names what is read");
  ExpectError("    postgres: { " + url + ", tables: [a] }\n", "as `schema.table`");
  ExpectError(start + ", slot: Big }\n", "`slot` takes small letters");
  ExpectError(start + ", columns: { public.z: [x] } }\n", "is not one of `tables`");
  ExpectError(start + ", columns: { public.a: x } }\n", "each with a list of columns");
  ExpectError(start + ", publication: p, where: { public.a: 'x' } }\n", "its row filters");
  ExpectError(start + ", at_max_slot_lag: drop_slot }\n", "needs `max_slot_lag`");
}

}  // namespace
}  // namespace tocsin
