#include "tests/support/match_model.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "broker/base/check.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

using nlohmann::json;

struct ModelLeaf {
  std::string path;
  json value;
  std::vector<std::pair<int, int>> elements;  // array, index
};

using Elements = std::vector<std::pair<int, int>>;

// `arrays`: of the arrays that `value` stands in, those that no object lies between. Only an object
// ties the fields in it to its element; plain values in one array are each on their own.
void Flatten(const json& value, const std::string& path, const Elements& tied,
             const Elements& arrays, int& count, std::vector<ModelLeaf>& leaves) {
  if (value.is_object()) {
    Elements inner = tied;
    inner.insert(inner.end(), arrays.begin(), arrays.end());
    for (const auto& [name, field] : value.items()) {
      Flatten(field, path.empty() ? name : path + "." + name, inner, {}, count, leaves);
    }
  } else if (value.is_array()) {
    const int array = count++;
    for (std::size_t i = 0; i < value.size(); ++i) {
      Elements inner = arrays;
      inner.emplace_back(array, static_cast<int>(i));
      Flatten(value[i], path, tied, inner, count, leaves);
    }
  } else {
    leaves.push_back({path, value, tied});
  }
}

std::string Folded(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return text;
}

bool Starts(const std::string& text, const std::string& with) { return text.rfind(with, 0) == 0; }
bool Ends(const std::string& text, const std::string& with) {
  return text.size() >= with.size() && text.substr(text.size() - with.size()) == with;
}

bool Glob(const char* pattern, const char* text) {
  if (*pattern == '\0') return *text == '\0';
  if (*pattern == '*') return Glob(pattern + 1, text) || (*text != '\0' && Glob(pattern, text + 1));
  return *pattern == *text && Glob(pattern + 1, text + 1);
}

bool OneOf(const json& wanted, const json& value, const std::string& op) {
  if (wanted.is_array()) {
    return std::any_of(wanted.begin(), wanted.end(),
                       [&](const json& one) { return OneOf(one, value, op); });
  }
  if (op.empty()) return wanted == value && wanted.is_string() == value.is_string();
  if (!value.is_string()) return false;
  const auto text = value.get<std::string>();
  const auto argument = wanted.get<std::string>();
  if (op == "prefix") return Starts(text, argument);
  if (op == "suffix") return Ends(text, argument);
  if (op == "wildcard") return Glob(argument.c_str(), text.c_str());
  return Folded(text) == Folded(argument);
}

bool Numeric(const json& terms, const json& value) {
  if (!value.is_number()) return false;
  for (std::size_t i = 0; i < terms.size(); i += 2) {
    const auto sign = terms[i].get<std::string>();
    const double a = value.get<double>();
    const double b = terms[i + 1].get<double>();
    if (!(sign == "="    ? a == b
          : sign == "<"  ? a < b
          : sign == "<=" ? a <= b
          : sign == ">"  ? a > b
                         : a >= b)) {
      return false;
    }
  }
  return true;
}

bool ClauseHolds(const json& clause, const json& value) {
  if (!clause.is_object())
    return clause == value && clause.type_name() == std::string(value.type_name());
  const std::string op = clause.begin().key();
  const json& argument = clause.begin().value();
  if (op == "exists") return argument.get<bool>();
  if (op == "numeric") return Numeric(argument, value);
  if (op == "cidr") return value.is_string() && Starts(value.get<std::string>(), "10.");
  if (op == "anything-but") {
    if (!argument.is_object()) return !OneOf(argument, value, "");
    return !OneOf(argument.begin().value(), value, argument.begin().key());
  }
  if (argument.is_object()) {  // prefix or suffix without case
    if (!value.is_string()) return false;
    const std::string text = Folded(value.get<std::string>());
    const std::string wanted = Folded(argument.begin().value().get<std::string>());
    return op == "prefix" ? Starts(text, wanted) : Ends(text, wanted);
  }
  return OneOf(argument, value, op);
}

// One clause per field.
using Way = std::vector<std::pair<std::string, json>>;

std::vector<Way> WaysOf(const json& pattern, const std::string& path) {
  std::vector<Way> ways = {{}};
  const auto combine = [&](const std::vector<Way>& more) {
    std::vector<Way> all;
    for (const Way& a : ways) {
      for (const Way& b : more) {
        all.push_back(a);
        all.back().insert(all.back().end(), b.begin(), b.end());
      }
    }
    ways = std::move(all);
  };
  for (const auto& [name, value] : pattern.items()) {
    const std::string here = path.empty() ? name : path + "." + name;
    std::vector<Way> more;
    if (name == "$or") {
      for (const json& alternative : value) {
        const std::vector<Way> inner = WaysOf(alternative, path);
        more.insert(more.end(), inner.begin(), inner.end());
      }
    } else if (value.is_object()) {
      more = WaysOf(value, here);
    } else {
      for (const json& clause : value) more.push_back({{here, clause}});
    }
    combine(more);
  }
  return ways;
}

bool Consistent(const ModelLeaf& leaf, const std::map<int, int>& chosen) {
  return std::all_of(leaf.elements.begin(), leaf.elements.end(), [&](const auto& element) {
    const auto other = chosen.find(element.first);
    return other == chosen.end() || other->second == element.second;
  });
}

// Values first, absences last: those are about the elements that the values chose.
bool WayHolds(const Way& way, std::size_t at, const std::vector<ModelLeaf>& leaves,
              const std::map<int, int>& chosen) {
  const json absent = {{"exists", false}};
  if (at == way.size()) {
    for (const auto& [path, clause] : way) {
      if (clause != absent) continue;
      for (const ModelLeaf& leaf : leaves) {
        if (leaf.path == path && Consistent(leaf, chosen)) return false;
      }
    }
    return true;
  }
  if (way[at].second == absent) return WayHolds(way, at + 1, leaves, chosen);
  for (const ModelLeaf& leaf : leaves) {
    if (leaf.path != way[at].first || !ClauseHolds(way[at].second, leaf.value)) continue;
    if (!Consistent(leaf, chosen)) continue;
    std::map<int, int> further = chosen;
    further.insert(leaf.elements.begin(), leaf.elements.end());
    if (WayHolds(way, at + 1, leaves, further)) return true;
  }
  return false;
}

// Words of both sides.
const std::vector<std::string> kNames = {"type", "subject", "x", "y", "id"};
const std::vector<std::string> kFields = {"a", "b", "c", "dd"};
const std::vector<std::string> kTexts = {"a", "ab", "abc", "b", "Bc", "ba", "c", "10.0.0.1", "AB"};

std::string Text(Random& random) { return kTexts[random.Below(kTexts.size())]; }
bool Chance(Random& random, std::uint64_t one_in) { return random.Below(one_in) == 0; }

json RandomValue(Random& random) {
  switch (random.Below(8)) {
    case 0:
      return nullptr;
    case 1:
      return true;
    case 2:
      return false;
    case 3:
    case 4:
      return static_cast<int>(random.Below(4));
    case 5:
      return static_cast<double>(random.Below(4)) + 0.5;
    default:
      return Text(random);
  }
}

json RandomClause(Random& random) {
  const auto texts = [&]() -> json {
    if (Chance(random, 2)) return Text(random);
    return json::array({Text(random), Text(random)});
  };
  switch (random.Below(14)) {
    case 0:
      return {{"prefix", Text(random)}};
    case 1:
      return {{"suffix", Text(random)}};
    case 2:
      return {{"equals-ignore-case", Text(random)}};
    case 3:
      return {{Chance(random, 2) ? "prefix" : "suffix", {{"equals-ignore-case", Text(random)}}}};
    case 4: {
      const std::vector<std::string> globs = {"a*", "*b", "a*c", "*", "*b*", "*a*b*", "ab"};
      return {{"wildcard", globs[random.Below(globs.size())]}};
    }
    case 5:
      if (Chance(random, 2)) return {{"anything-but", json::array({1, 2})}};
      return {{"anything-but", texts()}};
    case 6: {
      const std::vector<std::string> ops = {"prefix", "suffix", "equals-ignore-case"};
      return {{"anything-but", {{ops[random.Below(3)], texts()}}}};
    }
    case 7: {
      const std::vector<std::string> signs = {"<", "<=", ">", ">=", "="};
      const int n = static_cast<int>(random.Below(4));
      if (Chance(random, 3)) return {{"numeric", json::array({">=", n, "<", n + 2})}};
      return {{"numeric", json::array({signs[random.Below(5)], n})}};
    }
    case 8:
      return {{"exists", Chance(random, 2)}};
    case 9:
      return {{"cidr", "10.0.0.0/8"}};
    default:
      return RandomValue(random);
  }
}

json RandomClauses(Random& random) {
  json clauses = json::array();
  for (std::uint64_t i = random.Below(2) + 1; i > 0; --i) clauses.push_back(RandomClause(random));
  return clauses;
}

json RandomObject(Random& random, int depth) {
  json object = json::object();
  for (std::uint64_t i = random.Below(2) + 1; i > 0; --i) {
    const std::string& name = kFields[random.Below(kFields.size())];
    object[name] =
        depth == 0 || Chance(random, 2) ? RandomClauses(random) : RandomObject(random, depth - 1);
  }
  if (depth > 0 && Chance(random, 5)) {
    object["$or"] = json::array({RandomObject(random, depth - 1), RandomObject(random, depth - 1)});
  }
  return object;
}

json RandomPayload(Random& random, int depth) {
  if (depth == 0 || Chance(random, 4)) return RandomValue(random);
  if (Chance(random, 3)) {
    json array = json::array();
    for (std::uint64_t i = random.Below(4); i > 0; --i) {
      array.push_back(RandomPayload(random, depth - 1));
    }
    return array;
  }
  json object = json::object();
  for (std::uint64_t i = random.Below(4); i > 0; --i) {
    object[kFields[random.Below(kFields.size())]] = RandomPayload(random, depth - 1);
  }
  return object;
}

}  // namespace

Event EventOfModel(const ModelEvent& event) {
  EventBuilder builder(event["id"].get<std::string>(), event["source"].get<std::string>(),
                       event["type"].get<std::string>());
  for (const auto& [name, value] : event.items()) {
    if (name == "id" || name == "source" || name == "type") continue;
    if (name == "data") {
      builder.TextData(value.dump());
    } else if (value.is_boolean()) {
      builder.Boolean(name, value.get<bool>());
    } else if (value.is_number()) {
      builder.Integer(name, value.get<std::int32_t>());
    } else {
      builder.Attribute(name, value.get<std::string>());
    }
  }
  return Event::FromBytes(std::move(builder).Encode(), EventLimits()).value();
}

bool ModelFilterMatches(const json& filter, const ModelEvent& event) {
  const std::string dialect = filter.begin().key();
  const json& argument = filter.begin().value();
  if (dialect == "not") return !ModelFilterMatches(argument, event);
  if (dialect == "all" || dialect == "any") {
    std::size_t holding = 0;
    for (const json& operand : argument) holding += ModelFilterMatches(operand, event) ? 1 : 0;
    return dialect == "all" ? holding == argument.size() : holding > 0;
  }
  if (dialect == "cesql") {  // EXISTS name
    return event.contains(argument.get<std::string>().substr(7));
  }
  for (const auto& [name, wanted] : argument.items()) {
    if (!event.contains(name)) return false;
    const json& value = event[name];
    const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    const auto with = wanted.get<std::string>();
    if (dialect == "exact"    ? text != with
        : dialect == "prefix" ? !Starts(text, with)
                              : !Ends(text, with)) {
      return false;
    }
  }
  return true;
}

bool ModelPatternMatches(const json& pattern, const ModelEvent& event) {
  std::vector<ModelLeaf> leaves;
  int count = 0;
  Flatten(event, "", {}, {}, count, leaves);
  for (const Way& way : WaysOf(pattern, "")) {
    if (WayHolds(way, 0, leaves, {})) return true;
  }
  return false;
}

json RandomFilter(Random& random, int depth) {
  const std::uint64_t kind = random.Below(depth == 0 ? 4 : 7);
  if (kind == 3) return {{"cesql", "EXISTS " + kNames[random.Below(kNames.size())]}};
  if (kind < 3) {
    json conditions;
    for (std::uint64_t i = random.Below(2) + 1; i > 0; --i) {
      conditions[kNames[random.Below(kNames.size())]] =
          Chance(random, 6) ? std::string(Chance(random, 2) ? "1" : "true") : Text(random);
    }
    return {{kind == 0 ? "exact" : kind == 1 ? "prefix" : "suffix", conditions}};
  }
  if (kind == 6) return {{"not", RandomFilter(random, depth - 1)}};
  json operands = json::array();
  for (std::uint64_t i = random.Below(3) + 1; i > 0; --i) {
    operands.push_back(RandomFilter(random, depth - 1));
  }
  return {{kind == 4 ? "all" : "any", operands}};
}

json RandomPattern(Random& random) {
  json pattern = json::object();
  if (Chance(random, 2)) pattern[kNames[random.Below(kNames.size())]] = RandomClauses(random);
  if (Chance(random, 6)) {
    json other = {{kNames[random.Below(kNames.size())], RandomClauses(random)}};
    pattern["$or"] = json::array({other, {{"data", RandomObject(random, 1)}}});
  }
  if (pattern.empty() || !Chance(random, 3)) {
    pattern["data"] = Chance(random, 12) ? RandomClauses(random) : RandomObject(random, 2);
  }
  return pattern;
}

ModelEvent RandomEvent(Random& random) {
  ModelEvent event = {{"id", Text(random)}, {"source", "/s"}, {"type", Text(random)}};
  for (const std::string name : {"subject", "x", "y"}) {
    if (Chance(random, 3)) continue;
    event[name] = Text(random);
    if (name != "subject" && Chance(random, 3)) event[name] = static_cast<int>(random.Below(4));
    if (name != "subject" && Chance(random, 6)) event[name] = true;
  }
  // Attributes no trigger names, so that both ways through the index are taken.
  for (std::uint64_t i = random.Below(8); i > 0; --i) event["q" + std::to_string(i)] = "a";
  if (!Chance(random, 8)) event["data"] = RandomPayload(random, 4);
  return event;
}

void CompareWithModel(Random& random, std::size_t events, ModelCounts& counts) {
  const std::vector<std::string> sources = {"", "s1", "s2"};
  std::vector<RouteSpec> routes;
  std::vector<std::pair<json, json>> conditions;
  for (std::uint64_t i = random.Below(60) + 1; i > 0; --i) {
    json filter = Chance(random, 2) ? json() : RandomFilter(random, 3);
    json pattern = Chance(random, 4) ? json() : RandomPattern(random);
    RouteSpec route;
    route.name = "r" + std::to_string(i);
    while (Chance(random, 5)) route.sources.push_back(sources[1 + random.Below(2)]);
    if (!filter.is_null()) route.filter = FilterFromJson(filter.dump()).value();
    if (!pattern.is_null()) {
      absl::StatusOr<PatternPtr> parsed = Pattern::FromJson(pattern.dump());
      TOCSIN_CHECK(parsed.ok(), "{}: {}", pattern.dump(), MessageOf(parsed.status()));
      route.pattern = *std::move(parsed);
    }
    routes.push_back(std::move(route));
    conditions.emplace_back(std::move(filter), std::move(pattern));
  }
  const std::vector<RouteSpec> specs = routes;
  const auto table = RouteTable::Build(std::move(routes));
  MatchScratch scratch;
  std::vector<std::uint32_t> matches;
  for (; events > 0; --events) {
    const ModelEvent model = RandomEvent(random);
    const Event event = EventOfModel(model);
    const std::string& source = sources[random.Below(3)];
    table->Match(event.View(), source, scratch, matches);
    for (std::uint32_t i = 0; i < specs.size(); ++i) {
      const auto& [filter, pattern] = conditions[i];
      const std::vector<std::string>& wanted = specs[i].sources;
      const bool holds =
          (wanted.empty() || std::find(wanted.begin(), wanted.end(), source) != wanted.end()) &&
          (filter.is_null() || ModelFilterMatches(filter, model)) &&
          (pattern.is_null() || ModelPatternMatches(pattern, model));
      const bool matched = std::binary_search(matches.begin(), matches.end(), i);
      const Verdict verdict = table->Explain(i, event.View(), source);
      TOCSIN_CHECK(matched == holds && verdict.matched == holds && verdict.reason.empty() == holds,
                   "model {}, match {}, explain {} {}: filter {} pattern {} event {} source {}",
                   holds, matched, verdict.matched, verdict.reason, filter.dump(), pattern.dump(),
                   model.dump(), source);
      counts.matches += holds ? 1 : 0;
      ++counts.pairs;
    }
  }
}

}  // namespace tocsin
