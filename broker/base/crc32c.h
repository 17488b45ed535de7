// CRC-32C (Castagnoli, RFC 3720 appendix B.4): SSE4.2 where the processor has it, a table
// elsewhere.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tocsin {

// CRC of `bytes` after `seed`, the CRC of what came before (0 to start).
std::uint32_t Crc32c(std::span<const std::byte> bytes, std::uint32_t seed = 0);

// The same without the processor's help; public so that a test can compare the two.
std::uint32_t Crc32cByTable(std::span<const std::byte> bytes, std::uint32_t seed = 0);

}  // namespace tocsin
