// Letter: a dead letter: the event untouched, and all that is known of why it died.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/base/ids.h"
#include "broker/journal/journal.h"
#include "dispatch/trigger_queue.h"

namespace tocsin {

// Written "<partition>/<offset>/<trigger>/<run>"; a letter without a trigger has "-" there.
std::string FormatDeliveryId(const DeliveryId& id);
//   kInvalidArgument
absl::StatusOr<DeliveryId> ParseDeliveryId(std::string_view text);
inline constexpr TriggerOrdinal kNoTrigger{0xffffffff};

struct AttemptNote {
  std::uint32_t attempt = 0;
  WallTime at;
  std::string code;
  std::string message;
  bool worker_died = false;
};

struct Letter {
  DeliveryId id;
  LetterReason reason = LetterReason::kExhausted;
  std::string message;
  std::string trigger;
  std::string config_hash;
  std::string key;
  std::string source;  // configured source, if it came by one
  std::string lane;
  WallTime died;
  std::uint32_t attempts = 0;
  std::vector<AttemptNote> history;  // first 4, last 12
  std::string event;                 // encoded event, or the raw bytes of what was not decodable
};

std::string EncodeLetter(const Letter& letter);
absl::StatusOr<Letter> DecodeLetter(std::string_view bytes);
std::string_view LetterReasonName(LetterReason reason);

struct LetterSummary {
  DeliveryId id;
  std::string trigger;
  LetterPosition position;
  bool parked = false;
};

}  // namespace tocsin
