#include "sdk/cpp/connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <sstream>

namespace tocsin::sdk {
namespace {

std::string Environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

void LogToStandardError(std::string_view line) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  std::fprintf(stderr, "tocsin: %.*s\n", static_cast<int>(line.size()), line.data());
}

std::string ReadFile(const std::string& path, const LogSink& log) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  if (!file) {
    log(fmt::format("cannot read the TLS file {}; the connection will fail", path));
  }
  return content.str();
}

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  const auto index = static_cast<std::size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "UNKNOWN";
}

}  // namespace

ConnectionOptions Resolve(ConnectionOptions options) {
  if (options.target.empty()) {
    options.target = Environment("TOCSIN_TARGET", "localhost:7420");
  }
  if (options.token.empty()) {
    options.token = Environment("TOCSIN_TOKEN", "");
  }
  if (!options.log) {
    options.log = LogToStandardError;
  }
  return options;
}

std::shared_ptr<grpc::Channel> NewChannel(const ConnectionOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  // Coming back is the SDK's business, with its own backoff; a channel that waits by itself would
  // answer "connection refused" long after the broker is back.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 15'000);
  if (!options.tls.enabled) {
    return grpc::CreateCustomChannel(options.target, grpc::InsecureChannelCredentials(), arguments);
  }
  grpc::SslCredentialsOptions ssl;
  if (!options.tls.ca_file.empty()) {
    ssl.pem_root_certs = ReadFile(options.tls.ca_file, options.log);
  }
  if (!options.tls.cert_file.empty()) {
    ssl.pem_cert_chain = ReadFile(options.tls.cert_file, options.log);
    ssl.pem_private_key = ReadFile(options.tls.key_file, options.log);
  }
  return grpc::CreateCustomChannel(options.target, grpc::SslCredentials(ssl), arguments);
}

void Authorize(const ConnectionOptions& options, grpc::ClientContext& context) {
  if (!options.token.empty()) {
    context.AddMetadata("authorization", "Bearer " + options.token);
  }
}

std::string Describe(const grpc::Status& status) {
  if (status.ok()) {
    return "the broker ended the stream";
  }
  return fmt::format("{}: {}", CodeName(status.error_code()), status.error_message());
}

Backoff::Backoff(std::chrono::milliseconds min, std::chrono::milliseconds max)
    : min_(min), max_(max), step_(min), random_(std::random_device{}()) {}

std::chrono::milliseconds Backoff::Next() {
  const auto ceiling = std::max<std::int64_t>(step_.count(), 1);
  step_ = std::min(max_, step_ * 2);
  return std::chrono::milliseconds(
      std::uniform_int_distribution<std::int64_t>(ceiling / 2, ceiling)(random_));
}

bool Backoff::WorthTelling() {
  const auto now = std::chrono::steady_clock::now();
  if (told_ && now - *told_ < std::chrono::seconds(10)) {
    return false;
  }
  told_ = now;
  return true;
}

}  // namespace tocsin::sdk
