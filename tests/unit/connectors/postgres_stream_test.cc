// TransactionStream, PgSpill, PgTypes, PgPosition and PgSnapshotRequest, without a server.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "connectors/database/postgres/postgres_request.h"
#include "connectors/database/postgres/transaction_stream.h"

namespace tocsin {
namespace {

// Messages as the server writes them.
class Wire {
 public:
  explicit Wire(char kind) { bytes_.push_back(kind); }
  Wire& U8(std::uint64_t n) { return Number(n, 1); }
  Wire& U16(std::uint64_t n) { return Number(n, 2); }
  Wire& U32(std::uint64_t n) { return Number(n, 4); }
  Wire& U64(std::uint64_t n) { return Number(n, 8); }
  Wire& Text(std::string_view text) {
    bytes_ += text;
    bytes_.push_back('\0');
    return *this;
  }
  Wire& Row(char letter, const std::vector<std::string>& values) {
    bytes_.push_back(letter);
    U16(values.size());
    for (const std::string& value : values) {
      if (value == "<null>" || value == "<toast>") {
        bytes_.push_back(value == "<null>" ? 'n' : 'u');
        continue;
      }
      bytes_.push_back('t');
      U32(value.size());
      bytes_ += value;
    }
    return *this;
  }
  operator std::string() const { return bytes_; }  // NOLINT: what it is for

 private:
  Wire& Number(std::uint64_t n, int size) {
    for (int i = size - 1; i >= 0; --i) bytes_.push_back(static_cast<char>(n >> (8 * i)));
    return *this;
  }
  std::string bytes_;
};

std::string Begin(Lsn commit, std::uint32_t xid) { return Wire('B').U64(commit).U64(1).U32(xid); }
std::string Commit(Lsn commit, Lsn end) { return Wire('C').U8(0).U64(commit).U64(end).U64(1); }
std::string Relation(char identity, std::uint32_t stream_xid = 0, std::string_view table = "t") {
  Wire wire('R');
  if (stream_xid != 0) wire.U32(stream_xid);
  wire.U32(7).Text("public").Text(table).U8(static_cast<unsigned char>(identity)).U16(2);
  wire.U8(1).Text("id").U32(23).U32(0xffffffff);
  wire.U8(identity == 'f' ? 1 : 0).Text("v").U32(25).U32(0xffffffff);
  return wire;
}
std::string Insert(const std::string& id, const std::string& v, std::uint32_t stream_xid = 0) {
  Wire wire('I');
  if (stream_xid != 0) wire.U32(stream_xid);
  return wire.U32(7).Row('N', {id, v});
}
std::string StreamStart(std::uint32_t xid, bool first) { return Wire('S').U32(xid).U8(first); }
std::string StreamStop() { return Wire('E'); }
std::string StreamAbort(std::uint32_t xid, std::uint32_t sub) {
  return Wire('A').U32(xid).U32(sub);
}
std::string StreamCommit(std::uint32_t xid, Lsn commit, Lsn end) {
  return Wire('c').U32(xid).U8(0).U64(commit).U64(end).U64(1);
}

class FakeCatalog : public PgCatalog {
 public:
  absl::StatusOr<std::vector<std::string>> PrimaryKey(std::uint32_t) override {
    if (!up) return absl::UnavailableError("away");
    return key;
  }
  absl::Status DescribeTypes(std::span<const std::uint32_t>, PgTypes&) override {
    return absl::OkStatus();
  }
  bool up = true;
  std::vector<std::string> key = {"id"};
};

class FakeWatch : public PgChangeWatch {
 public:
  bool Wants(const PgRelation&) const override { return true; }
  void Changed(const PgRelation&, std::string_view key, Lsn commit) override {
    seen.push_back(std::string(key) + "@" + FormatLsn(commit));
  }
  void Truncated(const PgRelation&, Lsn) override {}
  void Described(const PgRelation&) override {}
  std::vector<std::string> seen;
};

class StreamTest : public ::testing::Test {
 protected:
  StreamTest() { spec_.name = "s"; }

  void Open(const PgPosition& start = {}) {
    events_.emplace(*PostgresEvents::Make(spec_));
    stream_.emplace(TransactionStream::Options{spec_.messages, ::testing::TempDir()}, start,
                    TransactionStream::Ports{*events_, catalog_, watch_});
  }
  // Nothing is held back: `bytes_` is of one message.
  absl::Status FeedOne(const std::string& message) {
    bytes_ = 0;
    const absl::Status status = stream_->Feed(message, batch_, bytes_);
    while (status.ok() && stream_->replaying()) {
      bytes_ = 0;
      EXPECT_TRUE(stream_->Replay(batch_, bytes_).ok());
    }
    return status;
  }
  void Feed(const std::vector<std::string>& messages) {
    for (const std::string& message : messages) {
      const absl::Status status = FeedOne(message);
      ASSERT_TRUE(status.ok()) << status;
    }
  }
  std::vector<std::string> Ids() const {
    std::vector<std::string> out;
    for (const Event& event : batch_.events) out.emplace_back(event.View().id);
    return out;
  }
  std::vector<std::string> Keys() const {
    std::vector<std::string> out;
    for (const Event& event : batch_.events) out.emplace_back(event.View().PartitionKey());
    return out;
  }
  std::string Data(std::size_t i) const { return std::string(batch_.events[i].View().data); }

  PostgresSpec spec_;
  FakeCatalog catalog_;
  FakeWatch watch_;
  std::optional<PostgresEvents> events_;
  std::optional<TransactionStream> stream_;
  SourceBatch batch_;
  std::size_t bytes_ = 0;
};

using Words = std::vector<std::string>;

TEST_F(StreamTest, ChangesAtOrBelowThePositionArePassedOver) {
  const Words all = {Begin(0x100, 1),  Relation('d'),    Insert("1", "a"),
                     Insert("2", "b"), Insert("3", "c"), Commit(0x100, 0x120),
                     Begin(0x200, 2),  Insert("4", "d"), Commit(0x200, 0x220)};
  Open();
  Feed(all);
  EXPECT_EQ(Ids(), (Words{"0/100/0", "0/100/1", "0/100/2", "0/200/0"}));
  EXPECT_EQ(stream_->position().done, 0x220U);
  batch_ = SourceBatch();
  PgPosition middle;
  middle.commit = 0x100;
  middle.index = 1;
  middle.done = 0x80;
  Open(middle);
  Feed(all);
  EXPECT_EQ(Ids(), (Words{"0/100/2", "0/200/0"}));
}

// Confirming the commit of a transaction whose rows are not all durable would lose them.
TEST_F(StreamTest, DoneMovesOnlyBehindWholeTransactions) {
  Open();
  Feed({Begin(0x100, 1), Relation('d'), Insert("1", "a")});
  stream_->Passed(0x500);
  EXPECT_EQ(stream_->position().done, 0U);
  EXPECT_EQ(stream_->position().commit, 0x100U);
  Feed({Commit(0x100, 0x120)});
  EXPECT_EQ(stream_->position().done, 0x120U);
  stream_->Passed(0x500);
  EXPECT_EQ(stream_->position().done, 0x500U);
  EXPECT_EQ(stream_->position().commit, 0x100U);
}

TEST_F(StreamTest, StreamedTransactionsComeWhenTheyCommitWithoutWhatWasUndone) {
  Open();
  Feed({StreamStart(10, true), Relation('d', 10), Insert("1", "a", 10), Insert("2", "sub", 11),
        StreamStop()});
  EXPECT_TRUE(Ids().empty());
  EXPECT_GT(stream_->spilled_bytes(), 0U);
  // Another one commits in between.
  Feed({Begin(0x100, 5), Relation('d'), Insert("9", "x"), Commit(0x100, 0x120),
        StreamStart(10, false), Insert("3", "b", 10), StreamStop(), StreamAbort(10, 11),
        StreamCommit(10, 0x200, 0x220)});
  EXPECT_EQ(Ids(), (Words{"0/100/0", "0/200/0", "0/200/1"}));
  EXPECT_EQ(Keys(), (Words{"9", "1", "3"}));
  EXPECT_EQ(stream_->position().done, 0x220U);
  EXPECT_EQ(stream_->spilled_bytes(), 0U);
}

TEST_F(StreamTest, StreamedTransactionThatIsUndoneLeavesNothing) {
  Open();
  Feed({StreamStart(10, true), Relation('d', 10), Insert("1", "a", 10), StreamStop(),
        StreamAbort(10, 10)});
  EXPECT_EQ(stream_->spilled_bytes(), 0U);
  Feed({Begin(0x100, 5), Relation('d'), Insert("9", "x"), Commit(0x100, 0x120)});
  EXPECT_EQ(Keys(), (Words{"9"}));
}

// The server takes a relation for sent, though it came with a subtransaction that was undone.
TEST_F(StreamTest, RelationOfAnUndoneSubtransactionStays) {
  Open();
  Feed({StreamStart(10, true), Relation('d', 11), Insert("1", "sub", 11), Insert("2", "a", 10),
        StreamStop(), StreamAbort(10, 11), StreamCommit(10, 0x200, 0x220)});
  EXPECT_EQ(Keys(), (Words{"2"}));
}

TEST_F(StreamTest, LargeTransactionsAreKeptInAFile) {
  Open();
  Feed({StreamStart(10, true), Relation('d', 10)});
  const std::string wide(1000, 'x');
  for (int i = 0; i < 3000; ++i) Feed({Insert(std::to_string(i), wide, 10)});
  Feed({StreamStop()});
  EXPECT_GT(stream_->spilled_bytes(), 3'000'000U);
  Feed({StreamCommit(10, 0x200, 0x220)});
  ASSERT_EQ(batch_.events.size(), 3000U);
  EXPECT_EQ(Keys()[2999], "2999");
}

TEST_F(StreamTest, KeyChangeCountsTwiceWhetherItWasReadOrNot) {
  const std::string move = Wire('U').U32(7).Row('K', {"1", "<null>"}).Row('N', {"2", "v"});
  const Words all = {Begin(0x100, 1), Relation('d'), move, Insert("3", "c"), Commit(0x100, 0x120)};
  Open();
  Feed(all);
  EXPECT_EQ(Ids(), (Words{"0/100/0", "0/100/1", "0/100/2"}));
  EXPECT_EQ(Keys(), (Words{"1", "2", "3"}));
  EXPECT_EQ(watch_.seen, (Words{"1@0/100", "2@0/100", "3@0/100"}));
  batch_ = SourceBatch();
  PgPosition behind;
  behind.commit = 0x100;
  behind.index = 1;
  Open(behind);
  Feed(all);
  EXPECT_EQ(Ids(), (Words{"0/100/2"}));
}

// A batch above the journal's limit is refused for ever.
TEST_F(StreamTest, LargeChangesAreHeldBackForTheNextBatch) {
  const std::string large((std::size_t{3} << 20) - 4096, 'x');
  const Words all = {
      Begin(0x100, 1),  Relation('f'),
      Insert("0", "a"), Wire('U').U32(7).Row('O', {"1", large}).Row('N', {"2", large}),
      Insert("3", "c"), Commit(0x100, 0x120)};
  PgPosition durable;
  Words ids;
  // Each batch by another life, from the position of the one before.
  for (const std::uint64_t index : {1u, 3u}) {
    Open(durable);
    batch_ = SourceBatch();
    bytes_ = 0;
    for (const std::string& message : all) {
      ASSERT_TRUE(stream_->Feed(message, batch_, bytes_).ok());
      if (stream_->holding()) break;
    }
    EXPECT_LE(bytes_, TransactionStream::kGrownMax);
    for (const std::string& id : Ids()) ids.push_back(id);
    durable = stream_->position();
    EXPECT_EQ(durable.commit, 0x100U);
    EXPECT_EQ(durable.index, index) << "what is held back was not given";
  }
  EXPECT_EQ(ids, (Words{"0/100/0", "0/100/1", "0/100/2", "0/100/3"}));
  // And within one life.
  Open();
  batch_ = SourceBatch();
  bytes_ = 0;
  ids.clear();
  std::size_t batches = 0;
  for (const std::string& message : all) {
    ASSERT_TRUE(stream_->Feed(message, batch_, bytes_).ok());
    while (stream_->holding()) {
      for (const std::string& id : Ids()) ids.push_back(id);
      EXPECT_LE(bytes_, TransactionStream::kGrownMax);
      ++batches;
      batch_ = SourceBatch();
      bytes_ = 0;
      stream_->GiveHeld(batch_, bytes_);
    }
  }
  for (const std::string& id : Ids()) ids.push_back(id);
  EXPECT_EQ(ids, (Words{"0/100/0", "0/100/1", "0/100/2", "0/100/3"}));
  EXPECT_EQ(batches, 1U);
  EXPECT_EQ(stream_->position().index, 3U);
  EXPECT_EQ(stream_->position().done, 0x120U);
}

TEST_F(StreamTest, ColumnsAndTablesAreSelected) {
  spec_.tables = {"public.t"};
  spec_.exclude = {{"public.t", {"v"}}};
  Open();
  Feed({Begin(0x100, 1), Relation('d'), Insert("1", "secret"), Commit(0x100, 0x120),
        Begin(0x200, 2), Relation('d', 0, "other"), Insert("2", "x"), Commit(0x200, 0x220)});
  ASSERT_EQ(batch_.events.size(), 1U);
  EXPECT_EQ(Data(0).find("secret"), std::string::npos);
  EXPECT_NE(Data(0).find("\"after\":{\"id\":1}"), std::string::npos) << Data(0);
  EXPECT_EQ(stream_->position().commit, 0x200U);
}

TEST_F(StreamTest, KeyOfAWholeOldRowIsThePrimaryKey) {
  Open();
  Feed({Begin(0x100, 1), Relation('f'),
        Wire('U').U32(7).Row('O', {"1", "a"}).Row('N', {"1", "<toast>"}),
        Wire('D').U32(7).Row('O', {"1", "a"}), Commit(0x100, 0x120)});
  ASSERT_EQ(batch_.events.size(), 2U);
  EXPECT_NE(Data(0).find("\"after\":{\"id\":1,\"v\":\"a\"},\"changed\":[]"), std::string::npos)
      << Data(0);
  EXPECT_EQ(Keys(), (Words{"1", "1"}));
  // Without one the table is the key: its rows keep their order.
  catalog_.key.clear();
  batch_ = SourceBatch();
  Open();
  Feed({Begin(0x100, 1), Relation('f'), Insert("1", "a"), Commit(0x100, 0x120)});
  EXPECT_EQ(Keys(), (Words{"public.t"}));
}

TEST_F(StreamTest, WhatCannotBeDecodedIsALetterAndTheRestGoesOn) {
  Open();
  std::string cut = Insert("1", "a");
  cut.pop_back();
  Feed({Begin(0x100, 1), Relation('d'), cut, Wire('I').U32(99).Row('N', {"1"}),
        Wire('I').U32(7).Row('N', {"1"}), Insert("2", "b"), Commit(0x100, 0x120)});
  ASSERT_EQ(batch_.undecodable.size(), 3U);
  EXPECT_EQ(batch_.undecodable[0].bytes, cut);
  EXPECT_NE(batch_.undecodable[1].reason.find("not described"), std::string::npos);
  EXPECT_NE(batch_.undecodable[2].reason.find("other columns"), std::string::npos);
  EXPECT_EQ(Ids(), (Words{"0/100/3"}));
  // What frames a transaction is no row: to go on would be to guess.
  EXPECT_TRUE(absl::IsFailedPrecondition(FeedOne(std::string("B\0\0", 3))));
  EXPECT_TRUE(absl::IsFailedPrecondition(FeedOne(std::string("?"))));
  EXPECT_TRUE(absl::IsFailedPrecondition(FeedOne(Insert("1", "a"))));
}

TEST_F(StreamTest, CatalogThatIsAwayIsTriedAgain) {
  Open();
  catalog_.up = false;
  Feed({Begin(0x100, 1)});
  EXPECT_TRUE(absl::IsUnavailable(FeedOne(Relation('f'))));
}

TEST_F(StreamTest, MessageOutsideATransactionHasItsOwnPlaceAndComesOnce) {
  std::string whole = Wire('M').U8(0).U64(0x90).Text("p").U32(2);
  whole += "{}";
  Open();
  Feed({whole});
  EXPECT_EQ(Ids(), (Words{"0/8F/0"}));
  EXPECT_EQ(stream_->position().done, 0U);
  const PgPosition behind = stream_->position();
  batch_ = SourceBatch();
  Open(behind);
  Feed({whole});
  EXPECT_TRUE(Ids().empty());
  // A transaction whose commit begins where the message ends is another place.
  Feed({Begin(0x90, 1), Relation('d'), Insert("1", "a"), Commit(0x90, 0xb0)});
  EXPECT_EQ(Ids(), (Words{"0/90/0"}));
  batch_ = SourceBatch();
  spec_.messages = false;
  Open();
  Feed({whole});
  EXPECT_TRUE(Ids().empty());
}

TEST(PgSpillTest, FolderThatIsNotThereIsNamed) {
  PgSpill spill("/nowhere/at/all");
  EXPECT_TRUE(spill.Append(1, "small").ok());
  const absl::Status status = spill.Append(1, std::string(PgSpill::kMemoryMax, 'x'));
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_NE(std::string(status.message()).find("/nowhere/at/all"), std::string::npos);
}

TEST(PgSpillTest, RecordsComeBackInOrderAcrossMemoryAndFile) {
  PgSpill spill(::testing::TempDir());
  std::vector<std::string> records;
  for (std::size_t i = 0; i < 400; ++i) records.push_back(std::string((i * 977) % 5000, 'a'));
  records.push_back(std::string(3 * PgSpill::kMemoryMax, 'b'));
  records.push_back("");
  for (std::size_t i = 0; i < records.size(); ++i) {
    ASSERT_TRUE(spill.Append(static_cast<std::uint32_t>(i), records[i]).ok());
  }
  EXPECT_TRUE(spill.in_file());
  std::uint32_t xid = 0;
  std::string record;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const auto there = spill.Next(xid, record);
    ASSERT_TRUE(there.ok() && *there) << i;
    EXPECT_EQ(xid, i);
    EXPECT_EQ(record, records[i]);
  }
  EXPECT_FALSE(*spill.Next(xid, record));
}

std::string Json(const PgType& type, std::string_view text) {
  std::string out;
  AppendPgValue(out, type, text);
  return out;
}

TEST(PgTypesTest, WhatIsNotInTheFormOfItsTypeStaysText) {
  EXPECT_EQ(Json({PgShape::kInteger}, "007"), "\"007\"");
  EXPECT_EQ(Json({PgShape::kInteger}, "-12"), "-12");
  EXPECT_EQ(Json({PgShape::kInteger}, ""), "\"\"");
  EXPECT_EQ(Json({PgShape::kFloat}, "Infinity"), "\"Infinity\"");
  EXPECT_EQ(Json({PgShape::kFloat}, "1e-45"), "1e-45");
  EXPECT_EQ(Json({PgShape::kBoolean}, "x"), "\"x\"");
  EXPECT_EQ(Json({PgShape::kBytes}, "\\x0"), "\"\\\\x0\"");
  EXPECT_EQ(Json({PgShape::kJson}, "{\"a\": 1, \"a\": 2}"), R"("{\"a\": 1, \"a\": 2}")");
  EXPECT_EQ(Json({PgShape::kJson}, "1e999"), "\"1e999\"");
  EXPECT_EQ(Json({PgShape::kHstore}, "\"a\"=>"), R"("\"a\"=>")");
  EXPECT_EQ(Json({PgShape::kHstore}, R"("a\"b"=>"c\\d")"), R"({"a\"b":"c\\d"})");
  EXPECT_EQ(Json({PgShape::kTimestampZone}, "2024-01-01 00:00:00+02"),
            "\"2024-01-01 00:00:00+02\"");
  EXPECT_EQ(Json({PgShape::kText}, "\xff"), R"({"base64":"/w=="})");
}

TEST(PgTypesTest, ArraysAreReadWholeOrStayText) {
  const PgType numbers{PgShape::kInteger, true};
  const PgType texts{PgShape::kText, true};
  EXPECT_EQ(Json(numbers, "{}"), "[]");
  EXPECT_EQ(Json(numbers, "{{1,NULL},{-3,4}}"), "[[1,null],[-3,4]]");
  EXPECT_EQ(Json(texts, R"({"NULL",NULL,"a\\b\"c",""})"), R"(["NULL",null,"a\\b\"c",""])");
  EXPECT_EQ(Json({PgShape::kText, true, ';'}, "{(1,1),(0,0);(2,2),(1,1)}"),
            R"x(["(1,1),(0,0)","(2,2),(1,1)"])x");
  for (const char* broken : {"{1", "{1,}", "{1}}", "1", "", "{\"a}", "{{{{{{{1}}}}}}}", "{a\"b}"}) {
    EXPECT_EQ(Json(texts, broken).front(), '"') << broken;
  }
}

TEST(PgTypesTest, DomainsAndArraysOfOwnTypesAreLearnt) {
  PgTypes types;
  types.Learn(20000, "", "int4");
  types.Learn(20001, "public", "_mood");
  types.Learn(20002, "ext", "hstore");
  EXPECT_EQ(types.Find(20000), (PgType{PgShape::kInteger}));
  EXPECT_EQ(types.Find(20001), (PgType{PgShape::kText, true}));
  EXPECT_EQ(types.Find(20002), (PgType{PgShape::kHstore}));
  EXPECT_EQ(types.Find(20003), PgType());
  EXPECT_EQ(types.Find(1020), (PgType{PgShape::kText, true, ';'}));
}

PgPosition Place() {
  return {.system = "7",
          .timeline = 3,
          .slot = "s",
          .database = "a b",
          .commit = 0x1'0000'0100,
          .index = 4,
          .done = 0x200};
}

TEST(PgPositionTest, ComesBackAsItWas) {
  EXPECT_EQ(DecodePgPosition(EncodePgPosition(Place())), Place());
  for (const char* broken :
       {"", "pg1", "pg1 7 3 s YQ== 0/0 0", "stream 1 2 3", "pg1 7 x s YQ== 0/1 0 0/2",
        "pg1 7 3 s YQ== 01 0 0/2", "pg1 7 3 s !! 0/1 0 0/2"}) {
    EXPECT_EQ(DecodePgPosition(broken), std::nullopt) << broken;
  }
}

// To go on silently from somewhere is the worst that a source can do.
TEST(PgPositionTest, WhatDoesNotFitIsSaidWithThePlace) {
  const PgServerFacts server{.system = "7", .timeline = 3, .database = "a b", .end = 0x900};
  PgSlotFacts slot;
  slot.there = true;
  slot.confirmed = 0x200;
  using Kind = PgVerdictKind;
  EXPECT_EQ(JudgePgPosition(Place(), server, slot, 0).kind, Kind::kGoesOn);
  slot.confirmed = 0x100;  // what was confirmed last did not arrive
  EXPECT_EQ(JudgePgPosition(Place(), server, slot, 0).kind, Kind::kGoesOn);
  const auto judge = [&](auto change) {
    PgServerFacts other = server;
    PgSlotFacts moved = slot;
    change(other, moved);
    return JudgePgPosition(Place(), other, moved, 0);
  };
  const auto ahead = judge([](auto&, auto& s) { s.confirmed = 0x300; });
  EXPECT_EQ(ahead.kind, Kind::kGap);
  EXPECT_EQ(ahead.since, 0x200U);
  EXPECT_NE(ahead.text.find("since 0/200"), std::string::npos) << ahead.text;
  EXPECT_EQ(judge([](auto&, auto& s) { s.there = false; }).kind, Kind::kGap);
  EXPECT_EQ(std::string(judge([](auto&, auto& s) { s.wal_status = "lost"; }).code), "T0220");
  EXPECT_EQ(judge([](auto& f, auto&) { f.end = 0x150; }).kind, Kind::kGap);
  EXPECT_EQ(judge([](auto& f, auto&) { f.timeline = 4; }).kind, Kind::kGap);
  // It had written on before it was seen again: its end says nothing, the slot does.
  slot.confirmed = slot.restart = 0x180;
  EXPECT_EQ(JudgePgPosition(Place(), server, slot, 0x180).kind, Kind::kGoesOn);
  const PgVerdict older = JudgePgPosition(Place(), server, slot, 0x190);
  EXPECT_EQ(older.kind, Kind::kGap);
  EXPECT_EQ(older.since, 0x180U);
  EXPECT_EQ(PgRestartBefore({{std::string(kPgRestartKey), "1/90"}}), 0x1'0000'0090U);
  EXPECT_EQ(PgRestartBefore({{"heartbeat", "1/90"}}), 0U);
  EXPECT_EQ(judge([](auto& f, auto&) { f.system = "8"; }).kind, Kind::kAnother);
  EXPECT_EQ(judge([](auto& f, auto&) { f.database = "c"; }).kind, Kind::kAnother);
}

TEST(PgRequestTest, StateOfATableComesBackAsItWas) {
  std::vector<PgTableState> states(5);
  states[0].done = true;
  states[1].after = {"7", "a \"b\"\n"};
  states[2].asked = true;
  states[3].asked = true;
  states[3].after = {"x"};
  for (const PgTableState& state : states) {
    EXPECT_EQ(DecodePgTableState(EncodePgTableState(state)), state) << EncodePgTableState(state);
  }
  // What the state of running brokers holds.
  EXPECT_EQ(EncodePgTableState(states[0]), "done");
  EXPECT_EQ(EncodePgTableState(states[1]), R"(at ["7","a \"b\"\n"])");
  EXPECT_EQ(EncodePgTableState(states[2]), "again []");
  for (const char* broken : {"", "at", "at [", "at {}", "again [1", "later [\"1\"]"}) {
    EXPECT_TRUE(DecodePgTableState(broken).after.empty()) << broken;
    EXPECT_FALSE(DecodePgTableState(broken).done) << broken;
  }
}

LaneState After(const std::vector<LaneStatePut>& puts, std::string position) {
  LaneState state;
  state.position.value = std::move(position);
  for (const LaneStatePut& put : puts) state.entries[put.key] = put.value;
  return state;
}

// The danger: a leave that was given for one gap is taken for the next.
TEST(PgRequestTest, LeaveToPassAGapHoldsForOnePositionAlone) {
  const std::string here = EncodePgPosition(Place());
  PgPosition later = Place();
  later.done += 8;
  EXPECT_TRUE(MayPassPgGap(After(PgRequestPuts({"a.b"}, here), here)));
  EXPECT_FALSE(MayPassPgGap(After(PgRequestPuts({"a.b"}, here), EncodePgPosition(later))));
  EXPECT_FALSE(MayPassPgGap(After(PgRequestPuts({"a.b"}, ""), here)));
  EXPECT_FALSE(MayPassPgGap(After(PgRequestPuts({"a.b"}, ""), "")));
  EXPECT_FALSE(MayPassPgGap(After(PgRequestPuts({"a.b"}, here), "")));
}

TEST(PgRequestTest, OnlyRequestsThatAreStillWholeOutliveAPosition) {
  LaneState state = After(PgRequestPuts({"a.b", "a.c"}, "p"), "");
  state.entries["table a.d"] = "done";
  state.entries["table a.e"] = R"(at ["1"])";
  state.entries["table a.f"] = R"(again ["1"])";
  const std::map<std::string, std::string> asked = AskedPgTables(state);
  ASSERT_EQ(asked.size(), 2U);
  EXPECT_TRUE(asked.contains("table a.b"));
  EXPECT_TRUE(asked.contains("table a.c"));
}

TEST(PgRequestTest, WhatDoesNotFitTheSourceIsRefusedWithWhatToDo) {
  PostgresSpec spec;
  spec.name = "shop";
  spec.tables = {"public.orders", "billing.*"};
  using Code = absl::StatusCode;
  struct Case {
    PgSnapshotRequest request;
    Code code;
    std::string_view says;
  };
  const std::vector<Case> cases = {
      {{{}, false}, Code::kOk, ""},
      {{{}, true}, Code::kOk, ""},
      {{{"public.orders", "billing.any"}, false}, Code::kOk, ""},
      {{{"public.orders"}, true}, Code::kInvalidArgument, "every table"},
      {{{"orders"}, false}, Code::kInvalidArgument, "schema.table"},
      {{{"billing.*"}, false}, Code::kInvalidArgument, "schema.table"},
      {{{".orders"}, false}, Code::kInvalidArgument, "schema.table"},
      {{{"public."}, false}, Code::kInvalidArgument, "schema.table"},
      {{{"public.orders", "public.other"}, false}, Code::kNotFound, "public.orders, billing.*"}};
  for (const Case& one : cases) {
    const absl::Status status = CheckPgSnapshotRequest(spec, one.request);
    EXPECT_EQ(status.code(), one.code) << status;
    EXPECT_NE(status.message().find(std::string(one.says)), std::string::npos) << status;
  }
  spec.snapshot = PgSnapshot::kNever;
  EXPECT_TRUE(CheckPgSnapshotRequest(spec, {}).ok());
  spec.snapshot = PgSnapshot::kOnly;
  const absl::Status only = CheckPgSnapshotRequest(spec, {});
  EXPECT_EQ(only.code(), Code::kFailedPrecondition);
  EXPECT_NE(only.message().find("sources forget shop"), std::string::npos) << only;
}

TEST(PostgresSpecTest, TablesAreMatchedAsTheyAreNamed) {
  EXPECT_TRUE(IsWantedTable({}, "a", "b"));
  EXPECT_TRUE(IsWantedTable({"a.b"}, "a", "b"));
  EXPECT_TRUE(IsWantedTable({"a.*"}, "a", "b"));
  EXPECT_FALSE(IsWantedTable({"ab.*"}, "a", "b"));
  EXPECT_FALSE(IsWantedTable({"a.b"}, "a", "bc"));
  PostgresSpec spec;
  spec.name = "My-Shop";
  EXPECT_EQ(spec.Slot(), "tocsin_my_shop");
}

}  // namespace
}  // namespace tocsin
