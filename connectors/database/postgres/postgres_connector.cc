#include "connectors/database/postgres/postgres_connector.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <limits>
#include <map>
#include <utility>

#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "connectors/database/postgres/postgres_request.h"

namespace tocsin {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::string_view kHeartbeatKey = "heartbeat";
constexpr std::int64_t kSecondsTo2000 = 946'684'800;
// Behind the rows of a snapshot there is room for the stream's in each batch.
constexpr std::size_t kSnapshotEventsMax = kBatchEventsMax / 2;

std::uint64_t BigEndian(std::string_view bytes, std::size_t at) {
  std::uint64_t value = 0;
  for (std::size_t i = at; i < at + 8; ++i) {
    value = (value << 8) | static_cast<unsigned char>(bytes[i]);
  }
  return value;
}

void AppendBigEndian(std::string& out, std::uint64_t value) {
  for (int shift = 56; shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
}

}  // namespace

PostgresConnector::PostgresConnector(const PostgresSpec& spec, PostgresEvents events, Ports ports,
                                     std::unique_ptr<Executor> reader)
    : BlockingConnector(std::move(ports)),
      spec_(spec),
      events_(std::move(events)),
      reader_(spec_, clock(), std::move(reader)),
      snapshot_(spec_, clock(), events_, reader_) {}

PostgresConnector::~PostgresConnector() { StopLane(); }

absl::StatusOr<std::unique_ptr<PgLink>> PostgresConnector::Open(PgLink::Use use) {
  return PgLink::Open(spec_, clock(), use, [this] { return cancelled(); });
}

void PostgresConnector::Reset() {
  ++life_;
  stream_.reset();
  slot_.reset();
  sql_.reset();
  announce_ = SourceBatch();
  is_new_ = false;
  confirmed_ = written_ = told_done_ = 0;
  restart_ = restart_then_ = told_restart_ = 0;
  failed_ = absl::OkStatus();
  gap_note_.clear();
  lag_note_.clear();
}

absl::Status PostgresConnector::ConnectNow(const LaneState& restored) {
  Reset();
  TOCSIN_ASSIGN_OR_RETURN(sql_, Open(PgLink::Use::kQueries));
  catalog_.Use(sql_.get());
  const bool only = spec_.snapshot == PgSnapshot::kOnly;
  if (!only) {
    TOCSIN_ASSIGN_OR_RETURN(const PgRows level, sql_->Query("SHOW wal_level"));
    if (level.Text(0, 0) != "logical") {
      return absl::FailedPreconditionError(
          fmt::format("[T0223] wal_level is {}: run ALTER SYSTEM SET wal_level = logical and "
                      "restart the server",
                      level.Text(0, 0)));
    }
    TOCSIN_RETURN_IF_ERROR(EnsurePublication(spec_, *sql_));
  }
  TOCSIN_ASSIGN_OR_RETURN(slot_, Open(PgLink::Use::kReplication));
  TOCSIN_ASSIGN_OR_RETURN(const PgPosition position, FindPlace(restored));
  confirmed_ = position.done;
  // A place that is new is made durable by the first heartbeat, or with the first events.
  told_done_ = is_new_ ? 0 : position.done;
  stream_ = std::make_unique<TransactionStream>(
      TransactionStream::Options{spec_.messages, spec_.spill_dir}, position,
      TransactionStream::Ports{events_, catalog_, snapshot_});
  TOCSIN_RETURN_IF_ERROR(OfferTables());
  if (only) {
    slot_.reset();
  } else {
    TOCSIN_RETURN_IF_ERROR(StartReading(position));
  }
  ShowProgress();
  return absl::OkStatus();
}

absl::StatusOr<PgPosition> PostgresConnector::FindPlace(const LaneState& restored) {
  std::optional<PgPosition> position;
  if (!restored.position.value.empty()) {
    position = DecodePgPosition(restored.position.value);
    if (!position) {
      return absl::FailedPreconditionError(
          fmt::format("the stored position is of another kind of source; `tocsin sources forget "
                      "{}` begins anew",
                      spec_.name));
    }
  }
  TOCSIN_ASSIGN_OR_RETURN(const PgServerFacts server, ReadServer(*slot_));
  events_.SetDatabase(server.database);
  if (spec_.snapshot == PgSnapshot::kOnly) {
    snapshot_.Start(restored.entries, false);
    PgPosition out = position.value_or(PgPosition());
    out.system = server.system;
    out.timeline = server.timeline;
    out.database = server.database;
    out.slot = spec_.Slot();
    return out;
  }
  TOCSIN_ASSIGN_OR_RETURN(PgSlotFacts slot, ReadSlot(*sql_, spec_.Slot()));
  if (slot.there && (slot.plugin != "pgoutput" || slot.database != server.database)) {
    return absl::FailedPreconditionError(
        fmt::format("[T0223] slot `{}` is of {} in database `{}`; name another `slot`",
                    spec_.Slot(), slot.plugin, slot.database));
  }
  if (slot.there && slot.two_phase) {
    return absl::FailedPreconditionError(fmt::format(
        "[T0223] slot `{}` was made with two_phase, which is left alone here; name another `slot`",
        spec_.Slot()));
  }
  absl::StatusOr<PgPosition> found;
  // A position that was never of a slot is of `snapshot: only`.
  if (!position || position->done == 0) {
    const std::map<std::string, std::string> asked = AskedPgTables(restored);
    for (const auto& [key, value] : restored.entries) {
      if (!asked.contains(key)) announce_.erases.push_back(key);
    }
    snapshot_.Start(asked, false);
    found = Begin(server, slot);
  } else if (position->slot != spec_.Slot()) {
    found = absl::FailedPreconditionError(fmt::format(
        "[T0221] the position is of slot `{}`, the configuration names `{}`; put it back, or "
        "`tocsin sources forget {}` begins anew",
        position->slot, spec_.Slot(), spec_.name));
  } else {
    const PgVerdict verdict =
        JudgePgPosition(*position, server, slot, PgRestartBefore(restored.entries));
    if (verdict.kind == PgVerdictKind::kGoesOn) {
      // A leave to pass a gap is not kept for one that may come.
      if (restored.entries.contains(std::string(kPgAfterGapKey))) {
        announce_.erases.emplace_back(kPgAfterGapKey);
      }
      snapshot_.Start(restored.entries, false);
      return *position;
    }
    if (verdict.kind == PgVerdictKind::kAnother) {
      return absl::FailedPreconditionError(
          fmt::format("[{}] {}; if that is meant, `tocsin sources forget {}` begins anew",
                      verdict.code, verdict.text, spec_.name));
    }
    const bool again = spec_.snapshot == PgSnapshot::kWhenNeeded;
    if (!again && !spec_.pass_gaps && !MayPassPgGap(restored)) {
      return absl::FailedPreconditionError(fmt::format(
          "[{0}] slot `{1}`: {2}; run `tocsin sources snapshot {3} --after-gap` to go on behind "
          "the gap this once and read all tables again (`snapshot: when_needed` always does), say "
          "`on_gap: continue` to go on without, or run `tocsin sources forget {3}` to begin anew",
          verdict.code, spec_.Slot(), verdict.text, spec_.name));
    }
    // What a request that allowed it wants to be read is in the state already.
    for (const auto& [key, value] : restored.entries) {
      if (again || key == kPgAfterGapKey || key == kPgRestartKey) announce_.erases.push_back(key);
    }
    snapshot_.Start(restored.entries, again);
    found = Adopt(verdict, server, slot);
  }
  if (!found.ok()) return found;
  is_new_ = true;
  return found;
}

absl::StatusOr<PgPosition> PostgresConnector::Begin(const PgServerFacts& server,
                                                    const PgSlotFacts& slot) {
  PgPosition out{.system = server.system,
                 .timeline = server.timeline,
                 .slot = spec_.Slot(),
                 .database = server.database};
  if (slot.there) {
    if (slot.wal_status == "lost") {
      return absl::FailedPreconditionError(
          fmt::format("[T0220] slot `{}` was invalidated by the server; drop it with SELECT "
                      "pg_drop_replication_slot({})",
                      spec_.Slot(), PgText(spec_.Slot())));
    }
    out.done = slot.confirmed;
    return out;
  }
  if (!spec_.create) {
    return absl::FailedPreconditionError(
        fmt::format("[T0223] there is no slot `{}`: run SELECT "
                    "pg_create_logical_replication_slot({}, 'pgoutput')",
                    spec_.Slot(), PgText(spec_.Slot())));
  }
  TOCSIN_ASSIGN_OR_RETURN(out.done, CreateSlot(*slot_, spec_.Slot()));
  return out;
}

// Goes on behind a gap, which was allowed.
absl::StatusOr<PgPosition> PostgresConnector::Adopt(const PgVerdict& verdict,
                                                    const PgServerFacts& server, PgSlotFacts slot) {
  if (slot.there && slot.wal_status == "lost") {
    TOCSIN_RETURN_IF_ERROR(
        sql_->Query(fmt::format("SELECT pg_drop_replication_slot({})", PgText(spec_.Slot())))
            .status());
    slot = PgSlotFacts();
  }
  TOCSIN_ASSIGN_OR_RETURN(PgPosition out, Begin(server, slot));
  gap_note_ =
      fmt::format("[{}] {}; went on from {}", verdict.code, verdict.text, FormatLsn(out.done));
  return out;
}

absl::Status PostgresConnector::StartReading(const PgPosition& position) {
  const bool streams = slot_->server_version() >= 140000;
  std::string options = fmt::format("proto_version '{}', publication_names {}", streams ? 2 : 1,
                                    // A list of names, quoted in a text.
                                    PgText(PgName(spec_.Publication())).substr(1));
  if (streams) options += fmt::format(", messages '{}'", spec_.messages ? "on" : "off");
  if (streams && spec_.streaming) options += ", streaming 'on'";
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows timeout,
      sql_->Query("SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'"));
  std::int64_t timeout_ms = 0;
  const std::string_view text = timeout.size() == 1 ? timeout.Text(0, 0) : "0";
  (void)std::from_chars(text.data(), text.data() + text.size(), timeout_ms);
  status_every_ = seconds(10);
  if (timeout_ms > 0) {
    status_every_ = std::min<Duration>(status_every_,
                                       milliseconds(std::max<std::int64_t>(100, timeout_ms / 4)));
  }
  TOCSIN_RETURN_IF_ERROR(Annotate(
      slot_->StartReading(fmt::format("START_REPLICATION SLOT {} LOGICAL {} ({})",
                                      PgName(spec_.Slot()), FormatLsn(position.done), options)),
      fmt::format("slot `{}`", spec_.Slot())));
  const Instant now = clock().Monotonic();
  written_ = position.done;
  next_status_ = now + status_every_;
  next_heartbeat_ = now + std::min<Duration>(spec_.heartbeat, seconds(1));
  lane().PostAt(now + status_every_, [this, life = life_] { Tick(life); });
  return absl::OkStatus();
}

// For a snapshot alone none is made; one that is named may say which tables.
bool PostgresConnector::HasPublication() const {
  return spec_.snapshot != PgSnapshot::kOnly || spec_.tables.empty();
}

absl::Status PostgresConnector::OfferTables() {
  if (!snapshot_.reads_tables()) return absl::OkStatus();
  TOCSIN_ASSIGN_OR_RETURN(const std::vector<PgTable> tables,
                          ReadTables(spec_, *sql_, HasPublication()));
  snapshot_.Offer(tables);
  return absl::OkStatus();
}

// Between polls, while the broker is full: the server must not take us for dead.
void PostgresConnector::Tick(std::uint64_t life) {
  if (life != life_ || slot_ == nullptr || cancelled()) return;
  const Instant now = clock().Monotonic();
  absl::Status status;
  if (now >= next_status_) status = SendStatus(false);
  if (status.ok() && now >= next_heartbeat_ + spec_.heartbeat) status = LookAtSlot();
  if (failed_.ok()) failed_ = status;
  lane().PostAt(now + status_every_, [this, life] { Tick(life); });
}

absl::Status PostgresConnector::SendStatus(bool ask_reply) {
  std::string out = "r";
  AppendBigEndian(out, std::max(written_, confirmed_));
  AppendBigEndian(out, confirmed_);
  AppendBigEndian(out, confirmed_);
  const auto now = clock().Wall().time_since_epoch() - seconds(kSecondsTo2000);
  AppendBigEndian(out, static_cast<std::uint64_t>(
                           std::chrono::duration_cast<std::chrono::microseconds>(now).count()));
  out.push_back(ask_reply ? 1 : 0);
  next_status_ = clock().Monotonic() + status_every_;
  return slot_->Send(out);
}

absl::Status PostgresConnector::CommitNow(const SourcePosition& position) {
  const std::optional<PgPosition> durable = DecodePgPosition(position.value);
  if (!durable || slot_ == nullptr || durable->done <= confirmed_) return absl::OkStatus();
  confirmed_ = durable->done;
  return SendStatus(false);
}

absl::Status PostgresConnector::Handle(std::string_view frame, SourceBatch& batch,
                                       std::size_t& bytes) {
  if (frame.size() >= 25 && frame[0] == 'w') {
    written_ = std::max(written_, BigEndian(frame, 1));
    return stream_->Feed(frame.substr(25), batch, bytes);
  }
  if (frame.size() >= 18 && frame[0] == 'k') {
    const Lsn end = BigEndian(frame, 1);
    written_ = std::max(written_, end);
    stream_->Passed(end);
    return frame[17] != 0 ? SendStatus(false) : absl::OkStatus();
  }
  return absl::FailedPreconditionError("the server sent what is no part of a stream");
}

// Until the batch is full, or nothing more is there at once.
absl::Status PostgresConnector::Fill(SourceBatch& batch, std::size_t& bytes, Instant until) {
  // A key change is two events.
  const auto full = [&] {
    return batch.events.size() + batch.undecodable.size() + 1 >= kBatchEventsMax ||
           bytes >= kBatchBytesMax;
  };
  bool consumed = false;
  int looked = 0;
  while (!full() && !stream_->holding()) {
    // A long run of what makes no events is no reason to be deaf.
    if (++looked % 4096 == 0 && (cancelled() || clock().Monotonic() >= until)) break;
    if (stream_->replaying()) {
      TOCSIN_RETURN_IF_ERROR(stream_->Replay(batch, bytes));
      continue;
    }
    TOCSIN_ASSIGN_OR_RETURN(const std::optional<std::string_view> frame, slot_->Receive());
    if (frame) {
      TOCSIN_RETURN_IF_ERROR(Handle(*frame, batch, bytes));
      consumed = false;
      continue;
    }
    if (consumed) break;
    TOCSIN_RETURN_IF_ERROR(slot_->Consume().status());
    consumed = true;
  }
  return absl::OkStatus();
}

absl::Status PostgresConnector::Wait(Instant until, bool with_stream) {
  if (snapshot_.wake_at()) until = std::min(until, *snapshot_.wake_at());
  if (with_stream) {
    until = std::min({until, next_status_, next_heartbeat_});
    // An idle server says where it is when it is asked.
    if (snapshot_.waits_for()) {
      const Instant now = clock().Monotonic();
      if (now >= next_ask_) {
        TOCSIN_RETURN_IF_ERROR(SendStatus(true));
        next_ask_ = now + milliseconds(20);
      }
      until = std::min(until, next_ask_);
    }
  }
  std::array<pollfd, 3> waiting = {pollfd{wake_fd(), POLLIN, 0}, pollfd{reader_.fd(), POLLIN, 0},
                                   pollfd{with_stream ? slot_->fd() : -1, POLLIN, 0}};
  const int ready = ::poll(waiting.data(), waiting.size(), MillisecondsUntil(until));
  if (ready < 0 && errno != EINTR) return absl::UnavailableError("waiting failed");
  if (waiting[0].revents != 0) Woken();
  return cancelled() ? absl::CancelledError("cancelled") : absl::OkStatus();
}

absl::StatusOr<SourceBatch> PostgresConnector::PollNow(Instant until) {
  if (spec_.snapshot == PgSnapshot::kOnly) return PollOnly(until);
  if (!failed_.ok()) return failed_;
  if (slot_ == nullptr) return absl::UnavailableError("not connected");
  SourceBatch batch;
  std::size_t bytes = 0;
  if (!announce_.empty()) {
    std::swap(batch, announce_);
    batch.position.value = EncodePgPosition(stream_->position());
    return batch;
  }
  stream_->GiveHeld(batch, bytes);
  while (true) {
    if (snapshot_.wants_offer()) TOCSIN_RETURN_IF_ERROR(OfferTables());
    if (snapshot_.active()) {
      TOCSIN_RETURN_IF_ERROR(snapshot_.Pump(stream_->reached(), kSnapshotEventsMax, batch, bytes));
    }
    TOCSIN_RETURN_IF_ERROR(Fill(batch, bytes, until));
    const Instant now = clock().Monotonic();
    if (now >= next_status_) TOCSIN_RETURN_IF_ERROR(SendStatus(false));
    if (now >= next_heartbeat_) TOCSIN_RETURN_IF_ERROR(Heartbeat(batch));
    if (!batch.empty() || now >= until) break;
    TOCSIN_RETURN_IF_ERROR(Wait(until, true));
  }
  batch.position.value = EncodePgPosition(stream_->position());
  if (!batch.empty()) told_done_ = stream_->position().done;
  ShowProgress();
  return batch;
}

// Tables alone: finished when each was read.
absl::StatusOr<SourceBatch> PostgresConnector::PollOnly(Instant until) {
  SourceBatch batch;
  std::size_t bytes = 0;
  while (true) {
    if (!snapshot_.active()) return absl::OutOfRangeError("every table was read");
    TOCSIN_RETURN_IF_ERROR(
        snapshot_.Pump(std::numeric_limits<Lsn>::max(), kBatchEventsMax, batch, bytes));
    if (!batch.empty() || clock().Monotonic() >= until) break;
    if (!snapshot_.active()) continue;
    TOCSIN_RETURN_IF_ERROR(Wait(until, false));
  }
  batch.position.value = EncodePgPosition(stream_->position());
  ShowProgress();
  return batch;
}

// Makes the place durable that the server has come to without a change of interest; and looks at
// what the slot holds.
absl::Status PostgresConnector::Heartbeat(SourceBatch& batch) {
  next_heartbeat_ = clock().Monotonic() + spec_.heartbeat;
  TOCSIN_RETURN_IF_ERROR(LookAtSlot());
  // What was there a heartbeat ago the server has saved by now: a crash does not take it back.
  if (restart_then_ > told_restart_) {
    batch.puts.push_back({std::string(kPgRestartKey), FormatLsn(restart_then_)});
    told_restart_ = restart_then_;
  }
  restart_then_ = restart_;
  const Lsn done = stream_->position().done;
  if (done > told_done_) {
    batch.puts.push_back({std::string(kHeartbeatKey), FormatLsn(done)});
  }
  return absl::OkStatus();
}

absl::Status PostgresConnector::LookAtSlot() {
  TOCSIN_ASSIGN_OR_RETURN(const PgSlotFacts slot, ReadSlot(*sql_, spec_.Slot()));
  TOCSIN_ASSIGN_OR_RETURN(const PgRows rows, sql_->Query("SELECT pg_current_wal_lsn()"));
  const Lsn end = ParseLsn(rows.Text(0, 0)).value_or(0);
  restart_ = slot.restart;
  const Lsn done = stream_->position().done;
  const std::uint64_t lag = end - std::min(end, done);
  const std::uint64_t held =
      slot.there && slot.restart != 0 ? end - std::min(end, slot.restart) : 0;
  Report([&](LaneReport& report) {
    report.lag = lag;
    report.held_bytes = held;
  });
  lag_note_.clear();
  if (slot.wal_status == "unreserved" || slot.wal_status == "extended") {
    lag_note_ = fmt::format(
        "[T0222] the server says `{}` of the slot: {} of its log are kept for "
        "it",
        slot.wal_status, FormatBytes(held));
  } else if (held >= spec_.warn_lag_bytes) {
    lag_note_ = fmt::format("[T0222] {} of the server's log are kept for slot `{}`",
                            FormatBytes(held), spec_.Slot());
  }
  if (spec_.slot_lag_bytes_max == 0 || held <= spec_.slot_lag_bytes_max) return absl::OkStatus();
  lag_note_ = fmt::format(
      "[T0222] {} of the server's log are kept for slot `{}`, more than "
      "max_slot_lag",
      FormatBytes(held), spec_.Slot());
  return spec_.drop_slot ? GiveUpSlot(held) : absl::OkStatus();
}

// The server's disk is worth more than our place: that was said in the configuration.
absl::Status PostgresConnector::GiveUpSlot(std::uint64_t held) {
  const std::string since = FormatLsn(confirmed_);
  slot_.reset();
  TOCSIN_ASSIGN_OR_RETURN(const std::unique_ptr<PgLink> link, Open(PgLink::Use::kReplication));
  TOCSIN_RETURN_IF_ERROR(
      link->Query(fmt::format("DROP_REPLICATION_SLOT {} WAIT", PgName(spec_.Slot()))).status());
  return absl::FailedPreconditionError(
      fmt::format("[T0222] slot `{}` held {} of the server's log, more than max_slot_lag, and was "
                  "dropped; a gap begins at {}",
                  spec_.Slot(), FormatBytes(held), since));
}

void PostgresConnector::ShowProgress() {
  const PgPosition& position = stream_->position();
  std::string text = FormatLsn(std::max(position.done, position.commit));
  if (spec_.snapshot == PgSnapshot::kOnly) text.clear();
  if (snapshot_.active()) {
    text += fmt::format("{}snapshot: {} rows, {} tables to go", text.empty() ? "" : "; ",
                        snapshot_.rows(), snapshot_.tables_left());
  }
  const std::string& note = !gap_note_.empty()   ? gap_note_
                            : !lag_note_.empty() ? lag_note_
                                                 : snapshot_.note();
  Report([&](LaneReport& report) {
    report.position = std::move(text);
    report.note = note;
    report.snapshot_rows = snapshot_.rows();
    report.snapshot_tables_left = snapshot_.tables_left();
  });
}

}  // namespace tocsin
