// Retries as Knative's own tests expect them, as far as both have the concept: exponential waits,
// Retry-After where it is honoured, and how many attempts a delivery gets. Knative's n counts from
// 1 (its first wait is delay * 2), ours is `backoff` itself, so backoff = 2 * delay.

#include <gtest/gtest.h>

#include <string>

#include "dispatch/retry_policy.h"
#include "tests/support/vectors.h"
#include "tests/unit/dispatch/queue_fixture.h"

namespace tocsin {
namespace {

// "PT1.5S"
Duration ParseDelay(const std::string& text) {
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::stod(text.substr(2, text.size() - 3))));
}

class KnativeDeliveryTest : public QueueFixture {
 protected:
  KnativeDeliveryTest() : cases_(ReadVectors("knative/delivery_cases.json")) {}
  nlohmann::json cases_;
};

TEST_F(KnativeDeliveryTest, ExponentialWaits) {
  int checked = 0;
  for (const auto& one : cases_["backoff"]) {
    if (one.contains("error") || one["policy"] != "exponential") continue;
    RetryPolicy policy;
    policy.backoff = 2 * ParseDelay(one["delay"]);
    policy.jitter = Jitter::kNone;
    std::uint32_t failed = 0;
    SeededRandom random(1);
    for (const auto& wait : one["waits_ms"]) {
      EXPECT_EQ(RetryDelay(policy, ++failed, std::nullopt, random),
                milliseconds(wait.get<std::int64_t>()));
      ++checked;
    }
  }
  EXPECT_GE(checked, 10);
}

TEST_F(KnativeDeliveryTest, RetryAfterWinsOverBackoff) {
  int checked = 0;
  for (const auto& one : cases_["retry_after"]) {
    const bool sent = !one["retry_after_value_s"].is_null();
    // Without a maximum Knative ignores the header, with a small one it cuts: its options, not
    // ours.
    if (one["retry_after_max_s"].is_null() ||
        (sent && one["retry_after_max_s"] < one["retry_after_value_s"])) {
      continue;
    }
    const int status = one["status"];
    if (status != 429 && status != 503) continue;
    RetryPolicy policy;
    policy.backoff = seconds(one["normal_backoff_s"].get<int>());
    policy.jitter = Jitter::kNone;
    std::optional<Duration> after;
    if (sent) after = seconds(one["retry_after_value_s"].get<int>());
    SeededRandom random(1);
    EXPECT_EQ(RetryDelay(policy, 1, after, random), seconds(one["expected_backoff_s"].get<int>()))
        << one["name"];
    ++checked;
  }
  EXPECT_GE(checked, 4);
}

TEST_F(KnativeDeliveryTest, AttemptsAreRetriesAndOne) {
  policy_.retry.backoff = Duration{0};
  int checked = 0;
  for (const auto& one : cases_["delivery_attempts"]) {
    // A trigger's own delivery, even an empty one, replaces the broker's.
    const auto& delivery = one["trigger"].is_null() ? one["broker"] : one["trigger"];
    const std::uint32_t retries = delivery.is_object() && delivery.contains("retry")
                                      ? delivery["retry"].get<std::uint32_t>()
                                      : 0;
    policy_.retry.attempts_max = retries + 1;
    Make();
    Admit(0);
    std::uint32_t attempts = 0;
    while (queue().ready_count() > 0) {
      const Lease lease = Take()[0];
      EXPECT_EQ(lease.attempt, ++attempts);
      EXPECT_EQ(Answer(lease, Retry{}), AnswerResult::kApplied);
      queue().AttemptDurable(Offset(0), attempts);
    }
    EXPECT_EQ(attempts, one["attempts"].get<std::uint32_t>());
    EXPECT_EQ(queue().dead_count(), 1u);
    ++checked;
  }
  EXPECT_EQ(checked, 7);
}

}  // namespace
}  // namespace tocsin
