// The contract of sources for a replication slot of a real PostgreSQL.

#include <fmt/format.h>
#include <poll.h>

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "broker/base/system_clock.h"
#include "broker/base/thread_executor.h"
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

}  // namespace
}  // namespace tocsin
