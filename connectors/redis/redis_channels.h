// RedisChannels: what is published on channels, and the server's notifications about its keys: at
// most once until it is in the journal, because the server keeps nothing. What is published while
// the connection is down is lost; a reconnection is noted.
//
// Threading: as BlockingConnector says.

#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "connectors/blocking_connector.h"
#include "connectors/redis/redis_link.h"
#include "connectors/redis/redis_record.h"

namespace tocsin {

class RedisChannels final : public BlockingConnector {
 public:
  RedisChannels(const RedisSpec& spec, RedisRecords records, Ports ports);
  ~RedisChannels() override { StopLane(); }

 protected:
  absl::Status ConnectNow(const LaneState& restored) override;
  absl::StatusOr<SourceBatch> PollNow(Instant until) override;
  absl::Status CommitNow(const SourcePosition&) override { return absl::OkStatus(); }

 private:
  absl::Status CheckNotifications();
  absl::Status Subscribe(const std::vector<std::string>& channels,
                         const std::vector<std::string>& patterns);
  std::size_t Add(const redisReply* reply, SourceBatch& batch);

  const RedisSpec spec_;
  const RedisRecords records_;
  const std::string key_prefix_;  // of the channels of notifications

  std::unique_ptr<RedisLink> link_;
  std::deque<RedisReply> early_;  // came while it was still subscribing
  bool subscribed_before_ = false;
  std::string life_;  // makes ids unique across connections
  std::uint64_t count_ = 0;
  Instant heard_;
  bool asked_ = false;  // PING is outstanding
};

}  // namespace tocsin
