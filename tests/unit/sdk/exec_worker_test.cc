// A command per event: its input, its statuses, its end.

#include "sdk/cpp/exec_worker.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <thread>  // Run() blocks, so it needs a thread of the test's

#include "tests/unit/sdk/fake_broker.h"

namespace tocsin::sdk {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ExecWorkerTest : public ::testing::Test {
 protected:
  std::shared_ptr<FakeSession> Run(const std::string& script, bool extend = false) {
    options_.worker.connection = broker_.Connection();
    options_.function = "run";
    options_.command = {"/bin/sh", "-c", script};
    options_.extend = extend;
    options_.kill_grace = milliseconds(100);
    thread_ = std::thread([this] { status_ = RunExecWorker(options_); });
    auto session = broker_.NextSession();
    EXPECT_TRUE(session->NextFrame()->has_hello());
    session->Welcome();
    return session;
  }
  void TearDown() override {
    raise(SIGTERM);  // drains
    thread_.join();
    EXPECT_EQ(status_, 0);
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);  // neither zombies nor children
    EXPECT_EQ(errno, ECHILD);
  }

  FakeBroker broker_;
  ExecWorkerOptions options_;
  std::thread thread_;
  int status_ = -1;
};

TEST_F(ExecWorkerTest, StatusDecidesAndStandardErrorTellsWhy) {
  const auto session = Run(R"(
    case "$CE_ID" in
      1) exit 0;;
      2) echo first >&2; echo last >&2; exit 65;;
      3) echo broken >&2; exit 3;;
      4) kill -9 $$;;
    esac)");
  session->Deliver("run", 1);
  EXPECT_THAT(session->Acked(1), ElementsAre(1));
  session->Deliver("run", 2);
  EXPECT_EQ(session->NextOther().reject().reason(), "first\nlast");
  session->Deliver("run", 3);
  const v1::Answer failed = session->NextOther();
  EXPECT_EQ(failed.retry().code(), "exit_3");
  EXPECT_EQ(failed.retry().message(), "the command ended with status 3: broken");
  session->Deliver("run", 4);
  EXPECT_EQ(session->NextOther().retry().code(), "signal_9");
}

TEST_F(ExecWorkerTest, TheCommandGetsTheEventAndItsCircumstances) {
  const auto session = Run(R"(
    cat >&2
    echo " $CE_TYPE $CE_SOURCE $TOCSIN_DELIVERY_ID $TOCSIN_ATTEMPT $TOCSIN_TRIGGER" >&2
    exit 1)");
  session->Deliver("run", 1, 1, 2);
  const std::string message = session->NextOther().retry().message();
  EXPECT_THAT(message, HasSubstr(R"("data":{"total":12})"));
  EXPECT_THAT(message, HasSubstr(" order.paid /shop 1/101/3/0 2 on-order"));
}

TEST_F(ExecWorkerTest, CancelKillsTheWholeGroup) {
  const std::string fifo = testing::TempDir() + "/sdk-exec-" + std::to_string(getpid());
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const auto session = Run("if [ \"$CE_ID\" = 1 ]; then : >" + fifo + "; sleep 1000 & wait; fi");
  session->Deliver("run", 1);
  close(open(fifo.c_str(), O_RDONLY));  // comes back when the command runs
  unlink(fifo.c_str());
  session->Cancel(1);
  session->Deliver("run", 2);
  EXPECT_THAT(session->Acked(1), ElementsAre(2));
}

TEST_F(ExecWorkerTest, ACommandThatIgnoresTheEndOfItsLeaseIsKilled) {
  const auto session = Run(R"(trap "" TERM; echo "still here" >&2; while :; do sleep 0.01; done)");
  session->Deliver("run", 1, 1, 1, /*lease_ms=*/50);
  const v1::Answer answer = session->NextOther();
  EXPECT_EQ(answer.retry().code(), "timeout");
  EXPECT_THAT(answer.retry().message(),
              HasSubstr("the lease ended before the command: still here"));
}

TEST_F(ExecWorkerTest, ExtendKeepsALongCommandAlive) {
  const auto session = Run("sleep 0.3", /*extend=*/true);
  session->Deliver("run", 1, 1, 1, /*lease_ms=*/100);
  int extensions = 0;
  while (true) {
    const auto frame = session->NextFrame();
    ASSERT_TRUE(frame.has_value());
    for (const auto& other : frame->answers().others()) {
      ASSERT_TRUE(other.has_extend()) << other.ShortDebugString();
      ++extensions;
    }
    if (frame->answers().acked_size() > 0) {
      break;
    }
  }
  EXPECT_GE(extensions, 2);
}

TEST_F(ExecWorkerTest, BigInputsNeverDeadlockReadOrUnread) {
  const auto session = Run(R"sh(
    if [ "$CE_ID" = unread ]; then exit 0; fi
    [ "$(wc -c)" -gt 1000000 ])sh");
  for (const char* id : {"unread", "read"}) {
    v1::BrokerFrame frame;
    frame.mutable_deliveries()->add_functions()->set_name("run");
    v1::Delivery& delivery = *frame.mutable_deliveries()->add_deliveries();
    delivery.set_handle(id[0] == 'u' ? 1 : 2);
    delivery.set_lease_ms(30'000);
    Event event("big", "/s");
    event.set_id(id).SetText(std::string(1'200'000, 'x'));
    delivery.set_event(event.Encoded());
    session->Send(frame);
  }
  EXPECT_THAT(session->Acked(2), ElementsAre(1, 2));
}

TEST(ExecWorkerOptionsTest, NothingToRunIsAUsageError) {
  ExecWorkerOptions options;
  std::string said;
  options.worker.connection.log = [&](std::string_view line) { said = line; };
  EXPECT_EQ(RunExecWorker(options), 2);
  EXPECT_THAT(said, HasSubstr("name a function and a command"));
}

}  // namespace
}  // namespace tocsin::sdk
