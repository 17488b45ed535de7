#include "tests/bench/bench_view.h"

#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "broker/base/check.h"
#include "tocsin/v1/worker.grpc.pb.h"

namespace tocsin::bench {

std::shared_ptr<grpc::Channel> NewPrivateChannel(const std::string& target) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
}

BrokerView::BrokerView(const std::string& grpc_target, std::string http_target)
    : http_(std::move(http_target)), admin_(v1::Admin::NewStub(NewPrivateChannel(grpc_target))) {}

v1::ListTriggersResponse BrokerView::Triggers() {
  grpc::ClientContext context;
  v1::ListTriggersResponse response;
  const grpc::Status status = admin_->ListTriggers(&context, {}, &response);
  TOCSIN_CHECK(status.ok(), "ListTriggers: {}", status.error_message());
  for (const v1::TriggerStatus& trigger : response.triggers()) {
    TOCSIN_CHECK(trigger.dead() + trigger.dropped() + trigger.expired() == 0,
                 "deliveries ended otherwise than acked");
  }
  return response;
}

std::uint64_t BrokerView::Acked(const std::string& name) {
  const v1::ListTriggersResponse response = Triggers();
  for (const v1::TriggerStatus& trigger : response.triggers()) {
    if (trigger.name() == name) return trigger.acked();
  }
  TOCSIN_CHECK(false, "the broker has no trigger '{}'", name);
  return 0;
}

std::uint64_t BrokerView::AckedOfAll() {
  std::uint64_t acked = 0;
  const v1::ListTriggersResponse response = Triggers();
  for (const v1::TriggerStatus& trigger : response.triggers()) acked += trigger.acked();
  return acked;
}

std::size_t BrokerView::Workers() {
  grpc::ClientContext context;
  v1::ListWorkersResponse response;
  const grpc::Status status = admin_->ListWorkers(&context, {}, &response);
  TOCSIN_CHECK(status.ok(), "ListWorkers: {}", status.error_message());
  return static_cast<std::size_t>(response.workers_size());
}

std::string BrokerView::Metrics() const {
  const std::size_t colon = http_.rfind(':');
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  TOCSIN_CHECK(getaddrinfo(http_.substr(0, colon).c_str(), http_.substr(colon + 1).c_str(), &hints,
                           &found) == 0);
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  TOCSIN_CHECK(connect(fd, found->ai_addr, found->ai_addrlen) == 0, "{}: no metrics", http_);
  freeaddrinfo(found);
  const std::string request = "GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
  TOCSIN_CHECK(write(fd, request.data(), request.size()) == static_cast<ssize_t>(request.size()));
  std::string text;
  char buffer[65536];
  for (ssize_t got = 0; (got = read(fd, buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<std::size_t>(got));
  }
  close(fd);
  return text;
}

double Metric(const std::string& text, const std::string& name) {
  double sum = 0;
  for (std::size_t at = text.find("\n" + name); at != std::string::npos;
       at = text.find("\n" + name, at + 1)) {
    const char after = text[at + 1 + name.size()];
    if (after != ' ' && after != '{') continue;
    const std::size_t space = text.find(' ', at + 1 + name.size());
    sum += std::strtod(text.c_str() + space, nullptr);
  }
  return sum;
}

RunningWorker::RunningWorker(sdk::WorkerOptions options, const Clock& clock,
                             const std::function<void(sdk::Worker&)>& add)
    : worker_("bench", std::move(options)), thread_("worker", clock) {
  add(worker_);
  thread_.Post([this] { worker_.Run(); });
}

RunningWorker::~RunningWorker() {
  worker_.Stop();
  thread_.Stop();
}

struct IdleWorkers::One {
  std::shared_ptr<grpc::Channel> channel;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::WorkerFrame, v1::BrokerFrame>> stream;
};

IdleWorkers::IdleWorkers(const std::string& target, std::size_t count, bool shared) {
  std::shared_ptr<grpc::Channel> channel;
  for (std::size_t i = 0; i < count; ++i) {
    if (!shared || channel == nullptr) channel = NewPrivateChannel(target);
    auto one = std::make_unique<One>();
    one->channel = channel;
    one->stream = v1::Worker::NewStub(channel)->Attach(&one->context);
    v1::WorkerFrame hello;
    hello.mutable_hello()->set_protocol(1);
    hello.mutable_hello()->set_worker("idle");
    hello.mutable_hello()->set_instance(fmt::format("idle-{}", i));
    hello.mutable_hello()->add_functions("count");
    hello.mutable_hello()->mutable_credit()->set_events(64);
    TOCSIN_CHECK(one->stream->Write(hello), "worker {} could not attach", i);
    all_.push_back(std::move(one));
  }
  for (const std::unique_ptr<One>& one : all_) one->stream->WaitForInitialMetadata();
}

IdleWorkers::~IdleWorkers() {
  for (const std::unique_ptr<One>& one : all_) one->context.TryCancel();
  for (const std::unique_ptr<One>& one : all_) static_cast<void>(one->stream->Finish());
}

}  // namespace tocsin::bench
