#include "connectors/database/postgres/postgres_snapshot.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

// Keys of changes beside a chunk; beyond it the chunk is read again.
constexpr std::size_t kChangedMax = 200'000;
constexpr std::size_t kChunkBytes = std::size_t{4} << 20;
constexpr std::uint32_t kFirstChunkRows = 64;
constexpr std::size_t kStateBytesMax = 4096;
constexpr Duration kAgainAfter = std::chrono::milliseconds(500);

std::string ChunkStatement(const PgChunkRequest& request) {
  const PgTable& table = request.table;
  std::string columns;
  for (const PgTableColumn& column : table.columns) {
    columns += (columns.empty() ? "" : ", ") + PgName(column.name);
  }
  std::string key;
  std::string after;
  for (std::size_t i = 0; i < table.key.size(); ++i) {
    const PgTableColumn& column = table.columns[table.key[i]];
    key += (i == 0 ? "" : ", ") + PgName(column.name);
    if (i < request.after.size()) {
      after +=
          fmt::format("{}{}::{}", i == 0 ? "" : ", ", PgText(request.after[i]), column.type_name);
    }
  }
  std::string where;
  if (!table.filter.empty()) where = fmt::format("({})", table.filter);
  if (!request.after.empty()) {
    where += fmt::format("{}({}) > ({})", where.empty() ? "" : " AND ", key, after);
  }
  return fmt::format("SELECT {} FROM {}{}.{}{} ORDER BY {} LIMIT {}", columns,
                     table.partitioned ? "" : "ONLY ", PgName(table.schema), PgName(table.table),
                     where.empty() ? "" : " WHERE " + where, key, request.rows);
}

}  // namespace

// Shared with the tasks of the executor.
struct PgChunkReader::Work {
  Work(const PostgresSpec& spec_in, const Clock& clock_in) : spec(spec_in), clock(clock_in) {}

  PgChunk Read(const PgChunkRequest& request);
  absl::Status Begin();

  // Set at construction.
  const PostgresSpec spec;
  const Clock& clock;
  std::atomic<bool> cancelled{false};

  // Of the executor.
  std::unique_ptr<PgLink> link;
  Lsn at = 0;
  Instant taken{};

  Mutex mutex;
  std::optional<PgChunk> chunk ABSL_GUARDED_BY(mutex);
};

absl::Status PgChunkReader::Work::Begin() {
  link.reset();
  TOCSIN_ASSIGN_OR_RETURN(link, PgLink::Open(spec, clock, PgLink::Use::kReplication,
                                             [this] { return cancelled.load(); }));
  TOCSIN_RETURN_IF_ERROR(link->Query("BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ").status());
  // It waits for the transactions that run now. The slot goes with the connection.
  TOCSIN_ASSIGN_OR_RETURN(
      const PgRows rows,
      link->Query(fmt::format("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput USE_SNAPSHOT",
                              PgName(fmt::format("{}_read", spec.Slot().substr(0, 58)))),
                  std::chrono::hours(24)));
  const std::optional<Lsn> point = rows.size() == 1 ? ParseLsn(rows.Text(0, 1)) : std::nullopt;
  if (!point) return absl::FailedPreconditionError("a temporary slot without a place");
  at = *point;
  taken = clock.Monotonic();
  return absl::OkStatus();
}

PgChunk PgChunkReader::Work::Read(const PgChunkRequest& request) {
  PgChunk out;
  if (link == nullptr || request.fresh || clock.Monotonic() - taken > kSnapshotAgeMax) {
    out.status = Begin();
    if (!out.status.ok()) {
      link.reset();
      return out;
    }
  }
  out.at = at;
  const auto rows = link->Query(ChunkStatement(request), std::chrono::minutes(10));
  if (!rows.ok()) {
    link.reset();
    out.status = rows.status();
    return out;
  }
  for (int i = 0; i < rows->size(); ++i) {
    auto& row = out.rows.emplace_back();
    for (int column = 0; column < rows->columns(); ++column) {
      row.push_back(rows->IsNull(i, column) ? std::nullopt
                                            : std::optional(std::string(rows->Text(i, column))));
    }
  }
  out.last = static_cast<std::uint32_t>(rows->size()) < request.rows;
  if (out.last) link.reset();
  return out;
}

PgChunkReader::PgChunkReader(const PostgresSpec& spec, const Clock& clock,
                             std::unique_ptr<Executor> executor)
    : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      work_(std::make_shared<Work>(spec, clock)),
      executor_(std::move(executor)) {}

PgChunkReader::~PgChunkReader() {
  work_->cancelled = true;
  executor_.reset();
  if (fd_ >= 0) ::close(fd_);
}

void PgChunkReader::Request(PgChunkRequest request) {
  TOCSIN_CHECK(!requested_, "two chunks at once");
  requested_ = true;
  executor_->Post(
      [work = work_, fd = fd_, executor = executor_.get(), request = std::move(request)] {
        if (work->cancelled) return;
        PgChunk chunk = work->Read(request);
        if (work->cancelled) return;
        {
          MutexLock lock(work->mutex);
          work->chunk = std::move(chunk);
        }
        const std::uint64_t one = 1;
        [[maybe_unused]] const ssize_t put = ::write(fd, &one, sizeof(one));
        // Also if nothing more is asked for.
        if (work->link == nullptr) return;
        executor->PostAt(work->taken + kSnapshotAgeMax, [work, taken = work->taken] {
          if (work->taken == taken) work->link.reset();
        });
      });
}

std::optional<PgChunk> PgChunkReader::Take() {
  std::optional<PgChunk> chunk;
  {
    MutexLock lock(work_->mutex);
    chunk.swap(work_->chunk);
  }
  if (!chunk) return chunk;
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(fd_, &count, sizeof(count));
  requested_ = false;
  return chunk;
}

void PgChunkReader::Cancel() {
  auto next = std::make_shared<Work>(work_->spec, work_->clock);
  work_->cancelled = true;
  // Its connection is closed where it is used.
  executor_->Post([work = work_] { work->link.reset(); });
  work_ = std::move(next);
  requested_ = false;
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(fd_, &count, sizeof(count));
}

PgSnapshotRun::PgSnapshotRun(const PostgresSpec& spec, const Clock& clock, PostgresEvents& events,
                             PgChunkReader& reader)
    : spec_(spec), clock_(clock), events_(events), reader_(reader) {}

void PgSnapshotRun::Start(const std::map<std::string, std::string>& state, bool again) {
  reader_.Cancel();
  state_.clear();
  offered_.clear();
  queue_.clear();
  chunk_.reset();
  changed_.clear();
  truncated_.clear();
  snapshot_ = forgotten_ = 0;
  wants_offer_ = false;
  fresh_ = false;
  rows_ = 0;
  note_.clear();
  wake_at_.reset();
  chunk_rows_ = std::min(kFirstChunkRows, spec_.chunk_rows);
  if (again) return;
  for (const auto& [key, value] : state) {
    if (!key.starts_with(kPgTablePrefix)) continue;
    state_[key.substr(kPgTablePrefix.size())] = DecodePgTableState(value);
  }
}

bool PgSnapshotRun::reads_tables() const {
  return spec_.snapshot != PgSnapshot::kNever ||
         std::any_of(state_.begin(), state_.end(),
                     [](const auto& one) { return one.second.asked && !one.second.done; });
}

PgRelation PgSnapshotRun::RelationOf(const PgTable& table) const {
  PgMessage message;
  message.relation = table.oid;
  message.space = table.schema;
  message.name = table.table;
  for (std::size_t i = 0; i < table.columns.size(); ++i) {
    const bool key = std::find(table.key.begin(), table.key.end(), i) != table.key.end();
    message.columns.push_back({key, table.columns[i].name, table.columns[i].type, -1});
  }
  return events_.MakeRelation(message, table.types, {});
}

void PgSnapshotRun::Offer(const std::vector<PgTable>& tables) {
  wants_offer_ = false;
  std::string keyless;
  for (const PgTable& table : tables) {
    const std::string name = table.Name();
    if (!offered_.emplace(name, true).second) continue;
    const auto known = state_.find(name);
    Pending pending{table, {}, known == state_.end() ? PgTableState() : known->second};
    if (pending.state.done) continue;
    if (spec_.snapshot == PgSnapshot::kNever && !pending.state.asked) continue;
    if (table.key.empty()) {
      keyless += (keyless.empty() ? "" : ", ") + name;
      continue;
    }
    pending.relation = RelationOf(table);
    if (pending.state.after.size() != table.key.size()) pending.state.after.clear();
    queue_.push_back(std::move(pending));
  }
  if (!keyless.empty()) {
    note_ = fmt::format(
        "[T0224] no snapshot of {}: without a primary key it cannot be read in chunks; its changes "
        "are read",
        keyless);
  }
}

Hash128 PgSnapshotRun::KeyHash(std::uint32_t relation, std::string_view key) const {
  return HashSourceAndId({reinterpret_cast<const char*>(&relation), sizeof(relation)}, key, 0);
}

bool PgSnapshotRun::Wants(const PgRelation& relation) const {
  // Only what is read now has chunks: what is behind it in the queue is read later, at another C.
  return !queue_.empty() && queue_.front().table.oid == relation.oid;
}

void PgSnapshotRun::Changed(const PgRelation& relation, std::string_view key, Lsn commit) {
  if (changed_.size() >= kChangedMax) {
    changed_.clear();
    forgotten_ = commit;
  }
  Lsn& last = changed_[KeyHash(relation.oid, key)];
  last = std::max(last, commit);
}

void PgSnapshotRun::Truncated(const PgRelation& relation, Lsn commit) {
  truncated_[relation.oid] = commit;
}

void PgSnapshotRun::Described(const PgRelation& relation) {
  if (relation.wanted && !offered_.contains(relation.subject)) wants_offer_ = true;
}

bool PgSnapshotRun::Superseded(const Pending& pending, std::string_view key) const {
  const auto truncated = truncated_.find(pending.table.oid);
  if (truncated != truncated_.end() && truncated->second >= chunk_->at) return true;
  const auto changed = changed_.find(KeyHash(pending.table.oid, key));
  return changed != changed_.end() && changed->second >= chunk_->at;
}

void PgSnapshotRun::Remember(const Pending& pending, SourceBatch& batch) {
  const std::string name = pending.table.Name();
  std::string value = EncodePgTableState(pending.state);
  if (value.size() > kStateBytesMax) return;
  const std::string key = std::string(kPgTablePrefix) + name;
  state_[name] = pending.state;
  // Of several in one batch the last one counts.
  std::erase_if(batch.puts, [&key](const LaneStatePut& put) { return put.key == key; });
  batch.puts.push_back({key, std::move(value)});
}

void PgSnapshotRun::Ask() {
  wake_at_.reset();
  if (queue_.empty() || reader_.requested() || chunk_) return;
  if (clock_.Monotonic() < rate_free_at_) {
    wake_at_ = rate_free_at_;
    return;
  }
  const Pending& pending = queue_.front();
  reader_.Request({pending.table, pending.state.after, chunk_rows_, std::exchange(fresh_, false)});
}

void PgSnapshotRun::Took(PgChunk chunk) {
  if (chunk.at != snapshot_) {
    snapshot_ = chunk.at;
    absl::erase_if(changed_, [&](const auto& entry) { return entry.second < chunk.at; });
    std::erase_if(truncated_, [&](const auto& entry) { return entry.second < chunk.at; });
  }
  std::size_t bytes = 0;
  for (const auto& row : chunk.rows) {
    for (const auto& value : row) bytes += value ? value->size() : 1;
  }
  if (!chunk.rows.empty()) {
    const std::size_t each = std::max<std::size_t>(1, bytes / chunk.rows.size());
    const std::size_t fitting = std::min<std::size_t>(kChunkBytes / each, chunk_rows_ * 8U);
    chunk_rows_ = static_cast<std::uint32_t>(std::clamp<std::size_t>(fitting, 1, spec_.chunk_rows));
  }
  next_row_ = 0;
  chunk_ = std::move(chunk);
}

std::optional<Lsn> PgSnapshotRun::waits_for() const {
  return chunk_ ? std::optional(chunk_->at) : std::nullopt;
}

absl::Status PgSnapshotRun::Pump(Lsn reached, std::size_t events_max, SourceBatch& batch,
                                 std::size_t& bytes) {
  if (!chunk_ && reader_.requested()) {
    std::optional<PgChunk> chunk = reader_.Take();
    // The temporary slot of a reader before may still be there, slots or connections be few.
    if (chunk && (IsRetryable(chunk->status) || absl::IsAlreadyExists(chunk->status))) {
      rate_free_at_ = clock_.Monotonic() + kAgainAfter;
    } else if (chunk) {
      TOCSIN_RETURN_IF_ERROR(Annotate(chunk->status, "reading a table"));
      Took(*std::move(chunk));
    }
  }
  if (chunk_ && chunk_->at <= forgotten_) {
    // Too much changed beside it to know which of its rows still count.
    chunk_.reset();
    fresh_ = true;
  }
  if (!chunk_) {
    Ask();
    return absl::OkStatus();
  }
  if (reached < chunk_->at) return absl::OkStatus();
  Pending& pending = queue_.front();
  std::vector<PgValue> row;
  std::uint64_t given = 0;
  while (next_row_ < chunk_->rows.size() && batch.events.size() < events_max &&
         bytes < kBatchBytesMax) {
    const auto& texts = chunk_->rows[next_row_];
    row.clear();
    for (const auto& text : texts) {
      row.push_back(text ? PgValue{PgValueKind::kText, *text} : PgValue{});
    }
    if (!Superseded(pending, PgKeyOf(pending.relation, row))) {
      const std::size_t events = batch.events.size();
      const std::size_t before = events + batch.undecodable.size();
      const std::size_t size = events_.AddRead(pending.relation, row, chunk_->at, batch);
      if (before > 0 && bytes + size > TransactionStream::kGrownMax) {
        // It is the first of the next batch.
        if (batch.events.size() > events) {
          batch.events.pop_back();
        } else {
          batch.undecodable.pop_back();
        }
        break;
      }
      bytes += size;
      ++rows_;
    }
    std::vector<std::string>& after = pending.state.after;
    after.clear();
    for (const std::size_t i : pending.table.key) after.push_back(texts[i].value_or(""));
    ++next_row_;
    ++given;
  }
  if (given > 0 && spec_.snapshot_rate > 0) {
    const auto cost = std::chrono::nanoseconds(given * 1'000'000'000ULL / spec_.snapshot_rate);
    rate_free_at_ =
        std::max(rate_free_at_, clock_.Monotonic()) + std::chrono::duration_cast<Duration>(cost);
  }
  if (next_row_ < chunk_->rows.size()) {
    if (given > 0) Remember(pending, batch);
    return absl::OkStatus();
  }
  const bool last = chunk_->last;
  pending.state.done = last;
  Remember(pending, batch);
  chunk_.reset();
  if (last) {
    queue_.pop_front();
    changed_.clear();
    truncated_.clear();
    // What changed in the next table before was not kept.
    fresh_ = true;
  }
  Ask();
  return absl::OkStatus();
}

}  // namespace tocsin
