// Cidr: a range of addresses, `10.0.0.0/8` or `2001:db8::/32`, and the addresses in it.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"

namespace tocsin {

// Of version 4 in the first four bytes.
struct IpAddress {
  bool v6 = false;
  std::array<std::uint8_t, 16> bytes = {};
};

// Decimal parts without leading zeros; version 6 in any form of RFC 4291, without a zone.
std::optional<IpAddress> ParseIpAddress(std::string_view text);

struct Cidr {
  IpAddress network;
  std::uint8_t prefix_bits = 0;

  // Bits behind the prefix are ignored. kInvalidArgument: what is wrong with it.
  static absl::StatusOr<Cidr> Parse(std::string_view text);

  // False for a text that is no address, and for one of the other version.
  bool Contains(std::string_view address) const;
};

}  // namespace tocsin
