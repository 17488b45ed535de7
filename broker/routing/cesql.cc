#include "broker/routing/cesql.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>

#include "broker/base/json_scan.h"
#include "broker/routing/attribute_text.h"
#include "broker/routing/cesql_program.h"
#include "broker/routing/text_case.h"

namespace tocsin {
namespace {

// What a part of an expression yields. kMissing: an absent attribute or an unknown function, which
// makes the part that uses it the zero value of its own type.
struct Value {
  enum class Type : std::uint8_t { kMissing, kBoolean, kInteger, kString };

  Type type = Type::kMissing;
  bool failed = false;       // what it is made of went wrong
  std::int32_t integer = 0;  // kBoolean: 0, 1
  std::string_view text;
};

using Type = Value::Type;

Value Zero(Type type) { return {type, true, 0, {}}; }
Value Boolean(bool value) { return {Type::kBoolean, false, value ? 1 : 0, {}}; }
Value Integer(std::int32_t value) { return {Type::kInteger, false, value, {}}; }
Value Text(std::string_view value) { return {Type::kString, false, 0, value}; }

Type ResultType(CesqlFunction function) {
  switch (function) {
    case CesqlFunction::kUnknown:
      return Type::kMissing;
    case CesqlFunction::kInt:
    case CesqlFunction::kLength:
    case CesqlFunction::kAbs:
      return Type::kInteger;
    case CesqlFunction::kBool:
      return Type::kBoolean;
    default:
      return Type::kString;
  }
}

// kMissing: known only when the event is.
Type StaticType(const CesqlNode& node) {
  switch (node.op) {
    case CesqlOp::kAttribute:
      return Type::kMissing;
    case CesqlOp::kString:
      return Type::kString;
    case CesqlOp::kInteger:
    case CesqlOp::kMinus:
    case CesqlOp::kMultiply:
    case CesqlOp::kDivide:
    case CesqlOp::kModulo:
    case CesqlOp::kAdd:
    case CesqlOp::kSubtract:
      return Type::kInteger;
    case CesqlOp::kFunction:
      return ResultType(node.function);
    default:
      return Type::kBoolean;
  }
}

// Memory of one evaluation's strings: a buffer on the stack, then blocks.
class Built {
 public:
  // nullptr over the limit.
  char* Take(std::size_t bytes) {
    if (bytes > kCesqlBuiltMax - total_) return nullptr;
    total_ += bytes;
    if (bytes <= sizeof buffer_ - used_) {
      used_ += bytes;
      return buffer_ + used_ - bytes;
    }
    return blocks_.emplace_back(std::make_unique<char[]>(bytes)).get();
  }

 private:
  char buffer_[512];
  std::size_t used_ = 0;
  std::size_t total_ = 0;
  absl::InlinedVector<std::unique_ptr<char[]>, 2> blocks_;
};

class Evaluator {
 public:
  // `errors` may be null: then they are only counted.
  Evaluator(const CesqlProgram& program, const EventView& event, std::vector<CesqlError>* errors)
      : program_(program), event_(event), errors_(errors) {}

  std::size_t error_count() const { return error_count_; }

  Value Run(std::uint32_t index) {
    const CesqlNode& node = program_.nodes[index];
    switch (node.op) {
      case CesqlOp::kBoolean:
        return Boolean(node.integer != 0);
      case CesqlOp::kInteger:
        return Integer(node.integer);
      case CesqlOp::kString:
        return Text(program_.texts[node.text]);
      case CesqlOp::kAttribute:
        return Attribute(program_.texts[node.text]);
      case CesqlOp::kNot: {
        const Value operand = Run(node.left);
        if (operand.type == Type::kMissing) return Zero(Type::kBoolean);
        // A cast that fails yields false, whose negation is true.
        Value value = Boolean(Cast(operand, Type::kBoolean).integer == 0);
        value.failed = operand.failed;
        return value;
      }
      case CesqlOp::kMinus: {
        const Value operand = Cast(Run(node.left), Type::kInteger);
        if (operand.failed) return Zero(Type::kInteger);
        return Bounded(-std::int64_t{operand.integer}, "-");
      }
      case CesqlOp::kLike: {
        const Value operand = Cast(Run(node.left), Type::kString);
        if (operand.failed) return Zero(Type::kBoolean);
        return Boolean(program_.wildcards[node.right].Matches(operand.text) != node.negated);
      }
      case CesqlOp::kExists:
        return Boolean(IsPresent(program_.texts[node.text]));
      case CesqlOp::kIn:
        return In(node);
      case CesqlOp::kAnd:
      case CesqlOp::kOr:
      case CesqlOp::kXor:
        return Logic(node);
      case CesqlOp::kEqual:
      case CesqlOp::kNotEqual:
        return Equality(node);
      case CesqlOp::kFunction:
        return Function(node);
      default:
        return Numeric(node);
    }
  }

 private:
  template <typename... Args>
  void Error(CesqlErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
    ++error_count_;
    // A loop over a long list cannot flood the answer.
    if (errors_ == nullptr || errors_->size() >= 32) return;
    errors_->push_back({kind, fmt::format(format, std::forward<Args>(args)...)});
  }

  bool IsPresent(std::string_view name) const {
    return name == "id" || name == "source" || name == "type" || name == "specversion" ||
           event_.Find(name) != nullptr;
  }

  Value Attribute(std::string_view name) {
    if (const AttributeView* attribute = event_.Find(name)) {
      if (attribute->kind == AttributeKind::kBoolean) return Boolean(attribute->integer != 0);
      if (attribute->kind == AttributeKind::kInteger) {
        return Integer(static_cast<std::int32_t>(attribute->integer));
      }
    }
    const AttributeText text(event_, name);
    if (!text.present()) {
      Error(CesqlErrorKind::kMissingAttribute, "the event has no attribute `{}`", name);
      return Zero(Type::kMissing);
    }
    const AttributeView* attribute = event_.Find(name);
    const bool stays = attribute == nullptr || (attribute->kind != AttributeKind::kBinary &&
                                                attribute->kind != AttributeKind::kTimestamp);
    return stays ? Text(text.text()) : Build(text.text());
  }

  // A copy that lives as long as the evaluation.
  Value Build(std::string_view text) {
    char* out = Take(text.size());
    if (out == nullptr) return Zero(Type::kString);
    std::memcpy(out, text.data(), text.size());
    return Text({out, text.size()});
  }

  char* Take(std::size_t bytes) {
    char* out = built_.Take(bytes);
    if (out == nullptr) {
      Error(CesqlErrorKind::kFunctionEvaluation, "more than {} bytes of text are built",
            kCesqlBuiltMax);
    }
    return out;
  }

  // A failed value becomes the zero of `type`.
  Value Cast(Value value, Type type) {
    if (value.type == type) return value;
    if (value.type == Type::kMissing) return Zero(type);
    const bool failed = value.failed;
    switch (type) {
      case Type::kString:
        value = ToText(value);
        break;
      case Type::kInteger:
        value = value.type == Type::kBoolean ? Integer(value.integer) : TextToInteger(value.text);
        break;
      case Type::kBoolean:
        if (value.type == Type::kInteger) {
          Error(CesqlErrorKind::kCast, "{} is no Boolean; BOOL(x) converts it", value.integer);
          value = Zero(Type::kBoolean);
        } else {
          value = TextToBoolean(value.text);
        }
        break;
      case Type::kMissing:
        break;
    }
    value.failed = value.failed || failed;
    return value;
  }

  Value ToText(const Value& value) {
    if (value.type == Type::kBoolean) return Text(value.integer != 0 ? "true" : "false");
    char digits[12];
    const auto [end, error] = std::to_chars(digits, digits + sizeof digits, value.integer);
    return Build({digits, static_cast<std::size_t>(end - digits)});
  }

  Value TextToInteger(std::string_view text) {
    std::int32_t number = 0;
    std::string_view digits = text;
    if (!digits.empty() && digits.front() == '+') {
      digits.remove_prefix(1);
      if (!digits.empty() && digits.front() == '-') digits = {};
    }
    const char* end = digits.data() + digits.size();
    const auto [stopped, error] = std::from_chars(digits.data(), end, number);
    if (digits.empty() || error != std::errc() || stopped != end) {
      Error(CesqlErrorKind::kCast, "'{}' is no Integer of 32 bits", text.substr(0, 64));
      return Zero(Type::kInteger);
    }
    return Integer(number);
  }

  Value TextToBoolean(std::string_view text) {
    if (EqualsLowered(text, "true")) return Boolean(true);
    if (EqualsLowered(text, "false")) return Boolean(false);
    Error(CesqlErrorKind::kCast, "'{}' is no Boolean", text.substr(0, 64));
    return Zero(Type::kBoolean);
  }

  Value Bounded(std::int64_t value, std::string_view what) {
    const std::int64_t bounded = std::clamp<std::int64_t>(
        value, std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max());
    Value result = Integer(static_cast<std::int32_t>(bounded));
    if (bounded != value) {
      Error(CesqlErrorKind::kMath, "`{}` leaves the range of 32 bits", what);
      result.failed = true;
    }
    return result;
  }

  Value Logic(const CesqlNode& node) {
    const Value left = Run(node.left);
    if (left.type == Type::kMissing) return Zero(Type::kBoolean);
    const Value first = Cast(left, Type::kBoolean);
    if (node.op == CesqlOp::kAnd && first.integer == 0) return first;
    if (node.op == CesqlOp::kOr && first.integer != 0) return first;
    const Value right = Run(node.right);
    if (right.type == Type::kMissing) return Zero(Type::kBoolean);
    Value result = Cast(right, Type::kBoolean);
    if (node.op == CesqlOp::kXor) result.integer ^= first.integer;
    result.failed = result.failed || first.failed;
    return result;
  }

  static bool Equal(const Value& a, const Value& b) {
    return a.type == Type::kString ? a.text == b.text : a.integer == b.integer;
  }

  // The right operand's type decides.
  Value Equality(const CesqlNode& node) {
    Value left = Run(node.left);
    const Value right = Run(node.right);
    if (right.type == Type::kMissing || left.type == Type::kMissing) return Zero(Type::kBoolean);
    left = Cast(left, right.type);
    if (left.failed || right.failed) return Zero(Type::kBoolean);
    return Boolean(Equal(left, right) == (node.op == CesqlOp::kEqual));
  }

  Value Numeric(const CesqlNode& node) {
    const bool comparison = node.op >= CesqlOp::kLess && node.op <= CesqlOp::kGreaterOrEqual;
    const Type type = comparison ? Type::kBoolean : Type::kInteger;
    const Value left = Cast(Run(node.left), Type::kInteger);
    const Value right = Cast(Run(node.right), Type::kInteger);
    if (left.failed || right.failed) return Zero(type);
    const std::int64_t a = left.integer;
    const std::int64_t b = right.integer;
    switch (node.op) {
      case CesqlOp::kLess:
        return Boolean(a < b);
      case CesqlOp::kLessOrEqual:
        return Boolean(a <= b);
      case CesqlOp::kGreater:
        return Boolean(a > b);
      case CesqlOp::kGreaterOrEqual:
        return Boolean(a >= b);
      case CesqlOp::kMultiply:
        return Bounded(a * b, "*");
      case CesqlOp::kAdd:
        return Bounded(a + b, "+");
      case CesqlOp::kSubtract:
        return Bounded(a - b, "-");
      default:
        break;
    }
    const bool division = node.op == CesqlOp::kDivide;
    if (b == 0) {
      Error(CesqlErrorKind::kMath, "{} by zero", division ? "division" : "remainder");
      return Zero(Type::kInteger);
    }
    return Bounded(division ? a / b : a % b, division ? "/" : "%");
  }

  // The left operand's type decides.
  Value In(const CesqlNode& node) {
    const Value left = Run(node.left);
    if (left.type == Type::kMissing || left.failed) return Zero(Type::kBoolean);
    bool failed = false;
    for (std::uint32_t i = 0; i < node.count; ++i) {
      const Value element = Cast(Run(program_.lists[node.first + i]), left.type);
      if (element.failed) {
        failed = true;
      } else if (Equal(left, element)) {
        return Boolean(!node.negated);
      }
    }
    return failed ? Zero(Type::kBoolean) : Boolean(node.negated);
  }

  Value Function(const CesqlNode& node) {
    if (node.function == CesqlFunction::kUnknown) {
      Error(CesqlErrorKind::kMissingFunction, "there is no function {} of {} arguments",
            program_.texts[node.text], node.count);
      return Zero(Type::kMissing);
    }
    const auto argument = [&](std::uint32_t i) { return Run(program_.lists[node.first + i]); };
    switch (node.function) {
      case CesqlFunction::kInt:
        return Cast(argument(0), Type::kInteger);
      case CesqlFunction::kBool: {
        const Value value = argument(0);
        if (value.type != Type::kInteger) return Cast(value, Type::kBoolean);
        return {Type::kBoolean, value.failed, value.integer != 0 ? 1 : 0, {}};
      }
      case CesqlFunction::kString:
        return Cast(argument(0), Type::kString);
      case CesqlFunction::kAbs: {
        const Value value = Cast(argument(0), Type::kInteger);
        if (value.failed) return Zero(Type::kInteger);
        return Bounded(std::abs(std::int64_t{value.integer}), "ABS");
      }
      case CesqlFunction::kConcat:
        return Join(node, 0, {});
      case CesqlFunction::kConcatWithSeparator: {
        const Value separator = Cast(argument(0), Type::kString);
        const Value joined = Join(node, 1, separator.text);
        return separator.failed ? Zero(Type::kString) : joined;
      }
      default:
        break;
    }
    const Value text = Cast(argument(0), Type::kString);
    Value numbers[2];
    for (std::uint32_t i = 1; i < node.count; ++i) {
      numbers[i - 1] = Cast(argument(i), Type::kInteger);
      if (numbers[i - 1].failed) return Zero(ResultType(node.function));
    }
    if (text.failed) return Zero(ResultType(node.function));
    return TextFunction(node, text.text, numbers[0].integer, numbers[1].integer);
  }

  Value Join(const CesqlNode& node, std::uint32_t from, std::string_view separator) {
    absl::InlinedVector<std::string_view, 8> parts;
    std::size_t bytes = 0;
    bool failed = false;
    for (std::uint32_t i = from; i < node.count; ++i) {
      const Value part = Cast(Run(program_.lists[node.first + i]), Type::kString);
      failed = failed || part.failed;
      if (i > from) bytes += separator.size();
      bytes += part.text.size();
      parts.push_back(part.text);
    }
    char* out = failed ? nullptr : Take(bytes);
    if (out == nullptr) return Zero(Type::kString);
    std::size_t used = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (i > 0) used += separator.copy(out + used, separator.size());
      used += parts[i].copy(out + used, parts[i].size());
    }
    return Text({out, used});
  }

  Value TextFunction(const CesqlNode& node, std::string_view text, std::int32_t a, std::int32_t b) {
    switch (node.function) {
      case CesqlFunction::kLength:
        return Integer(static_cast<std::int32_t>(CountCodePoints(text)));
      case CesqlFunction::kLower:
      case CesqlFunction::kUpper: {
        char* out = Take(text.size());
        if (out == nullptr) return Zero(Type::kString);
        if (node.function == CesqlFunction::kLower) {
          LowerCase(text, out);
        } else {
          UpperCase(text, out);
        }
        return Text({out, text.size()});
      }
      case CesqlFunction::kTrim: {
        constexpr std::string_view kSpace = " \t\r\n\v\f";
        const std::size_t start = text.find_first_not_of(kSpace);
        if (start == std::string_view::npos) return Text({});
        return Text(text.substr(start, text.find_last_not_of(kSpace) + 1 - start));
      }
      case CesqlFunction::kLeft:
      case CesqlFunction::kRight: {
        if (a < 0) {
          Error(CesqlErrorKind::kFunctionEvaluation, "{} takes a length from 0, not {}",
                program_.texts[node.text], a);
          Value value = Text(text);
          value.failed = true;
          return value;
        }
        const auto length = static_cast<std::int32_t>(CountCodePoints(text));
        if (length <= a) return Text(text);
        if (node.function == CesqlFunction::kLeft) return Text(Slice(text, 0, a));
        return Text(Slice(text, length - a, a));
      }
      default:
        return Substring(text, a, node.count > 2 ? std::optional<std::int32_t>(b) : std::nullopt);
    }
  }

  Value Substring(std::string_view text, std::int32_t position,
                  std::optional<std::int32_t> length) {
    const std::int64_t size = static_cast<std::int64_t>(CountCodePoints(text));
    if (position > size || position < -size || (length && *length < 0)) {
      Error(CesqlErrorKind::kFunctionEvaluation,
            "SUBSTRING of {} characters has no position {} with length {}", size, position,
            length ? fmt::format("{}", *length) : "to the end");
      return Zero(Type::kString);
    }
    if (position == 0) return Text({});
    const std::int64_t start = position > 0 ? position - 1 : size + position;
    return Text(Slice(text, start, length ? std::min<std::int64_t>(*length, size) : size));
  }

  // `count` characters from character `start`, or to the end.
  static std::string_view Slice(std::string_view text, std::int64_t start, std::int64_t count) {
    std::size_t from = 0;
    for (; start > 0 && from < text.size(); --start) from += CodePointAt(text, from).bytes;
    std::size_t to = from;
    for (; count > 0 && to < text.size(); --count) to += CodePointAt(text, to).bytes;
    return text.substr(from, to - from);
  }

  const CesqlProgram& program_;
  const EventView& event_;
  std::vector<CesqlError>* errors_;
  std::size_t error_count_ = 0;
  Built built_;
};

}  // namespace

std::string_view CesqlErrorName(CesqlErrorKind kind) {
  switch (kind) {
    case CesqlErrorKind::kParse:
      return "parse";
    case CesqlErrorKind::kMath:
      return "math";
    case CesqlErrorKind::kCast:
      return "cast";
    case CesqlErrorKind::kMissingAttribute:
      return "missingAttribute";
    case CesqlErrorKind::kMissingFunction:
      return "missingFunction";
    case CesqlErrorKind::kFunctionEvaluation:
      return "functionEvaluation";
    case CesqlErrorKind::kGeneric:
      return "generic";
  }
  return "";
}

std::string CesqlValue::ToJson() const {
  switch (type) {
    case Type::kBoolean:
      return boolean ? "true" : "false";
    case Type::kInteger:
      return fmt::format("{}", integer);
    case Type::kString:
      break;
  }
  std::string out;
  AppendJsonString(out, text);
  return out;
}

Cesql::Cesql(std::string text, std::unique_ptr<const CesqlProgram> program)
    : text_(std::move(text)), program_(std::move(program)) {}
Cesql::~Cesql() = default;

std::shared_ptr<const Cesql> Cesql::Parse(std::string_view text, CesqlFault& fault) {
  std::optional<CesqlProgram> program = ParseCesql(text, fault);
  if (!program) return nullptr;
  return std::shared_ptr<const Cesql>(
      new Cesql(std::string(text), std::make_unique<const CesqlProgram>(*std::move(program))));
}

absl::StatusOr<std::shared_ptr<const Cesql>> Cesql::Parse(std::string_view text) {
  CesqlFault fault;
  std::shared_ptr<const Cesql> cesql = Parse(text, fault);
  if (cesql == nullptr) {
    return absl::InvalidArgumentError(
        fmt::format("column {}: {}", fault.offset + 1, fault.message));
  }
  return cesql;
}

bool Cesql::Matches(const EventView& event) const {
  Evaluator evaluator(*program_, event, nullptr);
  const Value value = evaluator.Run(program_->root);
  return value.type == Type::kBoolean && value.integer != 0 && evaluator.error_count() == 0;
}

CesqlResult Cesql::Evaluate(const EventView& event) const {
  CesqlResult result;
  Evaluator evaluator(*program_, event, &result.errors);
  const Value value = evaluator.Run(program_->root);
  switch (value.type) {
    case Type::kMissing:
      break;
    case Type::kBoolean:
      result.value.boolean = value.integer != 0;
      break;
    case Type::kInteger:
      result.value.type = CesqlValue::Type::kInteger;
      result.value.integer = value.integer;
      break;
    case Type::kString:
      result.value.type = CesqlValue::Type::kString;
      result.value.text = std::string(value.text);
      break;
  }
  return result;
}

std::string Cesql::NeverTrue() const {
  for (const CesqlNode& node : program_->nodes) {
    if (node.op == CesqlOp::kFunction && node.function == CesqlFunction::kUnknown) {
      return fmt::format("there is no function {} of {} arguments", program_->texts[node.text],
                         node.count);
    }
  }
  const CesqlNode& root = program_->nodes[program_->root];
  switch (StaticType(root)) {
    case Type::kInteger:
      return "its value is an Integer";
    case Type::kString:
      return "its value is a String";
    default:
      break;
  }
  if (root.op == CesqlOp::kBoolean && root.integer == 0) return "it is FALSE";
  return "";
}

const std::vector<std::string>& Cesql::attributes() const { return program_->attributes; }

}  // namespace tocsin
