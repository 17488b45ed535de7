// Filter: an immutable expression over an event's attributes, in the dialects of the CloudEvents
// Subscriptions API: exact, prefix, suffix, all, any, not.
//
//   {"all": [{"exact": {"type": "order"}}, {"not": {"prefix": {"subject": "test/"}}}]}
//
// A condition holds if the attribute is there and its canonical string compares; case-sensitive.
// All conditions of one exact, prefix or suffix must hold. An absent attribute matches nothing, so
// `not: {exact: {x: v}}` holds for an event without `x`.
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

namespace tocsin {

inline constexpr std::uint32_t kFilterDepthMax = 32;
inline constexpr std::uint32_t kFilterSizeMax = 4096;  // conditions and operators together

struct Filter;
using FilterPtr = std::shared_ptr<const Filter>;

struct Filter {
  enum class Kind : std::uint8_t { kExact, kPrefix, kSuffix, kAll, kAny, kNot };

  struct Condition {
    std::string attribute;
    std::string value;
  };

  Kind kind = Kind::kAll;
  std::vector<Condition> conditions;  // of kExact, kPrefix, kSuffix
  std::vector<FilterPtr> operands;    // of kAll, kAny; of kNot exactly one
  std::uint32_t depth = 1;
  std::uint32_t size = 0;

  bool Matches(const EventView& event) const;

  // Why it does not match, with the attribute's actual value; empty if it does.
  std::string Failure(const EventView& event) const;

  // Canonical: equal filters written in another order of attributes give equal text.
  std::string ToJson() const;
};

std::string_view DialectName(Filter::Kind kind);

// kInvalidArgument for a word that is no dialect, and for dialects (cesql, sql, pattern) that this
// version does not have: the text says which.
absl::StatusOr<Filter::Kind> DialectFromName(std::string_view name);

// kInvalidArgument: the attribute's name is not [a-z][a-z0-9]* (or is `data`), the value is empty.
absl::Status ValidateCondition(std::string_view attribute, std::string_view value);

// kExact, kPrefix, kSuffix. kInvalidArgument: no condition, a bad one, an attribute given twice.
absl::StatusOr<FilterPtr> MakeConditions(Filter::Kind kind,
                                         std::vector<Filter::Condition> conditions);

// kAll, kAny, kNot. kInvalidArgument: no operand, more than one for kNot, too deep, too large.
absl::StatusOr<FilterPtr> MakeCombination(Filter::Kind kind, std::vector<FilterPtr> operands);

// What `filters:` means: all of them; null for none.
absl::StatusOr<FilterPtr> MakeFilters(std::vector<FilterPtr> filters);

// One filter, an array of filters (all must hold), or `null`: the null filter, which is true.
//   kInvalidArgument  the path within the text (`[0].not.exact.subject`) and the rule
absl::StatusOr<FilterPtr> FilterFromJson(std::string_view json);

}  // namespace tocsin
