// The contract of sources for the kinds of Redis that can replay, onto a real server.

#include <memory>
#include <string>
#include <utility>

#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "connectors/redis/redis_source.h"
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

}  // namespace
}  // namespace tocsin
