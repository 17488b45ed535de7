// The contract of sources for the kinds of Redis that can replay, onto a real server; and what
// befalls a group there.

#include <gmock/gmock.h>

#include <csignal>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "connectors/redis/redis_source.h"
#include "connectors/redis/redis_stream.h"
#include "tests/contract/source_contract.h"
#include "tests/contract/source_mailbox.h"
#include "tests/support/redis_server.h"

namespace tocsin {
namespace {

class RedisRig : public SourceRig {
 public:
  explicit RedisRig(RedisTake take, std::string group = "") {
    spec_.name = "contract";
    spec_.unix_socket = server_.socket();
    spec_.take = take;
    spec_.key = "things";
    spec_.group = std::move(group);
    spec_.timeout = std::chrono::seconds(2);
  }
  SourceConnector& Restart() override {
    connector_.reset();  // waits for what runs
    owner_.RunUntilIdle();
    auto made = MakeRedisConnector(
        spec_, {clock_, owner_, std::make_unique<ThreadExecutor>("lane", clock_)});
    EXPECT_TRUE(made.ok()) << made.status();
    connector_ = *std::move(made);
    return *connector_;
  }
  void Produce(int count) override {
    for (int i = 0; i < count; ++i) {
      const std::string value = "v" + std::to_string(made_++);
      if (spec_.take == RedisTake::kStream) {
        server_.Do({"XADD", "things", "*", "value", value});
      } else {
        server_.Do({"LPUSH", "things", value});
      }
    }
  }
  bool RunUntil(const std::function<bool()>& finished) override {
    return owner_.RunUntil(clock_, finished);
  }
  RedisServer& server() { return server_; }
  RedisSpec& spec() { return spec_; }  // for the next Restart()

 private:
  SystemClock clock_;
  RedisServer server_;
  SourceMailbox owner_;
  RedisSpec spec_;
  std::unique_ptr<SourceConnector> connector_;
  int made_ = 0;
};

std::unique_ptr<SourceRig> MakeStream() { return std::make_unique<RedisRig>(RedisTake::kStream); }
std::unique_ptr<SourceRig> MakeList() { return std::make_unique<RedisRig>(RedisTake::kList); }

INSTANTIATE_TEST_SUITE_P(RedisStream, SourceContract, ::testing::Values(&MakeStream));
INSTANTIATE_TEST_SUITE_P(RedisList, SourceContract, ::testing::Values(&MakeList));

class RedisGroupTest : public ::testing::Test {
 protected:
  // As the broker does: a write to a server that went away is an error, not an end.
  RedisGroupTest() { std::signal(SIGPIPE, SIG_IGN); }

  absl::Status Connect() {
    std::optional<absl::Status> result;
    connector_->Connect(lane_, [&result](absl::Status status) { result = std::move(status); });
    EXPECT_TRUE(rig_.RunUntil([&result] { return result.has_value(); }));
    return result.value_or(absl::DeadlineExceededError("no answer"));
  }
  absl::StatusOr<SourceBatch> Poll() {
    std::optional<absl::StatusOr<SourceBatch>> result;
    connector_->Poll(std::chrono::milliseconds(50),
                     [&result](absl::StatusOr<SourceBatch> batch) { result = std::move(batch); });
    EXPECT_TRUE(rig_.RunUntil([&result] { return result.has_value(); }));
    return result.value_or(absl::DeadlineExceededError("no answer"));
  }
  absl::Status Commit() {
    std::optional<absl::Status> result;
    connector_->Commit(lane_.position, [&result](absl::Status status) { result = status; });
    EXPECT_TRUE(rig_.RunUntil([&result] { return result.has_value(); }));
    return result.value_or(absl::DeadlineExceededError("no answer"));
  }
  // Polls once, which gives `count` events, and they are durable.
  void Take(std::size_t count) {
    const absl::StatusOr<SourceBatch> batch = Poll();
    ASSERT_TRUE(batch.ok()) << batch.status();
    ASSERT_EQ(batch->events.size(), count);
    if (count > 0) lane_.position = batch->position;
  }
  // Ends the connection that does all but reading.
  void KillControl() {
    const std::string clients = rig_.server().Ask({"CLIENT", "LIST", "TYPE", "normal"});
    int killed = 0;
    std::istringstream lines(clients);
    for (std::string line; std::getline(lines, line);) {
      if (line.find("cmd=xreadgroup") != line.npos || line.find("cmd=client") != line.npos) {
        continue;
      }
      rig_.server().Do({"CLIENT", "KILL", "ID", line.substr(3, line.find(' ') - 3)});
      ++killed;
    }
    ASSERT_EQ(killed, 1) << clients;
  }

  RedisRig rig_{RedisTake::kStream, "g"};
  SourceConnector* connector_ = &rig_.Restart();
  LaneState lane_;
};

// The connection that acknowledges breaks while the one that reads holds.
TEST_F(RedisGroupTest, ClaimingGoesOnAfterAnAcknowledgementFailed) {
  rig_.spec().claim_after = std::chrono::milliseconds(2);
  connector_ = &rig_.Restart();
  ASSERT_TRUE(Connect().ok());
  rig_.Produce(1);
  Take(1);
  KillControl();
  EXPECT_TRUE(absl::IsUnavailable(Commit()));
  Take(0);  // while it waits, it claims
  rig_.Produce(1);
  Take(1);
  EXPECT_TRUE(Commit().ok());
}

// Made anew at the end, it would lose what was added while it was away.
TEST_F(RedisGroupTest, GroupThatIsGoneIsRefusedWithTheWayBack) {
  rig_.spec().from_end = true;
  connector_ = &rig_.Restart();
  ASSERT_TRUE(Connect().ok());
  rig_.server().Do({"XADD", "things", "5-1", "value", "a"});
  Take(1);
  ASSERT_TRUE(Commit().ok());
  rig_.server().Do({"XGROUP", "DESTROY", "things", "g"});
  rig_.server().Do({"XADD", "things", "6-0", "value", "b"});
  for (int i = 0; i < 2; ++i) {
    connector_ = &rig_.Restart();
    const absl::Status refused = Connect();
    EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
    EXPECT_THAT(std::string(refused.message()),
                ::testing::HasSubstr("`XGROUP CREATE things g 5-1 MKSTREAM`"));
    EXPECT_THAT(std::string(refused.message()),
                ::testing::HasSubstr("`tocsin sources forget contract`"));
  }
  rig_.server().Do({"XGROUP", "CREATE", "things", "g", "5-1", "MKSTREAM"});
  ASSERT_TRUE(Connect().ok());
  Take(1);
  // Also if the stream is gone, and it is not made by looking.
  rig_.server().Do({"DEL", "things"});
  EXPECT_TRUE(absl::IsFailedPrecondition(Connect()));
  EXPECT_EQ(rig_.server().Ask({"EXISTS", "things"}), "0");
  lane_ = LaneState();
  EXPECT_TRUE(Connect().ok());
}

// A stream that was read alone goes on where it was, if its group is made there.
TEST_F(RedisGroupTest, GroupForAStreamThatWasReadAloneIsAskedForAtItsPosition) {
  lane_.position.value = EncodeStreamPosition({"7-3", 12, "1-0"});
  const absl::Status refused = Connect();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("XGROUP CREATE things g 7-3 "));
}

}  // namespace
}  // namespace tocsin
