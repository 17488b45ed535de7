#include "connectors/database/postgres/postgres_source.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "broker/base/status.h"
#include "connectors/database/postgres/postgres_connector.h"

namespace tocsin {

absl::StatusOr<std::unique_ptr<SourceConnector>> MakePostgresConnector(
    const PostgresSpec& spec, BlockingConnector::Ports ports, std::unique_ptr<Executor> reader) {
  TOCSIN_ASSIGN_OR_RETURN(PostgresEvents events, PostgresEvents::Make(spec));
  return std::make_unique<PostgresConnector>(spec, std::move(events), std::move(ports),
                                             std::move(reader));
}

absl::StatusOr<std::string> CheckPostgres(const PostgresSpec& spec, const Clock& clock) {
  TOCSIN_ASSIGN_OR_RETURN(const std::unique_ptr<PgLink> link,
                          PgLink::Open(spec, clock, PgLink::Use::kQueries, nullptr));
  TOCSIN_ASSIGN_OR_RETURN(const std::vector<std::string> missing, FindMissing(spec, *link));
  if (!missing.empty()) {
    return absl::FailedPreconditionError(fmt::format("[T0223] {}", absl::StrJoin(missing, "; ")));
  }
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows facts,
      link->Query("SELECT current_database(), current_setting('server_version')"));
  TOCSIN_ASSIGN_OR_RETURN(const PgSlotFacts slot, ReadSlot(*link, spec.Slot()));
  const bool only = spec.snapshot == PgSnapshot::kOnly;
  auto tables = ReadTables(spec, *link, false);
  std::string keyless;
  std::string silent;
  std::size_t count = 0;
  if (spec.tables.empty()) tables = ReadTables(spec, *link, true);
  TOCSIN_RETURN_IF_ERROR(tables.status());
  for (const PgTable& table : *tables) {
    ++count;
    if (table.key.empty() && spec.snapshot != PgSnapshot::kNever) keyless += " " + table.Name();
    const bool tells = table.identity == 'f' || (table.identity != 'n' && !table.key.empty());
    if (!tells && !only) silent += " " + table.Name();
  }
  std::string out =
      fmt::format("database `{}` of PostgreSQL {}: {} tables; slot `{}` {}", facts.Text(0, 0),
                  facts.Text(0, 1), count, spec.Slot(),
                  only              ? "is not needed"
                  : !slot.there     ? "will be made"
                  : slot.active_pid ? fmt::format("is read by process {}", slot.active_pid)
                                    : fmt::format("is at {}", FormatLsn(slot.confirmed)));
  if (!keyless.empty()) out += "; no snapshot without a primary key of:" + keyless;
  if (!silent.empty()) {
    out += "; without a replica identity the server refuses updates and deletes of:" + silent;
  }
  return out;
}

}  // namespace tocsin
