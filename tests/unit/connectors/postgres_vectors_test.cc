// What a real PostgreSQL sent (postgres_cdc/pgoutput_golden.json): decoded field by field, then as
// events beside what test_decoding said of the same transactions.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "connectors/database/postgres/transaction_stream.h"
#include "tests/support/vectors.h"

namespace tocsin {
namespace {

using nlohmann::json;

std::string FromHex(const std::string& hex) {
  std::string out;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    out.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return out;
}

class Captures : public ::testing::Test {
 protected:
  static const json& All() {
    static const json all = ReadVectors("postgres_cdc/pgoutput_golden.json");
    return all;
  }
  static const json& Case(const std::string& name) {
    for (const json& one : All()["cases"]) {
      if (one["name"] == name) return one;
    }
    ADD_FAILURE() << "no case " << name;
    return All()["cases"][0];
  }
};

void ExpectValues(const std::vector<PgValue>& got, const json& wanted, const std::string& where) {
  ASSERT_EQ(got.size(), wanted.size()) << where;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const json& value = wanted[i];
    if (value.contains("null")) {
      EXPECT_EQ(got[i].kind, PgValueKind::kNull) << where;
    } else if (value.contains("unchanged_toast")) {
      EXPECT_EQ(got[i].kind, PgValueKind::kUnchanged) << where;
    } else if (value.contains("text_len")) {
      EXPECT_EQ(got[i].text.size(), value["text_len"].get<std::size_t>()) << where;
      EXPECT_TRUE(got[i].text.starts_with(value["text_head"].get<std::string>())) << where;
    } else if (value.contains("text")) {
      EXPECT_EQ(got[i].kind, PgValueKind::kText) << where;
      EXPECT_EQ(got[i].text, value["text"].get<std::string>()) << where;
    } else {
      EXPECT_EQ(got[i].kind, PgValueKind::kBinary) << where << value;
    }
  }
}

void ExpectFields(const PgMessage& got, const json& wanted, const std::string& where) {
  EXPECT_EQ(std::string(1, static_cast<char>(got.kind)), wanted["type"]) << where;
  const auto lsn = [&](const char* field, Lsn value) {
    if (wanted.contains(field)) {
      EXPECT_EQ(FormatLsn(value), wanted[field]) << where << field;
    }
  };
  const auto number = [&](const char* field, std::int64_t value) {
    if (wanted.contains(field)) {
      EXPECT_EQ(value, wanted[field].get<std::int64_t>()) << where;
    }
  };
  const auto text = [&](const char* field, std::string_view value) {
    if (wanted.contains(field)) {
      EXPECT_EQ(value, wanted[field].get<std::string>()) << where;
    }
  };
  lsn("final_lsn", got.lsn);
  lsn("commit_lsn", got.lsn);
  lsn("prepare_lsn", got.lsn);
  lsn("prepare_end_lsn", got.lsn);
  lsn("lsn", got.lsn);
  lsn("end_lsn", got.end_lsn);
  lsn("rollback_end_lsn", got.end_lsn);
  number("commit_ts_us_since_2000", got.time_us);
  number("ts", got.time_us);
  number("xid", got.xid);
  number("oid", got.relation);
  number("relation_oid", got.relation);
  number("content_len", static_cast<std::int64_t>(got.content.size()));
  text("namespace", got.space);
  text("relation", got.name);
  text("type_name", got.name);
  text("origin", got.name);
  text("prefix", got.name);
  text("gid", got.name);
  if (wanted.contains("transactional")) {
    EXPECT_EQ(got.transactional, wanted["transactional"]);
  }
  if (wanted.contains("content_hex")) {
    EXPECT_EQ(got.content, FromHex(wanted["content_hex"]));
  }
  if (wanted.contains("first_segment")) {
    EXPECT_EQ(got.first_segment, wanted["first_segment"]);
  }
  if (wanted.contains("cascade")) {
    EXPECT_EQ(got.cascade, wanted["cascade"]);
  }
  if (wanted.contains("restart_identity")) {
    EXPECT_EQ(got.restart_identity, wanted["restart_identity"]);
  }
  if (wanted.contains("relation_oids")) {
    EXPECT_EQ(got.relations, wanted["relation_oids"].get<std::vector<std::uint32_t>>());
  }
  if (wanted.contains("replica_identity")) {
    EXPECT_EQ(std::string(1, got.identity), wanted["replica_identity"]) << where;
  }
  if (wanted.contains("columns")) {
    ASSERT_EQ(got.columns.size(), wanted["columns"].size()) << where;
    for (std::size_t i = 0; i < got.columns.size(); ++i) {
      const json& column = wanted["columns"][i];
      EXPECT_EQ(got.columns[i].key, column["key"]) << where;
      EXPECT_EQ(got.columns[i].name, column["name"].get<std::string>()) << where;
      EXPECT_EQ(got.columns[i].type, column["type_oid"].get<std::uint32_t>()) << where;
      EXPECT_EQ(got.columns[i].modifier, column["atttypmod"].get<std::int32_t>()) << where;
    }
  }
  if (wanted.contains("new")) ExpectValues(got.new_values, wanted["new"], where);
  for (const char* old : {"old", "key"}) {
    if (!wanted.contains(old) || wanted["type"] == "R") continue;
    EXPECT_EQ(got.old_kind, old[0] == 'o' ? 'O' : 'K') << where;
    ExpectValues(got.old_values, wanted[old], where);
  }
}

TEST_F(Captures, EveryMessageIsDecodedAsItWas) {
  std::size_t messages = 0;
  for (const json& one : All()["cases"]) {
    bool in_stream = false;
    for (const json& captured : one["messages"]) {
      if (!captured.contains("data_hex")) continue;
      const std::string bytes = FromHex(captured["data_hex"]);
      const std::string where =
          fmt::format("{} {}: ", one["name"].get<std::string>(), captured["decoded"].dump());
      PgMessage message;
      const absl::Status status = DecodePgoutput(bytes, in_stream, message);
      ASSERT_TRUE(status.ok()) << where << status;
      ExpectFields(message, captured["decoded"], where);
      if (message.kind == PgKind::kStreamStart) in_stream = true;
      if (message.kind == PgKind::kStreamStop) in_stream = false;
      // Whatever is cut off is noticed, and never read over the end.
      if (bytes.size() < 400) {
        for (std::size_t size = 0; size < bytes.size(); ++size) {
          PgMessage cut;
          EXPECT_FALSE(DecodePgoutput(bytes.substr(0, size), in_stream, cut).ok()) << where << size;
        }
      }
      ++messages;
    }
  }
  EXPECT_GT(messages, 900U);
}

class NoCatalog : public PgCatalog {
 public:
  absl::StatusOr<std::vector<std::string>> PrimaryKey(std::uint32_t) override {
    return std::vector<std::string>{"id"};
  }
  absl::Status DescribeTypes(std::span<const std::uint32_t>, PgTypes&) override {
    return absl::OkStatus();
  }
};

class NoWatch : public PgChangeWatch {
 public:
  bool Wants(const PgRelation&) const override { return false; }
  void Changed(const PgRelation&, std::string_view, Lsn) override {}
  void Truncated(const PgRelation&, Lsn) override {}
  void Described(const PgRelation&) override {}
};

// The data of a case's events, with type and subject.
struct Told {
  std::string type;
  std::string subject;
  std::string key;
  json data;
};

std::vector<Told> Replay(const json& one) {
  PostgresSpec spec;
  spec.name = "s";
  PostgresEvents events = *PostgresEvents::Make(spec);
  NoCatalog catalog;
  NoWatch watch;
  TransactionStream stream({true, ::testing::TempDir()}, PgPosition(), {events, catalog, watch});
  SourceBatch batch;
  std::size_t bytes = 0;
  for (const json& captured : one["messages"]) {
    if (!captured.contains("data_hex")) continue;  // left out, it is long
    const absl::Status status = stream.Feed(FromHex(captured["data_hex"]), batch, bytes);
    EXPECT_TRUE(status.ok()) << one["name"] << status;
    while (stream.replaying()) EXPECT_TRUE(stream.Replay(batch, bytes).ok());
  }
  EXPECT_TRUE(batch.undecodable.empty()) << one["name"];
  std::vector<Told> out;
  std::string last;
  for (const Event& event : batch.events) {
    const EventView view = event.View();
    Told told;
    told.type = std::string(view.type);
    told.subject = std::string(view.Text("subject"));
    told.key = std::string(view.PartitionKey());
    told.data = json::parse(view.data, nullptr, false);
    const std::string sequence(view.Text("sequence"));
    EXPECT_LT(last, sequence) << one["name"];
    last = sequence;
    out.push_back(std::move(told));
  }
  return out;
}

bool IsWhole(const json& one) {
  if (one["message_count"] != one["messages"].size() || one["options"]["proto_version"] == "3") {
    return false;
  }
  for (const json& captured : one["messages"]) {
    if (!captured.contains("data_hex")) return false;
  }
  return true;
}

// Two decoders of one server agree on what happened. A changed key is two events of ours.
TEST_F(Captures, EventsAreWhatTestDecodingSaw) {
  int cases = 0;
  for (const json& one : All()["cases"]) {
    // test_decoding knows no publications.
    const std::string name = one["name"];
    if (!IsWhole(one) || !one.contains("test_decoding") || name.starts_with("publication_") ||
        name.starts_with("partitioned_")) {
      continue;
    }
    std::map<std::string, int> seen;
    for (const json& line : one["test_decoding"]) {
      const std::string text = line;
      for (const char* word : {"INSERT", "UPDATE", "DELETE"}) {
        if (text.starts_with("table ") &&
            text.find(std::string(": ") + word) != std::string::npos) {
          ++seen[word];
        }
      }
      if (text.find(": TRUNCATE") != std::string::npos) {
        // One line for several tables.
        const std::string tables = text.substr(0, text.find(": TRUNCATE"));
        seen["TRUNCATE"] += 1 + static_cast<int>(std::count(tables.begin(), tables.end(), ','));
      }
    }
    std::map<std::string, int> told;
    for (const Told& event : Replay(one)) {
      if (event.data.contains("key_changed_to")) continue;
      if (event.data.contains("key_changed_from")) {
        ++told["UPDATE"];
      } else if (event.type == "dev.tocsin.row.created") {
        ++told["INSERT"];
      } else if (event.type == "dev.tocsin.row.updated") {
        ++told["UPDATE"];
      } else if (event.type == "dev.tocsin.row.deleted") {
        ++told["DELETE"];
      } else if (event.type == "dev.tocsin.table.truncated") {
        ++told["TRUNCATE"];
      }
    }
    EXPECT_EQ(told, seen) << name;
    ++cases;
  }
  EXPECT_GE(cases, 30);
}

TEST_F(Captures, KeyChangeIsDeletedAndCreatedLinked) {
  const std::vector<Told> told = Replay(Case("update_key_change"));
  ASSERT_EQ(told.size(), 2U);
  EXPECT_EQ(told[0].type, "dev.tocsin.row.deleted");
  EXPECT_EQ(told[0].key, "1");
  EXPECT_EQ(told[0].data["before"], json::parse(R"x({"id":1})x"));
  EXPECT_EQ(told[0].data["after"], nullptr);
  EXPECT_EQ(told[0].data["key_changed_to"], json::parse(R"x({"id":10})x"));
  EXPECT_EQ(told[1].type, "dev.tocsin.row.created");
  EXPECT_EQ(told[1].key, "10");
  EXPECT_EQ(told[1].data["after"], json::parse(R"x({"id":10,"v":"b","n":"1.50"})x"));
  EXPECT_EQ(told[1].data["key_changed_from"], json::parse(R"x({"id":1})x"));
}

TEST_F(Captures, UnchangedToastIsTakenFromTheOldRowOrNamed) {
  const std::vector<Told> key = Replay(Case("toast_key_update"));
  ASSERT_EQ(key.size(), 3U);
  EXPECT_EQ(key.back().data["after"], json::parse(R"x({"id":2})x"));
  EXPECT_EQ(key.back().data["unavailable"], json::parse(R"x(["big"])x"));
}

TEST_F(Captures, WholeOldRowsTellWhatChanged) {
  const std::vector<Told> told = Replay(Case("replica_identity_full"));
  ASSERT_EQ(told.size(), 4U);
  EXPECT_EQ(told[1].data["before"], json::parse(R"x({"id":1,"v":"a","w":null})x"));
  EXPECT_EQ(told[1].data["after"], json::parse(R"x({"id":1,"v":"b","w":null})x"));
  EXPECT_EQ(told[1].data["changed"], json::parse(R"x(["v"])x"));
  EXPECT_EQ(told[2].data["changed"], json::parse(R"x(["w"])x"));
  EXPECT_EQ(told[3].type, "dev.tocsin.row.deleted");
  EXPECT_EQ(told[3].key, "1");
  const std::vector<Told> index = Replay(Case("replica_identity_index"));
  ASSERT_EQ(index.size(), 5U);
  EXPECT_EQ(index[1].data["before"], nullptr);
  EXPECT_EQ(index[1].data["changed"], nullptr);
  EXPECT_EQ(index[1].key, "c1");
  EXPECT_EQ(index[2].data["before"], json::parse(R"x({"code":"c1"})x"));
  EXPECT_EQ(index[4].data["before"], json::parse(R"x({"code":"c2"})x"));
}

TEST_F(Captures, MessagesAreEventsAndSurviveARollbackIfTheySaidSo) {
  const std::vector<Told> told = Replay(Case("logical_message"));
  std::vector<std::string> types;
  for (const Told& event : told) types.push_back(event.type + " " + event.subject);
  EXPECT_EQ(types, (std::vector<std::string>{
                       "dev.tocsin.postgres.message nontx", "dev.tocsin.row.created public.lm",
                       "dev.tocsin.postgres.message outbox", "dev.tocsin.postgres.message rb",
                       "dev.tocsin.row.created public.lm"}));
  EXPECT_EQ(told[2].data, json::parse(R"x({"k":1})x"));
}

TEST_F(Captures, TruncationIsAnEventForEachTable) {
  const std::vector<Told> told = Replay(Case("truncate_multi_cascade_restart"));
  ASSERT_EQ(told.size(), 6U);
  EXPECT_EQ(told[3].type, "dev.tocsin.table.truncated");
  EXPECT_EQ(told[3].subject, "public.p1");
  EXPECT_EQ(told[5].subject, "public.c1");
  EXPECT_EQ(told[5].data["cascade"], true);
  EXPECT_EQ(told[5].data["restart_identity"], true);
}

// Column by column, by name: what each type is in JSON.
TEST_F(Captures, ValuesAreExact) {
  const auto rows = [&](const std::string& name) {
    std::vector<json> out;
    for (Told& event : Replay(Case(name))) out.push_back(std::move(event.data["after"]));
    return out;
  };
  const std::vector<json> numbers = rows("numeric_edge");
  ASSERT_EQ(numbers.size(), 6U);
  EXPECT_EQ(numbers[0], json::parse(R"x({"id":1,"n":"NaN","n2":"NaN","r":"NaN","d":"NaN",
    "b":9223372036854775807,"s":32767})x"));
  EXPECT_EQ(numbers[1], json::parse(R"x({"id":2,"n":"Infinity","n2":"0.0000000000","r":"Infinity",
    "d":"-Infinity","b":-9223372036854775808,"s":-32768})x"));
  EXPECT_EQ(numbers[2]["n2"], "-0.0000000001");
  EXPECT_EQ(numbers[2]["d"], -0.0);
  EXPECT_EQ(numbers[3]["n"],
            "123456789012345678901234567890123456789012345678901234567890.123456789");
  EXPECT_EQ(numbers[3]["d"], 5e-324);
  EXPECT_EQ(numbers[4]["r"], 0.1);
  EXPECT_EQ(numbers[5]["d"], 1.7976931348623157e308);

  const std::vector<json> times = rows("time_edge");
  ASSERT_EQ(times.size(), 5U);
  EXPECT_EQ(times[0], json::parse(R"x({"id":1,"d":"infinity","t":"24:00:00","tz":"24:00:00+14",
    "ts":"infinity","tstz":"infinity","i":"1 year 2 mons 3 days 04:05:06.789"})x"));
  EXPECT_EQ(times[1]["ts"], "-infinity");
  EXPECT_EQ(times[2], json::parse(R"x({"id":3,"d":"0044-03-15 BC","t":"13:51:30.123456",
    "tz":"13:51:30.123+02:30","ts":"4713-01-01T00:00:00 BC","tstz":"4714-11-24T00:00:00Z BC",
    "i":"00:00:00"})x"));
  EXPECT_EQ(times[3]["d"], "5874897-12-31");
  EXPECT_EQ(times[3]["tstz"], "294276-12-31T23:59:59.999999Z");
  EXPECT_EQ(times[4]["tstz"], "2024-03-10T07:30:00Z");

  const std::vector<json> mixed = rows("arrays_enums_composites_domains_ranges");
  ASSERT_EQ(mixed.size(), 2U);
  EXPECT_EQ(mixed[0], json::parse(R"x({"id":1,"a":[1,null,3],"a2":[[1,2],[3,4]],
    "ta":["a","b,c","d\"e","",null,"NULL","{x}"],"m":"ok","ma":["sad","ha ppy"],"p":"(1,\"x,y\")",
    "pd":5,"r":"[1,10)","mr":"{[1,3),[5,7)}","j":{"a":2,"b":1},
    "u":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","ba":"3q2+7wA=","bi":"101","vb":"1011",
    "ip":"192.168.1.5/24","mac":"08:00:2b:01:02:03","mo":"$12.34","x":"<a>b</a>",
    "pnt":"(1.5,-2)","tsv":"'cat':2 'fat':1"
})x"));
  EXPECT_EQ(mixed[1], json::parse(R"x({"id":2,"a":[],"a2":"[0:1]={7,8}","ta":[],"m":null,"ma":[],
    "p":"(,\"\")","pd":null,"r":"empty","mr":"{}","j":null,"u":null,"ba":"","bi":"000","vb":"",
    "ip":"::1","mac":null,"mo":"-$0.01","x":null,"pnt":null,"tsv":""
})x"));

  EXPECT_EQ(rows("debezium_bytea_binmode")[0]["bytea_array"], json::parse(R"x(["AAEC","AwQF"])x"));
  EXPECT_EQ(rows("debezium_text_types")[0]["jb"], json::parse(R"x({"bar":"baz"})x"));
  EXPECT_EQ(rows("debezium_numeric_decimal_types")[0]["dvs"], "10.1111");
  EXPECT_EQ(rows("debezium_hstore_type_with_null_values")[0]["hs"],
            json::parse(R"x({"key1":"val1","key2":null})x"));
  EXPECT_EQ(rows("debezium_hstore_type_with_multiple_values")[0]["hsarr"],
            json::parse(R"x([{"key4":"val4","key5":null},{"key6":"val6"}])x"));
  const json arrays = rows("debezium_array_types")[0];
  EXPECT_EQ(arrays["bigint_array"], json::parse("[1550166368505037572]"));
  EXPECT_EQ(arrays["numeric_array"], json::parse(R"x(["1.20","3.40","5.60"])x"));
  EXPECT_EQ(arrays["citext_array"], json::parse(R"x(["four","five","six"])x"));
  EXPECT_EQ(arrays["inet_array"][0], "192.168.2.0/12");
  const json time_row = rows("debezium_date_time_types")[0];
  EXPECT_EQ(time_row["tz"], "2016-11-04T11:51:30.123456Z");
  EXPECT_EQ(time_row["ttz"], "13:51:30.123789+02");
}

TEST_F(Captures, NamesMayHoldAnything) {
  const std::vector<Told> told = Replay(Case("quoted_identifiers"));
  ASSERT_EQ(told.size(), 1U);
  EXPECT_EQ(told[0].subject, "We\"ird . S.Tä ble.1");
  EXPECT_EQ(told[0].data["after"], json::parse(R"x({"ID":1,"select":"x","ünï":"ÿ","a'b":"🎉"})x"));
  EXPECT_EQ(told[0].data["source"]["table"], "Tä ble.1");
}

TEST_F(Captures, ColumnsAreThoseOfTheirTime) {
  const std::vector<Told> told = Replay(Case("ddl_drop_rename_type_midstream"));
  ASSERT_EQ(told.size(), 4U);
  EXPECT_EQ(told[0].data["after"], json::parse(R"x({"id":1,"a":"x","b":1})x"));
  EXPECT_EQ(told[1].data["after"], json::parse(R"x({"id":2,"b":2})x"));
  EXPECT_EQ(told[2].data["after"], json::parse(R"x({"id":3,"c":3})x"));
  EXPECT_EQ(told[3].data["after"], json::parse(R"x({"id":4,"c":4000000000})x"));
  const std::vector<Told> renamed = Replay(Case("ddl_rename_table_midstream"));
  EXPECT_EQ(renamed.back().subject, "public.d3_new");
}

TEST_F(Captures, OriginIsTold) {
  const std::vector<Told> told = Replay(Case("replication_origin"));
  ASSERT_EQ(told.size(), 2U);
  EXPECT_EQ(told[0].data["source"]["origin"], "other_node");
  EXPECT_FALSE(told[1].data["source"].contains("origin"));
}

}  // namespace
}  // namespace tocsin
