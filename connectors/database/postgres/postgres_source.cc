#include "connectors/database/postgres/postgres_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "broker/base/status.h"
#include "connectors/database/postgres/postgres_connector.h"

namespace tocsin {
namespace {

// Of tables in a text of an error.
constexpr std::size_t kNamedMax = 10;

std::string SomeOf(const std::vector<PgTable>& tables) {
  std::string out;
  for (std::size_t i = 0; i < std::min(kNamedMax, tables.size()); ++i) {
    out += (i == 0 ? "" : ", ") + tables[i].Name();
  }
  if (tables.size() > kNamedMax) out += fmt::format(" and {} more", tables.size() - kNamedMax);
  return out;
}

// OK: the source stands at a gap that a decision may pass.
absl::Status CheckGap(const PostgresSpec& spec, const LaneState& state, PgLink& sql,
                      const Clock& clock, const std::function<bool()>& cancelled) {
  const std::optional<PgPosition> position = DecodePgPosition(state.position.value);
  if (!position || position->done == 0) {
    return absl::FailedPreconditionError("it has read nothing yet, so there is no gap to pass");
  }
  if (position->slot != spec.Slot()) {
    return absl::FailedPreconditionError(
        fmt::format("[T0221] the position is of slot `{}`, the configuration names `{}`: put it "
                    "back, or `tocsin sources forget {}` begins anew",
                    position->slot, spec.Slot(), spec.name));
  }
  TOCSIN_ASSIGN_OR_RETURN(const std::unique_ptr<PgLink> link,
                          PgLink::Open(spec, clock, PgLink::Use::kReplication, cancelled));
  TOCSIN_ASSIGN_OR_RETURN(const PgServerFacts server, ReadServer(*link));
  TOCSIN_ASSIGN_OR_RETURN(const PgSlotFacts slot, ReadSlot(sql, spec.Slot()));
  const PgVerdict verdict =
      JudgePgPosition(*position, server, slot, PgRestartBefore(state.entries));
  switch (verdict.kind) {
    case PgVerdictKind::kGap:
      return absl::OkStatus();
    case PgVerdictKind::kAnother:
      return absl::FailedPreconditionError(
          fmt::format("[{}] {}; that is never passed: if it is meant, `tocsin sources forget {}` "
                      "begins anew",
                      verdict.code, verdict.text, spec.name));
    case PgVerdictKind::kGoesOn:
      break;
  }
  return absl::FailedPreconditionError(fmt::format(
      "its slot has all that it needs: there is no gap to pass; `tocsin sources snapshot {}` reads "
      "the tables again beside the changes",
      spec.name));
}

absl::StatusOr<PgSnapshotTables> FindTables(const PostgresSpec& spec,
                                            const PgSnapshotRequest& request, PgLink& link) {
  TOCSIN_ASSIGN_OR_RETURN(std::vector<PgTable> tables, ReadTables(spec, link, true));
  // The publication is made when the source connects first.
  if (tables.empty() && !spec.tables.empty()) {
    TOCSIN_ASSIGN_OR_RETURN(tables, ReadTables(spec, link, false));
  }
  for (const std::string& name : request.tables) {
    if (std::none_of(tables.begin(), tables.end(),
                     [&name](const PgTable& table) { return table.Name() == name; })) {
      return absl::NotFoundError(fmt::format("it does not read `{}`: it reads {}", name,
                                             tables.empty() ? "no table" : SomeOf(tables)));
    }
  }
  PgSnapshotTables out;
  for (const PgTable& table : tables) {
    const bool named = std::find(request.tables.begin(), request.tables.end(), table.Name()) !=
                       request.tables.end();
    if (!named && !request.tables.empty()) continue;
    if (table.key.empty()) {
      out.keyless.push_back(table.Name());
      continue;
    }
    TOCSIN_RETURN_IF_ERROR(CheckMayRead(table, link));
    out.read.push_back(table.Name());
  }
  if (out.read.empty() || (!request.tables.empty() && !out.keyless.empty())) {
    return absl::FailedPreconditionError(
        out.keyless.empty()
            ? "it has no tables"
            : fmt::format("[T0224] without a primary key it cannot be read in chunks: {}",
                          absl::StrJoin(out.keyless, ", ")));
  }
  return out;
}

}  // namespace

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

absl::StatusOr<PgSnapshotTables> LookForPgSnapshot(const PostgresSpec& spec,
                                                   const PgSnapshotRequest& request,
                                                   const LaneState& state, const Clock& clock,
                                                   const std::function<bool()>& cancelled) {
  TOCSIN_RETURN_IF_ERROR(CheckPgSnapshotRequest(spec, request));
  const auto look = [&]() -> absl::StatusOr<PgSnapshotTables> {
    TOCSIN_ASSIGN_OR_RETURN(const std::unique_ptr<PgLink> link,
                            PgLink::Open(spec, clock, PgLink::Use::kQueries, cancelled));
    if (request.after_gap) {
      TOCSIN_RETURN_IF_ERROR(CheckGap(spec, state, *link, clock, cancelled));
    }
    return FindTables(spec, request, *link);
  };
  absl::StatusOr<PgSnapshotTables> found = look();
  // Who asks would take it for our own broker that is away, or for rights of the caller.
  if (absl::IsUnavailable(found.status()) || absl::IsPermissionDenied(found.status())) {
    return absl::FailedPreconditionError(
        fmt::format("its server has to be asked which tables there are: {}; nothing was changed",
                    MessageOf(found.status())));
  }
  return found;
}

}  // namespace tocsin
