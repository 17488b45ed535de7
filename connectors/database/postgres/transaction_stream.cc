#include "connectors/database/postgres/transaction_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

bool IsChange(char letter) {
  switch (static_cast<PgKind>(letter)) {
    case PgKind::kInsert:
    case PgKind::kUpdate:
    case PgKind::kDelete:
    case PgKind::kTruncate:
    case PgKind::kMessage:
      return true;
    default:
      return false;
  }
}

std::uint32_t XidAt(std::string_view bytes) {
  std::uint32_t xid = 0;
  for (std::size_t i = 1; i < 5; ++i) xid = (xid << 8) | static_cast<unsigned char>(bytes[i]);
  return xid;
}

absl::Status Broken(std::string_view what) {
  return absl::FailedPreconditionError(
      fmt::format("the slot's stream is not what the protocol says: {}; tell us of it", what));
}

bool FitsRow(const PgRelation& relation, const std::vector<PgValue>& values) {
  return values.size() == relation.columns.size() &&
         std::none_of(values.begin(), values.end(),
                      [](const PgValue& value) { return value.kind == PgValueKind::kBinary; });
}

// A value that was not sent again did not change.
bool KeyChanged(const PgRelation& relation, const std::vector<PgValue>& before,
                const std::vector<PgValue>& after) {
  return std::any_of(relation.key.begin(), relation.key.end(), [&](std::size_t i) {
    return after[i].kind != PgValueKind::kUnchanged &&
           (after[i].kind != before[i].kind || after[i].text != before[i].text);
  });
}

}  // namespace

TransactionStream::TransactionStream(const Options& options, const PgPosition& start,
                                     const Ports& ports)
    : options_(options),
      ports_(ports),
      start_commit_(start.commit),
      start_index_(start.index),
      position_(start),
      reached_(start.done) {}

std::uint64_t TransactionStream::spilled_bytes() const {
  std::uint64_t bytes = replay_ == nullptr ? 0 : replay_->kept.bytes();
  for (const auto& [xid, streamed] : streamed_) bytes += streamed->kept.bytes();
  return bytes;
}

void TransactionStream::Passed(Lsn end) {
  reached_ = std::max(reached_, end);
  if (!in_transaction()) position_.done = std::max(position_.done, end);
}

bool TransactionStream::Known(std::uint64_t& index) {
  index = next_index_++;
  return transaction_.commit < start_commit_ ||
         (transaction_.commit == start_commit_ && index <= start_index_);
}

void TransactionStream::Add(Lsn commit, std::uint64_t index, SourceBatch& batch, std::size_t& bytes,
                            absl::FunctionRef<std::size_t()> make) {
  const auto events = static_cast<std::ptrdiff_t>(batch.events.size());
  const auto undecodable = static_cast<std::ptrdiff_t>(batch.undecodable.size());
  const std::size_t size = make();
  if (held_.empty() && (events + undecodable == 0 || bytes + size <= kGrownMax)) {
    bytes += size;
    position_.commit = commit;
    position_.index = index;
    return;
  }
  Held& held = held_.emplace_back();
  held.commit = commit;
  held.index = index;
  held.bytes = size;
  const auto move_behind = [](auto& from, std::ptrdiff_t kept, auto& to) {
    to.assign(std::make_move_iterator(from.begin() + kept), std::make_move_iterator(from.end()));
    from.erase(from.begin() + kept, from.end());
  };
  move_behind(batch.events, events, held.change.events);
  move_behind(batch.undecodable, undecodable, held.change.undecodable);
}

void TransactionStream::GiveHeld(SourceBatch& batch, std::size_t& bytes) {
  while (!held_.empty()) {
    Held& held = held_.front();
    const bool first = batch.events.empty() && batch.undecodable.empty();
    if (!first && bytes + held.bytes > kGrownMax) return;
    std::move(held.change.events.begin(), held.change.events.end(),
              std::back_inserter(batch.events));
    std::move(held.change.undecodable.begin(), held.change.undecodable.end(),
              std::back_inserter(batch.undecodable));
    bytes += held.bytes;
    position_.commit = held.commit;
    position_.index = held.index;
    held_.pop_front();
  }
}

void TransactionStream::Begin() {
  transaction_.commit = message_.lsn;
  transaction_.time_us = message_.time_us;
  transaction_.xid = message_.xid;
  transaction_.origin.clear();
  next_index_ = 0;
  in_transaction_ = true;
  reached_ = std::max(reached_, message_.lsn);
}

void TransactionStream::End() {
  in_transaction_ = false;
  position_.done = std::max(position_.done, end_);
  reached_ = std::max(reached_, end_);
}

absl::Status TransactionStream::Feed(std::string_view bytes, SourceBatch& batch,
                                     std::size_t& grown) {
  TOCSIN_CHECK(!replaying(), "a message comes while a transaction is replayed");
  TOCSIN_CHECK(!holding(), "a message comes while a change is held back");
  if (block_ != 0 && !bytes.empty() && static_cast<PgKind>(bytes[0]) != PgKind::kStreamStop) {
    std::uint32_t xid = 0;
    if (HasStreamXid(static_cast<PgKind>(bytes[0]))) {
      if (bytes.size() < 5) return Broken("a message of a stream is cut short");
      xid = XidAt(bytes);
    }
    return streamed_[block_]->kept.Append(xid, bytes);
  }
  return Apply(bytes, false, batch, grown);
}

absl::Status TransactionStream::Replay(SourceBatch& batch, std::size_t& grown) {
  TOCSIN_CHECK(replaying() && !holding());
  std::uint32_t xid = 0;
  TOCSIN_ASSIGN_OR_RETURN(const bool there, replay_->kept.Next(xid, record_));
  if (!there) {
    replay_.reset();
    End();
    return absl::OkStatus();
  }
  // The server takes relations and types for sent, though what they came with was undone.
  if (IsChange(record_[0]) && replay_->aborted.contains(xid)) return absl::OkStatus();
  return Apply(record_, true, batch, grown);
}

absl::Status TransactionStream::Apply(std::string_view bytes, bool in_stream, SourceBatch& batch,
                                      std::size_t& grown) {
  const absl::Status decoded = DecodePgoutput(bytes, in_stream, message_);
  if (!decoded.ok()) {
    if (bytes.empty() || !IsChange(bytes[0]) || !in_transaction_) {
      return Broken(MessageOf(decoded));
    }
    Undecodable(bytes, MessageOf(decoded), batch, grown);
    return absl::OkStatus();
  }
  switch (message_.kind) {
    case PgKind::kBegin:
      Begin();
      return absl::OkStatus();
    case PgKind::kCommit:
      end_ = message_.end_lsn;
      End();
      return absl::OkStatus();
    case PgKind::kOrigin:
      transaction_.origin = std::string(message_.name);
      return absl::OkStatus();
    case PgKind::kRelation:
      return Describe();
    case PgKind::kType:
      types_.Learn(message_.relation, message_.space, message_.name);
      return absl::OkStatus();
    case PgKind::kInsert:
    case PgKind::kUpdate:
    case PgKind::kDelete:
      return Row(bytes, batch, grown);
    case PgKind::kTruncate:
      return Truncate(batch, grown);
    case PgKind::kMessage:
      Message(batch, grown);
      return absl::OkStatus();
    case PgKind::kStreamStart: {
      block_ = message_.xid;
      std::unique_ptr<Streamed>& streamed = streamed_[block_];
      // The first block of a transaction that is sent again after a concurrent abort.
      if (streamed == nullptr || message_.first_segment) {
        streamed = std::make_unique<Streamed>(options_.spill_dir);
      }
      return absl::OkStatus();
    }
    case PgKind::kStreamStop:
      block_ = 0;
      return absl::OkStatus();
    case PgKind::kStreamAbort: {
      const auto found = streamed_.find(message_.xid);
      if (found == streamed_.end()) return absl::OkStatus();
      if (message_.subxid == message_.xid) {
        streamed_.erase(found);
      } else {
        found->second->aborted.insert(message_.subxid);
      }
      return absl::OkStatus();
    }
    case PgKind::kStreamCommit: {
      Begin();
      end_ = message_.end_lsn;
      const auto found = streamed_.find(message_.xid);
      if (found == streamed_.end()) {
        End();
        return absl::OkStatus();
      }
      replay_ = std::move(found->second);
      streamed_.erase(found);
      return absl::OkStatus();
    }
    case PgKind::kBeginPrepare:
    case PgKind::kPrepare:
    case PgKind::kCommitPrepared:
    case PgKind::kRollbackPrepared:
    case PgKind::kStreamPrepare:
      return absl::FailedPreconditionError(
          "[T0223] the slot was made with two_phase, which is left alone here: make it without");
  }
  return Broken("a message of an unknown kind");
}

absl::Status TransactionStream::Describe() {
  std::vector<std::uint32_t> own;
  for (const PgColumn& column : message_.columns) {
    if (column.type >= kPgFirstUserOid) own.push_back(column.type);
  }
  if (!own.empty()) TOCSIN_RETURN_IF_ERROR(ports_.catalog.DescribeTypes(own, types_));
  std::vector<std::string> key;
  if (message_.identity == 'f' || message_.identity == 'n') {
    TOCSIN_ASSIGN_OR_RETURN(key, ports_.catalog.PrimaryKey(message_.relation));
  }
  auto made = std::make_unique<PgRelation>(ports_.events.MakeRelation(message_, types_, key));
  ports_.watch.Described(*made);
  relations_[message_.relation] = std::move(made);
  return absl::OkStatus();
}

void TransactionStream::Undecodable(std::string_view bytes, std::string_view why,
                                    SourceBatch& batch, std::size_t& grown) {
  std::uint64_t index = 0;
  if (Known(index)) return;
  Add(transaction_.commit, index, batch, grown,
      [&] { return ports_.events.AddUndecodable(bytes, why, transaction_, index, batch); });
}

absl::Status TransactionStream::Row(std::string_view bytes, SourceBatch& batch,
                                    std::size_t& grown) {
  if (!in_transaction_) return Broken("a change outside of a transaction");
  const auto found = relations_.find(message_.relation);
  if (found == relations_.end()) {
    Undecodable(bytes, "its relation was not described", batch, grown);
    return absl::OkStatus();
  }
  const PgRelation& relation = *found->second;
  const bool has_old = message_.old_kind != 0;
  const bool has_new = message_.kind != PgKind::kDelete;
  if ((has_new && !FitsRow(relation, message_.new_values)) ||
      (has_old && !FitsRow(relation, message_.old_values))) {
    Undecodable(bytes, "it has other columns than its relation", batch, grown);
    return absl::OkStatus();
  }
  const bool moves = message_.kind == PgKind::kUpdate && has_old &&
                     KeyChanged(relation, message_.old_values, message_.new_values);
  std::uint64_t index = 0;
  const bool known = Known(index);
  // A key change is two events, which may be in two batches.
  std::uint64_t second = index;
  const bool all_known = moves ? Known(second) : known;
  if (relation.wanted && ports_.watch.Wants(relation)) {
    const std::string old_key = has_old ? PgKeyOf(relation, message_.old_values) : "";
    if (has_old) ports_.watch.Changed(relation, old_key, transaction_.commit);
    if (has_new) {
      const std::string key = PgKeyOf(relation, message_.new_values);
      ports_.watch.Changed(relation, key.empty() ? old_key : key, transaction_.commit);
    }
  }
  if (all_known) return absl::OkStatus();
  const Lsn commit = transaction_.commit;
  if (!relation.wanted) {
    position_.commit = commit;
    position_.index = second;
    return absl::OkStatus();
  }
  const PgOldRow old{message_.old_kind, message_.old_values};
  const std::vector<PgValue>& row = message_.new_values;
  PostgresEvents& events = ports_.events;
  if (moves) {
    if (!known) {
      Add(commit, index, batch, grown,
          [&] { return events.AddKeyDeleted(relation, old, row, transaction_, index, batch); });
    }
    Add(commit, second, batch, grown,
        [&] { return events.AddKeyCreated(relation, old, row, transaction_, second, batch); });
    return absl::OkStatus();
  }
  Add(commit, index, batch, grown, [&] {
    switch (message_.kind) {
      case PgKind::kInsert:
        return events.AddCreated(relation, row, transaction_, index, batch);
      case PgKind::kDelete:
        return events.AddDeleted(relation, old, transaction_, index, batch);
      default:
        return events.AddUpdated(relation, old, row, transaction_, index, batch);
    }
  });
  return absl::OkStatus();
}

absl::Status TransactionStream::Truncate(SourceBatch& batch, std::size_t& grown) {
  if (!in_transaction_) return Broken("a truncation outside of a transaction");
  for (const std::uint32_t oid : message_.relations) {
    std::uint64_t index = 0;
    const bool known = Known(index);
    const auto found = relations_.find(oid);
    if (found == relations_.end() || !found->second->wanted) continue;
    if (ports_.watch.Wants(*found->second)) {
      ports_.watch.Truncated(*found->second, transaction_.commit);
    }
    if (known) continue;
    Add(transaction_.commit, index, batch, grown, [&] {
      return ports_.events.AddTruncated(*found->second, message_.cascade, message_.restart_identity,
                                        transaction_, index, batch);
    });
  }
  return absl::OkStatus();
}

void TransactionStream::Message(SourceBatch& batch, std::size_t& grown) {
  if (message_.transactional) {
    std::uint64_t index = 0;
    if (Known(index) || !options_.messages) return;
    Add(transaction_.commit, index, batch, grown,
        [&] { return ports_.events.AddMessage(message_, transaction_, index, batch); });
    return;
  }
  // Its LSN is its end, where the next commit may begin: its own place is the byte before.
  const Lsn place = message_.lsn - std::min<Lsn>(1, message_.lsn);
  reached_ = std::max(reached_, place);
  if (place <= start_commit_ || !options_.messages) return;
  PgTransaction alone;
  alone.commit = place;
  Add(place, 0, batch, grown, [&] { return ports_.events.AddMessage(message_, alone, 0, batch); });
}

}  // namespace tocsin
