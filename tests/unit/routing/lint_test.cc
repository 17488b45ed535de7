#include "broker/routing/lint.h"

#include <gtest/gtest.h>

#include "broker/base/status.h"

namespace tocsin {
namespace {

RouteSpec Route(std::string name, std::string_view filters, std::string_view pattern = "") {
  RouteSpec route;
  route.name = std::move(name);
  if (!filters.empty()) route.filter = FilterFromJson(filters).value();
  if (!pattern.empty()) route.pattern = Pattern::FromJson(pattern).value();
  return route;
}

std::string LintOf(std::vector<RouteSpec> routes) {
  const std::vector<std::string_view> functions(routes.size(), "f");
  std::string out;
  for (const LintFinding& finding : Lint(routes, functions)) {
    out += fmt::format("{}{} {}: {}", out.empty() ? "" : "\n", routes[finding.route].name,
                       LintName(finding.kind), finding.message);
  }
  return out;
}

TEST(LintTest, WhatIsPlainHasNoFindings) {
  EXPECT_EQ(LintOf({Route("a", ""), Route("b", R"([{"exact":{"type":"x"}}])"),
                    Route("c", R"([{"exact":{"type":"x"}},{"not":{"exact":{"region":"eu"}}}])"),
                    Route("d", R"([{"not":{"exact":{"type":"x"}}}])"),
                    Route("e", R"([{"prefix":{"type":"a"}},{"prefix":{"type":"ab"}}])"),
                    Route("f", R"([{"exact":{"count":"5"}}])", R"({"count":[5]})"),
                    Route("g", "", R"({"data":{"a":["x",{"prefix":"y"}],"b":[{"exists":false}]}})"),
                    Route("h", R"([{"cesql":"EXISTS x"}])")}),
            "");
}

TEST(LintTest, ContradictionsNeverMatch) {
  EXPECT_EQ(LintOf({Route("a", R"([{"exact":{"type":"x"}},{"exact":{"type":"y"}}])")}),
            "a never-matches: no `type` is both \"x\" and \"y\"");
  EXPECT_NE(LintOf({Route("a", R"([{"exact":{"type":"x"}},{"prefix":{"type":"y"}}])")}), "");
  EXPECT_NE(LintOf({Route("a", R"([{"prefix":{"type":"ab"}},{"prefix":{"type":"ac"}}])")}), "");
  EXPECT_NE(LintOf({Route("a", R"([{"exact":{"type":"x"}},{"suffix":{"type":"y"}}])")}), "");
  EXPECT_NE(LintOf({Route("a", R"([{"exact":{"specversion":"0.3"}}])")}), "");
  EXPECT_EQ(LintOf({Route("a", R"([{"exact":{"type":"x"}},{"not":{"exact":{"type":"x"}}}])")}),
            R"(a never-matches: {"exact":{"type":"x"}} is wanted and negated)");
  EXPECT_EQ(LintOf({Route("a", R"([{"exact":{"type":"x"}}])", R"({"type":[{"prefix":"y"}]})")}),
            "a never-matches: `pattern.type` does not take \"x\", which the filters want");
}

TEST(LintTest, WhatAnotherIncludesIsShadowed) {
  EXPECT_EQ(LintOf({Route("a", R"([{"exact":{"type":"x"}}])"),
                    Route("b", R"([{"exact":{"type":"x"}}])")}),
            "b shadowed: it takes the same events to the same function as `a`");
  EXPECT_EQ(
      LintOf({Route("a", R"([{"any":[{"prefix":{"type":"a"}},{"exact":{"type":"ab"}}]}])")}),
      R"(a shadowed: of `any`, {"exact":{"type":"ab"}} is included in {"prefix":{"type":"a"}})");
  EXPECT_EQ(LintOf({Route("a", "", R"({"data":{"a":["ab",{"prefix":"a"}]}})")}),
            "a shadowed: of `a`, \"ab\" is included in another clause");
  EXPECT_EQ(LintOf({Route("a", "", R"({"data":{"a":["ab",{"exists":true}]}})")}),
            "a shadowed: of `a`, `exists: true` includes the other clauses");
  EXPECT_EQ(LintOf({Route("a", "", R"({"data":{"$or":[{"prefix":"a"}]}})")}),
            "a shadowed: `$or` is read as the name of a field, since its objects name operators");
}

TEST(LintTest, NegationsOfWhatMayBeAbsentAreTrueByAccident) {
  EXPECT_EQ(LintOf({Route("a", R"([{"not":{"exact":{"region":"eu"}}}])")}),
            "a always-true: `not` holds for every event without `region`; if those are not meant, "
            "add `cesql: EXISTS region`");
  EXPECT_NE(LintOf({Route("a", R"([{"not":{"cesql":"region = 'eu'"}}])")}), "");
  EXPECT_EQ(LintOf({Route("a", "", R"({"data":{"a":["x",{"anything-but":"x"}]}})")}),
            "a always-true: `a` takes \"x\" and anything but it, so any value");
  EXPECT_EQ(LintOf({Route("a", "", R"({"data":{"a":[{"exists":true},{"exists":false}]}})")}),
            "a always-true: `a` may exist or not, so it says nothing");
}

TEST(LintTest, WhatIsNearABudgetIsOverComplex) {
  std::string any = R"([{"any":[{"exact":{"type":"x"}})";
  for (int i = 0; i < 1100; ++i) any += fmt::format(R"(,{{"exact":{{"type":"t{}"}}}})", i);
  EXPECT_NE(LintOf({Route("a", any + "]}]")}).find("over-complex: its filters have"),
            std::string::npos);
  std::string wildcards = R"({"data":{"a":["x")";
  for (int i = 0; i < 40; ++i) wildcards += fmt::format(R"(,{{"wildcard":"*{}*"}})", i);
  EXPECT_EQ(LintOf({Route("a", "", wildcards + "]}}")}),
            "a over-complex: its pattern has 40 wildcards");
  std::vector<RouteSpec> many;
  for (int i = 0; i < 1001; ++i) {
    many.push_back(Route("t", fmt::format(R"([{{"exact":{{"type":"{}"}}}}])", i)));
  }
  many.push_back(Route("c", R"([{"cesql":"EXISTS x"}])"));
  EXPECT_NE(LintOf(many).find("c over-complex: it is tried on every event"), std::string::npos);
}

}  // namespace
}  // namespace tocsin
