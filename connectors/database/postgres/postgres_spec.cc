#include "connectors/database/postgres/postgres_spec.h"

#include <fmt/format.h>

#include <algorithm>

#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr std::size_t kNameBytesMax = 63;

std::string NameFrom(std::string_view source) {
  std::string name = "tocsin_";
  for (const char c : source) {
    if (name.size() == kNameBytesMax) break;
    const bool lower = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    const bool upper = c >= 'A' && c <= 'Z';
    name.push_back(lower ? c : upper ? static_cast<char>(c - 'A' + 'a') : '_');
  }
  return name;
}

absl::Status CheckTable(std::string_view key, std::string_view table, bool pattern) {
  const std::size_t dot = table.find('.');
  const bool whole = dot != std::string_view::npos && dot > 0 && dot + 1 < table.size();
  if (whole && (pattern || table.substr(dot + 1) != "*")) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("`{}` takes tables as `schema.table`{}, not `{}`",
                                                key, pattern ? " or `schema.*`" : "", table));
}

template <typename Map>
absl::Status CheckKeys(std::string_view key, const Map& map, const PostgresSpec& spec) {
  for (const auto& [table, value] : map) {
    TOCSIN_RETURN_IF_ERROR(CheckTable(key, table, false));
    const std::size_t dot = table.find('.');
    if (!IsWantedTable(spec.tables, table.substr(0, dot), table.substr(dot + 1))) {
      return absl::InvalidArgumentError(
          fmt::format("`{}` names `{}`, which is not one of `tables`", key, table));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string PostgresSpec::Publication() const {
  return publication.empty() ? NameFrom(name) : publication;
}
std::string PostgresSpec::Slot() const { return slot.empty() ? NameFrom(name) : slot; }

bool IsWantedTable(const std::vector<std::string>& patterns, std::string_view schema,
                   std::string_view table) {
  return patterns.empty() ||
         std::any_of(patterns.begin(), patterns.end(), [&](std::string_view pattern) {
           if (!pattern.starts_with(schema)) return false;
           pattern.remove_prefix(schema.size());
           if (!pattern.starts_with('.')) return false;
           pattern.remove_prefix(1);
           return pattern == table || pattern == "*";
         });
}

absl::Status ValidatePostgresSpec(const PostgresSpec& spec) {
  for (const std::string& table : spec.tables) {
    TOCSIN_RETURN_IF_ERROR(CheckTable("tables", table, true));
  }
  if (spec.tables.empty() && spec.publication.empty()) {
    return absl::InvalidArgumentError(
        "`tables` names what is read; or give the `publication` that says so");
  }
  for (const char c : spec.slot) {
    if ((c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_') {
      return absl::InvalidArgumentError("`slot` takes small letters, digits and `_`");
    }
  }
  if (spec.slot.size() > kNameBytesMax || spec.publication.size() > kNameBytesMax) {
    return absl::InvalidArgumentError("`slot` and `publication` have at most 63 bytes");
  }
  TOCSIN_RETURN_IF_ERROR(CheckKeys("columns", spec.columns, spec));
  TOCSIN_RETURN_IF_ERROR(CheckKeys("exclude", spec.exclude, spec));
  TOCSIN_RETURN_IF_ERROR(CheckKeys("where", spec.where, spec));
  for (const auto& [table, names] : spec.columns) {
    if (names.empty()) {
      return absl::InvalidArgumentError(fmt::format("`columns` of `{}` is empty", table));
    }
    if (spec.exclude.contains(table)) {
      return absl::InvalidArgumentError(
          fmt::format("`{}` is in `columns` and in `exclude`: give one of them", table));
    }
  }
  if (!spec.where.empty() && (!spec.publication.empty() || !spec.create)) {
    return absl::InvalidArgumentError(
        "`where` is for the publication that is made here; give a `publication` its row filters");
  }
  if (spec.drop_slot && spec.slot_lag_bytes_max == 0) {
    return absl::InvalidArgumentError("`at_max_slot_lag: drop_slot` needs `max_slot_lag`");
  }
  return absl::OkStatus();
}

std::vector<std::string_view> PostgresTemplateNames() {
  return {"db", "schema", "table", "op", "txid", "lsn", "prefix"};
}

}  // namespace tocsin
