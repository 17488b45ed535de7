// PatternObject: a pattern between its text and its items: dotted names are objects, names are in
// order.

#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "broker/routing/pattern.h"

namespace tocsin {

struct PatternClause {
  PatternOp op = PatternOp::kText;
  std::string text;
  Number number;
  std::optional<Wildcard> wildcard;
  NumberRange range;
  Cidr cidr;
  std::vector<PatternClause> children;  // of kAnythingBut
};

struct PatternObject;
struct PatternField {
  std::vector<PatternClause> clauses;  // empty: an object
  std::unique_ptr<PatternObject> object;
};

struct PatternObject {
  std::map<std::string, PatternField, std::less<>> fields;
  std::vector<std::vector<PatternObject>> choices;  // of each one alternative holds
};

// Makes every object stand alone: fields beneath one object must hold for the same element of an
// array, wherever they are written. So an object that stands beside a `$or` and also in one of its
// alternatives moves into all alternatives, and two choices of one object become one, the second in
// the alternatives of the first.
//
// Adds to `parts` what it copies; false if that comes to more than `parts_max`.
bool JoinChoices(PatternObject& object, std::size_t parts_max, std::size_t& parts);

}  // namespace tocsin
