#include "connectors/redis/redis_spec.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>

namespace tocsin {
namespace {

std::optional<std::string> PercentDecoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    unsigned value = 0;
    if (i + 2 >= text.size()) return std::nullopt;
    const auto [end, error] = std::from_chars(text.data() + i + 1, text.data() + i + 3, value, 16);
    if (error != std::errc() || end != text.data() + i + 3) return std::nullopt;
    out.push_back(static_cast<char>(value));
    i += 2;
  }
  return out;
}

template <typename T>
bool ReadNumber(std::string_view text, T& target) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return false;
  target = value;
  return true;
}

absl::Status Bad(std::string_view what) {
  return absl::InvalidArgumentError(fmt::format(
      "{}; write redis://[user:password@]host[:port][/database] or unix:///path", what));
}

}  // namespace

std::string RedisSpec::Endpoint() const {
  if (!unix_socket.empty()) return unix_socket;
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                             : fmt::format("[{}]:{}", host, port);
}

absl::Status ParseRedisUrl(const std::string& url, RedisSpec& spec) {
  constexpr std::string_view kPlain = "redis://";
  constexpr std::string_view kUnix = "unix://";
  std::string_view rest = url;
  if (rest.starts_with("rediss://")) {
    return absl::UnimplementedError(
        "`rediss://` needs TLS, which the Redis library of this build does not have; use "
        "`redis://` over a tunnel (stunnel, a service mesh) or a Unix socket");
  }
  if (rest.starts_with(kUnix)) {
    rest.remove_prefix(kUnix.size());
    const std::size_t query = rest.find('?');
    const std::string_view path = rest.substr(0, query);
    if (!path.starts_with('/')) return Bad("the socket's path is not absolute");
    spec.unix_socket = std::string(path);
    if (query == std::string_view::npos) return absl::OkStatus();
    const std::string_view options = rest.substr(query + 1);
    if (!options.starts_with("db=") || !ReadNumber(options.substr(3), spec.database)) {
      return Bad("after `?` only `db=<number>` is known");
    }
    return absl::OkStatus();
  }
  if (!rest.starts_with(kPlain)) return Bad("the URL does not begin with `redis://` or `unix://`");
  rest.remove_prefix(kPlain.size());
  const std::size_t slash = rest.find('/');
  std::string_view authority = rest.substr(0, slash);
  if (slash != std::string_view::npos && slash + 1 < rest.size() &&
      !ReadNumber(rest.substr(slash + 1), spec.database)) {
    return Bad("the database is no number");
  }
  const std::size_t at = authority.rfind('@');
  if (at != std::string_view::npos) {
    const std::string_view who = authority.substr(0, at);
    authority.remove_prefix(at + 1);
    const std::size_t colon = who.find(':');
    const auto user = PercentDecoded(who.substr(0, colon));
    const auto password =
        colon == std::string_view::npos ? std::string() : PercentDecoded(who.substr(colon + 1));
    if (!user || !password) return Bad("user or password has a `%` that encodes nothing");
    spec.user = *user;
    spec.password = *password;
  }
  std::string_view port;
  if (authority.starts_with('[')) {
    const std::size_t close = authority.find(']');
    if (close == std::string_view::npos) return Bad("`[` is not closed");
    spec.host = std::string(authority.substr(1, close - 1));
    authority.remove_prefix(close + 1);
    if (!authority.empty() && !authority.starts_with(':')) return Bad("after `]` comes a port");
    if (!authority.empty()) port = authority.substr(1);
    if (!authority.empty() && port.empty()) return Bad("the port is empty");
  } else {
    const std::size_t colon = authority.rfind(':');
    spec.host = std::string(authority.substr(0, colon));
    if (colon != std::string_view::npos) {
      port = authority.substr(colon + 1);
      if (port.empty()) return Bad("the port is empty");
    }
  }
  if (spec.host.empty()) return Bad("the host is empty");
  if (!port.empty() && (!ReadNumber(port, spec.port) || spec.port == 0)) {
    return Bad("the port is no number from 1 to 65535");
  }
  return absl::OkStatus();
}

std::vector<std::string_view> RedisTemplateNames() {
  return {"stream", "list", "channel", "event", "id"};
}

}  // namespace tocsin
