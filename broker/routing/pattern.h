// Pattern: an immutable condition on attributes and JSON payload in the form of EventBridge.
//
//   { "type": [{"prefix": "order."}],
//     "data": { "total": [{"numeric": [">", 100]}], "$or": [ {"vip": [true]}, {"country": ["DE"]} ]
//     } }
//
// The shape is the event's: attributes at the top, the payload under `data`. A field holds if one
// of the values in its array does; all fields must hold; of `$or` one alternative. A field whose
// value is an array holds if one element does, and fields beneath one array must hold for the same
// element. docs/patterns.md is the specification.
//
// A pattern is one array of items in the order of the text, each knowing where its part ends, so
// that 100,000 of them cost little memory:
//
//   $or [ alternative [field ...] alternative [...] ]   field [clause clause ...]
//   object [field ...]                                  anything-but [clause ...]
//
// Clauses stand in the order of PatternOp, equal ones in that of their texts and numbers, so that a
// long list of values is searched and not walked.
//
// Invariants: items <= kPatternItemsMax, depth <= kPatternDepthMax, wildcards <=
// kPatternWildcardsMax, clauses of one field that are no plain values <= kPatternScansMax; texts
// are UTF-8.
// Threading: immutable, shared freely.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/event.h"
#include "broker/routing/cidr.h"
#include "broker/routing/number.h"
#include "broker/routing/payload.h"
#include "broker/routing/verdict.h"
#include "broker/routing/wildcard.h"

namespace tocsin {

inline constexpr std::size_t kPatternBytesMax = 256 * 1024;
inline constexpr std::size_t kPatternItemsMax = 8192;
inline constexpr std::size_t kPatternDepthMax = 32;
inline constexpr std::size_t kPatternWildcardsMax = 128;
inline constexpr std::size_t kPatternScansMax = 256;

enum class PatternOp : std::uint8_t {
  kAny,          // $or: children are kAlternative
  kAlternative,  // all children hold
  kObject,       // a name with fields beneath it
  kField,        // a name with clauses, of which one must hold
  // Clauses.
  kText,
  kNumber,
  kTrue,
  kFalse,
  kNull,
  kPrefix,
  kSuffix,
  kIgnoreCase,  // text in lower case, like the two below
  kPrefixIgnoreCase,
  kSuffixIgnoreCase,
  kWildcard,  // number: index
  kNumeric,   // number: index
  kCidr,      // number: index
  kExists,
  kAbsent,
  kAnythingBut,  // a value is there for which no child clause holds
};

// Its text goes up to where the next item's begins, that of the last one to the end.
struct PatternItem {
  PatternOp op = PatternOp::kAny;
  bool whole = true;        // of kNumber
  std::uint16_t end = 0;    // the item behind its children
  std::uint32_t text = 0;   // into the pattern's text
  std::int64_t number = 0;  // kField, kAnythingBut: how many kText and, from bit 32, kNumber follow

  std::uint32_t texts() const { return static_cast<std::uint32_t>(number & 0xFFFFFFFF); }
  std::uint32_t numbers() const { return static_cast<std::uint32_t>(number >> 32); }
};

// low (<|<=) x (<|<=) high; a missing bound is an infinity.
struct NumberRange {
  bool has_low = false;
  bool has_high = false;
  bool low_open = false;
  bool high_open = false;
  Number low;
  Number high;

  bool Contains(const Number& value) const {
    if (has_low) {
      const int order = Number::Compare(value, low);
      if (order < 0 || (order == 0 && low_open)) return false;
    }
    if (!has_high) return true;
    const int order = Number::Compare(value, high);
    return order < 0 || (order == 0 && !high_open);
  }
};

// Where a text is no pattern.
struct PatternFault {
  std::size_t offset = 0;  // bytes from the start of the JSON text
  std::string message;
};

// A value as clauses see it.
struct ClauseValue {
  ValueKind kind = ValueKind::kNull;  // kText, kNumber, kTrue, kFalse, kNull
  std::string_view text;
  Number number;
};

class Pattern;
using PatternPtr = std::shared_ptr<const Pattern>;

class Pattern {
  struct Private {};

 public:
  explicit Pattern(Private) {}

  // nullptr: `fault` says what is wrong and where. Never a pattern without a field.
  static PatternPtr FromJson(std::string_view json, PatternFault& fault);
  // kInvalidArgument: `line L, column C: what is wrong`.
  static absl::StatusOr<PatternPtr> FromJson(std::string_view json);

  // Adds the paths beneath `data` to `paths`; gives one number per item, which Matches() takes
  // back.
  std::vector<PathId> Bind(PathTree& paths) const;

  // `payload` was Reset() to this event and the PathTree of `bound`; it is loaded if a part that
  // stands after the attributes needs it. A part about a payload that cannot be read does not hold.
  bool Matches(const EventView& event, PayloadReader& payload, const PathId* bound) const;

  Verdict Explain(const EventView& event, PayloadReader& payload, const PathId* bound) const;

  bool uses_payload() const { return uses_payload_; }

  // Canonical: names in order, no white space, dotted names written out as objects.
  std::string ToJson() const;

  std::span<const PatternItem> items() const { return {block_.get(), count_}; }
  // `item` is one of items().
  std::string_view TextOf(const PatternItem& item) const {
    const PatternItem* const end = block_.get() + count_;
    const char* const texts = reinterpret_cast<const char*>(end);
    const std::uint32_t stop = &item + 1 == end ? text_bytes_ : (&item)[1].text;
    return {texts + item.text, stop - item.text};
  }
  const Wildcard& WildcardOf(const PatternItem& item) const {
    return extra_->wildcards[static_cast<std::size_t>(item.number)];
  }
  const NumberRange& RangeOf(const PatternItem& item) const {
    return extra_->ranges[static_cast<std::size_t>(item.number)];
  }

  // One clause, on a value that is there; kAbsent does not hold.
  bool ClauseHolds(std::uint32_t clause, const ClauseValue& value) const;

  // A clause of the kField or kAnythingBut `parent` holds.
  bool AnyClauseHolds(std::uint32_t parent, const ClauseValue& value) const;

  std::string ClausesJson(std::uint32_t field) const;

 private:
  friend class PatternParser;
  friend class PatternMatch;
  friend class PatternExplanation;

  struct Extra {
    std::vector<Wildcard> wildcards;
    std::vector<NumberRange> ranges;
    std::vector<Cidr> cidrs;
  };

  // One part of the top level.
  bool HoldsAt(std::uint32_t item, const EventView& event, PayloadReader& payload,
               const PathId* bound) const;
  bool HasAbsent(std::uint32_t field) const;
  std::string PartJson(std::uint32_t item) const;
  void AppendJson(std::string& out, std::uint32_t begin, std::uint32_t end) const;
  void AppendClause(std::string& out, std::uint32_t clause) const;

  // The items and behind them the texts: a hundred thousand patterns have one allocation each
  // beside their own, and every word counts.
  std::unique_ptr<PatternItem[]> block_;
  std::unique_ptr<Extra> extra_;  // null if there is none
  std::uint32_t text_bytes_ = 0;
  std::uint16_t count_ = 0;
  bool uses_payload_ = false;
};

// An attribute as clauses see it: integers and Booleans are values of JSON, all others texts.
// False: the event does not have it. `text` must outlive `value`.
class AttributeText;
bool AttributeClauseValue(const EventView& event, std::string_view name, const AttributeText& text,
                          ClauseValue& value);

}  // namespace tocsin
