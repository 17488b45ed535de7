// A whole broker in this process on ports of the system's choice, and plain clients of its
// services.

#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/base/event.h"
#include "broker/base/mutex.h"
#include "broker/base/status.h"
#include "broker/base/system_clock.h"
#include "broker/config/load.h"
#include "broker/server/server.h"
#include "tocsin/v1/admin.grpc.pb.h"
#include "tocsin/v1/publish.grpc.pb.h"
#include "tocsin/v1/worker.grpc.pb.h"

namespace tocsin {

inline constexpr Duration kWaitMax = std::chrono::seconds(15);

// gRPC's own deadline, so that no test hangs.
inline void SetDeadline(grpc::ClientContext& context, int seconds = 15) {
  context.set_deadline(
      gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_seconds(seconds, GPR_TIMESPAN)));
}

inline std::string MakeEvent(const std::string& id, const std::string& type = "test.event",
                             const std::string& key = "") {
  EventBuilder builder(id, "/test", type);
  if (!key.empty()) builder.Attribute("partitionkey", key);
  builder.TextData("data of " + id);
  return std::move(builder).Encode();
}

inline void AddEvent(v1::PublishRequest& request, const std::string& encoded) {
  ASSERT_TRUE(request.add_events()->ParseFromString(encoded));
}

inline std::string IdOf(const v1::Delivery& delivery) {
  EventView view;
  EXPECT_TRUE(ParseEvent(delivery.event(), view).ok());
  return std::string(view.id);
}

// A worker that says what the test tells it to.
class TestWorker {
 public:
  TestWorker(const std::shared_ptr<grpc::Channel>& channel, const std::string& function,
             std::uint32_t credit = 100, bool confirm = false, const std::string& token = "")
      : stub_(v1::Worker::NewStub(channel)) {
    SetDeadline(context_, 20);
    if (!token.empty()) context_.AddMetadata("authorization", "Bearer " + token);
    stream_ = stub_->Attach(&context_);
    v1::WorkerFrame frame;
    v1::Hello& hello = *frame.mutable_hello();
    hello.set_protocol(1);
    hello.set_worker("test");
    hello.add_functions(function);
    hello.mutable_credit()->set_events(credit);
    hello.set_confirm(confirm);
    stream_->Write(frame);
    v1::BrokerFrame welcome;
    attached_ = stream_->Read(&welcome) && welcome.has_welcome();
  }
  ~TestWorker() {
    context_.TryCancel();
    if (!finished_) stream_->Finish();
  }

  bool attached() const { return attached_; }
  grpc::ClientReaderWriter<v1::WorkerFrame, v1::BrokerFrame>& stream() { return *stream_; }

  // The next frame that is not a delivery's; deliveries on the way are kept for Take().
  bool ReadUntil(const std::function<bool(const v1::BrokerFrame&)>& wanted,
                 v1::BrokerFrame* found = nullptr) {
    v1::BrokerFrame frame;
    while (stream_->Read(&frame)) {
      for (const v1::Delivery& delivery : frame.deliveries().deliveries()) {
        waiting_.push_back(delivery);
      }
      if (!wanted(frame)) continue;
      if (found != nullptr) *found = frame;
      return true;
    }
    return false;
  }

  // Waits for `count` deliveries; fewer if the stream ended.
  std::vector<v1::Delivery> Take(std::size_t count) {
    while (waiting_.size() < count) {
      const std::size_t before = waiting_.size();
      if (!ReadUntil([](const v1::BrokerFrame& frame) { return frame.has_deliveries(); })) break;
      if (waiting_.size() == before) continue;
    }
    return std::exchange(waiting_, {});
  }

  void Ack(const std::vector<v1::Delivery>& deliveries, std::uint64_t sequence = 0) {
    v1::WorkerFrame frame;
    for (const v1::Delivery& delivery : deliveries) {
      v1::Range& range = *frame.mutable_answers()->add_acked();
      range.set_first(delivery.handle());
      range.set_last(delivery.handle());
    }
    frame.mutable_answers()->set_sequence(sequence);
    stream_->Write(frame);
  }

  void Answer(v1::Answer answer) {
    v1::WorkerFrame frame;
    *frame.mutable_answers()->add_others() = std::move(answer);
    stream_->Write(frame);
  }

  void Leave() {
    v1::WorkerFrame frame;
    frame.mutable_leaving();
    stream_->Write(frame);
    stream_->WritesDone();
  }

  // As a process that is killed: the connection is reset.
  void Kill() { context_.TryCancel(); }

  grpc::Status Finish() {
    finished_ = true;
    // gRPC gives the status only after everything that came before it was read.
    ReadUntil([](const v1::BrokerFrame&) { return false; });
    return stream_->Finish();
  }

 private:
  std::unique_ptr<v1::Worker::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerFrame, v1::BrokerFrame>> stream_;
  std::vector<v1::Delivery> waiting_;
  bool attached_ = false;
  bool finished_ = false;
};

class BrokerFixture : public ::testing::Test {
 protected:
  BrokerFixture() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tocsin-test-XXXXXX").string();
    dir_ = mkdtemp(pattern.data());
  }
  ~BrokerFixture() override {
    server_.reset();
    std::filesystem::remove_all(dir_);
  }

  // `rest`: what follows the `broker` block; `broker`: further keys of it, a line each.
  void SetConfig(const std::string& rest, const std::string& broker = "") {
    config_ =
        "version: 1\nbroker:\n  listen: 127.0.0.1:0\n  http: 127.0.0.1:0\n  data_dir: " + dir_ +
        "/data\n  partitions: 2\n" + broker + rest;
  }

  static std::string OneTrigger(const std::string& more = "") {
    return "functions:\n  work: {}\ntriggers:\n  all:\n    function: work\n" + more;
  }

  ServerOptions Options() {
    ServerOptions options;
    options.load = [this](std::vector<ConfigError>& errors) {
      return ParseConfig(config_, "tocsin.yaml", SystemConfigEnvironment(), &errors);
    };
    options.drain_within = std::chrono::seconds(5);
    options.log.sink = [this](std::string_view line) { log_ += std::string(line) + "\n"; };
    return options;
  }

  void StartBroker() {
    absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(Options());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
  }
  void StopBroker() {
    const absl::Status drained = server_->Drain();
    EXPECT_TRUE(drained.ok()) << drained;
    server_.reset();
  }
  void RestartBroker() {
    StopBroker();
    StartBroker();
  }

  // A connection of its own.
  std::shared_ptr<grpc::Channel> Channel() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel(server_->endpoints().grpc, grpc::InsecureChannelCredentials(),
                                     arguments);
  }

  v1::PublishResponse Publish(const v1::PublishRequest& request, bool with_refs = false) {
    grpc::ClientContext context;
    SetDeadline(context);
    if (with_refs) context.AddMetadata("tocsin-refs", "1");
    v1::PublishResponse response;
    const grpc::Status status =
        v1::Publisher::NewStub(Channel())->Publish(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  v1::PublishResponse PublishAll(const std::vector<std::string>& events) {
    v1::PublishRequest request;
    for (const std::string& event : events) AddEvent(request, event);
    return Publish(request);
  }

  v1::TriggerStatus Books(const std::string& trigger) {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::ListTriggersResponse response;
    EXPECT_TRUE(v1::Admin::NewStub(Channel())->ListTriggers(&context, {}, &response).ok());
    for (const v1::TriggerStatus& status : response.triggers()) {
      if (status.name() == trigger) return status;
    }
    return {};
  }

  // Asks again until `holds`; each question is a call, so it does not spin.
  ::testing::AssertionResult Eventually(const std::function<bool()>& holds) {
    const Instant end = clock_.Monotonic() + kWaitMax;
    while (clock_.Monotonic() < end) {
      if (holds()) return ::testing::AssertionSuccess();
    }
    return ::testing::AssertionFailure() << "not in time";
  }

  std::vector<v1::Letter> Letters() {
    grpc::ClientContext context;
    SetDeadline(context);
    v1::ListLettersRequest request;
    request.set_with_event(true);
    const auto stub = v1::Admin::NewStub(Channel());
    const auto reader = stub->ListLetters(&context, request);
    std::vector<v1::Letter> letters;
    v1::Letter letter;
    while (reader->Read(&letter)) letters.push_back(letter);
    EXPECT_TRUE(reader->Finish().ok());
    return letters;
  }

  std::vector<v1::CloseLettersProgress> CloseLetters(const v1::CloseLettersRequest& request) {
    grpc::ClientContext context;
    SetDeadline(context);
    const auto stub = v1::Admin::NewStub(Channel());
    const auto reader = stub->CloseLetters(&context, request);
    std::vector<v1::CloseLettersProgress> all;
    v1::CloseLettersProgress progress;
    while (reader->Read(&progress)) all.push_back(progress);
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return all;
  }

  SystemClock clock_;
  std::string dir_;
  std::string config_;
  std::string log_;
  std::unique_ptr<Server> server_;
};

}  // namespace tocsin
