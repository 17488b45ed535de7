// Fakes round a Dispatcher: links that remember, a sink and a waker that collect.

#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dispatch/dispatcher.h"
#include "dispatch/worker_session.h"

namespace tocsin {

class FakeLink final : public WorkerLink {
 public:
  void Deliver(std::string_view function, std::span<const OutgoingDelivery> deliveries) override {
    functions.emplace_back(function);
    for (const OutgoingDelivery& delivery : deliveries) {
      delivered.push_back(delivery.handle);
      offsets.push_back(delivery.offset.value());
    }
  }
  void Cancel(std::span<const std::uint64_t> handles) override {
    cancelled.insert(cancelled.end(), handles.begin(), handles.end());
  }
  void Drain(const std::string& reason) override { drained = reason; }

  std::vector<std::string> functions;
  std::vector<std::uint64_t> delivered, offsets, cancelled;
  std::string drained;
};

class FakeSink final : public AnswerSink {
 public:
  void OnAnswers(PartitionId partition, AnswerBatch batch) override {
    batches.emplace_back(partition, std::move(batch));
  }
  std::vector<std::pair<PartitionId, AnswerBatch>> batches;
};

class FakeWaker final : public PartitionWaker {
 public:
  void Wake(PartitionId partition) override { woken.push_back(partition.value()); }
  std::vector<std::uint32_t> woken;
};

class DispatcherFixture : public ::testing::Test {
 protected:
  struct Worker {
    std::shared_ptr<FakeLink> link;
    std::shared_ptr<WorkerSession> session;
  };

  Worker Attach(std::vector<std::string> functions, std::uint32_t events, std::uint32_t bytes = 0) {
    SessionHello hello;
    hello.worker = "w";
    hello.functions = std::move(functions);
    hello.credit = Credit{events, bytes};
    Worker worker;
    worker.link = std::make_shared<FakeLink>();
    worker.session = dispatcher_.Attach(hello, worker.link, now_);
    return worker;
  }

  std::vector<Grant> Exchange(std::uint32_t partition, std::vector<ReadyOffer> offers = {}) {
    std::vector<Grant> grants;
    again_ = dispatcher_.Exchange(PartitionId(partition), offers, now_, grants);
    return grants;
  }
  static std::uint32_t Count(const std::vector<Grant>& grants) {
    std::uint32_t count = 0;
    for (const Grant& grant : grants) count += grant.count;
    return count;
  }

  // Delivers `count` on the grant; gives the handles.
  std::vector<std::uint64_t> Deliver(const Grant& grant, std::uint32_t partition,
                                     std::uint32_t count) {
    std::vector<OutgoingDelivery> deliveries(count);
    for (OutgoingDelivery& delivery : deliveries) {
      delivery.offset = Offset(next_offset_++);
      delivery.token = MakeToken(Epoch(1), static_cast<std::uint32_t>(next_offset_));
      delivery.id = DeliveryId{PartitionId(partition), delivery.offset, TriggerOrdinal(3), 0};
      delivery.event = event_;
    }
    EXPECT_TRUE(grant.session->Deliver(grant, PartitionId(partition), deliveries));
    std::vector<std::uint64_t> handles;
    for (const OutgoingDelivery& delivery : deliveries) handles.push_back(delivery.handle);
    return handles;
  }
  std::vector<std::uint64_t> DeliverAll(const std::vector<Grant>& grants, std::uint32_t partition) {
    std::vector<std::uint64_t> handles;
    for (const Grant& grant : grants) {
      for (const std::uint64_t handle : Deliver(grant, partition, grant.count)) {
        handles.push_back(handle);
      }
    }
    return handles;
  }
  std::uint64_t AckRange(const Worker& worker, std::uint64_t first, std::uint64_t last) {
    FrameAnswers answers;
    answers.acked.push_back(HandleRange{first, last});
    return worker.session->OnAnswers(std::move(answers), now_, {});
  }
  std::vector<std::uint32_t> Woken() { return std::exchange(waker_.woken, {}); }

  Instant now_{std::chrono::seconds(100)};
  std::optional<Instant> again_;  // what the latest Exchange() said
  std::string event_ = "0123456789";
  std::uint64_t next_offset_ = 0;
  FakeSink sink_;
  FakeWaker waker_;
  Dispatcher dispatcher_{sink_, waker_};
};

}  // namespace tocsin
