#include "sdk/cpp/worker.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/rpc_method.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "sdk/cpp/engine.h"
#include "tocsin/v1/worker.grpc.pb.h"

namespace tocsin::sdk {
namespace {

namespace pb = ::tocsin::v1;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::uint32_t kProtocol = 1;
constexpr milliseconds kWelcomeWait{10'000};
constexpr milliseconds kGoodbyeWait{5'000};
constexpr milliseconds kHeartbeatDefault{4'000};

// The one thing a signal handler may touch.
std::atomic<int> signal_fd{-1};

void OnSignal(int) {
  const std::uint64_t one = 1;
  if (const int fd = signal_fd.load(); fd >= 0) {
    static_cast<void>(!write(fd, &one, sizeof one));
  }
}

// While it lives, SIGTERM and SIGINT call `stop`, a second one `abort`.
class SignalWatch {
 public:
  SignalWatch(std::function<void()> stop, std::function<void()> abort)
      : fd_(eventfd(0, EFD_CLOEXEC)) {
    signal_fd = fd_;
    struct sigaction action = {};
    action.sa_handler = OnSignal;
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    sigaction(SIGTERM, &action, &old_term_);
    sigaction(SIGINT, &action, &old_int_);
    thread_ = std::thread([this, stop = std::move(stop), abort = std::move(abort)] {
      for (int seen = 0;;) {
        std::uint64_t count = 0;
        if (read(fd_, &count, sizeof count) != sizeof count || leaving_) {
          return;
        }
        (seen++ == 0 ? stop : abort)();
      }
    });
  }
  ~SignalWatch() {
    sigaction(SIGTERM, &old_term_, nullptr);
    sigaction(SIGINT, &old_int_, nullptr);
    signal_fd = -1;
    leaving_ = true;
    const std::uint64_t one = 1;
    static_cast<void>(!write(fd_, &one, sizeof one));
    thread_.join();
    close(fd_);
  }
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

 private:
  const int fd_;
  std::atomic<bool> leaving_ = false;
  struct sigaction old_term_ = {};
  struct sigaction old_int_ = {};
  std::thread thread_;
};

std::string DefaultInstance() {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  return fmt::format("{}/{}", host.data(), getpid());
}

}  // namespace

// Connects, serves a session, connects again.
class Worker::Loop {
 public:
  explicit Loop(internal::Engine& engine) : engine_(engine) {}

  int Run();
  void Stop();
  void Abort();

 private:
  // Frames come as raw bytes: those with deliveries are read by hand.
  using Stream = grpc::ClientReaderWriter<pb::WorkerFrame, grpc::ByteBuffer>;

  // One connection. The calling thread reads, a thread of the session writes.
  struct Session {
    grpc::ClientContext context;
    std::unique_ptr<Stream> stream;
    std::mutex write_mutex;    // the stream takes one write at a time; and in the order of taking
    bool writes_over = false;  // guarded by write_mutex

    std::mutex mutex;
    std::condition_variable wake;
    // Guarded by mutex.
    bool over = false;
    bool welcomed = false;
    bool leaving = false;  // Leaving is to be sent, or was
    milliseconds heartbeat = kHeartbeatDefault;
    // Set without the mutex when something is to be sent; the writer clears it.
    std::atomic<bool> pending = false;

    void Wake() {
      if (!pending.exchange(true)) {
        const std::lock_guard lock(mutex);
        wake.notify_one();
      }
    }
  };

  grpc::Status Serve(const std::shared_ptr<Session>& shared);
  bool OnFrame(Session& session, const grpc::ByteBuffer& bytes);
  void OnDeliveries(Session& session);
  void WriterMain(Session& session);
  bool WriteFrame(Session& session, const pb::WorkerFrame& frame);
  // Takes what is to be answered and writes it. nullopt: nothing; false: the call is over.
  std::optional<bool> WriteAnswers(Session& session, std::unique_lock<std::mutex>& write_lock,
                                   pb::WorkerFrame& frame);
  void SendNow(Session& session);
  void Log(std::string_view line) { engine_.log()(line); }

  internal::Engine& engine_;
  std::shared_ptr<grpc::Channel> channel_;
  internal::DeliveryFrame incoming_;  // of the reading thread; kept for its memory
  std::mutex mutex_;
  std::condition_variable stop_wake_;
  // Guarded by mutex_.
  bool stopping_ = false;
  bool aborted_ = false;
  Session* session_ = nullptr;
};

void Worker::Loop::Stop() {
  const std::lock_guard lock(mutex_);
  if (!stopping_) {
    stopping_ = true;
    Log(fmt::format("worker {}: stopping; finishing what it holds", engine_.name()));
  }
  stop_wake_.notify_all();
  if (session_ != nullptr) {
    {
      const std::lock_guard session_lock(session_->mutex);
      session_->leaving = true;
    }
    engine_.SetDraining(true);
    session_->Wake();
  }
}

void Worker::Loop::Abort() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  aborted_ = true;
  stop_wake_.notify_all();
  engine_.CancelAll();
  if (session_ != nullptr) {
    session_->context.TryCancel();
  }
}

int Worker::Loop::Run() {
  const WorkerOptions& options = engine_.options();
  const ConnectionOptions& connection = options.connection;
  std::optional<SignalWatch> signals;
  if (options.handle_signals) {
    signals.emplace([this] { Stop(); }, [this] { Abort(); });
  }
  engine_.StartThreads();
  Backoff backoff(connection.backoff_min, connection.backoff_max);
  channel_ = NewChannel(connection);
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto shared = std::make_shared<Session>();
    Session& session = *shared;
    session_ = &session;
    lock.unlock();
    const grpc::Status status = Serve(shared);
    lock.lock();
    session_ = nullptr;
    if (stopping_) {
      break;
    }
    if (session.welcomed) {
      backoff.Reset();
    }
    const milliseconds wait = backoff.Next();
    if (backoff.WorthTelling()) {
      Log(fmt::format("worker {}: {} {} ({}); it tries again", engine_.name(),
                      session.welcomed ? "lost the connection to" : "cannot attach to",
                      connection.target, Describe(status)));
    }
    stop_wake_.wait_for(lock, wait, [this] { return stopping_; });
    // A channel that failed waits by itself before it tries again: the backoff is ours.
    channel_ = NewChannel(connection);
  }
  const bool aborted = aborted_;
  lock.unlock();
  engine_.StopThreads();
  return aborted ? 1 : 0;
}

grpc::Status Worker::Loop::Serve(const std::shared_ptr<Session>& shared) {
  Session& session = *shared;
  const WorkerOptions& options = engine_.options();
  Authorize(options.connection, session.context);
  static constexpr char kMethod[] = "/tocsin.v1.Worker/Attach";
  session.stream.reset(
      grpc::internal::ClientReaderWriterFactory<pb::WorkerFrame, grpc::ByteBuffer>::Create(
          channel_.get(),
          grpc::internal::RpcMethod(kMethod, grpc::internal::RpcMethod::BIDI_STREAMING, channel_),
          &session.context));

  pb::WorkerFrame frame;
  pb::Hello& hello = *frame.mutable_hello();
  hello.set_protocol(kProtocol);
  hello.set_worker(engine_.name());
  hello.set_instance(options.instance.empty() ? DefaultInstance() : options.instance);
  hello.set_version(options.version);
  for (const std::string& name : engine_.FunctionNames()) {
    hello.add_functions(name);
  }
  hello.mutable_credit()->set_events(engine_.CreditEvents());
  hello.mutable_credit()->set_bytes(options.credit_bytes);
  engine_.BeginSession([&session] { session.Wake(); },
                       [this, weak = std::weak_ptr(shared)] {
                         if (const auto held = weak.lock()) SendNow(*held);
                       });
  session.stream->Write(frame);
  std::thread writer([this, &session] { WriterMain(session); });

  grpc::ByteBuffer incoming;
  while (session.stream->Read(&incoming) && OnFrame(session, incoming)) {
    incoming.Clear();
  }
  {
    const std::lock_guard lock(session.mutex);
    session.over = true;
    session.wake.notify_one();
  }
  engine_.EndSession();
  // The call is over, so a writer that waits for flow control comes free.
  writer.join();
  {
    const std::lock_guard lock(session.write_mutex);
    session.writes_over = true;
  }
  return session.stream->Finish();
}

// On a handler's thread, when nothing else waits.
void Worker::Loop::SendNow(Session& session) {
  bool leaving = false;
  {
    const std::lock_guard lock(session.mutex);
    leaving = session.leaving || session.over;
  }
  std::unique_lock lock(session.write_mutex, std::try_to_lock);
  pb::WorkerFrame frame;
  if (leaving || !lock.owns_lock() || session.writes_over ||
      !WriteAnswers(session, lock, frame).value_or(true) || engine_.HasAnswers()) {
    session.Wake();  // the writer's business
  }
}

std::optional<bool> Worker::Loop::WriteAnswers(Session& session, std::unique_lock<std::mutex>&,
                                               pb::WorkerFrame& frame) {
  if (!engine_.TakeAnswers(frame.mutable_answers())) {
    return std::nullopt;
  }
  return session.stream->Write(frame);
}

bool Worker::Loop::OnFrame(Session& session, const grpc::ByteBuffer& bytes) {
  auto slice = std::make_shared<grpc::Slice>();
  if (!bytes.DumpToSingleSlice(slice.get()).ok()) {
    return false;
  }
  const std::string_view text(reinterpret_cast<const char*>(slice->begin()), slice->size());
  if (internal::HasDeliveries(text)) {
    if (!internal::ParseDeliveries(text, slice, &incoming_)) {
      Log(fmt::format("worker {}: the broker sent a frame that cannot be read", engine_.name()));
      session.context.TryCancel();
      return false;
    }
    OnDeliveries(session);
    return true;
  }
  pb::BrokerFrame frame;
  if (!frame.ParseFromArray(text.data(), static_cast<int>(text.size()))) {
    Log(fmt::format("worker {}: the broker sent a frame that cannot be read", engine_.name()));
    session.context.TryCancel();
    return false;
  }
  switch (frame.frame_case()) {
    case pb::BrokerFrame::kWelcome: {
      const pb::Welcome& welcome = frame.welcome();
      Log(fmt::format("worker {}: attached to {} (session {}, {} functions, {} at a time)",
                      engine_.name(), engine_.options().connection.target, welcome.session(),
                      engine_.FunctionNames().size(), engine_.CreditEvents()));
      {
        const std::lock_guard lock(session.mutex);
        session.welcomed = true;
        if (welcome.heartbeat_ms() > 0) {
          session.heartbeat = milliseconds(welcome.heartbeat_ms());
        }
      }
      session.Wake();  // the heartbeat's interval begins
      return true;
    }
    case pb::BrokerFrame::kCancel:
      engine_.Cancel(frame.cancel());
      return true;
    case pb::BrokerFrame::kDrain: {
      Log(fmt::format("worker {}: the broker asks to finish and come back: {}", engine_.name(),
                      frame.drain().reason()));
      {
        const std::lock_guard lock(session.mutex);
        session.leaving = true;
      }
      engine_.SetDraining(true);
      session.Wake();
      return true;
    }
    case pb::BrokerFrame::kRefused:
      Log(fmt::format("worker {}: the broker refused {} answers: {}", engine_.name(),
                      frame.refused().count(), frame.refused().reason()));
      return true;
    case pb::BrokerFrame::kDeliveries:  // read above
    case pb::BrokerFrame::kConfirmed:
    case pb::BrokerFrame::FRAME_NOT_SET:
      return true;
  }
  return true;
}

void Worker::Loop::OnDeliveries(Session& session) {
  engine_.Deliver(incoming_);
  // At low load the broker learns what is begun before the handler can crash this process: that is
  // how it tells a poisonous event from its innocent neighbours. Under load the writer tells it.
  if (std::unique_lock lock(session.write_mutex, std::try_to_lock); lock.owns_lock()) {
    if (const auto through = engine_.StartsNow()) {
      pb::WorkerFrame frame;
      frame.mutable_answers()->set_started_through(*through);
      session.stream->Write(frame);
    }
  }
  engine_.LetRun();
}

bool Worker::Loop::WriteFrame(Session& session, const pb::WorkerFrame& frame) {
  const std::lock_guard lock(session.write_mutex);
  return session.stream->Write(frame);
}

void Worker::Loop::WriterMain(Session& session) {
  auto welcome_due = steady_clock::now() + kWelcomeWait;
  auto heartbeat_due = steady_clock::now() + kHeartbeatDefault;
  bool left = false;
  bool done_writing = false;
  auto goodbye_due = steady_clock::time_point::max();
  auto renew_due = steady_clock::time_point::max();
  pb::WorkerFrame frame;
  while (true) {
    bool leaving = false;
    bool welcomed = false;
    milliseconds heartbeat{0};
    {
      std::unique_lock lock(session.mutex);
      auto due = session.welcomed ? std::min({heartbeat_due, goodbye_due, renew_due}) : welcome_due;
      session.wake.wait_until(lock, due, [&] {
        return session.over || session.pending || (session.welcomed && due == welcome_due);
      });
      session.pending = false;
      if (session.over) {
        return;
      }
      leaving = session.leaving;
      welcomed = session.welcomed;
      heartbeat = session.heartbeat;
    }
    const auto now = steady_clock::now();
    if ((!welcomed && now >= welcome_due) || now >= goodbye_due) {
      session.context.TryCancel();
      return;
    }
    if (done_writing) {
      continue;
    }
    renew_due = engine_.RenewWaiting(now);
    frame.Clear();
    std::optional<bool> answered;
    {
      std::unique_lock lock(session.write_mutex);
      answered = WriteAnswers(session, lock, frame);
    }
    if (answered.has_value()) {
      if (!*answered) {
        return;
      }
      heartbeat_due = now + heartbeat;
      if (engine_.HasAnswers()) {
        session.pending = true;
      }
    } else if (now >= heartbeat_due) {
      frame.mutable_heartbeat();
      if (!WriteFrame(session, frame)) {
        return;
      }
      heartbeat_due = now + heartbeat;
    }
    heartbeat_due = std::min(heartbeat_due, now + heartbeat);
    if (leaving && !left) {
      left = true;
      frame.mutable_leaving();
      if (!WriteFrame(session, frame)) {
        return;
      }
    }
    if (left && engine_.CloseIfIdle()) {
      const std::lock_guard lock(session.write_mutex);
      session.writes_over = true;
      session.stream->WritesDone();
      done_writing = true;
      goodbye_due = now + kGoodbyeWait;
    }
  }
}

Worker::Worker(std::string name, WorkerOptions options)
    : engine_(std::make_unique<internal::Engine>(std::move(name), std::move(options))),
      loop_(std::make_unique<Loop>(*engine_)) {}

Worker::~Worker() = default;

Worker& Worker::On(std::string function, Handler handler, FunctionOptions options) {
  engine_->AddFunction(std::move(function), std::move(handler), options.concurrency);
  return *this;
}

Worker& Worker::OnBatch(std::string function, BatchHandler handler, BatchOptions options) {
  engine_->AddBatch(std::move(function), std::move(handler), options);
  return *this;
}

int Worker::Run() { return loop_->Run(); }
void Worker::Stop() { loop_->Stop(); }
void Worker::Abort() { loop_->Abort(); }

}  // namespace tocsin::sdk
