// The contract of SourceConnector, as tests: whatever brings events in must pass them all.
//
// A rig makes a connector onto an outside that the rig also fills; restarts keep the outside and
// the lane's state as the broker would keep it.

#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "connectors/source_connector.h"

namespace tocsin {

class SourceRig {
 public:
  virtual ~SourceRig() = default;

  // A connector that starts anew, the old one gone.
  virtual SourceConnector& Restart() = 0;
  // `count` more things for the source to find, each one event.
  virtual void Produce(int count) = 0;
  // Runs the owner's executor until `finished`, or for ten seconds of real time: false.
  virtual bool RunUntil(const std::function<bool()>& finished) = 0;
};

using SourceRigMaker = std::unique_ptr<SourceRig> (*)();

class SourceContract : public ::testing::TestWithParam<SourceRigMaker> {
 protected:
  SourceContract() : rig_(GetParam()()), connector_(&rig_->Restart()) {}

  absl::Status Connect() {
    std::optional<absl::Status> result;
    connector_->Connect(lane_, [&result](absl::Status status) { result = std::move(status); });
    EXPECT_FALSE(result.has_value()) << "`done` ran inside the call";
    EXPECT_TRUE(rig_->RunUntil([&result] { return result.has_value(); }));
    return result.value_or(absl::DeadlineExceededError("no answer"));
  }

  absl::StatusOr<SourceBatch> Poll(Duration wait = std::chrono::milliseconds(50)) {
    std::optional<absl::StatusOr<SourceBatch>> result;
    connector_->Poll(wait,
                     [&result](absl::StatusOr<SourceBatch> batch) { result = std::move(batch); });
    EXPECT_FALSE(result.has_value()) << "`done` ran inside the call";
    EXPECT_TRUE(rig_->RunUntil([&result] { return result.has_value(); }));
    return result.value_or(absl::DeadlineExceededError("no answer"));
  }

  void MakeDurable(const SourceBatch& batch) {
    lane_.position = batch.position;
    for (const LaneStatePut& put : batch.puts) lane_.entries[put.key] = put.value;
    for (const std::string& key : batch.erases) lane_.entries.erase(key);
    for (const Event& event : batch.events) ++durable_[std::string(event.View().id)];
  }

  // Polls until so many events are durable. Every `crash_every`-th batch is lost in a crash, before
  // it was durable or before anybody heard that it was.
  void Drain(std::size_t events, int crash_every = 0) {
    int batches = 0;
    int idle = 0;
    while (durable_.size() < events && idle < 400) {
      const absl::StatusOr<SourceBatch> batch = Poll();
      ASSERT_TRUE(batch.ok()) << batch.status();
      if (batch->empty()) {
        ++idle;
        continue;
      }
      ASSERT_LE(batch->events.size(), kBatchEventsMax);
      const bool crash = crash_every > 0 && ++batches % crash_every == 0;
      if (!crash || batches % (2 * crash_every) == 0) MakeDurable(*batch);
      if (crash) {
        connector_ = &rig_->Restart();
        ASSERT_TRUE(Connect().ok());
      }
    }
    EXPECT_EQ(durable_.size(), events);
  }

  void ExpectEachOnce() const {
    for (const auto& [id, count] : durable_) EXPECT_EQ(count, 1) << id;
  }

  std::unique_ptr<SourceRig> rig_;
  SourceConnector* connector_;
  LaneState lane_;
  std::map<std::string, int> durable_;  // by event id
};

TEST_P(SourceContract, WhatIsThereAndWhatComesIsGivenOnce) {
  rig_->Produce(20);
  ASSERT_TRUE(Connect().ok());
  Drain(20);
  rig_->Produce(20);
  Drain(40);
  for (int i = 0; i < 5; ++i) {
    const absl::StatusOr<SourceBatch> more = Poll();
    ASSERT_TRUE(more.ok());
    EXPECT_TRUE(more->events.empty());
  }
  ExpectEachOnce();
}

TEST_P(SourceContract, CrashesNeitherLoseNorRepeat) {
  ASSERT_TRUE(Connect().ok());
  for (int round = 1; round <= 10; ++round) {
    rig_->Produce(5);
    Drain(static_cast<std::size_t>(5 * round), 2);
    if (HasFatalFailure()) return;
  }
  ExpectEachOnce();
}

TEST_P(SourceContract, WhatWasNotDurableIsGivenAgainUnderTheSameIds) {
  rig_->Produce(10);
  std::set<std::string> ids[2];
  for (std::set<std::string>& seen : ids) {
    ASSERT_TRUE(Connect().ok());
    for (int i = 0; i < 200 && seen.size() < 10; ++i) {
      const absl::StatusOr<SourceBatch> batch = Poll();
      ASSERT_TRUE(batch.ok());
      for (const Event& event : batch->events) seen.insert(std::string(event.View().id));
    }
    connector_ = &rig_->Restart();
  }
  EXPECT_EQ(ids[0].size(), 10U);
  EXPECT_EQ(ids[0], ids[1]);
}

TEST_P(SourceContract, EventsAreValidAndEntriesWithinTheirLimits) {
  rig_->Produce(10);
  ASSERT_TRUE(Connect().ok());
  std::size_t events = 0;
  for (int i = 0; i < 200 && events < 10; ++i) {
    const absl::StatusOr<SourceBatch> batch = Poll();
    ASSERT_TRUE(batch.ok());
    for (const Event& event : batch->events) {
      ++events;
      EXPECT_TRUE(ValidateEvent(event.View(), event.bytes().size(), EventLimits()).ok());
    }
    EXPECT_FALSE(batch->position.value.empty());
    for (const LaneStatePut& put : batch->puts) {
      EXPECT_LE(put.key.size(), 256U);
      EXPECT_LE(put.value.size(), 4096U);
    }
  }
  EXPECT_EQ(events, 10U);
}

TEST_P(SourceContract, PollWithNothingThereEndsEmpty) {
  ASSERT_TRUE(Connect().ok());
  const absl::StatusOr<SourceBatch> batch = Poll();
  ASSERT_TRUE(batch.ok());
  EXPECT_TRUE(batch->empty());
}

TEST_P(SourceContract, CommitIsAnsweredAlsoWhileAPollIsPending) {
  rig_->Produce(1);
  ASSERT_TRUE(Connect().ok());
  Drain(1);
  bool polled = false;
  connector_->Poll(std::chrono::seconds(1),
                   [&polled](const absl::StatusOr<SourceBatch>&) { polled = true; });
  std::optional<absl::Status> committed;
  connector_->Commit(lane_.position, [&](absl::Status status) { committed = std::move(status); });
  EXPECT_FALSE(committed.has_value()) << "`done` ran inside the call";
  EXPECT_TRUE(rig_->RunUntil([&committed] { return committed.has_value(); }));
  EXPECT_TRUE(committed->ok());
  EXPECT_TRUE(rig_->RunUntil([&polled] { return polled; }));
}

TEST_P(SourceContract, CancelEndsEveryCall) {
  ASSERT_TRUE(Connect().ok());
  std::optional<absl::Status> ended;
  connector_->Poll(std::chrono::hours(1),
                   [&ended](const absl::StatusOr<SourceBatch>& batch) { ended = batch.status(); });
  connector_->Cancel();
  EXPECT_TRUE(rig_->RunUntil([&ended] { return ended.has_value(); }));
  EXPECT_TRUE(absl::IsCancelled(ended.value_or(absl::OkStatus())));
  EXPECT_TRUE(absl::IsCancelled(Poll().status()));
}

}  // namespace tocsin
