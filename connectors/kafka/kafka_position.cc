#include "connectors/kafka/kafka_position.h"

#include <fmt/format.h>

#include <charconv>
#include <vector>

#include "absl/strings/str_split.h"
#include "broker/base/hash.h"

namespace tocsin {
namespace {

template <typename T>
bool Read(const std::string& text, T& target, int base = 10) {
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, target, base);
  return error == std::errc() && at == end && !text.empty();
}

}  // namespace

std::string EncodeKafkaPosition(const KafkaPosition& position) {
  return fmt::format("kafka {} {} {} {:016x}", position.cluster, position.next, position.last,
                     position.fingerprint);
}

std::optional<KafkaPosition> DecodeKafkaPosition(std::string_view text) {
  const std::vector<std::string> words = absl::StrSplit(std::string(text), ' ');
  if (words.size() != 5 || words[0] != "kafka" || words[1].empty()) return std::nullopt;
  KafkaPosition out;
  out.cluster = words[1];
  if (!Read(words[2], out.next) || !Read(words[3], out.last) ||
      !Read(words[4], out.fingerprint, 16) || out.next < 0 || out.last >= out.next) {
    return std::nullopt;
  }
  return out;
}

std::uint64_t KafkaFingerprint(std::int64_t timestamp_ms, std::optional<std::string_view> key,
                               std::optional<std::string_view> value) {
  std::uint64_t hash = static_cast<std::uint64_t>(timestamp_ms);
  hash = HashKey(key.value_or(""), hash ^ (key ? 1U : 0U));
  return HashKey(value.value_or(""), hash ^ (value ? 2U : 0U));
}

}  // namespace tocsin
