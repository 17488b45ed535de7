// KafkaLane: one partition of a topic.
//
// The lane reads on from its position; with a group from the later of that and the offset that the
// group has committed, and commits what is durable. At the start it looks whether that fits:
//
//   another cluster, or a topic that ends before the position     kFailedPrecondition
//   the record before the position is another than it was         kFailedPrecondition: made anew
//   records behind the position expired unread                    kFailedPrecondition, or passed
//   and
//                                                                 counted with `on_gap: continue`
//
// While it reads, it asks every `discover` whether something before its position is newer than all
// that it read; then it reads a record again that it knows. If that is another now, the topic was
// made anew meanwhile: this is durable as an entry of the lane and refused from then on.
//
// A lane waits for nothing: the library's queue tells when there are records. Fetching stops when
// nobody polls and the queue is full.
//
// Threading: as SourceConnector says. All work is done on the client's `lanes`, what may block on
// its `control`; both outlive the lane.

#pragma once

#include <memory>

#include "connectors/kafka/kafka_client.h"
#include "connectors/record_event.h"
#include "connectors/source_connector.h"

namespace tocsin {

class KafkaLane final : public SourceConnector {
 public:
  KafkaLane(KafkaPartition partition, std::shared_ptr<KafkaClient> client,
            std::shared_ptr<const RecordMapper> mapper, Executor& owner);
  ~KafkaLane() override;

  void Connect(const LaneState& restored, Done done) override;
  void Poll(Duration wait_max, PollDone done) override;
  void Commit(const SourcePosition& position, Done done) override;
  void Settled(std::span<const LaneEventRef>, SettledAs) override {}
  void Cancel() override;
  LaneReport report() const override;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace tocsin
