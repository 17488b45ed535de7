// The contract of sources for a partition of Kafka, onto the library's own mock of a cluster; and
// errors that come between records.

#include <gmock/gmock.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "connectors/kafka/kafka_client.h"
#include "connectors/kafka/kafka_lane.h"
#include "tests/contract/source_contract.h"
#include "tests/contract/source_mailbox.h"

namespace tocsin {
namespace {

class KafkaRig final : public SourceRig {
 public:
  KafkaRig() {
    char said[256];
    rd_kafka_conf_t* conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "bootstrap.servers", "127.0.0.1:1", said, sizeof(said));
    rd_kafka_conf_set_log_cb(conf, [](const rd_kafka_t*, int, const char*, const char*) {});
    host_.reset(rd_kafka_new(RD_KAFKA_PRODUCER, conf, said, sizeof(said)));
    cluster_ = rd_kafka_mock_cluster_new(host_.get(), 1);
    rd_kafka_mock_topic_create(cluster_, "things", 1, 1);
    conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(cluster_), said,
                      sizeof(said));
    producer_.reset(rd_kafka_new(RD_KAFKA_PRODUCER, conf, said, sizeof(said)));
    spec_.name = "contract";
    spec_.brokers = {rd_kafka_mock_cluster_bootstraps(cluster_)};
    spec_.topics = {"things"};
    spec_.settings["fetch.wait.max.ms"] = "20";
    spec_.settings["fetch.error.backoff.ms"] = "20";
  }
  ~KafkaRig() override {
    Close();
    producer_.reset();
    rd_kafka_mock_cluster_destroy(cluster_);
  }

  SourceConnector& Restart() override {
    Close();
    lanes_ = std::make_unique<ThreadExecutor>("lanes", clock_);
    control_ = std::make_unique<ThreadExecutor>("control", clock_);
    auto client = KafkaClient::Make(spec_, {clock_, *lanes_, *control_});
    EXPECT_TRUE(client.ok()) << client.status();
    auto mapper =
        RecordMapper::Make(spec_.name, "kafka", spec_.envelope, spec_.event, KafkaTemplateNames());
    EXPECT_TRUE(mapper.ok()) << mapper.status();
    client_ = *client;
    connector_ = std::make_unique<KafkaLane>(KafkaPartition{"things", 0}, client_,
                                             std::make_shared<const RecordMapper>(*mapper), owner_);
    return *connector_;
  }
  void Produce(int count) override {
    const std::unique_ptr<rd_kafka_topic_t, void (*)(rd_kafka_topic_t*)> topic(
        rd_kafka_topic_new(producer_.get(), "things", nullptr), rd_kafka_topic_destroy);
    for (int i = 0; i < count; ++i) {
      std::string value = "v" + std::to_string(made_++);
      EXPECT_EQ(rd_kafka_produce(topic.get(), RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY,
                                 value.data(), value.size(), nullptr, 0, nullptr),
                0);
    }
    EXPECT_EQ(rd_kafka_flush(producer_.get(), 10'000), RD_KAFKA_RESP_ERR_NO_ERROR);
  }
  bool RunUntil(const std::function<bool()>& finished) override {
    return owner_.RunUntil(clock_, finished);
  }

  // The next fetches are answered with these, and the library has taken the answers.
  void AnswerFetches(const std::vector<rd_kafka_resp_err_t>& errors) {
    for (const rd_kafka_resp_err_t error : errors) {
      rd_kafka_mock_broker_push_request_error_rtts(cluster_, 1, kFetch, 1, error, 0);
    }
    EXPECT_TRUE(RunUntil([this] {
      std::size_t left = 0;
      rd_kafka_mock_broker_error_stack_cnt(cluster_, 1, kFetch, &left);
      return left == 0;
    }));
    // Answers come in the order of the questions.
    std::atomic<bool> asked = false;
    control_->Post([this, &asked] {
      EXPECT_TRUE(client_->AskBounds({"things", 0}).ok());
      asked = true;
    });
    EXPECT_TRUE(RunUntil([&asked] { return asked.load(); }));
  }

 private:
  static constexpr std::int16_t kFetch = 1;  // in Kafka's protocol

  void Close() {
    connector_.reset();
    if (control_ != nullptr) control_->Stop();
    if (lanes_ != nullptr) lanes_->Stop();
    owner_.RunUntilIdle();
    client_.reset();
    control_.reset();
    lanes_.reset();
  }

  SystemClock clock_;
  SourceMailbox owner_;
  KafkaSpec spec_;
  std::unique_ptr<rd_kafka_t, KafkaFree> host_, producer_;
  rd_kafka_mock_cluster_t* cluster_ = nullptr;
  std::unique_ptr<ThreadExecutor> lanes_, control_;
  std::shared_ptr<KafkaClient> client_;
  std::unique_ptr<SourceConnector> connector_;
  int made_ = 0;
};

std::unique_ptr<SourceRig> MakeAlone() { return std::make_unique<KafkaRig>(); }

INSTANTIATE_TEST_SUITE_P(KafkaPartition, SourceContract, ::testing::Values(&MakeAlone));

class KafkaErrorTest : public ::testing::TestWithParam<rd_kafka_resp_err_t> {
 protected:
  absl::Status Connect() {
    std::optional<absl::Status> result;
    connector_.Connect(lane_, [&result](absl::Status status) { result = std::move(status); });
    EXPECT_TRUE(rig_.RunUntil([&result] { return result.has_value(); }));
    return result.value_or(absl::DeadlineExceededError("no answer"));
  }
  // Gives the ids of what is durable then.
  absl::StatusOr<std::vector<std::string>> Take() {
    std::optional<absl::StatusOr<SourceBatch>> result;
    connector_.Poll(std::chrono::milliseconds(50),
                    [&result](absl::StatusOr<SourceBatch> batch) { result = std::move(batch); });
    EXPECT_TRUE(rig_.RunUntil([&result] { return result.has_value(); }));
    if (!result) return absl::DeadlineExceededError("no answer");
    if (!result->ok()) return result->status();
    const SourceBatch& batch = **result;
    std::vector<std::string> ids;
    for (const Event& event : batch.events) ids.emplace_back(event.View().id);
    if (!batch.empty()) lane_.position = batch.position;
    return ids;
  }

  KafkaRig rig_;
  SourceConnector& connector_ = rig_.Restart();
  LaneState lane_;
};

// The library tells an error once: lost, the lane stands still or passes over what is behind it.
TEST_P(KafkaErrorTest, ErrorBehindRecordsIsToldAndNothingBehindItIsLost) {
  // A fetch gives one of the producer's batches, of which there may be as many as records.
  const std::vector<rd_kafka_resp_err_t> enough(8, RD_KAFKA_RESP_ERR_NO_ERROR);
  ASSERT_TRUE(Connect().ok());
  rig_.Produce(5);
  rig_.AnswerFetches(enough);
  rig_.AnswerFetches({GetParam()});
  rig_.Produce(5);
  // After some errors it fetches on, after others it waits for a new start.
  const bool goes_on = GetParam() != RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE;
  if (goes_on) rig_.AnswerFetches(enough);

  absl::StatusOr<std::vector<std::string>> ids = Take();
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(ids->size(), 5U);
  EXPECT_FALSE(Take().ok());
  EXPECT_FALSE(Take().ok()) << "until it is connected again";

  ASSERT_TRUE(Connect().ok());
  std::vector<std::string> others;
  for (int i = 0; i < 200 && others.size() < 5; ++i) {
    ids = Take();
    ASSERT_TRUE(ids.ok()) << ids.status();
    others.insert(others.end(), ids->begin(), ids->end());
  }
  EXPECT_THAT(others, ::testing::ElementsAre("things/0/5", "things/0/6", "things/0/7", "things/0/8",
                                             "things/0/9"));
}

INSTANTIATE_TEST_SUITE_P(KafkaErrors, KafkaErrorTest,
                         ::testing::Values(RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE,
                                           RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED),
                         [](const auto& error) {
                           return std::string(rd_kafka_err2name(error.param));
                         });

}  // namespace
}  // namespace tocsin
