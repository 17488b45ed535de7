// Cesql: an expression of the CloudEvents SQL language 1.0 over an event's attributes, compiled
// once.
//
//   hop < ttl AND (type LIKE 'order.%' OR NOT EXISTS subject)
//
// Every expression has a value on every event, and a list of what went wrong on the way: an absent
// attribute, a division by zero, a cast that fails. As a filter it matches if the value is TRUE and
// nothing went wrong. Precedence, from the tightest: functions, unary, LIKE, EXISTS, IN, `* / %`,
// `+ -`, comparisons; AND, OR, XOR on one level from left to right. docs/patterns.md has the rules.
//
// Invariants: text <= kCesqlBytesMax, nodes <= kCesqlNodesMax, nesting <= kCesqlDepthMax; one
// evaluation builds at most kCesqlBuiltMax bytes of strings.
// Threading: immutable, shared freely.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "broker/base/event.h"

namespace tocsin {

inline constexpr std::size_t kCesqlBytesMax = 16 * 1024;
inline constexpr std::size_t kCesqlNodesMax = 1024;
inline constexpr std::size_t kCesqlDepthMax = 64;  // parentheses, arguments, unary operators
inline constexpr std::size_t kCesqlBuiltMax = std::size_t{1} << 20;

enum class CesqlErrorKind : std::uint8_t {
  kParse,
  kMath,
  kCast,
  kMissingAttribute,
  kMissingFunction,
  kFunctionEvaluation,
  kGeneric,
};

// As the specification's test kit spells them: `missingAttribute`.
std::string_view CesqlErrorName(CesqlErrorKind kind);

struct CesqlError {
  CesqlErrorKind kind = CesqlErrorKind::kGeneric;
  std::string message;
};

struct CesqlValue {
  enum class Type : std::uint8_t { kBoolean, kInteger, kString };

  Type type = Type::kBoolean;
  bool boolean = false;
  std::int32_t integer = 0;
  std::string text;

  std::string ToJson() const;
};

struct CesqlResult {
  CesqlValue value;
  std::vector<CesqlError> errors;  // in the order they arose

  bool matched() const {
    return value.type == CesqlValue::Type::kBoolean && value.boolean && errors.empty();
  }
};

// Where a text is no expression.
struct CesqlFault {
  std::size_t offset = 0;  // bytes from the start of the text
  std::string message;
};

struct CesqlProgram;

class Cesql {
 public:
  // nullptr: `fault` says what is wrong and where.
  static std::shared_ptr<const Cesql> Parse(std::string_view text, CesqlFault& fault);
  // kInvalidArgument: `column C: what is wrong`, columns in bytes from 1.
  static absl::StatusOr<std::shared_ptr<const Cesql>> Parse(std::string_view text);
  ~Cesql();

  Cesql(const Cesql&) = delete;
  Cesql& operator=(const Cesql&) = delete;

  const std::string& text() const { return text_; }

  // Allocates only where strings are built and where an attribute is binary or a timestamp.
  bool Matches(const EventView& event) const;

  CesqlResult Evaluate(const EventView& event) const;

  // Why it can never be TRUE whatever the event: an unknown function, a value that is a number or a
  // text; empty if it may be.
  std::string NeverTrue() const;

  // The attributes it names, ascending.
  const std::vector<std::string>& attributes() const;

 private:
  Cesql(std::string text, std::unique_ptr<const CesqlProgram> program);

  std::string text_;
  std::unique_ptr<const CesqlProgram> program_;
};

using CesqlPtr = std::shared_ptr<const Cesql>;

}  // namespace tocsin
