// RedisList: a list, each element once. Elements are moved to a processing list of the source's
// own, and leave it when they are durable.
//
//   position             `list <n>`: elements 1 to n are durable
//   <processing>         what is not known to be durable, the oldest at the right end
//   <processing>:done    how many elements have left it
//   <processing>:owner   rises with each connection; what an earlier one still had under way when
//   it
//                        died is refused by the server
//
// Moving and leaving are scripts, so each is one step of the server. After a crash on either side
// it is known which elements of the processing list are in the journal already: each is appended
// exactly once. If Redis lost its counter (flushed, or a replica without it) the numbers go on from
// the journal's, and what the processing list holds is taken again.
//
// Nothing blocks in the server: a connection that died while it waited could still move an element.
// So an idle list is asked every 5 to 100 ms.
//
// Threading: as BlockingConnector says.

#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "connectors/blocking_connector.h"
#include "connectors/redis/redis_link.h"
#include "connectors/redis/redis_record.h"

namespace tocsin {

class RedisList final : public BlockingConnector {
 public:
  RedisList(const RedisSpec& spec, RedisRecords records, Ports ports);
  ~RedisList() override { StopLane(); }

 protected:
  absl::Status ConnectNow(const LaneState& restored) override;
  absl::StatusOr<SourceBatch> PollNow(Instant until) override;
  absl::Status CommitNow(const SourcePosition& position) override;

 private:
  // Elements up to `number` leave the processing list.
  absl::Status Release(std::uint64_t number);
  absl::Status FetchLeftOver();
  absl::Status FetchNew();

  const RedisSpec spec_;
  const RedisRecords records_;
  const std::string processing_, counter_, owner_key_;

  std::unique_ptr<RedisLink> link_;
  std::string token_;            // of this connection
  std::uint64_t taken_ = 0;      // number of the last element given
  std::uint64_t released_ = 0;   // elements that have left the processing list
  std::uint64_t left_over_ = 0;  // elements of an earlier life, not fetched yet
  std::deque<std::string> fetched_;
  std::size_t count_ = 64;
};

}  // namespace tocsin
