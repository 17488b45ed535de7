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

std::string PositionOfSource(const std::string& source, Shards& shards) {
  std::promise<std::vector<PartitionSnapshot>> seen;
  shards.Snapshots(
      [&seen](std::vector<PartitionSnapshot> snapshots) { seen.set_value(std::move(snapshots)); });
  for (const PartitionSnapshot& snapshot : seen.get_future().get()) {
    for (const LaneStatus& lane : snapshot.lanes) {
      if (lane.lane == LaneId{source, ""}) return lane.position;
    }
  }
  return "";
}

absl::Status AskForSnapshot(const std::string& source, const std::vector<std::string>& tables,
                            bool after_gap, Shards& shards) {
  const LaneId lane{source, ""};
  const PartitionId home = PartitionOfLane(lane, shards.partition_count());
  std::promise<std::string> told;
  shards.Post(home, [&](Partition& partition) {
    std::string position = partition.AttachLane(lane, nullptr).position;
    partition.DetachLane(lane);
    told.set_value(std::move(position));
  });
  const std::string position = told.get_future().get();
  const std::vector<LaneStatePut> puts = PgRequestPuts(tables, after_gap ? position : "");
  // A leave to pass a gap is the last: by then everything that is to be read is asked for.
  for (std::size_t next = 0; next < puts.size();) {
    LaneBatch batch;
    batch.lane = lane;
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
