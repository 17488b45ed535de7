#include "broker/server/forget_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <future>
#include <utility>
#include <vector>

#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr std::size_t kErasedAtOnce = 4000;

absl::Status Append(Shards& shards, PartitionId home, LaneBatch batch) {
  std::promise<absl::Status> appended;
  batch.done = [&appended](absl::Status status) { appended.set_value(std::move(status)); };
  TOCSIN_RETURN_IF_ERROR(shards.TryAppendLane(home, batch));
  return appended.get_future().get();
}

absl::Status ForgetLane(const LaneId& lane, PartitionId home, Shards& shards) {
  std::promise<std::vector<std::string>> told;
  shards.Post(home, [&](Partition& partition) {
    const StoredLaneState stored = partition.StoredLane(lane);
    std::vector<std::string> keys;
    keys.reserve(stored.entries.size());
    for (const auto& [key, value] : stored.entries) keys.push_back(key);
    told.set_value(std::move(keys));
  });
  const std::vector<std::string> keys = told.get_future().get();
  // The position goes first: without it, entries that are left are not believed.
  std::size_t next = 0;
  do {
    LaneBatch batch;
    batch.lane = lane;
    batch.asked = true;
    const std::size_t end = std::min(keys.size(), next + kErasedAtOnce);
    for (; next < end; ++next) batch.erases.push_back(keys[next]);
    TOCSIN_RETURN_IF_ERROR(Append(shards, home, std::move(batch)));
  } while (next < keys.size());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ForgottenLanes> ForgetLanes(const std::string& source, bool dry_run,
                                           Shards& shards) {
  std::promise<std::vector<PartitionSnapshot>> seen;
  shards.Snapshots(
      [&seen](std::vector<PartitionSnapshot> snapshots) { seen.set_value(std::move(snapshots)); });
  ForgottenLanes forgotten;
  for (const PartitionSnapshot& snapshot : seen.get_future().get()) {
    for (const LaneStatus& lane : snapshot.lanes) {
      if (lane.lane.source != source) continue;
      ++forgotten.lanes;
      forgotten.entries += lane.entries;
      if (dry_run) continue;
      const absl::Status done = ForgetLane(lane.lane, snapshot.id, shards);
      if (!done.ok()) {
        return Annotate(done, fmt::format("at lane '{}', the {}. of the source", lane.lane.key,
                                          forgotten.lanes));
      }
    }
  }
  if (forgotten.lanes == 0) {
    return absl::NotFoundError(fmt::format(
        "nothing is remembered of a source `{}`; `tocsin sources` lists what there is", source));
  }
  return forgotten;
}

}  // namespace tocsin
