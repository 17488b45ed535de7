// PostgresEvents: what a change of a row, a truncation, a logical message and a row of a snapshot
// are as events.
//
//   type       row.created, row.updated, row.deleted, row.read (snapshot), table.truncated,
//              postgres.message
//   subject    schema.table; the prefix of a message
//   partitionkey  the key's text; of several columns a JSON array; without a key schema.table
//   id         <commit LSN>/<index in transaction>; sequence the same, zero-padded
//   time       of the commit
//   data       {"before","after","changed","unavailable","source"}
//
// `before` is what the replica identity gives: null, the key's columns, or the row. `changed` is
// null where that is not enough to tell. An unchanged TOAST value that the server did not send is
// taken from the old row, else the column is left out of `after` and named in `unavailable`.
//
// A change of the key is two events, row.deleted with `key_changed_to` and row.created with
// `key_changed_from`, the key's columns.
//
// Threading: one thread.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "connectors/database/postgres/pgoutput.h"
#include "connectors/database/postgres/postgres_spec.h"
#include "connectors/database/postgres/postgres_types.h"
#include "connectors/record_event.h"
#include "connectors/source_connector.h"

namespace tocsin {

struct PgRelationColumn {
  std::string name;
  std::string json_name;  // `"name":`
  PgType type;
  bool key = false;     // of the replica identity
  bool wanted = false;  // by `columns` and `exclude`
};

struct PgRelation {
  std::uint32_t oid = 0;
  std::string schema;
  std::string table;
  std::string subject;  // schema.table
  std::string source;   // `"source":{"db":...,"schema":...,"table":...`
  char identity = 'd';
  bool wanted = false;  // by `tables`
  std::vector<PgRelationColumn> columns;
  std::vector<std::size_t> key;  // columns of the primary key, or of the replica identity
};

struct PgTransaction {
  Lsn commit = 0;
  std::int64_t time_us = 0;  // since 2000-01-01
  std::uint32_t xid = 0;
  std::string origin;
};

// A change's old row, if the server sent one.
struct PgOldRow {
  char kind = 0;  // 'K', 'O', 0
  const std::vector<PgValue>& values;
};

class PostgresEvents {
 public:
  //   kInvalidArgument  a template of the `event:` block
  static absl::StatusOr<PostgresEvents> Make(const PostgresSpec& spec);

  void SetDatabase(std::string_view name) { database_ = std::string(name); }

  // `key` names the key's columns if the replica identity does not.
  PgRelation MakeRelation(const PgMessage& message, const PgTypes& types,
                          const std::vector<std::string>& key) const;

  // Each adds to the batch and gives the bytes that it grew by. Rows have as many values as the
  // relation has columns, none of them binary.
  std::size_t AddCreated(const PgRelation& relation, const std::vector<PgValue>& row,
                         const PgTransaction& in, std::uint64_t index, SourceBatch& batch);
  std::size_t AddUpdated(const PgRelation& relation, const PgOldRow& old,
                         const std::vector<PgValue>& row, const PgTransaction& in,
                         std::uint64_t index, SourceBatch& batch);
  // A change of the key is both, one after the other.
  std::size_t AddKeyDeleted(const PgRelation& relation, const PgOldRow& old,
                            const std::vector<PgValue>& row, const PgTransaction& in,
                            std::uint64_t index, SourceBatch& batch);
  std::size_t AddKeyCreated(const PgRelation& relation, const PgOldRow& old,
                            const std::vector<PgValue>& row, const PgTransaction& in,
                            std::uint64_t index, SourceBatch& batch);
  std::size_t AddDeleted(const PgRelation& relation, const PgOldRow& old, const PgTransaction& in,
                         std::uint64_t index, SourceBatch& batch);
  std::size_t AddTruncated(const PgRelation& relation, bool cascade, bool restart_identity,
                           const PgTransaction& in, std::uint64_t index, SourceBatch& batch);
  std::size_t AddMessage(const PgMessage& message, const PgTransaction& in, std::uint64_t index,
                         SourceBatch& batch);
  // A row of a snapshot that was taken at `at`.
  std::size_t AddRead(const PgRelation& relation, const std::vector<PgValue>& row, Lsn at,
                      SourceBatch& batch);
  std::size_t AddUndecodable(std::string_view bytes, std::string_view why, const PgTransaction& in,
                             std::uint64_t index, SourceBatch& batch) const;

 private:
  // The key of one of the two rows, as a member of `data_`.
  void AppendKey(std::string_view name, const PgRelation& relation, const PgOldRow& old,
                 const std::vector<PgValue>& values);
  PostgresEvents(const PostgresSpec& spec, RecordMapper rows, RecordMapper tables,
                 RecordMapper messages)
      : spec_(spec),
        rows_(std::move(rows)),
        tables_(std::move(tables)),
        messages_(std::move(messages)) {}

  std::size_t Map(const RecordMapper& mapper, const PgRelation& relation, std::string_view op,
                  std::string_view id, std::string_view sequence, std::string_view key,
                  const PgTransaction& in, SourceBatch& batch);
  std::size_t MapChange(const RecordMapper& mapper, const PgRelation& relation, std::string_view op,
                        std::string_view key, const PgTransaction& in, std::uint64_t index,
                        SourceBatch& batch);
  void AppendRow(const PgRelation& relation, const std::vector<PgValue>& row,
                 const std::vector<PgValue>* old, bool key_only);
  void AppendUnavailable(const PgRelation& relation, const std::vector<PgValue>& row,
                         const std::vector<PgValue>* old);
  void AppendSource(const PgRelation& relation, const PgTransaction& in, std::uint64_t index);

  const PostgresSpec& spec_;
  RecordMapper rows_;
  RecordMapper tables_;
  RecordMapper messages_;
  std::string database_;
  std::string data_;     // of the event that is being made
  PgTransaction in_;     // whose texts are in the next two
  std::string in_text_;  // `,"lsn":...,"txid":...,"commit_time":...`
  std::string in_lsn_, in_xid_;
};

// Of the key's columns; empty if one of them is not there.
std::string PgKeyOf(const PgRelation& relation, const std::vector<PgValue>& row);

WallTime PgTime(std::int64_t us_since_2000);

}  // namespace tocsin
