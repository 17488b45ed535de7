#include "connectors/zeromq/zeromq_link.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr const char* kMonitor = "inproc://monitor";
constexpr const char* kHandler = "inproc://zeromq.zap.01";

zmq::socket_type TypeOf(ZeromqSocket socket) {
  switch (socket) {
    case ZeromqSocket::kPull:
      return zmq::socket_type::pull;
    case ZeromqSocket::kSub:
      return zmq::socket_type::sub;
    case ZeromqSocket::kRep:
      return zmq::socket_type::router;
  }
  return zmq::socket_type::pull;
}

}  // namespace

ZeromqLink::~ZeromqLink() {
  // What waits for peers that are away is given up: the process may be ending.
  for (zmq::socket_t* socket : {&socket_, &monitor_, &handler_}) {
    if (socket->handle() == nullptr) continue;
    const int none = 0;
    (void)zmq_setsockopt(socket->handle(), ZMQ_LINGER, &none, sizeof(none));
  }
  if (socket_.handle() != nullptr) (void)zmq_socket_monitor(socket_.handle(), nullptr, 0);
}

absl::StatusOr<std::unique_ptr<ZeromqLink>> ZeromqLink::Open(const ZeromqSpec& spec) {
  std::unique_ptr<ZeromqLink> link(new ZeromqLink(spec));
  try {
    TOCSIN_RETURN_IF_ERROR(link->OpenNow());
  } catch (const zmq::error_t& error) {
    return absl::FailedPreconditionError(fmt::format("ZeroMQ: {}", error.what()));
  }
  return link;
}

void ZeromqLink::SetCurve() {
  if (spec_.curve_secret.empty()) return;
  std::string own = spec_.curve_public;
  if (own.empty()) {
    std::array<char, 41> derived{};
    if (zmq_curve_public(derived.data(), spec_.curve_secret.c_str()) == 0) own = derived.data();
  }
  socket_.set(zmq::sockopt::curve_secretkey, spec_.curve_secret);
  socket_.set(zmq::sockopt::curve_publickey, own);
  if (!spec_.curve_server.empty()) {
    socket_.set(zmq::sockopt::curve_serverkey, spec_.curve_server);
    return;
  }
  socket_.set(zmq::sockopt::curve_server, true);
  if (spec_.curve_clients.empty()) return;
  // Before anybody can connect.
  handler_ = zmq::socket_t(context_, zmq::socket_type::rep);
  handler_.bind(kHandler);
  socket_.set(zmq::sockopt::zap_domain, "tocsin");
}

absl::Status ZeromqLink::OpenNow() {
  socket_ = zmq::socket_t(context_, TypeOf(spec_.socket));
  socket_.set(zmq::sockopt::linger, 0);
  socket_.set(zmq::sockopt::rcvhwm, static_cast<int>(spec_.high_water_mark));
  socket_.set(zmq::sockopt::ipv6, true);
  const auto wait_max =
      std::chrono::duration_cast<std::chrono::milliseconds>(spec_.reconnect_max).count();
  socket_.set(zmq::sockopt::reconnect_ivl, static_cast<int>(std::min<std::int64_t>(100, wait_max)));
  socket_.set(zmq::sockopt::reconnect_ivl_max, static_cast<int>(wait_max));
  // A peer that vanished without a word is noticed, and connected to again.
  socket_.set(zmq::sockopt::heartbeat_ivl, 10'000);
  socket_.set(zmq::sockopt::heartbeat_timeout, 30'000);
  SetCurve();
  if (zmq_socket_monitor(socket_.handle(), kMonitor,
                         ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
                             ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                             ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) == 0) {
    monitor_ = zmq::socket_t(context_, zmq::socket_type::pair);
    monitor_.connect(kMonitor);
  }
  if (spec_.socket == ZeromqSocket::kSub) {
    if (spec_.subscribe.empty()) socket_.set(zmq::sockopt::subscribe, "");
    for (const std::string& prefix : spec_.subscribe) {
      socket_.set(zmq::sockopt::subscribe, prefix);
    }
  }
  for (const std::string& endpoint : spec_.bind) {
    if (zmq_bind(socket_.handle(), endpoint.c_str()) == 0) continue;
    const int error = zmq_errno();
    const std::string text = fmt::format("cannot bind {}: {}", endpoint, zmq_strerror(error));
    if (error == EADDRINUSE || error == EADDRNOTAVAIL) return absl::UnavailableError(text);
    return absl::FailedPreconditionError(text);
  }
  for (const std::string& endpoint : spec_.connect) {
    if (zmq_connect(socket_.handle(), endpoint.c_str()) == 0) continue;
    return absl::FailedPreconditionError(
        fmt::format("cannot connect to {}: {}", endpoint, zmq_strerror(zmq_errno())));
  }
  if (!spec_.connect.empty()) {
    note_ = fmt::format("not connected to {} yet", fmt::join(spec_.connect, ", "));
  }
  return absl::OkStatus();
}

void ZeromqLink::ServeMonitor() {
  zmq::message_t frame, address;
  while (monitor_.recv(frame, zmq::recv_flags::dontwait)) {
    if (!monitor_.recv(address)) return;
    std::uint16_t event = 0;
    std::memcpy(&event, frame.data(), sizeof(event));
    const std::string peer = address.to_string();
    switch (event) {
      case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        ++peers_;
        note_.clear();
        break;
      case ZMQ_EVENT_DISCONNECTED:
        peers_ = std::max(0, peers_ - 1);
        if (peers_ == 0 && !spec_.connect.empty()) {
          note_ = fmt::format("{} is away; ZeroMQ connects again by itself", peer);
        }
        break;
      default:
        note_ = fmt::format("{}: the handshake failed: {}", peer,
                            spec_.curve_secret.empty()
                                ? "it asks for security that this source does not have"
                                : "a CURVE key is wrong, or the peer is not admitted");
        break;
    }
  }
}

// RFC 27 (ZAP): version, request id, domain, address, identity, mechanism, the client's key.
void ZeromqLink::ServeHandler() {
  zmq::message_t first;
  while (handler_.recv(first, zmq::recv_flags::dontwait)) {
    std::vector<zmq::message_t> parts;
    parts.push_back(std::move(first));
    while (parts.back().more()) {
      zmq::message_t part;
      if (!handler_.recv(part)) return;
      parts.push_back(std::move(part));
    }
    bool known = false;
    if (parts.size() == 7 && parts[5].to_string_view() == "CURVE" && parts[6].size() == 32) {
      std::array<char, 41> key{};
      zmq_z85_encode(key.data(), parts[6].data<std::uint8_t>(), 32);
      known = std::find(spec_.curve_clients.begin(), spec_.curve_clients.end(), key.data()) !=
              spec_.curve_clients.end();
    }
    const std::string request = parts.size() > 1 ? parts[1].to_string() : "";
    const std::array<std::string, 6> answer = {
        "1.0", request, known ? "200" : "400", known ? "OK" : "not admitted", "", ""};
    for (std::size_t i = 0; i < answer.size(); ++i) {
      handler_.send(zmq::buffer(answer[i]),
                    i + 1 < answer.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
    first = zmq::message_t();
  }
}

absl::StatusOr<bool> ZeromqLink::Wait(int milliseconds, int wake_fd,
                                      absl::FunctionRef<bool()> woken) {
  try {
    std::vector<zmq::pollitem_t> items = {{socket_.handle(), 0, ZMQ_POLLIN, 0},
                                          {nullptr, wake_fd, ZMQ_POLLIN, 0}};
    for (zmq::socket_t* socket : {&monitor_, &handler_}) {
      if (socket->handle() != nullptr) items.push_back({socket->handle(), 0, ZMQ_POLLIN, 0});
    }
    zmq::poll(items, std::chrono::milliseconds(milliseconds));
    if (monitor_.handle() != nullptr) ServeMonitor();
    if (handler_.handle() != nullptr) ServeHandler();
    if (items[1].revents != 0 && !woken()) return false;
    return items[0].revents != 0;
  } catch (const zmq::error_t& error) {
    if (error.num() == EINTR) return false;
    return absl::UnavailableError(fmt::format("ZeroMQ: {}", error.what()));
  }
}

bool ZeromqLink::Take(std::vector<zmq::message_t>& parts) {
  parts.clear();
  try {
    while (true) {
      zmq::message_t part;
      // The parts of one message come together.
      if (!socket_.recv(part, zmq::recv_flags::dontwait)) return false;
      const bool more = part.more();
      parts.push_back(std::move(part));
      if (!more) return true;
    }
  } catch (const zmq::error_t&) {
    return false;  // seen again by Wait()
  }
}

void ZeromqLink::Answer(std::vector<zmq::message_t>& envelope, std::string_view text) {
  try {
    for (zmq::message_t& part : envelope) {
      if (!socket_.send(part, zmq::send_flags::sndmore | zmq::send_flags::dontwait)) return;
    }
    (void)socket_.send(zmq::buffer(text), zmq::send_flags::dontwait);
  } catch (const zmq::error_t&) {
    // The peer is gone: it was durable all the same.
  }
}

}  // namespace tocsin
