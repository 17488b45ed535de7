// The contract of sources for a partition of Kafka, onto the library's own mock of a cluster.

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include <memory>
#include <string>
#include <utility>

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
    for (int i = 0; i < count; ++i) {
      const std::string value = "v" + std::to_string(made_++);
      EXPECT_EQ(rd_kafka_producev(producer_.get(), RD_KAFKA_V_TOPIC("things"),
                                  RD_KAFKA_V_VALUE(const_cast<char*>(value.data()), value.size()),
                                  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END),
                RD_KAFKA_RESP_ERR_NO_ERROR);
    }
    EXPECT_EQ(rd_kafka_flush(producer_.get(), 10'000), RD_KAFKA_RESP_ERR_NO_ERROR);
  }
  bool RunUntil(const std::function<bool()>& finished) override {
    return owner_.RunUntil(clock_, finished);
  }

 private:
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

}  // namespace
}  // namespace tocsin
