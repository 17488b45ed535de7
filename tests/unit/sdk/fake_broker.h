// A broker for the SDK's tests: a real gRPC server in this process whose every frame the test
// decides.
//
// Threading: the service runs on gRPC's threads; a test waits on queues, never on time alone.

#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "sdk/cpp/connection.h"
#include "sdk/cpp/event.h"
#include "tocsin/v1/publish.grpc.pb.h"
#include "tocsin/v1/worker.grpc.pb.h"

namespace tocsin::sdk {

inline constexpr std::chrono::seconds kTestPatience{20};

template <typename T>
class TestQueue {
 public:
  void Push(T value) {
    const std::lock_guard lock(mutex_);
    values_.push_back(std::move(value));
    changed_.notify_all();
  }
  void Close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }
  // nullopt: closed, or patience is over.
  std::optional<T> Pop() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kTestPatience, [this] { return closed_ || !values_.empty(); });
    if (values_.empty()) {
      return std::nullopt;
    }
    T value = std::move(values_.front());
    values_.pop_front();
    return value;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<T> values_;
  bool closed_ = false;
};

// One Attach stream, as the broker sees it.
class FakeSession {
 public:
  using Stream = grpc::ServerReaderWriter<v1::BrokerFrame, v1::WorkerFrame>;

  FakeSession(grpc::ServerContext* context, Stream* stream) : context_(context), stream_(stream) {}

  void Send(const v1::BrokerFrame& frame) {
    const std::lock_guard lock(mutex_);
    if (!over_) {
      stream_->Write(frame);
    }
  }
  void Welcome(std::uint32_t heartbeat_ms = 4000) {
    v1::BrokerFrame frame;
    frame.mutable_welcome()->set_protocol(1);
    frame.mutable_welcome()->set_session(7);
    frame.mutable_welcome()->set_heartbeat_ms(heartbeat_ms);
    Send(frame);
  }
  // `count` deliveries of one event to one function, handles from `first` on.
  void Deliver(const std::string& function, std::uint64_t first, std::uint64_t count = 1,
               std::uint32_t attempt = 1, std::uint32_t lease_ms = 30'000) {
    v1::BrokerFrame frame;
    v1::Deliveries& deliveries = *frame.mutable_deliveries();
    v1::FunctionName& named = *deliveries.add_functions();
    named.set_function(static_cast<std::uint32_t>(1 + std::hash<std::string>{}(function) % 1000));
    named.set_name(function);
    v1::TriggerName& trigger = *deliveries.add_triggers();
    trigger.set_trigger(3);
    trigger.set_partition(1);
    trigger.set_name("on-order");
    for (std::uint64_t i = 0; i < count; ++i) {
      v1::Delivery& delivery = *deliveries.add_deliveries();
      delivery.set_handle(first + i);
      delivery.set_token(1000 + first + i);
      delivery.set_partition(1);
      delivery.set_offset(100 + first + i);
      delivery.set_trigger(3);
      delivery.set_attempt(attempt);
      delivery.set_lease_ms(lease_ms);
      delivery.set_function(named.function());
      Event event("order.paid", "/shop");
      event.set_id(std::to_string(first + i)).SetJson(R"({"total":12})");
      event.SetAttribute("traceparent", "00-a");
      delivery.set_event(event.Encoded());
    }
    Send(frame);
  }
  void Cancel(std::uint64_t handle) {
    v1::BrokerFrame frame;
    frame.mutable_cancel()->add_handles(handle);
    Send(frame);
  }
  void Drain() {
    v1::BrokerFrame frame;
    frame.mutable_drain()->set_reason("restart");
    Send(frame);
  }
  void Kill() {
    const std::lock_guard lock(mutex_);
    if (!over_) {
      context_->TryCancel();
    }
  }

  // The next frame that is not a report of started deliveries alone.
  std::optional<v1::WorkerFrame> NextFrame() {
    while (true) {
      auto frame = frames.Pop();
      if (!frame.has_value()) {
        return frame;
      }
      if (frame->has_answers()) {
        started_through = frame->answers().started_through();
        if (frame->answers().acked().empty() && frame->answers().others().empty()) {
          continue;
        }
      }
      return frame;
    }
  }
  // Reads until `count` deliveries are acked; the handles in order of arrival.
  std::vector<std::uint64_t> Acked(std::size_t count) {
    std::vector<std::uint64_t> handles;
    while (handles.size() < count) {
      const auto frame = NextFrame();
      if (!frame.has_value()) {
        ADD_FAILURE() << "waited in vain for acks: " << handles.size() << " of " << count;
        break;
      }
      for (const auto& range : frame->answers().acked()) {
        ++ranges;
        for (std::uint64_t handle = range.first(); handle <= range.last(); ++handle) {
          handles.push_back(handle);
        }
      }
    }
    return handles;
  }
  v1::Answer NextOther() {
    const auto frame = NextFrame();
    if (!frame.has_value() || frame->answers().others().empty()) {
      ADD_FAILURE() << "no answer of its own: " << (frame ? frame->ShortDebugString() : "nothing");
      return {};
    }
    return frame->answers().others(0);
  }

  TestQueue<v1::WorkerFrame> frames;  // closed when the worker ends its side
  std::uint64_t started_through = 0;
  std::size_t ranges = 0;
  std::string authorization;

 private:
  friend class FakeBroker;
  std::mutex mutex_;
  bool over_ = false;
  grpc::ServerContext* context_;
  Stream* stream_;
};

class FakeBroker {
 public:
  // Answers a publish request; false ends the stream instead, with publish_status.
  using OnPublish = std::function<bool(const v1::PublishRequest&, v1::PublishResponse*)>;

  FakeBroker() : worker_(this), publisher_(this) { Start("127.0.0.1:0"); }
  ~FakeBroker() { Stop(); }

  void Start(const std::string& address) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&worker_);
    builder.RegisterService(&publisher_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    target_ = "127.0.0.1:" + std::to_string(port);
  }
  void Stop() {
    if (server_ != nullptr) {
      server_->Shutdown(gpr_inf_past(GPR_CLOCK_REALTIME));
      server_.reset();
    }
  }

  ConnectionOptions Connection() const {
    ConnectionOptions options;
    options.target = target_;
    options.backoff_min = std::chrono::milliseconds(5);
    options.backoff_max = std::chrono::milliseconds(50);
    options.log = [](std::string_view) {};
    return options;
  }
  // The next Attach stream; its Hello is its first frame.
  std::shared_ptr<FakeSession> NextSession() { return sessions_.Pop().value_or(nullptr); }

  void set_on_publish(OnPublish on_publish) {
    const std::lock_guard lock(mutex_);
    on_publish_ = std::move(on_publish);
  }
  void set_publish_status(grpc::Status status) {
    const std::lock_guard lock(mutex_);
    publish_status_ = std::move(status);
  }
  void set_attach_status(grpc::Status status) {
    const std::lock_guard lock(mutex_);
    attach_status_ = std::move(status);
  }

 private:
  class WorkerService : public v1::Worker::Service {
   public:
    explicit WorkerService(FakeBroker* broker) : broker_(broker) {}
    grpc::Status Attach(grpc::ServerContext* context, FakeSession::Stream* stream) override {
      {
        const std::lock_guard lock(broker_->mutex_);
        if (!broker_->attach_status_.ok()) {
          return std::exchange(broker_->attach_status_, grpc::Status::OK);
        }
      }
      auto session = std::make_shared<FakeSession>(context, stream);
      const auto found = context->client_metadata().find("authorization");
      if (found != context->client_metadata().end()) {
        session->authorization.assign(found->second.data(), found->second.size());
      }
      broker_->sessions_.Push(session);
      v1::WorkerFrame frame;
      while (stream->Read(&frame)) {
        session->frames.Push(frame);
      }
      session->frames.Close();
      const std::lock_guard lock(session->mutex_);
      session->over_ = true;
      return grpc::Status::OK;
    }

   private:
    FakeBroker* broker_;
  };

  class PublisherService : public v1::Publisher::Service {
   public:
    explicit PublisherService(FakeBroker* broker) : broker_(broker) {}
    grpc::Status PublishStream(
        grpc::ServerContext*,
        grpc::ServerReaderWriter<v1::PublishResponse, v1::PublishRequest>* stream) override {
      v1::PublishRequest request;
      while (stream->Read(&request)) {
        v1::PublishResponse response;
        response.set_sequence(request.sequence());
        OnPublish on_publish;
        {
          const std::lock_guard lock(broker_->mutex_);
          on_publish = broker_->on_publish_;
        }
        if (!on_publish(request, &response)) {
          const std::lock_guard lock(broker_->mutex_);
          return broker_->publish_status_;
        }
        stream->Write(response);
      }
      return grpc::Status::OK;
    }

   private:
    FakeBroker* broker_;
  };

  std::mutex mutex_;
  OnPublish on_publish_;
  grpc::Status publish_status_{grpc::StatusCode::UNAVAILABLE, "going away"};
  grpc::Status attach_status_;
  TestQueue<std::shared_ptr<FakeSession>> sessions_;
  WorkerService worker_;
  PublisherService publisher_;
  std::unique_ptr<grpc::Server> server_;
  std::string target_;
};

}  // namespace tocsin::sdk
