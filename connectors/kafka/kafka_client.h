// KafkaClient: what reads for all lanes of a source, and the thread on which it may be asked what
// takes time.
//
// Each lane reads its partition by itself (the library's simple interface): its queue is its own,
// so a lane that is not polled is not fetched for, and it begins at exactly the offset that it
// names. With a group, a second handle of the library is a member of it and says which partitions
// are ours.
//
// Threading: the library's callbacks run on `lanes`. Calls named Ask... block for some seconds at
// most: on `control` only. Others do not wait for the network.

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/base/mutex.h"
#include "connectors/kafka/kafka_group.h"
#include "connectors/kafka/kafka_handle.h"
#include "connectors/kafka/kafka_spec.h"

namespace tocsin {

// The offsets that a partition holds: from the oldest to behind the newest.
struct KafkaBounds {
  std::int64_t low = 0, high = 0;
};

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
  KafkaGroup* group() { return group_.get(); }  // null: alone
  rd_kafka_topic_t* TopicOf(const std::string& topic);

  // --- on `control` ---
  absl::StatusOr<std::string> AskClusterId();
  // The partitions of every topic the spec names; `missing` are names that are none.
  absl::StatusOr<std::set<KafkaPartition>> AskPartitions(std::vector<std::string>& missing);
  absl::StatusOr<KafkaBounds> AskBounds(const KafkaPartition& partition);
  // The first offset at or behind a time; the end if there is none.
  absl::StatusOr<std::int64_t> AskOffsetAt(const KafkaPartition& partition, WallTime time);
  // What the group committed; nullopt: nothing, or there is no group.
  absl::StatusOr<std::optional<std::int64_t>> AskCommitted(const KafkaPartition& partition);

  // On `lanes`, often enough: the library's callbacks.
  void Serve();

  // OK while a broker is reachable, as far as the library told.
  absl::Status problem() const;
  // Problem or not: counts the times that all brokers went away from what reads.
  std::uint64_t outages() const;

 private:
  KafkaClient(const KafkaSpec& spec, const Ports& ports) : spec_(spec), ports_(ports) {}
  absl::Status Open();
  absl::Status Usable();
  template <typename Result>
  absl::StatusOr<Result> Remembered(absl::StatusOr<Result> result);
  void OnError(rd_kafka_resp_err_t error, const char* reason, bool reading);

  const KafkaSpec spec_;
  const Ports ports_;
  KafkaHandle handle_;
  std::shared_ptr<KafkaGroup> group_;

  // Of `control`.
  std::string cluster_id_;
  absl::Status last_failure_;  // so that a hundred lanes do not wait one after the other
  Instant failed_at_;

  mutable Mutex mutex_;
  std::map<std::string, std::unique_ptr<rd_kafka_topic_t, KafkaFree>> topics_
      ABSL_GUARDED_BY(mutex_);
  absl::Status problem_ ABSL_GUARDED_BY(mutex_);
  std::uint64_t outages_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tocsin
