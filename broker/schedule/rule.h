// The stored form of when a schedule fires: a ScheduleSpec without its name, so that schedules that
// differ in their names alone share it.

#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "broker/schedule/schedule.h"

namespace tocsin {

// Versioned varints and texts; `spec.name` and `spec.paused` are left out.
std::string EncodeRule(const ScheduleSpec& spec);

// kDataLoss if `bytes` are none; kFailedPrecondition: of a newer version.
absl::StatusOr<ScheduleSpec> DecodeRule(std::string_view bytes);

// The name decides nothing: one Schedule will do for all that have this rule.
bool RuleIsShared(const ScheduleSpec& spec);

}  // namespace tocsin
