#include "connectors/kafka/kafka_group.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "broker/base/status.h"

namespace tocsin {
namespace {

constexpr int kAskMs = 4000;
constexpr Duration kCommitWait = std::chrono::seconds(10);
constexpr Duration kLeaveWait = std::chrono::seconds(3);
constexpr int kLeavePollMs = 50;

absl::Status StopsNow() { return absl::UnavailableError(": the source stops"); }

}  // namespace

absl::StatusOr<std::shared_ptr<KafkaGroup>> KafkaGroup::Make(const KafkaSpec& spec, Ports ports) {
  std::shared_ptr<KafkaGroup> group(new KafkaGroup(spec, std::move(ports)));
  TOCSIN_RETURN_IF_ERROR(group->Open());
  group->weak_ = group;
  return group;
}

absl::Status KafkaGroup::Open() {
  TOCSIN_ASSIGN_OR_RETURN(KafkaConf conf, MakeKafkaConf(spec_));
  TOCSIN_RETURN_IF_ERROR(SetKafka(*conf, "group.id", spec_.group));
  TOCSIN_RETURN_IF_ERROR(SetKafka(*conf, "partition.assignment.strategy", "cooperative-sticky"));
  rd_kafka_conf_set_opaque(conf.get(), this);
  rd_kafka_conf_set_rebalance_cb(
      conf.get(),
      [](rd_kafka_t*, rd_kafka_resp_err_t error, rd_kafka_topic_partition_list_t* list,
         void* opaque) { static_cast<KafkaGroup*>(opaque)->OnRebalance(error, *list); });
  rd_kafka_conf_set_error_cb(conf.get(),
                             [](rd_kafka_t*, int error, const char* reason, void* opaque) {
                               static_cast<KafkaGroup*>(opaque)->ports_.on_error(
                                   static_cast<rd_kafka_resp_err_t>(error), reason);
                             });
  TOCSIN_ASSIGN_OR_RETURN(handle_, MakeKafkaConsumer(std::move(conf)));
  rd_kafka_poll_set_consumer(handle_.get());
  commits_.reset(rd_kafka_queue_new(handle_.get()));
  return absl::OkStatus();
}

KafkaGroup::~KafkaGroup() {
  commits_.reset();
  // Left already, or the group misses us when the session ends: nothing to wait for.
  rd_kafka_destroy_flags(handle_.release(), RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
}

absl::Status KafkaGroup::Join(OnAssigned on_assigned) {
  on_assigned_ = std::move(on_assigned);
  const KafkaList list(rd_kafka_topic_partition_list_new(static_cast<int>(spec_.topics.size())));
  for (const std::string& topic : spec_.topics) {
    rd_kafka_topic_partition_list_add(list.get(), topic.c_str(), RD_KAFKA_PARTITION_UA);
  }
  return KafkaStatus(rd_kafka_subscribe(handle_.get(), list.get()), spec_.group);
}

void KafkaGroup::Serve() {
  // Records that were fetched before the pause are none of ours.
  while (const KafkaMessage message{rd_kafka_consumer_poll(handle_.get(), 0)}) {
    if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
      ports_.on_error(message->err, rd_kafka_message_errstr(message.get()));
    }
  }
  rd_kafka_queue_poll_callback(commits_.get(), 0);
}

void KafkaGroup::Failed(rd_kafka_error_t* error) {
  if (error == nullptr) return;
  ports_.on_error(rd_kafka_error_code(error), rd_kafka_error_string(error));
  rd_kafka_error_destroy(error);
}

void KafkaGroup::Assign(const rd_kafka_topic_partition_list_t& list) {
  // From the end, so that what comes before the pause is little; where lanes read is their own.
  const KafkaList assigned(rd_kafka_topic_partition_list_copy(&list));
  for (int i = 0; i < assigned->cnt; ++i) assigned->elems[i].offset = RD_KAFKA_OFFSET_END;
  Failed(rd_kafka_incremental_assign(handle_.get(), assigned.get()));
  const rd_kafka_resp_err_t error = rd_kafka_pause_partitions(handle_.get(), assigned.get());
  if (error != RD_KAFKA_RESP_ERR_NO_ERROR) ports_.on_error(error, "pausing");
  assigned_.merge(PartitionsOf(list));
}

// Called by Serve() or Leave().
void KafkaGroup::OnRebalance(rd_kafka_resp_err_t error,
                             const rd_kafka_topic_partition_list_t& list) {
  if (error == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
    Assign(list);
    if (on_assigned_) on_assigned_(assigned_);
    return;
  }
  for (const KafkaPartition& partition : PartitionsOf(list)) {
    assigned_.erase(partition);
    revoking_.insert(partition);
  }
  if (leaving_) {
    released_ = revoking_;
  } else if (on_assigned_) {
    on_assigned_(assigned_);
  }
  FinishRevoke();
}

void KafkaGroup::Released(const KafkaPartition& partition) {
  if (!revoking_.contains(partition)) return;
  released_.insert(partition);
  FinishRevoke();
}

void KafkaGroup::FinishRevoke() {
  if (released_.size() < revoking_.size()) return;
  const KafkaList list = ListOf(revoking_);
  revoking_.clear();
  released_.clear();
  Failed(rd_kafka_incremental_unassign(handle_.get(), list.get()));
}

void KafkaGroup::Leave() {
  leaving_ = true;
  on_assigned_ = nullptr;
  if (!revoking_.empty()) {
    released_ = revoking_;
    FinishRevoke();
  }
  GiveUp();
  const KafkaQueue queue(rd_kafka_queue_new(handle_.get()));
  Failed(rd_kafka_consumer_close_queue(handle_.get(), queue.get()));
  // A coordinator that is away would be waited for much longer.
  const Instant until = ports_.clock.Monotonic() + kLeaveWait;
  while (rd_kafka_consumer_closed(handle_.get()) == 0 && ports_.clock.Monotonic() < until) {
    rd_kafka_queue_poll_callback(queue.get(), kLeavePollMs);
  }
}

void KafkaGroup::GiveUp() {
  given_up_ = true;
  while (!pending_.empty()) Committed(pending_.begin()->first, StopsNow());
}

void KafkaGroup::Commit(const KafkaPartition& partition, std::int64_t next, Done done) {
  if (given_up_) return done(StopsNow());
  const std::uintptr_t number = ++commit_number_;
  pending_.emplace(number, Pending{partition, next, std::move(done)});
  const KafkaList list = ListOf(partition, next);
  const rd_kafka_resp_err_t error = rd_kafka_commit_queue(
      handle_.get(), list.get(), commits_.get(),
      [](rd_kafka_t* handle, rd_kafka_resp_err_t failed, rd_kafka_topic_partition_list_t* answered,
         void* commit) {
        auto* self = static_cast<KafkaGroup*>(rd_kafka_opaque(handle));
        if (failed == RD_KAFKA_RESP_ERR_NO_ERROR && answered != nullptr && answered->cnt > 0) {
          failed = answered->elems[0].err;
        }
        self->Committed(reinterpret_cast<std::uintptr_t>(commit), KafkaStatus(failed, ""));
      },
      reinterpret_cast<void*>(number));  // NOLINT: librdkafka carries it
  if (error != RD_KAFKA_RESP_ERR_NO_ERROR) return Committed(number, KafkaStatus(error, ""));
  ports_.lanes.PostAt(ports_.clock.Monotonic() + kCommitWait, [weak = weak_, number] {
    const auto alive = weak.lock();
    if (alive != nullptr) alive->Committed(number, absl::UnavailableError(": no answer"));
  });
}

void KafkaGroup::Committed(std::uintptr_t number, absl::Status status) {
  const auto found = pending_.find(number);
  if (found == pending_.end()) return;  // given up
  Pending pending = std::move(found->second);
  pending_.erase(found);
  if (!status.ok()) {
    status = absl::Status(status.code(),
                          fmt::format("{}: committing {} to group {}{}", pending.partition.Key(),
                                      pending.next, spec_.group, MessageOf(status)));
  }
  pending.done(std::move(status));
}

absl::StatusOr<std::optional<std::int64_t>> KafkaGroup::AskCommitted(
    const KafkaPartition& partition) const {
  const KafkaList list = ListOf(partition, RD_KAFKA_OFFSET_INVALID);
  rd_kafka_resp_err_t error = rd_kafka_committed(handle_.get(), list.get(), kAskMs);
  if (error == RD_KAFKA_RESP_ERR_NO_ERROR) error = list->elems[0].err;
  if (error != RD_KAFKA_RESP_ERR_NO_ERROR) {
    return KafkaStatus(error,
                       fmt::format("{}: what group {} committed", partition.Key(), spec_.group));
  }
  using Result = std::optional<std::int64_t>;
  return list->elems[0].offset < 0 ? Result() : Result(list->elems[0].offset);
}

}  // namespace tocsin
