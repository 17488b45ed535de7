#include "connectors/database/postgres/postgres_link.h"

#include <fmt/format.h>
#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <utility>

#include "broker/base/status.h"

namespace tocsin {
namespace {

using std::chrono::milliseconds;

// What decides the text of values (postgres_types.h), and what ends a connection that died.
constexpr const char* kSettings =
    "-c datestyle=ISO -c timezone=UTC -c intervalstyle=postgres -c bytea_output=hex "
    "-c extra_float_digits=3 -c row_security=off";

std::string OneLine(const char* text) {
  std::string line(text == nullptr ? "" : text);
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.pop_back();
  for (char& c : line) {
    if (c == '\n' || c == '\t') c = ' ';
  }
  return line.empty() ? "no reason was given" : line;
}

absl::StatusCode CodeOf(std::string_view state) {
  if (state == "42501" || state.starts_with("28")) return absl::StatusCode::kPermissionDenied;
  if (state == "3D000" || state == "42P01" || state == "42704" || state == "3F000") {
    return absl::StatusCode::kNotFound;
  }
  if (state == "42710" || state == "42P07") return absl::StatusCode::kAlreadyExists;
  // In use, out of connections, shutting down, cancelled, serialization.
  if (state == "55006" || state.starts_with("53") || state.starts_with("57") ||
      state.starts_with("40") || state.starts_with("08") || state.empty()) {
    return absl::StatusCode::kUnavailable;
  }
  return absl::StatusCode::kFailedPrecondition;
}

absl::Status StatusOf(const PGresult* result) {
  const char* state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
  const char* primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
  const char* detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
  std::string text = OneLine(primary != nullptr ? primary : PQresultErrorMessage(result));
  if (detail != nullptr) text += fmt::format(" ({})", OneLine(detail));
  return absl::Status(CodeOf(state == nullptr ? "" : state), text);
}

}  // namespace

void PgFree::operator()(pg_conn* connection) const { PQfinish(connection); }
void PgFree::operator()(pg_result* result) const { PQclear(result); }

int PgRows::size() const { return PQntuples(result_.get()); }
int PgRows::columns() const { return PQnfields(result_.get()); }
bool PgRows::IsNull(int row, int column) const {
  return PQgetisnull(result_.get(), row, column) != 0;
}
std::string_view PgRows::Text(int row, int column) const {
  return {PQgetvalue(result_.get(), row, column),
          static_cast<std::size_t>(PQgetlength(result_.get(), row, column))};
}

PgLink::~PgLink() {
  if (received_ != nullptr) PQfreemem(received_);
}

absl::StatusOr<std::unique_ptr<PgLink>> PgLink::Open(const PostgresSpec& spec, const Clock& clock,
                                                     Use use, std::function<bool()> cancelled) {
  std::unique_ptr<PgLink> link(new PgLink(spec, clock, std::move(cancelled)));
  TOCSIN_RETURN_IF_ERROR(link->Connect(spec, use));
  return link;
}

absl::Status PgLink::Connect(const PostgresSpec& spec, Use use) {
  char* error = nullptr;
  PQconninfoOption* parsed = PQconninfoParse(spec.url.c_str(), &error);
  if (error != nullptr) PQfreemem(error);
  // Its own text would show the URL, which may hold a password.
  if (parsed == nullptr) {
    return absl::InvalidArgumentError(
        "`url` is no address of a database: postgresql://user:password@host:port/database");
  }
  PQconninfoFree(parsed);
  std::array<const char*, 8> names = {
      "dbname",          "client_encoding",     "options",     "fallback_application_name",
      "keepalives_idle", "keepalives_interval", "replication", nullptr};
  std::array<const char*, 8> values = {spec.url.c_str(),
                                       "UTF8",
                                       kSettings,
                                       "tocsin",
                                       "30",
                                       "10",
                                       use == Use::kReplication ? "database" : "",
                                       nullptr};
  if (use == Use::kQueries) names[6] = values[6] = nullptr;
  connection_.reset(PQconnectStartParams(names.data(), values.data(), 1));
  if (connection_ == nullptr) return absl::UnavailableError("no memory for a connection");
  const Instant until = clock_.Monotonic() + timeout_;
  PostgresPollingStatusType next = PGRES_POLLING_WRITING;
  while (PQstatus(connection_.get()) != CONNECTION_BAD && next != PGRES_POLLING_OK &&
         next != PGRES_POLLING_FAILED) {
    TOCSIN_RETURN_IF_ERROR(Wait(next == PGRES_POLLING_WRITING, until));
    next = PQconnectPoll(connection_.get());
  }
  if (next == PGRES_POLLING_OK && PQstatus(connection_.get()) == CONNECTION_OK) {
    return absl::OkStatus();
  }
  const std::string text = OneLine(PQerrorMessage(connection_.get()));
  const auto says = [&text](const char* word) { return text.find(word) != std::string::npos; };
  // libpq keeps no SQLSTATE of a refused login.
  if (says("password") || says("no pg_hba.conf entry") || says("role \"") ||
      says("authentication failed") || says("must be superuser or replication role") ||
      says("permission denied")) {
    if (!says("starting up")) return absl::PermissionDeniedError(text);
  }
  if (says("does not exist")) return absl::NotFoundError(text);
  return absl::UnavailableError(text);
}

absl::Status PgLink::Wait(bool to_write, Instant until) {
  while (true) {
    if (cancelled_ && cancelled_()) return absl::CancelledError("cancelled");
    const auto left = std::chrono::ceil<milliseconds>(until - clock_.Monotonic()).count();
    if (left <= 0) {
      return absl::UnavailableError(
          fmt::format("the server did not answer within {} s",
                      std::chrono::duration_cast<std::chrono::seconds>(timeout_).count()));
    }
    pollfd waiting{fd(), static_cast<short>(to_write ? POLLOUT : POLLIN), 0};
    const int ready = ::poll(&waiting, 1, static_cast<int>(std::min<std::int64_t>(left, 100)));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return Gone();
  }
}

absl::Status PgLink::Gone() const {
  return absl::UnavailableError(OneLine(PQerrorMessage(connection_.get())));
}

int PgLink::fd() const { return PQsocket(connection_.get()); }
int PgLink::server_version() const { return PQserverVersion(connection_.get()); }

absl::StatusOr<PgRows> PgLink::Query(const std::string& sql, std::optional<Duration> timeout) {
  if (PQsendQuery(connection_.get(), sql.c_str()) == 0) return Gone();
  const Instant until = clock_.Monotonic() + timeout.value_or(timeout_);
  std::unique_ptr<pg_result, PgFree> last;
  while (true) {
    while (PQisBusy(connection_.get()) != 0) {
      TOCSIN_RETURN_IF_ERROR(Wait(false, until));
      if (PQconsumeInput(connection_.get()) == 0) return Gone();
    }
    std::unique_ptr<pg_result, PgFree> result(PQgetResult(connection_.get()));
    if (result == nullptr) break;
    const ExecStatusType status = PQresultStatus(result.get());
    if (status == PGRES_COPY_BOTH) {
      last = std::move(result);
      break;
    }
    // The first failure of several is the one that says why.
    if (last == nullptr || PQresultStatus(last.get()) != PGRES_FATAL_ERROR) {
      last = std::move(result);
    }
  }
  if (last == nullptr) return Gone();
  if (PQresultStatus(last.get()) == PGRES_FATAL_ERROR ||
      PQresultStatus(last.get()) == PGRES_BAD_RESPONSE) {
    return StatusOf(last.get());
  }
  return PgRows(last.release());
}

absl::Status PgLink::StartReading(const std::string& sql) {
  TOCSIN_RETURN_IF_ERROR(Query(sql).status());
  return absl::OkStatus();
}

absl::StatusOr<std::optional<std::string_view>> PgLink::Receive() {
  if (received_ != nullptr) PQfreemem(received_);
  received_ = nullptr;
  const int size = PQgetCopyData(connection_.get(), &received_, 1);
  if (size > 0) return std::string_view(received_, static_cast<std::size_t>(size));
  if (size == 0) return std::optional<std::string_view>();
  if (size == -2) return Gone();
  // The server ended it: what it says now is why.
  std::unique_ptr<pg_result, PgFree> result(PQgetResult(connection_.get()));
  if (result != nullptr && PQresultStatus(result.get()) == PGRES_FATAL_ERROR) {
    return StatusOf(result.get());
  }
  return absl::UnavailableError("the server ended the stream");
}

absl::StatusOr<bool> PgLink::Consume() {
  if (PQconsumeInput(connection_.get()) == 0) return Gone();
  return true;
}

absl::Status PgLink::Send(std::string_view text) {
  if (PQputCopyData(connection_.get(), text.data(), static_cast<int>(text.size())) != 1 ||
      PQflush(connection_.get()) < 0) {
    return Gone();
  }
  return absl::OkStatus();
}

std::string PgName(std::string_view name) {
  std::string out = "\"";
  for (const char c : name) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

std::string PgText(std::string_view text) {
  // E'': the same whatever standard_conforming_strings says.
  std::string out = "E'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += c;
    out += c;
  }
  return out + "'";
}

}  // namespace tocsin
