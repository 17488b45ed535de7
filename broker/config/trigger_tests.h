// TriggerTests: a file of `tocsin test`: a configuration, and tests that say which events come in,
// how functions answer, and what must become of each delivery. docs/trigger-tests.md is the
// specification.
//
// Read like tocsin.yaml: all errors at once, each with its place; unknown keys with a did-you-mean.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/config/config.h"
#include "broker/config/environment.h"
#include "broker/config/load.h"

namespace tocsin {

struct TestEvent {
  Duration at{};       // after the start
  std::string source;  // the configured source that brings it; empty: it is published
  std::string bytes;   // encoded, validated
  std::string id;
  ConfigLocation location;
};

enum class TestAnswer : std::uint8_t { kAck, kRetry, kReject, kDrop, kTimeout };

struct AnswerStep {
  TestAnswer answer = TestAnswer::kAck;
  Duration takes{};               // until it answers
  std::optional<Duration> after;  // of a retry
  std::string code;               // of a retry
  std::string message;            // of a retry, a reject, a drop
  std::vector<std::string> emit;  // encoded events
};

// By attempt; the last goes on. Empty: ack.
using AnswerScript = std::vector<AnswerStep>;

struct FunctionScript {
  std::map<std::string, AnswerScript> by_event;  // by the event's id
  AnswerScript others;
};

enum class ExpectedOutcome : std::uint8_t {
  kNotDelivered,  // the trigger does not take it
  kDelivered,     // its function got it, whatever the end
  kAcked,
  kDropped,
  kDead,
  kExpired,
  kPending,
};
std::string_view ExpectedOutcomeName(ExpectedOutcome outcome);

struct Expectation {
  std::string event;  // its id
  std::optional<ExpectedOutcome> outcome;
  std::optional<std::uint64_t> attempts;
  std::optional<std::vector<Duration>> at;  // of attempts, after the event came in
  std::string reason;                       // of a dead letter, or empty
  std::string message;                      // a part of the dead letter's, or empty
  std::string receives;                     // JSON, a part of the event that the function gets
  ConfigLocation location;
};

struct TriggerExpectation {
  std::string trigger;
  std::vector<Expectation> events;
  ConfigLocation location;
};

struct TriggerTest {
  std::string name;
  WallTime start;
  std::optional<Duration> span;  // nullopt: until nothing is pending
  std::vector<TestEvent> events;
  std::map<std::string, FunctionScript> functions;
  std::vector<TriggerExpectation> expect;
  ConfigLocation location;
};

struct TriggerTestFile {
  std::string file;
  Config config;  // retries without jitter, so that their times are those of the policy
  std::vector<TriggerTest> tests;
};

// kInvalidArgument: one line per error; `errors`, if given, is replaced by them. Paths in the file
// are taken from its folder.
absl::StatusOr<TriggerTestFile> LoadTriggerTests(const std::string& path,
                                                 const ConfigEnvironment& environment,
                                                 std::vector<ConfigError>* errors = nullptr);

}  // namespace tocsin
