#include "broker/server/grpc_acceptor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <cstring>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "broker/base/thread_executor.h"

namespace tocsin {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

// Accept again only after this when the process has no descriptor left.
constexpr auto kAcceptPause = std::chrono::milliseconds(100);
constexpr Duration kWarnEvery = std::chrono::minutes(1);
// Kept for segments, checkpoints, sources and HTTP: connections alone do not use up what there is.
constexpr rlim_t kDescriptorsKept = 32;
constexpr int kPortsTried = 16;

// The system gives the lowest descriptor that is free.
bool IsOfTheLast(int fd) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return false;
  return static_cast<rlim_t>(fd) + std::min(kDescriptorsKept, limit.rlim_cur / 4) >= limit.rlim_cur;
}

// What goes away by itself: the peer's impatience, a signal.
bool IsOfOneConnection(const error_code& error) {
  return error == asio::error::connection_aborted || error == asio::error::interrupted ||
         error == asio::error::try_again;
}

}  // namespace

struct GrpcAcceptor::Impl {
  struct Listener {
    Listener(asio::io_context& context) : acceptor(context), pause(context) {}
    tcp::acceptor acceptor;
    asio::steady_timer pause;
  };

  Impl(const Clock& clock_in, Warn warn_in)
      : clock(clock_in), warn(std::move(warn_in)), thread("grpc-accept", clock_in) {}

  error_code OpenAll(const std::set<tcp::endpoint>& endpoints) {
    listeners.clear();
    port = 0;
    error_code unusable;
    for (tcp::endpoint endpoint : endpoints) {
      if (port != 0) endpoint.port(port);
      const error_code error = Open(endpoint);
      // A name may have an address that this machine has not: `localhost` without IPv6.
      if (error == asio::error::address_family_not_supported ||
          error == boost::system::errc::address_not_available) {
        unusable = error;
      } else if (error) {
        return error;
      }
    }
    return listeners.empty() ? unusable : error_code();
  }

  error_code Open(const tcp::endpoint& endpoint) {
    auto listener = std::make_unique<Listener>(context);
    tcp::acceptor& acceptor = listener->acceptor;
    error_code error;
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
    // Taken over by the connections.
    if (!error) acceptor.set_option(tcp::no_delay(true), error);
    if (!error && endpoint.address().is_v6()) {
      acceptor.set_option(asio::ip::v6_only(!endpoint.address().is_unspecified()), error);
    }
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
    if (!error) acceptor.non_blocking(true, error);
    if (error) return error;
    fcntl(acceptor.native_handle(), F_SETFD, FD_CLOEXEC);
    port = acceptor.local_endpoint().port();
    listeners.push_back(std::move(listener));
    return error;
  }

  void Accept(Listener& listener) {
    listener.acceptor.async_accept([this, &listener](error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (!error && IsOfTheLast(socket.native_handle())) {
        error = asio::error::no_descriptors;
        error_code ignored;
        socket.close(ignored);
      }
      if (!error) {
        HandOn(listener, std::move(socket));
      } else if (!IsOfOneConnection(error)) {
        Complain(error);
        listener.pause.expires_after(kAcceptPause);
        listener.pause.async_wait([this, &listener](error_code failed) {
          if (!failed) Accept(listener);
        });
        return;
      }
      Accept(listener);
    });
  }

  void HandOn(Listener& listener, tcp::socket socket) {
    error_code error;
    socket.non_blocking(true, error);
    const int fd = socket.release(error);
    if (error) return;
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    take(listener.acceptor.native_handle(), fd);
  }

  absl::Status OpenLocal(const std::string& path) {
    const auto failed = [&path](const char* what) {
      return absl::FailedPreconditionError(
          fmt::format("T0202: cannot {} {}: {}", what, path, std::strerror(errno)));
    };
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) {
      errno = ENAMETOOLONG;
      return failed("listen on");
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return failed("make");
    local.emplace(context, fd);
    unlink(path.c_str());
    // Nobody can connect before the listening begins, so the mode is in time.
    if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        chmod(path.c_str(), 0600) != 0 || listen(fd, SOMAXCONN) != 0) {
      return failed("listen on");
    }
    local_path = path;
    return absl::OkStatus();
  }

  void AcceptLocal() {
    local->async_wait(asio::posix::stream_descriptor::wait_read, [this](error_code error) {
      if (error) return;
      const int fd =
          accept4(local->native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (fd >= 0) {
        take(local->native_handle(), fd);
      } else if (error_code failed(errno, boost::system::system_category());
                 !IsOfOneConnection(failed)) {
        Complain(failed);
        local_pause.expires_after(kAcceptPause);
        local_pause.async_wait([this](error_code ended) {
          if (!ended) AcceptLocal();
        });
        return;
      }
      AcceptLocal();
    });
  }

  void Complain(const error_code& error) {
    const Instant now = clock.Monotonic();
    if (told && now - *told < kWarnEvery) return;
    told = now;
    warn("T0209", fmt::format("no new gRPC connection can be taken: {}; it is tried again until "
                              "one can{}",
                              error.message(),
                              error == asio::error::no_descriptors
                                  ? ". Raise the limit (ulimit -n, LimitNOFILE) if this lasts"
                                  : ""));
  }

  const Clock& clock;
  const Warn warn;
  std::uint16_t port = 0;
  bool started = false, stopped = false;

  // Touched by `thread` alone once it runs.
  Take take;
  std::optional<Instant> told;
  asio::io_context context{1};
  std::vector<std::unique_ptr<Listener>> listeners;
  std::optional<asio::posix::stream_descriptor> local;
  asio::steady_timer local_pause{context};
  std::string local_path;

  ThreadExecutor thread;  // last: it ends before what it uses
};

GrpcAcceptor::GrpcAcceptor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcAcceptor::~GrpcAcceptor() { Stop(); }

absl::StatusOr<std::unique_ptr<GrpcAcceptor>> GrpcAcceptor::Listen(const HostPort& address,
                                                                   const Clock& clock, Warn warn) {
  auto impl = std::make_unique<Impl>(clock, std::move(warn));
  const auto refuse = [&](const error_code& error) {
    const bool v6 = address.host.find(':') != std::string::npos;
    return absl::FailedPreconditionError(fmt::format("T0202: cannot listen on {}{}{}:{}: {}",
                                                     v6 ? "[" : "", address.host, v6 ? "]" : "",
                                                     address.port, error.message()));
  };
  error_code error;
  tcp::resolver resolver(impl->context);
  const auto found =
      resolver.resolve(address.host, std::to_string(address.port),
                       tcp::resolver::passive | tcp::resolver::numeric_service, error);
  if (error) return refuse(error);
  std::set<tcp::endpoint> endpoints;  // a hosts file may name an address twice
  for (const auto& entry : found) endpoints.insert(entry.endpoint());
  for (int tried = 1;; ++tried) {
    error = impl->OpenAll(endpoints);
    // The port that was free for the first address may be taken at the next one.
    if (error != asio::error::address_in_use || address.port != 0 || tried == kPortsTried) break;
  }
  if (error) return refuse(error);
  return std::unique_ptr<GrpcAcceptor>(new GrpcAcceptor(std::move(impl)));
}

absl::StatusOr<std::unique_ptr<GrpcAcceptor>> GrpcAcceptor::ListenLocal(const std::string& path,
                                                                        const Clock& clock,
                                                                        Warn warn) {
  auto impl = std::make_unique<Impl>(clock, std::move(warn));
  const absl::Status opened = impl->OpenLocal(path);
  if (!opened.ok()) return opened;
  return std::unique_ptr<GrpcAcceptor>(new GrpcAcceptor(std::move(impl)));
}

std::uint16_t GrpcAcceptor::port() const { return impl_->port; }

void GrpcAcceptor::Start(Take take) {
  impl_->started = true;
  impl_->take = std::move(take);
  for (const auto& listener : impl_->listeners) impl_->Accept(*listener);
  if (impl_->local) impl_->AcceptLocal();
  impl_->thread.Post([raw = impl_.get()] { raw->context.run(); });
}

void GrpcAcceptor::Stop() {
  if (std::exchange(impl_->stopped, true)) return;
  impl_->context.stop();
  impl_->thread.Stop();
  for (const auto& listener : impl_->listeners) {
    error_code ignored;
    listener->acceptor.close(ignored);
  }
  impl_->local.reset();
  if (!impl_->local_path.empty()) unlink(impl_->local_path.c_str());
}

}  // namespace tocsin
