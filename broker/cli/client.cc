#include "broker/cli/client.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/cli/console.h"
#include "broker/cli/input.h"
#include "tocsin/v1/admin.grpc.pb.h"
#include "tocsin/v1/publish.grpc.pb.h"

namespace tocsin::cli {
namespace {

constexpr std::size_t kSecretBytesMax = 1024 * 1024;
constexpr int kFrameBytesMax = 16 * 1024 * 1024;
constexpr std::int64_t kIdleMs = 100;
constexpr const char* kSystemRoots = "/etc/ssl/certs/ca-certificates.crt";

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// gRPC takes absolute times of the wall clock only.
gpr_timespec Deadline(std::int64_t ms) {
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(ms, GPR_TIMESPAN));
}

std::string Stripped(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) {
    text.pop_back();
  }
  return text;
}

bool IsLocal(const std::string& target) {
  for (const char* prefix : {"127.", "localhost", "[::1]", "unix:", "ipv4:127."}) {
    if (target.rfind(prefix, 0) == 0) return true;
  }
  return false;
}

// The broker's answer in words that tell the person what to do.
absl::Status Translate(const grpc::Status& status, const Connection& connection,
                       std::string_view what) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  const std::string said = Clean(status.error_message());
  const std::string& target = connection.target;
  switch (code) {
    case absl::StatusCode::kUnavailable:
      return absl::UnavailableError(fmt::format(
          "{}: the broker at {} is not reachable ({}). Is it running? Start it with `tocsin serve "
          "-c FILE`, or name another with --target or TOCSIN_TARGET.{}",
          what, target, said, connection.tls ? "" : " If it speaks TLS, give --tls or --ca FILE."));
    case absl::StatusCode::kDeadlineExceeded:
      return absl::DeadlineExceededError(fmt::format(
          "{}: the broker at {} did not answer within {} ms. Look at its log, or allow more with "
          "--timeout.",
          what, target, connection.timeout_ms));
    case absl::StatusCode::kUnauthenticated:
      return absl::UnauthenticatedError(fmt::format(
          "{}: the broker at {} {} ({}). Give a token of its configuration with --token-file or "
          "TOCSIN_TOKEN.",
          what, target, connection.token.empty() ? "wants a token" : "does not know this token",
          said));
    case absl::StatusCode::kPermissionDenied:
      return absl::PermissionDeniedError(fmt::format(
          "{}: the token may not do this at {} ({}). Use one with the scope that is named, or add "
          "the scope in the broker's configuration.",
          what, target, said));
    case absl::StatusCode::kUnimplemented:
      return absl::UnimplementedError(fmt::format(
          "{}: the broker at {} does not know this call ({}). It may be older than this "
          "command: compare `tocsin status` with `tocsin version`.",
          what, target, said));
    default:
      return absl::Status(code, fmt::format("{}: {}", what, said.empty() ? "failed" : said));
  }
}

}  // namespace

void AddConnection(Command& command, ConnectionFlags& flags) {
  auto add = [&](const char* names, Option::Target target, const char* value, const char* help,
                 bool is_file = false) {
    command.options.push_back({names, target, value, help, "Connection", {}, false, is_file});
  };
  add("--target", &flags.target, "HOST:PORT",
      "the broker (else TOCSIN_TARGET, else 127.0.0.1:7420)");
  add("--token-file", &flags.token_file, "FILE",
      "file that holds the token (else TOCSIN_TOKEN, TOCSIN_TOKEN_FILE)", true);
  add("--tls", &flags.tls, "", "speak TLS, trusting the system's authorities");
  add("--ca", &flags.ca, "FILE", "speak TLS, trusting these authorities (PEM)", true);
  add("--cert", &flags.cert, "FILE", "our certificate for TLS, with --cert-key (PEM)", true);
  add("--cert-key", &flags.key, "FILE", "the private key of --cert (PEM)", true);
  add("--timeout", &flags.timeout, "DURATION", "how long an answer may take (default 10s)");
}

absl::StatusOr<Connection> ResolveConnection(const ConnectionFlags& flags) {
  Connection connection;
  connection.target = flags.target.empty() ? Environment("TOCSIN_TARGET") : flags.target;
  if (connection.target.empty()) connection.target = kDefaultTarget;
  std::string token_file = flags.token_file;
  if (token_file.empty()) connection.token = Environment("TOCSIN_TOKEN");
  if (token_file.empty() && connection.token.empty()) token_file = Environment("TOCSIN_TOKEN_FILE");
  if (!token_file.empty()) {
    TOCSIN_ASSIGN_OR_RETURN(connection.token, ReadWhole(token_file, kSecretBytesMax));
    connection.token = Stripped(std::move(connection.token));
    if (connection.token.empty()) {
      return absl::InvalidArgumentError(fmt::format("the token file {} is empty", token_file));
    }
  }
  for (const char c : connection.token) {
    if (c < 0x21 || c > 0x7e) {
      return absl::InvalidArgumentError("the token has characters that no token may have");
    }
  }
  if (flags.cert.empty() != flags.key.empty()) {
    return absl::InvalidArgumentError(
        "--cert and --cert-key belong together: give both or neither");
  }
  connection.tls = flags.tls || !flags.ca.empty() || !flags.cert.empty();
  connection.ca_path = flags.ca;
  connection.cert_path = flags.cert;
  connection.key_path = flags.key;
  const auto timeout = ParseDuration(flags.timeout);
  if (!timeout.ok()) return Annotate(timeout.status(), "--timeout");
  connection.timeout_ms = std::chrono::duration_cast<std::chrono::milliseconds>(*timeout).count();
  return connection;
}

class Client::Impl {
 public:
  Impl(Connection connection, std::shared_ptr<grpc::ChannelCredentials> credentials)
      : connection_(std::move(connection)) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kFrameBytesMax);
    arguments.SetMaxSendMessageSize(kFrameBytesMax);
    arguments.SetUserAgentPrefix("tocsin-cli");
    // A broker on this machine is never behind a proxy of the environment's.
    if (IsLocal(connection_.target)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    const auto channel = grpc::CreateCustomChannel(connection_.target, credentials, arguments);
    admin_ = v1::Admin::NewStub(channel);
    publisher_ = v1::Publisher::NewStub(channel);
  }

  const Connection& connection() const { return connection_; }
  v1::Admin::Stub& admin() { return *admin_; }
  v1::Publisher::Stub& publisher() { return *publisher_; }

  void Prepare(grpc::ClientContext& context) const {
    if (!connection_.token.empty()) {
      context.AddMetadata("authorization", "Bearer " + connection_.token);
    }
  }

  template <typename Request, typename Response>
  absl::StatusOr<Response> Unary(std::string_view what,
                                 grpc::Status (v1::Admin::Stub::*method)(grpc::ClientContext*,
                                                                         const Request&, Response*),
                                 const Request& request) {
    grpc::ClientContext context;
    Prepare(context);
    context.set_deadline(Deadline(connection_.timeout_ms));
    Response response;
    TOCSIN_RETURN_IF_ERROR(
        Translate((admin_.get()->*method)(&context, request, &response), connection_, what));
    return response;
  }

  // Through a completion queue, because a blocking Read() would not notice an interrupt.
  template <typename Message, typename Start>
  absl::Status Stream(std::string_view what, Start start, const Each<Message>& each,
                      const Idle& idle) {
    enum Tag : std::intptr_t { kStarted = 1, kRead, kFinished };
    const auto tag = [](Tag t) { return reinterpret_cast<void*>(t); };
    grpc::CompletionQueue queue;
    grpc::ClientContext context;
    Prepare(context);
    std::unique_ptr<grpc::ClientAsyncReader<Message>> reader =
        start(&context, &queue, tag(kStarted));
    grpc::Status status;
    Message message;
    bool ended_here = false;
    bool interrupted = false;
    bool finished = false;
    while (!finished) {
      void* got = nullptr;
      bool ok = false;
      switch (queue.AsyncNext(&got, &ok, Deadline(kIdleMs))) {
        case grpc::CompletionQueue::SHUTDOWN:
          return absl::InternalError("the completion queue was shut down");
        case grpc::CompletionQueue::TIMEOUT:
          if (idle) idle();
          if (Interrupted() && !interrupted) {
            interrupted = true;
            context.TryCancel();
          }
          continue;
        case grpc::CompletionQueue::GOT_EVENT:
          break;
      }
      if (got == tag(kFinished)) {
        finished = true;
        continue;
      }
      if (got == tag(kRead) && ok && !ended_here && !interrupted) {
        interrupted = Interrupted();
        ended_here = !interrupted && !each(message);
        if (interrupted || ended_here) context.TryCancel();
      }
      if (ok && !ended_here && !interrupted) {
        reader->Read(&message, tag(kRead));
      } else {
        reader->Finish(&status, tag(kFinished));
      }
    }
    queue.Shutdown();
    void* ignored = nullptr;
    for (bool ok = false; queue.Next(&ignored, &ok);) {
    }
    if (ended_here) return absl::OkStatus();
    if (interrupted) return absl::CancelledError(fmt::format("{}: interrupted", what));
    return Translate(status, connection_, what);
  }

 private:
  Connection connection_;
  std::unique_ptr<v1::Admin::Stub> admin_;
  std::unique_ptr<v1::Publisher::Stub> publisher_;
};

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::New(const ConnectionFlags& flags) {
  TOCSIN_ASSIGN_OR_RETURN(Connection connection, ResolveConnection(flags));
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (connection.tls) {
    grpc::SslCredentialsOptions options;
    const std::string roots = connection.ca_path.empty() ? kSystemRoots : connection.ca_path;
    TOCSIN_ASSIGN_OR_RETURN(options.pem_root_certs, ReadWhole(roots, kSecretBytesMax));
    if (!connection.cert_path.empty()) {
      TOCSIN_ASSIGN_OR_RETURN(options.pem_cert_chain,
                              ReadWhole(connection.cert_path, kSecretBytesMax));
      TOCSIN_ASSIGN_OR_RETURN(options.pem_private_key,
                              ReadWhole(connection.key_path, kSecretBytesMax));
    }
    credentials = grpc::SslCredentials(options);
  }
  auto impl = std::make_unique<Impl>(std::move(connection), std::move(credentials));
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

const std::string& Client::target() const { return impl_->connection().target; }

bool Client::SendsTokenInTheClear() const {
  const Connection& connection = impl_->connection();
  return !connection.token.empty() && !connection.tls && !IsLocal(connection.target);
}

absl::StatusOr<v1::StatusResponse> Client::Status() {
  return impl_->Unary("status", &v1::Admin::Stub::Status, v1::StatusRequest());
}

absl::StatusOr<v1::ListTriggersResponse> Client::ListTriggers() {
  return impl_->Unary("list triggers", &v1::Admin::Stub::ListTriggers, v1::ListTriggersRequest());
}

absl::StatusOr<v1::SetTriggerStateResponse> Client::SetTriggerState(
    const v1::SetTriggerStateRequest& request) {
  return impl_->Unary(fmt::format("trigger {}", request.name()), &v1::Admin::Stub::SetTriggerState,
                      request);
}

absl::StatusOr<v1::ListSourcesResponse> Client::ListSources() {
  return impl_->Unary("list sources", &v1::Admin::Stub::ListSources, v1::ListSourcesRequest());
}

absl::StatusOr<v1::ForgetSourceResponse> Client::ForgetSource(
    const v1::ForgetSourceRequest& request) {
  return impl_->Unary(fmt::format("source {}", request.name()), &v1::Admin::Stub::ForgetSource,
                      request);
}

absl::StatusOr<v1::SnapshotSourceResponse> Client::SnapshotSource(
    const v1::SnapshotSourceRequest& request) {
  return impl_->Unary(fmt::format("source {}", request.name()), &v1::Admin::Stub::SnapshotSource,
                      request);
}

absl::StatusOr<v1::ListWorkersResponse> Client::ListWorkers() {
  return impl_->Unary("list workers", &v1::Admin::Stub::ListWorkers, v1::ListWorkersRequest());
}

absl::StatusOr<v1::ReloadResponse> Client::Reload() {
  return impl_->Unary("reload", &v1::Admin::Stub::Reload, v1::ReloadRequest());
}

absl::StatusOr<v1::PublishResponse> Client::Publish(const v1::PublishRequest& request) {
  grpc::ClientContext context;
  impl_->Prepare(context);
  context.AddMetadata("tocsin-refs", "1");
  context.set_deadline(Deadline(impl_->connection().timeout_ms));
  v1::PublishResponse response;
  TOCSIN_RETURN_IF_ERROR(Translate(impl_->publisher().Publish(&context, request, &response),
                                   impl_->connection(), "publish"));
  return response;
}

absl::Status Client::ListLetters(const v1::ListLettersRequest& request,
                                 const Each<v1::Letter>& each, const Idle& idle) {
  auto start = [&](grpc::ClientContext* context, grpc::CompletionQueue* queue, void* tag) {
    return impl_->admin().AsyncListLetters(context, request, queue, tag);
  };
  return impl_->Stream<v1::Letter>("list dead letters", start, each, idle);
}

absl::Status Client::CloseLetters(const v1::CloseLettersRequest& request,
                                  const Each<v1::CloseLettersProgress>& each, const Idle& idle) {
  auto start = [&](grpc::ClientContext* context, grpc::CompletionQueue* queue, void* tag) {
    return impl_->admin().AsyncCloseLetters(context, request, queue, tag);
  };
  const bool redrive = request.action() == v1::CloseLettersRequest::REDRIVE;
  return impl_->Stream<v1::CloseLettersProgress>(redrive ? "redrive" : "discard", start, each,
                                                 idle);
}

absl::StatusOr<v1::ApplyTriggersResponse> Client::ApplyTriggers(
    const v1::ApplyTriggersRequest& request) {
  return impl_->Unary("apply triggers", &v1::Admin::Stub::ApplyTriggers, request);
}

absl::StatusOr<v1::RemoveTriggersResponse> Client::RemoveTriggers(
    const v1::RemoveTriggersRequest& request) {
  return impl_->Unary("remove triggers", &v1::Admin::Stub::RemoveTriggers, request);
}

absl::Status Client::Replay(const v1::ReplayRequest& request, const Each<v1::ReplayReport>& each) {
  auto start = [&](grpc::ClientContext* context, grpc::CompletionQueue* queue, void* tag) {
    return impl_->admin().AsyncReplay(context, request, queue, tag);
  };
  return impl_->Stream<v1::ReplayReport>("replay", start, each, nullptr);
}

absl::Status Client::Explain(const v1::ExplainRequest& request, const Each<v1::ExplainItem>& each) {
  auto start = [&](grpc::ClientContext* context, grpc::CompletionQueue* queue, void* tag) {
    return impl_->admin().AsyncExplain(context, request, queue, tag);
  };
  return impl_->Stream<v1::ExplainItem>("explain", start, each, nullptr);
}

absl::Status Client::Tail(const v1::TailRequest& request, const Each<v1::TailEvent>& each,
                          const Idle& idle) {
  auto start = [&](grpc::ClientContext* context, grpc::CompletionQueue* queue, void* tag) {
    return impl_->admin().AsyncTail(context, request, queue, tag);
  };
  return impl_->Stream<v1::TailEvent>("tail", start, each, idle);
}

absl::StatusOr<v1::AddSchedulesResponse> Client::AddSchedules(
    const v1::AddSchedulesRequest& request) {
  return impl_->Unary("add schedules", &v1::Admin::Stub::AddSchedules, request);
}

absl::StatusOr<v1::ScheduleStatus> Client::ControlSchedule(
    const v1::ControlScheduleRequest& request) {
  return impl_->Unary(fmt::format("schedule {}", request.name()), &v1::Admin::Stub::ControlSchedule,
                      request);
}

absl::StatusOr<v1::ListFunctionsResponse> Client::ListFunctions() {
  return impl_->Unary("list functions", &v1::Admin::Stub::ListFunctions,
                      v1::ListFunctionsRequest());
}

absl::Status Client::ListSchedules(const v1::ListSchedulesRequest& request,
                                   const Each<v1::ScheduleStatus>& each) {
  auto start = [&](grpc::ClientContext* context, grpc::CompletionQueue* queue, void* tag) {
    return impl_->admin().AsyncListSchedules(context, request, queue, tag);
  };
  return impl_->Stream<v1::ScheduleStatus>("list schedules", start, each, nullptr);
}

absl::Status Client::BackfillSchedule(const v1::BackfillScheduleRequest& request,
                                      const Each<v1::BackfillProgress>& each) {
  auto start = [&](grpc::ClientContext* context, grpc::CompletionQueue* queue, void* tag) {
    return impl_->admin().AsyncBackfillSchedule(context, request, queue, tag);
  };
  return impl_->Stream<v1::BackfillProgress>(fmt::format("backfill of {}", request.name()), start,
                                             each, nullptr);
}

absl::Status Client::ListRuns(const v1::ListRunsRequest& request, const Each<v1::RunStatus>& each) {
  auto start = [&](grpc::ClientContext* context, grpc::CompletionQueue* queue, void* tag) {
    return impl_->admin().AsyncListRuns(context, request, queue, tag);
  };
  return impl_->Stream<v1::RunStatus>("list runs", start, each, nullptr);
}

}  // namespace tocsin::cli
