// TransactionStream: from the messages of a slot to events, in commit order, each change once.
//
//   Begin .. changes .. Commit                          the changes are events at once
//   StreamStart .. changes .. StreamStop, again         kept (PgSpill), a transaction each
//   StreamAbort of a subtransaction                     what it did is passed over later
//   StreamCommit                                        then Replay() gives what was kept
//
// The index of a change in its transaction counts what the server sent, whatever the configuration
// wants of it, so that it is the same when the transaction is sent again. What is not above the
// start position is passed over.
//
// Threading: one thread.

#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "connectors/database/postgres/pgoutput.h"
#include "connectors/database/postgres/postgres_events.h"
#include "connectors/database/postgres/postgres_position.h"
#include "connectors/database/postgres/postgres_spill.h"
#include "connectors/database/postgres/postgres_types.h"

namespace tocsin {

// What the messages do not say, asked of the server.
class PgCatalog {
 public:
  virtual ~PgCatalog() = default;

  // The columns of the primary key as it is now; none if there is none, or no such table.
  //   kUnavailable  try again with a new connection; so of the next
  virtual absl::StatusOr<std::vector<std::string>> PrimaryKey(std::uint32_t relation) = 0;
  // Puts what it knows of them; unknown ones are left as they are.
  virtual absl::Status DescribeTypes(std::span<const std::uint32_t> oids, PgTypes& types) = 0;
};

// Hears of every change of a row, for a snapshot that goes on beside the stream.
class PgChangeWatch {
 public:
  virtual ~PgChangeWatch() = default;
  // Whether Changed() and Truncated() are to be called for it.
  virtual bool Wants(const PgRelation& relation) const = 0;
  virtual void Changed(const PgRelation& relation, std::string_view key, Lsn commit) = 0;
  virtual void Truncated(const PgRelation& relation, Lsn commit) = 0;
  // A relation as it is from now on.
  virtual void Described(const PgRelation& relation) = 0;
};

class TransactionStream {
 public:
  // All outlive the stream.
  struct Ports {
    PostgresEvents& events;
    PgCatalog& catalog;
    PgChangeWatch& watch;
  };
  struct Options {
    bool messages = true;
    std::string spill_dir;
  };

  TransactionStream(const Options& options, const PgPosition& start, const Ports& ports);

  // One message of the slot; not while replaying() or holding(). Adds to `batch` and `bytes`.
  //   kUnavailable         the catalog or the spill; the connection is to be made anew
  //   kFailedPrecondition  not what the protocol says; nothing can be read on
  absl::Status Feed(std::string_view message, SourceBatch& batch, std::size_t& bytes);

  // A transaction that was streamed is committed, and what was kept of it not yet all given.
  bool replaying() const { return replay_ != nullptr; }
  // The next kept message; not while holding().
  absl::Status Replay(SourceBatch& batch, std::size_t& bytes);

  // A batch with something in it does not grow beyond this: a change that is larger is held back
  // for the next.
  static constexpr std::size_t kGrownMax = 3 * kBatchBytesMax;
  bool holding() const { return !held_.empty(); }
  // What was held back and fits; to an empty batch at least one change.
  void GiveHeld(SourceBatch& batch, std::size_t& bytes);

  // The server has nothing committed before `end` that it did not send.
  void Passed(Lsn end);

  // After the last change that was given.
  const PgPosition& position() const { return position_; }
  // Every commit below it was given, or is being given.
  Lsn reached() const { return reached_; }
  bool in_transaction() const { return in_transaction_ || replaying(); }
  std::uint64_t spilled_bytes() const;

 private:
  struct Held {
    Lsn commit = 0;
    std::uint64_t index = 0;
    std::size_t bytes = 0;
    SourceBatch change;
  };
  struct Streamed {
    explicit Streamed(const std::string& folder) : kept(folder) {}
    PgSpill kept;
    std::set<std::uint32_t> aborted;
  };

  absl::Status Apply(std::string_view bytes, bool in_stream, SourceBatch& batch,
                     std::size_t& grown);
  absl::Status Describe();
  absl::Status Row(std::string_view bytes, SourceBatch& batch, std::size_t& grown);
  absl::Status Truncate(SourceBatch& batch, std::size_t& grown);
  void Message(SourceBatch& batch, std::size_t& grown);
  void Begin();
  void End();
  // Adds what `make` adds, which gives its bytes: the change at `commit` and `index`.
  void Add(Lsn commit, std::uint64_t index, SourceBatch& batch, std::size_t& bytes,
           absl::FunctionRef<std::size_t()> make);
  // True if it was read before. Counts it.
  bool Known(std::uint64_t& index);
  void Undecodable(std::string_view bytes, std::string_view why, SourceBatch& batch,
                   std::size_t& grown);

  const Options options_;
  const Ports ports_;
  const Lsn start_commit_;
  const std::uint64_t start_index_;
  PgPosition position_;
  Lsn reached_;
  std::deque<Held> held_;

  PgTypes types_;
  absl::flat_hash_map<std::uint32_t, std::unique_ptr<PgRelation>> relations_;
  PgMessage message_;
  PgTransaction transaction_;
  std::uint64_t next_index_ = 0;
  bool in_transaction_ = false;
  Lsn end_ = 0;  // behind the commit that is replayed

  std::uint32_t block_ = 0;  // the transaction of the stream's block that is open; 0: none
  std::map<std::uint32_t, std::unique_ptr<Streamed>> streamed_;
  std::unique_ptr<Streamed> replay_;
  std::string record_;
};

}  // namespace tocsin
