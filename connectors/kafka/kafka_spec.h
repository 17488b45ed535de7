// KafkaSpec: what a source of kind `kafka` says in the configuration.

#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "broker/base/clock.h"
#include "connectors/event_overrides.h"
#include "connectors/record_event.h"

namespace tocsin {

enum class KafkaStart : std::uint8_t { kEarliest, kLatest, kTime };

struct KafkaSpec {
  std::string name;                          // the source's name
  std::vector<std::string> brokers;          // host:port
  std::vector<std::string> topics;           // names, or patterns that begin with `^`
  std::string group;                         // empty: every partition is read by this source alone
  KafkaStart start = KafkaStart::kEarliest;  // of a lane without a position
  WallTime start_time;                       // for kTime
  bool read_uncommitted = false;
  bool pass_gaps = false;  // records that expired unread are passed instead of refused
  Duration discover = std::chrono::seconds(30);  // how often topics and partitions are looked for

  std::string sasl_mechanism;  // PLAIN, SCRAM-SHA-256, SCRAM-SHA-512; empty: none
  std::string sasl_user;
  std::string sasl_password;  // never shown
  bool tls = false;
  std::string tls_ca;  // paths of PEM files; empty: the system's
  std::string tls_cert;
  std::string tls_key;
  std::string tls_key_password;  // never shown
  bool tls_verify = true;        // the broker's certificate and name

  // Settings of librdkafka, as it names them; they win over all above.
  std::map<std::string, std::string> settings;

  Envelope envelope = Envelope::kAuto;
  EventOverrides event;

  friend bool operator==(const KafkaSpec&, const KafkaSpec&) = default;
};

// kInvalidArgument names the setting that librdkafka does not know, or that would break a promise
// of ours (offsets, commits, the group's protocol).
absl::Status ValidateKafkaSettings(const std::map<std::string, std::string>& settings);

// What the event templates may name: topic, partition, offset.
std::vector<std::string_view> KafkaTemplateNames();

}  // namespace tocsin
