#include "broker/server/http_server.h"

#include <fmt/format.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/version.hpp>
#include <charconv>
#include <map>
#include <string_view>
#include <utility>

#include "broker/base/thread_executor.h"

namespace tocsin {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using boost::system::error_code;

// Accept again only after this when the process has no descriptor left.
constexpr auto kAcceptPause = std::chrono::milliseconds(100);

// `127.0.0.1:7421`, `[::1]:0`, `localhost:7421`.
std::optional<asio::ip::tcp::endpoint> ParseEndpoint(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  std::string host(text.substr(0, colon));
  const std::string_view digits = text.substr(colon + 1);
  std::uint16_t port = 0;
  const auto [rest, failed] = std::from_chars(digits.begin(), digits.end(), port);
  if (digits.empty() || failed != std::errc() || rest != digits.end()) return std::nullopt;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  if (host == "localhost") host = "127.0.0.1";
  error_code error;
  const asio::ip::address address = asio::ip::make_address(host, error);
  if (error) return std::nullopt;
  return asio::ip::tcp::endpoint(address, port);
}

std::string View(beast::string_view text) { return {text.data(), text.size()}; }

}  // namespace

struct HttpServer::Impl : public std::enable_shared_from_this<HttpServer::Impl> {
  class Connection;

  Impl(const HttpLimits& limits_in, const Clock& clock, Handler handler_in)
      : limits(limits_in),
        handler(std::move(handler_in)),
        acceptor(context),
        pause(context),
        thread("http", clock) {}

  void Accept();
  void Answer(std::uint64_t ticket, HttpReply reply);

  const HttpLimits limits;
  const Handler handler;
  std::string address;
  std::uint16_t port = 0;

  bool stopped = false;  // touched by the owner

  // Everything below is touched by `thread` alone once it runs.
  std::size_t connections = 0;
  std::uint64_t next_ticket = 0;
  asio::io_context context{1};
  asio::ip::tcp::acceptor acceptor;
  asio::steady_timer pause;
  // Connections whose answer is still to come.
  std::map<std::uint64_t, std::shared_ptr<Connection>> waiting;

  ThreadExecutor thread;  // last: it ends before what it uses
};

class HttpServer::Impl::Connection
    : public std::enable_shared_from_this<HttpServer::Impl::Connection> {
 public:
  Connection(Impl& server, asio::ip::tcp::socket socket)
      : server_(server), stream_(std::move(socket)) {
    ++server_.connections;
  }
  ~Connection() { --server_.connections; }

  void Write(HttpReply reply);

  void Read(bool first) {
    parser_.emplace();
    parser_->header_limit(static_cast<std::uint32_t>(server_.limits.header_bytes_max));
    parser_->body_limit(0);
    stream_.expires_after(first ? server_.limits.request_within : server_.limits.idle_max);
    http::async_read(
        stream_, buffer_, *parser_,
        [self = shared_from_this()](error_code error, std::size_t) { self->OnRead(error); });
  }

 private:
  void OnRead(error_code error) {
    if (error == http::error::end_of_stream || error == beast::error::timeout ||
        error == asio::error::operation_aborted || error == asio::error::connection_reset) {
      return Close();
    }
    if (error) {
      keep_alive_ = false;
      const bool large = error == http::error::header_limit || error == http::error::body_limit;
      return Write({.status = large ? 431 : 400, .body = "the request is not understood\n"});
    }
    const auto& request = parser_->get();
    keep_alive_ = request.keep_alive();
    head_only_ = request.method() == http::verb::head;
    if (request.method() != http::verb::get && !head_only_) {
      return Write({.status = 405, .body = "only GET\n"});
    }
    HttpRequest seen;
    seen.path = View(request.target());
    seen.path = seen.path.substr(0, seen.path.find('?'));
    if (const auto field = request.find(http::field::authorization); field != request.end()) {
      seen.authorization = View(field->value());
    }
    stream_.expires_never();
    const std::uint64_t ticket = server_.next_ticket++;
    server_.waiting.emplace(ticket, shared_from_this());
    // The answer may come from another thread, and after the server has gone.
    server_.handler(seen, [weak = server_.weak_from_this(), ticket](HttpReply reply) {
      const std::shared_ptr<Impl> server = weak.lock();
      if (server == nullptr) return;
      // Its thread runs what is posted, and is over before the context is.
      asio::post(server->context, [raw = server.get(), ticket, reply = std::move(reply)]() mutable {
        raw->Answer(ticket, std::move(reply));
      });
    });
  }

  void Close() {
    error_code ignored;
    stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
    stream_.socket().close(ignored);
  }

  Impl& server_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  std::optional<http::response<http::string_body>> response_;
  bool keep_alive_ = false;
  bool head_only_ = false;
};

void HttpServer::Impl::Connection::Write(HttpReply reply) {
  response_.emplace(static_cast<http::status>(reply.status), 11);
  response_->set(http::field::server, "tocsin");
  response_->set(http::field::content_type, reply.content_type);
  response_->set(http::field::cache_control, "no-store");
  if (reply.status == 405) response_->set(http::field::allow, "GET, HEAD");
  response_->keep_alive(keep_alive_);
  const std::size_t bytes = reply.body.size();
  if (!head_only_) response_->body() = std::move(reply.body);
  response_->content_length(bytes);
  stream_.expires_after(server_.limits.request_within);
  http::async_write(stream_, *response_,
                    [self = shared_from_this()](error_code error, std::size_t) {
                      if (error || !self->keep_alive_) return self->Close();
                      self->Read(false);
                    });
}

void HttpServer::Impl::Answer(std::uint64_t ticket, HttpReply reply) {
  const auto entry = waiting.find(ticket);
  if (entry == waiting.end()) return;
  const std::shared_ptr<Connection> connection = std::move(entry->second);
  waiting.erase(entry);
  connection->Write(std::move(reply));
}

void HttpServer::Impl::Accept() {
  acceptor.async_accept([this](error_code error, asio::ip::tcp::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (error) {
      pause.expires_after(kAcceptPause);
      pause.async_wait([this](error_code failed) {
        if (!failed) Accept();
      });
      return;
    }
    // Over the limit the connection is closed at once: those that are there are served.
    if (connections < limits.connections_max) {
      std::make_shared<Connection>(*this, std::move(socket))->Read(true);
    }
    Accept();
  });
}

HttpServer::HttpServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() { Stop(); }

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address,
                                                              const HttpLimits& limits,
                                                              const Clock& clock, Handler handler) {
  error_code error;
  const std::optional<asio::ip::tcp::endpoint> endpoint = ParseEndpoint(address);
  if (!endpoint) {
    return absl::InvalidArgumentError(
        fmt::format("`{}` is not an address and a port, such as 127.0.0.1:7421", address));
  }
  auto impl = std::make_shared<Impl>(limits, clock, std::move(handler));
  impl->acceptor.open(endpoint->protocol(), error);
  if (!error) impl->acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error) impl->acceptor.bind(*endpoint, error);
  if (!error) impl->acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    return absl::FailedPreconditionError(
        fmt::format("T0202: cannot listen on {}: {}", address, error.message()));
  }
  impl->port = impl->acceptor.local_endpoint().port();
  const std::string host = endpoint->address().to_string();
  impl->address =
      fmt::format("{}:{}", endpoint->address().is_v6() ? "[" + host + "]" : host, impl->port);
  impl->Accept();
  impl->thread.Post([raw = impl.get()] { raw->context.run(); });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

void HttpServer::Stop() {
  if (impl_->stopped) return;
  impl_->stopped = true;
  impl_->context.stop();
  impl_->thread.Stop();
}

std::uint16_t HttpServer::port() const { return impl_->port; }
const std::string& HttpServer::address() const { return impl_->address; }

}  // namespace tocsin
