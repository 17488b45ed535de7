#include "sdk/cpp/test_broker.h"

#include <algorithm>

#include "sdk/cpp/engine.h"

namespace tocsin::sdk {

TestBroker::TestBroker(Worker& worker, TestBrokerOptions options)
    : engine_(*worker.engine_), options_(options) {}

TestBroker::Outcome TestBroker::Emit(const std::string& function, const Event& event) {
  Outcome outcome;
  const std::uint64_t offset = next_offset_++;
  std::chrono::milliseconds backoff = options_.backoff;
  while (true) {
    ++outcome.attempts;
    internal::Running running;
    running.delivery.handle = 1;
    running.delivery.offset = offset;
    running.delivery.attempt = outcome.attempts;
    running.delivery.lease_ms = static_cast<std::uint32_t>(options_.timeout.count());
    running.delivery.trigger_name = engine_.Intern("test");
    running.lease_ms = options_.timeout.count();
    const std::optional<Result> result = engine_.Call(function, event, running);
    if (!result.has_value()) {
      outcome.reason = "the worker does not serve the function " + function;
      break;
    }
    if (result->kind != Result::Kind::kRetry) {
      for (std::string& encoded : running.emitted) {
        outcome.emitted.push_back(Event::FromEncoded(std::move(encoded)));
      }
      emitted_.insert(emitted_.end(), outcome.emitted.begin(), outcome.emitted.end());
    }
    if (result->kind == Result::Kind::kAck) {
      outcome.kind = Outcome::Kind::kAcked;
      return outcome;
    }
    if (result->kind == Result::Kind::kDrop) {
      outcome.kind = Outcome::Kind::kDropped;
      outcome.reason = result->message;
      return outcome;
    }
    if (result->kind == Result::Kind::kReject) {
      outcome.reason = "rejected: " + result->message;
      break;
    }
    if (outcome.attempts >= options_.attempts) {
      outcome.reason = "exhausted: " + result->message;
      break;
    }
    outcome.delays.push_back(result->after.count() > 0 ? result->after : backoff);
    backoff = std::min(options_.max_backoff,
                       std::chrono::milliseconds(static_cast<std::int64_t>(
                           static_cast<double>(backoff.count()) * options_.factor)));
  }
  dead_letters_.push_back({function, event, outcome.reason, outcome.attempts});
  return outcome;
}

}  // namespace tocsin::sdk
