// KafkaGroup: this source as a member of a consumer group: which partitions are ours, what the
// group has committed. It reads no record: all that is assigned is paused at once.
//
//   assigned --> the lane runs --> revoked (OnAssigned) --> stopped (Released) --> given back
//
// The library's own way from an assignment to records is not used: a seek that meets its request
// for the start offset is undone by the answer, and records are passed over.
//
// Threading: everything on `lanes`, where the callbacks run too, but AskCommitted(), which blocks
// for some seconds at most.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "connectors/kafka/kafka_handle.h"
#include "connectors/kafka/kafka_spec.h"

namespace tocsin {

class KafkaGroup {
 public:
  // Outlive it.
  struct Ports {
    const Clock& clock;
    Executor& lanes;
    std::function<void(rd_kafka_resp_err_t error, const char* reason)> on_error;
  };

  // Does not wait for a connection.
  //   kInvalidArgument  a setting the library refuses
  static absl::StatusOr<std::shared_ptr<KafkaGroup>> Make(const KafkaSpec& spec, Ports ports);
  ~KafkaGroup();

  // The partitions that are ours now, after every change. One that was taken away is still ours for
  // the group until Released() was called for it, which completes the change.
  using OnAssigned = absl::AnyInvocable<void(const std::set<KafkaPartition>&)>;
  absl::Status Join(OnAssigned on_assigned);
  void Serve();  // often enough: the library's callbacks
  void Released(const KafkaPartition& partition);
  bool committing() const { return !pending_.empty(); }
  // What is being committed, and what comes, is answered kUnavailable at once.
  void GiveUp();
  // Gives everything back and leaves, for some seconds at most. Every lane is gone already.
  void Leave();

  // `done` once, when the group knows that everything before `next` is done with:
  //   kUnavailable  no answer in time; whether it is committed is not known
  //   others        as KafkaStatus() says
  using Done = absl::AnyInvocable<void(absl::Status)>;
  void Commit(const KafkaPartition& partition, std::int64_t next, Done done);

  // On a thread that may be blocked. nullopt: nothing is committed.
  absl::StatusOr<std::optional<std::int64_t>> AskCommitted(const KafkaPartition& partition) const;

 private:
  KafkaGroup(const KafkaSpec& spec, Ports ports) : spec_(spec), ports_(std::move(ports)) {}
  absl::Status Open();
  void OnRebalance(rd_kafka_resp_err_t error, const rd_kafka_topic_partition_list_t& list);
  void Assign(const rd_kafka_topic_partition_list_t& list);
  void FinishRevoke();
  void Failed(rd_kafka_error_t* error);  // takes it; null: nothing failed
  void Committed(std::uintptr_t number, absl::Status status);

  // Set at construction.
  const KafkaSpec spec_;
  const Ports ports_;
  KafkaHandle handle_;
  KafkaQueue commits_;  // where answers to commits come

  // Of `lanes`.
  std::weak_ptr<KafkaGroup> weak_;
  OnAssigned on_assigned_;
  std::set<KafkaPartition> assigned_;
  std::set<KafkaPartition> revoking_, released_;
  bool leaving_ = false;
  bool given_up_ = false;
  struct Pending {
    KafkaPartition partition;
    std::int64_t next = 0;
    Done done;
  };
  std::uintptr_t commit_number_ = 0;
  std::map<std::uintptr_t, Pending> pending_;
};

}  // namespace tocsin
