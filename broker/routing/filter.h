// Filter: an immutable expression over an event's attributes, in the dialects of the CloudEvents
// Subscriptions API: exact, prefix, suffix, all, any, not, cesql (also written sql).
//
//   {"all": [{"exact": {"type": "order"}}, {"not": {"prefix": {"subject": "test/"}}}]}
//
// A condition holds if the attribute is there and its canonical string compares; case-sensitive.
// All conditions of one exact, prefix or suffix must hold. An absent attribute matches nothing, so
// `not: {exact: {x: v}}` holds for an event without `x`. `cesql` holds if its value is TRUE and its
// evaluation had no errors, so its negation holds where there were some.
//
// Invariants: depth <= kFilterDepthMax, size <= kFilterSizeMax, conditions sorted by attribute.
// Threading: immutable, shared freely.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "broker/base/event.h"
#include "broker/routing/cesql.h"
#include "broker/routing/verdict.h"

namespace tocsin {

inline constexpr std::uint32_t kFilterDepthMax = 32;
inline constexpr std::uint32_t kFilterSizeMax = 4096;  // conditions and operators together

struct Filter;
using FilterPtr = std::shared_ptr<const Filter>;

struct Filter {
  enum class Kind : std::uint8_t { kExact, kPrefix, kSuffix, kAll, kAny, kNot, kCesql };

  struct Condition {
    std::string attribute;
    std::string value;
  };

  Kind kind = Kind::kAll;
  std::vector<Condition> conditions;  // of kExact, kPrefix, kSuffix
  std::vector<FilterPtr> operands;    // of kAll, kAny; of kNot exactly one
  CesqlPtr cesql;                     // of kCesql
  std::uint32_t depth = 1;
  std::uint32_t size = 0;

  bool Matches(const EventView& event) const;

  // The same answer with the part that failed; `path` is the place of this filter.
  Verdict Explain(const EventView& event, std::string_view path) const;

  // Canonical: equal filters written in another order of attributes give equal text.
  std::string ToJson() const;
};

std::string_view DialectName(Filter::Kind kind);

// kInvalidArgument: a word that is no dialect.
absl::StatusOr<Filter::Kind> DialectFromName(std::string_view name);

// kInvalidArgument: the attribute's name is not [a-z][a-z0-9]* (or is `data`), the value is empty.
absl::Status ValidateCondition(std::string_view attribute, std::string_view value);

// kExact, kPrefix, kSuffix. kInvalidArgument: no condition, a bad one, an attribute given twice.
absl::StatusOr<FilterPtr> MakeConditions(Filter::Kind kind,
                                         std::vector<Filter::Condition> conditions);

// kAll, kAny, kNot. kInvalidArgument: no operand, more than one for kNot, too deep, too large.
absl::StatusOr<FilterPtr> MakeCombination(Filter::Kind kind, std::vector<FilterPtr> operands);

// kCesql. kInvalidArgument: no expression, one of an unknown function, one whose value is no
// Boolean; `fault`, if given, says where in the text.
absl::StatusOr<FilterPtr> MakeCesql(std::string_view text, CesqlFault* fault = nullptr);

// What `filters:` means: all of them; null for none.
absl::StatusOr<FilterPtr> MakeFilters(std::vector<FilterPtr> filters);

// One filter, an array of filters (all must hold), or `null`: the null filter, which is true.
//   kInvalidArgument  the path within the text (`[0].not.exact.subject`) and the rule
absl::StatusOr<FilterPtr> FilterFromJson(std::string_view json);

}  // namespace tocsin
