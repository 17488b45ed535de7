#include "broker/partition/shards.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "broker/base/check.h"
#include "broker/base/mutex.h"
#include "broker/base/status.h"
#include "broker/base/thread_executor.h"

namespace tocsin {
namespace {

using Work = absl::AnyInvocable<void(Partition&)>;

// What a thread takes that has the place of a shard's, see ThreadExecutor::OnLoan().
constexpr std::size_t kBriefBytesMax = 64 * 1024;
constexpr std::size_t kBriefAnswersMax = 64;  // of one mail
constexpr std::size_t kBriefMailsMax = 16;

struct Mail {
  std::size_t partition = 0;
  Work work;
  std::size_t bytes = 0;
  bool brief = false;
};

bool IsBrief(const AnswerBatch& batch) {
  return batch.acked.size() + batch.others.size() + batch.extends.size() + batch.lost.size() <=
         kBriefAnswersMax;
}

}  // namespace

struct Shards::Impl : std::enable_shared_from_this<Shards::Impl> {
  struct Shard {
    Executor* executor = nullptr;
    Mutex mutex;
    std::vector<Mail> control ABSL_GUARDED_BY(mutex);
    std::vector<Mail> ingest ABSL_GUARDED_BY(mutex);
    std::vector<std::size_t> woken ABSL_GUARDED_BY(mutex);
    bool posted ABSL_GUARDED_BY(mutex) = false;
    std::atomic<std::size_t> ingest_bytes{0};  // waiting in the mailbox
    std::atomic<std::size_t> flight_bytes{0};  // appended, not durable; as of the last turn
    // Owned by the shard's executor.
    std::vector<std::size_t> partitions;
    std::optional<Instant> timer;
  };

  Impl(const ShardsOptions& options_in, const Ports& ports_in)
      : options(options_in), ports(ports_in) {}

  Shard& ShardOf(std::size_t partition) { return *shards[partition % shards.size()]; }

  void Schedule(Shard& shard) ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mutex) {
    if (shard.posted) return;
    shard.posted = true;
    shard.executor->Post([self = shared_from_this(), &shard] { self->Turn(shard); });
  }

  void PostControl(std::size_t partition, Work work, bool brief = false) {
    Shard& shard = ShardOf(partition);
    const MutexLock lock(shard.mutex);
    shard.control.push_back({partition, std::move(work), 0, brief});
    Schedule(shard);
  }

  void Wake(std::size_t partition) {
    Shard& shard = ShardOf(partition);
    const MutexLock lock(shard.mutex);
    shard.woken.push_back(partition);
    Schedule(shard);
  }

  absl::Status TryIngest(std::size_t partition, std::size_t bytes, bool sync_here, Work& work) {
    Shard& shard = ShardOf(partition);
    if (failed.load(std::memory_order_relaxed)) {
      return absl::UnavailableError("the journal failed; the broker is stopping");
    }
    if (!accepting[partition].load(std::memory_order_relaxed)) {
      return absl::ResourceExhaustedError(
          "the broker takes no events now: its disk or `retention.size` is full, or it is starting "
          "or "
          "stopping; see `tocsin status`");
    }
    const std::size_t held = shard.ingest_bytes.load(std::memory_order_relaxed) +
                             shard.flight_bytes.load(std::memory_order_relaxed);
    // One larger than the budget must pass when nothing else is there.
    if (held > 0 && held + bytes > options.ingest_bytes_max) {
      return absl::ResourceExhaustedError("the broker has as much to write as it may hold");
    }
    shard.ingest_bytes.fetch_add(bytes, std::memory_order_relaxed);
    {
      const MutexLock lock(shard.mutex);
      shard.ingest.push_back({partition, std::move(work), bytes, true});
      if (!sync_here) Schedule(shard);
      if (std::exchange(shard.posted, true)) return absl::OkStatus();
    }
    shard.executor->DispatchThrough([self = shared_from_this(), &shard] { self->Turn(shard); });
    return absl::OkStatus();
  }

  bool HasLongMail(const Shard& shard) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mutex) {
    return shard.control.size() > kBriefMailsMax ||
           shard.ingest_bytes.load(std::memory_order_relaxed) > kBriefBytesMax ||
           std::any_of(shard.control.begin(), shard.control.end(),
                       [](const Mail& mail) { return !mail.brief; });
  }

  void Turn(Shard& shard) {
    const bool on_loan = ThreadExecutor::OnLoan();
    std::vector<Mail> control;
    std::vector<Mail> ingest;
    std::vector<std::size_t> woken;
    {
      const MutexLock lock(shard.mutex);
      shard.posted = false;
      if (on_loan && HasLongMail(shard)) return Schedule(shard);
      control.swap(shard.control);
      ingest.swap(shard.ingest);
      woken.swap(shard.woken);
    }
    for (Mail& mail : control) mail.work(*partitions[mail.partition]);
    for (const std::size_t partition : woken) partitions[partition]->Woken();
    std::size_t taken = 0;
    for (Mail& mail : ingest) {
      mail.work(*partitions[mail.partition]);
      taken += mail.bytes;
    }
    std::optional<Instant> next;
    std::size_t flight = 0;
    bool refuses = false;
    for (const std::size_t partition : shard.partitions) {
      const std::optional<Instant> due = partitions[partition]->EndTurn(on_loan);
      if (due && (!next || *due < *next)) next = due;
      flight += partitions[partition]->in_flight_bytes();
      if (partitions[partition]->failed()) failed.store(true, std::memory_order_relaxed);
      const bool accepts = partitions[partition]->accepts_ingest();
      refuses = (accepting[partition].exchange(accepts, std::memory_order_relaxed) && !accepts) ||
                refuses;
    }
    // Idle partitions of other shards may hold the log that is full.
    if (refuses) {
      for (const auto& other : shards) {
        if (other.get() == &shard) continue;
        const MutexLock lock(other->mutex);
        Schedule(*other);
      }
    }
    shard.flight_bytes.store(flight, std::memory_order_relaxed);
    shard.ingest_bytes.fetch_sub(taken, std::memory_order_relaxed);
    Arm(shard, next);
  }

  // One timer under way per shard: an earlier wish sets another, later ones find the shard awake.
  void Arm(Shard& shard, std::optional<Instant> next) {
    const Instant now = ports.clock.Monotonic();
    if (!next) return;
    if (*next <= now) {
      const MutexLock lock(shard.mutex);
      Schedule(shard);
      return;
    }
    if (shard.timer && *shard.timer > now && *shard.timer <= *next) return;
    shard.timer = next;
    shard.executor->PostAt(*next, [self = shared_from_this(), &shard] {
      const MutexLock lock(shard.mutex);
      self->Schedule(shard);
    });
  }

  struct Opening {
    Mutex mutex;
    std::uint32_t left ABSL_GUARDED_BY(mutex) = 0;
    absl::Status first ABSL_GUARDED_BY(mutex);
    MakePlan make_plan;
    absl::AnyInvocable<void(absl::Status)> done;
  };

  // All are open, or failed to.
  void Plan(const std::shared_ptr<Opening>& opening, Partition& first) {
    absl::Status result;
    {
      const MutexLock lock(opening->mutex);
      result = opening->first;
      opening->left = options.partition.partitions;
    }
    std::shared_ptr<const RoutePlan> plan;
    if (result.ok()) {
      absl::StatusOr<std::shared_ptr<const RoutePlan>> made =
          opening->make_plan(first.StoredTriggers());
      result = made.status();
      if (made.ok()) plan = *std::move(made);
    }
    if (!result.ok()) return opening->done(result);
    for (std::uint32_t id = 0; id < options.partition.partitions; ++id) {
      PostControl(id, [this, opening, plan, id](Partition& partition) {
        partition.ApplyPlan(plan);
        accepting[id].store(partition.accepts_ingest(), std::memory_order_relaxed);
        {
          const MutexLock lock(opening->mutex);
          if (--opening->left > 0) return;
        }
        opening->done(absl::OkStatus());
      });
    }
  }

  const ShardsOptions options;
  const Ports ports;
  Dispatcher* dispatcher = nullptr;
  std::vector<std::unique_ptr<Shard>> shards;
  std::vector<std::unique_ptr<Partition>> partitions;
  std::unique_ptr<std::atomic<bool>[]> accepting;
  std::atomic<bool> failed{false};
};

Shards::Shards(const ShardsOptions& options, const Ports& ports)
    : impl_(std::make_shared<Impl>(options, ports)) {
  TOCSIN_CHECK(!ports.executors.empty() && ports.executors.size() == ports.randoms.size());
  for (Executor* executor : ports.executors) {
    impl_->shards.push_back(std::make_unique<Impl::Shard>());
    impl_->shards.back()->executor = executor;
  }
  impl_->accepting = std::make_unique<std::atomic<bool>[]>(options.partition.partitions);
}

Shards::~Shards() = default;

void Shards::SetDispatcher(Dispatcher& dispatcher) { impl_->dispatcher = &dispatcher; }

void Shards::Open(const std::shared_ptr<const RoutePlan>& plan,
                  absl::AnyInvocable<void(absl::Status)> done) {
  Open([plan](const StoredTriggers&) { return plan; }, std::move(done));
}

void Shards::Open(MakePlan make_plan, absl::AnyInvocable<void(absl::Status)> done) {
  Impl& impl = *impl_;
  TOCSIN_CHECK(impl.dispatcher != nullptr, "SetDispatcher() comes first");
  const std::uint32_t count = impl.options.partition.partitions;
  auto opening = std::make_shared<Impl::Opening>();
  {
    const MutexLock lock(opening->mutex);
    opening->left = count;
  }
  opening->make_plan = std::move(make_plan);
  opening->done = std::move(done);
  for (std::uint32_t id = 0; id < count; ++id) {
    Impl::Shard& shard = impl.ShardOf(id);
    PartitionOptions options = impl.options.partition;
    options.id = PartitionId(id);
    Partition::Ports ports{impl.ports.journal,
                           *shard.executor,
                           impl.ports.clock,
                           *impl.ports.randoms[id % impl.shards.size()],
                           *impl.dispatcher,
                           *this,
                           impl.ports.observer,
                           [weak = std::weak_ptr(impl_), id] {
                             if (const auto self = weak.lock()) {
                               Impl::Shard& mine = self->ShardOf(id);
                               const MutexLock lock(mine.mutex);
                               self->Schedule(mine);
                             }
                           }};
    impl.partitions.push_back(std::make_unique<Partition>(options, ports));
    shard.partitions.push_back(id);
  }
  for (std::uint32_t id = 0; id < count; ++id) {
    impl.PostControl(id, [opening, self = impl_.get()](Partition& partition) {
      partition.Open([opening, self](const absl::Status& status) {
        {
          const MutexLock lock(opening->mutex);
          if (!status.ok() && opening->first.ok()) opening->first = status;
          if (--opening->left > 0) return;
        }
        self->PostControl(0, [opening, self](Partition& first) { self->Plan(opening, first); });
      });
    });
  }
}

std::uint32_t Shards::partition_count() const { return impl_->options.partition.partitions; }

absl::Status Shards::TryPublish(PartitionId partition, PublishBatch& batch) {
  const std::size_t bytes = batch.bytes;
  const bool sync_here = batch.sync_here;
  auto shared = std::make_shared<PublishBatch>(std::move(batch));
  Work work = [shared](Partition& owner) { owner.Publish(std::move(*shared)); };
  absl::Status status = impl_->TryIngest(partition.value(), bytes, sync_here, work);
  if (!status.ok()) batch = std::move(*shared);
  return status;
}

absl::Status Shards::TryAppendLane(PartitionId partition, LaneBatch& batch) {
  std::size_t bytes = batch.position.size();
  for (const std::string& event : batch.events) bytes += event.size();
  for (const Undecodable& undecodable : batch.undecodable) bytes += undecodable.bytes.size();
  auto shared = std::make_shared<LaneBatch>(std::move(batch));
  Work work = [shared](Partition& owner) { owner.AppendLane(std::move(*shared)); };
  absl::Status status = impl_->TryIngest(partition.value(), bytes, false, work);
  if (!status.ok()) batch = std::move(*shared);
  return status;
}

void Shards::Post(PartitionId partition, absl::AnyInvocable<void(Partition&)> work) {
  impl_->PostControl(partition.value(), std::move(work));
}

void Shards::ApplyPlan(const std::shared_ptr<const RoutePlan>& plan) {
  for (std::uint32_t id = 0; id < partition_count(); ++id) {
    impl_->PostControl(id, [plan](Partition& partition) { partition.ApplyPlan(plan); });
  }
}

void Shards::ChangePlan(const std::shared_ptr<const PlanChange>& change) {
  for (std::uint32_t id = 0; id < partition_count(); ++id) {
    impl_->PostControl(id, [change](Partition& partition) { partition.ChangePlan(*change); });
  }
}

void Shards::RebasePlan(const std::shared_ptr<const PlanRebase>& rebase) {
  for (std::uint32_t id = 0; id < partition_count(); ++id) {
    impl_->PostControl(id, [rebase](Partition& partition) { partition.RebasePlan(*rebase); });
  }
}

void Shards::Snapshots(absl::AnyInvocable<void(std::vector<PartitionSnapshot>)> done) {
  struct Gathering {
    Mutex mutex;
    std::vector<PartitionSnapshot> snapshots ABSL_GUARDED_BY(mutex);
    std::uint32_t left ABSL_GUARDED_BY(mutex) = 0;
    absl::AnyInvocable<void(std::vector<PartitionSnapshot>)> done;
  };
  auto gathering = std::make_shared<Gathering>();
  {
    const MutexLock lock(gathering->mutex);
    gathering->snapshots.resize(partition_count());
    gathering->left = partition_count();
  }
  gathering->done = std::move(done);
  for (std::uint32_t id = 0; id < partition_count(); ++id) {
    impl_->PostControl(id, [gathering, id](Partition& partition) {
      PartitionSnapshot snapshot = partition.Snapshot();
      std::vector<PartitionSnapshot> all;
      {
        const MutexLock lock(gathering->mutex);
        gathering->snapshots[id] = std::move(snapshot);
        if (--gathering->left > 0) return;
        all = std::move(gathering->snapshots);
      }
      gathering->done(std::move(all));
    });
  }
}

void Shards::Close(absl::AnyInvocable<void(absl::Status)> done) {
  struct Closing {
    Mutex mutex;
    std::uint32_t left ABSL_GUARDED_BY(mutex) = 0;
    absl::Status first_error ABSL_GUARDED_BY(mutex);
    absl::AnyInvocable<void(absl::Status)> done;
  };
  auto closing = std::make_shared<Closing>();
  closing->done = std::move(done);
  {
    const MutexLock lock(closing->mutex);
    closing->left = partition_count();
  }
  for (std::uint32_t id = 0; id < partition_count(); ++id) {
    impl_->PostControl(id, [closing](Partition& partition) {
      partition.Close([closing](const absl::Status& status) {
        absl::Status ended;
        {
          const MutexLock lock(closing->mutex);
          closing->first_error.Update(status);
          if (--closing->left > 0) return;
          ended = closing->first_error;
        }
        closing->done(std::move(ended));
      });
    });
  }
}

void Shards::OnAnswers(PartitionId partition, AnswerBatch batch) {
  const bool brief = IsBrief(batch);
  auto shared = std::make_shared<AnswerBatch>(std::move(batch));
  impl_->PostControl(
      partition.value(), [shared](Partition& owner) { owner.OnAnswers(std::move(*shared)); },
      brief);
}

void Shards::Wake(PartitionId partition) { impl_->Wake(partition.value()); }

void Shards::Forward(PartitionId home, LaneBatch batch) {
  auto shared = std::make_shared<LaneBatch>(std::move(batch));
  impl_->PostControl(home.value(),
                     [shared](Partition& owner) { owner.AppendLane(std::move(*shared)); });
}

}  // namespace tocsin
