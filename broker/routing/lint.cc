#include "broker/routing/lint.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "absl/container/flat_hash_map.h"

namespace tocsin {
namespace {

constexpr std::size_t kManyRoutes = 1000;

bool IsRequired(std::string_view name) {
  return name == "id" || name == "source" || name == "type" || name == "specversion";
}

bool Starts(std::string_view text, std::string_view with) {
  return text.substr(0, with.size()) == with;
}
bool Ends(std::string_view text, std::string_view with) {
  return text.size() >= with.size() && text.substr(text.size() - with.size()) == with;
}

// Of one attribute, what must hold together.
struct Wanted {
  std::optional<std::string_view> exact;
  std::string_view prefix;  // the longest
};

// The conditions that hold in every event that matches.
class Conjunction {
 public:
  // Empty, or why they contradict.
  std::string Add(const Filter& filter) {
    switch (filter.kind) {
      case Filter::Kind::kAll:
        for (const FilterPtr& operand : filter.operands) {
          if (std::string why = Add(*operand); !why.empty()) return why;
        }
        return "";
      case Filter::Kind::kNot:
        negated_.push_back(filter.operands.front().get());
        return Contradicted();
      case Filter::Kind::kExact:
      case Filter::Kind::kPrefix:
      case Filter::Kind::kSuffix:
        for (const Filter::Condition& condition : filter.conditions) {
          if (std::string why = Add(filter.kind, condition); !why.empty()) return why;
        }
        held_.push_back(&filter);
        return Contradicted();
      default:
        return "";
    }
  }

  // Attributes' fields of a pattern, against what the filters want.
  std::string Add(const Pattern& pattern) {
    for (std::uint32_t i = 0; i < pattern.items().size(); i = pattern.items()[i].end) {
      const PatternItem& item = pattern.items()[i];
      if (item.op != PatternOp::kField || pattern.TextOf(item) == "data") continue;
      const auto known = wanted_.find(pattern.TextOf(item));
      if (known == wanted_.end() || !known->second.exact) continue;
      // An integer's or Boolean's text is not known to be one; those are left alone.
      const std::string_view text = *known->second.exact;
      const bool plain = text.find_first_not_of("-0123456789") != std::string_view::npos &&
                         text != "true" && text != "false";
      if (plain && !pattern.AnyClauseHolds(i, {ValueKind::kText, text, {}})) {
        return fmt::format("`pattern.{}` does not take \"{}\", which the filters want",
                           pattern.TextOf(item), text.substr(0, 64));
      }
    }
    return "";
  }

 private:
  std::string Add(Filter::Kind kind, const Filter::Condition& condition) {
    Wanted& wanted = wanted_[condition.attribute];
    const std::string_view value = condition.value;
    const auto contradiction = [&](std::string_view other) {
      return fmt::format("no `{}` is both \"{}\" and \"{}\"", condition.attribute,
                         other.substr(0, 64), value.substr(0, 64));
    };
    if (condition.attribute == "specversion" && kind == Filter::Kind::kExact && value != "1.0") {
      return "the `specversion` of every event is \"1.0\"";
    }
    if (kind == Filter::Kind::kExact) {
      if (wanted.exact && *wanted.exact != value) return contradiction(*wanted.exact);
      if (!Starts(value, wanted.prefix)) return contradiction(wanted.prefix);
      wanted.exact = value;
    } else if (kind == Filter::Kind::kPrefix) {
      if (wanted.exact && !Starts(*wanted.exact, value)) return contradiction(*wanted.exact);
      const std::string_view shorter = value.size() < wanted.prefix.size() ? value : wanted.prefix;
      const std::string_view longer = value.size() < wanted.prefix.size() ? wanted.prefix : value;
      if (!Starts(longer, shorter)) return contradiction(wanted.prefix);
      wanted.prefix = longer;
    } else if (wanted.exact && !Ends(*wanted.exact, value)) {
      return contradiction(*wanted.exact);
    }
    return "";
  }

  std::string Contradicted() const {
    for (const Filter* held : held_) {
      for (const Filter* negated : negated_) {
        if (held->ToJson() == negated->ToJson()) {
          return fmt::format("{} is wanted and negated", held->ToJson().substr(0, 128));
        }
      }
    }
    return "";
  }

  std::map<std::string_view, Wanted> wanted_;
  std::vector<const Filter*> held_;
  std::vector<const Filter*> negated_;
};

// An optional attribute without which the negated filter cannot hold, or empty.
std::string_view OptionalAttributeOf(const Filter& filter) {
  for (const Filter::Condition& condition : filter.conditions) {
    if (!IsRequired(condition.attribute)) return condition.attribute;
  }
  if (filter.cesql != nullptr) {
    for (const std::string& name : filter.cesql->attributes()) {
      if (!IsRequired(name)) return name;
    }
  }
  for (const FilterPtr& operand : filter.operands) {
    if (const std::string_view name = OptionalAttributeOf(*operand); !name.empty()) return name;
  }
  return "";
}

// Every condition of the top level is a negation, and one of an attribute that may be absent.
std::string AlwaysTrue(const Filter& filter) {
  if (filter.kind == Filter::Kind::kNot) {
    const std::string_view name = OptionalAttributeOf(*filter.operands.front());
    if (name.empty()) return "";
    return fmt::format(
        "`not` holds for every event without `{0}`; if those are not meant, add "
        "`cesql: EXISTS {0}`",
        name);
  }
  if (filter.kind != Filter::Kind::kAll) return "";
  std::string first;
  for (const FilterPtr& operand : filter.operands) {
    std::string one = AlwaysTrue(*operand);
    if (one.empty()) return "";
    if (first.empty()) first = std::move(one);
  }
  return first;
}

bool Includes(const Filter& wide, const Filter& narrow) {
  if (wide.conditions.size() != 1 || narrow.conditions.size() != 1) return false;
  const Filter::Condition& a = wide.conditions.front();
  const Filter::Condition& b = narrow.conditions.front();
  if (a.attribute != b.attribute) return false;
  const bool same_kind = wide.kind == narrow.kind || narrow.kind == Filter::Kind::kExact;
  switch (wide.kind) {
    case Filter::Kind::kExact:
      return narrow.kind == Filter::Kind::kExact && a.value == b.value;
    case Filter::Kind::kPrefix:
      return same_kind && Starts(b.value, a.value);
    default:
      return same_kind && Ends(b.value, a.value);
  }
}

std::string ShadowedIn(const Filter& filter) {
  // Compared one with another; a longer list is a table and not written by hand.
  constexpr std::size_t kComparedMax = 64;
  if (filter.kind == Filter::Kind::kAny && filter.operands.size() <= kComparedMax) {
    for (std::size_t i = 0; i < filter.operands.size(); ++i) {
      for (std::size_t j = 0; j < filter.operands.size(); ++j) {
        if (i == j || !Includes(*filter.operands[i], *filter.operands[j])) continue;
        return fmt::format("of `any`, {} is included in {}", filter.operands[j]->ToJson(),
                           filter.operands[i]->ToJson());
      }
    }
  }
  for (const FilterPtr& operand : filter.operands) {
    if (std::string found = ShadowedIn(*operand); !found.empty()) return found;
  }
  return "";
}

// In one field of a pattern.
struct FieldFaults {
  std::string shadowed;
  std::string always_true;
};

FieldFaults FaultsOf(const Pattern& pattern, std::uint32_t field) {
  FieldFaults faults;
  const std::span<const PatternItem> items = pattern.items();
  const std::string_view name = pattern.TextOf(items[field]);
  bool exists = false;
  bool absent = false;
  for (std::uint32_t c = field + 1; c < items[field].end; c = items[c].end) {
    exists = exists || items[c].op == PatternOp::kExists;
    absent = absent || items[c].op == PatternOp::kAbsent;
  }
  const std::uint32_t others = field + 1 + items[field].texts() + items[field].numbers();
  for (std::uint32_t c = others; c < items[field].end; c = items[c].end) {
    const PatternItem& item = items[c];
    if (item.op == PatternOp::kAbsent || item.op == PatternOp::kExists) continue;
    // A plain text of the same field that this clause takes too.
    for (std::uint32_t t = field + 1; t < field + 1 + items[field].texts(); ++t) {
      if (!pattern.ClauseHolds(c, {ValueKind::kText, pattern.TextOf(items[t]), {}})) {
        if (item.op != PatternOp::kAnythingBut) continue;
        const bool all = item.end == c + 2 &&
                         pattern.TextOf(items[c + 1]) == pattern.TextOf(items[t]) &&
                         items[c + 1].op == PatternOp::kText;
        if (all) {
          faults.always_true = fmt::format("`{}` takes \"{}\" and anything but it, so any value",
                                           name, pattern.TextOf(items[t]));
        }
        continue;
      }
      faults.shadowed = fmt::format("of `{}`, \"{}\" is included in another clause", name,
                                    pattern.TextOf(items[t]).substr(0, 64));
    }
  }
  if (exists && absent) {
    faults.always_true = fmt::format("`{}` may exist or not, so it says nothing", name);
  } else if (exists && items[field + 1].end < items[field].end) {
    faults.shadowed = fmt::format("of `{}`, `exists: true` includes the other clauses", name);
  }
  return faults;
}

class Linter {
 public:
  Linter(const std::vector<RouteSpec>& routes, const std::vector<std::string_view>& functions)
      : routes_(routes), functions_(functions) {}

  std::vector<LintFinding> Run() {
    for (std::uint32_t i = 0; i < routes_.size(); ++i) One(i);
    return std::move(findings_);
  }

 private:
  void Find(std::uint32_t route, LintKind kind, std::string message) {
    if (!message.empty()) findings_.push_back({route, kind, std::move(message)});
  }

  void One(std::uint32_t i) {
    const RouteSpec& route = routes_[i];
    Conjunction conjunction;
    std::string never = route.filter == nullptr ? "" : conjunction.Add(*route.filter);
    if (never.empty() && route.pattern != nullptr) never = conjunction.Add(*route.pattern);
    Find(i, LintKind::kNeverMatches, std::move(never));

    FieldFaults faults = route.pattern == nullptr ? FieldFaults() : OfPattern(*route.pattern);
    std::string shadowed = Copy(i);
    if (shadowed.empty() && route.filter != nullptr) shadowed = ShadowedIn(*route.filter);
    if (shadowed.empty()) shadowed = std::move(faults.shadowed);
    Find(i, LintKind::kShadowed, std::move(shadowed));

    std::string accident =
        route.filter == nullptr || route.pattern != nullptr ? "" : AlwaysTrue(*route.filter);
    if (accident.empty()) accident = std::move(faults.always_true);
    Find(i, LintKind::kAlwaysTrue, std::move(accident));
    Find(i, LintKind::kOverComplex, Complex(route));
  }

  static FieldFaults OfPattern(const Pattern& pattern) {
    FieldFaults all;
    for (std::uint32_t i = 0; i < pattern.items().size(); ++i) {
      if (pattern.items()[i].op != PatternOp::kField) continue;
      FieldFaults one = FaultsOf(pattern, i);
      if (all.shadowed.empty()) all.shadowed = std::move(one.shadowed);
      if (all.always_true.empty()) all.always_true = std::move(one.always_true);
      if (pattern.TextOf(pattern.items()[i]) == "$or" && all.always_true.empty()) {
        all.always_true = "";
        all.shadowed = "`$or` is read as the name of a field, since its objects name operators";
      }
      i = pattern.items()[i].end - 1;
    }
    return all;
  }

  // Of an earlier trigger with the same conditions and function.
  std::string Copy(std::uint32_t i) {
    const RouteSpec& route = routes_[i];
    std::string key = fmt::format("{}\n{}\n{}\n", functions_[i],
                                  route.filter == nullptr ? "" : route.filter->ToJson(),
                                  route.pattern == nullptr ? "" : route.pattern->ToJson());
    for (const std::string& source : route.sources) key += source + "\n";
    const auto [known, is_new] = seen_.try_emplace(std::move(key), i);
    if (is_new) return "";
    return fmt::format("it takes the same events to the same function as `{}`",
                       routes_[known->second].name);
  }

  std::string Complex(const RouteSpec& route) const {
    if (route.filter != nullptr && route.filter->size > kFilterSizeMax / 4) {
      return fmt::format("its filters have {} parts; every one may be looked at for an event",
                         route.filter->size);
    }
    if (route.pattern != nullptr) {
      std::size_t wildcards = 0;
      for (const PatternItem& item : route.pattern->items()) {
        wildcards += item.op == PatternOp::kWildcard ? 1 : 0;
      }
      if (wildcards > kPatternWildcardsMax / 4) {
        return fmt::format("its pattern has {} wildcards", wildcards);
      }
      if (route.pattern->items().size() > kPatternItemsMax / 4) {
        return fmt::format("its pattern has {} parts", route.pattern->items().size());
      }
      return "";
    }
    const bool unindexed = route.filter != nullptr && (route.filter->kind == Filter::Kind::kNot ||
                                                       route.filter->kind == Filter::Kind::kCesql);
    if (unindexed && routes_.size() > kManyRoutes) {
      return fmt::format(
          "it is tried on every event, beside {} other triggers; a filter that names "
          "a value (exact, prefix, suffix) would spare that",
          routes_.size() - 1);
    }
    return "";
  }

  const std::vector<RouteSpec>& routes_;
  const std::vector<std::string_view>& functions_;
  absl::flat_hash_map<std::string, std::uint32_t> seen_;
  std::vector<LintFinding> findings_;
};

}  // namespace

std::string_view LintName(LintKind kind) {
  switch (kind) {
    case LintKind::kNeverMatches:
      return "never-matches";
    case LintKind::kShadowed:
      return "shadowed";
    case LintKind::kAlwaysTrue:
      return "always-true";
    case LintKind::kOverComplex:
      return "over-complex";
  }
  return "";
}

std::vector<LintFinding> Lint(const std::vector<RouteSpec>& routes,
                              const std::vector<std::string_view>& functions) {
  return Linter(routes, functions).Run();
}

}  // namespace tocsin
