#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/routing/pattern.h"
#include "broker/routing/pattern_tree.h"
#include "broker/routing/text_case.h"

namespace tocsin {
namespace {

constexpr std::string_view kOperators[] = {
    "exactly", "prefix", "suffix", "equals-ignore-case", "wildcard", "anything-but",
    "numeric", "exists", "cidr"};

bool IsOperator(std::string_view word) {
  return std::find(std::begin(kOperators), std::end(kOperators), word) != std::end(kOperators);
}

std::string Quoted(std::string_view text) {
  std::string out;
  AppendJsonString(out, text.substr(0, 64));
  return out;
}

}  // namespace

class PatternParser {
  using Clause = PatternClause;
  using Field = PatternField;
  using Object = PatternObject;

 public:
  PatternParser(std::string_view json, PatternFault& fault) : json_(json), fault_(fault) {}

  PatternPtr Run(const JsonValue& root) {
    Object object;
    if (!ReadObject(root, 0, object)) return nullptr;
    if (std::size_t parts = 0; !JoinChoices(object, kPatternItemsMax, parts)) {
      Fail(root, fmt::format("what stands beside `$or` and in its alternatives goes together; "
                             "written out that is more than {} parts",
                             kPatternItemsMax));
      return nullptr;
    }
    pattern_ = std::make_shared<Pattern>(Pattern::Private());
    WriteEvent(object);
    const std::size_t texts = (text_.size() + sizeof(PatternItem) - 1) / sizeof(PatternItem);
    pattern_->count_ = static_cast<std::uint16_t>(items_.size());
    pattern_->text_bytes_ = static_cast<std::uint32_t>(text_.size());
    pattern_->block_ = std::make_unique<PatternItem[]>(items_.size() + texts);
    std::copy(items_.begin(), items_.end(), pattern_->block_.get());
    std::memcpy(static_cast<void*>(pattern_->block_.get() + items_.size()), text_.data(),
                text_.size());
    return pattern_;
  }

 private:
  bool Fail(const JsonValue& at, std::string message) { return Fail(at.raw, std::move(message)); }
  bool Fail(std::string_view at, std::string message) {
    fault_ = {static_cast<std::size_t>(at.data() - json_.data()), std::move(message)};
    return false;
  }

  // Counted while reading, so that nothing large is built first.
  bool Count(const JsonValue& at) {
    if (++count_ <= kPatternItemsMax) return true;
    return Fail(at, fmt::format("a pattern has at most {} parts", kPatternItemsMax));
  }

  bool ReadObject(const JsonValue& value, std::size_t depth, Object& object) {
    if (value.kind != JsonKind::kObject) return Fail(value, "a pattern is an object");
    const std::vector<JsonMember> members = JsonMembers(value);
    if (members.empty()) return Fail(value, "an empty object matches nothing; name a field");
    for (const JsonMember& member : members) {
      bool read = false;
      if (member.name == "$or" && IsChoice(member.value)) {
        read = ReadChoice(member.value, depth, object);
      } else {
        read = ReadField(member.name, member.value, depth, object);
      }
      if (!read) return false;
    }
    return true;
  }

  // As in EventBridge, where `$or` came later: what has operators inside is a field of that name.
  static bool IsChoice(const JsonValue& value) {
    if (value.kind != JsonKind::kArray) return false;
    for (const JsonValue& element : JsonElements(value)) {
      if (element.kind != JsonKind::kObject) continue;
      for (const JsonMember& member : JsonMembers(element)) {
        if (IsOperator(member.name)) return false;
      }
    }
    return true;
  }

  bool ReadChoice(const JsonValue& value, std::size_t depth, Object& object) {
    const std::vector<JsonValue> elements = JsonElements(value);
    if (elements.size() < 2) return Fail(value, "`$or` takes at least two alternatives");
    std::vector<Object> alternatives(elements.size());
    for (std::size_t i = 0; i < elements.size(); ++i) {
      if (!Count(elements[i]) || !ReadObject(elements[i], depth, alternatives[i])) return false;
    }
    object.choices.push_back(std::move(alternatives));
    return true;
  }

  bool CheckAttribute(std::string_view name, const JsonValue& value) {
    const bool in_form = !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    });
    if (!in_form) {
      return Fail(value, fmt::format("{} is not an attribute's name (only a-z and 0-9); fields of "
                                     "the payload stand beneath `data`",
                                     Quoted(name)));
    }
    if (value.kind == JsonKind::kArray) return true;
    return Fail(value, fmt::format("the attribute {} takes an array of values", Quoted(name)));
  }

  bool ReadField(std::string_view name, const JsonValue& value, std::size_t depth, Object& object) {
    if (depth == 0 && name.substr(0, name.find('.')) != "data" && !CheckAttribute(name, value)) {
      return false;
    }
    if (++depth > kPatternDepthMax) {
      return Fail(value, fmt::format("a pattern is at most {} names deep", kPatternDepthMax));
    }
    if (!Count(value)) return false;
    const std::size_t dot = name.find('.');
    Field& field = object.fields[std::string(name.substr(0, dot))];
    const bool is_new = field.clauses.empty() && field.object == nullptr;
    const bool leaf = dot == std::string_view::npos && value.kind == JsonKind::kArray;
    if (!is_new && (leaf || !field.clauses.empty())) {
      return Fail(value, fmt::format("{} is given twice", Quoted(name)));
    }
    if (leaf) return ReadClauses(value, field.clauses);
    if (field.object == nullptr) field.object = std::make_unique<Object>();
    if (dot != std::string_view::npos) {
      return ReadField(name.substr(dot + 1), value, depth, *field.object);
    }
    if (value.kind != JsonKind::kObject) {
      return Fail(value, fmt::format("{} takes an array of values, such as [{}]", Quoted(name),
                                     value.raw.substr(0, 32)));
    }
    return ReadObject(value, depth, *field.object);
  }

  bool ReadClauses(const JsonValue& value, std::vector<Clause>& clauses) {
    std::size_t scans = 0;
    for (const JsonValue& element : JsonElements(value)) {
      if (!Count(element) || !ReadClause(element, clauses.emplace_back())) return false;
      if (element.kind == JsonKind::kObject && ++scans > kPatternScansMax) {
        return Fail(element, fmt::format("a field has at most {} clauses that are no plain values",
                                         kPatternScansMax));
      }
    }
    if (clauses.empty()) return Fail(value, "an empty array matches nothing; give a value");
    return true;
  }

  bool ReadClause(const JsonValue& value, Clause& clause) {
    switch (value.kind) {
      case JsonKind::kString:
        clause.text = JsonString(value);
        return true;
      case JsonKind::kNumber: {
        const std::optional<Number> number = Number::Parse(value.raw);
        if (!number) return Fail(value, "the number is out of range");
        clause.op = PatternOp::kNumber;
        clause.number = *number;
        return true;
      }
      case JsonKind::kBoolean:
        clause.op = value.raw == "true" ? PatternOp::kTrue : PatternOp::kFalse;
        return true;
      case JsonKind::kNull:
        clause.op = PatternOp::kNull;
        return true;
      case JsonKind::kArray:
        return Fail(value, "an array stands in an array; values are given one by one");
      case JsonKind::kObject:
        break;
    }
    const std::vector<JsonMember> members = JsonMembers(value);
    if (members.size() != 1) {
      return Fail(value, "a clause is an object with one operator, such as {\"prefix\": \"a\"}");
    }
    const std::string& name = members.front().name;
    const JsonValue& argument = members.front().value;
    if (name == "exactly") return ReadText(argument, name, clause.text);
    if (name == "prefix" || name == "suffix") {
      const bool prefix = name == "prefix";
      clause.op = prefix ? PatternOp::kPrefix : PatternOp::kSuffix;
      if (argument.kind != JsonKind::kObject) return ReadText(argument, name, clause.text);
      const std::vector<JsonMember> inner = JsonMembers(argument);
      if (inner.size() != 1 || inner.front().name != "equals-ignore-case") {
        return Fail(argument, fmt::format("`{}` takes a string or "
                                          "{{\"equals-ignore-case\": string}}",
                                          name));
      }
      clause.op = prefix ? PatternOp::kPrefixIgnoreCase : PatternOp::kSuffixIgnoreCase;
      return ReadLowered(inner.front().value, clause.text);
    }
    if (name == "equals-ignore-case") {
      clause.op = PatternOp::kIgnoreCase;
      return ReadLowered(argument, clause.text);
    }
    if (name == "wildcard") return ReadWildcard(argument, clause);
    if (name == "numeric") return ReadNumeric(argument, clause);
    if (name == "anything-but") return ReadAnythingBut(argument, clause);
    if (name == "cidr") {
      clause.op = PatternOp::kCidr;
      if (!ReadText(argument, name, clause.text)) return false;
      const absl::StatusOr<Cidr> cidr = Cidr::Parse(clause.text);
      if (!cidr.ok()) return Fail(argument, std::string(MessageOf(cidr.status())));
      clause.cidr = *cidr;
      return true;
    }
    if (name == "exists") {
      if (argument.kind != JsonKind::kBoolean) {
        return Fail(argument, "`exists` takes true or false");
      }
      clause.op = argument.raw == "true" ? PatternOp::kExists : PatternOp::kAbsent;
      return true;
    }
    return Fail(value, fmt::format("{} is no operator; there are prefix, suffix, "
                                   "equals-ignore-case, wildcard, anything-but, numeric, exists, "
                                   "cidr",
                                   Quoted(name)));
  }

  bool ReadText(const JsonValue& value, std::string_view name, std::string& text) {
    if (value.kind != JsonKind::kString) {
      return Fail(value, fmt::format("`{}` takes a string", name));
    }
    text = JsonString(value);
    return true;
  }

  bool ReadLowered(const JsonValue& value, std::string& text) {
    if (!ReadText(value, "equals-ignore-case", text)) return false;
    text = LowerCase(text);
    return true;
  }

  bool ReadWildcard(const JsonValue& value, Clause& clause) {
    clause.op = PatternOp::kWildcard;
    if (!ReadText(value, "wildcard", clause.text)) return false;
    absl::StatusOr<Wildcard> wildcard = Wildcard::FromPattern(clause.text);
    if (!wildcard.ok()) return Fail(value, std::string(MessageOf(wildcard.status())));
    if (++wildcards_ > kPatternWildcardsMax) {
      return Fail(value, fmt::format("a pattern has at most {} wildcards", kPatternWildcardsMax));
    }
    clause.wildcard = *std::move(wildcard);
    return true;
  }

  bool ReadNumeric(const JsonValue& value, Clause& clause) {
    constexpr std::string_view kForm =
        "`numeric` takes an operator and a number, such as [\">\", 0], or a range, such as "
        "[\">=\", 0, \"<\", 10]";
    clause.op = PatternOp::kNumeric;
    if (value.kind != JsonKind::kArray) return Fail(value, std::string(kForm));
    const std::vector<JsonValue> terms = JsonElements(value);
    if (terms.size() != 2 && terms.size() != 4) return Fail(value, std::string(kForm));
    for (std::size_t i = 0; i < terms.size(); i += 2) {
      if (terms[i].kind != JsonKind::kString) return Fail(terms[i], std::string(kForm));
      const std::string sign = JsonString(terms[i]);
      const std::optional<Number> number =
          terms[i + 1].kind == JsonKind::kNumber ? Number::Parse(terms[i + 1].raw) : std::nullopt;
      if (!number) {
        return Fail(terms[i + 1], fmt::format("behind `{}` stands a number", sign.substr(0, 16)));
      }
      NumberRange& range = clause.range;
      const bool low = sign == ">" || sign == ">=" || sign == "=";
      const bool high = sign == "<" || sign == "<=" || sign == "=";
      if (!low && !high) {
        return Fail(terms[i], fmt::format("{} is none of =, <, <=, >, >=", Quoted(sign)));
      }
      if (i == 2 && (sign == "=" || !high || range.has_high)) {
        return Fail(terms[i], "a range is a lower bound and then an upper one");
      }
      if (low) {
        range.has_low = true;
        range.low = *number;
        range.low_open = sign == ">";
      }
      if (high) {
        range.has_high = true;
        range.high = *number;
        range.high_open = sign == "<";
      }
    }
    if (terms.size() == 4 && Number::Compare(clause.range.low, clause.range.high) >= 0) {
      return Fail(value, "no number is in this range");
    }
    return true;
  }

  bool ReadAnythingBut(const JsonValue& value, Clause& clause) {
    clause.op = PatternOp::kAnythingBut;
    if (value.kind != JsonKind::kObject) return ReadExcluded(value, PatternOp::kText, clause);
    const std::vector<JsonMember> members = JsonMembers(value);
    PatternOp op = PatternOp::kText;
    if (members.size() == 1) {
      const std::string& name = members.front().name;
      if (name == "prefix") op = PatternOp::kPrefix;
      if (name == "suffix") op = PatternOp::kSuffix;
      if (name == "equals-ignore-case") op = PatternOp::kIgnoreCase;
      if (name == "wildcard") op = PatternOp::kWildcard;
    }
    if (op == PatternOp::kText) {
      return Fail(value,
                  "`anything-but` takes values, or one of prefix, suffix, "
                  "equals-ignore-case, wildcard");
    }
    return ReadExcluded(members.front().value, op, clause);
  }

  // One value or a list of values of one kind.
  bool ReadExcluded(const JsonValue& value, PatternOp op, Clause& clause) {
    std::vector<JsonValue> values = {value};
    if (value.kind == JsonKind::kArray) values = JsonElements(value);
    if (values.empty()) return Fail(value, "`anything-but` takes at least one value");
    if (op != PatternOp::kText && values.size() > kPatternScansMax) {
      return Fail(value, fmt::format("`anything-but` takes at most {} values that are not plain",
                                     kPatternScansMax));
    }
    for (const JsonValue& one : values) {
      if (!Count(one)) return false;
      Clause& child = clause.children.emplace_back();
      if (op == PatternOp::kText) {
        if (one.kind != values.front().kind ||
            (one.kind != JsonKind::kString && one.kind != JsonKind::kNumber)) {
          return Fail(one, "`anything-but` takes strings or numbers, not both");
        }
        if (!ReadClause(one, child)) return false;
        continue;
      }
      if (op == PatternOp::kWildcard) {
        if (!ReadWildcard(one, child)) return false;
        continue;
      }
      child.op = op;
      if (!ReadText(one, "anything-but", child.text)) return false;
      if (child.text.empty() && op != PatternOp::kIgnoreCase) {
        return Fail(one, "every text has an empty prefix and suffix");
      }
      if (op == PatternOp::kIgnoreCase) child.text = LowerCase(child.text);
    }
    return true;
  }

  // Attributes first, the payload last: the order in which they are tried.
  void WriteEvent(const Object& object) {
    for (const auto& [name, field] : object.fields) {
      if (name != "data") WriteField(name, field);
    }
    for (const std::vector<Object>& choice : object.choices) {
      const std::uint32_t index = Open(PatternOp::kAny, {});
      for (const Object& alternative : choice) {
        const std::uint32_t inner = Open(PatternOp::kAlternative, {});
        WriteEvent(alternative);
        Close(inner);
      }
      Close(index);
    }
    if (const auto data = object.fields.find("data"); data != object.fields.end()) {
      pattern_->uses_payload_ = true;
      WriteField(data->first, data->second);
    }
  }

  void WriteObject(const Object& object) {
    for (const auto& [name, field] : object.fields) WriteField(name, field);
    for (const std::vector<Object>& choice : object.choices) {
      const std::uint32_t index = Open(PatternOp::kAny, {});
      for (const Object& alternative : choice) {
        const std::uint32_t inner = Open(PatternOp::kAlternative, {});
        WriteObject(alternative);
        Close(inner);
      }
      Close(index);
    }
  }

  void WriteField(const std::string& name, const Field& field) {
    const bool leaf = !field.clauses.empty();
    const std::uint32_t index = Open(leaf ? PatternOp::kField : PatternOp::kObject, name);
    if (leaf) {
      WriteClauses(field.clauses, index);
    } else {
      WriteObject(*field.object);
    }
    Close(index);
  }

  void WriteClauses(std::vector<Clause> clauses, std::uint32_t parent) {
    std::stable_sort(clauses.begin(), clauses.end(), [](const Clause& a, const Clause& b) {
      if (a.op != b.op) return a.op < b.op;
      if (a.op == PatternOp::kNumber) return Number::Compare(a.number, b.number) < 0;
      return a.text < b.text;
    });
    std::int64_t texts = 0;
    std::int64_t numbers = 0;
    for (const Clause& clause : clauses) {
      texts += clause.op == PatternOp::kText ? 1 : 0;
      numbers += clause.op == PatternOp::kNumber ? 1 : 0;
      const std::uint32_t index = Open(clause.op, clause.text);
      PatternItem& item = items_[index];
      switch (clause.op) {
        case PatternOp::kNumber:
          item.whole = clause.number.whole;
          item.number = clause.number.bits;
          break;
        case PatternOp::kWildcard:
          item.number = Put(ExtraOf().wildcards, *clause.wildcard);
          break;
        case PatternOp::kNumeric:
          item.number = Put(ExtraOf().ranges, clause.range);
          break;
        case PatternOp::kCidr:
          item.number = Put(ExtraOf().cidrs, clause.cidr);
          break;
        case PatternOp::kAnythingBut:
          WriteClauses(clause.children, index);
          break;
        default:
          break;
      }
      Close(index);
    }
    items_[parent].number = texts | numbers << 32;
  }

  template <typename T>
  static std::int64_t Put(std::vector<T>& list, const T& value) {
    list.push_back(value);
    return static_cast<std::int64_t>(list.size() - 1);
  }

  Pattern::Extra& ExtraOf() {
    if (pattern_->extra_ == nullptr) pattern_->extra_ = std::make_unique<Pattern::Extra>();
    return *pattern_->extra_;
  }

  std::uint32_t Open(PatternOp op, std::string_view text) {
    PatternItem item;
    item.op = op;
    item.text = static_cast<std::uint32_t>(text_.size());
    text_ += text;
    items_.push_back(item);
    return static_cast<std::uint32_t>(items_.size() - 1);
  }

  void Close(std::uint32_t index) {
    // As many as were read may be copied (JoinChoices); choices come on top, at most one for two
    // parts.
    static_assert(4 * kPatternItemsMax <= 0xFFFF);
    items_[index].end = static_cast<std::uint16_t>(items_.size());
  }

  std::string_view json_;
  PatternFault& fault_;
  std::shared_ptr<Pattern> pattern_;
  std::vector<PatternItem> items_;
  std::string text_;
  std::size_t count_ = 0;
  std::size_t wildcards_ = 0;
};

PatternPtr Pattern::FromJson(std::string_view json, PatternFault& fault) {
  if (json.size() > kPatternBytesMax) {
    fault = {kPatternBytesMax, fmt::format("a pattern has at most {} bytes", kPatternBytesMax)};
    return nullptr;
  }
  JsonValue root;
  if (const absl::Status status = JsonScanner(json).ReadDocument(root); !status.ok()) {
    fault = {0, std::string(MessageOf(status))};
    return nullptr;
  }
  return PatternParser(json, fault).Run(root);
}

absl::StatusOr<PatternPtr> Pattern::FromJson(std::string_view json) {
  PatternFault fault;
  PatternPtr pattern = FromJson(json, fault);
  if (pattern != nullptr) return pattern;
  std::size_t line = 1;
  std::size_t column = 1;
  for (const char c : json.substr(0, fault.offset)) {
    ++column;
    if (c == '\n') {
      ++line;
      column = 1;
    }
  }
  if (fault.message.rfind("line ", 0) == 0) return absl::InvalidArgumentError(fault.message);
  return absl::InvalidArgumentError(
      fmt::format("line {}, column {}: {}", line, column, fault.message));
}

}  // namespace tocsin
