#include "broker/routing/filter.h"

#include <algorithm>
#include <utility>

#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/routing/attribute_text.h"

namespace tocsin {
namespace {

bool Holds(Filter::Kind kind, std::string_view actual, std::string_view wanted) {
  switch (kind) {
    case Filter::Kind::kExact:
      return actual == wanted;
    case Filter::Kind::kPrefix:
      return actual.substr(0, wanted.size()) == wanted;
    default:
      return actual.size() >= wanted.size() &&
             actual.substr(actual.size() - wanted.size()) == wanted;
  }
}

// For a sentence: not more of it than one can read.
std::string Quoted(std::string_view text) {
  constexpr std::size_t kShown = 120;
  std::string out;
  AppendJsonString(out, text.substr(0, kShown));
  if (text.size() > kShown) out += fmt::format(" (first {} of {} bytes)", kShown, text.size());
  return out;
}

std::string Json(std::string_view text) {
  std::string out;
  AppendJsonString(out, text);
  return out;
}

bool IsCondition(Filter::Kind kind) {
  return kind == Filter::Kind::kExact || kind == Filter::Kind::kPrefix ||
         kind == Filter::Kind::kSuffix;
}

void AppendFilter(std::string& out, const Filter& filter) {
  out += fmt::format("{{\"{}\":", DialectName(filter.kind));
  if (IsCondition(filter.kind)) {
    char separator = '{';
    for (const Filter::Condition& condition : filter.conditions) {
      out.push_back(separator);
      separator = ',';
      AppendJsonString(out, condition.attribute);
      out.push_back(':');
      AppendJsonString(out, condition.value);
    }
    out.push_back('}');
  } else if (filter.kind == Filter::Kind::kNot) {
    AppendFilter(out, *filter.operands.front());
  } else if (filter.kind == Filter::Kind::kCesql) {
    AppendJsonString(out, filter.cesql->text());
  } else {
    char separator = '[';
    for (const FilterPtr& operand : filter.operands) {
      out.push_back(separator);
      separator = ',';
      AppendFilter(out, *operand);
    }
    out.push_back(']');
  }
  out.push_back('}');
}

void CollectAttributes(const Filter& filter, std::vector<std::string_view>& names) {
  for (const Filter::Condition& condition : filter.conditions) {
    names.push_back(condition.attribute);
  }
  for (const FilterPtr& operand : filter.operands) CollectAttributes(*operand, names);
  if (filter.cesql == nullptr) return;
  names.insert(names.end(), filter.cesql->attributes().begin(), filter.cesql->attributes().end());
}

}  // namespace

bool Filter::Matches(const EventView& event) const {
  switch (kind) {
    case Kind::kAll:
      return std::all_of(operands.begin(), operands.end(),
                         [&](const FilterPtr& operand) { return operand->Matches(event); });
    case Kind::kAny:
      return std::any_of(operands.begin(), operands.end(),
                         [&](const FilterPtr& operand) { return operand->Matches(event); });
    case Kind::kNot:
      return !operands.front()->Matches(event);
    case Kind::kCesql:
      return cesql->Matches(event);
    case Kind::kExact:
    case Kind::kPrefix:
    case Kind::kSuffix:
      break;
  }
  for (const Condition& condition : conditions) {
    const AttributeText actual(event, condition.attribute);
    if (!actual.present() || !Holds(kind, actual.text(), condition.value)) return false;
  }
  return true;
}

Verdict Filter::Explain(const EventView& event, std::string_view path) const {
  Verdict verdict;
  verdict.matched = Matches(event);
  if (verdict.matched) return verdict;
  const std::string place = fmt::format("{}{}{}", path, path.empty() ? "" : ".", DialectName(kind));
  switch (kind) {
    case Kind::kAll:
      for (std::size_t i = 0; i < operands.size(); ++i) {
        // `filters` itself is such a list.
        Verdict part = operands[i]->Explain(
            event, fmt::format("{}[{}]", path == "filters" ? path : std::string_view(place), i));
        if (!part.matched) return part;
      }
      return verdict;
    case Kind::kAny: {
      constexpr std::size_t kShown = 4;
      verdict.reason = fmt::format("none of {} alternatives holds: ", operands.size());
      for (std::size_t i = 0; i < operands.size() && i < kShown; ++i) {
        Verdict part = operands[i]->Explain(event, fmt::format("{}[{}]", place, i));
        verdict.reason += fmt::format("{}{}", i > 0 ? "; " : "", part.reason);
        if (verdict.errors.empty()) verdict.errors = std::move(part.errors);
      }
      if (operands.size() > kShown) verdict.reason += "; ...";
      break;
    }
    case Kind::kNot:
      verdict.reason = fmt::format("`not` fails because {} holds", operands.front()->ToJson());
      break;
    case Kind::kCesql: {
      CesqlResult result = cesql->Evaluate(event);
      verdict.clause = place;
      verdict.expected = "true";
      verdict.actual = result.value.ToJson();
      verdict.reason = fmt::format("cesql {}: its value is {}", Quoted(cesql->text()),
                                   result.value.ToJson().substr(0, 128));
      for (const CesqlError& error : result.errors) {
        verdict.reason += fmt::format("; {}: {}", CesqlErrorName(error.kind), error.message);
      }
      verdict.errors = std::move(result.errors);
      return verdict;
    }
    case Kind::kExact:
    case Kind::kPrefix:
    case Kind::kSuffix:
      for (const Condition& condition : conditions) {
        const AttributeText actual(event, condition.attribute);
        if (actual.present() && Holds(kind, actual.text(), condition.value)) continue;
        verdict.clause = fmt::format("{}.{}", place, condition.attribute);
        verdict.expected = Json(condition.value);
        if (actual.present()) verdict.actual = Json(actual.text());
        verdict.reason = fmt::format(
            "{} `{}` {}: {}", DialectName(kind), condition.attribute, Quoted(condition.value),
            actual.present() ? fmt::format("it is {}", Quoted(actual.text()))
                             : fmt::format("the event has no attribute `{}`", condition.attribute));
        return verdict;
      }
      return verdict;
  }
  // Of a combination: what it reads.
  verdict.clause = place;
  verdict.expected = ToJson();
  std::vector<std::string_view> names;
  CollectAttributes(*this, names);
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  verdict.actual = "{";
  for (const std::string_view name : names) {
    const AttributeText actual(event, name);
    verdict.actual += fmt::format("{}{}:{}", verdict.actual.size() > 1 ? "," : "", Json(name),
                                  actual.present() ? Json(actual.text()) : "null");
  }
  verdict.actual += "}";
  return verdict;
}

std::string Filter::ToJson() const {
  std::string out;
  AppendFilter(out, *this);
  return out;
}

std::string_view DialectName(Filter::Kind kind) {
  switch (kind) {
    case Filter::Kind::kExact:
      return "exact";
    case Filter::Kind::kPrefix:
      return "prefix";
    case Filter::Kind::kSuffix:
      return "suffix";
    case Filter::Kind::kAll:
      return "all";
    case Filter::Kind::kAny:
      return "any";
    case Filter::Kind::kNot:
      return "not";
    case Filter::Kind::kCesql:
      return "cesql";
  }
  return "";
}

absl::StatusOr<Filter::Kind> DialectFromName(std::string_view name) {
  for (const Filter::Kind kind :
       {Filter::Kind::kExact, Filter::Kind::kPrefix, Filter::Kind::kSuffix, Filter::Kind::kAll,
        Filter::Kind::kAny, Filter::Kind::kNot, Filter::Kind::kCesql}) {
    if (DialectName(kind) == name) return kind;
  }
  if (name == "sql") return Filter::Kind::kCesql;
  return absl::InvalidArgumentError(fmt::format(
      "unknown filter dialect `{}`; there are exact, prefix, suffix, all, any, not and cesql{}",
      name.substr(0, 64),
      name == "pattern" ? "; `pattern` is a key of the trigger, beside `filters`" : ""));
}

absl::Status ValidateCondition(std::string_view attribute, std::string_view value) {
  const auto is_letter = [](char c) { return c >= 'a' && c <= 'z'; };
  const bool in_form = !attribute.empty() && is_letter(attribute.front()) &&
                       std::all_of(attribute.begin(), attribute.end(),
                                   [&](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
  if (!in_form) {
    return absl::InvalidArgumentError(fmt::format(
        "{} is not an attribute's name: it starts with a letter and has only a-z and 0-9",
        Quoted(attribute)));
  }
  if (attribute == "data") {
    return absl::InvalidArgumentError("filters see attributes only, not `data`");
  }
  if (value.empty()) {
    return absl::InvalidArgumentError(fmt::format("the value for `{}` is empty", attribute));
  }
  return absl::OkStatus();
}

absl::StatusOr<FilterPtr> MakeConditions(Filter::Kind kind,
                                         std::vector<Filter::Condition> conditions) {
  if (conditions.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("`{}` needs at least one attribute", DialectName(kind)));
  }
  std::sort(conditions.begin(), conditions.end(),
            [](const auto& a, const auto& b) { return a.attribute < b.attribute; });
  for (std::size_t i = 0; i < conditions.size(); ++i) {
    TOCSIN_RETURN_IF_ERROR(ValidateCondition(conditions[i].attribute, conditions[i].value));
    if (i > 0 && conditions[i].attribute == conditions[i - 1].attribute) {
      return absl::InvalidArgumentError(
          fmt::format("attribute `{}` is given twice", conditions[i].attribute));
    }
  }
  if (conditions.size() > kFilterSizeMax) {
    return absl::InvalidArgumentError(fmt::format("a filter has at most {} parts", kFilterSizeMax));
  }
  conditions.shrink_to_fit();
  auto filter = std::make_shared<Filter>();
  filter->kind = kind;
  filter->size = static_cast<std::uint32_t>(conditions.size());
  filter->conditions = std::move(conditions);
  return FilterPtr(std::move(filter));
}

absl::StatusOr<FilterPtr> MakeCombination(Filter::Kind kind, std::vector<FilterPtr> operands) {
  if (operands.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("`{}` needs at least one filter", DialectName(kind)));
  }
  if (kind == Filter::Kind::kNot && operands.size() != 1) {
    return absl::InvalidArgumentError("`not` takes one filter");
  }
  std::uint32_t depth = 0;
  std::size_t size = 1;
  for (const FilterPtr& operand : operands) {
    depth = std::max(depth, operand->depth);
    size += operand->size;
  }
  if (depth >= kFilterDepthMax) {
    return absl::InvalidArgumentError(
        fmt::format("filters are nested more than {} deep", kFilterDepthMax));
  }
  if (size > kFilterSizeMax) {
    return absl::InvalidArgumentError(fmt::format("a filter has at most {} parts", kFilterSizeMax));
  }
  auto filter = std::make_shared<Filter>();
  filter->kind = kind;
  filter->operands = std::move(operands);
  filter->depth = depth + 1;
  filter->size = static_cast<std::uint32_t>(size);
  return FilterPtr(std::move(filter));
}

absl::StatusOr<FilterPtr> MakeCesql(std::string_view text, CesqlFault* fault) {
  CesqlFault found;
  CesqlPtr cesql = Cesql::Parse(text, found);
  std::string refusal;
  if (cesql == nullptr) {
    refusal = fmt::format("column {}: {}", found.offset + 1, found.message);
  } else if (const std::string why = cesql->NeverTrue(); !why.empty()) {
    refusal = found.message = fmt::format("the expression can never be TRUE: {}", why);
  }
  if (fault != nullptr) *fault = found;
  if (!refusal.empty()) return absl::InvalidArgumentError(refusal);
  auto filter = std::make_shared<Filter>();
  filter->kind = Filter::Kind::kCesql;
  filter->size = 1;
  filter->cesql = std::move(cesql);
  return FilterPtr(std::move(filter));
}

absl::StatusOr<FilterPtr> MakeFilters(std::vector<FilterPtr> filters) {
  if (filters.empty()) return FilterPtr();
  if (filters.size() == 1) return std::move(filters.front());
  return MakeCombination(Filter::Kind::kAll, std::move(filters));
}

namespace {

absl::StatusOr<FilterPtr> FromJson(const JsonValue& value, const std::string& path,
                                   std::uint32_t depth);

absl::StatusOr<std::vector<FilterPtr>> ListFromJson(const JsonValue& value, const std::string& path,
                                                    std::uint32_t depth) {
  std::vector<FilterPtr> filters;
  for (const JsonValue& element : JsonElements(value)) {
    TOCSIN_ASSIGN_OR_RETURN(filters.emplace_back(),
                            FromJson(element, fmt::format("{}[{}]", path, filters.size()), depth));
  }
  return filters;
}

absl::Status At(const std::string& path, const absl::Status& status) {
  return path.empty() ? status : Annotate(status, path);
}

absl::StatusOr<FilterPtr> FromJson(const JsonValue& value, const std::string& path,
                                   std::uint32_t depth) {
  const auto refuse = [&](std::string_view what) {
    return At(path, absl::InvalidArgumentError(std::string(what)));
  };
  if (depth > kFilterDepthMax) {
    return refuse(fmt::format("filters are nested more than {} deep", kFilterDepthMax));
  }
  if (value.kind != JsonKind::kObject)
    return refuse("a filter is an object with exactly one dialect");
  const std::vector<JsonMember> members = JsonMembers(value);
  if (members.size() != 1) return refuse("a filter is an object with exactly one dialect");
  const JsonMember& dialect = members.front();
  const absl::StatusOr<Filter::Kind> kind = DialectFromName(dialect.name);
  if (!kind.ok()) return At(path, kind.status());
  const std::string inner = path.empty() ? dialect.name : fmt::format("{}.{}", path, dialect.name);
  absl::StatusOr<FilterPtr> filter;
  if (IsCondition(*kind)) {
    if (dialect.value.kind != JsonKind::kObject) {
      return refuse(fmt::format("`{}` takes a map of attributes", dialect.name));
    }
    std::vector<Filter::Condition> conditions;
    for (const JsonMember& member : JsonMembers(dialect.value)) {
      if (member.value.kind != JsonKind::kString) {
        return At(fmt::format("{}.{}", inner, member.name),
                  absl::InvalidArgumentError("the value must be a string"));
      }
      conditions.push_back({member.name, JsonString(member.value)});
    }
    filter = MakeConditions(*kind, std::move(conditions));
  } else if (*kind == Filter::Kind::kCesql) {
    if (dialect.value.kind != JsonKind::kString) {
      return refuse(fmt::format("`{}` takes an expression as a string", dialect.name));
    }
    filter = MakeCesql(JsonString(dialect.value));
  } else if (*kind == Filter::Kind::kNot) {
    TOCSIN_ASSIGN_OR_RETURN(FilterPtr operand, FromJson(dialect.value, inner, depth + 1));
    filter = MakeCombination(*kind, {std::move(operand)});
  } else {
    if (dialect.value.kind != JsonKind::kArray) {
      return refuse(fmt::format("`{}` takes an array of filters", dialect.name));
    }
    TOCSIN_ASSIGN_OR_RETURN(std::vector<FilterPtr> operands,
                            ListFromJson(dialect.value, inner, depth + 1));
    filter = MakeCombination(*kind, std::move(operands));
  }
  if (!filter.ok()) return At(inner, filter.status());
  return filter;
}

}  // namespace

absl::StatusOr<FilterPtr> FilterFromJson(std::string_view json) {
  JsonValue value;
  TOCSIN_RETURN_IF_ERROR(JsonScanner(json).ReadDocument(value));
  if (value.kind == JsonKind::kNull) return FilterPtr();
  if (value.kind != JsonKind::kArray) return FromJson(value, "", 1);
  TOCSIN_ASSIGN_OR_RETURN(std::vector<FilterPtr> filters, ListFromJson(value, "", 1));
  return MakeFilters(std::move(filters));
}

}  // namespace tocsin
