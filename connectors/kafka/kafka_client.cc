#include "connectors/kafka/kafka_client.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <re2/re2.h>

#include <chrono>
#include <utility>

#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr int kAskMs = 4000;
constexpr Duration kRemembered = std::chrono::milliseconds(500);

bool IsPattern(const std::string& topic) { return topic.starts_with('^'); }

}  // namespace

absl::StatusOr<std::shared_ptr<KafkaClient>> KafkaClient::Make(const KafkaSpec& spec,
                                                               const Ports& ports) {
  std::shared_ptr<KafkaClient> client(new KafkaClient(spec, ports));
  TOCSIN_RETURN_IF_ERROR(client->Open());
  return client;
}

absl::Status KafkaClient::Open() {
  TOCSIN_ASSIGN_OR_RETURN(KafkaConf conf, MakeKafkaConf(spec_));
  rd_kafka_conf_set_opaque(conf.get(), this);
  rd_kafka_conf_set_error_cb(conf.get(),
                             [](rd_kafka_t*, int error, const char* reason, void* opaque) {
                               static_cast<KafkaClient*>(opaque)->OnError(
                                   static_cast<rd_kafka_resp_err_t>(error), reason, true);
                             });
  TOCSIN_ASSIGN_OR_RETURN(handle_, MakeKafkaConsumer(std::move(conf)));
  if (spec_.group.empty()) return absl::OkStatus();
  TOCSIN_ASSIGN_OR_RETURN(
      group_, KafkaGroup::Make(spec_, {ports_.clock, ports_.lanes,
                                       [this](rd_kafka_resp_err_t error, const char* reason) {
                                         OnError(error, reason, false);
                                       }}));
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

void KafkaClient::OnError(rd_kafka_resp_err_t error, const char* reason, bool reading) {
  // Of one topic or partition: told where it is read.
  if (error == RD_KAFKA_RESP_ERR__PARTITION_EOF) return;
  MutexLock lock(mutex_);
  const bool down = error == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
  if (down && reading) ++outages_;
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
  const KafkaList list = ListOf(partition, ms);
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
  if (group_ == nullptr) return std::nullopt;
  TOCSIN_RETURN_IF_ERROR(Usable());
  return Remembered(group_->AskCommitted(partition));
}

void KafkaClient::Serve() {
  rd_kafka_poll(handle_.get(), 0);
  if (group_ != nullptr) group_->Serve();
}

}  // namespace tocsin
