// HttpServer: a small HTTP/1.1 server for operators: GET only, a few paths, strict limits.
//
// Threading: one thread of its own runs everything, the handler included; the handler must not
// block and may answer later, from any thread. Stop() (or the destructor) closes every connection.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "broker/base/clock.h"

namespace tocsin {

struct HttpRequest {
  std::string path;  // without the query
  std::optional<std::string> authorization;
};

struct HttpReply {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

struct HttpLimits {
  std::size_t connections_max = 128;
  std::size_t header_bytes_max = 8 * 1024;
  Duration request_within = std::chrono::seconds(10);  // to send a request, and to take the answer
  Duration idle_max = std::chrono::seconds(60);        // between two requests of a connection
};

class HttpServer {
 public:
  using Reply = std::function<void(HttpReply)>;
  // `reply` is called once.
  using Handler = std::function<void(const HttpRequest& request, Reply reply)>;

  // Listens on `address` (`127.0.0.1:7421`, `[::1]:0`).
  //   kInvalidArgument     not an address with a port
  //   kFailedPrecondition  cannot be listened on
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address,
                                                           const HttpLimits& limits,
                                                           const Clock& clock, Handler handler);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  void Stop();

  std::uint16_t port() const;
  // What it listens on, with the actual port.
  const std::string& address() const;

 private:
  struct Impl;
  explicit HttpServer(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace tocsin
