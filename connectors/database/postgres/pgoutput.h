// Pgoutput: one message of PostgreSQL's logical replication protocol, decoded.
//
// Source of the rules: PostgreSQL 15, "Logical Replication Message Formats", protocol versions 1 to
// 3. All numbers are big-endian. Between StreamStart and StreamStop (version 2) the messages
// Relation, Type, Insert, Update, Delete, Truncate and Message carry the id of their
// (sub)transaction; the caller says whether it is there.
//
// Threading: free functions and values. Lifetime: texts point into the bytes that were decoded.

#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "connectors/database/postgres/lsn.h"

namespace tocsin {

enum class PgKind : char {
  kBegin = 'B',
  kCommit = 'C',
  kOrigin = 'O',
  kRelation = 'R',
  kType = 'Y',
  kInsert = 'I',
  kUpdate = 'U',
  kDelete = 'D',
  kTruncate = 'T',
  kMessage = 'M',
  kStreamStart = 'S',
  kStreamStop = 'E',
  kStreamCommit = 'c',
  kStreamAbort = 'A',
  kBeginPrepare = 'b',
  kPrepare = 'P',
  kCommitPrepared = 'K',
  kRollbackPrepared = 'r',
  kStreamPrepare = 'p',
};

enum class PgValueKind : char { kNull = 'n', kUnchanged = 'u', kText = 't', kBinary = 'b' };

struct PgValue {
  PgValueKind kind = PgValueKind::kNull;
  std::string_view text;  // of kText and kBinary
};

struct PgColumn {
  bool key = false;  // part of the replica identity
  std::string_view name;
  std::uint32_t type = 0;
  std::int32_t modifier = -1;
};

// Fields that a kind does not have keep what an earlier message left there.
struct PgMessage {
  PgKind kind = PgKind::kBegin;
  std::uint32_t xid = 0;     // Begin, Stream*, prepared; in a stream: of the (sub)transaction
  std::uint32_t subxid = 0;  // StreamAbort: what is undone; equal to xid: all of it
  bool first_segment = false;

  Lsn lsn = 0;      // Begin, Commit, StreamCommit: of the commit; Origin, Message; prepared
  Lsn end_lsn = 0;  // behind the commit
  std::int64_t time_us = 0;  // since 2000-01-01

  std::uint32_t relation = 0;  // Relation, Insert, Update, Delete; Type: its oid
  std::string_view space;      // schema
  std::string_view name;       // of the relation, type, origin; prefix of a Message; gid
  char identity = 'd';         // d default, n nothing, f full, i index
  std::vector<PgColumn> columns;

  char old_kind = 0;  // 'K' key, 'O' whole old row, 0 none
  std::vector<PgValue> old_values;
  std::vector<PgValue> new_values;

  bool cascade = false;
  bool restart_identity = false;
  std::vector<std::uint32_t> relations;  // Truncate

  bool transactional = false;
  std::string_view content;
};

// True for kinds that carry a transaction's id inside a stream.
bool HasStreamXid(PgKind kind);

//   kInvalidArgument  not a message of the protocol: an unknown kind, cut short, too long
absl::Status DecodePgoutput(std::string_view bytes, bool in_stream, PgMessage& message);

}  // namespace tocsin
