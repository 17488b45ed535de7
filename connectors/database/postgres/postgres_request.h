// PgSnapshotRequest: what `tocsin sources snapshot` asks of a source, and how the lane's state
// keeps it, so that it survives every crash from the moment it was answered.
//
//   "table public.t": "at [..]"     the snapshot of the table came so far
//                     "again [..]"  it was asked for: read also with `snapshot: never`
//                     "done"
//   "after gap": a position         a gap behind exactly this position may be passed
//
// The position changes with the passage, in the same batch that erases the entry: so it allows one.
//
// Threading: values.

#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "connectors/database/postgres/postgres_spec.h"
#include "connectors/source_connector.h"

namespace tocsin {

struct PgSnapshotRequest {
  std::vector<std::string> tables;  // `schema.table`; empty: all of the source
  bool after_gap = false;           // the gap at which the source stands is passed
};

// What can be said without the server.
//   kInvalidArgument     a table that is not `schema.table`; tables together with after_gap
//   kNotFound            a table that the spec does not name
//   kFailedPrecondition  `snapshot: only`
absl::Status CheckPgSnapshotRequest(const PostgresSpec& spec, const PgSnapshotRequest& request);

// How far the snapshot of a table came.
struct PgTableState {
  bool done = false;
  bool asked = false;              // by a request
  std::vector<std::string> after;  // texts of the key that was given last; empty: from the start

  friend bool operator==(const PgTableState&, const PgTableState&) = default;
};
std::string EncodePgTableState(const PgTableState& state);
// What it does not know is a table from its start.
PgTableState DecodePgTableState(std::string_view text);

// Keys of the lane's state: this and the table's name.
inline constexpr std::string_view kPgTablePrefix = "table ";
inline constexpr std::string_view kPgAfterGapKey = "after gap";

// A request as changes to the lane's state. `position`: the lane's, if the gap behind it may be
// passed; else empty.
std::vector<LaneStatePut> PgRequestPuts(const std::vector<std::string>& tables,
                                        std::string_view position);

bool MayPassPgGap(const LaneState& state);
// Of the entries those of requests of which nothing was read yet: they hold also for a source that
// begins anew.
std::map<std::string, std::string> AskedPgTables(const LaneState& state);

}  // namespace tocsin
