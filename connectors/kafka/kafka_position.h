// KafkaPosition: where a lane is: the next offset, with the cluster's id and what the record before
// it looked like, so that a topic made anew is noticed though its offsets begin like the old one's.
// The library does not tell topic ids.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tocsin {

struct KafkaPosition {
  std::string cluster;
  std::int64_t next = 0;
  std::int64_t last = -1;         // offset of the last record taken; -1: none
  std::uint64_t fingerprint = 0;  // of that record
};

// `kafka <cluster> <next> <last> <fingerprint>`
std::string EncodeKafkaPosition(const KafkaPosition& position);
std::optional<KafkaPosition> DecodeKafkaPosition(std::string_view text);

// Of time, key and value, where those are there.
std::uint64_t KafkaFingerprint(std::int64_t timestamp_ms, std::optional<std::string_view> key,
                               std::optional<std::string_view> value);

}  // namespace tocsin
