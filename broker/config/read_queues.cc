// The kinds of sources whose records have an envelope: tail, redis, kafka, zeromq.

#include <fmt/format.h>

#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/config/read_model.h"

namespace tocsin {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

void ReadEnvelope(Section& section, Envelope& envelope) {
  section.Choice(
      "envelope", envelope,
      {{"auto", Envelope::kAuto}, {"raw", Envelope::kRaw}, {"cloudevents", Envelope::kCloudEvents}},
      "what comes: CloudEvents, plain values, or whichever it says that it is");
}

void ReadSecret(Section& section, std::string_view name, std::string& target,
                std::string_view description) {
  Secret secret;
  if (section.SecretText(name, secret, description)) target = secret.Reveal();
}

void ReadOnGap(Section& section, bool& pass_gaps, std::string_view description) {
  section.Choice("on_gap", pass_gaps, {{"stop", false}, {"continue", true}}, description);
}

void ReadRedisUrl(Section& section, RedisSpec& redis) {
  Secret url;
  const bool given = section.SecretText(
      "url", url, "redis://[user:password@]host[:port][/database], or unix:///path");
  section.Require("url");
  if (!given) return;
  const absl::Status parsed = ParseRedisUrl(url.Reveal(), redis);
  if (parsed.ok()) return;
  section.Error("url",
                absl::IsUnimplemented(parsed) ? config_code::kNotSupported : config_code::kBadValue,
                std::string(MessageOf(parsed)));
}

// Exactly one of the things that can be read, and no key of another.
void CheckRedis(Section& section, const RedisSpec& redis) {
  const bool stream = section.Has("stream"), list = section.Has("list");
  const bool channels = section.Has("channels") || section.Has("patterns");
  const bool keyevents = section.Has("keyevents");
  if (int{stream} + int{list} + int{channels} + int{keyevents} != 1) {
    section.Error("stream", config_code::kMissing,
                  "a redis source reads one thing: `stream`, `list`, `channels` (or `patterns`), "
                  "or `keyevents`");
    return;
  }
  const auto only_with = [&section](bool there, std::string_view with,
                                    std::initializer_list<std::string_view> names) {
    for (const std::string_view name : names) {
      if (there || !section.Has(name)) continue;
      section.Error(name, config_code::kConflict, fmt::format("`{}` needs `{}`", name, with));
    }
  };
  only_with(stream, "stream", {"start", "group", "on_gap", "data_field"});
  only_with(!redis.group.empty(), "group", {"member", "claim_after"});
  only_with(list, "list", {"processing", "take"});
  only_with(keyevents, "keyevents", {"keys"});
  if (!redis.group.empty() && redis.pass_gaps) {
    section.Error("on_gap", config_code::kConflict, "a group keeps its own place: no `on_gap`");
  }
  if (list && redis.processing == redis.key) {
    section.Error("processing", config_code::kBadValue, "`processing` is the list itself");
  }
}

}  // namespace

void ReadTail(ConfigReader& reader, YamlNode node, TailSpec& tail) {
  Section section(reader, node, "sources.*.tail");
  section.Text("path", tail.path, "a file that grows; each line is an event");
  section.Require("path");
  section.Choice("start", tail.from_end, {{"earliest", false}, {"latest", true}},
                 "where a file is begun that has no position yet");
  ReadOnGap(section, tail.pass_gaps, "when the file that was read is gone");
  ReadEnvelope(section, tail.envelope);
  section.Finish();
}

void ReadRedis(ConfigReader& reader, YamlNode node, RedisSpec& redis) {
  Section section(reader, node, "sources.*.redis");
  ReadRedisUrl(section, redis);
  section.Text("user", redis.user, "ACL user, if it is not in the URL");
  ReadSecret(section, "password", redis.password, "its password, if it is not in the URL");
  section.TimeSpan("timeout", redis.timeout, milliseconds(100), minutes(5),
                   "for connecting, and for an answer");
  if (section.Text("stream", redis.key, "the key of a stream")) redis.take = RedisTake::kStream;
  section.Choice("start", redis.from_end, {{"earliest", false}, {"latest", true}},
                 "where a stream is begun that has no position yet");
  section.Text("group", redis.group, "the stream's group; none: this source reads it alone");
  section.Text("member", redis.member, "its name in the group; another one for each broker");
  section.TimeSpan("claim_after", redis.claim_after, seconds(1), hours(24 * 7),
                   "entries that other members hold for longer are taken over");
  ReadOnGap(section, redis.pass_gaps, "when entries were trimmed before they were read");
  section.Text("data_field", redis.data_field,
               "the field that holds the data; none: all fields as a JSON object");
  std::string list;
  if (section.Text("list", list, "the key of a list")) {
    redis.key = list;
    redis.take = RedisTake::kList;
  }
  section.Text("processing", redis.processing,
               "the list that elements wait in until they are durable; default `<list>:<source>`");
  section.Choice("take", redis.take_left, {{"right", false}, {"left", true}},
                 "from which end of the list");
  section.TextList("channels", redis.channels, "channels to subscribe to");
  section.TextList("patterns", redis.patterns, "patterns of channels to subscribe to");
  section.TextList("keyevents", redis.keyevents, "notifications about keys, such as `expired`");
  section.Text("keys", redis.keys, "with `keyevents`: a glob of the keys");
  if (!redis.channels.empty() || !redis.patterns.empty()) redis.take = RedisTake::kChannels;
  if (!redis.keyevents.empty()) redis.take = RedisTake::kKeyevents;
  ReadEnvelope(section, redis.envelope);
  section.Finish();
  if (reader.describing != nullptr) return;
  CheckRedis(section, redis);
}

void ReadKafka(ConfigReader& reader, YamlNode node, KafkaSpec& kafka) {
  Section section(reader, node, "sources.*.kafka");
  section.TextList("brokers", kafka.brokers, "addresses to begin with, host:port");
  section.Require("brokers");
  section.TextList("topics", kafka.topics, "topics; what begins with `^` is a pattern of names");
  section.Require("topics");
  section.Text("group", kafka.group, "a group to share the partitions with; none: all, alone");
  std::string start = "earliest";
  section.Text("start", start,
               "where a partition is begun that has no position yet: earliest, latest or a time");
  section.Choice("isolation", kafka.read_uncommitted,
                 {{"read_committed", false}, {"read_uncommitted", true}},
                 "whether records of open and aborted transactions are read");
  ReadOnGap(section, kafka.pass_gaps, "when records expired before they were read");
  section.TimeSpan("discover", kafka.discover, milliseconds(100), hours(24),
                   "how often new topics and partitions are looked for");
  const YamlNode sasl_node = section.Map("sasl", "how to log in");
  {
    Section sasl(reader, sasl_node, "sources.*.kafka.sasl");
    sasl.Text("mechanism", kafka.sasl_mechanism, "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512");
    sasl.Text("user", kafka.sasl_user, "the user's name");
    ReadSecret(sasl, "password", kafka.sasl_password, "the user's password");
    if (sasl_node.present()) {
      for (const std::string_view name : {"mechanism", "user", "password"}) sasl.Require(name);
      if (sasl.Has("mechanism") && kafka.sasl_mechanism != "PLAIN" &&
          kafka.sasl_mechanism != "SCRAM-SHA-256" && kafka.sasl_mechanism != "SCRAM-SHA-512") {
        sasl.Error("mechanism", config_code::kBadValue,
                   "`mechanism` is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512");
      }
    }
    sasl.Finish();
  }
  const YamlNode tls_node = section.Map("tls", "encrypt; `{}` is enough");
  {
    Section tls(reader, tls_node, "sources.*.kafka.tls");
    tls.Text("ca", kafka.tls_ca, "a PEM file of those who sign brokers; none: the system's");
    tls.Text("cert", kafka.tls_cert, "our certificate, a PEM file");
    tls.Text("key", kafka.tls_key, "its key, a PEM file");
    ReadSecret(tls, "key_password", kafka.tls_key_password, "the key's password");
    tls.Boolean("verify", kafka.tls_verify, "whether the broker's certificate is checked");
    tls.Finish();
    kafka.tls = tls_node.present();
    if (kafka.tls_cert.empty() != kafka.tls_key.empty()) {
      tls.Error("cert", config_code::kMissing, "`cert` and `key` come together");
    }
  }
  const YamlNode settings = section.Value("settings", "map of text", R"({"type":"object"})",
                                          "settings of librdkafka by its own names; they win");
  ReadEnvelope(section, kafka.envelope);
  section.Finish();
  if (reader.describing != nullptr) return;
  if (start == "latest") {
    kafka.start = KafkaStart::kLatest;
  } else if (start != "earliest") {
    const absl::StatusOr<WallTime> time = ParseRfc3339(start);
    if (time.ok()) {
      kafka.start = KafkaStart::kTime;
      kafka.start_time = *time;
    } else {
      section.Error("start", config_code::kBadValue,
                    "`start` is earliest, latest or a time such as 2026-03-29T01:00:00Z");
    }
  }
  for (const YamlEntry& entry : settings.present() && settings.kind() == YamlKind::kMap
                                    ? settings.Entries()
                                    : std::vector<YamlEntry>()) {
    if (entry.key.kind() != YamlKind::kScalar || entry.value.kind() != YamlKind::kScalar) {
      reader.Error(entry.key.location(), config_code::kBadValue,
                   "`settings` takes names and single values");
      continue;
    }
    const std::optional<ConfigText> text = reader.Interpolate(entry.value);
    if (text) kafka.settings[std::string(entry.key.text())] = text->value;
  }
  if (settings.present() && settings.kind() != YamlKind::kMap) {
    section.Error("settings", config_code::kBadValue, "`settings` takes a map");
  }
  const absl::Status valid = ValidateKafkaSettings(kafka.settings);
  if (!valid.ok()) section.Error("settings", config_code::kBadValue, std::string(MessageOf(valid)));
}

void ReadZeromq(ConfigReader& reader, YamlNode node, ZeromqSpec& zeromq) {
  Section section(reader, node, "sources.*.zeromq");
  section.Choice(
      "socket", zeromq.socket,
      {{"pull", ZeromqSocket::kPull}, {"sub", ZeromqSocket::kSub}, {"rep", ZeromqSocket::kRep}},
      "the pattern; `rep` answers when what came is durable");
  section.TextList("bind", zeromq.bind, "endpoints to listen on, such as tcp://127.0.0.1:5555");
  section.TextList("connect", zeromq.connect, "endpoints to connect to");
  section.TextList("subscribe", zeromq.subscribe, "with `sub`: prefixes; none is everything");
  section.Integer("high_water_mark", zeromq.high_water_mark, 1, 10'000'000,
                  "what waits in memory at most, per connection, when the broker is full");
  std::vector<std::string> parts;
  section.TextList("parts", parts,
                   "what the parts are: topic, key, attributes, data; default by "
                   "their number: data; topic, data; topic, attributes, data");
  {
    Section curve(reader, section.Map("curve", "encryption and authentication"),
                  "sources.*.zeromq.curve");
    ReadSecret(curve, "secret", zeromq.curve_secret, "our secret key, Z85");
    curve.Text("public", zeromq.curve_public, "our public key; derived if it is not given");
    curve.Text("server", zeromq.curve_server,
               "the other side's public key; without it we are the server");
    curve.TextList("clients", zeromq.curve_clients,
                   "as server: public keys that may connect; none: any that knows ours");
    if (section.Has("curve")) curve.Require("secret");
    curve.Finish();
  }
  ReadEnvelope(section, zeromq.envelope);
  section.Finish();
  if (reader.describing != nullptr) return;
  for (const std::string& part : parts) {
    if (part == "topic") {
      zeromq.parts.push_back(ZeromqPart::kTopic);
    } else if (part == "key") {
      zeromq.parts.push_back(ZeromqPart::kKey);
    } else if (part == "attributes") {
      zeromq.parts.push_back(ZeromqPart::kAttributes);
    } else if (part == "data") {
      zeromq.parts.push_back(ZeromqPart::kData);
    } else {
      section.Error("parts", config_code::kBadValue,
                    "`parts` takes topic, key, attributes and data" +
                        DidYouMean(part, {"topic", "key", "attributes", "data"}));
    }
  }
  if (zeromq.bind.empty() == zeromq.connect.empty()) {
    section.Error("bind", config_code::kMissing, "one of `bind` and `connect` is needed");
  }
  if (zeromq.socket != ZeromqSocket::kSub && !zeromq.subscribe.empty()) {
    section.Error("subscribe", config_code::kConflict, "`subscribe` needs `socket: sub`");
  }
  if (!zeromq.curve_server.empty() && !zeromq.curve_clients.empty()) {
    section.Error("curve", config_code::kConflict,
                  "`server` makes us the client, `clients` the server: give one of them");
  }
  const absl::Status valid = ValidateZeromqSpec(zeromq);
  if (!valid.ok()) section.Error("curve", config_code::kBadValue, std::string(MessageOf(valid)));
}

}  // namespace tocsin
