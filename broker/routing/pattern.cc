#include "broker/routing/pattern.h"

#include <fmt/format.h>

#include <algorithm>

#include "absl/container/inlined_vector.h"
#include "broker/base/json_scan.h"
#include "broker/routing/attribute_text.h"
#include "broker/routing/text_case.h"

namespace tocsin {
namespace {

bool HasPrefix(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

bool HasSuffix(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

std::string_view OperatorName(PatternOp op) {
  switch (op) {
    case PatternOp::kPrefix:
    case PatternOp::kPrefixIgnoreCase:
      return "prefix";
    case PatternOp::kSuffix:
    case PatternOp::kSuffixIgnoreCase:
      return "suffix";
    case PatternOp::kIgnoreCase:
      return "equals-ignore-case";
    case PatternOp::kWildcard:
      return "wildcard";
    case PatternOp::kCidr:
      return "cidr";
    default:
      return "";
  }
}

}  // namespace

bool AttributeClauseValue(const EventView& event, std::string_view name, const AttributeText& text,
                          ClauseValue& value) {
  if (!text.present()) return false;
  value.kind = ValueKind::kText;
  value.text = text.text();
  // The required ones are texts, and an event has no attribute of their names beside them.
  const AttributeView* attribute = event.Find(name);
  if (attribute == nullptr) return true;
  if (attribute->kind == AttributeKind::kInteger) {
    value.kind = ValueKind::kNumber;
    value.number = Number::Of(attribute->integer);
  } else if (attribute->kind == AttributeKind::kBoolean) {
    value.kind = attribute->integer != 0 ? ValueKind::kTrue : ValueKind::kFalse;
  }
  return true;
}

bool Pattern::ClauseHolds(std::uint32_t clause, const ClauseValue& value) const {
  const PatternItem& item = items()[clause];
  const bool is_text = value.kind == ValueKind::kText;
  const std::string_view text = TextOf(item);
  switch (item.op) {
    case PatternOp::kText:
      return is_text && value.text == text;
    case PatternOp::kNumber:
      return value.kind == ValueKind::kNumber && value.number == Number{item.whole, item.number};
    case PatternOp::kTrue:
      return value.kind == ValueKind::kTrue;
    case PatternOp::kFalse:
      return value.kind == ValueKind::kFalse;
    case PatternOp::kNull:
      return value.kind == ValueKind::kNull;
    case PatternOp::kPrefix:
      return is_text && HasPrefix(value.text, text);
    case PatternOp::kSuffix:
      return is_text && HasSuffix(value.text, text);
    case PatternOp::kIgnoreCase:
      return is_text && EqualsLowered(value.text, text);
    case PatternOp::kPrefixIgnoreCase:
      return is_text && EqualsLowered(value.text.substr(0, text.size()), text);
    case PatternOp::kSuffixIgnoreCase:
      return is_text && value.text.size() >= text.size() &&
             EqualsLowered(value.text.substr(value.text.size() - text.size()), text);
    case PatternOp::kWildcard:
      return is_text && WildcardOf(item).Matches(value.text);
    case PatternOp::kNumeric:
      return value.kind == ValueKind::kNumber && RangeOf(item).Contains(value.number);
    case PatternOp::kCidr:
      return is_text && extra_->cidrs[static_cast<std::size_t>(item.number)].Contains(value.text);
    case PatternOp::kExists:
      return true;
    case PatternOp::kAnythingBut:
      return !AnyClauseHolds(clause, value);
    default:
      return false;
  }
}

bool Pattern::AnyClauseHolds(std::uint32_t parent, const ClauseValue& value) const {
  const std::uint32_t texts = parent + 1;
  const std::uint32_t numbers = texts + items()[parent].texts();
  const std::uint32_t others = numbers + items()[parent].numbers();
  const auto begin = items().begin();
  if (value.kind == ValueKind::kText && numbers > texts) {
    const auto found = std::lower_bound(
        begin + texts, begin + numbers, value.text,
        [this](const PatternItem& item, std::string_view text) { return TextOf(item) < text; });
    if (found != begin + numbers && TextOf(*found) == value.text) return true;
  }
  if (value.kind == ValueKind::kNumber && others > numbers) {
    const auto found =
        std::lower_bound(begin + numbers, begin + others, value.number,
                         [](const PatternItem& item, const Number& number) {
                           return Number::Compare(Number{item.whole, item.number}, number) < 0;
                         });
    if (found != begin + others && Number{found->whole, found->number} == value.number) return true;
  }
  for (std::uint32_t clause = others; clause < items()[parent].end; clause = items()[clause].end) {
    if (ClauseHolds(clause, value)) return true;
  }
  return false;
}

// How a part of a pattern holds. What holds by absence alone chooses no element of an array.
enum class Hold : std::uint8_t { kNo, kByAbsence, kYes };

// One pattern on one event. Recursion is bounded by the depths of pattern and payload.
class PatternMatch {
 public:
  PatternMatch(const Pattern& pattern, const EventView& event, PayloadReader* payload,
               const PathId* bound)
      : pattern_(pattern),
        items_(pattern.items()),
        event_(event),
        payload_(payload),
        bound_(bound) {}

  bool Event(std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t i = begin; i < end; i = items_[i].end) {
      if (!EventPart(i)) return false;
    }
    return true;
  }

  bool EventPart(std::uint32_t i) {
    const PatternItem& item = items_[i];
    if (item.op == PatternOp::kAny) {
      for (std::uint32_t way = i + 1; way < item.end; way = items_[way].end) {
        if (Event(way + 1, items_[way].end)) return true;
      }
      return false;
    }
    const std::string_view name = pattern_.TextOf(item);
    if (name != "data") return Attribute(i, name);
    if (!payload_->Load()) return false;
    const PayloadValue* root = payload_->root();
    return (item.op == PatternOp::kField ? Field(i, root) : Object(i, root)) != Hold::kNo;
  }

 private:
  using Values = absl::InlinedVector<const PayloadValue*, 8>;

  bool Attribute(std::uint32_t i, std::string_view name) const {
    const AttributeText text(event_, name);
    ClauseValue value;
    if (AttributeClauseValue(event_, name, text, value)) return pattern_.AnyClauseHolds(i, value);
    return pattern_.HasAbsent(i);
  }

  Hold Parts(std::uint32_t begin, std::uint32_t end, const PayloadValue* object) const {
    Hold all = Hold::kByAbsence;
    for (std::uint32_t i = begin; i < end; i = items_[i].end) {
      const Hold one = Part(i, object);
      if (one == Hold::kNo) return one;
      all = std::max(all, one);
    }
    return all;
  }

  Hold Part(std::uint32_t i, const PayloadValue* object) const {
    const PatternItem& item = items_[i];
    if (item.op == PatternOp::kAny) {
      Hold best = Hold::kNo;
      for (std::uint32_t way = i + 1; way < item.end; way = items_[way].end) {
        best = std::max(best, Parts(way + 1, items_[way].end, object));
        if (best == Hold::kYes) break;
      }
      return best;
    }
    const PayloadValue* value = object == nullptr ? nullptr : payload_->Child(*object, bound_[i]);
    return item.op == PatternOp::kField ? Field(i, value) : Object(i, value);
  }

  Hold Object(std::uint32_t i, const PayloadValue* value) const {
    if (value != nullptr && value->kind == ValueKind::kTwice) return Hold::kNo;
    if (value == nullptr || value->kind != ValueKind::kArray) {
      const bool is_object = value != nullptr && value->kind == ValueKind::kObject;
      return Parts(i + 1, items_[i].end, is_object ? value : nullptr);
    }
    for (std::uint32_t n = 0; n < value->count; ++n) {
      if (Object(i, &payload_->Edge(*value, n)) == Hold::kYes) return Hold::kYes;
    }
    // No element is chosen by a value, so what is to be absent must be so in all of them.
    Values elements;
    Flatten(*value, elements);
    return Absent(i + 1, items_[i].end, elements) ? Hold::kByAbsence : Hold::kNo;
  }

  Hold Field(std::uint32_t i, const PayloadValue* value) const {
    if (value == nullptr) return pattern_.HasAbsent(i) ? Hold::kByAbsence : Hold::kNo;
    if (Holds(i, *value)) return Hold::kYes;
    return !HasLeaf(*value) && pattern_.HasAbsent(i) ? Hold::kByAbsence : Hold::kNo;
  }

  bool Holds(std::uint32_t field, const PayloadValue& value) const {
    switch (value.kind) {
      case ValueKind::kObject:
      case ValueKind::kTwice:
        return false;
      case ValueKind::kArray:
        for (std::uint32_t n = 0; n < value.count; ++n) {
          if (Holds(field, payload_->Edge(value, n))) return true;
        }
        return false;
      default:
        return pattern_.AnyClauseHolds(field, {value.kind, value.text, value.number});
    }
  }

  // What is ambiguous is not absent.
  bool HasLeaf(const PayloadValue& value) const {
    if (value.kind == ValueKind::kObject) return false;
    if (value.kind != ValueKind::kArray) return true;
    for (std::uint32_t n = 0; n < value.count; ++n) {
      if (HasLeaf(payload_->Edge(value, n))) return true;
    }
    return false;
  }

  void Flatten(const PayloadValue& value, Values& elements) const {
    if (value.kind != ValueKind::kArray) {
      elements.push_back(&value);
      return;
    }
    for (std::uint32_t n = 0; n < value.count; ++n) Flatten(payload_->Edge(value, n), elements);
  }

  // All parts hold because none of the objects has a value for them.
  bool Absent(std::uint32_t begin, std::uint32_t end, const Values& objects) const {
    for (std::uint32_t i = begin; i < end; i = items_[i].end) {
      if (!AbsentPart(i, objects)) return false;
    }
    return true;
  }

  bool AbsentPart(std::uint32_t i, const Values& objects) const {
    const PatternItem& item = items_[i];
    if (item.op == PatternOp::kAny) {
      for (std::uint32_t way = i + 1; way < item.end; way = items_[way].end) {
        if (Absent(way + 1, items_[way].end, objects)) return true;
      }
      return false;
    }
    if (item.op == PatternOp::kField && !pattern_.HasAbsent(i)) return false;
    Values values;
    for (const PayloadValue* object : objects) {
      if (object->kind == ValueKind::kTwice) return false;
      if (object->kind != ValueKind::kObject) continue;
      const PayloadValue* value = payload_->Child(*object, bound_[i]);
      if (value == nullptr) continue;
      if (item.op == PatternOp::kField && HasLeaf(*value)) return false;
      if (item.op == PatternOp::kObject) Flatten(*value, values);
    }
    return item.op == PatternOp::kField || Absent(i + 1, item.end, values);
  }

  const Pattern& pattern_;
  std::span<const PatternItem> items_;
  const EventView& event_;
  PayloadReader* payload_;
  const PathId* bound_;
};

bool Pattern::Matches(const EventView& event, PayloadReader& payload, const PathId* bound) const {
  return PatternMatch(*this, event, &payload, bound)
      .Event(0, static_cast<std::uint32_t>(items().size()));
}

bool Pattern::HoldsAt(std::uint32_t item, const EventView& event, PayloadReader& payload,
                      const PathId* bound) const {
  return PatternMatch(*this, event, &payload, bound).EventPart(item);
}

bool Pattern::HasAbsent(std::uint32_t field) const {
  for (std::uint32_t c = field + 1; c < items()[field].end; c = items()[c].end) {
    if (items()[c].op == PatternOp::kAbsent) return true;
  }
  return false;
}

std::vector<PathId> Pattern::Bind(PathTree& paths) const {
  std::vector<PathId> bound(items().size(), kNoPath);
  struct Open {
    std::uint32_t end;
    PathId path;
  };
  absl::InlinedVector<Open, 8> open;
  for (std::uint32_t i = 0; i < items().size(); ++i) {
    const PatternItem& item = items()[i];
    while (!open.empty() && open.back().end <= i) open.pop_back();
    const bool named = item.op == PatternOp::kObject || item.op == PatternOp::kField;
    const bool in_payload = !open.empty();
    if (named && (in_payload || TextOf(item) == "data")) {
      bound[i] = in_payload ? paths.Add(open.back().path, TextOf(item)) : kRootPath;
      if (item.op == PatternOp::kField) paths.Want(bound[i]);
      open.push_back({item.end, bound[i]});
    }
    // Clauses have no names of their own.
    if (item.op == PatternOp::kField) i = item.end - 1;
  }
  return bound;
}

std::string Pattern::ToJson() const {
  std::string out = "{";
  AppendJson(out, 0, static_cast<std::uint32_t>(items().size()));
  out += '}';
  return out;
}

void Pattern::AppendJson(std::string& out, std::uint32_t begin, std::uint32_t end) const {
  for (std::uint32_t i = begin; i < end; i = items()[i].end) {
    const PatternItem& item = items()[i];
    if (i > begin) out += ',';
    if (item.op == PatternOp::kAny) {
      out += "\"$or\":[";
      for (std::uint32_t way = i + 1; way < item.end; way = items()[way].end) {
        if (way > i + 1) out += ',';
        out += '{';
        AppendJson(out, way + 1, items()[way].end);
        out += '}';
      }
      out += ']';
      continue;
    }
    AppendJsonString(out, TextOf(item));
    out += ':';
    if (item.op == PatternOp::kField) {
      out += ClausesJson(i);
      continue;
    }
    out += '{';
    AppendJson(out, i + 1, item.end);
    out += '}';
  }
}

// What stands behind the item's name.
std::string Pattern::PartJson(std::uint32_t item) const {
  if (items()[item].op == PatternOp::kField) return ClausesJson(item);
  std::string out;
  if (items()[item].op == PatternOp::kObject) {
    out = "{";
    AppendJson(out, item + 1, items()[item].end);
    return out + "}";
  }
  AppendJson(out, item, items()[item].end);
  return out.substr(out.find('['));
}

std::string Pattern::ClausesJson(std::uint32_t field) const {
  std::string out = "[";
  for (std::uint32_t c = field + 1; c < items()[field].end; c = items()[c].end) {
    if (c > field + 1) out += ',';
    AppendClause(out, c);
  }
  out += ']';
  return out;
}

void Pattern::AppendClause(std::string& out, std::uint32_t clause) const {
  const PatternItem& item = items()[clause];
  switch (item.op) {
    case PatternOp::kText:
      AppendJsonString(out, TextOf(item));
      return;
    case PatternOp::kNumber:
      out += Number{item.whole, item.number}.ToJson();
      return;
    case PatternOp::kTrue:
      out += "true";
      return;
    case PatternOp::kFalse:
      out += "false";
      return;
    case PatternOp::kNull:
      out += "null";
      return;
    case PatternOp::kExists:
      out += R"({"exists":true})";
      return;
    case PatternOp::kAbsent:
      out += R"({"exists":false})";
      return;
    case PatternOp::kPrefixIgnoreCase:
    case PatternOp::kSuffixIgnoreCase:
      out += fmt::format(R"({{"{}":{{"equals-ignore-case":)", OperatorName(item.op));
      AppendJsonString(out, TextOf(item));
      out += "}}";
      return;
    case PatternOp::kNumeric: {
      const NumberRange& range = RangeOf(item);
      out += R"({"numeric":[)";
      if (range.has_low && range.has_high && range.low == range.high) {
        out += fmt::format(R"("=",{})", range.low.ToJson());
      } else {
        if (range.has_low) {
          out += fmt::format(R"("{}",{})", range.low_open ? ">" : ">=", range.low.ToJson());
        }
        if (range.has_high) {
          out += fmt::format(R"({}"{}",{})", range.has_low ? "," : "",
                             range.high_open ? "<" : "<=", range.high.ToJson());
        }
      }
      out += "]}";
      return;
    }
    case PatternOp::kAnythingBut: {
      const PatternOp inner = items()[clause + 1].op;
      const bool plain = inner == PatternOp::kText || inner == PatternOp::kNumber;
      out += R"({"anything-but":)";
      if (!plain) out += fmt::format(R"({{"{}":)", OperatorName(inner));
      for (std::uint32_t c = clause + 1; c < item.end; c = items()[c].end) {
        out += c == clause + 1 ? '[' : ',';
        if (plain) {
          AppendClause(out, c);
        } else {
          AppendJsonString(out, TextOf(items()[c]));
        }
      }
      out += plain ? "]}" : "]}}";
      return;
    }
    default:
      out += fmt::format(R"({{"{}":)", OperatorName(item.op));
      AppendJsonString(out, TextOf(item));
      out += '}';
  }
}

}  // namespace tocsin
