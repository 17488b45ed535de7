// What a source needs on the server: settings, rights, a publication, a slot, and what is known of
// its tables.
//
// Threading: one thread; blocks. Errors are those of PgLink, with what to do; what an operator has
// to change begins with [T0223].

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "connectors/database/postgres/postgres_link.h"
#include "connectors/database/postgres/postgres_position.h"
#include "connectors/database/postgres/postgres_spec.h"
#include "connectors/database/postgres/transaction_stream.h"

namespace tocsin {

struct PgTableColumn {
  std::string name;
  std::uint32_t type = 0;
  std::string type_name;  // as a cast takes it
};

struct PgTable {
  std::uint32_t oid = 0;
  std::string schema;
  std::string table;
  bool partitioned = false;
  char identity = 'd';
  std::string filter;                  // of the publication, SQL; empty: all rows
  std::vector<PgTableColumn> columns;  // those that are published
  std::vector<std::size_t> key;        // of the primary key, or of the replica identity's index
  PgTypes types;                       // of the columns

  std::string Name() const { return schema + "." + table; }
};

// IDENTIFY_SYSTEM; on a connection for replication.
absl::StatusOr<PgServerFacts> ReadServer(PgLink& link);
absl::StatusOr<PgSlotFacts> ReadSlot(PgLink& link, const std::string& slot);

// Makes the publication, or adds to one that was made here, so that it has the tables of the spec.
absl::Status EnsurePublication(const PostgresSpec& spec, PgLink& link);

// The tables that the source reads: those of the publication that the spec wants; without a
// publication (`published` false) those of the spec.
absl::StatusOr<std::vector<PgTable>> ReadTables(const PostgresSpec& spec, PgLink& link,
                                                bool published);

// Whether the role may read the columns that are published; else the statement that mends it.
//   kFailedPrecondition  [T0223]
absl::Status CheckMayRead(const PgTable& table, PgLink& link);

// CREATE_REPLICATION_SLOT; on a connection for replication. Where it begins.
absl::StatusOr<Lsn> CreateSlot(PgLink& link, const std::string& slot);

// Every setting and right that is missing, each with the statement that mends it. Changes nothing.
absl::StatusOr<std::vector<std::string>> FindMissing(const PostgresSpec& spec, PgLink& link);

class PgLinkCatalog : public PgCatalog {
 public:
  // The link may be replaced, and is needed only for the calls.
  void Use(PgLink* link) { link_ = link; }

  absl::StatusOr<std::vector<std::string>> PrimaryKey(std::uint32_t relation) override;
  absl::Status DescribeTypes(std::span<const std::uint32_t> oids, PgTypes& types) override;

 private:
  PgLink* link_ = nullptr;
};

}  // namespace tocsin
