// A partition of few lines, with a fake journal and faults, drives a TriggerQueue with a tiny
// window and checks each step against the naive truth: a list of events and what became of each.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "broker/base/random.h"
#include "dispatch/trigger_queue.h"

namespace tocsin {
namespace {

using std::chrono::milliseconds;

std::uint64_t BaseSeed() {
  const char* text = std::getenv("TOCSIN_SEED");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}

struct Event {
  std::string key;
  bool matched = true;
  bool redriven = false;
  bool settled = false;
  std::uint32_t journaled = 0;  // failed attempts
  bool worker_died = false;
  bool leased_once = false;
};

struct Held {
  Lease lease;
  bool sent = false;
};

class Model {
 public:
  Model(std::uint64_t seed, const TriggerPolicy& policy, bool park)
      : random_(seed), policy_(policy), park_(park) {
    limits_.entries_max = 8;
    limits_.key_entries_max = 2;
    limits_.skipped_keys_max = 3;
    limits_.spread_max = 64;
    Open();
  }

  void Run(int steps) {
    for (int step = 0; step < steps && !::testing::Test::HasFailure(); ++step) {
      Step();
      if (step % 5 == 0) Check();
    }
    Drain();
  }

  int restarts() const { return restarts_; }
  int behinds() const { return behinds_; }
  int skips() const { return skips_; }
  int redrives() const { return redrives_; }

 private:
  static Offset At(std::size_t index) { return Offset(index); }
  bool Chance(std::uint64_t in) { return random_.Below(in) == 0; }
  std::string Group(const Event& event) const {
    if (policy_.order == Order::kPartition) return "*";
    return policy_.order == Order::kNone ? "" : event.key;
  }

  void Open() {
    Offset floor = At(journal_.size());
    for (std::size_t i = 0; i < journal_.size(); ++i) {
      if (journal_[i].matched && !journal_[i].settled) {
        floor = At(i);
        break;
      }
    }
    ++epoch_;
    queue_ = std::make_unique<TriggerQueue>(PartitionId(1), TriggerOrdinal(2), Epoch(epoch_), floor,
                                            limits_, policy_, random_.Next());
    for (const auto& [group, letters] : parked_) queue_->Park(group);
    for (std::size_t i = 0; i < journal_.size(); ++i) {
      const Event& event = journal_[i];
      if (event.settled || !event.redriven) continue;
      const PriorAttempts prior = Prior(event);
      queue_->OfferFirst(CandidateAt(i), event.key, now_, &prior);
    }
    live_ = journal_.size();
    held_.clear();
    failing_.clear();
    busy_.clear();
    dead_.clear();
    undurable_.clear();
    scan_.reset();
  }

  Candidate CandidateAt(std::size_t i) const {
    Candidate candidate;
    candidate.offset = At(i);
    candidate.match_index = i;
    candidate.origin = At(i);
    candidate.event_bytes = 10;
    return candidate;
  }

  PriorAttempts Prior(const Event& event) {
    PriorAttempts prior;
    prior.count = event.journaled;
    prior.alone = event.worker_died;
    if (event.journaled > 0) prior.delay = milliseconds(random_.Below(50));
    return prior;
  }

  void Step() {
    switch (random_.Below(16)) {
      case 0:
      case 1:
      case 2:
        if (!draining_) Append();
        break;
      case 3:
      case 4:
        OfferLive();
        break;
      case 5:
      case 6:
      case 7:
        ScanSome();
        break;
      case 8:
      case 9:
        TakeSome();
        break;
      case 10:
      case 11:
      case 12:
        AnswerOne();
        break;
      case 13:
        JournalSome();
        break;
      case 14:
        TickOnce();
        break;
      case 15:
        if (!draining_ && Chance(40)) {
          ++restarts_;
          Open();
        }
        if (Chance(3)) Resolve();
        break;
    }
  }

  void Append() {
    const std::uint64_t count = 1 + random_.Below(4);
    for (std::uint64_t i = 0; i < count; ++i) {
      Event event;
      event.matched = !Chance(5);
      event.settled = !event.matched;
      // A hot key, some others, and events without a key.
      const std::uint64_t pick = random_.Below(10);
      if (pick < 5) {
        event.key = "hot";
      } else if (pick < 9) {
        event.key = std::string("key") + std::to_string(random_.Below(8));
      }
      journal_.push_back(event);
    }
  }

  // Behind the durable end by a random amount, so that scans overtake it.
  void OfferLive() {
    std::uint64_t count = 1 + random_.Below(6);
    for (; live_ < journal_.size() && count > 0; ++live_, --count) {
      const Event& event = journal_[live_];
      if (!event.matched || event.redriven) continue;
      switch (queue_->Offer(CandidateAt(live_), event.key, nullptr, now_)) {
        case OfferResult::kAdmitted:
          break;
        case OfferResult::kSkipped:
          ++skips_;
          break;
        case OfferResult::kBehind:
          ++behinds_;
          break;
      }
    }
  }

  void ScanSome() {
    if (!scan_.has_value()) {
      const std::optional<Offset> from = queue_->ScanWanted();
      if (!from.has_value()) return;
      queue_->BeginScan();
      scan_ = from->value();
    }
    std::uint64_t count = 1 + random_.Below(40);
    for (; *scan_ < journal_.size() && count > 0; --count) {
      const Event& event = journal_[*scan_];
      if (event.matched && !event.settled) {
        const PriorAttempts prior = Prior(event);
        if (queue_->OfferScanned(CandidateAt(*scan_), event.key,
                                 event.journaled > 0 ? &prior : nullptr,
                                 now_) == ScanResult::kStop) {
          EndScan();
          return;
        }
      }
      ++*scan_;
    }
    if (*scan_ == journal_.size() || Chance(5)) EndScan();
  }

  void EndScan() {
    queue_->EndScan(At(*scan_), At(journal_.size()));
    scan_.reset();
  }

  void TakeSome() {
    std::vector<Lease> leases;
    std::vector<Action> actions;
    const bool alone = Chance(3);
    queue_->TakeReady(1 + random_.Below(3), 25, alone, now_, wall_, leases, actions);
    ASSERT_TRUE(actions.empty());
    for (const Lease& lease : leases) {
      const std::size_t i = lease.candidate.offset.value();
      Event& event = journal_.at(i);
      ASSERT_FALSE(event.settled) << "leased again after it was settled: " << i;
      ASSERT_EQ(lease.alone, alone);
      ASSERT_EQ(lease.attempt, event.journaled + 1) << i;
      ASSERT_EQ(held_.count(i) + failing_.count(i) + dead_.count(i), 0u) << i;
      if (policy_.retry.attempts_max != 0) {
        ASSERT_LE(lease.attempt, policy_.retry.attempts_max);
      }
      CheckOrder(i);
      event.leased_once = true;
      held_[i] = Held{lease};
      if (const std::string group = Group(event); !group.empty()) {
        ASSERT_TRUE(busy_.insert(group).second) << "two of key " << group;
      }
      if (Chance(10)) {
        queue_->ReturnUnsent(lease.candidate.offset, lease.token);
        Forget(i);
      } else {
        queue_->SetHolder(lease.candidate.offset, SessionId(7), i + 1);
      }
    }
  }

  // Of a key, what is leased is what comes first among all that is unsettled.
  void CheckOrder(std::size_t i) const {
    const Event& event = journal_[i];
    const std::string group = Group(event);
    if (group.empty() || event.redriven) return;
    ASSERT_EQ(parked_.count(group), 0u) << "of a parked key: " << i;
    for (std::size_t before = 0; before < i; ++before) {
      const Event& other = journal_[before];
      ASSERT_FALSE(other.matched && !other.settled && !other.redriven && Group(other) == group)
          << i << " was leased before " << before;
    }
  }

  void Forget(std::size_t i) {
    held_.erase(i);
    busy_.erase(Group(journal_[i]));
  }

  void Apply(std::vector<Action>& actions) {
    for (const Action& action : actions) {
      if (const auto* settled = std::get_if<SettledAction>(&action)) {
        const std::size_t i = settled->candidate.offset.value();
        ASSERT_FALSE(journal_[i].settled);
        journal_[i].settled = true;
        if (journal_[i].redriven) parked_.erase(Group(journal_[i]));
        Forget(i);
      } else if (const auto* failed = std::get_if<AttemptFailedAction>(&action)) {
        const std::size_t i = failed->candidate.offset.value();
        ASSERT_EQ(held_.erase(i), 1u);
        failing_.insert(i);
        undurable_.push_back(*failed);
      } else if (const auto* dead = std::get_if<DeadAction>(&action)) {
        const std::size_t i = dead->candidate.offset.value();
        failing_.erase(i);
        dead_.insert(i);
        if (const std::string group = Group(journal_[i]); !group.empty()) busy_.insert(group);
      }
    }
  }

  void AnswerOne() {
    if (held_.empty()) return;
    auto found = held_.begin();
    std::advance(found, static_cast<std::ptrdiff_t>(random_.Below(held_.size())));
    const Lease lease = found->second.lease;
    const Offset offset = lease.candidate.offset;
    std::vector<Action> actions;
    const std::uint64_t pick = random_.Below(12);
    AnswerResult result = AnswerResult::kApplied;
    if (pick < 6) {
      result = queue_->Answer(offset, lease.token, Ack{}, now_, actions);
    } else if (pick == 6) {
      result = queue_->Answer(offset, lease.token, Drop{"no"}, now_, actions);
    } else if (pick == 7 || pick == 8) {
      result = queue_->Answer(offset, lease.token, Retry{}, now_, actions);
    } else if (pick == 9) {
      result = queue_->Answer(offset, lease.token, Reject{"bad"}, now_, actions);
    } else if (pick == 10) {
      result = queue_->LeaseLost(offset, lease.token, true, now_, actions);
    } else {
      result = queue_->LeaseLost(offset, lease.token, false, now_, actions);
      ASSERT_EQ(result, AnswerResult::kApplied);
      Forget(offset.value());
      return;
    }
    ASSERT_EQ(result, AnswerResult::kApplied);
    Apply(actions);
    actions.clear();
    ASSERT_EQ(queue_->Answer(offset, lease.token, Ack{}, now_, actions), AnswerResult::kStale);
    ASSERT_TRUE(actions.empty());
  }

  // Failures become durable, and dead letters are written.
  void JournalSome() {
    while (!undurable_.empty() && !Chance(4)) {
      const AttemptFailedAction failed = undurable_.front();
      undurable_.pop_front();
      const std::size_t i = failed.candidate.offset.value();
      journal_[i].journaled = failed.attempt;
      journal_[i].worker_died = failed.worker_died;
      if (dead_.count(i) == 0) {
        failing_.erase(i);
        busy_.erase(Group(journal_[i]));
        queue_->AttemptDurable(failed.candidate.offset, failed.attempt);
      }
    }
    for (auto next = dead_.begin(); next != dead_.end();) {
      const std::size_t i = *next;
      if (Chance(3)) {
        ++next;
        continue;
      }
      const std::string group = Group(journal_[i]);
      const bool park = park_ && !group.empty();
      queue_->Close(At(i), park);
      journal_[i].settled = true;
      busy_.erase(group);
      if (park) parked_[group] = i;
      next = dead_.erase(next);
    }
  }

  // Somebody redrives or discards a parked letter.
  void Resolve() {
    if (parked_.empty()) return;
    auto found = parked_.begin();
    std::advance(found, static_cast<std::ptrdiff_t>(random_.Below(parked_.size())));
    const std::string group = found->first;
    const std::size_t letter = found->second;
    const bool under_way = std::any_of(journal_.begin(), journal_.end(), [&](const Event& event) {
      return event.redriven && !event.settled && Group(event) == group;
    });
    if (under_way) return;
    if (Chance(2)) {
      queue_->Release(group);
      parked_.erase(found);
      return;
    }
    ++redrives_;
    Event event;
    event.key = journal_[letter].key;
    event.redriven = true;
    journal_.push_back(event);
    queue_->OfferFirst(CandidateAt(journal_.size() - 1), event.key, now_);
  }

  void TickOnce() {
    now_ += milliseconds(random_.Below(draining_ ? 2000 : 60));
    wall_ += std::chrono::milliseconds(10);
    std::vector<Action> actions;
    const std::optional<Instant> next = queue_->Tick(now_, wall_, actions);
    if (next.has_value()) {
      ASSERT_GT(*next, now_);
    }
    Apply(actions);
  }

  // A failed delivery in DELAYED holds its key until it is durable AND its delay is over; the model
  // knows only the former, so `busy_` is checked for leases alone.
  void Check() {
    const Offset end = At(journal_.size());
    Offset lowest = end;
    for (std::size_t i = 0; i < journal_.size(); ++i) {
      if (journal_[i].matched && !journal_[i].settled) {
        lowest = At(i);
        break;
      }
    }
    // What is not yet offered may lie below the queue's idea of the end.
    ASSERT_LE(queue_->Floor(At(live_)), std::max(lowest, At(0)));
    std::size_t redriven = 0;
    std::map<std::string, std::uint64_t> unheld;
    for (std::size_t i = 0; i < journal_.size(); ++i) {
      const Event& event = journal_[i];
      if (!event.matched || event.settled) continue;
      if (event.redriven) ++redriven;
      if (queue_->Describe(At(i), now_).empty()) ++unheld[event.key];
    }
    ASSERT_LE(queue_->entry_count(), limits_.entries_max + redriven);
    if (!park_) {
      ASSERT_LE(queue_->skipped_key_count(), limits_.skipped_keys_max);
    }
    if (queue_->behind() || live_ < journal_.size() || policy_.order != Order::kKey) return;
    for (const auto& [key, count] : unheld) {
      ASSERT_EQ(queue_->skipped_count(key), count) << "of key " << key;
    }
  }

  void Drain() {
    draining_ = true;
    for (int step = 0; step < 200'000 && !::testing::Test::HasFailure(); ++step) {
      if (step % 32 == 0 && Done()) break;
      Step();
      if (step % 64 == 0) Check();
    }
    if (::testing::Test::HasFailure()) return;
    for (std::size_t i = 0; i < journal_.size(); ++i) {
      ASSERT_TRUE(journal_[i].settled)
          << "not drained: " << i << " " << queue_->Describe(At(i), now_) << ", behind "
          << queue_->behind() << ", entries " << queue_->entry_count() << ", skipped keys "
          << queue_->skipped_key_count();
    }
    while (scan_.has_value()) ScanSome();
    ASSERT_EQ(queue_->entry_count(), 0u);
    ASSERT_EQ(queue_->leased_count() + queue_->delayed_count() + queue_->dead_count(), 0u);
    // With nothing left a last scan may be wanted by a queue that is behind; then it is live.
    for (int i = 0; i < 100 && queue_->ScanWanted().has_value(); ++i) ScanSome();
    while (scan_.has_value()) ScanSome();
    ASSERT_FALSE(queue_->behind());
    ASSERT_EQ(queue_->skipped_key_count(), 0u);
    ASSERT_FALSE(queue_->blocked_by_key());
    ASSERT_EQ(queue_->Floor(At(journal_.size())), At(journal_.size()));
  }

  bool Done() const {
    return live_ == journal_.size() && parked_.empty() &&
           std::all_of(journal_.begin(), journal_.end(),
                       [](const Event& event) { return event.settled; });
  }

  SeededRandom random_;
  const TriggerPolicy policy_;
  const bool park_;
  QueueLimits limits_;
  std::uint32_t epoch_ = 0;
  std::unique_ptr<TriggerQueue> queue_;
  Instant now_{};
  WallTime wall_{};
  std::vector<Event> journal_;
  std::size_t live_ = 0;
  std::optional<std::size_t> scan_;
  std::map<std::size_t, Held> held_;
  std::set<std::size_t> failing_, dead_;
  std::set<std::string> busy_;
  std::map<std::string, std::size_t> parked_;
  std::deque<AttemptFailedAction> undurable_;
  bool draining_ = false;
  int restarts_ = 0, behinds_ = 0, skips_ = 0, redrives_ = 0;
};

class TriggerQueueModelTest : public ::testing::TestWithParam<Order> {};

TEST_P(TriggerQueueModelTest, NothingIsLostLeasedTwiceOrOutOfOrderAndEverythingDrains) {
  int restarts = 0;
  int behinds = 0;
  int skips = 0;
  int redrives = 0;
  for (std::uint64_t run = 0; run < 24; ++run) {
    const std::uint64_t seed = BaseSeed() * 1000 + run;
    SCOPED_TRACE("TOCSIN_SEED=" + std::to_string(BaseSeed()) + " run " + std::to_string(run));
    TriggerPolicy policy;
    policy.order = GetParam();
    policy.timeout = milliseconds(300);
    policy.retry.attempts_max = run % 3 == 0 ? 2 : 4;
    policy.retry.backoff = milliseconds(20);
    policy.retry.backoff_max = milliseconds(100);
    Model model(seed, policy, run % 2 == 1);
    model.Run(900);
    if (HasFailure()) {
      std::cout << "failed: TOCSIN_SEED=" << BaseSeed() << " run " << run << "\n";
      return;
    }
    restarts += model.restarts();
    behinds += model.behinds();
    skips += model.skips();
    redrives += model.redrives();
  }
  // The runs went where the dangers are.
  EXPECT_GT(restarts, 5);
  EXPECT_GT(behinds, 500);
  if (GetParam() == Order::kKey) {
    EXPECT_GT(skips, 100);
  }
  if (GetParam() != Order::kNone) {
    EXPECT_GT(redrives, 5);
  }
}

INSTANTIATE_TEST_SUITE_P(Orders, TriggerQueueModelTest,
                         ::testing::Values(Order::kKey, Order::kPartition, Order::kNone));

}  // namespace
}  // namespace tocsin
