// Lint: what is allowed in a trigger and yet most likely a mistake. Nothing here refuses anything:
// what must not be is refused where it is read.
//
//   never matches        two conditions that no event fulfils together
//   shadowed             an alternative that another one includes; a trigger that is another's copy
//   true by accident     a negation that holds for every event without the attribute
//   over-complex         near a budget, or tried on every event of a large table
//
// Threading: pure.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "broker/routing/route_table.h"

namespace tocsin {

enum class LintKind : std::uint8_t { kNeverMatches, kShadowed, kAlwaysTrue, kOverComplex };

std::string_view LintName(LintKind kind);  // `never-matches`

struct LintFinding {
  std::uint32_t route = 0;
  LintKind kind = LintKind::kNeverMatches;
  std::string message;
};

// At most one finding of a kind per route, in the order of the routes. `function_of` gives what a
// route calls, by index: two triggers with the same conditions are copies only if that is equal
// too.
std::vector<LintFinding> Lint(const std::vector<RouteSpec>& routes,
                              const std::vector<std::string_view>& functions);

}  // namespace tocsin
