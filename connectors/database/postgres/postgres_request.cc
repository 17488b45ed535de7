#include "connectors/database/postgres/postgres_request.h"

#include <fmt/format.h>

#include "absl/strings/str_join.h"
#include "broker/base/json_scan.h"

namespace tocsin {
namespace {

constexpr std::string_view kDone = "done";
constexpr std::string_view kAt = "at ";
constexpr std::string_view kAgain = "again ";

std::string AskedFromStart() {
  return EncodePgTableState({.done = false, .asked = true, .after = {}});
}

}  // namespace

absl::Status CheckPgSnapshotRequest(const PostgresSpec& spec, const PgSnapshotRequest& request) {
  if (spec.snapshot == PgSnapshot::kOnly) {
    return absl::FailedPreconditionError(
        fmt::format("it has `snapshot: only`: each table is read once and then it is finished; "
                    "`tocsin sources forget {}` reads them again",
                    spec.name));
  }
  if (request.after_gap && !request.tables.empty()) {
    return absl::InvalidArgumentError(
        "behind a gap every table is read again: name no table with it");
  }
  for (const std::string& table : request.tables) {
    const std::size_t dot = table.find('.');
    if (dot == std::string::npos || dot == 0 || dot + 1 == table.size() ||
        table.substr(dot + 1) == "*") {
      return absl::InvalidArgumentError(
          fmt::format("a table is named as `schema.table`, not `{}`", table));
    }
    if (!IsWantedTable(spec.tables, table.substr(0, dot), table.substr(dot + 1))) {
      return absl::NotFoundError(fmt::format("it does not read `{}`: its `tables` are {}", table,
                                             absl::StrJoin(spec.tables, ", ")));
    }
  }
  return absl::OkStatus();
}

std::string EncodePgTableState(const PgTableState& state) {
  if (state.done) return std::string(kDone);
  std::string out(state.asked ? kAgain : kAt);
  out += '[';
  for (const std::string& word : state.after) {
    if (out.back() != '[') out += ',';
    AppendJsonString(out, word);
  }
  return out + "]";
}

PgTableState DecodePgTableState(std::string_view text) {
  PgTableState state;
  if (text == kDone) {
    state.done = true;
    return state;
  }
  state.asked = text.starts_with(kAgain);
  if (!state.asked && !text.starts_with(kAt)) return state;
  text.remove_prefix(state.asked ? kAgain.size() : kAt.size());
  JsonValue value;
  if (!JsonScanner(text).ReadDocument(value).ok() || value.kind != JsonKind::kArray) return state;
  for (const JsonValue& element : JsonElements(value)) {
    if (element.kind == JsonKind::kString) state.after.push_back(JsonString(element));
  }
  return state;
}

std::vector<LaneStatePut> PgRequestPuts(const std::vector<std::string>& tables,
                                        std::string_view position) {
  const std::string from_start = AskedFromStart();
  std::vector<LaneStatePut> puts;
  puts.reserve(tables.size() + 1);
  for (const std::string& table : tables) {
    puts.push_back({std::string(kPgTablePrefix) + table, from_start});
  }
  if (!position.empty()) puts.push_back({std::string(kPgAfterGapKey), std::string(position)});
  return puts;
}

bool MayPassPgGap(const LaneState& state) {
  const auto found = state.entries.find(std::string(kPgAfterGapKey));
  return found != state.entries.end() && !found->second.empty() &&
         found->second == state.position.value;
}

std::map<std::string, std::string> AskedPgTables(const LaneState& state) {
  const std::string from_start = AskedFromStart();
  std::map<std::string, std::string> asked;
  for (const auto& [key, value] : state.entries) {
    if (key.starts_with(kPgTablePrefix) && value == from_start) asked.emplace(key, value);
  }
  return asked;
}

}  // namespace tocsin
