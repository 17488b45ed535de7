#include "broker/partition/letter.h"

#include <fmt/format.h>

#include <charconv>
#include <limits>

#include "broker/base/wire.h"

namespace tocsin {
namespace {

constexpr std::uint8_t kLetterVersion = 1;

bool ParseNumber(std::string_view& text, std::uint64_t max, std::uint64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data() || value > max) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

bool Eat(std::string_view& text, char expected) {
  if (text.empty() || text[0] != expected) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

std::string FormatDeliveryId(const DeliveryId& id) {
  if (id.trigger == kNoTrigger) {
    return fmt::format("{}/{}/-/{}", id.partition.value(), id.offset.value(), id.run);
  }
  return fmt::format("{}/{}/{}/{}", id.partition.value(), id.offset.value(), id.trigger.value(),
                     id.run);
}

absl::StatusOr<DeliveryId> ParseDeliveryId(std::string_view text) {
  constexpr std::uint64_t kU32 = std::numeric_limits<std::uint32_t>::max();
  constexpr std::uint64_t kU64 = std::numeric_limits<std::uint64_t>::max();
  std::string_view rest = text;
  std::uint64_t partition = 0;
  std::uint64_t offset = 0;
  std::uint64_t trigger = kNoTrigger.value();
  std::uint64_t run = 0;
  bool ok = ParseNumber(rest, kU32, partition) && Eat(rest, '/') &&
            ParseNumber(rest, kU64, offset) && Eat(rest, '/');
  if (ok && !Eat(rest, '-')) ok = ParseNumber(rest, kU32, trigger);
  ok = ok && Eat(rest, '/') && ParseNumber(rest, kU32, run) && rest.empty();
  if (!ok) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is not the id of a delivery: it is <partition>/<offset>/<trigger>/<run>, "
                    "e.g. 1/4711/0/0",
                    text));
  }
  DeliveryId id;
  id.partition = PartitionId(static_cast<std::uint32_t>(partition));
  id.offset = Offset(offset);
  id.trigger = TriggerOrdinal(static_cast<std::uint32_t>(trigger));
  id.run = static_cast<std::uint32_t>(run);
  return id;
}

std::string_view LetterReasonName(LetterReason reason) {
  switch (reason) {
    case LetterReason::kExhausted:
      return "exhausted";
    case LetterReason::kRejected:
      return "rejected";
    case LetterReason::kExpired:
      return "expired";
    case LetterReason::kUndecodable:
      return "undecodable";
    case LetterReason::kRefused:
      return "refused";
  }
  return "unknown";
}

std::string EncodeLetter(const Letter& letter) {
  std::string out;
  out.reserve(letter.event.size() + 256);
  out.push_back(static_cast<char>(kLetterVersion));
  PutVarint(out, letter.id.partition.value());
  PutVarint(out, letter.id.offset.value());
  PutVarint(out, letter.id.trigger.value());
  PutVarint(out, letter.id.run);
  PutVarint(out, static_cast<std::uint64_t>(letter.reason));
  PutBytes(out, letter.message);
  PutBytes(out, letter.trigger);
  PutBytes(out, letter.config_hash);
  PutBytes(out, letter.key);
  PutBytes(out, letter.source);
  PutBytes(out, letter.lane);
  PutVarint(out, static_cast<std::uint64_t>(letter.died.time_since_epoch().count()));
  PutVarint(out, letter.attempts);
  PutVarint(out, letter.history.size());
  for (const AttemptNote& note : letter.history) {
    PutVarint(out, note.attempt);
    PutVarint(out, static_cast<std::uint64_t>(note.at.time_since_epoch().count()));
    PutBytes(out, note.code);
    PutBytes(out, note.message);
    PutVarint(out, note.worker_died ? 1 : 0);
  }
  out.append(letter.event);
  return out;
}

absl::StatusOr<Letter> DecodeLetter(std::string_view bytes) {
  Letter letter;
  if (bytes.empty() || static_cast<std::uint8_t>(bytes[0]) != kLetterVersion) {
    return absl::DataLossError("a dead letter of an unknown version");
  }
  bytes.remove_prefix(1);
  WireReader reader(bytes);
  bool ok = true;
  auto number = [&] {
    std::uint64_t value = 0;
    ok = ok && reader.ReadVarint(value);
    return value;
  };
  auto text = [&] {
    std::string_view value;
    ok = ok && reader.ReadBytes(value);
    return std::string(ok ? value : std::string_view());
  };
  auto time = [&] {
    return WallTime(std::chrono::microseconds(static_cast<std::int64_t>(number())));
  };
  letter.id.partition = PartitionId(static_cast<std::uint32_t>(number()));
  letter.id.offset = Offset(number());
  letter.id.trigger = TriggerOrdinal(static_cast<std::uint32_t>(number()));
  letter.id.run = static_cast<std::uint32_t>(number());
  letter.reason = static_cast<LetterReason>(number());
  letter.message = text();
  letter.trigger = text();
  letter.config_hash = text();
  letter.key = text();
  letter.source = text();
  letter.lane = text();
  letter.died = time();
  letter.attempts = static_cast<std::uint32_t>(number());
  const std::uint64_t notes = number();
  for (std::uint64_t i = 0; ok && i < notes; ++i) {
    AttemptNote note;
    note.attempt = static_cast<std::uint32_t>(number());
    note.at = time();
    note.code = text();
    note.message = text();
    note.worker_died = number() != 0;
    letter.history.push_back(std::move(note));
  }
  if (!ok) return absl::DataLossError("a dead letter is cut short");
  letter.event = std::string(bytes.substr(reader.position()));
  return letter;
}

}  // namespace tocsin
