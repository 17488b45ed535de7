#include "broker/routing/cidr.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <charconv>
#include <cstring>

namespace tocsin {

std::optional<IpAddress> ParseIpAddress(std::string_view text) {
  char copy[64];
  // inet_pton wants a terminated text; one with a NUL inside would be cut.
  if (text.size() >= sizeof copy || text.find('\0') != std::string_view::npos) return std::nullopt;
  std::memcpy(copy, text.data(), text.size());
  copy[text.size()] = '\0';
  IpAddress address;
  address.v6 = text.find(':') != std::string_view::npos;
  if (inet_pton(address.v6 ? AF_INET6 : AF_INET, copy, address.bytes.data()) != 1) {
    return std::nullopt;
  }
  return address;
}

absl::StatusOr<Cidr> Cidr::Parse(std::string_view text) {
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) {
    return absl::InvalidArgumentError("a range of addresses is written `10.0.0.0/8`");
  }
  const std::optional<IpAddress> network = ParseIpAddress(text.substr(0, slash));
  if (!network) {
    return absl::InvalidArgumentError(
        fmt::format("`{}` is no address", text.substr(0, std::min<std::size_t>(slash, 64))));
  }
  const std::string_view digits = text.substr(slash + 1);
  unsigned bits = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), bits);
  const unsigned most = network->v6 ? 128 : 32;
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size() ||
      bits > most) {
    return absl::InvalidArgumentError(
        fmt::format("behind the `/` stands a number from 0 to {}", most));
  }
  return Cidr{*network, static_cast<std::uint8_t>(bits)};
}

bool Cidr::Contains(std::string_view text) const {
  const std::optional<IpAddress> address = ParseIpAddress(text);
  if (!address || address->v6 != network.v6) return false;
  const std::size_t whole = prefix_bits / 8;
  if (std::memcmp(address->bytes.data(), network.bytes.data(), whole) != 0) return false;
  const unsigned rest = prefix_bits % 8;
  if (rest == 0) return true;
  const auto mask = static_cast<unsigned>(0xFF00 >> rest & 0xFF);
  return (address->bytes[whole] & mask) == (network.bytes[whole] & mask);
}

}  // namespace tocsin
