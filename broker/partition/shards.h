// Shards: owns the partitions and gives each its turns. One executor per shard; partition p lives
// on executor p % shards. Two classes of work reach a shard:
//
//   ingest   publishes and lane batches: bounded by bytes, what is appended and not yet durable
//            included; refused (kResourceExhausted) when full
//   control  answers, wakes, reloads, admin: never refused, bounded by construction
//
// A turn takes all control first, then ingest, then ends the turn of each partition that was
// touched or is due. Vectors cross threads, never single events.
//
// Threading: public methods are thread-safe unless they say otherwise.

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "broker/partition/partition.h"

namespace tocsin {

struct ShardsOptions {
  PartitionOptions partition;                            // `id` is set for each
  std::size_t ingest_bytes_max = std::size_t{16} << 20;  // per shard
};

class Shards final : public AnswerSink, public PartitionWaker, public PartitionRouter {
 public:
  struct Ports {
    Journal& journal;
    std::vector<Executor*> executors;  // one per shard
    const Clock& clock;
    std::vector<Random*> randoms;  // one per shard
    PartitionObserver& observer;
  };

  Shards(const ShardsOptions& options, const Ports& ports);
  ~Shards() override;

  // Before Open(). The dispatcher is made with this object as its ports.
  void SetDispatcher(Dispatcher& dispatcher);

  // The plan, once the triggers of the API are known; runs on the first shard's executor.
  using StoredTriggers = std::map<std::string, std::string>;  // Partition::StoredTriggers()
  using MakePlan = absl::AnyInvocable<absl::StatusOr<std::shared_ptr<const RoutePlan>>(
      const StoredTriggers& stored)>;

  // Opens every partition, then applies the plan to each. `done` once, on some shard's executor.
  void Open(MakePlan make_plan, absl::AnyInvocable<void(absl::Status)> done);
  void Open(const std::shared_ptr<const RoutePlan>& plan,
            absl::AnyInvocable<void(absl::Status)> done);

  std::uint32_t partition_count() const;

  // Not OK: nothing was taken, `done` is not called and `batch` is untouched. TryPublish() may do
  // the partition's work inside the call if the batch says `here`; see Executor::Dispatch().
  //   kResourceExhausted  full: again later
  //   kUnavailable        the journal failed: the process is ending
  absl::Status TryPublish(PartitionId partition, PublishBatch& batch);
  absl::Status TryAppendLane(PartitionId partition, LaneBatch& batch);

  // Runs `work` on the partition's executor as control, then ends the partition's turn.
  void Post(PartitionId partition, absl::AnyInvocable<void(Partition&)> work);

  // To every partition.
  void ApplyPlan(const std::shared_ptr<const RoutePlan>& plan);
  void ChangePlan(const std::shared_ptr<const PlanChange>& change);
  void RebasePlan(const std::shared_ptr<const PlanRebase>& rebase);

  // Gathers one snapshot of each, in order.
  void Snapshots(absl::AnyInvocable<void(std::vector<PartitionSnapshot>)> done);

  // Ends everything in order: see Partition::Close().
  void Close(absl::AnyInvocable<void(absl::Status)> done);

  void OnAnswers(PartitionId partition, AnswerBatch batch) override;
  void Wake(PartitionId partition) override;
  void Forward(PartitionId home, LaneBatch batch) override;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace tocsin
