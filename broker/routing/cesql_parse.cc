#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "broker/base/status.h"
#include "broker/routing/cesql_program.h"

namespace tocsin {
namespace {

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

char Upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; }
char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

std::string Mapped(std::string_view text, char (*map)(char)) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), map);
  return out;
}

struct Token {
  enum class Kind : std::uint8_t { kEnd, kWord, kInteger, kString, kSign };

  Kind kind = Kind::kEnd;
  std::size_t offset = 0;
  std::string_view raw;
  std::string text;  // of a word in upper case, of a string without quotes
};

// How tightly an operator holds its operands.
enum Precedence : int {
  kLogic = 1,
  kComparison = 2,
  kSum = 3,
  kProduct = 4,
  kInSet = 5,
  kLikeText
};

struct Binary {
  std::string_view sign;
  CesqlOp op;
  int precedence;
};

constexpr Binary kBinaries[] = {
    {"AND", CesqlOp::kAnd, kLogic},
    {"OR", CesqlOp::kOr, kLogic},
    {"XOR", CesqlOp::kXor, kLogic},
    {"=", CesqlOp::kEqual, kComparison},
    {"!=", CesqlOp::kNotEqual, kComparison},
    {"<>", CesqlOp::kNotEqual, kComparison},
    {"<=", CesqlOp::kLessOrEqual, kComparison},
    {"<", CesqlOp::kLess, kComparison},
    {">=", CesqlOp::kGreaterOrEqual, kComparison},
    {">", CesqlOp::kGreater, kComparison},
    {"+", CesqlOp::kAdd, kSum},
    {"-", CesqlOp::kSubtract, kSum},
    {"*", CesqlOp::kMultiply, kProduct},
    {"/", CesqlOp::kDivide, kProduct},
    {"%", CesqlOp::kModulo, kProduct},
};

constexpr std::string_view kReserved[] = {"AND", "OR", "XOR", "NOT", "LIKE", "EXISTS", "IN"};

class Parser {
 public:
  Parser(std::string_view text, CesqlFault& fault) : text_(text), fault_(fault) {}

  std::optional<CesqlProgram> Run() {
    std::uint32_t root = 0;
    if (!Next() || !Expression(kLogic, root)) return std::nullopt;
    if (token_.kind != Token::Kind::kEnd) {
      Fail(token_.offset, fmt::format("{} is not expected here", Shown()));
      return std::nullopt;
    }
    program_.root = root;
    std::sort(program_.attributes.begin(), program_.attributes.end());
    program_.attributes.erase(std::unique(program_.attributes.begin(), program_.attributes.end()),
                              program_.attributes.end());
    return std::move(program_);
  }

 private:
  bool Fail(std::size_t offset, std::string message) {
    fault_ = {offset, std::move(message)};
    return false;
  }

  std::string Shown() const {
    if (token_.kind == Token::Kind::kEnd) return "the end";
    return fmt::format("`{}`", token_.raw.substr(0, 40));
  }

  bool Next() {
    while (position_ < text_.size() && IsSpace(text_[position_])) ++position_;
    token_ = Token();
    token_.offset = position_;
    if (position_ >= text_.size()) return true;
    const char c = text_[position_];
    if (c == '\'' || c == '"') return String(c);
    if (IsLetter(c) || IsDigit(c)) {
      bool digits = true;
      std::size_t end = position_;
      for (; end < text_.size(); ++end) {
        const char part = text_[end];
        if (!IsLetter(part) && !IsDigit(part) && part != '_') break;
        digits = digits && IsDigit(part);
      }
      Take(digits ? Token::Kind::kInteger : Token::Kind::kWord, end - position_);
      if (!digits) token_.text = Mapped(token_.raw, Upper);
      return true;
    }
    const std::string_view two = text_.substr(position_, 2);
    if (two == "!=" || two == "<>" || two == "<=" || two == ">=") {
      Take(Token::Kind::kSign, 2);
      return true;
    }
    if (std::string_view("()+-*/%=<>,").find(c) != std::string_view::npos) {
      Take(Token::Kind::kSign, 1);
      return true;
    }
    return Fail(position_, "a character that no expression has");
  }

  void Take(Token::Kind kind, std::size_t bytes) {
    token_.kind = kind;
    token_.raw = text_.substr(position_, bytes);
    position_ += bytes;
  }

  // Only its own quote can be escaped: other backslashes are for LIKE.
  bool String(char quote) {
    std::string value;
    for (std::size_t i = position_ + 1; i < text_.size(); ++i) {
      const char c = text_[i];
      if (c == quote) {
        Take(Token::Kind::kString, i + 1 - position_);
        token_.text = std::move(value);
        return true;
      }
      if (c == '\\' && i + 1 < text_.size()) {
        if (text_[i + 1] != quote) value.push_back(c);
        ++i;
      }
      value.push_back(text_[i]);
    }
    return Fail(position_, "a string without end");
  }

  bool IsSign(std::string_view sign) const {
    return token_.kind == Token::Kind::kSign && token_.raw == sign;
  }
  bool IsWord(std::string_view word) const {
    return token_.kind == Token::Kind::kWord && token_.text == word;
  }

  bool Expect(std::string_view sign) {
    if (IsSign(sign)) return Next();
    return Fail(token_.offset, fmt::format("expected `{}` and not {}", sign, Shown()));
  }

  bool Add(CesqlNode node, std::uint32_t& index) {
    if (program_.nodes.size() >= kCesqlNodesMax) {
      return Fail(token_.offset, fmt::format("an expression has at most {} parts", kCesqlNodesMax));
    }
    index = static_cast<std::uint32_t>(program_.nodes.size());
    program_.nodes.push_back(node);
    return true;
  }

  std::uint32_t AddText(std::string text) {
    program_.texts.push_back(std::move(text));
    return static_cast<std::uint32_t>(program_.texts.size() - 1);
  }

  const Binary* FindBinary() const {
    for (const Binary& binary : kBinaries) {
      if (IsSign(binary.sign) || IsWord(binary.sign)) return &binary;
    }
    return nullptr;
  }

  // What is at least as tight as `precedence`.
  bool Expression(int precedence, std::uint32_t& result) {
    if (++depth_ > kCesqlDepthMax) {
      return Fail(token_.offset, fmt::format("nested more than {} deep", kCesqlDepthMax));
    }
    std::uint32_t left = 0;
    if (!Operand(left)) return false;
    while (true) {
      const bool negated = IsWord("NOT");
      if (negated || IsWord("LIKE") || IsWord("IN")) {
        if (negated && !Next()) return false;
        const bool like = IsWord("LIKE");
        if (!like && !IsWord("IN")) {
          return Fail(token_.offset, "`NOT` between operands stands before LIKE or IN");
        }
        // Nothing holds tighter on its left, and both end by themselves.
        if (!(like ? Like(negated, left) : In(negated, left))) return false;
        continue;
      }
      const Binary* binary = FindBinary();
      if (binary == nullptr || binary->precedence < precedence) break;
      if (!Next()) return false;
      CesqlNode node;
      node.op = binary->op;
      node.left = left;
      if (!Expression(binary->precedence + 1, node.right) || !Add(node, left)) return false;
    }
    --depth_;
    result = left;
    return true;
  }

  bool Like(bool negated, std::uint32_t& left) {
    if (!Next()) return false;
    if (token_.kind != Token::Kind::kString) {
      return Fail(token_.offset, fmt::format("LIKE takes a text in quotes, not {}", Shown()));
    }
    absl::StatusOr<Wildcard> wildcard = Wildcard::FromLike(token_.text);
    if (!wildcard.ok()) {
      return Fail(token_.offset, std::string(MessageOf(wildcard.status())));
    }
    CesqlNode node;
    node.op = CesqlOp::kLike;
    node.negated = negated;
    node.left = left;
    node.right = static_cast<std::uint32_t>(program_.wildcards.size());
    program_.wildcards.push_back(*std::move(wildcard));
    return Next() && Add(node, left);
  }

  bool In(bool negated, std::uint32_t& left) {
    if (!Next() || !Expect("(")) return false;
    CesqlNode node;
    node.op = CesqlOp::kIn;
    node.negated = negated;
    node.left = left;
    return List(node) && Add(node, left);
  }

  // Behind the opening parenthesis, at least one.
  bool List(CesqlNode& node) {
    std::vector<std::uint32_t> list;
    while (true) {
      std::uint32_t index = 0;
      if (!Expression(kLogic, index)) return false;
      list.push_back(index);
      if (!IsSign(",")) break;
      if (!Next()) return false;
    }
    node.first = static_cast<std::uint32_t>(program_.lists.size());
    node.count = static_cast<std::uint32_t>(list.size());
    program_.lists.insert(program_.lists.end(), list.begin(), list.end());
    return Expect(")");
  }

  bool Integer(bool negative, std::uint32_t& result) {
    std::int64_t value = 0;
    const char* end = token_.raw.data() + token_.raw.size();
    const auto [stopped, error] = std::from_chars(token_.raw.data(), end, value);
    constexpr std::int64_t kMax = std::int64_t{1} << 31;
    if (error != std::errc() || value > (negative ? kMax : kMax - 1)) {
      return Fail(token_.offset, "integers have 32 bits");
    }
    CesqlNode node;
    node.op = CesqlOp::kInteger;
    node.integer = static_cast<std::int32_t>(negative ? -value : value);
    return Next() && Add(node, result);
  }

  bool Unary(CesqlOp op, std::uint32_t& result) {
    if (++depth_ > kCesqlDepthMax) {
      return Fail(token_.offset, fmt::format("nested more than {} deep", kCesqlDepthMax));
    }
    CesqlNode node;
    node.op = op;
    if (!Operand(node.left)) return false;
    --depth_;
    return Add(node, result);
  }

  bool Operand(std::uint32_t& result) {
    CesqlNode node;
    switch (token_.kind) {
      case Token::Kind::kString:
        node.op = CesqlOp::kString;
        node.text = AddText(std::move(token_.text));
        return Next() && Add(node, result);
      case Token::Kind::kInteger:
        return Integer(false, result);
      case Token::Kind::kSign:
        if (IsSign("(")) return Next() && Expression(kLogic, result) && Expect(")");
        if (IsSign("-")) {
          if (!Next()) return false;
          if (token_.kind == Token::Kind::kInteger) return Integer(true, result);
          return Unary(CesqlOp::kMinus, result);
        }
        if (IsSign("+")) {
          if (!Next()) return false;
          if (token_.kind == Token::Kind::kInteger) return Integer(false, result);
        }
        break;
      case Token::Kind::kWord:
        return Word(result);
      case Token::Kind::kEnd:
        break;
    }
    return Fail(token_.offset, fmt::format("expected a value and not {}", Shown()));
  }

  bool Word(std::uint32_t& result) {
    CesqlNode node;
    const Token word = token_;
    if (!Next()) return false;
    if (word.text == "NOT") return Unary(CesqlOp::kNot, result);
    if (word.text == "EXISTS") {
      if (token_.kind != Token::Kind::kWord || IsReserved(token_.text)) {
        return Fail(token_.offset, fmt::format("EXISTS takes an attribute, not {}", Shown()));
      }
      const Token name = token_;
      node.op = CesqlOp::kExists;
      return Next() && Attribute(name, node) && Add(node, result);
    }
    if (IsReserved(word.text)) {
      return Fail(word.offset, fmt::format("expected a value and not `{}`", word.raw));
    }
    if (IsSign("(")) return Function(word, result);
    if (word.text == "TRUE" || word.text == "FALSE") {
      node.integer = word.text == "TRUE" ? 1 : 0;
      return Add(node, result);
    }
    node.op = CesqlOp::kAttribute;
    return Attribute(word, node) && Add(node, result);
  }

  static bool IsReserved(std::string_view word) {
    return std::find(std::begin(kReserved), std::end(kReserved), word) != std::end(kReserved);
  }

  bool Attribute(const Token& word, CesqlNode& node) {
    if (word.raw.find('_') != std::string_view::npos) {
      return Fail(word.offset,
                  fmt::format("`{}` is no attribute's name: they have letters and digits only",
                              word.raw.substr(0, 40)));
    }
    std::string name = Mapped(word.raw, Lower);
    program_.attributes.push_back(name);
    node.text = AddText(std::move(name));
    return true;
  }

  bool Function(const Token& word, std::uint32_t& result) {
    if (std::any_of(word.raw.begin(), word.raw.end(), IsDigit)) {
      return Fail(word.offset, fmt::format("`{}` is no function's name", word.raw.substr(0, 40)));
    }
    if (!Next()) return false;
    CesqlNode node;
    node.op = CesqlOp::kFunction;
    if (IsSign(")")) {
      if (!Next()) return false;
    } else if (!List(node)) {
      return false;
    }
    node.function = FindCesqlFunction(word.text, node.count);
    node.text = AddText(word.text);
    return Add(node, result);
  }

  std::string_view text_;
  CesqlFault& fault_;
  CesqlProgram program_;
  Token token_;
  std::size_t position_ = 0;
  std::size_t depth_ = 0;
};

}  // namespace

CesqlFunction FindCesqlFunction(std::string_view name, std::size_t arguments) {
  struct Entry {
    std::string_view name;
    std::size_t min;
    std::size_t max;
    CesqlFunction function;
  };
  constexpr std::size_t kAny = kCesqlNodesMax;
  constexpr Entry kFunctions[] = {
      {"INT", 1, 1, CesqlFunction::kInt},
      {"BOOL", 1, 1, CesqlFunction::kBool},
      {"STRING", 1, 1, CesqlFunction::kString},
      {"LENGTH", 1, 1, CesqlFunction::kLength},
      {"CONCAT", 0, kAny, CesqlFunction::kConcat},
      {"CONCAT_WS", 1, kAny, CesqlFunction::kConcatWithSeparator},
      {"LOWER", 1, 1, CesqlFunction::kLower},
      {"UPPER", 1, 1, CesqlFunction::kUpper},
      {"TRIM", 1, 1, CesqlFunction::kTrim},
      {"LEFT", 2, 2, CesqlFunction::kLeft},
      {"RIGHT", 2, 2, CesqlFunction::kRight},
      {"SUBSTRING", 2, 3, CesqlFunction::kSubstring},
      {"ABS", 1, 1, CesqlFunction::kAbs},
  };
  for (const Entry& entry : kFunctions) {
    if (entry.name == name && arguments >= entry.min && arguments <= entry.max) {
      return entry.function;
    }
  }
  return CesqlFunction::kUnknown;
}

std::optional<CesqlProgram> ParseCesql(std::string_view text, CesqlFault& fault) {
  if (text.size() > kCesqlBytesMax) {
    fault = {kCesqlBytesMax, fmt::format("an expression has at most {} bytes", kCesqlBytesMax)};
    return std::nullopt;
  }
  return Parser(text, fault).Run();
}

}  // namespace tocsin
