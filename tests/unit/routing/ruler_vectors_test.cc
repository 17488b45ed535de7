// The cases of AWS event-ruler, whose pattern language is EventBridge's: rules and events are put
// beneath `data`. What differs on purpose is listed here and reasoned in docs/patterns.md.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <sstream>

#include "broker/base/json_scan.h"
#include "broker/base/status.h"
#include "broker/routing/route_table.h"
#include "tests/support/vectors.h"

namespace tocsin {
namespace {

using nlohmann::json;

std::string VectorText(const std::string& name) {
  return ReadTestFile(fmt::format("{}/event_ruler/{}", std::getenv("TOCSIN_VECTORS"), name));
}

std::vector<json> Lines(const std::string& name) {
  std::vector<json> lines;
  std::istringstream text(VectorText(name));
  for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
  return lines;
}

absl::StatusOr<PatternPtr> Beneath(std::string_view rule) {
  return Pattern::FromJson(fmt::format(R"({{"data":{}}})", rule));
}

Event EventOf(std::string_view payload) {
  EventBuilder builder("1", "/ruler", "case");
  builder.Attribute("datacontenttype", "application/json").TextData(payload);
  EventLimits limits;
  limits.event_bytes_max = std::size_t{3} << 20;
  return Event::FromBytes(std::move(builder).Encode(), limits).value();
}

// Upstream takes the last of two members of one name; a configuration file refuses them.
bool RepeatsName(std::string_view text) {
  JsonValue value;
  const bool loose =
      JsonScanner(text, kJsonDepthMax, JsonNames::kMayRepeat).ReadDocument(value).ok();
  return loose && !JsonScanner(text).ReadDocument(value).ok();
}

void Flatten(const json& rule, const std::string& path, std::map<std::string, json>& fields) {
  for (const auto& [name, value] : rule.items()) {
    const std::string here = path.empty() ? name : path + "." + name;
    if (value.is_object()) {
      Flatten(value, here, fields);
    } else {
      fields[here] = value;
    }
  }
}

// A rule without `$or`, with one value per field, in every combination.
std::vector<std::string> Ways(const json& rule) {
  std::map<std::string, json> fields;
  Flatten(rule, "", fields);
  std::vector<json> ways = {json::object()};
  for (const auto& [path, values] : fields) {
    std::vector<json> longer;
    for (const json& way : ways) {
      for (const json& value : values) {
        longer.push_back(way);
        longer.back()[path] = json::array({value});
      }
    }
    ways = std::move(longer);
  }
  std::vector<std::string> texts;
  for (const json& way : ways) texts.push_back(way.dump());
  return texts;
}

std::vector<std::string> Match(const std::vector<std::pair<std::string, std::string>>& rules,
                               const std::string& payload) {
  std::vector<RouteSpec> routes;
  for (const auto& [name, rule] : rules) {
    absl::StatusOr<PatternPtr> pattern = Beneath(rule);
    EXPECT_TRUE(pattern.ok()) << rule << ": " << pattern.status();
    if (pattern.ok()) routes.push_back({name, {}, nullptr, *pattern});
  }
  const auto table = RouteTable::Build(std::move(routes));
  const Event event = EventOf(payload);
  MatchScratch scratch;
  std::vector<std::uint32_t> matches;
  table->Match(event.View(), "", scratch, matches);
  std::set<std::string> names;
  for (std::uint32_t i = 0; i < table->size(); ++i) {
    const bool matched = std::binary_search(matches.begin(), matches.end(), i);
    const Verdict verdict = table->Explain(i, event.View(), "");
    EXPECT_EQ(verdict.matched, matched) << table->route(i).pattern->ToJson();
    EXPECT_EQ(verdict.clause.empty(), matched);
    EXPECT_EQ(verdict.reason.empty(), matched);
    if (matched) names.insert(table->route(i).name);
  }
  return {names.begin(), names.end()};
}

TEST(RulerVectorsTest, RulesMatchTheEventsTheyShould) {
  std::size_t consistent = 0;
  std::size_t flat = 0;
  std::size_t flat_differs = 0;
  std::size_t refused = 0;
  for (const json& entry : Lines("match_cases.jsonl")) {
    SCOPED_TRACE(entry["source_test"].get<std::string>() + " " +
                 entry["event"].get<std::string>().substr(0, 400));
    // Upstream adds and deletes by parts: a rule is all its ways to take one value per field.
    std::vector<std::pair<std::string, std::string>> rules;
    bool repeats = false;
    for (const json& op : entry.contains("ops") ? entry["ops"] : entry["rules"]) {
      const auto text = op["rule"].get<std::string>();
      repeats = repeats || RepeatsName(text);
      if (!entry.contains("ops")) {
        rules.emplace_back(op["name"], text);
        continue;
      }
      for (const std::string& way : Ways(json::parse(text))) {
        std::pair<std::string, std::string> rule(op["name"], way);
        const auto known = std::find(rules.begin(), rules.end(), rule);
        if (op["op"] == "add" && known == rules.end()) rules.push_back(std::move(rule));
        if (op["op"] == "del" && known != rules.end()) rules.erase(known);
      }
    }
    if (repeats) {
      ++refused;
      for (const auto& rule : rules) EXPECT_FALSE(Beneath(rule.second).ok());
      continue;
    }
    const auto wanted = entry["matched"].get<std::vector<std::string>>();
    const std::vector<std::string> matched = Match(rules, entry["event"].get<std::string>());
    if (entry["array_consistent"].get<bool>()) {
      ++consistent;
      EXPECT_EQ(matched, wanted);
    } else {
      // Upstream's older mode, which lets fields of different array elements combine.
      ++flat;
      flat_differs += matched != wanted ? 1 : 0;
    }
  }
  EXPECT_EQ(refused, 1u);
  EXPECT_EQ(consistent, 407u);
  EXPECT_EQ(flat, 94u);
  EXPECT_EQ(flat_differs, 0u);
}

TEST(RulerVectorsTest, RulesAreAcceptedAndRefusedAlike) {
  std::size_t count = 0;
  std::size_t repeats = 0;
  for (const json& entry : Lines("rule_compile_cases.jsonl")) {
    const auto rule = entry["rule"].get<std::string>();
    const absl::StatusOr<PatternPtr> pattern = Beneath(rule);
    ++count;
    if (RepeatsName(rule)) {
      ++repeats;
      EXPECT_FALSE(pattern.ok()) << rule;
      continue;
    }
    EXPECT_EQ(pattern.ok(), entry["valid"].get<bool>())
        << entry["compiler"] << " " << rule << " " << pattern.status()
        << entry.value("message", "");
    if (!pattern.ok()) continue;
    const std::string canonical = (*pattern)->ToJson();
    const auto again = Pattern::FromJson(canonical);
    ASSERT_TRUE(again.ok()) << canonical << again.status();
    EXPECT_EQ((*again)->ToJson(), canonical) << rule;
  }
  EXPECT_EQ(count, 531u);
  EXPECT_EQ(repeats, 3u);
}

// Rule 3 wants two fields that event 3 has in different elements and event 4 in one.
TEST(RulerVectorsTest, ArraysAreConsistent) {
  const std::set<std::pair<int, int>> wanted = {{1, 1}, {2, 1}, {3, 4}, {4, 3}, {4, 4}};
  for (int i = 1; i <= 4; ++i) {
    const auto rule = VectorText(fmt::format("arrayRule{}.json", i));
    for (int j = 1; j <= 4; ++j) {
      const auto event = VectorText(fmt::format("arrayEvent{}.json", j));
      EXPECT_EQ(!Match({{"rule", rule}}, event).empty(), wanted.contains({i, j})) << i << " " << j;
    }
  }
}

TEST(RulerVectorsTest, TheBigEventIsMatched) {
  EXPECT_EQ(Match({{"rule", VectorText("bigEventRule.json")}}, VectorText("bigEvent.json")).size(),
            1u);
}

TEST(RulerVectorsTest, ChoicesAreReadAsUpstreamDoes) {
  for (const json& rule : json::parse(VectorText("orRelationshipRules.json"))) {
    const auto pattern = Beneath(rule.dump());
    ASSERT_TRUE(pattern.ok()) << rule << pattern.status();
    EXPECT_NE((*pattern)->ToJson().find("\"$or\":[{"), std::string::npos);
  }
  for (const json& rule : json::parse(VectorText("wrongOrRelationshipRules.json"))) {
    EXPECT_FALSE(Beneath(rule.dump()).ok()) << rule;
  }
  for (const json& rule : json::parse(VectorText("normalRulesWithOrWording.json"))) {
    EXPECT_TRUE(Beneath(rule.dump()).ok()) << rule << Beneath(rule.dump()).status();
  }
}

}  // namespace
}  // namespace tocsin
