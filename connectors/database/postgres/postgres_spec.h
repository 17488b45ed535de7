// PostgresSpec: what a source of kind `postgres` says in the configuration.

#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "broker/base/clock.h"
#include "connectors/event_overrides.h"

namespace tocsin {

enum class PgSnapshot : std::uint8_t {
  kInitial,     // every table once, before anything was read of it
  kNever,       // only changes from now on
  kWhenNeeded,  // as kInitial, and again after a gap
  kOnly,        // every table once, then the source is finished
};

struct PostgresSpec {
  std::string name;                 // the source's name
  std::string url;                  // of libpq; holds a password: never shown
  std::vector<std::string> tables;  // `schema.table` or `schema.*`
  std::string publication;          // empty: tocsin_<name>
  std::string slot;                 // empty: tocsin_<name>
  bool create = true;               // the publication and the slot, if they are not there
  std::map<std::string, std::vector<std::string>> columns;  // table: only these
  std::map<std::string, std::vector<std::string>> exclude;  // table: not these
  std::map<std::string, std::string> where;                 // table: a row filter, SQL
  bool messages = true;                                     // of pg_logical_emit_message
  bool streaming = true;                                    // of transactions in progress
  std::string spill_dir = "/var/tmp";                       // for what was streamed
  Duration heartbeat = std::chrono::seconds(10);
  Duration timeout = std::chrono::seconds(10);  // of connecting and of an answer

  PgSnapshot snapshot = PgSnapshot::kInitial;
  std::uint32_t chunk_rows = 2048;
  std::uint32_t snapshot_rate = 0;  // rows per second; 0: as fast as it goes

  bool pass_gaps = false;
  std::uint64_t warn_lag_bytes = std::uint64_t{1} << 30;
  std::uint64_t slot_lag_bytes_max = 0;  // 0: no limit
  bool drop_slot = false;                // at slot_lag_bytes_max; else it is only told

  EventOverrides event;

  // The defaults of `publication` and `slot` applied. Both are [a-z0-9_], at most 63 bytes.
  std::string Publication() const;
  std::string Slot() const;

  friend bool operator==(const PostgresSpec&, const PostgresSpec&) = default;
};

// Tables as `schema.table` or `schema.*`, slot in the form that PostgreSQL demands, keys of the
// maps among the tables.
//   kInvalidArgument  names the key and what it takes
absl::Status ValidatePostgresSpec(const PostgresSpec& spec);

// True if `schema.table` is one of `patterns`, or there are none.
bool IsWantedTable(const std::vector<std::string>& patterns, std::string_view schema,
                   std::string_view table);

// What the event templates may name: db, schema, table, op, txid, lsn, prefix.
std::vector<std::string_view> PostgresTemplateNames();

}  // namespace tocsin
