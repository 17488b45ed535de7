#include "broker/routing/filter.h"

#include <gtest/gtest.h>

#include "broker/base/status.h"

namespace tocsin {
namespace {

Event MakeEvent() {
  std::string bytes = std::move(EventBuilder("1", "/sources/inbox", "file.created")
                                    .Attribute("subject", "in/a.csv")
                                    .Integer("count", -5)
                                    .Boolean("flag", true)
                                    .Binary("raw", "f")
                                    .Timestamp("time", 0, 0)
                                    .Uri("dataschema", "https://example.com/x"))
                          .Encode();
  return Event::FromBytes(std::move(bytes), EventLimits()).value();
}

bool Matches(std::string_view json) {
  static const Event event = MakeEvent();
  const absl::StatusOr<FilterPtr> filter = FilterFromJson(json);
  EXPECT_TRUE(filter.ok()) << json << ": " << filter.status();
  const bool matches = *filter == nullptr || (*filter)->Matches(event.View());
  if (*filter != nullptr) {
    EXPECT_EQ(matches, (*filter)->Explain(event.View(), "").matched) << json;
    EXPECT_EQ(matches, (*filter)->Explain(event.View(), "").reason.empty()) << json;
  }
  return matches;
}

std::string Failure(std::string_view json) {
  return (*FilterFromJson(json))->Explain(MakeEvent().View(), "").reason;
}

TEST(FilterTest, ConditionsCompareCanonicalStrings) {
  EXPECT_TRUE(Matches(R"({"exact":{"type":"file.created"}})"));
  EXPECT_FALSE(Matches(R"({"exact":{"type":"File.created"}})"));
  EXPECT_FALSE(Matches(R"({"exact":{"type":"file.create"}})"));
  EXPECT_TRUE(Matches(R"({"prefix":{"subject":"in/"}})"));
  EXPECT_TRUE(Matches(R"({"suffix":{"subject":".csv"}})"));
  EXPECT_FALSE(Matches(R"({"suffix":{"subject":"and a much longer value in/a.csv"}})"));
  EXPECT_TRUE(Matches(R"({"exact":{"id":"1","source":"/sources/inbox","specversion":"1.0"}})"));
  EXPECT_FALSE(Matches(R"({"exact":{"id":"1","source":"/sources/other"}})"));
  EXPECT_TRUE(Matches(R"({"exact":{"count":"-5","flag":"true","raw":"Zg=="}})"));
  EXPECT_TRUE(Matches(R"({"prefix":{"time":"1970-01-01T"}})"));
  EXPECT_TRUE(Matches(R"({"prefix":{"dataschema":"https://"}})"));
}

TEST(FilterTest, AnAbsentAttributeMatchesNothingAndItsNegationHolds) {
  EXPECT_FALSE(Matches(R"({"exact":{"x":"v"}})"));
  EXPECT_FALSE(Matches(R"({"prefix":{"x":"v"}})"));
  EXPECT_TRUE(Matches(R"({"not":{"exact":{"x":"v"}}})"));
}

TEST(FilterTest, OperatorsCombine) {
  EXPECT_TRUE(Matches("[]"));
  EXPECT_TRUE(Matches("null"));
  EXPECT_TRUE(Matches(R"([{"exact":{"id":"1"}},{"prefix":{"type":"file"}}])"));
  EXPECT_FALSE(Matches(R"([{"exact":{"id":"1"}},{"prefix":{"type":"row"}}])"));
  EXPECT_TRUE(Matches(R"({"any":[{"exact":{"id":"2"}},{"exact":{"id":"1"}}]})"));
  EXPECT_FALSE(Matches(R"({"any":[{"exact":{"id":"2"}},{"not":{"exact":{"id":"1"}}}]})"));
  EXPECT_TRUE(Matches(R"({"all":[{"any":[{"exact":{"id":"1"}}]},{"not":{"exact":{"x":"1"}}}]})"));
}

TEST(FilterTest, CesqlIsADialect) {
  EXPECT_TRUE(Matches(R"({"cesql":"count < 0 AND flag"})"));
  EXPECT_TRUE(Matches(R"({"sql":"subject LIKE 'in/%.csv'"})"));
  EXPECT_FALSE(Matches(R"({"cesql":"nothing = 1"})"));
  EXPECT_TRUE(Matches(R"({"not":{"cesql":"nothing = 1"}})"));
  EXPECT_TRUE(Matches(R"([{"exact":{"id":"1"}},{"any":[{"cesql":"FALSE OR id = '1'"}]}])"));
  EXPECT_EQ((*FilterFromJson(R"({"sql":"id = '1'"})"))->ToJson(), R"({"cesql":"id = '1'"})");
  EXPECT_EQ(Failure(R"({"cesql":"nothing = 1"})"),
            R"(cesql "nothing = 1": its value is false; missingAttribute: )"
            R"(the event has no attribute `nothing`)");
}

TEST(FilterTest, VerdictsNamePlaceAndBothValues) {
  const Event event = MakeEvent();
  const auto explain = [&](std::string_view json, std::string_view path) {
    const Verdict verdict = (*FilterFromJson(json))->Explain(event.View(), path);
    return fmt::format("{} | {} | {} | {}", verdict.clause, verdict.expected, verdict.actual,
                       verdict.errors.size());
  };
  EXPECT_EQ(explain(R"([{"exact":{"id":"1"}},{"suffix":{"subject":".txt"}}])", "filters"),
            R"(filters[1].suffix.subject | ".txt" | "in/a.csv" | 0)");
  EXPECT_EQ(explain(R"({"exact":{"x":"v"}})", "filters[0]"), R"(filters[0].exact.x | "v" |  | 0)");
  EXPECT_EQ(explain(R"({"not":{"exact":{"id":"1"}}})", "filters[0]"),
            R"(filters[0].not | {"not":{"exact":{"id":"1"}}} | {"id":"1"} | 0)");
  EXPECT_EQ(explain(R"({"any":[{"cesql":"x = 1"},{"exact":{"id":"2"}}]})", "filters[0]"),
            R"(filters[0].any | {"any":[{"cesql":"x = 1"},{"exact":{"id":"2"}}]} | )"
            R"({"id":"1","x":null} | 1)");
  EXPECT_EQ(explain(R"({"cesql":"x = 1"})", "filters[0]"), "filters[0].cesql | true | false | 1");
}

TEST(FilterTest, FailuresNameThePartAndTheActualValue) {
  EXPECT_EQ(Failure(R"([{"exact":{"id":"1"}},{"suffix":{"subject":".txt"}}])"),
            R"(suffix `subject` ".txt": it is "in/a.csv")");
  EXPECT_EQ(Failure(R"({"exact":{"x":"v"}})"), R"(exact `x` "v": the event has no attribute `x`)");
  EXPECT_EQ(Failure(R"({"not":{"exact":{"id":"1"}}})"),
            R"(`not` fails because {"exact":{"id":"1"}} holds)");
  EXPECT_EQ(Failure(R"({"any":[{"exact":{"id":"2"}},{"exact":{"x":"v"}}]})"),
            "none of 2 alternatives holds: exact `id` \"2\": it is \"1\"; "
            "exact `x` \"v\": the event has no attribute `x`");
}

TEST(FilterTest, CanonicalJsonDoesNotDependOnTheOrderOfAttributes) {
  EXPECT_EQ((*FilterFromJson(R"({"exact":{"b":"2","a":"1"}})"))->ToJson(),
            R"({"exact":{"a":"1","b":"2"}})");
  const std::string text =
      R"({"all":[{"any":[{"suffix":{"a":"\"x\n"}}]},{"not":{"prefix":{"a":"1"}}}]})";
  EXPECT_EQ((*FilterFromJson(text))->ToJson(), text);
}

void ExpectRefused(std::string_view json, std::string_view text) {
  const absl::StatusOr<FilterPtr> filter = FilterFromJson(json);
  ASSERT_FALSE(filter.ok()) << json;
  EXPECT_NE(MessageOf(filter.status()).find(text), std::string_view::npos)
      << json << ": " << filter.status();
}

TEST(FilterTest, BadFiltersAreRefusedWithTheirPath) {
  ExpectRefused(R"([{"exact":{"a":"1"}},{"not":{"exact":{"A":"x"}}}])",
                "[1].not.exact: \"A\" is not an attribute's name");
  ExpectRefused(R"({"exact":{"a":""}})", "the value for `a` is empty");
  ExpectRefused(R"({"exact":{"a":1}})", "exact.a: the value must be a string");
  ExpectRefused(R"({"exact":{}})", "at least one attribute");
  ExpectRefused(R"({"exact":{"data":"x"}})", "not `data`");
  ExpectRefused(R"({"all":[]})", "at least one filter");
  ExpectRefused(R"({"any":{}})", "takes an array");
  ExpectRefused(R"({"not":[]})", "exactly one dialect");
  ExpectRefused(R"({"exact":{"a":"1"},"prefix":{"a":"1"}})", "exactly one dialect");
  ExpectRefused(R"({})", "exactly one dialect");
  ExpectRefused(R"({"exat":{"a":"1"}})", "unknown filter dialect `exat`");
  ExpectRefused(R"({"cesql":"this is wrong"})", "cesql: column 6: `is` is not expected here");
  ExpectRefused(R"({"cesql":"1 + 1"})", "can never be TRUE: its value is an Integer");
  ExpectRefused(R"x({"sql":"NOPE()"})x", "there is no function NOPE of 0 arguments");
  ExpectRefused(R"({"cesql":1})", "takes an expression as a string");
  ExpectRefused(R"({"pattern":{}})", "`pattern` is a key of the trigger, beside `filters`");
  ExpectRefused(R"({"exact":{"a":"1","a":"2"}})", "duplicate name");
}

TEST(FilterTest, DepthAndSizeAreBounded) {
  std::string deep = R"({"exact":{"a":"1"}})";
  for (int i = 0; i < 31; ++i) deep = "{\"not\":" + deep + "}";
  EXPECT_TRUE(FilterFromJson(deep).ok());
  ExpectRefused("{\"not\":" + deep + "}", "more than 32 deep");
  std::string wide = R"({"any":[{"exact":{"a":"1"}})";
  for (int i = 0; i < 5000; ++i) wide += R"(,{"exact":{"a":"1"}})";
  ExpectRefused(wide + "]}", "at most 4096 parts");
  // A product of combinations cannot get round the limit.
  FilterPtr filter = *FilterFromJson(R"({"exact":{"a":"1"}})");
  absl::Status status;
  for (int i = 0; i < 16 && status.ok(); ++i) {
    absl::StatusOr<FilterPtr> next = MakeCombination(Filter::Kind::kAll, {filter, filter});
    status = next.status();
    if (next.ok()) filter = *next;
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tocsin
