// KafkaClient: one librdkafka client for all lanes of a source, and the thread on which it may be
// asked what takes time.
//
// Without a group each lane reads its partition by itself (the library's simple interface): nobody
// moves it, and its queue is its own, so a lane that is not polled is not fetched for. With a group
// the library assigns partitions, cooperatively; `OnAssigned` tells which there are.
//
// Threading: the connection's callbacks come from the library's threads and are posted to `lanes`.
// Calls named Ask... block for some seconds at most: on `control` only. Others do not wait for the
// network.

#pragma once

#include <librdkafka/rdkafka.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/base/mutex.h"
#include "connectors/kafka/kafka_spec.h"

namespace tocsin {

struct KafkaFree {
  void operator()(rd_kafka_t* handle) const { rd_kafka_destroy(handle); }
  void operator()(rd_kafka_topic_t* topic) const { rd_kafka_topic_destroy(topic); }
  void operator()(rd_kafka_queue_t* queue) const { rd_kafka_queue_destroy(queue); }
  void operator()(rd_kafka_message_t* message) const { rd_kafka_message_destroy(message); }
  void operator()(rd_kafka_topic_partition_list_t* list) const {
    rd_kafka_topic_partition_list_destroy(list);
  }
};
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

// The offsets that a partition holds: from the oldest to behind the newest.
struct KafkaBounds {
  std::int64_t low = 0, high = 0;
};

// The Status of an error of the library:
//   kNotFound            unknown topic or partition
//   kPermissionDenied    not authorized, not authenticated
//   kFailedPrecondition  an offset that is not there
//   kUnavailable         the rest
absl::Status KafkaStatus(rd_kafka_resp_err_t error, std::string_view about);

class KafkaClient {
 public:
  struct Ports {
    const Clock& clock;
    Executor& lanes;    // where callbacks run
    Executor& control;  // may be blocked
  };

  // Does not wait for a connection.
  //   kInvalidArgument  a setting the library refuses
  static absl::StatusOr<std::shared_ptr<KafkaClient>> Make(const KafkaSpec& spec,
                                                           const Ports& ports);
  ~KafkaClient();

  const KafkaSpec& spec() const { return spec_; }
  const Ports& ports() const { return ports_; }
  rd_kafka_t* handle() { return handle_.get(); }
  bool grouped() const { return !spec_.group.empty(); }
  rd_kafka_topic_t* TopicOf(const std::string& topic);

  // --- on `control` ---
  absl::StatusOr<std::string> AskClusterId();
  // The partitions of every topic the spec names; `missing` are names that are none.
  absl::StatusOr<std::set<KafkaPartition>> AskPartitions(std::vector<std::string>& missing);
  absl::StatusOr<KafkaBounds> AskBounds(const KafkaPartition& partition);
  // The first offset at or behind a time; the end if there is none.
  absl::StatusOr<std::int64_t> AskOffsetAt(const KafkaPartition& partition, WallTime time);
  absl::StatusOr<std::optional<std::int64_t>> AskCommitted(const KafkaPartition& partition);
  absl::Status AskSeek(const KafkaPartition& partition, std::int64_t offset);
  absl::Status AskCommit(const KafkaPartition& partition, std::int64_t next);

  // --- with a group, on `lanes` ---
  // The partitions that are ours now, after every change. One that was taken away is read no more
  // when Released() was called for it, which completes the change.
  using OnAssigned = absl::AnyInvocable<void(const std::set<KafkaPartition>&)>;
  absl::Status Join(OnAssigned on_assigned);
  void Serve();  // often enough: the library's callbacks
  void Released(const KafkaPartition& partition);
  void Leave();

  // OK while a broker is reachable, as far as the library told.
  absl::Status problem() const;
  // Problem or not: counts the times that all brokers went away.
  std::uint64_t outages() const;

 private:
  KafkaClient(const KafkaSpec& spec, const Ports& ports) : spec_(spec), ports_(ports) {}
  absl::Status Open();
  absl::Status Usable();
  template <typename Result>
  absl::StatusOr<Result> Remembered(absl::StatusOr<Result> result);
  void OnError(rd_kafka_resp_err_t error, const char* reason);
  void OnRebalance(rd_kafka_resp_err_t error, const rd_kafka_topic_partition_list_t* list);
  void FinishRevoke();

  const KafkaSpec spec_;
  const Ports ports_;
  std::unique_ptr<rd_kafka_t, KafkaFree> handle_;

  // Of `control`.
  std::string cluster_id_;
  absl::Status last_failure_;  // so that a hundred lanes do not wait one after the other
  Instant failed_at_;

  // Of `lanes`.
  OnAssigned on_assigned_;
  std::set<KafkaPartition> assigned_;
  std::set<KafkaPartition> revoking_, released_;
  bool leaving_ = false;

  mutable Mutex mutex_;
  std::map<std::string, std::unique_ptr<rd_kafka_topic_t, KafkaFree>> topics_
      ABSL_GUARDED_BY(mutex_);
  absl::Status problem_ ABSL_GUARDED_BY(mutex_);
  std::uint64_t outages_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tocsin
