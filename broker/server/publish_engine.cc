#include "broker/server/publish_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/thread_executor.h"

namespace tocsin {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// Up to this size a batch is better done at once than handed to another thread; larger ones leave
// this thread free to read the next request.
constexpr std::size_t kHereBytesMax = 16 * 1024;
constexpr std::size_t kReservedMost = 1024;  // events of a piece for which memory is taken at once

absl::Status Full() {
  return absl::ResourceExhaustedError("the partition takes no more now: send again later");
}

absl::Status OutOfOrder() { return absl::ResourceExhaustedError(StreamOrder::kLate); }

}  // namespace

// The answer under way. Every partition's outcome, and Run() itself, hold one share of `open_`.
class PublishEngine::Gathering {
 public:
  Gathering(PublishCounters& counters, const PublishFrame& frame, bool durable, bool with_places,
            std::shared_ptr<StreamOrder> order, Done done)
      : counters_(counters),
        event_count_(frame.events.size()),
        order_(std::move(order)),
        done_(std::move(done)) {
    answer_.sequence = frame.sequence;
    answer_.durable = durable;
    if (with_places) answer_.places.resize(event_count_);
  }

  void Open() {
    MutexLock lock(mutex_);
    ++open_;
  }

  void Refuse(std::uint32_t index, absl::Status refusal, std::uint32_t retry_after_ms) {
    MutexLock lock(mutex_);
    AddRefusal(index, std::move(refusal), retry_after_ms);
  }

  void OnOutcome(PartitionId partition, const std::vector<std::uint32_t>& indexes,
                 const PublishOutcome& outcome, std::uint32_t retry_after_ms) {
    {
      MutexLock lock(mutex_);
      if (!outcome.status.ok()) {
        const bool full = absl::IsResourceExhausted(outcome.status);
        if (full && order_ != nullptr) order_->Refuse(partition);
        for (const std::uint32_t index : indexes) {
          AddRefusal(index, outcome.status, full ? retry_after_ms : 0);
        }
      } else {
        AddVerdicts(partition, indexes, outcome, retry_after_ms);
      }
    }
    Close();
  }

  void Close() {
    {
      MutexLock lock(mutex_);
      if (--open_ > 0) return;
    }
    // The last one: nobody else touches it any more.
    std::sort(
        answer_.exceptions.begin(), answer_.exceptions.end(),
        [](const PublishException& a, const PublishException& b) { return a.index < b.index; });
    answer_.accepted = static_cast<std::uint32_t>(event_count_ - refused_);
    counters_.events.fetch_add(answer_.accepted - duplicates_, kRelaxed);
    counters_.duplicates.fetch_add(duplicates_, kRelaxed);
    done_(answer_);
  }

 private:
  void AddRefusal(std::uint32_t index, absl::Status refusal, std::uint32_t retry_after_ms)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ++refused_;
    const bool full = absl::IsResourceExhausted(refusal);
    const bool invalid = absl::IsInvalidArgument(refusal) || absl::IsOutOfRange(refusal);
    (full      ? counters_.exhausted
     : invalid ? counters_.invalid
               : counters_.failed)
        .fetch_add(1, kRelaxed);
    answer_.exceptions.push_back({.index = index,
                                  .duplicate = false,
                                  .delayed = false,
                                  .first = std::nullopt,
                                  .refusal = std::move(refusal),
                                  .retry_after_ms = retry_after_ms});
  }

  void AddVerdicts(PartitionId partition, const std::vector<std::uint32_t>& indexes,
                   const PublishOutcome& outcome, std::uint32_t retry_after_ms)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::vector<const PublishVerdict*> verdicts;
    verdicts.reserve(outcome.verdicts.size());
    for (const PublishVerdict& verdict : outcome.verdicts) verdicts.push_back(&verdict);
    std::sort(verdicts.begin(), verdicts.end(),
              [](const PublishVerdict* a, const PublishVerdict* b) { return a->index < b->index; });
    auto next = verdicts.begin();
    std::uint64_t offset = outcome.base.value();
    for (const std::uint32_t index : indexes) {
      if (next == verdicts.end() || (*next)->index != index) {
        if (!answer_.places.empty()) answer_.places[index] = EventPlace{partition, Offset(offset)};
        ++offset;
        continue;
      }
      const PublishVerdict& verdict = **next++;
      if (verdict.delayed) {
        if (verdict.refusal.ok()) {
          duplicates_ += verdict.duplicate ? 1 : 0;
          answer_.exceptions.push_back({.index = index,
                                        .duplicate = verdict.duplicate,
                                        .delayed = true,
                                        .first = std::nullopt,
                                        .refusal = absl::OkStatus(),
                                        .retry_after_ms = 0});
          continue;
        }
      } else if (verdict.duplicate) {
        ++duplicates_;
        const EventPlace first{partition, verdict.first};
        if (!answer_.places.empty()) answer_.places[index] = first;
        answer_.exceptions.push_back({.index = index,
                                      .duplicate = true,
                                      .delayed = false,
                                      .first = first,
                                      .refusal = absl::OkStatus(),
                                      .retry_after_ms = 0});
        continue;
      }
      const bool full = absl::IsResourceExhausted(verdict.refusal);
      if (full && order_ != nullptr) order_->Refuse(partition);
      AddRefusal(index, verdict.refusal,
                 full && verdict.retry_after_ms == 0 ? retry_after_ms : verdict.retry_after_ms);
    }
    TOCSIN_CHECK(next == verdicts.end(), "a verdict on an event that was not handed in");
  }

  PublishCounters& counters_;
  const std::size_t event_count_;
  const std::shared_ptr<StreamOrder> order_;
  Done done_;

  Mutex mutex_;
  std::size_t open_ ABSL_GUARDED_BY(mutex_) = 0;
  std::size_t refused_ = 0;
  std::uint64_t duplicates_ = 0;
  PublishAnswer answer_;
};

PublishEngine::PublishEngine(const PublishEngineOptions& options, TryPublish try_publish,
                             Refused refused)
    : options_(options), try_publish_(std::move(try_publish)), refused_(std::move(refused)) {}

void PublishEngine::Run(std::shared_ptr<const void> keep_alive, const PublishFrame& frame,
                        bool with_places, std::shared_ptr<StreamOrder> order, bool alone,
                        Done done) {
  struct Piece {
    PublishBatch batch;
    std::vector<std::uint32_t> indexes;
  };
  counters_.batches.fetch_add(1, kRelaxed);
  if (order != nullptr && frame.from_refused) order->Reset();
  const auto gathering = std::make_shared<Gathering>(counters_, frame, options_.durable,
                                                     with_places, order, std::move(done));
  gathering->Open();
  std::vector<std::vector<Piece>> pieces(options_.partitions);
  std::size_t piece_count = 0;
  std::size_t bytes = 0;
  for (std::uint32_t index = 0; index < frame.events.size(); ++index) {
    const std::string_view event = frame.events[index];
    bytes += event.size();
    PublishedEvent prepared;
    PartitionId home;
    absl::Status valid = PreparePublished(event, options_.event_limits, options_.hops_max,
                                          options_.hash_seed, options_.partitions, prepared, home);
    if (!valid.ok()) {
      if (refused_) refused_(event, valid);
      gathering->Refuse(index, std::move(valid), 0);
      continue;
    }
    prepared.index = index;
    std::vector<Piece>& of_home = pieces[home.value()];
    if (of_home.empty() || of_home.back().batch.bytes + event.size() > options_.batch_bytes_max) {
      Piece& added = of_home.emplace_back();
      added.batch.keep_alive = keep_alive;
      const std::size_t share = std::min<std::size_t>(
          (frame.events.size() - index) / options_.partitions * 5 / 4 + 4, kReservedMost);
      added.batch.events.reserve(share);
      added.indexes.reserve(share);
      ++piece_count;
    }
    Piece& piece = of_home.back();
    piece.batch.bytes += event.size();
    piece.batch.events.push_back(std::move(prepared));
    piece.indexes.push_back(index);
  }
  counters_.bytes.fetch_add(bytes, kRelaxed);
  const std::uint32_t retry_after_ms = options_.retry_after_ms;
  const std::uint64_t epoch = order == nullptr ? 0 : order->epoch();
  // Who is answered before the sync must not wait for it here.
  const bool sync_here = alone && options_.durable && piece_count == 1 && bytes <= kHereBytesMax;
  std::optional<ThreadExecutor::Gathering> here;
  if (!sync_here && bytes <= kHereBytesMax) here.emplace();
  for (std::uint32_t number = 0; number < options_.partitions; ++number) {
    const PartitionId partition(number);
    bool full = false;
    for (Piece& piece : pieces[number]) {
      const bool late = order != nullptr && order->IsRefusing(partition);
      if (!full && !late) {
        gathering->Open();
        // Shared: the outcome needs it, and so does a refusal that leaves the batch untouched.
        const auto indexes =
            std::make_shared<const std::vector<std::uint32_t>>(std::move(piece.indexes));
        piece.batch.done = [gathering, partition, indexes, retry_after_ms](PublishOutcome outcome) {
          gathering->OnOutcome(partition, *indexes, outcome, retry_after_ms);
        };
        piece.batch.sync_here = sync_here;
        piece.batch.order = order;
        piece.batch.order_epoch = epoch;
        const absl::Status taken = try_publish_(partition, piece.batch);
        if (taken.ok()) continue;
        full = true;
        PublishOutcome outcome;
        outcome.status = absl::IsResourceExhausted(taken) ? Full() : taken;
        for (const std::uint32_t index : *indexes) {
          if (refused_) refused_(frame.events[index], taken);
        }
        gathering->OnOutcome(partition, *indexes, outcome, retry_after_ms);
        continue;
      }
      // What comes after a refused piece must not overtake it.
      for (const std::uint32_t index : piece.indexes) {
        if (refused_) refused_(frame.events[index], late ? OutOfOrder() : Full());
        gathering->Refuse(index, late ? OutOfOrder() : Full(), retry_after_ms);
      }
    }
  }
  gathering->Close();
}

}  // namespace tocsin
