#include "connectors/database/postgres/postgres_setup.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "absl/strings/str_join.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

template <typename T>
T NumberOf(std::string_view text) {
  T value = 0;
  (void)std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

bool IsTrue(std::string_view text) { return text == "t"; }

std::string QuotedTable(std::string_view table) {
  const std::size_t dot = table.find('.');
  return PgName(table.substr(0, dot)) + "." + PgName(table.substr(dot + 1));
}

std::string FromTable(std::string_view table) {
  const std::size_t dot = table.find('.');
  return fmt::format(
      "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {} AND "
      "c.relname = {}",
      PgText(table.substr(0, dot)), PgText(table.substr(dot + 1)));
}

// `schema.table` of every table that `tables` names and that is there; with what is not.
struct Expanded {
  std::vector<std::string> tables;
  std::vector<std::string> missing;
};

absl::StatusOr<Expanded> Expand(const PostgresSpec& spec, PgLink& link) {
  Expanded out;
  for (const std::string& pattern : spec.tables) {
    const std::size_t dot = pattern.find('.');
    const std::string schema = pattern.substr(0, dot);
    const std::string table = pattern.substr(dot + 1);
    std::string sql = fmt::format(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = "
        "c.relnamespace WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname = "
        "{}",
        PgText(schema));
    sql += table == "*" ? " AND NOT c.relispartition ORDER BY 1"
                        : fmt::format(" AND c.relname = {}", PgText(table));
    TOCSIN_ASSIGN_OR_RETURN(const PgRows rows, link.Query(sql));
    for (int i = 0; i < rows.size(); ++i) out.tables.emplace_back(rows.Text(i, 0));
    if (rows.size() == 0 && table != "*") out.missing.push_back(pattern);
  }
  std::sort(out.tables.begin(), out.tables.end());
  out.tables.erase(std::unique(out.tables.begin(), out.tables.end()), out.tables.end());
  return out;
}

std::string TableList(const PostgresSpec& spec, const std::vector<std::string>& tables) {
  std::string out;
  for (const std::string& table : tables) {
    if (!out.empty()) out += ", ";
    out += QuotedTable(table);
    const auto filter = spec.where.find(table);
    if (filter != spec.where.end()) out += fmt::format(" WHERE ({})", filter->second);
  }
  return out;
}

absl::Status Missing(std::string_view what) {
  return absl::FailedPreconditionError(fmt::format("[T0223] {}", what));
}

// A refusal of the server to change something, with who has to.
absl::Status Refused(const absl::Status& status, std::string_view statement) {
  if (status.ok() || absl::IsUnavailable(status) || absl::IsCancelled(status)) return status;
  return Missing(fmt::format("{}; let the tables' owner run: {}", MessageOf(status), statement));
}

std::string CreateStatement(const PostgresSpec& spec, const std::vector<std::string>& tables) {
  return fmt::format("CREATE PUBLICATION {}{} WITH (publish_via_partition_root = true)",
                     PgName(spec.Publication()),
                     tables.empty() ? "" : " FOR TABLE " + TableList(spec, tables));
}

struct Published {
  bool there = false;
  bool all_tables = false;
  std::vector<std::string> tables;
};

absl::StatusOr<Published> ReadPublication(const PostgresSpec& spec, PgLink& link) {
  Published out;
  const std::string name = PgText(spec.Publication());
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows found,
      link.Query(fmt::format("SELECT puballtables FROM pg_publication WHERE pubname = {}", name)));
  if (found.size() == 0) return out;
  out.there = true;
  out.all_tables = IsTrue(found.Text(0, 0));
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows rows,
      link.Query(fmt::format("SELECT schemaname || '.' || tablename FROM pg_publication_tables "
                             "WHERE pubname = {} ORDER BY 1",
                             name)));
  for (int i = 0; i < rows.size(); ++i) out.tables.emplace_back(rows.Text(i, 0));
  return out;
}

std::vector<std::string> Without(const std::vector<std::string>& all,
                                 const std::vector<std::string>& some) {
  std::vector<std::string> out;
  for (const std::string& one : all) {
    if (std::find(some.begin(), some.end(), one) == some.end()) out.push_back(one);
  }
  return out;
}

absl::StatusOr<PgTable> ReadTable(const std::string& schema, const std::string& name,
                                  PgLink& link) {
  PgTable table;
  table.schema = schema;
  table.table = name;
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows found,
      link.Query(fmt::format("SELECT c.oid, c.relkind, c.relreplident FROM pg_class c JOIN "
                             "pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {} AND "
                             "c.relname = {}",
                             PgText(schema), PgText(name))));
  if (found.size() == 0) return absl::NotFoundError(fmt::format("{} is gone", table.Name()));
  table.oid = NumberOf<std::uint32_t>(found.Text(0, 0));
  table.partitioned = found.Text(0, 1) == "p";
  table.identity = found.Text(0, 2)[0];
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows columns,
      link.Query(fmt::format("SELECT attname, atttypid, format_type(atttypid, atttypmod) FROM "
                             "pg_attribute WHERE attrelid = {} AND attnum > 0 AND NOT attisdropped "
                             "AND attgenerated = '' ORDER BY attnum",
                             table.oid)));
  for (int i = 0; i < columns.size(); ++i) {
    table.columns.push_back({std::string(columns.Text(i, 0)),
                             NumberOf<std::uint32_t>(columns.Text(i, 1)),
                             std::string(columns.Text(i, 2))});
  }
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows key,
      link.Query(fmt::format(
          "SELECT a.attname FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY k(num, "
          "place) JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num WHERE "
          "i.indrelid = {} AND i.{} AND k.place <= i.indnkeyatts ORDER BY k.place",
          table.oid, table.identity == 'i' ? "indisreplident" : "indisprimary")));
  for (int i = 0; i < key.size(); ++i) {
    for (std::size_t column = 0; column < table.columns.size(); ++column) {
      if (table.columns[column].name == key.Text(i, 0)) table.key.push_back(column);
    }
  }
  if (table.key.size() != static_cast<std::size_t>(key.size())) table.key.clear();
  std::vector<std::uint32_t> own;
  for (const PgTableColumn& column : table.columns) {
    if (column.type >= kPgFirstUserOid) own.push_back(column.type);
  }
  if (!own.empty()) {
    PgLinkCatalog catalog;
    catalog.Use(&link);
    TOCSIN_RETURN_IF_ERROR(catalog.DescribeTypes(own, table.types));
  }
  return table;
}

}  // namespace

absl::StatusOr<PgServerFacts> ReadServer(PgLink& link) {
  TOCSIN_ASSIGN_OR_RETURN(const PgRows rows, link.Query("IDENTIFY_SYSTEM"));
  if (rows.size() != 1 || rows.columns() < 4) {
    return absl::FailedPreconditionError("the server does not say which one it is");
  }
  PgServerFacts facts;
  facts.system = std::string(rows.Text(0, 0));
  facts.timeline = NumberOf<std::uint32_t>(rows.Text(0, 1));
  facts.end = ParseLsn(rows.Text(0, 2)).value_or(0);
  facts.database = std::string(rows.Text(0, 3));
  return facts;
}

absl::StatusOr<PgSlotFacts> ReadSlot(PgLink& link, const std::string& slot) {
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows rows,
      link.Query(fmt::format(
          "SELECT plugin, database, wal_status, temporary, active_pid, confirmed_flush_lsn, "
          "restart_lsn, {} FROM pg_replication_slots WHERE slot_name = {}",
          link.server_version() >= 140000 ? "two_phase" : "false", PgText(slot))));
  PgSlotFacts facts;
  if (rows.size() == 0) return facts;
  facts.there = true;
  facts.plugin = std::string(rows.Text(0, 0));
  facts.database = std::string(rows.Text(0, 1));
  facts.wal_status = std::string(rows.Text(0, 2));
  facts.temporary = IsTrue(rows.Text(0, 3));
  facts.active_pid = NumberOf<std::int32_t>(rows.Text(0, 4));
  facts.confirmed = ParseLsn(rows.Text(0, 5)).value_or(0);
  facts.restart = ParseLsn(rows.Text(0, 6)).value_or(0);
  facts.two_phase = IsTrue(rows.Text(0, 7));
  return facts;
}

absl::Status EnsurePublication(const PostgresSpec& spec, PgLink& link) {
  TOCSIN_ASSIGN_OR_RETURN(const Expanded wanted, Expand(spec, link));
  if (!wanted.missing.empty()) {
    return absl::NotFoundError(
        fmt::format("[T0223] there is no table {}; make it, or take it "
                    "out of `tables`",
                    absl::StrJoin(wanted.missing, ", ")));
  }
  TOCSIN_ASSIGN_OR_RETURN(const Published published, ReadPublication(spec, link));
  if (!published.there) {
    if (!spec.create || spec.tables.empty()) {
      return Missing(fmt::format("there is no publication `{}`; run: {}", spec.Publication(),
                                 CreateStatement(spec, wanted.tables)));
    }
    const std::string statement = CreateStatement(spec, wanted.tables);
    const absl::Status made = link.Query(statement).status();
    return absl::IsAlreadyExists(made) ? absl::OkStatus() : Refused(made, statement);
  }
  if (published.all_tables) return absl::OkStatus();
  const std::vector<std::string> absent = Without(wanted.tables, published.tables);
  const bool ours = spec.publication.empty() && spec.create;
  if (ours && (!absent.empty() || !spec.where.empty())) {
    const std::string statement =
        fmt::format("ALTER PUBLICATION {} SET TABLE {}", PgName(spec.Publication()),
                    TableList(spec, wanted.tables));
    return Refused(link.Query(statement).status(), statement);
  }
  if (absent.empty()) return absl::OkStatus();
  return Missing(
      fmt::format("publication `{}` does not have {}; run: ALTER PUBLICATION {} ADD "
                  "TABLE {}",
                  spec.Publication(), absl::StrJoin(absent, ", "), PgName(spec.Publication()),
                  TableList(spec, absent)));
}

absl::StatusOr<std::vector<PgTable>> ReadTables(const PostgresSpec& spec, PgLink& link,
                                                bool published) {
  std::vector<PgTable> tables;
  if (!published) {
    TOCSIN_ASSIGN_OR_RETURN(const Expanded wanted, Expand(spec, link));
    for (const std::string& name : wanted.tables) {
      const std::size_t dot = name.find('.');
      TOCSIN_ASSIGN_OR_RETURN(PgTable table,
                              ReadTable(name.substr(0, dot), name.substr(dot + 1), link));
      const auto filter = spec.where.find(name);
      if (filter != spec.where.end()) table.filter = filter->second;
      tables.push_back(std::move(table));
    }
    return tables;
  }
  const bool lists = link.server_version() >= 150000;
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows rows,
      link.Query(fmt::format("SELECT schemaname, tablename, {} FROM pg_publication_tables WHERE "
                             "pubname = {} ORDER BY 1, 2",
                             lists ? "rowfilter, array_to_string(attnames, E'\\n')" : "NULL, NULL",
                             PgText(spec.Publication()))));
  for (int i = 0; i < rows.size(); ++i) {
    if (!IsWantedTable(spec.tables, rows.Text(i, 0), rows.Text(i, 1))) continue;
    auto table = ReadTable(std::string(rows.Text(i, 0)), std::string(rows.Text(i, 1)), link);
    if (absl::IsNotFound(table.status())) continue;  // dropped meanwhile
    TOCSIN_RETURN_IF_ERROR(table.status());
    table->filter = std::string(rows.Text(i, 2));
    if (!rows.IsNull(i, 3)) {
      const std::string list = fmt::format("\n{}\n", rows.Text(i, 3));
      std::vector<PgTableColumn> kept;
      std::vector<std::size_t> key;
      for (std::size_t c = 0; c < table->columns.size(); ++c) {
        if (list.find(fmt::format("\n{}\n", table->columns[c].name)) == std::string::npos) continue;
        kept.push_back(table->columns[c]);
      }
      for (const std::size_t k : table->key) {
        for (std::size_t c = 0; c < kept.size(); ++c) {
          if (kept[c].name == table->columns[k].name) key.push_back(c);
        }
      }
      if (key.size() != table->key.size()) key.clear();
      table->columns = std::move(kept);
      table->key = std::move(key);
    }
    tables.push_back(*std::move(table));
  }
  return tables;
}

absl::Status CheckMayRead(const PgTable& table, PgLink& link) {
  std::string columns;
  for (const PgTableColumn& column : table.columns) {
    columns += (columns.empty() ? "" : ", ") + PgText(column.name);
  }
  if (columns.empty()) return absl::OkStatus();
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows rows,
      link.Query(fmt::format(
          "SELECT has_schema_privilege(c.relnamespace, 'USAGE'), NOT EXISTS (SELECT 1 FROM "
          "pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN ({}) AND NOT "
          "has_column_privilege(c.oid, a.attnum, 'SELECT')), quote_ident(current_user) FROM "
          "pg_class c WHERE c.oid = {}",
          columns, table.oid)));
  if (rows.size() == 0) return absl::NotFoundError(fmt::format("{} is gone", table.Name()));
  if (!IsTrue(rows.Text(0, 0))) {
    return Missing(
        fmt::format("the role may not look into schema {0}: run GRANT USAGE ON SCHEMA "
                    "{0} TO {1}",
                    PgName(table.schema), rows.Text(0, 2)));
  }
  if (IsTrue(rows.Text(0, 1))) return absl::OkStatus();
  return Missing(fmt::format("the role may not read {}: run GRANT SELECT ON {}.{} TO {}",
                             table.Name(), PgName(table.schema), PgName(table.table),
                             rows.Text(0, 2)));
}

absl::StatusOr<Lsn> CreateSlot(PgLink& link, const std::string& slot) {
  // It waits for the transactions that run now.
  auto rows = link.Query(
      fmt::format("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT", PgName(slot)),
      std::chrono::hours(24));
  if (!rows.ok()) {
    if (absl::IsPermissionDenied(rows.status())) {
      return Missing(fmt::format("{}; run: ALTER ROLE ... REPLICATION", MessageOf(rows.status())));
    }
    return Annotate(rows.status(), fmt::format("the slot `{}` cannot be made", slot));
  }
  const std::optional<Lsn> at = rows->size() == 1 ? ParseLsn(rows->Text(0, 1)) : std::nullopt;
  if (!at) return absl::FailedPreconditionError("the server made a slot and does not say where");
  return *at;
}

absl::StatusOr<std::vector<std::string>> FindMissing(const PostgresSpec& spec, PgLink& link) {
  std::vector<std::string> out;
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows facts,
      link.Query(
          "SELECT current_setting('wal_level'), r.rolreplication OR r.rolsuper, r.rolname, "
          "pg_is_in_recovery(), current_database(), "
          "has_database_privilege(current_database(), 'CREATE'), "
          "(SELECT count(*) FROM pg_replication_slots), "
          "current_setting('max_replication_slots')::int, r.rolsuper, "
          "current_setting('max_wal_senders')::int FROM pg_roles r WHERE rolname = current_user"));
  if (facts.size() != 1) return absl::FailedPreconditionError("the server does not know our role");
  const std::string role = PgName(facts.Text(0, 2));
  const bool super = IsTrue(facts.Text(0, 8));
  if (facts.Text(0, 0) != "logical") {
    out.push_back(
        fmt::format("wal_level is {}: run ALTER SYSTEM SET wal_level = logical and "
                    "restart the server",
                    facts.Text(0, 0)));
  }
  if (IsTrue(facts.Text(0, 3)) && link.server_version() < 160000) {
    out.push_back(
        "the server is a standby, which has no logical slots before PostgreSQL 16: name "
        "its primary");
  }
  const bool reads_slot = spec.snapshot != PgSnapshot::kOnly;
  if (!IsTrue(facts.Text(0, 1))) {
    out.push_back(fmt::format("the role may not replicate: run ALTER ROLE {} REPLICATION", role));
  }
  if (NumberOf<int>(facts.Text(0, 9)) < 1) {
    out.push_back("max_wal_senders is 0: set it to 10 and restart the server");
  }
  TOCSIN_ASSIGN_OR_RETURN(const PgSlotFacts slot, ReadSlot(link, spec.Slot()));
  const int needed = (slot.there ? 0 : 1) + (spec.snapshot == PgSnapshot::kNever ? 0 : 1);
  if (reads_slot && NumberOf<int>(facts.Text(0, 6)) + needed > NumberOf<int>(facts.Text(0, 7))) {
    out.push_back(
        fmt::format("{} of {} replication slots are taken, {} more are needed: raise "
                    "max_replication_slots and restart the server",
                    facts.Text(0, 6), facts.Text(0, 7), needed));
  }
  if (reads_slot && !slot.there && !spec.create) {
    out.push_back(
        fmt::format("there is no slot `{}`: run SELECT "
                    "pg_create_logical_replication_slot({}, 'pgoutput')",
                    spec.Slot(), PgText(spec.Slot())));
  }
  if (slot.there && slot.plugin != "pgoutput") {
    out.push_back(fmt::format("slot `{}` is of {}, not of pgoutput: name another `slot`",
                              spec.Slot(), slot.plugin));
  }
  TOCSIN_ASSIGN_OR_RETURN(const Expanded wanted, Expand(spec, link));
  for (const std::string& table : wanted.missing) {
    out.push_back(fmt::format("there is no table {}", table));
  }
  std::vector<std::string> read = wanted.tables;
  if (reads_slot) {
    TOCSIN_ASSIGN_OR_RETURN(const Published published, ReadPublication(spec, link));
    const std::vector<std::string> absent = published.all_tables
                                                ? std::vector<std::string>()
                                                : Without(wanted.tables, published.tables);
    const bool changes = !published.there || (!absent.empty() && spec.publication.empty());
    if (!published.there && (!spec.create || spec.tables.empty())) {
      out.push_back(fmt::format("there is no publication `{}`: run {}", spec.Publication(),
                                CreateStatement(spec, wanted.tables)));
    } else if (published.there && !absent.empty() && !spec.publication.empty()) {
      out.push_back(
          fmt::format("publication `{}` does not have {}: run ALTER PUBLICATION {} ADD "
                      "TABLE {}",
                      spec.Publication(), absl::StrJoin(absent, ", "), PgName(spec.Publication()),
                      TableList(spec, absent)));
    } else if (changes && !super) {
      if (!published.there && !IsTrue(facts.Text(0, 5))) {
        out.push_back(
            fmt::format("the role may not make the publication: run GRANT CREATE ON "
                        "DATABASE {} TO {}",
                        PgName(facts.Text(0, 4)), role));
      }
      for (const std::string& table : absent) {
        TOCSIN_ASSIGN_OR_RETURN(const PgRows owner,
                                link.Query(fmt::format("SELECT pg_has_role(c.relowner, 'USAGE') {}",
                                                       FromTable(table))));
        if (owner.size() == 1 && IsTrue(owner.Text(0, 0))) continue;
        out.push_back(fmt::format(
            "the role does not own {}, so it cannot publish it: let its "
            "owner run {}",
            table,
            published.there ? fmt::format("ALTER PUBLICATION {} ADD TABLE {}",
                                          PgName(spec.Publication()), TableList(spec, {table}))
                            : CreateStatement(spec, wanted.tables)));
      }
    }
    if (spec.tables.empty()) read = published.tables;
  }
  if (spec.snapshot == PgSnapshot::kNever) return out;
  for (const std::string& table : read) {
    const std::string schema = table.substr(0, table.find('.'));
    TOCSIN_ASSIGN_OR_RETURN(const PgRows rights,
                            link.Query(fmt::format("SELECT has_schema_privilege(n.oid, 'USAGE'), "
                                                   "has_table_privilege(c.oid, 'SELECT') {}",
                                                   FromTable(table))));
    if (rights.size() == 0) continue;
    if (!IsTrue(rights.Text(0, 0))) {
      out.push_back(
          fmt::format("the role may not look into schema {}: run GRANT USAGE ON SCHEMA "
                      "{} TO {}",
                      schema, PgName(schema), role));
    } else if (!IsTrue(rights.Text(0, 1))) {
      out.push_back(
          fmt::format("the role may not read {} for the snapshot: run GRANT SELECT ON {} "
                      "TO {}",
                      table, QuotedTable(table), role));
    }
  }
  return out;
}

absl::StatusOr<std::vector<std::string>> PgLinkCatalog::PrimaryKey(std::uint32_t relation) {
  std::vector<std::string> out;
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows rows,
      link_->Query(fmt::format(
          "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND "
          "a.attnum = ANY(i.indkey) WHERE i.indrelid = {} AND i.indisprimary ORDER BY a.attnum",
          relation)));
  out.reserve(out.size() + static_cast<std::size_t>(rows.size()));
  for (int i = 0; i < rows.size(); ++i) out.emplace_back(rows.Text(i, 0));
  return out;
}

absl::Status PgLinkCatalog::DescribeTypes(std::span<const std::uint32_t> oids, PgTypes& types) {
  std::string list;
  for (const std::uint32_t oid : oids) list += fmt::format("{}{}", list.empty() ? "" : ", ", oid);
  // Domains down to what they are made of, then arrays to their elements, then domains again.
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows rows,
      link_->Query(fmt::format(
          "WITH RECURSIVE d(top, oid) AS (SELECT oid, oid FROM pg_type WHERE oid IN ({}) UNION ALL "
          "SELECT d.top, t.typbasetype FROM d JOIN pg_type t ON t.oid = d.oid WHERE t.typtype = "
          "'d'), e(top, is_array, delim, oid) AS (SELECT d.top, t.typcategory = 'A' AND t.typelem "
          "<> 0, CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN el.typdelim ELSE t.typdelim "
          "END, CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END "
          "FROM "
          "d JOIN pg_type t ON t.oid = d.oid LEFT JOIN pg_type el ON el.oid = t.typelem WHERE "
          "t.typtype <> 'd' UNION ALL SELECT e.top, e.is_array, e.delim, t.typbasetype FROM e JOIN "
          "pg_type t ON t.oid = e.oid WHERE t.typtype = 'd') SELECT e.top, e.is_array, e.delim, "
          "e.oid, t.typname FROM e JOIN pg_type t ON t.oid = e.oid WHERE t.typtype <> 'd'",
          list)));
  for (int i = 0; i < rows.size(); ++i) {
    PgType type = types.Find(NumberOf<std::uint32_t>(rows.Text(i, 3)));
    // Two steps of arrays end as text inside of the outer one.
    if (type.array) type = PgType();
    if (rows.Text(i, 4) == "hstore") type.shape = PgShape::kHstore;
    type.array = IsTrue(rows.Text(i, 1));
    if (!rows.Text(i, 2).empty()) type.delimiter = rows.Text(i, 2)[0];
    types.Put(NumberOf<std::uint32_t>(rows.Text(i, 0)), type);
  }
  return absl::OkStatus();
}

}  // namespace tocsin
