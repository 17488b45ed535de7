// What all users of librdkafka share: owners of its objects, its errors as Status, partitions, and
// a handle's configuration from that of the source.

#pragma once

#include <librdkafka/rdkafka.h>

#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "connectors/kafka/kafka_spec.h"

namespace tocsin {

struct KafkaFree {
  void operator()(rd_kafka_t* handle) const { rd_kafka_destroy(handle); }
  void operator()(rd_kafka_conf_t* conf) const { rd_kafka_conf_destroy(conf); }
  void operator()(rd_kafka_topic_t* topic) const { rd_kafka_topic_destroy(topic); }
  void operator()(rd_kafka_queue_t* queue) const { rd_kafka_queue_destroy(queue); }
  void operator()(rd_kafka_message_t* message) const { rd_kafka_message_destroy(message); }
  void operator()(rd_kafka_topic_partition_list_t* list) const {
    rd_kafka_topic_partition_list_destroy(list);
  }
};
using KafkaHandle = std::unique_ptr<rd_kafka_t, KafkaFree>;
using KafkaConf = std::unique_ptr<rd_kafka_conf_t, KafkaFree>;
using KafkaQueue = std::unique_ptr<rd_kafka_queue_t, KafkaFree>;
using KafkaMessage = std::unique_ptr<rd_kafka_message_t, KafkaFree>;
using KafkaList = std::unique_ptr<rd_kafka_topic_partition_list_t, KafkaFree>;

struct KafkaPartition {
  std::string topic;
  std::int32_t partition = 0;
  friend auto operator<=>(const KafkaPartition&, const KafkaPartition&) = default;

  std::string Key() const;  // `topic/partition`
  static std::optional<KafkaPartition> FromKey(std::string_view key);
};

std::set<KafkaPartition> PartitionsOf(const rd_kafka_topic_partition_list_t& list);
KafkaList ListOf(const std::set<KafkaPartition>& partitions);
KafkaList ListOf(const KafkaPartition& partition, std::int64_t offset);

// The Status of an error of the library:
//   kNotFound            unknown topic or partition
//   kPermissionDenied    not authorized, not authenticated
//   kFailedPrecondition  an offset that is not there
//   kUnavailable         the rest
absl::Status KafkaStatus(rd_kafka_resp_err_t error, std::string_view about);

// Sets one key; kInvalidArgument names it, not its value, which may be a secret.
absl::Status SetKafka(rd_kafka_conf_t& conf, const std::string& name, const std::string& value);

// A consumer without a group: servers, login, encryption, `settings`. It commits, stores and resets
// no offset by itself, and logs nothing: what it would log comes as errors, too.
//   kInvalidArgument  a setting the library refuses
absl::StatusOr<KafkaConf> MakeKafkaConf(const KafkaSpec& spec);
// `conf` belongs to the handle afterwards.
absl::StatusOr<KafkaHandle> MakeKafkaConsumer(KafkaConf conf);

}  // namespace tocsin
