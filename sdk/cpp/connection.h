// Where the broker is and how to come back to it: shared by Worker and Publisher.

#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>

namespace tocsin::sdk {

// Gets whole lines without a line end. Called from any thread of the SDK, one call at a time.
using LogSink = std::function<void(std::string_view line)>;

struct TlsOptions {
  bool enabled = false;
  std::string ca_file;  // empty: the system's roots
  std::string cert_file;
  std::string key_file;
};

struct ConnectionOptions {
  std::string target;  // empty: $TOCSIN_TARGET, else localhost:7420
  std::string token;   // empty: $TOCSIN_TOKEN, else none
  TlsOptions tls;
  std::chrono::milliseconds backoff_min{200};
  std::chrono::milliseconds backoff_max{15'000};
  LogSink log;  // empty: standard error
};

// The options with the environment's values filled in and a log sink that can be called.
ConnectionOptions Resolve(ConnectionOptions options);

// A channel of its own connection; never null. Unreadable TLS files give a channel whose calls
// fail.
std::shared_ptr<grpc::Channel> NewChannel(const ConnectionOptions& options);

// Adds the token to the call.
void Authorize(const ConnectionOptions& options, grpc::ClientContext& context);

// "UNAVAILABLE: connection refused" and the like, for people.
std::string Describe(const grpc::Status& status);

// Exponential with full jitter above half the step. Not thread-safe.
class Backoff {
 public:
  Backoff(std::chrono::milliseconds min, std::chrono::milliseconds max);
  std::chrono::milliseconds Next();
  void Reset() {
    step_ = min_;
    told_.reset();
  }
  // The first failure since Reset(), and one in ten seconds after it: an outage is no reason to
  // fill a log.
  bool WorthTelling();

 private:
  std::chrono::milliseconds min_;
  std::chrono::milliseconds max_;
  std::chrono::milliseconds step_;
  std::mt19937_64 random_;
  std::optional<std::chrono::steady_clock::time_point> told_;
};

}  // namespace tocsin::sdk
