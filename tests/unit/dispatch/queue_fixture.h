// QueueFixture: a TriggerQueue that is live from offset 0, with a clock moved by hand.

#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dispatch/trigger_queue.h"

namespace tocsin {

using std::chrono::milliseconds;
using std::chrono::seconds;

class QueueFixture : public ::testing::Test {
 protected:
  QueueFixture() { policy_.retry.jitter = Jitter::kNone; }

  // Live, unless `from` is given: then behind at it.
  TriggerQueue& Make(std::optional<std::uint64_t> from = std::nullopt) {
    queue_ = std::make_unique<TriggerQueue>(PartitionId(1), TriggerOrdinal(2), Epoch(5),
                                            Offset(from.value_or(0)), limits_, policy_, 42);
    if (!from.has_value()) queue_->CaughtUp(Offset(0));
    return *queue_;
  }
  TriggerQueue& queue() { return *queue_; }

  static Candidate At(std::uint64_t offset, std::uint32_t bytes = 10) {
    Candidate candidate;
    candidate.offset = Offset(offset);
    candidate.origin = Offset(offset);
    candidate.match_index = offset;
    candidate.event_bytes = bytes;
    return candidate;
  }
  OfferResult Offer(std::uint64_t offset, std::string_view key = "",
                    const PriorAttempts* prior = nullptr) {
    return queue_->Offer(At(offset), key, prior, now_);
  }
  void Admit(std::uint64_t offset, std::string_view key = "",
             const PriorAttempts* prior = nullptr) {
    EXPECT_EQ(Offer(offset, key, prior), OfferResult::kAdmitted) << offset;
  }
  ScanResult Scanned(std::uint64_t offset, std::string_view key = "") {
    return queue_->OfferScanned(At(offset), key, nullptr, now_);
  }
  std::vector<Lease> Take(std::size_t count = 100, bool alone = false) {
    std::vector<Lease> leases;
    queue_->TakeReady(count, 1 << 20, alone, now_, wall_, leases, actions_);
    return leases;
  }
  std::vector<std::uint64_t> TakeOffsets(std::size_t count = 100, bool alone = false) {
    std::vector<std::uint64_t> offsets;
    for (const Lease& lease : Take(count, alone)) offsets.push_back(lease.candidate.offset.value());
    return offsets;
  }
  AnswerResult Answer(const Lease& lease, Outcome outcome) {
    return queue_->Answer(lease.candidate.offset, lease.token, std::move(outcome), now_, actions_);
  }
  std::optional<Instant> Tick(Duration by = Duration{0}) {
    now_ += by;
    wall_ += std::chrono::duration_cast<std::chrono::microseconds>(by);
    return queue_->Tick(now_, wall_, actions_);
  }
  // The actions since the last call.
  std::vector<Action> Actions() { return std::exchange(actions_, {}); }
  std::string Describe(std::uint64_t offset) { return queue_->Describe(Offset(offset), now_); }

  QueueLimits limits_;
  TriggerPolicy policy_;
  Instant now_{seconds(1000)};
  WallTime wall_{std::chrono::hours(24 * 365 * 50)};
  std::vector<Action> actions_;
  std::unique_ptr<TriggerQueue> queue_;
};

}  // namespace tocsin
