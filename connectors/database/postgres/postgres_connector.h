// PostgresConnector: a logical replication slot as a source of one lane, with snapshots of its
// tables beside it.
//
//   Connect: rights and publication -> which server, which slot, does the position fit
//            -> START_REPLICATION at what is done
//   Poll:    messages -> events; chunks of the snapshot; the heartbeat
//            first of all what the state must no longer say, with the position
//   Commit:  only then the slot is told, up to where all is durable
//
// confirmed_flush_lsn never passes a position that is durable: also while nothing of interest
// comes, the heartbeat first makes the new position durable, then confirms it. What the slot has
// confirmed beyond the position was confirmed by somebody else, so it is a gap. So is a slot that
// needs the log from further back than it once did: its server is an older copy.
//
// A gap ends Connect(), unless the options or a request in the lane's state (postgres_request.h)
// let it pass; then the first batch has the new place and takes the request back.
//
// Threading: as BlockingConnector says; the snapshot reads on a thread of its own.

#pragma once

#include <memory>
#include <optional>
#include <string>

#include "connectors/blocking_connector.h"
#include "connectors/database/postgres/postgres_events.h"
#include "connectors/database/postgres/postgres_link.h"
#include "connectors/database/postgres/postgres_setup.h"
#include "connectors/database/postgres/postgres_snapshot.h"
#include "connectors/database/postgres/postgres_spec.h"
#include "connectors/database/postgres/transaction_stream.h"

namespace tocsin {

class PostgresConnector : public BlockingConnector {
 public:
  // `reader`: an executor for the snapshot alone.
  PostgresConnector(const PostgresSpec& spec, PostgresEvents events, Ports ports,
                    std::unique_ptr<Executor> reader);
  ~PostgresConnector() override;

 protected:
  absl::Status ConnectNow(const LaneState& restored) override;
  absl::StatusOr<SourceBatch> PollNow(Instant until) override;
  absl::Status CommitNow(const SourcePosition& position) override;

 private:
  void Reset();
  absl::StatusOr<PgPosition> FindPlace(const LaneState& restored);
  absl::StatusOr<PgPosition> Adopt(const PgVerdict& verdict, const PgServerFacts& server,
                                   PgSlotFacts slot);
  absl::StatusOr<PgPosition> Begin(const PgServerFacts& server, const PgSlotFacts& slot);
  absl::Status StartReading(const PgPosition& position);
  absl::StatusOr<std::unique_ptr<PgLink>> Open(PgLink::Use use);
  bool HasPublication() const;
  absl::Status OfferTables();

  absl::StatusOr<SourceBatch> PollOnly(Instant until);
  absl::Status Fill(SourceBatch& batch, std::size_t& bytes, Instant until);
  absl::Status Handle(std::string_view frame, SourceBatch& batch, std::size_t& bytes);
  absl::Status Wait(Instant until, bool with_stream);
  absl::Status SendStatus(bool ask_reply);
  absl::Status Heartbeat(SourceBatch& batch);
  absl::Status LookAtSlot();
  absl::Status GiveUpSlot(std::uint64_t held);
  void Tick(std::uint64_t life);
  void ShowProgress();

  const PostgresSpec spec_;
  PostgresEvents events_;
  PgLinkCatalog catalog_;
  PgChunkReader reader_;
  PgSnapshotRun snapshot_;
  std::unique_ptr<PgLink> sql_;
  std::unique_ptr<PgLink> slot_;
  std::unique_ptr<TransactionStream> stream_;

  SourceBatch announce_;  // the first batch: what of an earlier life is forgotten
  bool is_new_ = false;   // the position was never durable
  Lsn confirmed_ = 0;     // durable
  Lsn written_ = 0;       // as the server knows it: received
  Lsn told_done_ = 0;     // the `done` of the position that was given last
  Lsn restart_ = 0;       // of the slot, when it was looked at last
  Lsn restart_then_ = 0;  // at the heartbeat before
  Lsn told_restart_ = 0;
  Duration status_every_{};
  Instant next_status_{};
  Instant next_heartbeat_{};
  Instant next_ask_{};
  std::uint64_t life_ = 0;  // of a connection, for ticks of an earlier one
  absl::Status failed_;     // found between polls
  std::string gap_note_, lag_note_;
};

}  // namespace tocsin
