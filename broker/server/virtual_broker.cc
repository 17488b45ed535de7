#include "broker/server/virtual_broker.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/status.h"
#include "broker/server/plan_builder.h"

namespace tocsin {
namespace {

constexpr std::uint32_t kCredit = 1'000'000;
constexpr std::uint64_t kHashSeed = 1;
constexpr Duration kNever = std::chrono::hours(24 * 36'500);

PartitionOptions OptionsOf(const Config& config, bool boots) {
  PartitionOptions options = ToPartitionOptions(config.broker, config.broker.partitions, kHashSeed);
  options.retention_age = kNever;
  options.retention_bytes = UINT64_MAX / 2;
  options.checkpoint_bytes = UINT64_MAX / 2;
  options.checkpoint_every = kNever;
  options.between_fires = Duration::zero();
  options.settlements_wait = Duration::zero();
  options.boot_id = boots ? 1 : 0;
  return options;
}

}  // namespace

VirtualBroker::VirtualBroker(const Config& config, const VirtualBrokerOptions& options)
    : config_(config), partition_options_(OptionsOf(config, options.boots)), clock_(options.from) {}

VirtualBroker::~VirtualBroker() = default;

void VirtualBroker::Failed(PartitionId, const absl::Status& status) {
  TOCSIN_CHECK(false, "a journal in memory failed: {}", MessageOf(status));
}

absl::Status VirtualBroker::Start(std::shared_ptr<WorkerLink> worker,
                                  std::function<bool()> answer) {
  ShardsOptions shards_options;
  shards_options.partition = partition_options_;
  shards_ = std::make_unique<Shards>(
      shards_options, Shards::Ports{journal_, {&executor_}, clock_, {&random_}, *this});
  dispatcher_ = std::make_unique<Dispatcher>(*shards_, *shards_);
  shards_->SetDispatcher(*dispatcher_);
  TOCSIN_ASSIGN_OR_RETURN(plan_, BuildPlan(config_, 1, *dispatcher_));
  next_.assign(config_.broker.partitions, Offset());
  worker_ = std::move(worker);
  answer_ = std::move(answer);
  SessionHello hello;
  hello.worker = "virtual";
  for (const FunctionConfig& function : config_.functions) {
    hello.functions.push_back(function.name);
  }
  hello.credit.events = kCredit;
  session_ = dispatcher_->Attach(hello, worker_, clock_.Monotonic());
  shards_->Open(plan_, [](const absl::Status& status) {
    TOCSIN_CHECK(status.ok(), "a broker in memory: {}", MessageOf(status));
  });
  Settle();
  return absl::OkStatus();
}

void VirtualBroker::Settle() {
  do {
    executor_.RunUntilIdle();
    session_->OnHeartbeat(clock_.Monotonic());
  } while (answer_() || executor_.HasWork());
}

bool VirtualBroker::StepTowards(Instant when) {
  const std::optional<Instant> timer = executor_.NextTimer();
  const Instant next = timer ? std::min(*timer, when) : when;
  clock_.Advance(std::max(next - clock_.Monotonic(), Duration::zero()));
  Settle();
  return clock_.Monotonic() < when;
}

Arrival VirtualBroker::Publish(std::string_view event) {
  Arrival arrival;
  const auto bytes = std::make_shared<const std::string>(event);
  PublishBatch batch;
  PartitionId home;
  arrival.refusal =
      PreparePublished(*bytes, partition_options_.event_limits, partition_options_.hops_max,
                       partition_options_.hash_seed, partition_options_.partitions,
                       batch.events.emplace_back(), home);
  if (!arrival.refusal.ok()) return arrival;
  batch.keep_alive = bytes;
  batch.bytes = bytes->size();
  batch.done = [&arrival](const PublishOutcome& outcome) {
    arrival.refusal = outcome.status;
    for (const PublishVerdict& verdict : outcome.verdicts) {
      arrival.duplicate = verdict.duplicate;
      if (arrival.refusal.ok()) arrival.refusal = verdict.refusal;
    }
  };
  const absl::Status taken = shards_->TryPublish(home, batch);
  if (!taken.ok()) arrival.refusal = taken;
  Settle();
  return arrival;
}

Arrival VirtualBroker::Arrive(std::string_view source, std::string_view event) {
  Arrival arrival;
  LaneBatch batch;
  batch.lane.source = std::string(source);
  batch.events.emplace_back(event);
  batch.position = fmt::format("{}", ++arrived_);
  batch.done = [&arrival](const absl::Status& status) { arrival.refusal = status; };
  const PartitionId home = PartitionOfLane(batch.lane, config_.broker.partitions);
  const absl::Status taken = shards_->TryAppendLane(home, batch);
  if (!taken.ok()) arrival.refusal = taken;
  Settle();
  return arrival;
}

std::vector<PartitionSnapshot> VirtualBroker::Snapshots() {
  std::vector<PartitionSnapshot> snapshots;
  shards_->Snapshots(
      [&snapshots](std::vector<PartitionSnapshot> taken) { snapshots = std::move(taken); });
  Settle();
  return snapshots;
}

std::vector<EventRecordInfo> VirtualBroker::NewEvents() {
  std::vector<EventRecordInfo> events;
  for (std::uint32_t id = 0; id < next_.size(); ++id) {
    bool more = true;
    while (more) {
      more = false;
      shards_->Post(PartitionId(id), [&](Partition& partition) {
        partition.ReadEvents(next_[id], 1000, std::size_t{1} << 20,
                             [&](absl::StatusOr<EventPage> page) {
                               TOCSIN_CHECK(page.ok(), "{}", MessageOf(page.status()));
                               for (EventRecordInfo& event : page->events) {
                                 events.push_back(std::move(event));
                               }
                               next_[id] = page->next;
                               more = page->next < page->durable_end;
                             });
      });
      Settle();
    }
  }
  return events;
}

std::vector<Letter> VirtualBroker::NewLetters() {
  std::vector<Letter> letters;
  for (std::uint32_t id = 0; id < next_.size(); ++id) {
    shards_->Post(PartitionId(id), [&](Partition& partition) {
      for (const LetterSummary& summary : partition.OpenLetters()) {
        if (!letters_seen_.insert(FormatDeliveryId(summary.id)).second) continue;
        partition.ReadLetter(summary.id, [&](absl::StatusOr<Letter> letter) {
          TOCSIN_CHECK(letter.ok(), "{}", MessageOf(letter.status()));
          letters.push_back(*std::move(letter));
        });
      }
    });
    Settle();
  }
  return letters;
}

}  // namespace tocsin
