#include "tests/bench/bench_relay.h"

#include <fmt/format.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <deque>
#include <future>
#include <utility>

#include "broker/base/mutex.h"
#include "broker/base/system_clock.h"
#include "tests/bench/bench_load.h"
#include "tocsin/v1/publish.grpc.pb.h"
#include "tocsin/v1/worker.grpc.pb.h"

namespace tocsin::bench {
namespace {

using grpc::ByteBuffer;

constexpr std::size_t kAckBytes = 16;

ByteBuffer Message(std::size_t bytes) {
  const grpc::Slice slice(std::string(bytes, 'x'));
  return ByteBuffer(&slice, 1);
}

// --- the server

class RelayHub;

class RelayStream final : public grpc::ServerBidiReactor<ByteBuffer, ByteBuffer> {
 public:
  RelayStream(RelayHub& hub, bool is_worker);
  void Send(ByteBuffer message) {
    const MutexLock lock(mutex_);
    waiting_.push_back(std::move(message));
    Advance();
  }
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override {
    const MutexLock lock(mutex_);
    writing_ = false;
    if (ok) Advance();
  }
  void OnDone() override;

 private:
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || waiting_.empty()) return;
    written_ = std::move(waiting_.front());
    waiting_.pop_front();
    writing_ = true;
    StartWrite(&written_);
  }

  RelayHub& hub_;
  const bool is_worker_;
  ByteBuffer read_;
  Mutex mutex_;
  std::deque<ByteBuffer> waiting_ ABSL_GUARDED_BY(mutex_);
  ByteBuffer written_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
};

class RelayHub {
 public:
  void Add(RelayStream* stream, bool is_worker) {
    const MutexLock lock(mutex_);
    (is_worker ? worker_ : publisher_) = stream;
  }
  void Remove(RelayStream* stream) {
    const MutexLock lock(mutex_);
    if (worker_ == stream) worker_ = nullptr;
    if (publisher_ == stream) publisher_ = nullptr;
  }
  void Relay(bool from_worker, ByteBuffer message) {
    const MutexLock lock(mutex_);
    if (!from_worker && worker_ != nullptr) {
      worker_->Send(std::move(message));
    } else if (publisher_ != nullptr) {
      publisher_->Send(from_worker ? std::move(message) : ack_);
    }
  }

 private:
  Mutex mutex_;
  RelayStream* publisher_ ABSL_GUARDED_BY(mutex_) = nullptr;
  RelayStream* worker_ ABSL_GUARDED_BY(mutex_) = nullptr;
  const ByteBuffer ack_ = Message(kAckBytes);
};

RelayStream::RelayStream(RelayHub& hub, bool is_worker) : hub_(hub), is_worker_(is_worker) {
  hub_.Add(this, is_worker);
  StartSendInitialMetadata();
  StartRead(&read_);
}

void RelayStream::OnReadDone(bool ok) {
  if (!ok) {
    Finish(grpc::Status::OK);
    return;
  }
  hub_.Relay(is_worker_, std::move(read_));
  read_.Clear();
  StartRead(&read_);
}

void RelayStream::OnDone() {
  hub_.Remove(this);
  delete this;
}

class RelayPublisherService final
    : public v1::Publisher::WithRawCallbackMethod_PublishStream<v1::Publisher::Service> {
 public:
  explicit RelayPublisherService(RelayHub& hub) : hub_(hub) {}
  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* PublishStream(
      grpc::CallbackServerContext*) override {
    return new RelayStream(hub_, false);
  }

 private:
  RelayHub& hub_;
};

class RelayWorkerService final
    : public v1::Worker::WithRawCallbackMethod_Attach<v1::Worker::Service> {
 public:
  explicit RelayWorkerService(RelayHub& hub) : hub_(hub) {}
  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* Attach(grpc::CallbackServerContext*) override {
    return new RelayStream(hub_, true);
  }

 private:
  RelayHub& hub_;
};

// --- the clients

class RelayClient final : public grpc::ClientBidiReactor<ByteBuffer, ByteBuffer> {
 public:
  // `arrived` runs on gRPC's thread.
  RelayClient(const std::string& target, const std::string& method,
              std::function<void(const ByteBuffer&)> arrived)
      : arrived_(std::move(arrived)), stub_(NewPrivateChannel(target)) {
    stub_.PrepareBidiStreamingCall(&context_, method, grpc::StubOptions(), this);
    StartRead(&read_);
    StartCall();
    ready_.get_future().wait();
  }
  ~RelayClient() override {
    context_.TryCancel();
    done_.get_future().wait();
  }
  void Send(ByteBuffer message) {
    const MutexLock lock(mutex_);
    waiting_.push_back(std::move(message));
    Advance();
  }
  void OnReadInitialMetadataDone(bool) override { ready_.set_value(); }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    arrived_(read_);
    StartRead(&read_);
  }
  void OnWriteDone(bool ok) override {
    const MutexLock lock(mutex_);
    writing_ = false;
    if (ok) Advance();
  }
  void OnDone(const grpc::Status&) override { done_.set_value(); }

 private:
  void Advance() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || waiting_.empty()) return;
    written_ = std::move(waiting_.front());
    waiting_.pop_front();
    writing_ = true;
    StartWrite(&written_);
  }

  const std::function<void(const ByteBuffer&)> arrived_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  std::promise<void> ready_;
  std::promise<void> done_;
  ByteBuffer read_;
  Mutex mutex_;
  std::deque<ByteBuffer> waiting_ ABSL_GUARDED_BY(mutex_);
  ByteBuffer written_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

int ServeRelay(const std::string& port_file) {
  RelayHub hub;
  RelayPublisherService publisher(hub);
  RelayWorkerService worker(hub);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(-1);
  builder.RegisterService(&publisher);
  builder.RegisterService(&worker);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  std::FILE* file = std::fopen(port_file.c_str(), "w");
  if (server == nullptr || file == nullptr) return 1;
  std::fprintf(file, "%d\n", port);
  std::fclose(file);
  server->Wait();
  return 0;
}

struct RelayClients::Impl {
  SystemClock clock;
  std::atomic<std::size_t> answered{0};
  std::size_t wanted = 0;   // set before the first is sent
  std::size_t to_send = 0;  // beyond the first window, sent as answers come; as above
  std::atomic<std::size_t> sent{0};
  std::promise<void>* all = nullptr;
  ByteBuffer message;
  bool paced = false;
  std::vector<Duration> latencies;  // touched by the worker's one read in flight
  std::unique_ptr<RelayClient> worker;
  std::unique_ptr<RelayClient> publisher;

  void OnAnswer() {
    if (!paced && sent.load() < to_send) {
      sent.fetch_add(1);
      publisher->Send(message);
    }
    if (answered.fetch_add(1) + 1 == wanted) all->set_value();
  }
  void OnDelivery(const ByteBuffer& delivered) {
    if (paced) {
      std::vector<grpc::Slice> slices;
      std::int64_t due = 0;
      if (delivered.Dump(&slices).ok() && !slices.empty() && slices[0].size() >= sizeof due) {
        std::memcpy(&due, slices[0].begin(), sizeof due);
        latencies.push_back(clock.Monotonic().time_since_epoch() - Duration(due));
      }
    }
    worker->Send(Message(kAckBytes));
  }
};

RelayClients::RelayClients(const std::string& target, bool with_worker)
    : impl_(std::make_unique<Impl>()) {
  Impl* impl = impl_.get();
  if (with_worker) {
    impl->worker =
        std::make_unique<RelayClient>(target, "/tocsin.v1.Worker/Attach",
                                      [impl](const ByteBuffer& got) { impl->OnDelivery(got); });
  }
  impl->publisher = std::make_unique<RelayClient>(target, "/tocsin.v1.Publisher/PublishStream",
                                                  [impl](const ByteBuffer&) { impl->OnAnswer(); });
}

RelayClients::~RelayClients() = default;

bool RelayClients::Send(std::size_t count, std::size_t bytes, std::size_t in_flight) {
  Impl& impl = *impl_;
  std::promise<void> all;
  impl.all = &all;
  impl.answered = 0;
  impl.wanted = count;
  impl.to_send = count;
  impl.message = Message(bytes);
  const std::size_t window = std::min(count, in_flight);
  impl.sent = window;
  for (std::size_t i = 0; i < window; ++i) impl.publisher->Send(impl.message);
  return all.get_future().wait_for(std::chrono::minutes(2)) == std::future_status::ready;
}

std::vector<Duration> RelayClients::RoundTrips(std::size_t count, std::size_t bytes) {
  std::vector<Duration> trips;
  for (std::size_t i = 0; i < count; ++i) {
    const Instant begin = impl_->clock.Monotonic();
    if (!Send(1, bytes, 1)) break;
    trips.push_back(impl_->clock.Monotonic() - begin);
  }
  return trips;
}

std::vector<Duration> RelayClients::Paced(std::size_t count, std::size_t bytes, double rate) {
  Impl& impl = *impl_;
  std::promise<void> all;
  impl.all = &all;
  impl.answered = 0;
  impl.wanted = count;
  impl.paced = true;
  impl.latencies.clear();
  impl.latencies.reserve(count);
  Pacer pacer(impl.clock, rate);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t due = pacer.WaitForNext().time_since_epoch().count();
    std::string text(bytes, 'x');
    std::memcpy(text.data(), &due, sizeof due);
    const grpc::Slice slice(text);
    impl.publisher->Send(ByteBuffer(&slice, 1));
  }
  all.get_future().wait_for(std::chrono::minutes(1));
  impl.paced = false;
  return std::move(impl.latencies);
}

}  // namespace tocsin::bench
