// A partition's whole life on a disk of which one call fails: the first, the second, ... until a
// life passes without meeting the fault. Whatever it struck, append, answer, letter, checkpoint or
// recovery: what was answered is there, and what was durably settled does not come again.

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "tests/unit/partition/partition_rig.h"

namespace tocsin {
namespace {

using Call = SimFileSystem::Call;

class Story {
 public:
  // False: the fault was never met.
  bool Run(Call call, int skip) {
    rig_.partition_options.checkpoint_every = std::chrono::seconds(5);
    rig_.triggers[0].policy.retry.backoff = std::chrono::milliseconds(100);
    rig_.fs.Fail(call, "", absl::InternalError("EIO (simulated)"), 1, skip);
    Live();
    const bool met = !rig_.fs.HasFaults();
    rig_.fs.ClearFaults();
    rig_.failure = absl::OkStatus();  // that life's
    EXPECT_TRUE(rig_.Restart().ok());
    rig_.Attach();
    // What was retried or died before the end of that life comes in its time.
    for (int i = 0; i < 10; ++i) {
      Note();
      RedriveAll();
      rig_.Advance(std::chrono::seconds(1));
    }
    for (const std::string& id : answered_) {
      EXPECT_TRUE(acked_.contains(id)) << id << " was answered and never ran to its end";
    }
    EXPECT_EQ(rig_.Books().pending, 0u);
    return met;
  }

 private:
  bool Works() const { return rig_.failure.ok(); }

  void Live() {
    if (!rig_.Start().ok()) return;
    for (int i = 0; i < 6 && Works(); ++i) Publish(fmt::format("e{}", i), 200);
    rig_.Attach();
    Answer(Ack{});
    Answer(Retry{"flaky", "again", std::nullopt});
    Answer(Reject{"never"});
    rig_.Advance(std::chrono::seconds(1));
    RedriveAll();
    rig_.Advance(std::chrono::seconds(6));  // a checkpoint
    // More than a segment.
    for (int i = 6; i < 12 && Works(); ++i) Publish(fmt::format("e{}", i), 12'000);
    Answer(Ack{});
    rig_.Advance(std::chrono::seconds(6));
    rig_.Kill();
    if (!Works() || !rig_.Start().ok()) return;
    rig_.Attach();
    Answer(Reject{"never"});
    Publish("last", 10);
    Answer(Ack{});
    rig_.Advance(std::chrono::seconds(6));
  }

  void Publish(const std::string& id, std::size_t bytes) {
    std::optional<PublishOutcome> answer;
    rig_.Send(id, answer, id.substr(0, 2), bytes);
    rig_.Run();
    if (answer && answer->status.ok()) answered_.insert(id);
  }

  // Answers the oldest delivery, if there is one.
  void Answer(Outcome outcome) {
    if (!Works() || rig_.worker->held.empty()) return;
    const RigWorker::Held held = rig_.worker->held.front();
    EXPECT_FALSE(durable_[held.delivery]) << held.delivery << " was settled durably before";
    if (std::holds_alternative<Ack>(outcome)) acked_.insert(held.event);
    const bool settles = !std::holds_alternative<Retry>(outcome);
    rig_.Answer(std::move(outcome), settles ? &durable_[held.delivery] : nullptr);
    rig_.Run();
  }
  void Note() {
    for (rig_.Run(); Works() && !rig_.worker->held.empty(); rig_.Run()) Answer(Ack{});
  }

  void RedriveAll() {
    rig_.shards->Post(PartitionId(0), [](Partition& partition) {
      for (const LetterSummary& letter : partition.OpenLetters()) {
        partition.Redrive(letter.id, [](const absl::Status&) {});
      }
    });
    rig_.Run();
  }

  PartitionRig rig_;
  std::set<std::string> answered_, acked_;
  std::map<std::string, bool> durable_;  // by delivery
};

class EachCallTest : public testing::TestWithParam<Call> {};

TEST_P(EachCallTest, F4WhicheverOfThemFailsNothingAnsweredIsLost) {
  int skip = 0;
  while (Story().Run(GetParam(), skip) && !HasFailure()) ++skip;
  EXPECT_FALSE(HasFailure()) << "after " << skip << " good ones";
  EXPECT_GE(skip, 2) << "the story has some of these calls";
  RecordProperty("calls", skip);
}

INSTANTIATE_TEST_SUITE_P(All, EachCallTest,
                         testing::Values(Call::kWrite, Call::kSync, Call::kCreate,
                                         Call::kPreallocate, Call::kRead),
                         [](const auto& one) {
                           switch (one.param) {
                             case Call::kWrite:
                               return "Write";
                             case Call::kSync:
                               return "Sync";
                             case Call::kCreate:
                               return "Create";
                             case Call::kRead:
                               return "Read";
                             default:
                               return "Preallocate";
                           }
                         });

}  // namespace
}  // namespace tocsin
