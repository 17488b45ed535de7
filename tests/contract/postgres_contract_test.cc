// The contract of sources for a replication slot of a real PostgreSQL.

#include <fmt/format.h>
#include <poll.h>

#include <memory>
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

}  // namespace
}  // namespace tocsin
