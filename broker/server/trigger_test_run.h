// RunTriggerTest: one test of `tocsin test`, on a VirtualBroker: the events go in, the functions
// answer as the test says, and what became of each delivery is compared with what is expected.
//
// Threading: one thread.

#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/clock.h"
#include "broker/config/trigger_tests.h"

namespace tocsin {

// Without `for` a test ends when nothing is pending, at the latest after so long.
inline constexpr Duration kTestSpan = std::chrono::hours(24);

struct AttemptSeen {
  Duration at{};       // after the event came in
  std::string answer;  // of the function
};

struct DeliverySeen {
  std::string trigger;
  std::string event;  // its id
  ExpectedOutcome outcome = ExpectedOutcome::kPending;
  std::vector<AttemptSeen> attempts;
  std::string reason;    // of its dead letter, or empty
  std::string message;   // the same
  std::string received;  // the event that the function got last, as JSON; empty: none
};

struct TestFailure {
  ConfigLocation location;  // of what was expected
  std::string trigger;
  std::string event;
  std::string message;
};

struct TestResult {
  std::string name;
  Duration span{};  // of the virtual clock
  std::vector<TestFailure> failures;
  std::vector<DeliverySeen> deliveries;  // of all triggers, in the order of the events
};

//   kInvalidArgument  a schedule of the configuration cannot be parsed
absl::StatusOr<TestResult> RunTriggerTest(const Config& config, const TriggerTest& test);

// One line: `dead (exhausted): attempt 1 at 0s: retry; attempt 2 at 1s: timeout`.
std::string DescribeDelivery(const DeliverySeen& seen);

}  // namespace tocsin
