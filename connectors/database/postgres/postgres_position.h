// PgPosition: how far a slot was read, and of which server; and whether that still fits what is
// there.
//
//   ...--- done ---------- commit of a transaction ------->  log of the server
//          all commits      its changes up to `index` are
//          before are read  read too
//
// Only `done` may be confirmed to the server. A change is read already if its (commit, index) is
// not above the position's.
//
// Threading: values.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "connectors/database/postgres/lsn.h"

namespace tocsin {

struct PgPosition {
  std::string system;  // the identifier that initdb gave the cluster
  std::uint32_t timeline = 0;
  std::string slot;
  std::string database;
  Lsn commit = 0;
  std::uint64_t index = 0;
  Lsn done = 0;

  friend bool operator==(const PgPosition&, const PgPosition&) = default;
};

std::string EncodePgPosition(const PgPosition& position);
std::optional<PgPosition> DecodePgPosition(std::string_view text);

// What the server says of itself and of the slot.
struct PgServerFacts {
  std::string system;
  std::uint32_t timeline = 0;
  std::string database;
  Lsn end = 0;  // of its log
};
struct PgSlotFacts {
  bool there = false;
  std::string plugin;
  std::string database;
  std::string wal_status;  // reserved, extended, unreserved, lost; empty: not told
  bool two_phase = false;
  bool temporary = false;
  std::int32_t active_pid = 0;  // 0: nobody reads it
  Lsn confirmed = 0;
  Lsn restart = 0;
};

enum class PgVerdictKind : std::uint8_t {
  kGoesOn,
  kGap,      // changes after `since` may be lost; to go on is a decision
  kAnother,  // not what was read: to go on is never right
};
struct PgVerdict {
  PgVerdictKind kind = PgVerdictKind::kGoesOn;
  const char* code = "";  // docs/errors
  std::string text;       // what is wrong, without what to do
  Lsn since = 0;
};

// `restart_before`: of the slot, when the server had surely saved it; it never goes back. 0:
// unknown.
PgVerdict JudgePgPosition(const PgPosition& position, const PgServerFacts& server,
                          const PgSlotFacts& slot, Lsn restart_before);

// `restart_before` as an entry of the lane's state.
inline constexpr std::string_view kPgRestartKey = "restart";
Lsn PgRestartBefore(const std::map<std::string, std::string>& entries);

}  // namespace tocsin
