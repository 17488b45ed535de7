#include "broker/routing/route_table.h"

#include <gtest/gtest.h>

#include <map>

#include "broker/base/status.h"

namespace tocsin {
namespace {

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

Event PayloadEvent(std::string_view type, std::string_view payload) {
  EventBuilder builder("1", "/x", type);
  builder.Attribute("datacontenttype", "application/json").TextData(payload);
  return Event::FromTrustedBytes(std::move(builder).Encode());
}

RouteSpec PatternRoute(std::string name, std::string_view pattern) {
  return {std::move(name), {}, nullptr, Pattern::FromJson(pattern).value()};
}

// Many triggers want one value each of a payload field: its table finds them, the attribute that
// all of them want is the gate.
TEST(RouteTableTest, ThePayloadIsReadOnlyForTriggersThatStand) {
  std::vector<RouteSpec> routes;
  for (int i = 0; i < 20'000; ++i) {
    routes.push_back(PatternRoute(
        fmt::format("t{}", i),
        fmt::format(R"({{"type":["order.paid"],"data":{{"id":[{}],"on":[true]}}}})", i)));
  }
  const auto table = RouteTable::Build(std::move(routes));
  MatchScratch scratch;
  std::vector<std::uint32_t> matches;
  // That it cannot be read shows whether it was.
  table->Match(PayloadEvent("order.new", "{").View(), "", scratch, matches);
  EXPECT_EQ(scratch.payload.reason(), "");
  table->Match(PayloadEvent("order.paid", "{").View(), "", scratch, matches);
  EXPECT_NE(scratch.payload.reason(), "");
  EXPECT_TRUE(matches.empty());
  const Event event = PayloadEvent("order.paid", R"({"id":4711,"on":true,"other":[1,2]})");
  for (int i = 0; i < 1000; ++i) table->Match(event.View(), "", scratch, matches);
  EXPECT_EQ(matches, std::vector<std::uint32_t>{4711});
  EXPECT_LT(scratch.candidates.capacity(), 64u);
  // Of it only what some trigger names.
  EXPECT_EQ(scratch.payload.leaves().size(), 2u);
}

TEST(RouteTableTest, AttributesArePreferredToThePayload) {
  const auto table = RouteTable::Build(
      {PatternRoute("a", R"({"subject":["x"],"data":{"a":[1]}})"),
       PatternRoute("b", R"({"subject":["y"],"$or":[{"type":["z"]},{"data":{"a":[1]}}]})")});
  MatchScratch scratch;
  std::vector<std::uint32_t> matches;
  table->Match(PayloadEvent("t", R"({"a":1)").View(), "", scratch, matches);
  EXPECT_EQ(scratch.payload.reason(), "");
}

// A value that stands in the index though its name is ambiguous must not decide.
TEST(RouteTableTest, AnIndexedValueOfAnAmbiguousNameDoesNotMatch) {
  const auto table = RouteTable::Build(
      {PatternRoute("a", R"({"data":{"a":[1]}})"), PatternRoute("b", R"({"data":{"b":["x"]}})")});
  MatchScratch scratch;
  std::vector<std::uint32_t> matches;
  table->Match(PayloadEvent("t", R"({"a":1,"a":1,"b":"x"})").View(), "", scratch, matches);
  EXPECT_EQ(matches, std::vector<std::uint32_t>{1});
}

}  // namespace
}  // namespace tocsin
