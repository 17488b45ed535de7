#include <charconv>

#include "absl/container/flat_hash_set.h"
#include "broker/config/read_model.h"

namespace tocsin {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = kKiB * 1024;
constexpr std::uint64_t kGiB = kMiB * 1024;
constexpr std::uint64_t kPiB = kGiB * 1024 * 1024;
constexpr Duration kYears = hours(24 * 3650);

void ReadAddress(Section& section, std::string_view name, std::string& target,
                 std::string_view description) {
  std::string address = target;
  if (!section.Text(name, address, description)) return;
  if (!ParseHostPort(address)) {
    section.Error(name, config_code::kBadValue,
                  fmt::format("`{}` takes host:port, such as 127.0.0.1:7420 or [::1]:7420", name));
    return;
  }
  target = address;
}

void ReadRetention(ConfigReader& reader, YamlNode node, const std::string& path, Duration& age,
                   std::uint64_t& bytes, std::uint64_t bytes_min, std::string_view what) {
  Section section(reader, node, path);
  section.TimeSpan("age", age, seconds(1), kYears, fmt::format("how long {} kept", what));
  section.Size("size", bytes, bytes_min, kPiB, fmt::format("how many bytes of {} kept", what));
  section.Finish();
}

void ReadQueues(ConfigReader& reader, YamlNode node, QueueLimits& queues) {
  Section section(reader, node, "broker.queues");
  section.Integer("entries_max", queues.entries_max, 16, 1'000'000,
                  "deliveries in memory, per trigger and partition");
  section.Integer("key_entries_max", queues.key_entries_max, 1, 65'536,
                  "of these, deliveries of one key; further ones wait in the journal");
  section.Integer("skipped_keys_max", queues.skipped_keys_max, 2, 1'000'000,
                  "keys with deliveries that wait in the journal");
  section.Integer("spread_max", queues.spread_max, 1024, std::uint64_t{1} << 40,
                  "events between the oldest unsettled one and the newest admitted one");
  section.Integer("park_max_keys", queues.park_max_keys, 1, 1'000'000,
                  "parked keys; beyond it, or half of `skipped_keys_max`, letters are skipped");
  section.Finish();
  if (queues.key_entries_max > queues.entries_max) {
    section.Error("key_entries_max", config_code::kConflict,
                  fmt::format("`key_entries_max` ({}) is larger than `entries_max` ({})",
                              queues.key_entries_max, queues.entries_max));
  }
}

void ReadTls(ConfigReader& reader, YamlNode node, TlsConfig& tls) {
  Section section(reader, node, "broker.tls");
  section.Text("cert", tls.cert, "path of the certificate chain, PEM");
  section.Require("cert");
  section.Text("key", tls.key, "path of the private key, PEM");
  section.Require("key");
  section.Text("client_ca", tls.client_ca,
               "path of the CA, PEM, that signs clients' certificates; with it one is required");
  section.Finish();
}

void ReadToken(ConfigReader& reader, YamlNode node, TokenConfig& token) {
  Section section(reader, node, "broker.tokens[]");
  if (section.SecretText("token", token.token, "the secret; write `${env:NAME}`")) {
    for (const char c : token.token.Reveal()) {
      if (c <= ' ' || c > '~') {
        section.Error("token", config_code::kBadValue,
                      "`token` has a space or a character beyond ASCII");
        break;
      }
    }
  }
  section.Require("token");
  std::vector<std::string> scopes;
  section.TextList("scopes", scopes, "what it allows: publish, work, admin");
  section.Require("scopes");
  for (const std::string& scope : scopes) {
    if (scope == "publish") {
      token.publish = true;
    } else if (scope == "work") {
      token.work = true;
    } else if (scope == "admin") {
      token.admin = true;
    } else {
      section.Error("scopes", config_code::kBadValue,
                    "`scopes` takes publish, work and admin" +
                        DidYouMean(scope, {"publish", "work", "admin"}));
    }
  }
  if (section.Has("scopes") && scopes.empty()) {
    section.Error("scopes", config_code::kBadValue, "`scopes` is empty: the token allows nothing");
  }
  section.Finish();
}

void ReadTokens(ConfigReader& reader, YamlNode list, std::vector<TokenConfig>& tokens) {
  if (reader.describing != nullptr) {
    TokenConfig token;
    ReadToken(reader, {}, token);
    return;
  }
  if (!list.present()) return;
  absl::flat_hash_set<std::string> seen;
  for (const YamlNode& element : list.Elements()) {
    TokenConfig& token = tokens.emplace_back();
    ReadToken(reader, element, token);
    if (!token.token.empty() && !seen.insert(token.token.Reveal()).second) {
      reader.Error(element.location(), config_code::kConflict, "the same token is given twice");
    }
  }
}

// FAULTS, security rules: what other machines reach is encrypted and asks who they are.
void CheckListeners(Section& section, const BrokerConfig& broker) {
  if (broker.insecure) return;
  const bool identity = !broker.tokens.empty() || (broker.tls && !broker.tls->client_ca.empty());
  if (broker.tls && identity) return;
  for (const auto& [name, address] :
       {std::pair<std::string_view, const std::string&>{"listen", broker.listen},
        std::pair<std::string_view, const std::string&>{"http", broker.http}}) {
    const std::optional<HostPort> parsed = ParseHostPort(address);
    if (!parsed || parsed->loopback) continue;
    section.Error(name, config_code::kInsecure,
                  fmt::format("`{}` is not a loopback address, so it needs `tls` and an identity "
                              "(`tls.client_ca` or `tokens`); {} missing. `insecure: true` allows "
                              "it without",
                              name,
                              !broker.tls && !identity ? "both are"
                              : !broker.tls            ? "`tls` is"
                                                       : "the identity is"));
  }
}

}  // namespace

std::optional<HostPort> ParseHostPort(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  HostPort result;
  const std::string_view port = text.substr(colon + 1);
  const auto [rest, error] = std::from_chars(port.data(), port.data() + port.size(), result.port);
  if (port.empty() || error != std::errc() || rest != port.data() + port.size()) {
    return std::nullopt;
  }
  std::string_view host = text.substr(0, colon);
  if (host.front() == '[') {
    if (host.size() < 4 || host.back() != ']') return std::nullopt;
    host = host.substr(1, host.size() - 2);
    if (host.find_first_not_of("0123456789abcdefABCDEF:.") != std::string_view::npos ||
        host.find(':') == std::string_view::npos) {
      return std::nullopt;
    }
    result.loopback = host == "::1";
  } else {
    // A bare IPv6 address is ambiguous about where the port begins.
    for (const char c : host) {
      const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
      if (!plain && c != '.' && c != '-') return std::nullopt;
    }
    result.loopback = host == "localhost";
    // 127.0.0.0/8, spelled as four numbers; a name such as 127.example.com is none.
    if (host.substr(0, 4) == "127." &&
        host.find_first_not_of("0123456789.") == std::string_view::npos) {
      result.loopback = true;
    }
  }
  result.host = std::string(host);
  return result;
}

void ReadBroker(ConfigReader& reader, YamlNode node, BrokerConfig& broker) {
  Section section(reader, node, "broker");
  section.Text("data_dir", broker.data_dir, "where journal and dead letters are kept");
  ReadAddress(section, "listen", broker.listen, "gRPC: publish, attach, admin");
  ReadAddress(section, "http", broker.http, "/metrics, /healthz, /readyz");
  broker.partitions_given = section.Integer("partitions", broker.partitions, 1, 64,
                                            "fixed once the data directory exists");
  section.Integer("shards", broker.shards, 1, 64,
                  "threads that own partitions; `auto` is one per core, at most one per partition",
                  "auto");
  section.Choice("durability", broker.durability,
                 {{"durable", Durability::kDurable}, {"written", Durability::kWritten}},
                 "when a publisher is answered: synced, or handed to the system");
  ReadRetention(reader, section.Map("retention", "what the journal keeps of settled events"),
                "broker.retention", broker.retention_age, broker.retention_bytes, 32 * kMiB,
                "events are");
  {
    Section dedupe(reader, section.Map("dedupe", "how long repeated publishes are noticed"),
                   "broker.dedupe");
    dedupe.TimeSpan("window", broker.dedupe_window, Duration::zero(), hours(24 * 30),
                    "age up to which a repeated id is noticed");
    dedupe.Integer("max_ids", broker.dedupe_ids_max, 0, 100'000'000,
                   "ids remembered per partition");
    dedupe.Finish();
  }
  section.Size("event_bytes_max", broker.event_limits.event_bytes_max, 64 * kKiB, 3 * kMiB,
               "the largest event that is accepted");
  section.Size("ingest_bytes_max", broker.ingest_bytes_max, 4 * kMiB, kGiB,
               "events under way into the journal, per shard; beyond it publishes are refused");
  ReadQueues(reader, section.Map("queues", "bounds of each trigger's queue in memory"),
             broker.queues);
  ReadRetention(reader, section.Map("dead_letters", "what the dead letters may take"),
                "broker.dead_letters", broker.letters_age, broker.letters_bytes, 16 * kMiB,
                "dead letters are");
  section.TimeSpan("detached_retention", broker.detached_retention, Duration::zero(), kYears,
                   "how long the deliveries of a trigger that disappeared are kept");
  section.TimeSpan("heartbeat", broker.heartbeat, milliseconds(100), hours(1),
                   "how often workers report themselves");
  section.TimeSpan("gone", broker.gone_after, milliseconds(200), hours(24),
                   "a worker silent for so long is gone, its deliveries are repeated");
  const YamlNode tls = section.Map("tls", "encryption of the listeners");
  if (reader.describing != nullptr || tls.present()) {
    TlsConfig read;
    ReadTls(reader, tls, read);
    broker.tls = std::move(read);
  }
  ReadTokens(reader, section.List("tokens", "who may come in, by a secret"), broker.tokens);
  section.Boolean("insecure", broker.insecure,
                  "allow listeners that others reach without TLS and identity");
  {
    Section defaults(reader, section.Map("defaults", "for triggers that do not say otherwise"),
                     "broker.defaults");
    ReadPolicy(reader, defaults, broker.defaults);
    defaults.Finish();
  }
  section.Finish();
  if (reader.describing != nullptr) return;
  if (broker.gone_after <= broker.heartbeat) {
    section.Error(section.Has("gone") ? "gone" : "heartbeat", config_code::kConflict,
                  "`gone` must be longer than `heartbeat`");
  }
  if (broker.shards > broker.partitions) {
    section.Error("shards", config_code::kConflict,
                  fmt::format("`shards` ({}) is larger than `partitions` ({}): some would idle",
                              broker.shards, broker.partitions));
  }
  CheckListeners(section, broker);
}

}  // namespace tocsin
