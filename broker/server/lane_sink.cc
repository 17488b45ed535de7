#include "broker/server/lane_sink.h"

#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "broker/partition/lane.h"

namespace tocsin {
namespace {

// Of a renamed lane's entries, in one batch.
constexpr std::size_t kTakenOverAtOnce = 2000;
constexpr std::size_t kTakenOverBytes = std::size_t{1} << 20;

SettledAs ToSettledAs(LaneSettledAs as) {
  switch (as) {
    case LaneSettledAs::kAcked:
      return SettledAs::kAcked;
    case LaneSettledAs::kUnmatched:
      return SettledAs::kUnmatched;
    case LaneSettledAs::kDead:
      return SettledAs::kDead;
  }
  return SettledAs::kDead;
}

LaneBatch ToLaneBatch(const LaneId& lane, LaneTraits traits, const SourceBatch& batch) {
  LaneBatch out;
  out.lane = lane;
  out.events.reserve(batch.events.size());
  for (const Event& event : batch.events) out.events.push_back(event.bytes());
  for (const UndecodableRecord& record : batch.undecodable) {
    out.undecodable.push_back({record.bytes, record.reason});
  }
  out.position = batch.position.value;
  for (const LaneStatePut& put : batch.puts) out.puts.emplace_back(put.key, put.value);
  out.erases = batch.erases;
  out.dedupe = traits.dedupe;
  out.wants_settled = traits.wants_settled;
  return out;
}

LaneState ToLaneState(StoredLaneState stored) {
  return {SourcePosition{std::move(stored.position)}, std::move(stored.entries)};
}

}  // namespace

// Kept alive by whatever is posted somewhere.
struct LaneSink::Impl final : public LaneListener, std::enable_shared_from_this<LaneSink::Impl> {
  Impl(LaneId lane_in, std::string was_in, Shards& shards_in, Executor& owner_in)
      : lane(std::move(lane_in)),
        old{std::move(was_in), lane.key},
        shards(shards_in),
        owner(owner_in),
        home(PartitionOfLane(lane, shards.partition_count())),
        old_home(PartitionOfLane(old, shards.partition_count())) {}

  // On the shard's executor.
  void OnSettled(std::span<const LaneSettled> events) override;

  void Restored(StoredLaneState stored, AttachDone done);
  void Compare(LaneState stored, StoredLaneState old);
  void PutNext();
  void EraseNext();
  void FinishTaking(absl::StatusOr<LaneState> answer);
  void Submit(PartitionId to, LaneBatch batch, Done done);

  const LaneId lane;
  const LaneId old;  // no source: it was not renamed
  Shards& shards;
  Executor& owner;
  const PartitionId home, old_home;

  // Of the owner's executor.
  LaneTraits traits;
  EventSink::OnSettled on_settled;
  std::deque<LaneStatePut> to_put;   // of a lane that is being taken over
  std::deque<std::string> to_erase;  // there, once they are here
  LaneState taken;
  AttachDone taken_done;
};

void LaneSink::Impl::OnSettled(std::span<const LaneSettled> events) {
  std::map<LaneSettledAs, std::vector<LaneEventRef>> by_end;
  for (const LaneSettled& event : events) {
    by_end[event.as].push_back({event.offset, event.event_id});
  }
  owner.Post([self = shared_from_this(), by_end = std::move(by_end)]() mutable {
    if (self->on_settled == nullptr) return;
    for (auto& [as, refs] : by_end) self->on_settled(std::move(refs), ToSettledAs(as));
  });
}

// On the owner's executor.
void LaneSink::Impl::Restored(StoredLaneState stored, AttachDone done) {
  if (old.source.empty()) return done(ToLaneState(std::move(stored)));
  taken_done = std::move(done);
  shards.Post(old_home,
              [self = shared_from_this(), stored = std::move(stored)](Partition& owner_of) mutable {
                StoredLaneState found = owner_of.StoredLane(self->old);
                owner_of.OnceDurable([self, stored = ToLaneState(std::move(stored)),
                                      found = std::move(found)](absl::Status status) mutable {
                  self->owner.Post([self, stored = std::move(stored), found = std::move(found),
                                    status = std::move(status)]() mutable {
                    if (!status.ok()) return self->FinishTaking(std::move(status));
                    self->Compare(std::move(stored), std::move(found));
                  });
                });
              });
}

// Copied, then erased: a state that is left would be copied again after `sources forget`, or win
// when the name is changed back. Two that are equal are what a death between the two leaves, as
// nothing is read before the end; entries without a position, one during the erasing.
void LaneSink::Impl::Compare(LaneState stored, StoredLaneState found) {
  const bool fresh = stored.position.value.empty();
  const bool copied =
      !fresh && found.position == stored.position.value && found.entries == stored.entries;
  const bool erasing = !fresh && found.position.empty() && !found.entries.empty();
  const bool to_take = fresh && !found.position.empty();
  if (!to_take && !copied && !erasing) return FinishTaking(std::move(stored));
  to_put.clear();
  to_erase.clear();
  for (const auto& [key, value] : found.entries) to_erase.push_back(key);
  if (!to_take) {
    taken = std::move(stored);
    return EraseNext();
  }
  taken = ToLaneState(std::move(found));
  for (const auto& [key, value] : taken.entries) to_put.push_back({key, value});
  PutNext();
}

// The position comes last: until it is there, the next Attach() begins anew.
void LaneSink::Impl::PutNext() {
  LaneBatch batch;
  batch.lane = lane;
  batch.asked = true;
  std::size_t bytes = 0;
  while (!to_put.empty() && batch.puts.size() < kTakenOverAtOnce && bytes < kTakenOverBytes) {
    LaneStatePut& put = to_put.front();
    bytes += put.key.size() + put.value.size();
    batch.puts.emplace_back(std::move(put.key), std::move(put.value));
    to_put.pop_front();
  }
  const bool last = to_put.empty();
  if (last) batch.position = taken.position.value;
  Submit(home, std::move(batch), [self = shared_from_this(), last](const absl::Status& status) {
    if (!status.ok()) {
      self->FinishTaking(absl::UnavailableError(status.message()));
    } else if (last) {
      self->EraseNext();
    } else {
      self->PutNext();
    }
  });
}

// The position goes first: without it, entries that are left are not believed.
void LaneSink::Impl::EraseNext() {
  LaneBatch batch;
  batch.lane = old;
  batch.asked = true;
  while (!to_erase.empty() && batch.erases.size() < kTakenOverAtOnce) {
    batch.erases.push_back(std::move(to_erase.front()));
    to_erase.pop_front();
  }
  const bool last = to_erase.empty();
  Submit(old_home, std::move(batch), [self = shared_from_this(), last](const absl::Status& status) {
    if (!status.ok()) {
      self->FinishTaking(absl::UnavailableError(status.message()));
    } else if (last) {
      self->FinishTaking(std::move(self->taken));
    } else {
      self->EraseNext();
    }
  });
}

void LaneSink::Impl::FinishTaking(absl::StatusOr<LaneState> answer) {
  std::exchange(taken_done, nullptr)(std::move(answer));
}

void LaneSink::Impl::Submit(PartitionId to, LaneBatch batch, Done done) {
  // Of two owners: this call, if the batch is refused, and the partition, if it is taken.
  const auto shared = std::make_shared<Done>(std::move(done));
  batch.done = [self = shared_from_this(), shared](absl::Status status) {
    self->owner.Post(
        [shared, status = std::move(status)]() mutable { (*shared)(std::move(status)); });
  };
  absl::Status taken_in = shards.TryAppendLane(to, batch);
  if (taken_in.ok()) return;
  owner.Post(
      [shared, taken_in = std::move(taken_in)]() mutable { (*shared)(std::move(taken_in)); });
}

LaneSink::LaneSink(LaneId lane, std::string was, Shards& shards, Executor& owner)
    : impl_(std::make_shared<Impl>(std::move(lane), std::move(was), shards, owner)) {}

LaneSink::~LaneSink() = default;

PartitionId LaneSink::partition() const { return impl_->home; }

void LaneSink::Attach(LaneTraits traits, OnSettled on_settled, AttachDone done) {
  impl_->traits = traits;
  impl_->on_settled = std::move(on_settled);
  impl_->shards.Post(impl_->home, [impl = impl_, wants = traits.wants_settled,
                                   done = std::move(done)](Partition& partition) mutable {
    StoredLaneState stored = partition.AttachLane(impl->lane, wants ? impl.get() : nullptr);
    // A connector may confirm to the outside what it is told here.
    partition.OnceDurable(
        [impl, stored = std::move(stored), done = std::move(done)](absl::Status status) mutable {
          impl->owner.Post([impl, stored = std::move(stored), done = std::move(done),
                            status = std::move(status)]() mutable {
            if (!status.ok()) return done(std::move(status));
            impl->Restored(std::move(stored), std::move(done));
          });
        });
  });
}

void LaneSink::Append(const SourceBatch& batch, Done done) {
  impl_->Submit(impl_->home, ToLaneBatch(impl_->lane, impl_->traits, batch), std::move(done));
}

void LaneSink::GiveUp() {
  impl_->shards.Post(impl_->home,
                     [impl = impl_](Partition& partition) { partition.LeaveLane(impl->lane); });
}

void LaneSink::Detach(Done done) {
  impl_->on_settled = nullptr;
  impl_->shards.Post(
      impl_->home, [impl = impl_, done = std::move(done)](Partition& partition) mutable {
        partition.DetachLane(impl->lane);
        impl->owner.Post([done = std::move(done)]() mutable { done(absl::OkStatus()); });
      });
}

}  // namespace tocsin
