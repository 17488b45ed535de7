#include "broker/routing/route_table.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>

#include "broker/base/random.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

using nlohmann::json;

Event MakeEvent(const std::map<std::string, std::string>& attributes) {
  EventBuilder builder(attributes.at("id"), attributes.at("source"), attributes.at("type"));
  for (const auto& [name, value] : attributes) {
    if (name != "id" && name != "source" && name != "type") builder.Attribute(name, value);
  }
  return Event::FromBytes(std::move(builder).Encode(), EventLimits()).value();
}

std::vector<std::uint32_t> Match(const RouteTable& table, const Event& event,
                                 std::string_view source_name) {
  MatchScratch scratch;
  std::vector<std::uint32_t> matches = {99};  // what is left over must go
  table.Match(event.View(), source_name, scratch, matches);
  return matches;
}

RouteSpec Route(std::string name, std::vector<std::string> sources, std::string_view filter) {
  return {std::move(name), std::move(sources), FilterFromJson(filter).value(), nullptr};
}

TEST(RouteTableTest, SourcesAreMatchedByConfiguredName) {
  const auto table = RouteTable::Build({Route("a", {"inbox"}, "null"), Route("b", {}, "null"),
                                        Route("c", {"orders", "inbox", "inbox"}, "null"),
                                        Route("d", {"orders"}, R"({"exact":{"type":"t"}})")});
  const Event event = MakeEvent({{"id", "1"}, {"source", "/x"}, {"type", "t"}});
  EXPECT_EQ(Match(*table, event, "inbox"), (std::vector<std::uint32_t>{0, 1, 2}));
  EXPECT_EQ(Match(*table, event, "orders"), (std::vector<std::uint32_t>{1, 2, 3}));
  EXPECT_EQ(Match(*table, event, ""), (std::vector<std::uint32_t>{1}));
  EXPECT_EQ(table->Explain(0, event.View(), "orders").reason,
            "the event is from source `orders`, not `inbox`");
  EXPECT_EQ(table->Explain(2, event.View(), "").reason,
            "the event was published, not brought by `orders`, `inbox`, `inbox`");
  EXPECT_TRUE(table->Explain(1, event.View(), "").matched);
}

TEST(RouteTableTest, AnEmptyTableMatchesNothing) {
  const auto table = RouteTable::Build({});
  EXPECT_EQ(table->size(), 0u);
  EXPECT_TRUE(
      Match(*table, MakeEvent({{"id", "1"}, {"source", "/x"}, {"type", "t"}}), "s").empty());
}

TEST(RouteTableTest, ATriggerMatchesOnceThoughSeveralAlternativesHold) {
  const auto table = RouteTable::Build({Route(
      "a", {}, R"({"any":[{"exact":{"type":"t"}},{"prefix":{"id":"1"}},{"suffix":{"id":"1"}}]})")});
  EXPECT_EQ(Match(*table, MakeEvent({{"id", "1"}, {"source", "/x"}, {"type", "t"}}), "").size(),
            1u);
}

// Matching depends on the candidates: with a shared `type` the distinct subject must be the anchor.
TEST(RouteTableTest, ManyTriggersCostOnlyTheirCandidates) {
  std::vector<RouteSpec> routes;
  for (int i = 0; i < 20'000; ++i) {
    routes.push_back(
        Route(fmt::format("t{}", i), {},
              fmt::format(R"({{"exact":{{"type":"order.created","subject":"order-{}"}}}})", i)));
  }
  const auto table = RouteTable::Build(std::move(routes));
  const Event event = MakeEvent(
      {{"id", "1"}, {"source", "/x"}, {"type", "order.created"}, {"subject", "order-4711"}});
  MatchScratch scratch;
  std::vector<std::uint32_t> matches;
  for (int i = 0; i < 1000; ++i) table->Match(event.View(), "", scratch, matches);
  EXPECT_EQ(matches, std::vector<std::uint32_t>{4711});
  EXPECT_LT(scratch.candidates.capacity(), 64u);
}

// The words of the property test: few names and values, so that filters often hold.
const std::vector<std::string> kNames = {"type", "subject", "x", "y", "id", "source", "z1"};
const std::vector<std::string> kValues = {"a", "ab", "abc", "b", "bc", "ba", "c", "/s"};

json RandomFilter(Random& random, int depth) {
  const std::uint64_t kind = random.Below(depth == 0 ? 3 : 6);
  if (kind < 3) {
    json conditions;
    for (std::uint64_t i = random.Below(2) + 1; i > 0; --i) {
      conditions[kNames[random.Below(kNames.size())]] = kValues[random.Below(kValues.size())];
    }
    return {{kind == 0 ? "exact" : kind == 1 ? "prefix" : "suffix", conditions}};
  }
  if (kind == 5) return {{"not", RandomFilter(random, depth - 1)}};
  json operands = json::array();
  for (std::uint64_t i = random.Below(3) + 1; i > 0; --i) {
    operands.push_back(RandomFilter(random, depth - 1));
  }
  return {{kind == 3 ? "all" : "any", operands}};
}

// Straight from the words of the specification, on the filter's JSON.
bool NaiveMatches(const json& filter, const std::map<std::string, std::string>& attributes) {
  const std::string dialect = filter.begin().key();
  const json& argument = filter.begin().value();
  if (dialect == "not") return !NaiveMatches(argument, attributes);
  if (dialect == "all" || dialect == "any") {
    std::size_t holding = 0;
    for (const json& operand : argument) holding += NaiveMatches(operand, attributes) ? 1 : 0;
    return dialect == "all" ? holding == argument.size() : holding > 0;
  }
  for (const auto& [name, wanted] : argument.items()) {
    const auto found = attributes.find(name);
    if (found == attributes.end()) return false;
    const std::string& actual = found->second;
    const auto value = wanted.get<std::string>();
    const std::size_t at = actual.find(value);
    if (dialect == "exact" && actual != value) return false;
    if (dialect == "prefix" && at != 0) return false;
    if (dialect == "suffix" &&
        (actual.size() < value.size() ||
         actual.compare(actual.size() - value.size(), value.size(), value))) {
      return false;
    }
  }
  return true;
}

TEST(RouteTableTest, MatchAndExplainAgreeWithANaiveEvaluator) {
  const char* given = std::getenv("TOCSIN_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : SystemSeed();
  SCOPED_TRACE(fmt::format("TOCSIN_SEED={}", seed));
  SeededRandom random(seed);
  const std::vector<std::string> sources = {"", "s1", "s2"};
  std::size_t total_matches = 0;
  std::size_t total = 0;
  for (int round = 0; round < 40; ++round) {
    std::vector<RouteSpec> routes;
    std::vector<json> filters;
    const std::uint64_t count = random.Below(60) + 1;
    for (std::uint64_t i = 0; i < count; ++i) {
      json filter = random.Below(10) == 0 ? json() : RandomFilter(random, 3);
      std::vector<std::string> wanted;
      while (random.Below(3) == 0) wanted.push_back(sources[1 + random.Below(2)]);
      routes.push_back(Route(fmt::format("r{}", i), wanted, filter.dump()));
      filters.push_back(std::move(filter));
    }
    const std::vector<RouteSpec> specs = routes;
    const auto table = RouteTable::Build(std::move(routes));
    MatchScratch scratch;
    std::vector<std::uint32_t> matches;
    for (int n = 0; n < 40; ++n) {
      std::map<std::string, std::string> attributes = {{"source", "/s"}};
      for (const std::string& name : kNames) {
        if (name == "type" || name == "id" || random.Below(2) == 0) {
          if (name != "source") attributes[name] = kValues[random.Below(7)];
        }
      }
      // Attributes no filter names, so that both ways through the index are taken.
      for (std::uint64_t i = random.Below(8); i > 0; --i) attributes[fmt::format("q{}", i)] = "a";
      const Event event = MakeEvent(attributes);
      const std::string& source = sources[random.Below(3)];
      table->Match(event.View(), source, scratch, matches);
      std::vector<std::uint32_t> expected;
      for (std::uint32_t i = 0; i < specs.size(); ++i) {
        const std::vector<std::string>& wanted = specs[i].sources;
        const bool from_source =
            wanted.empty() || std::find(wanted.begin(), wanted.end(), source) != wanted.end();
        const bool holds =
            from_source && (filters[i].is_null() || NaiveMatches(filters[i], attributes));
        if (holds) expected.push_back(i);
        const Verdict verdict = table->Explain(i, event.View(), source);
        ASSERT_EQ(verdict.matched, holds) << filters[i];
        ASSERT_EQ(verdict.reason.empty(), holds);
      }
      ASSERT_EQ(matches, expected);
      total_matches += matches.size();
      total += specs.size();
    }
  }
  // The test says something only if both outcomes are common.
  EXPECT_GT(total_matches, total / 20);
  EXPECT_LT(total_matches, total * 19 / 20);
}

}  // namespace
}  // namespace tocsin
