// RedisGroup: a stream read as a member of a group, so that several brokers share it: at least
// once. The group keeps the place; the lane's position names batches, and what was read last: a
// group that was there and is gone is refused, not made anew.
//
// What this member was given and never acknowledged is read first, then what comes; what other
// members hold for longer than `claim_after` is claimed. All of it passes the broker's dedupe set.
// XACK follows when a batch is durable.
//
// Threading: as BlockingConnector says.

#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "connectors/blocking_connector.h"
#include "connectors/redis/redis_link.h"
#include "connectors/redis/redis_record.h"

namespace tocsin {

class RedisGroup final : public BlockingConnector {
 public:
  RedisGroup(const RedisSpec& spec, RedisRecords records, Ports ports);
  ~RedisGroup() override { StopLane(); }

  LaneTraits traits() const override { return {.dedupe = true, .wants_settled = false}; }

 protected:
  absl::Status ConnectNow(const LaneState& restored) override;
  absl::StatusOr<SourceBatch> PollNow(Instant until) override;
  absl::Status CommitNow(const SourcePosition& position) override;

 private:
  struct Given {
    std::string position;
    std::vector<std::string> ids;
  };

  //   kFailedPrecondition  the group is not there; says how to make it behind the position
  absl::Status FindGroup(const std::string& position);
  // `control_` is there. The code and text of RedisLink::Open().
  absl::Status EnsureControl();
  absl::Status ReadOwn();
  absl::Status Claim();
  absl::Status ReadNew(Instant until);
  // Keeps the reply and what in it are entries.
  void Take(RedisReply reply, const redisReply* entries);
  absl::StatusOr<SourceBatch> TakeBatch();
  absl::Status Acknowledge(const std::vector<std::string>& ids);
  void LookAtLag();

  const RedisSpec spec_;
  const RedisRecords records_;

  std::unique_ptr<RedisLink> link_;     // reads, may be blocked in the server
  std::unique_ptr<RedisLink> control_;  // acknowledges and claims meanwhile
  bool own_ = true;                     // what was pending is not read to its end yet
  std::string own_after_;
  std::string claim_after_id_ = "0-0";
  Instant next_claim_, next_look_;
  bool waiting_ = false;
  RedisReply fetched_;
  const redisReply* entries_ = nullptr;
  std::size_t next_ = 0, fetched_count_ = 0;
  std::size_t count_ = 100;
  std::uint64_t batches_ = 0, deleted_ = 0;
  std::deque<Given> given_;     // not acknowledged yet, in order
  std::set<std::string> held_;  // their ids
};

}  // namespace tocsin
