// RedisStream: a stream read by this source alone, exactly once: the lane's position holds the id
// of the last entry, and how many entries had been added up to it, by which trimming and a stream
// made anew are noticed.
//
//   position   `stream <last id> <entries read> <first id seen>`
//
// Each fetch looks at the stream and reads it in one transaction, so what was trimmed between two
// fetches is counted exactly (from Redis 7 on; before, only that it is possible is known):
//   entries that were lost     refused, kFailedPrecondition; with `on_gap: continue` passed,
//   counted
//                              and noted
//   a stream that is gone      kNotFound
//   a stream that is another   kFailedPrecondition: its ids or its count end before the position
//
// Threading: as BlockingConnector says.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "connectors/blocking_connector.h"
#include "connectors/redis/redis_link.h"
#include "connectors/redis/redis_record.h"

namespace tocsin {

struct StreamPosition {
  std::string last = "0-0";
  std::uint64_t read = 0;  // entries ever added up to `last`
  std::string first;       // of the stream when it was begun
};
std::string EncodeStreamPosition(const StreamPosition& position);
std::optional<StreamPosition> DecodeStreamPosition(std::string_view text);

// -1, 0, 1; ids are `<number>-<number>`. An id that is none counts as 0-0.
int CompareEntryIds(std::string_view a, std::string_view b);

// What XINFO STREAM says.
struct StreamFacts {
  std::uint64_t length = 0;
  std::string first;                   // of the entries that are there; empty: none
  std::string last_generated;          // of all that ever were
  std::string last_deleted;            // by XDEL
  std::optional<std::uint64_t> added;  // ever; from Redis 7 on
};
StreamFacts FactsOf(const redisReply* info);

// How the stream stands to a position. Pure.
struct StreamVerdict {
  enum class Kind { kGoesOn, kGap, kMaybeGap, kAnother } kind = Kind::kGoesOn;
  std::uint64_t lost = 0;  // kGap
};
StreamVerdict JudgeStream(const StreamFacts& facts, const StreamPosition& position);

class RedisStream final : public BlockingConnector {
 public:
  RedisStream(const RedisSpec& spec, RedisRecords records, Ports ports);
  ~RedisStream() override { StopLane(); }

 protected:
  absl::Status ConnectNow(const LaneState& restored) override;
  absl::StatusOr<SourceBatch> PollNow(Instant until) override;
  absl::Status CommitNow(const SourcePosition&) override { return absl::OkStatus(); }

 private:
  absl::Status Begin();
  void Ask(std::string_view after);
  absl::Status Fetch();
  absl::Status Judge(const StreamFacts& facts);
  absl::Status WaitForEntry(Instant until);
  SourceBatch TakeBatch();
  bool HasFetched() const { return next_ < fetched_count_; }

  const RedisSpec spec_;
  const RedisRecords records_;

  std::unique_ptr<RedisLink> link_;
  StreamPosition position_;
  bool begun_ = false;      // the position means something
  bool announce_ = false;   // it is to be made durable before the first event
  bool waiting_ = false;    // an answer to XREAD BLOCK is outstanding
  bool asked_ = false;      // the answers to the next fetch are
  std::uint64_t lost_ = 0;  // since the start
  RedisReply fetched_;      // the entries of the last fetch
  const redisReply* entries_ = nullptr;
  std::size_t next_ = 0, fetched_count_ = 0;
  std::size_t count_ = 100;  // entries of the next fetch
  std::size_t asked_count_ = 0;
};

}  // namespace tocsin
