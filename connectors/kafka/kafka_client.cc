#include "connectors/kafka/kafka_client.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <re2/re2.h>

#include <array>
#include <charconv>
#include <chrono>
#include <utility>

#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr int kAskMs = 4000;
constexpr Duration kRemembered = std::chrono::milliseconds(500);

KafkaList OneOf(const KafkaPartition& partition, std::int64_t offset) {
  KafkaList list(rd_kafka_topic_partition_list_new(1));
  rd_kafka_topic_partition_list_add(list.get(), partition.topic.c_str(), partition.partition)
      ->offset = offset;
  return list;
}

bool IsPattern(const std::string& topic) { return topic.starts_with('^'); }

std::set<KafkaPartition> ToSet(const rd_kafka_topic_partition_list_t* list) {
  std::set<KafkaPartition> out;
  for (int i = 0; i < list->cnt; ++i) out.insert({list->elems[i].topic, list->elems[i].partition});
  return out;
}

}  // namespace

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

absl::StatusOr<std::shared_ptr<KafkaClient>> KafkaClient::Make(const KafkaSpec& spec,
                                                               const Ports& ports) {
  std::shared_ptr<KafkaClient> client(new KafkaClient(spec, ports));
  TOCSIN_RETURN_IF_ERROR(client->Open());
  return client;
}

absl::Status KafkaClient::Open() {
  std::unique_ptr<rd_kafka_conf_t, decltype(&rd_kafka_conf_destroy)> conf(rd_kafka_conf_new(),
                                                                          rd_kafka_conf_destroy);
  absl::Status status;
  const auto set = [&](const std::string& name, const std::string& value) {
    std::array<char, 256> said{};
    if (rd_kafka_conf_set(conf.get(), name.c_str(), value.c_str(), said.data(), said.size()) !=
            RD_KAFKA_CONF_OK &&
        status.ok()) {
      // The value may be a secret; the library's text holds it.
      status = absl::InvalidArgumentError(
          fmt::format("librdkafka refuses the setting `{}` or its value", name));
    }
  };
  const auto discover =
      std::chrono::duration_cast<std::chrono::milliseconds>(spec_.discover).count();
  set("bootstrap.servers", fmt::format("{}", fmt::join(spec_.brokers, ",")));
  set("client.id", "tocsin");
  set("topic.metadata.refresh.interval.ms", std::to_string(discover));
  set("allow.auto.create.topics", "false");
  set("enable.auto.commit", "false");
  set("enable.auto.offset.store", "false");
  set("enable.partition.eof", "true");
  set("isolation.level", spec_.read_uncommitted ? "read_uncommitted" : "read_committed");
  set("auto.offset.reset", "error");
  set("reconnect.backoff.max.ms", "2000");
  // Of each partition: what waits when the broker is full.
  set("queued.max.messages.kbytes", "16384");
  set("security.protocol", spec_.sasl_mechanism.empty() ? (spec_.tls ? "ssl" : "plaintext")
                           : spec_.tls                  ? "sasl_ssl"
                                                        : "sasl_plaintext");
  if (!spec_.sasl_mechanism.empty()) {
    set("sasl.mechanisms", spec_.sasl_mechanism);
    set("sasl.username", spec_.sasl_user);
    set("sasl.password", spec_.sasl_password);
  }
  if (!spec_.tls_ca.empty()) set("ssl.ca.location", spec_.tls_ca);
  if (!spec_.tls_cert.empty()) set("ssl.certificate.location", spec_.tls_cert);
  if (!spec_.tls_key.empty()) set("ssl.key.location", spec_.tls_key);
  if (!spec_.tls_key_password.empty()) set("ssl.key.password", spec_.tls_key_password);
  if (spec_.tls && !spec_.tls_verify) set("enable.ssl.certificate.verification", "false");
  if (grouped()) {
    set("group.id", spec_.group);
    set("partition.assignment.strategy", "cooperative-sticky");
    rd_kafka_conf_set_rebalance_cb(
        conf.get(),
        [](rd_kafka_t*, rd_kafka_resp_err_t error, rd_kafka_topic_partition_list_t* list,
           void* opaque) { static_cast<KafkaClient*>(opaque)->OnRebalance(error, list); });
  }
  for (const auto& [name, value] : spec_.settings) set(name, value);
  TOCSIN_RETURN_IF_ERROR(status);
  rd_kafka_conf_set_opaque(conf.get(), this);
  // What it would log comes as errors, too.
  rd_kafka_conf_set_log_cb(conf.get(), [](const rd_kafka_t*, int, const char*, const char*) {});
  rd_kafka_conf_set_error_cb(
      conf.get(), [](rd_kafka_t*, int error, const char* reason, void* opaque) {
        static_cast<KafkaClient*>(opaque)->OnError(static_cast<rd_kafka_resp_err_t>(error), reason);
      });
  std::array<char, 512> said{};
  handle_.reset(rd_kafka_new(RD_KAFKA_CONSUMER, conf.get(), said.data(), said.size()));
  if (handle_ == nullptr)
    return absl::InvalidArgumentError(fmt::format("librdkafka: {}", said.data()));
  (void)conf.release();  // it belongs to the handle now
  if (grouped()) rd_kafka_poll_set_consumer(handle_.get());
  return absl::OkStatus();
}

KafkaClient::~KafkaClient() {
  MutexLock lock(mutex_);
  topics_.clear();
}

rd_kafka_topic_t* KafkaClient::TopicOf(const std::string& topic) {
  MutexLock lock(mutex_);
  auto& held = topics_[topic];
  if (held == nullptr) held.reset(rd_kafka_topic_new(handle_.get(), topic.c_str(), nullptr));
  return held.get();
}

void KafkaClient::OnError(rd_kafka_resp_err_t error, const char* reason) {
  // Of one topic or partition: told where it is read.
  if (error == RD_KAFKA_RESP_ERR__PARTITION_EOF) return;
  MutexLock lock(mutex_);
  const bool down = error == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
  if (down) ++outages_;
  // What came before it says why.
  if (down && !problem_.ok()) return;
  absl::Status status = KafkaStatus(error, fmt::format("{}", fmt::join(spec_.brokers, ", ")));
  problem_ = absl::Status(status.code(), fmt::format("{} ({})", MessageOf(status), reason));
}

absl::Status KafkaClient::problem() const {
  MutexLock lock(mutex_);
  return problem_;
}

std::uint64_t KafkaClient::outages() const {
  MutexLock lock(mutex_);
  return outages_;
}

absl::Status KafkaClient::Usable() {
  if (!last_failure_.ok() && ports_.clock.Monotonic() < failed_at_ + kRemembered) {
    return last_failure_;
  }
  return absl::OkStatus();
}

template <typename Result>
absl::StatusOr<Result> KafkaClient::Remembered(absl::StatusOr<Result> result) {
  last_failure_ = absl::IsUnavailable(result.status()) ? result.status() : absl::OkStatus();
  failed_at_ = ports_.clock.Monotonic();
  if (result.ok()) {
    MutexLock lock(mutex_);
    problem_ = absl::OkStatus();
    return result;
  }
  // Why no broker answers is known better from what the library told.
  const absl::Status why = problem();
  if (absl::IsUnavailable(result.status()) && !why.ok()) return why;
  return result;
}

absl::StatusOr<std::string> KafkaClient::AskClusterId() {
  if (!cluster_id_.empty()) return cluster_id_;
  TOCSIN_RETURN_IF_ERROR(Usable());
  char* id = rd_kafka_clusterid(handle_.get(), kAskMs);
  absl::StatusOr<std::string> result =
      absl::UnavailableError(fmt::format("{}: no broker answers", fmt::join(spec_.brokers, ", ")));
  if (id != nullptr) {
    cluster_id_ = id;
    rd_kafka_mem_free(handle_.get(), id);
    result = cluster_id_;
  }
  return Remembered(std::move(result));
}

absl::StatusOr<std::set<KafkaPartition>> KafkaClient::AskPartitions(
    std::vector<std::string>& missing) {
  TOCSIN_RETURN_IF_ERROR(Usable());
  std::set<KafkaPartition> found;
  const auto add = [&](const rd_kafka_metadata_topic_t& topic) {
    if (topic.err != RD_KAFKA_RESP_ERR_NO_ERROR) return false;
    for (int i = 0; i < topic.partition_cnt; ++i)
      found.insert({topic.topic, topic.partitions[i].id});
    return topic.partition_cnt > 0;
  };
  bool patterns = false;
  for (const std::string& wanted : spec_.topics) {
    if (IsPattern(wanted)) {
      patterns = true;
      continue;
    }
    const rd_kafka_metadata_t* metadata = nullptr;
    const rd_kafka_resp_err_t error =
        rd_kafka_metadata(handle_.get(), 0, TopicOf(wanted), &metadata, kAskMs);
    if (error != RD_KAFKA_RESP_ERR_NO_ERROR) {
      return Remembered<std::set<KafkaPartition>>(
          KafkaStatus(error, fmt::format("{}: topics", fmt::join(spec_.brokers, ", "))));
    }
    const bool there = metadata->topic_cnt == 1 && add(metadata->topics[0]);
    if (!there) missing.push_back(wanted);
    rd_kafka_metadata_destroy(metadata);
  }
  if (patterns) {
    const rd_kafka_metadata_t* metadata = nullptr;
    const rd_kafka_resp_err_t error =
        rd_kafka_metadata(handle_.get(), 1, nullptr, &metadata, kAskMs);
    if (error != RD_KAFKA_RESP_ERR_NO_ERROR) {
      return Remembered<std::set<KafkaPartition>>(
          KafkaStatus(error, fmt::format("{}: topics", fmt::join(spec_.brokers, ", "))));
    }
    for (const std::string& wanted : spec_.topics) {
      if (!IsPattern(wanted)) continue;
      for (int i = 0; i < metadata->topic_cnt; ++i) {
        const std::string name = metadata->topics[i].topic;
        // The brokers' own topics match only by name.
        if (!name.starts_with("__") && RE2::PartialMatch(name, wanted))
          (void)add(metadata->topics[i]);
      }
    }
    rd_kafka_metadata_destroy(metadata);
  }
  return Remembered<std::set<KafkaPartition>>(std::move(found));
}

absl::StatusOr<KafkaBounds> KafkaClient::AskBounds(const KafkaPartition& partition) {
  TOCSIN_RETURN_IF_ERROR(Usable());
  KafkaBounds bounds;
  const rd_kafka_resp_err_t error =
      rd_kafka_query_watermark_offsets(handle_.get(), partition.topic.c_str(), partition.partition,
                                       &bounds.low, &bounds.high, kAskMs);
  absl::StatusOr<KafkaBounds> result = bounds;
  if (error != RD_KAFKA_RESP_ERR_NO_ERROR) result = KafkaStatus(error, partition.Key());
  return Remembered(std::move(result));
}

absl::StatusOr<std::int64_t> KafkaClient::AskOffsetAt(const KafkaPartition& partition,
                                                      WallTime time) {
  TOCSIN_RETURN_IF_ERROR(Usable());
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count();
  const KafkaList list = OneOf(partition, ms);
  rd_kafka_resp_err_t error = rd_kafka_offsets_for_times(handle_.get(), list.get(), kAskMs);
  if (error == RD_KAFKA_RESP_ERR_NO_ERROR) error = list->elems[0].err;
  if (error != RD_KAFKA_RESP_ERR_NO_ERROR) {
    return Remembered<std::int64_t>(KafkaStatus(error, partition.Key()));
  }
  if (list->elems[0].offset >= 0) return list->elems[0].offset;
  TOCSIN_ASSIGN_OR_RETURN(const KafkaBounds bounds, AskBounds(partition));
  return bounds.high;
}

absl::StatusOr<std::optional<std::int64_t>> KafkaClient::AskCommitted(
    const KafkaPartition& partition) {
  TOCSIN_RETURN_IF_ERROR(Usable());
  const KafkaList list = OneOf(partition, RD_KAFKA_OFFSET_INVALID);
  rd_kafka_resp_err_t error = rd_kafka_committed(handle_.get(), list.get(), kAskMs);
  if (error == RD_KAFKA_RESP_ERR_NO_ERROR) error = list->elems[0].err;
  using Result = std::optional<std::int64_t>;
  if (error != RD_KAFKA_RESP_ERR_NO_ERROR) {
    return Remembered<Result>(KafkaStatus(error, partition.Key()));
  }
  return list->elems[0].offset < 0 ? Result() : Result(list->elems[0].offset);
}

absl::Status KafkaClient::AskSeek(const KafkaPartition& partition, std::int64_t offset) {
  const KafkaList list = OneOf(partition, offset);
  rd_kafka_error_t* failed = rd_kafka_seek_partitions(handle_.get(), list.get(), kAskMs);
  rd_kafka_resp_err_t error = RD_KAFKA_RESP_ERR_NO_ERROR;
  if (failed != nullptr) {
    error = rd_kafka_error_code(failed);
    rd_kafka_error_destroy(failed);
  } else {
    error = list->elems[0].err;
  }
  return KafkaStatus(error, fmt::format("{}: seeking {}", partition.Key(), offset));
}

absl::Status KafkaClient::AskCommit(const KafkaPartition& partition, std::int64_t next) {
  const KafkaList list = OneOf(partition, next);
  const rd_kafka_resp_err_t error = rd_kafka_commit(handle_.get(), list.get(), 0);
  return KafkaStatus(error, fmt::format("{}: committing {}", partition.Key(), next));
}

absl::Status KafkaClient::Join(OnAssigned on_assigned) {
  on_assigned_ = std::move(on_assigned);
  const KafkaList list(rd_kafka_topic_partition_list_new(static_cast<int>(spec_.topics.size())));
  for (const std::string& topic : spec_.topics) {
    rd_kafka_topic_partition_list_add(list.get(), topic.c_str(), RD_KAFKA_PARTITION_UA);
  }
  return KafkaStatus(rd_kafka_subscribe(handle_.get(), list.get()), spec_.group);
}

void KafkaClient::Serve() {
  if (!grouped()) {
    rd_kafka_poll(handle_.get(), 0);
    return;
  }
  while (const KafkaMessage message{rd_kafka_consumer_poll(handle_.get(), 0)}) {
    if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
      OnError(message->err, rd_kafka_message_errstr(message.get()));
    }
  }
}

// Called by Serve() or Leave().
void KafkaClient::OnRebalance(rd_kafka_resp_err_t error,
                              const rd_kafka_topic_partition_list_t* list) {
  const std::set<KafkaPartition> changed = ToSet(list);
  if (error == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
    // From the end, until its lane has found where it begins.
    const KafkaList assigned(rd_kafka_topic_partition_list_copy(list));
    for (int i = 0; i < assigned->cnt; ++i) assigned->elems[i].offset = RD_KAFKA_OFFSET_END;
    rd_kafka_error_t* failed = rd_kafka_incremental_assign(handle_.get(), assigned.get());
    if (failed != nullptr) {
      OnError(rd_kafka_error_code(failed), rd_kafka_error_string(failed));
      rd_kafka_error_destroy(failed);
    }
    for (const KafkaPartition& partition : changed) {
      // Apart from the others from the first record on.
      const KafkaQueue queue(rd_kafka_queue_get_partition(handle_.get(), partition.topic.c_str(),
                                                          partition.partition));
      if (queue != nullptr) rd_kafka_queue_forward(queue.get(), nullptr);
      assigned_.insert(partition);
    }
    if (!leaving_ && on_assigned_) on_assigned_(assigned_);
    return;
  }
  for (const KafkaPartition& partition : changed) {
    assigned_.erase(partition);
    revoking_.insert(partition);
  }
  if (leaving_) {
    // Every lane is gone already.
    released_ = revoking_;
  } else if (on_assigned_) {
    on_assigned_(assigned_);
  }
  FinishRevoke();
}

void KafkaClient::Released(const KafkaPartition& partition) {
  if (!revoking_.contains(partition)) return;
  released_.insert(partition);
  FinishRevoke();
}

void KafkaClient::FinishRevoke() {
  if (released_.size() < revoking_.size()) return;
  const KafkaList list(rd_kafka_topic_partition_list_new(static_cast<int>(revoking_.size())));
  for (const KafkaPartition& partition : revoking_) {
    rd_kafka_topic_partition_list_add(list.get(), partition.topic.c_str(), partition.partition);
  }
  revoking_.clear();
  released_.clear();
  rd_kafka_error_t* failed = rd_kafka_incremental_unassign(handle_.get(), list.get());
  if (failed == nullptr) return;
  OnError(rd_kafka_error_code(failed), rd_kafka_error_string(failed));
  rd_kafka_error_destroy(failed);
}

void KafkaClient::Leave() {
  leaving_ = true;
  on_assigned_ = nullptr;
  if (!revoking_.empty()) {
    released_ = revoking_;
    FinishRevoke();
  }
  if (grouped()) rd_kafka_consumer_close(handle_.get());
}

}  // namespace tocsin
