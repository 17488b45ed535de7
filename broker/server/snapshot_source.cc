#include "broker/server/snapshot_source.h"

#include <algorithm>
#include <future>
#include <utility>

#include "broker/base/status.h"
#include "connectors/database/postgres/postgres_request.h"

namespace tocsin {
namespace {

constexpr std::size_t kPutAtOnce = 2000;

}  // namespace

LaneState StateOfSource(const std::string& source, Shards& shards) {
  const LaneId lane{source, ""};
  std::promise<StoredLaneState> told;
  shards.Post(PartitionOfLane(lane, shards.partition_count()),
              [&](Partition& partition) { told.set_value(partition.StoredLane(lane)); });
  StoredLaneState stored = told.get_future().get();
  return {SourcePosition{std::move(stored.position)}, std::move(stored.entries)};
}

absl::Status AskForSnapshot(const std::string& source, const std::vector<std::string>& tables,
                            bool after_gap, Shards& shards) {
  const LaneId lane{source, ""};
  const PartitionId home = PartitionOfLane(lane, shards.partition_count());
  const std::string position = StateOfSource(source, shards).position.value;
  const std::vector<LaneStatePut> puts = PgRequestPuts(tables, after_gap ? position : "");
  // A leave to pass a gap is the last: by then everything that is to be read is asked for.
  for (std::size_t next = 0; next < puts.size();) {
    LaneBatch batch;
    batch.lane = lane;
    batch.asked = true;
    batch.position = position;
    const std::size_t end = std::min(puts.size(), next + kPutAtOnce);
    for (; next < end; ++next) batch.puts.emplace_back(puts[next].key, puts[next].value);
    std::promise<absl::Status> appended;
    batch.done = [&appended](absl::Status status) { appended.set_value(std::move(status)); };
    TOCSIN_RETURN_IF_ERROR(shards.TryAppendLane(home, batch));
    TOCSIN_RETURN_IF_ERROR(appended.get_future().get());
  }
  return absl::OkStatus();
}

}  // namespace tocsin
