// RedisSpec: what a source of kind `redis` says in the configuration.

#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "broker/base/clock.h"
#include "connectors/event_overrides.h"
#include "connectors/record_event.h"

namespace tocsin {

enum class RedisTake : std::uint8_t {
  kStream,     // XREAD, or XREADGROUP with a group
  kList,       // LMOVE to a list of its own
  kChannels,   // SUBSCRIBE, PSUBSCRIBE
  kKeyevents,  // notifications of the server about its keys
};

struct RedisSpec {
  std::string name;  // the source's name
  std::string host = "127.0.0.1";
  std::uint16_t port = 6379;
  std::string unix_socket;  // wins over host and port
  std::uint32_t database = 0;
  std::string user;                            // ACL; empty: the default user
  std::string password;                        // empty: none; never shown
  Duration timeout = std::chrono::seconds(5);  // of connecting and of an answer

  RedisTake take = RedisTake::kStream;
  std::string key;  // of the stream or list

  // Streams.
  bool from_end = false;   // with no position yet: only what comes from now on
  bool pass_gaps = false;  // trimmed entries are counted and passed instead of refused
  std::string group;
  std::string member = "tocsin";                    // its name in the group
  Duration claim_after = std::chrono::seconds(60);  // of others' entries; at least 1 s
  std::string data_field;  // whose value is the data; empty: all fields as a JSON object

  // Lists.
  std::string processing;  // empty: <key>:<source's name>
  bool take_left = false;

  std::vector<std::string> channels;
  std::vector<std::string> patterns;
  std::vector<std::string> keyevents;  // `expired`, `set`, ...
  std::string keys;                    // a glob of keys; empty: every key

  Envelope envelope = Envelope::kAuto;
  EventOverrides event;

  // `host:port` or the socket, for texts: no password.
  std::string Endpoint() const;

  friend bool operator==(const RedisSpec&, const RedisSpec&) = default;
};

// `redis://[user[:password]@]host[:port][/database]`, `redis://:password@host`,
// `unix:///path[?db=n]`; percent-encoding in user and password. Fills the fields of the server.
//   kInvalidArgument  names the part; never shows the text, which may hold a password
//   kUnimplemented    rediss://: this build's hiredis has no TLS
absl::Status ParseRedisUrl(const std::string& url, RedisSpec& spec);

// What the event templates may name: stream, list, channel, event, id.
std::vector<std::string_view> RedisTemplateNames();

}  // namespace tocsin
