// ZeromqSpec: what a source of kind `zeromq` says in the configuration.

#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "broker/base/clock.h"
#include "connectors/event_overrides.h"
#include "connectors/record_event.h"

namespace tocsin {

enum class ZeromqSocket : std::uint8_t { kPull, kSub, kRep };

enum class ZeromqPart : std::uint8_t { kTopic, kKey, kAttributes, kData };

struct ZeromqSpec {
  std::string name;  // the source's name
  ZeromqSocket socket = ZeromqSocket::kPull;
  std::vector<std::string> bind;  // endpoints; one of the two is not empty
  std::vector<std::string> connect;
  std::vector<std::string> subscribe;  // kSub: prefixes; empty: everything
  std::uint32_t high_water_mark = 1000;
  // The longest wait before a peer that is away is tried again: the source's `backoff_max` if less.
  Duration reconnect_max = std::chrono::seconds(5);

  // What the parts of what comes are. Empty: one part is data; two are topic and data; three are
  // topic, attributes (a JSON object) and data.
  std::vector<ZeromqPart> parts;

  // CURVE, keys in Z85 (40 characters). `curve_secret` empty: none.
  std::string curve_secret;                // never shown
  std::string curve_public;                // of `curve_secret`; derived if empty
  std::string curve_server;                // the other side's public key: we are the client
  std::vector<std::string> curve_clients;  // as server: who may come; empty: whoever knows our key

  Envelope envelope = Envelope::kAuto;
  EventOverrides event;

  friend bool operator==(const ZeromqSpec&, const ZeromqSpec&) = default;
};

// kInvalidArgument names the key: an endpoint that is none, a key that is not Z85.
absl::Status ValidateZeromqSpec(const ZeromqSpec& spec);

// What the event templates may name: topic.
std::vector<std::string_view> ZeromqTemplateNames();

}  // namespace tocsin
