// GrpcListener: the gRPC server round the services: address, TLS, limits, keepalive, health and
// reflection.
//
// Threading: Start, Shutdown and the destructor on one thread; `warn` is called on another.

#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/config/config.h"
#include "broker/server/grpc_acceptor.h"

namespace tocsin {

struct GrpcListenerOptions {
  std::string address;
  std::optional<TlsConfig> tls;
  std::string local_path;  // of a Unix socket for this user's processes, without TLS; empty: none
  std::size_t receive_bytes_max = std::size_t{8} << 20;  // of one message
  std::size_t metadata_bytes_max = 16 * 1024;
  std::size_t memory_bytes_max = std::size_t{256} << 20;  // gRPC's own buffers
  int streams_per_connection_max = 1000;
  Duration handshake_within = std::chrono::seconds(10);
  // Half-open connections are found within the sum of both.
  Duration keepalive_every = std::chrono::seconds(15);
  Duration keepalive_within = std::chrono::seconds(10);
  // Clients that ping more often are closed, after a few strikes.
  Duration client_ping_every_min = std::chrono::milliseconds(500);
  Duration tls_reread_every = std::chrono::seconds(1);  // changed PEM files are taken up
};

class GrpcListener {
 public:
  // The services must outlive it.
  //   kFailedPrecondition  T0202 the address cannot be listened on; T0206 a TLS file is unreadable
  static absl::StatusOr<std::unique_ptr<GrpcListener>> Start(
      const GrpcListenerOptions& options, const Clock& clock, GrpcAcceptor::Warn warn,
      const std::vector<grpc::Service*>& services);
  ~GrpcListener();

  // What it listens on, with the actual port.
  const std::string& address() const { return address_; }
  int port() const { return port_; }

  void SetServing(bool serving);
  // Refuses new calls, waits for those under way, cancels what is left after `within`.
  void Shutdown(Duration within);

 private:
  GrpcListener() = default;

  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> connections_;
  std::unique_ptr<GrpcAcceptor> acceptor_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> local_connections_;
  std::unique_ptr<GrpcAcceptor> local_acceptor_;
  std::string address_;
  int port_ = 0;
};

}  // namespace tocsin
