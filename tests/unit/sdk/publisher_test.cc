// The publisher against a broker that refuses, repeats and goes away.

#include "sdk/cpp/publisher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <chrono>
#include <set>

#include "tests/unit/sdk/fake_broker.h"

namespace tocsin::sdk {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

Event Numbered(int number) {
  Event event("order.paid", "/shop");
  event.set_id(std::to_string(number));
  return event;
}

// Stores what it accepts, once per id, in order.
struct Store {
  std::mutex mutex;
  std::vector<std::string> ids;
  std::set<std::string> known;

  void Accept(const v1::PublishRequest& request, v1::PublishResponse* response) {
    const std::lock_guard lock(mutex);
    response->set_accepted(static_cast<std::uint32_t>(request.events_size()));
    for (int i = 0; i < request.events_size(); ++i) {
      Take(request, i, response);
    }
  }
  void Take(const v1::PublishRequest& request, int i, v1::PublishResponse* response) {
    const std::string& id = request.events(i).id();
    if (known.insert(id).second) {
      ids.push_back(id);
    } else {
      v1::EventResult& result = *response->add_exceptions();
      result.set_index(static_cast<std::uint32_t>(i));
      result.set_duplicate(true);
      result.mutable_first()->set_offset(9);
    }
  }
};

class PublisherTest : public ::testing::Test {
 protected:
  PublisherOptions Options() {
    PublisherOptions options;
    options.connection = broker_.Connection();
    return options;
  }
  std::vector<std::string> Expected(int count) {
    std::vector<std::string> ids;
    for (int i = 0; i < count; ++i) {
      ids.push_back(std::to_string(i));
    }
    return ids;
  }

  Store store_;
  FakeBroker broker_;
};

TEST_F(PublisherTest, BatchesByItselfAndKeepsTheOrder) {
  std::atomic<int> requests = 0;
  broker_.set_on_publish([&](const auto& request, auto* response) {
    ++requests;
    store_.Accept(request, response);
    return true;
  });
  Publisher publisher(Options());
  std::atomic<int> stored = 0;
  for (int i = 0; i < 5000; ++i) {
    publisher.Publish(Numbered(i),
                      [&](const PublishResult& result) { stored += result.status.ok(); });
  }
  ASSERT_TRUE(publisher.Flush(kTestPatience));
  EXPECT_EQ(stored, 5000);
  EXPECT_EQ(store_.ids, Expected(5000));
  EXPECT_LT(requests, 2500);
}

// Two small requests are under way at most: what is published meanwhile goes together. The broker
// answers nothing until all is published, with time for each to be sent by itself.
TEST_F(PublisherTest, WhatIsPublishedBehindTwoSmallRequestsGoesTogether) {
  constexpr int kEvents = 100;  // less than half of what a request takes
  TestQueue<int> sizes;
  TestQueue<int> answer;
  broker_.set_on_publish([&](const auto& request, auto* response) {
    sizes.Push(request.events_size());
    answer.Pop();
    store_.Accept(request, response);
    return true;
  });
  Publisher publisher(Options());
  std::vector<std::future<PublishResult>> results;
  for (int i = 0; i < kEvents; ++i) {
    results.push_back(publisher.Publish(Numbered(i)));
    // Time to send it, which it is not to take.
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
    while (std::chrono::steady_clock::now() < until) sched_yield();
  }
  for (int i = 0; i < kEvents; ++i) answer.Push(1);
  for (auto& result : results) EXPECT_TRUE(result.get().status.ok());
  sizes.Close();
  int requests = 0;
  while (sizes.Pop()) ++requests;
  EXPECT_LE(requests, 3);
  EXPECT_EQ(store_.ids, Expected(kEvents));
}

TEST_F(PublisherTest, ADuplicateIsASuccessAndSaysWhereItsFirstIs) {
  broker_.set_on_publish([&](const auto& request, auto* response) {
    store_.Accept(request, response);
    return true;
  });
  Publisher publisher(Options());
  EXPECT_FALSE(publisher.Publish(Numbered(1)).get().duplicate);
  const PublishResult again = publisher.Publish(Numbered(1)).get();
  EXPECT_TRUE(again.status.ok());
  EXPECT_TRUE(again.duplicate);
  EXPECT_EQ(again.offset, 9U);
}

TEST_F(PublisherTest, ARefusedEventFailsAloneWithTheBrokersWords) {
  broker_.set_on_publish([&](const v1::PublishRequest& request, v1::PublishResponse* response) {
    for (int i = 0; i < request.events_size(); ++i) {
      if (request.events(i).id() == "1") {
        v1::EventResult& result = *response->add_exceptions();
        result.set_index(static_cast<std::uint32_t>(i));
        result.set_code(3);
        result.set_error("the type is empty");
      }
    }
    return true;
  });
  Publisher publisher(Options());
  const std::vector<Event> events = {Numbered(0), Numbered(1), Numbered(2)};
  const std::vector<PublishResult> results = publisher.PublishBatch(events);
  ASSERT_THAT(results, SizeIs(3));
  EXPECT_TRUE(results[0].status.ok());
  EXPECT_EQ(results[1].status, absl::InvalidArgumentError("the type is empty"));
  EXPECT_TRUE(results[2].status.ok());
}

// The danger: gRPC refuses the message before any answer, and it is sent again for ever, with
// everything behind it.
TEST_F(PublisherTest, AnEventThatNoBrokerTakesFailsAtOnceAndAlone) {
  broker_.set_on_publish([&](const auto& request, auto* response) {
    store_.Accept(request, response);
    return true;
  });
  Publisher publisher(Options());
  const PublishResult huge =
      publisher.Publish(Numbered(0).SetText(std::string(9 << 20, 'x'))).get();
  EXPECT_EQ(huge.status.code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(publisher.Publish(Numbered(1)).get().status.ok());
}

// The danger: what was sent behind a refused batch overtakes it.
TEST_F(PublisherTest, RefusalsForWantOfRoomAreSentAgainInOrder) {
  bool refusing = false;
  int refusals_left = 3;
  int received = 0;
  broker_.set_on_publish([&](const v1::PublishRequest& request, v1::PublishResponse* response) {
    if (request.from_refused()) {
      refusing = false;
    }
    if (!refusing && refusals_left > 0 && ++received % 4 == 0) {
      refusing = true;
      --refusals_left;
    }
    if (refusing) {
      for (int i = 0; i < request.events_size(); ++i) {
        v1::EventResult& result = *response->add_exceptions();
        result.set_index(static_cast<std::uint32_t>(i));
        result.set_code(8);
        result.set_retry_after_ms(1);
      }
      return true;
    }
    store_.Accept(request, response);
    return true;
  });
  PublisherOptions options = Options();
  options.batch_events_max = 50;
  Publisher publisher(options);
  for (int i = 0; i < 3000; ++i) {
    publisher.Publish(Numbered(i), nullptr);
  }
  ASSERT_TRUE(publisher.Flush(kTestPatience));
  EXPECT_EQ(refusals_left, 0);
  EXPECT_EQ(store_.ids, Expected(3000));
}

// The danger: an answer is lost with the connection, and the event is stored twice or never.
TEST_F(PublisherTest, LostConnectionsLoseNothingAndRepeatNothing) {
  int received = 0;
  broker_.set_on_publish([&](const v1::PublishRequest& request, v1::PublishResponse* response) {
    store_.Accept(request, response);
    return ++received % 5 != 0;  // stored, but the stream ends without the answer
  });
  PublisherOptions options = Options();
  options.batch_events_max = 40;
  Publisher publisher(options);
  std::atomic<int> stored = 0;
  for (int i = 0; i < 2000; ++i) {
    publisher.Publish(Numbered(i),
                      [&](const PublishResult& result) { stored += result.status.ok(); });
  }
  ASSERT_TRUE(publisher.Flush(kTestPatience));
  EXPECT_EQ(stored, 2000);
  EXPECT_EQ(store_.ids, Expected(2000));
}

// The danger: events that wait behind a request that cannot be read are reported as malformed, too.
TEST_F(PublisherTest, OnlyTheRequestThatCannotBeReadFails) {
  broker_.set_publish_status({grpc::StatusCode::INVALID_ARGUMENT, "a malformed request"});
  broker_.set_on_publish([&](const v1::PublishRequest& request, v1::PublishResponse* response) {
    if (request.events(0).id() == "1") return false;
    store_.Accept(request, response);
    return true;
  });
  PublisherOptions options = Options();
  options.batch_events_max = 1;
  Publisher publisher(options);
  std::vector<std::future<PublishResult>> results;
  for (int i = 0; i < 20; ++i) results.push_back(publisher.Publish(Numbered(i)));
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(results[i].wait_for(kTestPatience), std::future_status::ready) << i;
    const PublishResult result = results[i].get();
    EXPECT_EQ(result.status.ok(), i != 1) << i << ": " << result.status;
    if (i == 1) {
      EXPECT_EQ(result.status.message(), "a malformed request");
    }
  }
}

TEST_F(PublisherTest, CloseAnswersWhatTheBrokerDoesNot) {
  broker_.Stop();
  Publisher publisher(Options());
  std::future<PublishResult> waiting = publisher.Publish(Numbered(1));
  publisher.Close(std::chrono::milliseconds(1));
  EXPECT_EQ(waiting.get().status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(publisher.Publish(Numbered(2)).get().status.code(), absl::StatusCode::kCancelled);
}

TEST_F(PublisherTest, PositionsComeWhenAskedFor) {
  broker_.set_on_publish([&](const v1::PublishRequest& request, v1::PublishResponse* response) {
    for (int i = 0; i < request.events_size(); ++i) {
      response->add_refs()->set_offset(40);
    }
    return true;
  });
  PublisherOptions options = Options();
  options.positions = true;
  Publisher publisher(options);
  const PublishResult result = publisher.Publish(Numbered(1)).get();
  EXPECT_TRUE(result.has_position);
  EXPECT_EQ(result.offset, 40U);
}

}  // namespace
}  // namespace tocsin::sdk
