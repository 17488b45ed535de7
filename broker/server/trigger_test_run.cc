#include "broker/server/trigger_test_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/event_json.h"
#include "broker/base/status.h"
#include "broker/base/time_text.h"
#include "broker/server/json_part.h"
#include "broker/server/virtual_broker.h"

namespace tocsin {
namespace {

std::string_view AnswerName(TestAnswer answer) {
  switch (answer) {
    case TestAnswer::kAck:
      return "ack";
    case TestAnswer::kRetry:
      return "retry";
    case TestAnswer::kReject:
      return "reject";
    case TestAnswer::kDrop:
      return "drop";
    case TestAnswer::kTimeout:
      return "timeout";
  }
  return "";
}

Outcome OutcomeOf(const AnswerStep& step) {
  switch (step.answer) {
    case TestAnswer::kRetry:
      return Retry{step.code, step.message, step.after};
    case TestAnswer::kReject:
      return Reject{step.message};
    case TestAnswer::kDrop:
      return Drop{step.message};
    default:
      return Ack{};
  }
}

// Trigger and event: in a test both have one name.
using DeliveryName = std::pair<std::string, std::string>;

// What the functions were given, and what they still have to answer.
class ScriptedWorker final : public WorkerLink {
 public:
  ScriptedWorker(const TriggerTest& test, VirtualClock& clock) : test_(test), clock_(clock) {}

  void Deliver(std::string_view function, std::span<const OutgoingDelivery> deliveries) override {
    for (const OutgoingDelivery& delivery : deliveries) {
      EventView view;
      TOCSIN_CHECK(ParseEvent(delivery.event, view).ok(), "a delivery is no event");
      DeliverySeen& seen = seen_[{std::string(delivery.trigger_name), std::string(view.id)}];
      const AnswerStep& step = StepOf(function, view.id, delivery.attempt);
      seen.attempts.push_back(
          {clock_.Wall() - delivery.recorded, std::string(AnswerName(step.answer))});
      seen.received = EventToJson(view);
      seen.outcome = ExpectedOutcome::kPending;
      if (step.answer == TestAnswer::kTimeout) {
        last_handle_ = delivery.handle;
        continue;
      }
      held_.emplace(clock_.Monotonic() + step.takes,
                    Held{delivery.handle, &step, &seen, seen.attempts.size() - 1});
      last_handle_ = delivery.handle;
    }
  }
  void Cancel(std::span<const std::uint64_t>) override {}
  void Drain(const std::string&) override {}

  // What is due is answered; false: nothing was.
  bool Answer(VirtualBroker& broker) {
    const Instant now = clock_.Monotonic();
    bool any = false;
    while (!held_.empty() && held_.begin()->first <= now) {
      const Held held = held_.extract(held_.begin()).mapped();
      FrameAnswers answers;
      answers.started_through = last_handle_;
      answers.others.push_back(
          {held.handle, FencingToken(), OutcomeOf(*held.step), held.step->emit});
      const std::uint64_t stale = broker.session().OnAnswers(std::move(answers), now, nullptr);
      AttemptSeen& attempt = held.seen->attempts[held.attempt];
      if (stale > 0) {
        attempt.answer += " (too late)";
      } else if (held.step->answer == TestAnswer::kAck) {
        held.seen->outcome = ExpectedOutcome::kAcked;
      } else if (held.step->answer == TestAnswer::kDrop) {
        held.seen->outcome = ExpectedOutcome::kDropped;
      }
      any = true;
    }
    return any;
  }

  std::optional<Instant> NextAnswer() const {
    if (held_.empty()) return std::nullopt;
    return held_.begin()->first;
  }

  std::map<DeliveryName, DeliverySeen>& seen() { return seen_; }

 private:
  struct Held {
    std::uint64_t handle = 0;
    const AnswerStep* step = nullptr;
    DeliverySeen* seen = nullptr;
    std::size_t attempt = 0;
  };

  const AnswerStep& StepOf(std::string_view function, std::string_view event,
                           std::uint32_t attempt) const {
    static const AnswerStep kAcks;
    const auto found = test_.functions.find(std::string(function));
    if (found == test_.functions.end()) return kAcks;
    const auto by_event = found->second.by_event.find(std::string(event));
    const AnswerScript& script =
        by_event == found->second.by_event.end() ? found->second.others : by_event->second;
    if (script.empty()) return kAcks;
    return script[std::min<std::size_t>(attempt, script.size()) - 1];
  }

  const TriggerTest& test_;
  VirtualClock& clock_;
  std::multimap<Instant, Held> held_;  // by when it is answered
  std::map<DeliveryName, DeliverySeen> seen_;
  std::uint64_t last_handle_ = 0;
};

class TestRun {
 public:
  TestRun(const Config& config, const TriggerTest& test)
      : config_(config), test_(test), broker_(config, {test.start, true}) {}

  absl::StatusOr<TestResult> Run() {
    result_.name = test_.name;
    TOCSIN_RETURN_IF_ERROR(broker_.Start(worker_, [this] { return worker_->Answer(broker_); }));
    Play();
    Collect();
    for (const TriggerExpectation& trigger : test_.expect) Check(trigger);
    return std::move(result_);
  }

 private:
  void Play() {
    const Instant start = broker_.clock().Monotonic();
    std::vector<const TestEvent*> events;
    for (const TestEvent& event : test_.events) events.push_back(&event);
    std::stable_sort(events.begin(), events.end(),
                     [](const TestEvent* a, const TestEvent* b) { return a->at < b->at; });
    for (const TestEvent* event : events) {
      if (test_.span && event->at > *test_.span) break;
      GoTo(start + event->at, false);
      const Arrival arrival = event->source.empty() ? broker_.Publish(event->bytes)
                                                    : broker_.Arrive(event->source, event->bytes);
      if (!arrival.refusal.ok()) {
        not_taken_[event->id] =
            fmt::format("the event was refused: {}", MessageOf(arrival.refusal));
      }
    }
    GoTo(start + test_.span.value_or(kTestSpan), !test_.span);
    result_.span = broker_.clock().Monotonic() - start;
  }

  void GoTo(Instant when, bool until_settled) {
    while (!(until_settled && AllSettled())) {
      const std::optional<Instant> answer = worker_->NextAnswer();
      if (broker_.StepTowards(answer ? std::min(*answer, when) : when)) continue;
      if (broker_.clock().Monotonic() >= when) return;
    }
  }

  bool AllSettled() {
    if (worker_->NextAnswer()) return false;
    for (const PartitionSnapshot& partition : broker_.Snapshots()) {
      if (partition.outgoing > 0) return false;
      for (const TriggerBooks& books : partition.triggers) {
        if (books.pending > 0) return false;
      }
    }
    return true;
  }

  void Collect() {
    std::map<DeliveryName, DeliverySeen>& seen = worker_->seen();
    std::vector<DeliveryName> order;
    std::set<DeliveryName> matched;
    for (EventRecordInfo& event : broker_.NewEvents()) {
      EventView view;
      if (!ParseEvent(event.bytes, view).ok()) continue;
      const std::string id(view.id);
      for (const std::string& trigger : event.triggers) {
        const DeliveryName name(trigger, id);
        if (!matched.insert(name).second) continue;
        order.push_back(name);
        seen.try_emplace(name);
      }
      stored_[id] = std::move(event.bytes);
    }
    for (const Letter& letter : broker_.NewLetters()) {
      EventView view;
      if (!ParseEvent(letter.event, view).ok()) continue;
      DeliverySeen& delivery = seen[{letter.trigger, std::string(view.id)}];
      delivery.outcome = letter.reason == LetterReason::kExpired ? ExpectedOutcome::kExpired
                                                                 : ExpectedOutcome::kDead;
      delivery.reason = std::string(LetterReasonName(letter.reason));
      delivery.message = letter.message;
    }
    MarkDroppedByBroker(order);
    for (const DeliveryName& name : order) {
      DeliverySeen& delivery = seen[name];
      delivery.trigger = name.first;
      delivery.event = name.second;
      result_.deliveries.push_back(delivery);
    }
  }

  // A full backlog and a schedule's overlap drop deliveries before a function answers: of those
  // without an end, what the books do not call pending. The newest are what a backlog drops.
  void MarkDroppedByBroker(const std::vector<DeliveryName>& order) {
    std::map<std::string, std::uint64_t> pending;
    for (const PartitionSnapshot& partition : broker_.Snapshots()) {
      for (const TriggerBooks& books : partition.triggers) pending[books.name] += books.pending;
    }
    std::map<std::string, std::vector<DeliverySeen*>> open;
    for (const DeliveryName& name : order) {
      DeliverySeen& delivery = worker_->seen()[name];
      if (delivery.outcome == ExpectedOutcome::kPending) open[name.first].push_back(&delivery);
    }
    for (auto& [trigger, deliveries] : open) {
      // One that a function has is no candidate as long as there are others.
      std::stable_partition(deliveries.begin(), deliveries.end(),
                            [](const DeliverySeen* one) { return !one->attempts.empty(); });
      for (std::size_t i = pending[trigger]; i < deliveries.size(); ++i) {
        deliveries[i]->outcome = ExpectedOutcome::kDropped;
      }
    }
  }

  const DeliverySeen* Find(const std::string& trigger, const std::string& event) const {
    for (const DeliverySeen& seen : result_.deliveries) {
      if (seen.trigger == trigger && seen.event == event) return &seen;
    }
    return nullptr;
  }

  void Check(const TriggerExpectation& trigger) {
    std::set<std::string> named;
    for (const Expectation& wanted : trigger.events) {
      named.insert(wanted.event);
      const std::string message =
          Difference(trigger.trigger, wanted, Find(trigger.trigger, wanted.event));
      if (message.empty()) continue;
      result_.failures.push_back({wanted.location, trigger.trigger, wanted.event, message});
    }
    for (const DeliverySeen& seen : result_.deliveries) {
      if (seen.trigger != trigger.trigger || !named.insert(seen.event).second) continue;
      result_.failures.push_back({trigger.location, trigger.trigger, seen.event,
                                  fmt::format("expected nothing, was {}", DescribeDelivery(seen))});
    }
  }

  // Empty: it is as wanted.
  std::string Difference(const std::string& trigger, const Expectation& wanted,
                         const DeliverySeen* seen) const {
    const ExpectedOutcome outcome = wanted.outcome.value_or(
        wanted.reason.empty() ? ExpectedOutcome::kDelivered : ExpectedOutcome::kDead);
    if (seen == nullptr) {
      if (outcome == ExpectedOutcome::kNotDelivered) return "";
      return fmt::format("expected {}, was not delivered: {}", ExpectedOutcomeName(outcome),
                         WhyNot(trigger, wanted.event));
    }
    const auto differs = [&](std::string_view what) {
      return fmt::format("expected {}, was {}", what, DescribeDelivery(*seen));
    };
    if (outcome == ExpectedOutcome::kDelivered) {
      if (seen->attempts.empty()) return differs("delivered");
    } else if (wanted.outcome ? outcome != seen->outcome : seen->reason.empty()) {
      return differs(ExpectedOutcomeName(outcome));
    }
    if (!wanted.reason.empty() && wanted.reason != seen->reason) {
      return differs(fmt::format("a dead letter of reason {}", wanted.reason));
    }
    if (wanted.attempts && *wanted.attempts != seen->attempts.size()) {
      return differs(fmt::format("{} attempts", *wanted.attempts));
    }
    if (wanted.at && !SameTimes(*wanted.at, seen->attempts)) {
      std::vector<std::string> times;
      for (const Duration at : *wanted.at) times.push_back(FormatDuration(at));
      return differs(fmt::format("attempts at [{}]", fmt::join(times, ", ")));
    }
    if (seen->message.find(wanted.message) == std::string::npos) {
      return differs(fmt::format("a dead letter that says `{}`", wanted.message));
    }
    if (wanted.receives.empty()) return "";
    if (seen->received.empty()) return differs("something received");
    const auto difference = JsonDifference(wanted.receives, seen->received);
    return difference ? fmt::format("receives: {}", *difference) : "";
  }

  static bool SameTimes(const std::vector<Duration>& wanted, const std::vector<AttemptSeen>& seen) {
    return std::equal(wanted.begin(), wanted.end(), seen.begin(), seen.end(),
                      [](Duration a, const AttemptSeen& b) {
                        return a - b.at <= std::chrono::milliseconds(1) &&
                               b.at - a <= std::chrono::milliseconds(1);
                      });
  }

  std::string WhyNot(const std::string& trigger, const std::string& event) const {
    const auto refused = not_taken_.find(event);
    if (refused != not_taken_.end()) return refused->second;
    const auto stored = stored_.find(event);
    if (stored == stored_.end()) {
      std::vector<std::string_view> came;
      for (const auto& [id, bytes] : stored_) came.push_back(id);
      return fmt::format("no such event came in; there were: {}",
                         came.empty() ? "none" : fmt::format("{}", fmt::join(came, ", ")));
    }
    EventView view;
    TOCSIN_CHECK(ParseEvent(stored->second, view).ok(), "a stored event");
    const RouteTable& table = *broker_.plan().table;
    for (std::uint32_t i = 0; i < table.size(); ++i) {
      if (table.route(i).name == trigger) return table.Explain(i, view, SourceOf(event)).reason;
    }
    return "there is no such trigger";
  }

  std::string SourceOf(const std::string& event) const {
    for (const TestEvent& one : test_.events) {
      if (one.id == event) return one.source;
    }
    for (const SourceConfig& source : config_.sources) {
      if (event.starts_with(source.name + "/")) return source.name;
    }
    return "";
  }

  const Config& config_;
  const TriggerTest& test_;
  VirtualBroker broker_;
  std::shared_ptr<ScriptedWorker> worker_ =
      std::make_shared<ScriptedWorker>(test_, broker_.clock());
  TestResult result_;
  std::map<std::string, std::string> stored_;     // id -> encoded
  std::map<std::string, std::string> not_taken_;  // id -> why
};

}  // namespace

std::string DescribeDelivery(const DeliverySeen& seen) {
  std::string text(ExpectedOutcomeName(seen.outcome));
  if (!seen.reason.empty() && seen.reason != text) text += fmt::format(" ({})", seen.reason);
  std::vector<std::string> attempts;
  for (std::size_t i = 0; i < seen.attempts.size(); ++i) {
    attempts.push_back(fmt::format("attempt {} at {}: {}", i + 1,
                                   FormatDuration(seen.attempts[i].at), seen.attempts[i].answer));
  }
  if (attempts.empty()) attempts.emplace_back("no attempt");
  text += fmt::format(": {}", fmt::join(attempts, "; "));
  if (!seen.message.empty()) text += fmt::format("; the letter says: {}", seen.message);
  return text;
}

absl::StatusOr<TestResult> RunTriggerTest(const Config& config, const TriggerTest& test) {
  return TestRun(config, test).Run();
}

}  // namespace tocsin
