#include "connectors/database/postgres/postgres_events.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"

namespace tocsin {
namespace {

using Pair = std::pair<std::string_view, std::string_view>;

constexpr std::int64_t kSecondsTo2000 = 946'684'800;
constexpr std::array<Pair, 1> kJsonHeader = {Pair{"content-type", "application/json"}};

const std::vector<PgValue>* WholeOld(const PgOldRow& old) {
  return old.kind == 'O' ? &old.values : nullptr;
}

bool Same(const PgValue& a, const PgValue& b) { return a.kind == b.kind && a.text == b.text; }

bool Contains(const std::map<std::string, std::vector<std::string>>& lists,
              const std::string& table, const std::string& column, bool otherwise) {
  const auto found = lists.find(table);
  if (found == lists.end()) return otherwise;
  return std::find(found->second.begin(), found->second.end(), column) != found->second.end();
}

std::string SequenceOf(Lsn lsn, std::uint64_t index) {
  return fmt::format("{:016X}.{:010}", lsn, index);
}

}  // namespace

WallTime PgTime(std::int64_t us_since_2000) {
  return WallTime(std::chrono::seconds(kSecondsTo2000) + std::chrono::microseconds(us_since_2000));
}

std::string PgKeyOf(const PgRelation& relation, const std::vector<PgValue>& row) {
  if (relation.key.empty()) return relation.subject;
  for (const std::size_t i : relation.key) {
    if (row[i].kind != PgValueKind::kText) return "";
  }
  if (relation.key.size() == 1) return std::string(row[relation.key[0]].text);
  std::string out = "[";
  for (const std::size_t i : relation.key) {
    if (out.size() > 1) out += ',';
    AppendPgValue(out, relation.columns[i].type, row[i].text);
  }
  return out + "]";
}

absl::StatusOr<PostgresEvents> PostgresEvents::Make(const PostgresSpec& spec) {
  const std::vector<std::string_view> names = PostgresTemplateNames();
  const auto make = [&](std::string_view kind, Envelope envelope) {
    return RecordMapper::Make(spec.name, kind, envelope, spec.event, names);
  };
  TOCSIN_ASSIGN_OR_RETURN(RecordMapper rows, make("row", Envelope::kRaw));
  TOCSIN_ASSIGN_OR_RETURN(RecordMapper tables, make("table", Envelope::kRaw));
  // A message may be a whole CloudEvent.
  TOCSIN_ASSIGN_OR_RETURN(RecordMapper messages, make("postgres", Envelope::kAuto));
  return PostgresEvents(spec, std::move(rows), std::move(tables), std::move(messages));
}

PgRelation PostgresEvents::MakeRelation(const PgMessage& message, const PgTypes& types,
                                        const std::vector<std::string>& key) const {
  PgRelation out;
  out.oid = message.relation;
  // An empty schema stands for pg_catalog.
  out.schema = message.space.empty() ? "pg_catalog" : std::string(message.space);
  out.table = std::string(message.name);
  out.subject = out.schema + "." + out.table;
  out.identity = message.identity;
  out.wanted = IsWantedTable(spec_.tables, out.schema, out.table);
  out.source = "\"source\":{\"db\":";
  AppendJsonString(out.source, database_);
  out.source += ",\"schema\":";
  AppendJsonString(out.source, out.schema);
  out.source += ",\"table\":";
  AppendJsonString(out.source, out.table);
  for (const PgColumn& column : message.columns) {
    PgRelationColumn made;
    made.name = std::string(column.name);
    AppendJsonString(made.json_name, made.name);
    made.json_name += ':';
    made.type = types.Find(column.type);
    made.key = column.key;
    made.wanted = Contains(spec_.columns, out.subject, made.name, true) &&
                  !Contains(spec_.exclude, out.subject, made.name, false);
    const bool flagged = column.key && (message.identity == 'd' || message.identity == 'i');
    const bool named = std::find(key.begin(), key.end(), made.name) != key.end();
    if (flagged || (named && !(message.identity == 'd' || message.identity == 'i'))) {
      out.key.push_back(out.columns.size());
    }
    out.columns.push_back(std::move(made));
  }
  return out;
}

void PostgresEvents::AppendRow(const PgRelation& relation, const std::vector<PgValue>& row,
                               const std::vector<PgValue>* old, bool key_only) {
  char separator = '{';
  for (std::size_t i = 0; i < row.size(); ++i) {
    const PgRelationColumn& column = relation.columns[i];
    if (!column.wanted || (key_only && !column.key)) continue;
    const PgValue* value = &row[i];
    if (value->kind == PgValueKind::kUnchanged) {
      if (old == nullptr || (*old)[i].kind == PgValueKind::kUnchanged) continue;
      value = &(*old)[i];
    }
    data_ += separator;
    separator = ',';
    data_ += column.json_name;
    if (value->kind == PgValueKind::kText) {
      AppendPgValue(data_, column.type, value->text);
    } else {
      data_ += "null";
    }
  }
  if (separator == '{') data_ += '{';
  data_ += '}';
}

void PostgresEvents::AppendUnavailable(const PgRelation& relation, const std::vector<PgValue>& row,
                                       const std::vector<PgValue>* old) {
  bool first = true;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const bool missing = row[i].kind == PgValueKind::kUnchanged &&
                         (old == nullptr || (*old)[i].kind == PgValueKind::kUnchanged);
    if (!missing || !relation.columns[i].wanted) continue;
    data_ += first ? ",\"unavailable\":[" : ",";
    first = false;
    AppendJsonString(data_, relation.columns[i].name);
  }
  if (!first) data_ += ']';
}

void PostgresEvents::AppendSource(const PgRelation& relation, const PgTransaction& in,
                                  std::uint64_t index) {
  if (in_text_.empty() || in.commit != in_.commit || in.xid != in_.xid || in.origin != in_.origin ||
      in.time_us != in_.time_us) {
    in_ = in;
    in_lsn_ = FormatLsn(in.commit);
    in_xid_ = std::to_string(in.xid);
    in_text_ = fmt::format(",\"lsn\":\"{}\",\"txid\":{},\"commit_time\":\"{}\"", in_lsn_, in_xid_,
                           FormatRfc3339(PgTime(in.time_us)));
    if (!in.origin.empty()) {
      in_text_ += ",\"origin\":";
      AppendJsonString(in_text_, in.origin);
    }
  }
  data_ += ',';
  data_ += relation.source;
  data_ += in_text_;
  data_ += ",\"index\":";
  data_ += std::to_string(index);
  data_ += "}}";
}

std::size_t PostgresEvents::Map(const RecordMapper& mapper, const PgRelation& relation,
                                std::string_view op, std::string_view id, std::string_view sequence,
                                std::string_view key, const PgTransaction& in, SourceBatch& batch) {
  const std::array<Pair, 6> names = {Pair{"db", database_},         Pair{"schema", relation.schema},
                                     Pair{"table", relation.table}, Pair{"op", op},
                                     Pair{"txid", in_xid_},         Pair{"lsn", in_lsn_}};
  const std::array<Pair, 1> attributes = {Pair{"sequence", sequence}};
  OutsideRecord record;
  record.id = id;
  record.what = op;
  record.subject = relation.subject;
  record.where = id;
  if (!key.empty()) record.key = key;
  record.headers = kJsonHeader;
  record.names = names;
  record.attributes = attributes;
  record.value = data_;
  if (in.commit != 0) record.time = PgTime(in.time_us);
  return mapper.MapInto(record, batch);
}

std::size_t PostgresEvents::MapChange(const RecordMapper& mapper, const PgRelation& relation,
                                      std::string_view op, std::string_view key,
                                      const PgTransaction& in, std::uint64_t index,
                                      SourceBatch& batch) {
  const std::string id = fmt::format("{}/{}", in_lsn_, index);
  return Map(mapper, relation, op, id, SequenceOf(in.commit, index), key, in, batch);
}

std::size_t PostgresEvents::AddCreated(const PgRelation& relation, const std::vector<PgValue>& row,
                                       const PgTransaction& in, std::uint64_t index,
                                       SourceBatch& batch) {
  data_ = "{\"before\":null,\"after\":";
  AppendRow(relation, row, nullptr, false);
  data_ += ",\"changed\":null";
  AppendUnavailable(relation, row, nullptr);
  AppendSource(relation, in, index);
  return MapChange(rows_, relation, "created", PgKeyOf(relation, row), in, index, batch);
}

std::size_t PostgresEvents::AddUpdated(const PgRelation& relation, const PgOldRow& old,
                                       const std::vector<PgValue>& row, const PgTransaction& in,
                                       std::uint64_t index, SourceBatch& batch) {
  const std::vector<PgValue>* whole = WholeOld(old);
  data_ = "{\"before\":";
  if (old.kind == 0) {
    data_ += "null";
  } else {
    AppendRow(relation, old.values, nullptr, old.kind == 'K');
  }
  data_ += ",\"after\":";
  AppendRow(relation, row, whole, false);
  data_ += ",\"changed\":";
  if (whole == nullptr) {
    data_ += "null";
  } else {
    char separator = '[';
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (!relation.columns[i].wanted || row[i].kind == PgValueKind::kUnchanged ||
          Same(row[i], (*whole)[i])) {
        continue;
      }
      data_ += separator;
      separator = ',';
      AppendJsonString(data_, relation.columns[i].name);
    }
    if (separator == '[') data_ += '[';
    data_ += ']';
  }
  AppendUnavailable(relation, row, whole);
  AppendSource(relation, in, index);
  std::string key = PgKeyOf(relation, row);
  // A key in TOAST storage that did not change is in the old row alone.
  if (key.empty() && old.kind != 0) key = PgKeyOf(relation, old.values);
  return MapChange(rows_, relation, "updated", key, in, index, batch);
}

void PostgresEvents::AppendKey(std::string_view name, const PgRelation& relation,
                               const PgOldRow& old, const std::vector<PgValue>& values) {
  data_ += fmt::format(",\"{}\":", name);
  char separator = '{';
  for (const std::size_t i : relation.key) {
    const PgRelationColumn& column = relation.columns[i];
    const PgValue& value = values[i].kind == PgValueKind::kUnchanged ? old.values[i] : values[i];
    if (!column.wanted || value.kind != PgValueKind::kText) continue;
    data_ += separator;
    separator = ',';
    data_ += column.json_name;
    AppendPgValue(data_, column.type, value.text);
  }
  data_ += separator == '{' ? "{}" : "}";
}

std::size_t PostgresEvents::AddKeyDeleted(const PgRelation& relation, const PgOldRow& old,
                                          const std::vector<PgValue>& row, const PgTransaction& in,
                                          std::uint64_t index, SourceBatch& batch) {
  data_ = "{\"before\":";
  AppendRow(relation, old.values, nullptr, old.kind == 'K');
  data_ += ",\"after\":null,\"changed\":null";
  AppendKey("key_changed_to", relation, old, row);
  AppendSource(relation, in, index);
  return MapChange(rows_, relation, "deleted", PgKeyOf(relation, old.values), in, index, batch);
}

std::size_t PostgresEvents::AddKeyCreated(const PgRelation& relation, const PgOldRow& old,
                                          const std::vector<PgValue>& row, const PgTransaction& in,
                                          std::uint64_t index, SourceBatch& batch) {
  const std::vector<PgValue>* whole = WholeOld(old);
  data_ = "{\"before\":null,\"after\":";
  AppendRow(relation, row, whole, false);
  data_ += ",\"changed\":null";
  AppendUnavailable(relation, row, whole);
  AppendKey("key_changed_from", relation, old, old.values);
  AppendSource(relation, in, index);
  return MapChange(rows_, relation, "created", PgKeyOf(relation, row), in, index, batch);
}

std::size_t PostgresEvents::AddDeleted(const PgRelation& relation, const PgOldRow& old,
                                       const PgTransaction& in, std::uint64_t index,
                                       SourceBatch& batch) {
  data_ = "{\"before\":";
  AppendRow(relation, old.values, nullptr, old.kind == 'K');
  data_ += ",\"after\":null,\"changed\":null";
  AppendSource(relation, in, index);
  return MapChange(rows_, relation, "deleted", PgKeyOf(relation, old.values), in, index, batch);
}

std::size_t PostgresEvents::AddTruncated(const PgRelation& relation, bool cascade,
                                         bool restart_identity, const PgTransaction& in,
                                         std::uint64_t index, SourceBatch& batch) {
  data_ = fmt::format("{{\"cascade\":{},\"restart_identity\":{}", cascade, restart_identity);
  AppendSource(relation, in, index);
  return MapChange(tables_, relation, "truncated", "", in, index, batch);
}

std::size_t PostgresEvents::AddMessage(const PgMessage& message, const PgTransaction& in,
                                       std::uint64_t index, SourceBatch& batch) {
  const std::string lsn = FormatLsn(in.commit);
  const std::string xid = std::to_string(in.xid);
  const std::string id = fmt::format("{}/{}", lsn, index);
  const std::string sequence = SequenceOf(in.commit, index);
  const std::array<Pair, 5> names = {Pair{"db", database_}, Pair{"prefix", message.name},
                                     Pair{"op", "message"}, Pair{"txid", xid}, Pair{"lsn", lsn}};
  const std::array<Pair, 1> attributes = {Pair{"sequence", sequence}};
  OutsideRecord record;
  record.id = id;
  record.what = "message";
  record.subject = message.name;
  record.where = id;
  record.names = names;
  record.attributes = attributes;
  record.value = message.content;
  if (in.time_us != 0) record.time = PgTime(in.time_us);
  return messages_.MapInto(record, batch);
}

std::size_t PostgresEvents::AddRead(const PgRelation& relation, const std::vector<PgValue>& row,
                                    Lsn at, SourceBatch& batch) {
  const std::string key = PgKeyOf(relation, row);
  const std::string lsn = FormatLsn(at);
  data_ = "{\"before\":null,\"after\":";
  AppendRow(relation, row, nullptr, false);
  data_ += ",\"changed\":null,";
  data_ += relation.source;
  data_ += fmt::format(",\"lsn\":\"{}\",\"snapshot\":true}}}}", lsn);
  // The texts of the transaction that goes on beside it are made again.
  in_text_.clear();
  in_lsn_ = lsn;
  in_xid_.clear();
  const std::string id = fmt::format("read/{}/{}/{}", lsn, relation.subject, key);
  return Map(rows_, relation, "read", id.size() <= 1024 ? id : PartitionKeyOf(id),
             SequenceOf(at, 0), key, PgTransaction(), batch);
}

std::size_t PostgresEvents::AddUndecodable(std::string_view bytes, std::string_view why,
                                           const PgTransaction& in, std::uint64_t index,
                                           SourceBatch& batch) const {
  std::string kept(bytes.substr(0, kUndecodableBytesMax));
  const std::size_t size = kept.size();
  batch.undecodable.push_back(
      {std::move(kept), fmt::format("{}/{}: {}", FormatLsn(in.commit), index, why)});
  return size;
}

}  // namespace tocsin
