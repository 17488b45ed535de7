// CesqlProgram: the compiled form of an expression: nodes in one array, operands before operators.
// Between the parser and the evaluator; nobody else includes it.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "broker/routing/cesql.h"
#include "broker/routing/wildcard.h"

namespace tocsin {

enum class CesqlOp : std::uint8_t {
  kBoolean,
  kInteger,
  kString,
  kAttribute,
  kNot,
  kMinus,
  kLike,
  kExists,
  kIn,
  kMultiply,
  kDivide,
  kModulo,
  kAdd,
  kSubtract,
  kEqual,
  kNotEqual,
  kLess,
  kLessOrEqual,
  kGreater,
  kGreaterOrEqual,
  kAnd,
  kOr,
  kXor,
  kFunction,
};

enum class CesqlFunction : std::uint8_t {
  kUnknown,
  kInt,
  kBool,
  kString,
  kLength,
  kConcat,
  kConcatWithSeparator,
  kLower,
  kUpper,
  kTrim,
  kLeft,
  kRight,
  kSubstring,
  kAbs,
};

// kUnknown if no function has this name (upper case) and number of arguments.
CesqlFunction FindCesqlFunction(std::string_view name, std::size_t arguments);

struct CesqlNode {
  CesqlOp op = CesqlOp::kBoolean;
  bool negated = false;  // of kLike and kIn
  CesqlFunction function = CesqlFunction::kUnknown;
  std::int32_t integer = 0;  // a literal; kBoolean: 0, 1
  std::uint32_t text = 0;    // into texts: a literal, an attribute's or function's name
  std::uint32_t left = 0;    // into nodes; kLike: also `right` into wildcards
  std::uint32_t right = 0;
  std::uint32_t first = 0;  // kIn, kFunction: operands in `lists`
  std::uint32_t count = 0;
};

struct CesqlProgram {
  std::vector<CesqlNode> nodes;
  std::vector<std::uint32_t> lists;
  std::vector<std::string> texts;
  std::vector<Wildcard> wildcards;
  std::vector<std::string> attributes;
  std::uint32_t root = 0;
};

// nullopt: `fault` is set.
std::optional<CesqlProgram> ParseCesql(std::string_view text, CesqlFault& fault);

}  // namespace tocsin
