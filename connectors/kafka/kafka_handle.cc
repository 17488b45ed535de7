#include "connectors/kafka/kafka_handle.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <charconv>
#include <chrono>
#include <utility>

#include "broker/base/status.h"

namespace tocsin {

std::string KafkaPartition::Key() const { return fmt::format("{}/{}", topic, partition); }

std::optional<KafkaPartition> KafkaPartition::FromKey(std::string_view key) {
  const std::size_t slash = key.rfind('/');
  if (slash == std::string_view::npos || slash == 0) return std::nullopt;
  KafkaPartition out;
  out.topic = std::string(key.substr(0, slash));
  const char* end = key.data() + key.size();
  const auto [at, error] = std::from_chars(key.data() + slash + 1, end, out.partition);
  if (error != std::errc() || at != end || out.partition < 0) return std::nullopt;
  return out;
}

absl::Status KafkaStatus(rd_kafka_resp_err_t error, std::string_view about) {
  const std::string text = fmt::format("{}: {}", about, rd_kafka_err2str(error));
  switch (error) {
    case RD_KAFKA_RESP_ERR_NO_ERROR:
      return absl::OkStatus();
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
      return absl::NotFoundError(text);
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
      return absl::PermissionDeniedError(text);
    case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
      return absl::FailedPreconditionError(text);
    default:
      return absl::UnavailableError(text);
  }
}

std::set<KafkaPartition> PartitionsOf(const rd_kafka_topic_partition_list_t& list) {
  std::set<KafkaPartition> out;
  for (int i = 0; i < list.cnt; ++i) out.insert({list.elems[i].topic, list.elems[i].partition});
  return out;
}

KafkaList ListOf(const std::set<KafkaPartition>& partitions) {
  KafkaList list(rd_kafka_topic_partition_list_new(static_cast<int>(partitions.size())));
  for (const KafkaPartition& one : partitions) {
    rd_kafka_topic_partition_list_add(list.get(), one.topic.c_str(), one.partition);
  }
  return list;
}

KafkaList ListOf(const KafkaPartition& partition, std::int64_t offset) {
  KafkaList list = ListOf({partition});
  list->elems[0].offset = offset;
  return list;
}

absl::Status SetKafka(rd_kafka_conf_t& conf, const std::string& name, const std::string& value) {
  std::array<char, 256> said{};
  if (rd_kafka_conf_set(&conf, name.c_str(), value.c_str(), said.data(), said.size()) ==
      RD_KAFKA_CONF_OK) {
    return absl::OkStatus();
  }
  // The library's text holds the value.
  return absl::InvalidArgumentError(
      fmt::format("librdkafka refuses the setting `{}` or its value", name));
}

absl::StatusOr<KafkaConf> MakeKafkaConf(const KafkaSpec& spec) {
  KafkaConf conf(rd_kafka_conf_new());
  absl::Status status;
  const auto set = [&](const std::string& name, const std::string& value) {
    if (status.ok()) status = SetKafka(*conf, name, value);
  };
  const auto discover =
      std::chrono::duration_cast<std::chrono::milliseconds>(spec.discover).count();
  set("bootstrap.servers", fmt::format("{}", fmt::join(spec.brokers, ",")));
  set("client.id", "tocsin");
  set("topic.metadata.refresh.interval.ms", std::to_string(discover));
  set("allow.auto.create.topics", "false");
  set("enable.auto.commit", "false");
  set("enable.auto.offset.store", "false");
  set("enable.partition.eof", "true");
  set("isolation.level", spec.read_uncommitted ? "read_uncommitted" : "read_committed");
  set("auto.offset.reset", "error");
  set("reconnect.backoff.max.ms", "2000");
  // Of each partition: what waits when the broker is full.
  set("queued.max.messages.kbytes", "16384");
  set("security.protocol", spec.sasl_mechanism.empty() ? (spec.tls ? "ssl" : "plaintext")
                           : spec.tls                  ? "sasl_ssl"
                                                       : "sasl_plaintext");
  if (!spec.sasl_mechanism.empty()) {
    set("sasl.mechanisms", spec.sasl_mechanism);
    set("sasl.username", spec.sasl_user);
    set("sasl.password", spec.sasl_password);
  }
  if (!spec.tls_ca.empty()) set("ssl.ca.location", spec.tls_ca);
  if (!spec.tls_cert.empty()) set("ssl.certificate.location", spec.tls_cert);
  if (!spec.tls_key.empty()) set("ssl.key.location", spec.tls_key);
  if (!spec.tls_key_password.empty()) set("ssl.key.password", spec.tls_key_password);
  if (spec.tls && !spec.tls_verify) set("enable.ssl.certificate.verification", "false");
  for (const auto& [name, value] : spec.settings) set(name, value);
  TOCSIN_RETURN_IF_ERROR(status);
  rd_kafka_conf_set_log_cb(conf.get(), [](const rd_kafka_t*, int, const char*, const char*) {});
  return conf;
}

absl::StatusOr<KafkaHandle> MakeKafkaConsumer(KafkaConf conf) {
  std::array<char, 512> said{};
  KafkaHandle handle(rd_kafka_new(RD_KAFKA_CONSUMER, conf.get(), said.data(), said.size()));
  if (handle == nullptr) {
    return absl::InvalidArgumentError(fmt::format("librdkafka: {}", said.data()));
  }
  (void)conf.release();
  return handle;
}

}  // namespace tocsin
