// A snapshot of tables that goes on beside the stream, in chunks by primary key.
//
//   stream   ---- commits ----+---- commits ------+------------->
//                             C                   here
//   chunk                     the rows as they
//                             were at C           its rows become events, without those that a
//                                                 commit behind C changed
//
// A chunk is read under the snapshot that a temporary slot gives at its consistent point C: that is
// exact by the log, where a query's own snapshot is not (a transaction's commit is in the log, and
// streamed, before other sessions see it). So a row of a chunk is the row at C, every change behind
// C comes by the stream, and what came already wins. A chunk waits until the stream has reached C.
//
// What was given of a table is in the lane's state, with the chunk's events: a crash goes on behind
// the last row that is durable.
//
// PgChunkReader reads, on a thread of its own. PgSnapshotRun decides, on the lane's.

#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "broker/base/clock.h"
#include "broker/base/executor.h"
#include "broker/base/hash.h"
#include "broker/base/mutex.h"
#include "connectors/database/postgres/postgres_request.h"
#include "connectors/database/postgres/postgres_setup.h"
#include "connectors/database/postgres/transaction_stream.h"

namespace tocsin {

struct PgChunkRequest {
  PgTable table;
  std::vector<std::string> after;  // the key's texts; empty: from the start
  std::uint32_t rows = 0;          // at most
  bool fresh = false;              // not under a snapshot that was taken before
};

struct PgChunk {
  absl::Status status;
  Lsn at = 0;
  std::vector<std::vector<std::optional<std::string>>> rows;
  bool last = false;  // of the table
};

// Threading: Request() and Take() by one thread; the reading on `executor`, which the reader owns.
class PgChunkReader {
 public:
  // A snapshot is held for so long: it keeps the server from cleaning up, and whoever wants to
  // change the table waits for it.
  static constexpr Duration kSnapshotAgeMax = std::chrono::seconds(2);

  PgChunkReader(const PostgresSpec& spec, const Clock& clock, std::unique_ptr<Executor> executor);
  // Ends what is read.
  ~PgChunkReader();

  // One at a time.
  void Request(PgChunkRequest request);
  bool requested() const { return requested_; }
  // What was asked for, if it is there. fd() is readable then.
  std::optional<PgChunk> Take();
  int fd() const { return fd_; }
  // What is under way is given up, and its outcome not taken.
  void Cancel();

 private:
  struct Work;

  const int fd_;
  std::shared_ptr<Work> work_;
  bool requested_ = false;
  std::unique_ptr<Executor> executor_;
};

class PgSnapshotRun : public PgChangeWatch {
 public:
  PgSnapshotRun(const PostgresSpec& spec, const Clock& clock, PostgresEvents& events,
                PgChunkReader& reader);

  // Begins anew from the lane's state; `again`: all tables, whatever the state says.
  void Start(const std::map<std::string, std::string>& state, bool again);
  // False: none is read, whatever is offered.
  bool reads_tables() const;
  // Tables that are there now: those without a state are read, and those that were asked for; with
  // `snapshot: never` the latter alone.
  void Offer(const std::vector<PgTable>& tables);
  // A table came up in the stream that was never offered.
  bool wants_offer() const { return wants_offer_; }

  // Adds rows whose time has come, as far as there is room, and asks for the next chunk.
  // `reached`: of the stream; all ones if there is none.
  absl::Status Pump(Lsn reached, std::size_t events_max, SourceBatch& batch, std::size_t& bytes);
  // A chunk is there, but the stream has not come so far.
  std::optional<Lsn> waits_for() const;
  // When Pump() has something to do though nothing comes.
  std::optional<Instant> wake_at() const { return wake_at_; }

  bool active() const { return !queue_.empty(); }
  std::size_t tables_left() const { return queue_.size(); }
  std::uint64_t rows() const { return rows_; }
  const std::string& note() const { return note_; }

  bool Wants(const PgRelation& relation) const override;
  void Changed(const PgRelation& relation, std::string_view key, Lsn commit) override;
  void Truncated(const PgRelation& relation, Lsn commit) override;
  void Described(const PgRelation& relation) override;

 private:
  struct Pending {
    PgTable table;
    PgRelation relation;
    PgTableState state;
  };
  struct HashOfKey {
    std::size_t operator()(const Hash128& hash) const { return hash.low; }
  };

  Hash128 KeyHash(std::uint32_t relation, std::string_view key) const;
  void Ask();
  void Took(PgChunk chunk);
  bool Superseded(const Pending& pending, std::string_view key) const;
  void Remember(const Pending& pending, SourceBatch& batch);
  PgRelation RelationOf(const PgTable& table) const;

  const PostgresSpec& spec_;
  const Clock& clock_;
  PostgresEvents& events_;
  PgChunkReader& reader_;

  std::map<std::string, PgTableState> state_;  // of tables, by name
  std::map<std::string, bool> offered_;
  bool wants_offer_ = false;
  std::deque<Pending> queue_;
  std::optional<PgChunk> chunk_;
  std::size_t next_row_ = 0;
  std::uint32_t chunk_rows_ = 0;
  bool fresh_ = false;
  std::uint64_t rows_ = 0;
  std::string note_;
  std::optional<Instant> wake_at_;
  Instant rate_free_at_{};

  // Commits behind the snapshot, by key; and what was too much to keep.
  absl::flat_hash_map<Hash128, Lsn, HashOfKey> changed_;
  std::map<std::uint32_t, Lsn> truncated_;
  Lsn snapshot_ = 0;
  Lsn forgotten_ = 0;  // changes up to here are not known any more
};

}  // namespace tocsin
