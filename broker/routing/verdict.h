// Verdict: what a trigger, or a part of it, says of one event, for people.

#pragma once

#include <string>
#include <vector>

#include "broker/routing/cesql.h"

namespace tocsin {

// If it matched, all texts are empty.
struct Verdict {
  bool matched = false;
  std::string reason;    // a sentence: which part failed and the actual value
  std::string clause;    // that part's place: `filters[0].suffix.subject`, `pattern.data.size`
  std::string expected;  // JSON
  std::string actual;    // JSON; empty: there is nothing at that place
  std::vector<CesqlError> errors;  // of the expression that failed, or of one beneath an `any`
};

}  // namespace tocsin
