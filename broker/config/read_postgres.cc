// Sources of kind postgres.

#include <fmt/format.h>

#include "broker/base/status.h"
#include "broker/config/read_model.h"

namespace tocsin {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

// A map from tables to lists of columns.
void ReadColumns(ConfigReader& reader, Section& section, std::string_view name,
                 std::map<std::string, std::vector<std::string>>& target,
                 std::string_view description) {
  const YamlNode node =
      section.Value(name, "map of lists of text", R"({"type":"object"})", description);
  if (!node.present() || reader.describing != nullptr) return;
  const auto bad = [&](YamlLocation location) {
    reader.Error(location, config_code::kBadValue,
                 fmt::format("`{}` takes tables, each with a list of columns", name));
  };
  if (node.kind() != YamlKind::kMap) return bad(node.location());
  for (const YamlEntry& entry : node.Entries()) {
    if (entry.key.kind() != YamlKind::kScalar || entry.value.kind() != YamlKind::kList) {
      bad(entry.key.location());
      continue;
    }
    std::vector<std::string>& columns = target[std::string(entry.key.text())];
    for (const YamlNode& element : entry.value.Elements()) {
      if (element.kind() != YamlKind::kScalar) {
        bad(element.location());
        continue;
      }
      const std::optional<ConfigText> text = reader.Interpolate(element);
      if (text) columns.push_back(text->value);
    }
  }
}

void ReadFilters(ConfigReader& reader, Section& section,
                 std::map<std::string, std::string>& target) {
  const YamlNode node = section.Value("where", "map of text", R"({"type":"object"})",
                                      "per table a condition in SQL: the publication's row filter");
  if (!node.present() || reader.describing != nullptr) return;
  if (node.kind() != YamlKind::kMap) {
    section.Error("where", config_code::kBadValue, "`where` takes tables, each with a condition");
    return;
  }
  for (const YamlEntry& entry : node.Entries()) {
    if (entry.key.kind() != YamlKind::kScalar || entry.value.kind() != YamlKind::kScalar) {
      reader.Error(entry.key.location(), config_code::kBadValue,
                   "`where` takes tables, each with a condition");
      continue;
    }
    const std::optional<ConfigText> text = reader.Interpolate(entry.value);
    if (text) target[std::string(entry.key.text())] = text->value;
  }
}

}  // namespace

void ReadPostgres(ConfigReader& reader, YamlNode node, PostgresSpec& postgres) {
  Section section(reader, node, "sources.*.postgres");
  Secret url;
  if (section.SecretText("url", url,
                         "postgresql://user:password@host:port/database, or libpq's "
                         "`host=... dbname=...`")) {
    postgres.url = url.Reveal();
  }
  section.Require("url");
  section.TextList("tables", postgres.tables, "tables, `schema.table` or `schema.*`");
  section.Text("publication", postgres.publication,
               "an existing publication; none: `tocsin_<source>`, made if it is not there");
  section.Text("slot", postgres.slot, "the replication slot; none: `tocsin_<source>`");
  section.Boolean("create", postgres.create,
                  "whether the publication and the slot are made if they are not there");
  ReadColumns(reader, section, "columns", postgres.columns, "per table, only these columns");
  ReadColumns(reader, section, "exclude", postgres.exclude, "per table, columns to leave out");
  ReadFilters(reader, section, postgres.where);
  section.Choice("snapshot", postgres.snapshot,
                 {{"initial", PgSnapshot::kInitial},
                  {"never", PgSnapshot::kNever},
                  {"when_needed", PgSnapshot::kWhenNeeded},
                  {"only", PgSnapshot::kOnly}},
                 "whether rows that are there already are read: at first, never, also again after "
                 "a gap, or these alone");
  section.Integer("chunk_rows", postgres.chunk_rows, 1, 100'000, "rows of a snapshot's chunk");
  section.Integer("snapshot_rate", postgres.snapshot_rate, 1, 100'000'000,
                  "rows per second of a snapshot, at most", "unlimited");
  section.Choice("on_gap", postgres.pass_gaps, {{"stop", false}, {"continue", true}},
                 "when the slot is gone or does not fit the position");
  section.Boolean("messages", postgres.messages,
                  "whether messages of pg_logical_emit_message become events");
  section.Boolean("streaming", postgres.streaming,
                  "whether large transactions are sent while they are in progress");
  section.Text("spill_dir", postgres.spill_dir,
               "a directory for what was sent of transactions in progress");
  section.TimeSpan("heartbeat", postgres.heartbeat, milliseconds(100), minutes(10),
                   "how often the slot is moved on when nothing of interest comes, and looked at");
  section.TimeSpan("timeout", postgres.timeout, milliseconds(100), minutes(5),
                   "for connecting, and for an answer");
  section.Size("warn_slot_lag", postgres.warn_lag_bytes, 1, std::uint64_t{1} << 50,
               "log that the server keeps for the slot, from which on it is told");
  section.Size("max_slot_lag", postgres.slot_lag_bytes_max, 0, std::uint64_t{1} << 50,
               "and at most; 0 is no limit");
  section.Choice("at_max_slot_lag", postgres.drop_slot, {{"warn", false}, {"drop_slot", true}},
                 "at `max_slot_lag`: only tell, or drop the slot to save the server's disk");
  section.Finish();
  if (reader.describing != nullptr || !section.Has("url")) return;
  const absl::Status valid = ValidatePostgresSpec(postgres);
  if (!valid.ok()) {
    const std::string text(MessageOf(valid));
    const std::size_t end = text.find('`', 1);
    const std::string key = text.starts_with('`') ? text.substr(1, end - 1) : "tables";
    section.Error(section.Has(key) ? key : "url", config_code::kBadValue, text);
  }
}

}  // namespace tocsin
