// PgLink: one connection to a PostgreSQL server, for queries or for reading a slot.
//
// Threading: one thread. Every wait is bounded by the spec's timeout or by the caller, and ends
// early when `cancelled` gives true; it is asked ten times a second.
// Texts of errors never show the URL.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "connectors/database/postgres/lsn.h"
#include "connectors/database/postgres/postgres_spec.h"

struct pg_conn;
struct pg_result;

namespace tocsin {

struct PgFree {
  void operator()(pg_conn* connection) const;
  void operator()(pg_result* result) const;
};

// What a query gave; texts live as long as it.
class PgRows {
 public:
  explicit PgRows(pg_result* result) : result_(result) {}

  int size() const;
  int columns() const;
  bool IsNull(int row, int column) const;
  std::string_view Text(int row, int column) const;  // empty for NULL

 private:
  std::unique_ptr<pg_result, PgFree> result_;
};

class PgLink {
 public:
  enum class Use : std::uint8_t { kQueries, kReplication };

  //   kUnavailable       no connection, or the server is not ready
  //   kPermissionDenied  the login was refused
  //   kNotFound          no such database
  //   kInvalidArgument   the URL is not one
  static absl::StatusOr<std::unique_ptr<PgLink>> Open(const PostgresSpec& spec, const Clock& clock,
                                                      Use use, std::function<bool()> cancelled);

  // One statement; its rows. Waits for `timeout`, the spec's if not given.
  //   kPermissionDenied, kNotFound, kAlreadyExists, kUnavailable; else kFailedPrecondition
  absl::StatusOr<PgRows> Query(const std::string& sql,
                               std::optional<Duration> timeout = std::nullopt);

  // START_REPLICATION; from then on Receive() and Send() alone.
  absl::Status StartReading(const std::string& sql);

  // What came already; nullopt: nothing whole. The text lives until the next call.
  //   kUnavailable         the connection is gone
  //   kFailedPrecondition  the server ended it, with its reason
  absl::StatusOr<std::optional<std::string_view>> Receive();
  // Reads what the socket has; true: something came.
  absl::StatusOr<bool> Consume();
  absl::Status Send(std::string_view text);

  int fd() const;
  int server_version() const;  // 150020

 private:
  PgLink(const PostgresSpec& spec, const Clock& clock, std::function<bool()> cancelled)
      : timeout_(spec.timeout), clock_(clock), cancelled_(std::move(cancelled)) {}
  absl::Status Connect(const PostgresSpec& spec, Use use);
  // Until the socket can be read (or written), or it is over.
  absl::Status Wait(bool to_write, Instant until);
  absl::Status Gone() const;

  const Duration timeout_;
  const Clock& clock_;
  const std::function<bool()> cancelled_;
  std::unique_ptr<pg_conn, PgFree> connection_;
  char* received_ = nullptr;

 public:
  ~PgLink();
  PgLink(const PgLink&) = delete;
  PgLink& operator=(const PgLink&) = delete;
};

// A name as "name", a text as 'text'; for statements.
std::string PgName(std::string_view name);
std::string PgText(std::string_view text);

}  // namespace tocsin
