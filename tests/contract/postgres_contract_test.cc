// The contract of sources for a replication slot of a real PostgreSQL.

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
#include "connectors/database/postgres/postgres_position.h"
#include "connectors/database/postgres/postgres_request.h"
#include "connectors/database/postgres/postgres_source.h"
#include "tests/contract/source_contract.h"
#include "tests/contract/source_mailbox.h"
#include "tests/support/postgres_server.h"

namespace tocsin {
namespace {

class PostgresRig : public SourceRig {
 public:
  PostgresRig() {
    static int number = 0;
    database_ = fmt::format("d{}", number++);
    spec_.name = "contract";
    spec_.url = server_.Url(database_);
    spec_.tables = {"public.things"};
    spec_.slot = database_;
    spec_.snapshot = PgSnapshot::kNever;
    server_.Do("CREATE DATABASE " + database_);
    server_.Do("CREATE TABLE things (id serial PRIMARY KEY, value text)", database_);
    server_.Do(
        fmt::format("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", database_),
        database_);
    server_.Do("CREATE PUBLICATION tocsin_contract FOR TABLE things", database_);
  }
  ~PostgresRig() override {
    connector_.reset();
    WaitUntilFree();
    server_.Do(fmt::format("SELECT pg_drop_replication_slot('{}')", database_));
  }

  SourceConnector& Restart() override {
    connector_.reset();  // waits for what runs
    owner_.RunUntilIdle();
    WaitUntilFree();
    auto made = MakePostgresConnector(
        spec_, {clock_, owner_, std::make_unique<ThreadExecutor>("lane", clock_)},
        std::make_unique<ThreadExecutor>("reader", clock_));
    EXPECT_TRUE(made.ok()) << made.status();
    connector_ = *std::move(made);
    return *connector_;
  }
  void Produce(int count) override {
    server_.Do(
        fmt::format("INSERT INTO things (value) SELECT 'v' FROM generate_series(1, {})", count),
        database_);
  }
  bool RunUntil(const std::function<bool()>& finished) override {
    return owner_.RunUntil(clock_, finished);
  }
  void Do(const std::string& sql) { server_.Do(sql, database_); }
  PostgresSpec& spec() { return spec_; }  // for the next Restart()

 private:
  // The server notices a moment later that a reader is gone; the runner would try again.
  void WaitUntilFree() {
    const std::string sql =
        fmt::format("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", database_);
    for (int i = 0; i < 1000 && server_.Do(sql) == "t"; ++i) ::poll(nullptr, 0, 10);
  }

  SystemClock clock_;
  PostgresServer& server_ = PostgresServer::Shared();
  std::string database_;
  SourceMailbox owner_;
  PostgresSpec spec_;
  std::unique_ptr<SourceConnector> connector_;
};

std::unique_ptr<SourceRig> MakeRig() { return std::make_unique<PostgresRig>(); }

INSTANTIATE_TEST_SUITE_P(Postgres, SourceContract, ::testing::Values(&MakeRig));

// A batch above the journal's limit is refused for ever. A snapshot, then changes.
TEST(PostgresLargeRows, BatchesFitTheJournal) {
  PostgresRig rig;
  rig.spec().snapshot = PgSnapshot::kInitial;
  SourceConnector& connector = rig.Restart();
  const auto insert = [&rig] {
    rig.Do(
        "INSERT INTO things (value) SELECT repeat('x', n) FROM unnest(ARRAY[1000000, 3100000, "
        "3100000, 10, 1000000, 3100000]) AS n");
  };
  insert();
  std::optional<absl::Status> connected;
  connector.Connect({}, [&](absl::Status status) { connected = std::move(status); });
  ASSERT_TRUE(rig.RunUntil([&] { return connected.has_value(); }));
  ASSERT_TRUE(connected->ok()) << *connected;
  // The slot is older than the first rows: its stream has them too. The chunk may be read late
  // enough to hold the others.
  std::map<std::string, int> created;
  std::map<std::string, int> read;
  bool inserted = false;
  for (int i = 0; i < 200 && (created.size() < 12 || read.size() < 6); ++i) {
    std::optional<absl::StatusOr<SourceBatch>> polled;
    connector.Poll(std::chrono::milliseconds(50),
                   [&](absl::StatusOr<SourceBatch> batch) { polled = std::move(batch); });
    ASSERT_TRUE(rig.RunUntil([&] { return polled.has_value(); }));
    ASSERT_TRUE(polled->ok()) << polled->status();
    std::size_t bytes = 0;
    for (const Event& event : (*polled)->events) {
      bytes += event.bytes().size();
      const bool of_chunk = event.View().type == "dev.tocsin.row.read";
      ++(of_chunk ? read : created)[std::string(event.View().PartitionKey())];
    }
    EXPECT_LE(bytes, std::size_t{13} << 18) << "3.25 MiB are one event at most";
    EXPECT_TRUE((*polled)->undecodable.empty());
    if (!inserted && created.size() + read.size() >= 6) {
      insert();
      inserted = true;
    }
  }
  EXPECT_EQ(created.size(), 12U);
  EXPECT_GE(read.size(), 6U);
  for (const auto& [key, count] : created) EXPECT_EQ(count, 1) << "row " << key;
  for (const auto& [key, count] : read) EXPECT_EQ(count, 1) << "row " << key;
}

// What the broker keeps of the lane, and the rows of snapshots that it was given.
class KeptLane {
 public:
  explicit KeptLane(PostgresRig& rig) : rig_(rig) {}

  // A new connector, onto what is kept.
  absl::Status Connect() {
    connector_ = &rig_.Restart();
    std::optional<absl::Status> connected;
    connector_->Connect(state, [&](absl::Status status) { connected = std::move(status); });
    EXPECT_TRUE(rig_.RunUntil([&] { return connected.has_value(); }));
    return connected.value_or(absl::DeadlineExceededError("no answer"));
  }

  SourceBatch Poll() {
    std::optional<absl::StatusOr<SourceBatch>> polled;
    connector_->Poll(std::chrono::milliseconds(50),
                     [&](absl::StatusOr<SourceBatch> batch) { polled = std::move(batch); });
    EXPECT_TRUE(rig_.RunUntil([&] { return polled.has_value(); }));
    if (!polled || !polled->ok()) {
      ADD_FAILURE() << (polled ? polled->status() : absl::DeadlineExceededError("no answer"));
      return {};
    }
    SourceBatch batch = **std::move(polled);
    if (batch.empty()) return batch;
    state.position = batch.position;
    for (const LaneStatePut& put : batch.puts) state.entries[put.key] = put.value;
    for (const std::string& key : batch.erases) state.entries.erase(key);
    for (const Event& event : batch.events) {
      if (event.View().type != "dev.tocsin.row.read") continue;
      reads.push_back(std::string(event.View().Text("subject")) + "/" +
                      std::string(event.View().PartitionKey()));
      EXPECT_TRUE(ids.insert(std::string(event.View().id)).second) << event.View().id;
    }
    return batch;
  }

  // Polls until the snapshots of these tables are done; the rows that came since, sorted.
  std::vector<std::string> ReadUntilDone(const std::vector<std::string>& tables) {
    reads.clear();
    const auto done = [&] {
      return std::all_of(tables.begin(), tables.end(), [&](const std::string& table) {
        const auto found = state.entries.find("table " + table);
        return found != state.entries.end() && found->second == "done";
      });
    };
    for (int i = 0; i < 200 && !done(); ++i) Poll();
    EXPECT_TRUE(done());
    Poll();
    std::sort(reads.begin(), reads.end());
    return reads;
  }

  void Ask(const std::vector<std::string>& tables, const std::string& position = "") {
    for (const LaneStatePut& put : PgRequestPuts(tables, position)) {
      state.entries[put.key] = put.value;
    }
  }

  LaneState state;
  std::vector<std::string> reads;
  std::set<std::string> ids;  // of reads

 private:
  PostgresRig& rig_;
  SourceConnector* connector_ = nullptr;
};

using Rows = std::vector<std::string>;

TEST(PostgresRequest, TablesThatAreAskedForAreReadAgainWithOtherIds) {
  PostgresRig rig;
  rig.spec().snapshot = PgSnapshot::kInitial;
  rig.spec().tables = {"public.things", "public.others"};
  rig.Do("CREATE TABLE others (id int PRIMARY KEY)");
  rig.Do("INSERT INTO others VALUES (1), (2)");
  rig.Produce(3);
  const Rows others = {"public.others/1", "public.others/2"};
  const Rows things = {"public.things/1", "public.things/2", "public.things/3"};
  Rows all = others;
  all.insert(all.end(), things.begin(), things.end());
  KeptLane lane(rig);
  ASSERT_TRUE(lane.Connect().ok());
  EXPECT_EQ(lane.ReadUntilDone({"public.things", "public.others"}), all);
  lane.Ask({"public.others"});
  ASSERT_TRUE(lane.Connect().ok());
  EXPECT_EQ(lane.ReadUntilDone({"public.others"}), others);
  // Also where none is read by itself.
  rig.spec().snapshot = PgSnapshot::kNever;
  lane.Ask({"public.things"});
  ASSERT_TRUE(lane.Connect().ok());
  EXPECT_EQ(lane.ReadUntilDone({"public.things"}), things);
  // And before anything else was read, of a lane that only has the request.
  lane.state = LaneState();
  lane.Ask({"public.others"});
  ASSERT_TRUE(lane.Connect().ok());
  EXPECT_EQ(lane.ReadUntilDone({"public.others"}), others);
  EXPECT_FALSE(lane.state.entries.contains("table public.things"));
}

TEST(PostgresRequest, SnapshotThatIsUnderWayBeginsAnew) {
  PostgresRig rig;
  rig.spec().snapshot = PgSnapshot::kInitial;
  rig.spec().chunk_rows = 2;
  rig.Produce(5);
  KeptLane lane(rig);
  ASSERT_TRUE(lane.Connect().ok());
  const std::string& state = lane.state.entries["table public.things"];
  for (int i = 0; i < 200 && !state.starts_with("at ["); ++i) lane.Poll();
  ASSERT_TRUE(state.starts_with("at [")) << state;
  lane.Ask({"public.things"});
  ASSERT_TRUE(lane.Connect().ok());
  EXPECT_EQ(lane.ReadUntilDone({"public.things"}).size(), 5U);
}

// To go on silently behind a gap, or behind the next one by the leave of the last, loses changes.
TEST(PostgresRequest, GapIsPassedOnceAndWhatIsThereReadAgain) {
  PostgresRig rig;
  rig.spec().snapshot = PgSnapshot::kInitial;
  rig.Produce(1);
  KeptLane lane(rig);
  ASSERT_TRUE(lane.Connect().ok());
  EXPECT_EQ(lane.ReadUntilDone({"public.things"}), Rows{"public.things/1"});
  const auto lose_a_row = [&rig] {
    rig.Restart();  // nobody reads the slot
    rig.Produce(1);
    rig.Do(fmt::format("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())",
                       rig.spec().slot));
  };
  const auto stands = [&lane] {
    const absl::Status status = lane.Connect();
    return absl::IsFailedPrecondition(status) &&
           status.message().find("sources snapshot contract --after-gap") != std::string::npos;
  };
  lose_a_row();
  EXPECT_TRUE(stands());
  lane.Ask({"public.things"}, lane.state.position.value + " of another time");
  EXPECT_TRUE(stands());
  lane.Ask({"public.things"}, lane.state.position.value);
  const Lsn before = DecodePgPosition(lane.state.position.value)->done;
  ASSERT_TRUE(lane.Connect().ok());
  // The first that is durable has the new place and no leave any more.
  const SourceBatch first = lane.Poll();
  EXPECT_EQ(std::count(first.erases.begin(), first.erases.end(), kPgAfterGapKey), 1);
  EXPECT_TRUE(first.events.empty());
  EXPECT_GT(DecodePgPosition(lane.state.position.value)->done, before);
  EXPECT_EQ(lane.ReadUntilDone({"public.things"}), (Rows{"public.things/1", "public.things/2"}));
  lose_a_row();
  EXPECT_TRUE(stands());
}

TEST(PostgresRequest, LeaveForNoGapIsForgotten) {
  PostgresRig rig;
  rig.Produce(1);
  KeptLane lane(rig);
  ASSERT_TRUE(lane.Connect().ok());
  for (int i = 0; i < 200 && lane.state.position.value.empty(); ++i) lane.Poll();
  lane.Ask({}, lane.state.position.value);
  ASSERT_TRUE(lane.Connect().ok());
  lane.Poll();
  EXPECT_FALSE(lane.state.entries.contains(std::string(kPgAfterGapKey)));
}

}  // namespace
}  // namespace tocsin
