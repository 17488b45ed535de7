#include "broker/server/grpc_listener.h"

#include <fmt/format.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <utility>

#include "broker/base/status.h"

namespace tocsin {
namespace {

int Milliseconds(Duration duration) {
  return static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
}

absl::Status CheckReadable(std::string_view key, const std::string& path) {
  if (access(path.c_str(), R_OK) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("T0206: broker.tls.{}: `{}` cannot be read", key, path));
}

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;

// gRPC says nothing when it cannot use them; every handshake would fail.
absl::Status CheckPair(const TlsConfig& tls) {
  const Bio cert_file(BIO_new_file(tls.cert.c_str(), "r"), BIO_free);
  const std::unique_ptr<X509, decltype(&X509_free)> cert(
      cert_file == nullptr ? nullptr
                           : PEM_read_bio_X509(cert_file.get(), nullptr, nullptr, nullptr),
      X509_free);
  if (cert == nullptr) {
    return absl::FailedPreconditionError(
        fmt::format("T0206: broker.tls.cert: `{}` holds no certificate in PEM form", tls.cert));
  }
  const Bio key_file(BIO_new_file(tls.key.c_str(), "r"), BIO_free);
  char no_password[] = "";
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(
      key_file == nullptr ? nullptr
                          : PEM_read_bio_PrivateKey(key_file.get(), nullptr, nullptr, no_password),
      EVP_PKEY_free);
  if (key == nullptr) {
    return absl::FailedPreconditionError(fmt::format(
        "T0206: broker.tls.key: `{}` holds no private key in PEM form without a password",
        tls.key));
  }
  if (X509_check_private_key(cert.get(), key.get()) == 1) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "T0206: broker.tls: the key `{}` is not that of the certificate `{}`", tls.key, tls.cert));
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials(
    const GrpcListenerOptions& options) {
  if (!options.tls) return grpc::InsecureServerCredentials();
  const TlsConfig& tls = *options.tls;
  TOCSIN_RETURN_IF_ERROR(CheckReadable("cert", tls.cert));
  TOCSIN_RETURN_IF_ERROR(CheckReadable("key", tls.key));
  TOCSIN_RETURN_IF_ERROR(CheckPair(tls));
  const bool with_clients = !tls.client_ca.empty();
  if (with_clients) TOCSIN_RETURN_IF_ERROR(CheckReadable("client_ca", tls.client_ca));
  using Provider = grpc::experimental::FileWatcherCertificateProvider;
  const auto every = static_cast<unsigned>(std::max<std::int64_t>(
      1, std::chrono::duration_cast<std::chrono::seconds>(options.tls_reread_every).count()));
  auto provider = with_clients ? std::make_shared<Provider>(tls.key, tls.cert, tls.client_ca, every)
                               : std::make_shared<Provider>(tls.key, tls.cert, every);
  grpc::experimental::TlsServerCredentialsOptions credentials(std::move(provider));
  credentials.watch_identity_key_cert_pairs();
  if (with_clients) {
    credentials.watch_root_certs();
    // Verified if shown; who shows none needs a token.
    credentials.set_cert_request_type(GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  } else {
    credentials.set_cert_request_type(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  }
  return grpc::experimental::TlsServerCredentials(credentials);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcListener>> GrpcListener::Start(
    const GrpcListenerOptions& options, const Clock& clock, GrpcAcceptor::Warn warn,
    const std::vector<grpc::Service*>& services) {
  TOCSIN_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ServerCredentials> credentials,
                          MakeCredentials(options));
  const std::optional<HostPort> parsed = ParseHostPort(options.address);
  if (!parsed) {
    return absl::InvalidArgumentError(
        fmt::format("`{}` is not an address and a port", options.address));
  }
  grpc::EnableDefaultHealthCheckService(true);
  static const bool reflecting = [] {
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    return true;
  }();
  static_cast<void>(reflecting);

  grpc::ServerBuilder builder;
  std::unique_ptr<GrpcListener> listener(new GrpcListener());
  TOCSIN_ASSIGN_OR_RETURN(listener->acceptor_, GrpcAcceptor::Listen(*parsed, clock, warn));
  using Experimental = grpc::ServerBuilder::experimental_type;
  listener->connections_ = builder.experimental().AddExternalConnectionAcceptor(
      Experimental::ExternalConnectionType::FROM_FD, credentials);
  if (!options.local_path.empty()) {
    TOCSIN_ASSIGN_OR_RETURN(listener->local_acceptor_,
                            GrpcAcceptor::ListenLocal(options.local_path, clock, warn));
    listener->local_connections_ = builder.experimental().AddExternalConnectionAcceptor(
        Experimental::ExternalConnectionType::FROM_FD, grpc::InsecureServerCredentials());
  }
  for (grpc::Service* service : services) builder.RegisterService(service);
  // gRPC unpacks a message before it looks at its size: a small one could become anything.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.receive_bytes_max));
  builder.SetResourceQuota(grpc::ResourceQuota("tocsin").Resize(options.memory_bytes_max));
  const std::pair<const char*, int> arguments[] = {
      {GRPC_ARG_MAX_CONCURRENT_STREAMS, options.streams_per_connection_max},
      {GRPC_ARG_MAX_METADATA_SIZE, static_cast<int>(options.metadata_bytes_max)},
      {GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, Milliseconds(options.handshake_within)},
      {GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_every)},
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.keepalive_within)},
      {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1},
      {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},
      {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
       Milliseconds(options.client_ping_every_min)},
      {GRPC_ARG_HTTP2_MAX_PING_STRIKES, 10},
  };
  for (const auto& [name, value] : arguments) builder.AddChannelArgument(name, value);
  listener->server_ = builder.BuildAndStart();
  if (listener->server_ == nullptr) {
    return absl::FailedPreconditionError(
        fmt::format("T0202: cannot serve gRPC on {}", options.address));
  }
  const auto hand_to = [](grpc::experimental::ExternalConnectionAcceptor* connections) {
    return [connections](int listener_fd, int fd) {
      grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
      connection.listener_fd = listener_fd;
      connection.fd = fd;
      connections->HandleNewConnection(&connection);
    };
  };
  listener->acceptor_->Start(hand_to(listener->connections_.get()));
  if (listener->local_acceptor_ != nullptr) {
    listener->local_acceptor_->Start(hand_to(listener->local_connections_.get()));
  }
  listener->port_ = listener->acceptor_->port();
  const bool v6 = parsed->host.find(':') != std::string::npos;
  listener->address_ =
      fmt::format("{}{}{}:{}", v6 ? "[" : "", parsed->host, v6 ? "]" : "", listener->port_);
  return listener;
}

GrpcListener::~GrpcListener() { Shutdown(Duration::zero()); }

void GrpcListener::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  if (health != nullptr) health->SetServingStatus(serving);
}

void GrpcListener::Shutdown(Duration within) {
  if (acceptor_ != nullptr) acceptor_->Stop();
  if (local_acceptor_ != nullptr) local_acceptor_->Stop();
  if (server_ == nullptr) return;
  const gpr_timespec deadline = gpr_time_add(
      gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(Milliseconds(within), GPR_TIMESPAN));
  server_->Shutdown(deadline);
  server_->Wait();
  server_.reset();
}

}  // namespace tocsin
