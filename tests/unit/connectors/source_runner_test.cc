#include "connectors/source_runner.h"

#include <gtest/gtest.h>

#include <deque>
#include <memory>

#include "broker/virtual/one_thread_executor.h"

namespace tocsin {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A source of numbers: batch n is the event n and the position n. It replays from its position.
class ScriptedConnector final : public SourceConnector {
 public:
  explicit ScriptedConnector(Executor& executor) : executor_(executor) {}

  void Connect(const LaneState& restored, Done done) override {
    ++connects;
    next_ = restored.position.value.empty() ? 1 : std::stoi(restored.position.value) + 1;
    Answer(std::move(done), connect_error);
  }
  void Poll(Duration, PollDone done) override {
    EXPECT_EQ(pending_, nullptr) << "two polls at once";
    pending_ = std::move(done);
    Give();
  }
  void Commit(const SourcePosition& position, Done done) override {
    EXPECT_FALSE(committing_) << "two commits at once";
    committing_ = true;
    executor_.PostAt(slow_commit, [this, position, done = std::move(done)]() mutable {
      committing_ = false;
      absl::Status status = std::exchange(commit_error, absl::OkStatus());
      if (status.ok()) committed = position.value;
      done(std::move(status));
    });
  }
  void Settled(std::span<const LaneEventRef> events, SettledAs) override {
    settled += events.size();
  }
  void Cancel() override {
    cancelled_ = true;
    Give();
  }

  void Offer(int count) {
    available_ += count;
    Give();
  }
  void FailPoll(absl::Status status) {
    poll_error_ = std::move(status);
    Give();
  }

  int connects = 0;
  std::size_t settled = 0;
  absl::Status connect_error;
  absl::Status commit_error;
  Instant slow_commit;  // no commit is answered before
  std::string committed;

 private:
  void Answer(Done done, absl::Status status) {
    executor_.Post([done = std::move(done), status = std::move(status)]() mutable {
      done(std::move(status));
    });
  }
  void Give() {
    if (pending_ == nullptr) return;
    absl::StatusOr<SourceBatch> answer = SourceBatch();
    if (cancelled_) {
      answer = absl::CancelledError("cancelled");
    } else if (!poll_error_.ok()) {
      answer = std::exchange(poll_error_, absl::OkStatus());
    } else if (available_ > 0) {
      --available_;
      EventBuilder builder(std::to_string(next_), "/s", "t");
      answer->events.push_back(Event::FromTrustedBytes(std::move(builder).Encode()));
      answer->position.value = std::to_string(next_++);
    } else {
      return;
    }
    executor_.Post([done = std::exchange(pending_, nullptr), answer = std::move(answer)]() mutable {
      done(std::move(answer));
    });
  }

  Executor& executor_;
  PollDone pending_;
  int next_ = 1;
  int available_ = 0;
  bool cancelled_ = false;
  bool committing_ = false;
  absl::Status poll_error_;
};

class ScriptedSink final : public EventSink {
 public:
  explicit ScriptedSink(Executor& executor) : executor_(executor) {}

  void Attach(LaneTraits, OnSettled on_settled, AttachDone done) override {
    ++attaches;
    attached = true;
    settled = std::move(on_settled);
    executor_.Post([this, done = std::move(done)]() mutable { done(lane); });
  }
  void Append(const SourceBatch& batch, Done done) override {
    EXPECT_FALSE(under_way_) << "two batches at once";
    under_way_ = true;
    if (no_room) {
      waits_for_room_ = std::move(done);
      return;
    }
    if (hold) {
      held_ = [this, &batch, done = std::move(done)]() mutable { Finish(batch, std::move(done)); };
      return;
    }
    executor_.Post(
        [this, &batch, done = std::move(done)]() mutable { Finish(batch, std::move(done)); });
  }
  void Detach(Done done) override {
    attached = false;
    executor_.Post([done = std::move(done)]() mutable { done(absl::OkStatus()); });
  }
  void GiveUp() override {
    if (!waits_for_room_) return;
    under_way_ = false;
    executor_.Post([done = std::exchange(waits_for_room_, nullptr)]() mutable {
      done(absl::ResourceExhaustedError("no room on the disk"));
    });
  }
  void Release() {
    hold = false;
    if (held_) executor_.Post(std::move(held_));
    held_ = nullptr;
  }

  int attaches = 0;
  bool attached = false;
  bool hold = false;
  bool no_room = false;              // the broker has taken it and its disk is full
  std::deque<absl::Status> answers;  // then OK
  bool durable_on_error = false;
  LaneState lane;
  std::vector<std::string> ids;
  OnSettled settled;

 private:
  void Finish(const SourceBatch& batch, Done done) {
    under_way_ = false;
    absl::Status answer;
    if (!answers.empty()) {
      answer = answers.front();
      answers.pop_front();
    }
    if (answer.ok() || durable_on_error) {
      for (const Event& event : batch.events) ids.push_back(std::string(event.View().id));
      lane.position = batch.position;
      durable_on_error = false;
    }
    done(std::move(answer));
  }

  Executor& executor_;
  bool under_way_ = false;
  Task held_;
  Done waits_for_room_;
};

class SourceRunnerTest : public ::testing::Test {
 protected:
  SourceRunnerTest() {
    runner_ = std::make_unique<SourceRunner>(
        SourceRunnerOptions(),
        SourceRunner::Ports{connector_, sink_, executor_, clock_, random_,
                            [this](const absl::Status& status) { reports_.push_back(status); }});
    runner_->Start();
    executor_.RunUntilIdle();
  }
  ~SourceRunnerTest() override {
    if (runner_ == nullptr) return;
    bool stopped = false;
    runner_->Stop([&stopped] { stopped = true; });
    executor_.RunUntilIdle();
    EXPECT_TRUE(stopped);
  }

  std::vector<std::string> Numbers(int last) {
    std::vector<std::string> numbers;
    for (int i = 1; i <= last; ++i) numbers.push_back(std::to_string(i));
    return numbers;
  }

  VirtualClock clock_;
  OneThreadExecutor executor_{clock_};
  SeededRandom random_{1};
  ScriptedConnector connector_{executor_};
  ScriptedSink sink_{executor_};
  std::vector<absl::Status> reports_;
  std::unique_ptr<SourceRunner> runner_;
};

TEST_F(SourceRunnerTest, CarriesBatchesInOrderAndCommitsThem) {
  connector_.Offer(10);
  executor_.RunUntilIdle();
  EXPECT_EQ(sink_.ids, Numbers(10));
  EXPECT_EQ(connector_.committed, "10");
  EXPECT_EQ(runner_->status().events, 10U);
  EXPECT_EQ(runner_->status().state, SourceState::kRunning);
  EXPECT_TRUE(reports_.empty());
}

TEST_F(SourceRunnerTest, F44NothingIsCommittedBeforeItIsDurable) {
  sink_.hold = true;
  connector_.Offer(3);
  executor_.RunUntilIdle();
  EXPECT_EQ(connector_.committed, "");
  sink_.Release();
  executor_.RunUntilIdle();
  EXPECT_EQ(connector_.committed, "3");
}

TEST_F(SourceRunnerTest, RefusedBatchIsHandedInAgainBeforeAnyOther) {
  for (int i = 0; i < 5; ++i) sink_.answers.push_back(absl::ResourceExhaustedError("full"));
  connector_.Offer(4);
  executor_.RunUntilIdle();
  EXPECT_EQ(runner_->status().state, SourceState::kFull);
  EXPECT_EQ(runner_->status().last_error, "full");
  executor_.RunFor(seconds(2));
  EXPECT_EQ(sink_.ids, Numbers(4));
  EXPECT_EQ(runner_->status().state, SourceState::kRunning);
  EXPECT_EQ(runner_->status().last_error, "");
  EXPECT_EQ(runner_->status().refused, 5U);
  EXPECT_EQ(connector_.connects, 1);
}

TEST_F(SourceRunnerTest, FailedPollBacksOffAndGoesOnFromWhatIsDurable) {
  connector_.Offer(2);
  executor_.RunUntilIdle();
  connector_.FailPoll(absl::UnavailableError("gone"));
  executor_.RunUntilIdle();
  EXPECT_EQ(runner_->status().state, SourceState::kWaiting);
  EXPECT_EQ(runner_->status().last_error, "gone");
  EXPECT_EQ(connector_.connects, 1);
  connector_.Offer(2);
  executor_.RunFor(seconds(1));
  EXPECT_EQ(connector_.connects, 2);
  EXPECT_EQ(sink_.ids, Numbers(4));
  ASSERT_EQ(reports_.size(), 2U);
  EXPECT_FALSE(reports_[0].ok());
  EXPECT_TRUE(reports_[1].ok());
  EXPECT_EQ(runner_->status().last_error, "");
}

TEST_F(SourceRunnerTest, BackoffDoublesUpToItsMaximum) {
  connector_.connect_error = absl::UnavailableError("down");
  connector_.FailPoll(absl::UnavailableError("down"));
  executor_.RunFor(seconds(20));
  const int early = connector_.connects;
  EXPECT_GT(early, 5);
  executor_.RunFor(seconds(300));
  // Full maximum is 30 s, at least half of it: 10 to 20 tries.
  EXPECT_LE(connector_.connects - early, 21);
  EXPECT_GE(connector_.connects - early, 9);
  connector_.connect_error = absl::OkStatus();
  executor_.RunFor(seconds(31));
  EXPECT_EQ(runner_->status().state, SourceState::kRunning);
}

TEST_F(SourceRunnerTest, BatchOfUnknownOutcomeIsNeitherLostNorDoubled) {
  for (const bool was_durable : {false, true}) {
    sink_.durable_on_error = was_durable;
    sink_.answers.push_back(absl::UnknownError("the journal's answer is not known"));
    connector_.Offer(3);
    executor_.RunFor(seconds(2));
    connector_.Offer(
        10);  // what was polled before the failure is offered again by a replaying source
    executor_.RunFor(seconds(2));
    for (std::size_t i = 0; i < sink_.ids.size(); ++i)
      EXPECT_EQ(sink_.ids[i], std::to_string(i + 1));
  }
  EXPECT_GE(sink_.ids.size(), 20U);
}

TEST_F(SourceRunnerTest, PollFailureWaitsForTheBatchThatIsUnderWay) {
  sink_.hold = true;
  connector_.Offer(1);
  executor_.RunUntilIdle();
  connector_.FailPoll(absl::UnavailableError("gone"));
  executor_.RunFor(seconds(60));
  EXPECT_EQ(sink_.attaches, 1) << "attached anew while a batch was under way";
  sink_.Release();
  connector_.Offer(1);
  executor_.RunFor(seconds(60));
  EXPECT_EQ(sink_.ids, Numbers(2));
}

TEST_F(SourceRunnerTest, F44FailedCommitIsMadeUpForByTheNext) {
  connector_.commit_error = absl::UnavailableError("no");
  connector_.Offer(1);
  executor_.RunUntilIdle();
  EXPECT_EQ(connector_.committed, "");
  EXPECT_EQ(runner_->status().errors, 1U);
  connector_.Offer(1);
  executor_.RunUntilIdle();
  EXPECT_EQ(connector_.committed, "2");
}

TEST_F(SourceRunnerTest, SlowCommitHoldsUpNothingAndIsMadeUpForByOne) {
  connector_.slow_commit = clock_.Monotonic() + seconds(5);
  connector_.Offer(20);
  executor_.RunUntilIdle();
  EXPECT_EQ(sink_.ids, Numbers(20));
  EXPECT_EQ(connector_.committed, "");
  executor_.RunFor(seconds(6));
  EXPECT_EQ(connector_.committed, "20");
}

TEST_F(SourceRunnerTest, BackoffBeginsAnewAfterASuccess) {
  for (int outage = 0; outage < 20; ++outage) {
    connector_.FailPoll(absl::UnavailableError("gone"));
    executor_.RunFor(milliseconds(250));  // the first wait is at most 200 ms
    ASSERT_EQ(connector_.connects, 2 + outage);
    connector_.Offer(1);
    executor_.RunUntilIdle();
  }
}

TEST_F(SourceRunnerTest, FinishedLaneIsShownAndStaysAttached) {
  connector_.Offer(1);
  executor_.RunUntilIdle();
  connector_.FailPoll(absl::OutOfRangeError("the end"));
  executor_.RunFor(seconds(60));
  EXPECT_EQ(runner_->status().state, SourceState::kFinished);
  EXPECT_TRUE(sink_.attached);
  EXPECT_EQ(connector_.connects, 1);
}

TEST_F(SourceRunnerTest, SettledIsHeardOnlyWhileConnected) {
  sink_.settled({{Offset(1), "1"}}, SettledAs::kAcked);
  EXPECT_EQ(connector_.settled, 1U);
  connector_.connect_error = absl::UnavailableError("down");
  connector_.FailPoll(absl::UnavailableError("down"));
  executor_.RunFor(seconds(1));
  sink_.settled({{Offset(2), "2"}}, SettledAs::kAcked);
  EXPECT_EQ(connector_.settled, 1U);
}

TEST_F(SourceRunnerTest, StopWhileTheBrokerIsFullIsPromptAndDetaches) {
  for (int i = 0; i < 100; ++i) sink_.answers.push_back(absl::ResourceExhaustedError("full"));
  connector_.Offer(4);
  executor_.RunFor(milliseconds(250));
  bool stopped = false;
  runner_->Stop([&stopped] { stopped = true; });
  executor_.RunUntilIdle();
  EXPECT_TRUE(stopped);
  EXPECT_FALSE(sink_.attached);
  EXPECT_EQ(runner_->status().state, SourceState::kStopped);
  runner_.reset();
  executor_.RunFor(seconds(60));  // its timers do nothing any more
  EXPECT_TRUE(sink_.ids.empty());
}

TEST_F(SourceRunnerTest, StopWaitsForTheBatchThatIsUnderWay) {
  sink_.hold = true;
  connector_.Offer(2);
  executor_.RunUntilIdle();
  bool stopped = false;
  runner_->Stop([&stopped] { stopped = true; });
  executor_.RunUntilIdle();
  EXPECT_FALSE(stopped);
  sink_.Release();
  executor_.RunUntilIdle();
  EXPECT_TRUE(stopped);
  EXPECT_EQ(sink_.ids, Numbers(1));
  // Confirmed, too: another member of a group goes on behind it.
  EXPECT_EQ(connector_.committed, "1");
  runner_.reset();
}

TEST_F(SourceRunnerTest, StopDoesNotWaitForRoomOnTheDiskAndConfirmsNothing) {
  sink_.no_room = true;
  connector_.Offer(2);
  executor_.RunUntilIdle();
  bool stopped = false;
  runner_->Stop([&stopped] { stopped = true; });
  executor_.RunUntilIdle();
  EXPECT_TRUE(stopped);
  EXPECT_FALSE(sink_.attached);
  EXPECT_EQ(connector_.committed, "");
  runner_.reset();
}

TEST_F(SourceRunnerTest, StopTriesAFailedCommitOnceMoreAndOnlyOnce) {
  connector_.commit_error = absl::UnavailableError("no coordinator");
  connector_.Offer(1);
  executor_.RunUntilIdle();
  EXPECT_EQ(runner_->status().last_error, "no coordinator");
  EXPECT_EQ(connector_.committed, "");
  bool stopped = false;
  connector_.commit_error = absl::UnavailableError("still none");
  runner_->Stop([&stopped] { stopped = true; });
  executor_.RunUntilIdle();
  EXPECT_TRUE(stopped);
  EXPECT_EQ(runner_->status().errors, 2U);
  runner_.reset();
}

TEST_F(SourceRunnerTest, FailureOfACommitIsNotShownWhenALaterOneSucceeded) {
  connector_.commit_error = absl::UnavailableError("no coordinator");
  connector_.Offer(1);
  executor_.RunUntilIdle();
  EXPECT_EQ(runner_->status().last_error, "no coordinator");
  connector_.Offer(1);
  executor_.RunUntilIdle();
  EXPECT_EQ(connector_.committed, "2");
  EXPECT_EQ(runner_->status().last_error, "");
  EXPECT_EQ(runner_->status().errors, 1U);
}

}  // namespace
}  // namespace tocsin
