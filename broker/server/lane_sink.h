// LaneSink: an EventSink onto the partition a lane lives on. What the partition calls on its
// shard's executor is posted to the runner's.
//
// If the source was renamed (`was`), the first Attach() copies the old lane's state into the new
// one and then erases the old one, before it answers; what a death leaves of that, the next
// Attach() finishes. A new lane that has a position of its own stays as it is, and so does the old
// one.
//
// Threading: as EventSink says. The shards and the executor outlive the sink; the sink lives until
// the `done` of Detach().

#pragma once

#include <memory>
#include <string>

#include "broker/base/executor.h"
#include "broker/partition/shards.h"
#include "connectors/event_sink.h"

namespace tocsin {

class LaneSink final : public EventSink {
 public:
  // `was` empty: not renamed.
  LaneSink(LaneId lane, std::string was, Shards& shards, Executor& owner);
  ~LaneSink() override;

  void Attach(LaneTraits traits, OnSettled on_settled, AttachDone done) override;
  void Append(const SourceBatch& batch, Done done) override;
  void GiveUp() override;
  void Detach(Done done) override;

  PartitionId partition() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace tocsin
