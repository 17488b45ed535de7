#include "broker/routing/pattern.h"

#include <gtest/gtest.h>

#include "broker/base/json_scan.h"
#include "broker/base/status.h"

namespace tocsin {
namespace {

Event JsonEvent(std::string_view payload, std::string_view type = "application/json") {
  EventBuilder builder("1", "/shop", "order.paid");
  builder.Attribute("subject", "eu/42.csv").Integer("count", 5).Boolean("flag", true);
  if (!type.empty()) builder.Attribute("datacontenttype", type);
  builder.TextData(payload);
  return Event::FromTrustedBytes(std::move(builder).Encode());
}

Verdict Explain(std::string_view json, const Event& event) {
  const absl::StatusOr<PatternPtr> pattern = Pattern::FromJson(json);
  EXPECT_TRUE(pattern.ok()) << json << pattern.status();
  PathTree paths;
  const std::vector<PathId> bound = (*pattern)->Bind(paths);
  const EventView view = event.View();
  PayloadReader payload;
  payload.Reset(&paths, &view);
  const bool matched = (*pattern)->Matches(view, payload, bound.data());
  payload.Reset(&paths, &view);
  const Verdict verdict = (*pattern)->Explain(view, payload, bound.data());
  EXPECT_EQ(verdict.matched, matched) << json;
  return verdict;
}

bool Matches(std::string_view json, std::string_view payload) {
  return Explain(json, JsonEvent(payload)).matched;
}

TEST(PatternTest, AttributesStandAtTheTop) {
  EXPECT_TRUE(Matches(R"({"type":["order.paid"]})", "{}"));
  EXPECT_TRUE(Matches(R"({"type":["x",{"prefix":"order."}],"subject":[{"suffix":".csv"}]})", "{}"));
  EXPECT_FALSE(Matches(R"({"type":["order.paid"],"subject":["x"]})", "{}"));
  EXPECT_TRUE(Matches(R"({"count":[5],"flag":[true]})", "{}"));
  EXPECT_FALSE(Matches(R"({"count":["5"]})", "{}"));  // an integer is no text
  EXPECT_TRUE(Matches(R"({"count":[{"numeric":[">",4]}]})", "{}"));
  EXPECT_TRUE(Matches(R"({"nothing":[{"exists":false}]})", "{}"));
  EXPECT_FALSE(Matches(R"({"nothing":[{"anything-but":"x"}]})", "{}"));  // it must be there
}

TEST(PatternTest, TheFieldsOfThePayloadStandBeneathData) {
  EXPECT_TRUE(Matches(R"({"data":{"a":{"b":["x"]}}})", R"({"a":{"b":"x"}})"));
  EXPECT_TRUE(Matches(R"({"data.a.b":["x"]})", R"({"a":{"b":"x"}})"));
  EXPECT_TRUE(Matches(R"({"data":{"a":{"b":["x"]}}})", R"({"a.b":"x"})"));
  EXPECT_TRUE(Matches(R"({"data":{"a":{"b":[1],"c":[2]}}})", R"({"a.b":1,"a":{"c":2}})"));
  EXPECT_TRUE(Matches(R"({"data":["x"]})", R"("x")"));
  EXPECT_TRUE(Matches(R"({"data":[2]})", "[1,[2]]"));
  EXPECT_TRUE(Matches(R"({"type":["order.paid"],"data":{"n":[null]}})", R"({"n":null})"));
  EXPECT_FALSE(Matches(R"({"data":{"a":["x"]}})", R"({"a":{"a":"x"}})"));
}

TEST(PatternTest, NumbersAreEqualHoweverTheyAreWritten) {
  EXPECT_TRUE(Matches(R"({"data":{"a":[100]}})", R"({"a":1e2})"));
  EXPECT_TRUE(Matches(R"({"data":{"a":[1.50]}})", R"({"a":15e-1})"));
  EXPECT_TRUE(Matches(R"({"data":{"a":[0]}})", R"({"a":-0.0})"));
  EXPECT_FALSE(Matches(R"({"data":{"a":["100"]}})", R"({"a":100})"));
  // Identifiers above 2^53 keep their last digits.
  EXPECT_TRUE(Matches(R"({"data":{"a":[9007199254740993]}})", R"({"a":9007199254740993})"));
  EXPECT_FALSE(Matches(R"({"data":{"a":[9007199254740993]}})", R"({"a":9007199254740992})"));
  EXPECT_FALSE(Matches(R"({"data":{"a":[{"numeric":[">",9007199254740992.0]}]}})",
                       R"({"a":9007199254740992})"));
  EXPECT_TRUE(Matches(R"({"data":{"a":[{"numeric":[">",9007199254740992]}]}})",
                      R"({"a":9007199254740993})"));
  // More digits than 64 bits hold.
  EXPECT_TRUE(
      Matches(R"({"data":{"a":[{"numeric":[">",1e20]}]}})", R"({"a":123456789012345678901234})"));
}

TEST(PatternTest, OperatorsCompare) {
  const auto holds = [](std::string_view clause, std::string_view value) {
    return Matches(fmt::format(R"({{"data":{{"a":[{}]}}}})", clause),
                   fmt::format(R"({{"a":{}}})", value));
  };
  EXPECT_TRUE(holds(R"({"prefix":{"equals-ignore-case":"ÄB"}})", R"("äbc")"));
  EXPECT_TRUE(holds(R"({"suffix":{"equals-ignore-case":"BÇ"}})", R"("abç")"));
  EXPECT_TRUE(holds(R"({"equals-ignore-case":"aBc"})", R"("AbC")"));
  EXPECT_FALSE(holds(R"({"equals-ignore-case":"aBc"})", R"("AbCd")"));
  EXPECT_TRUE(holds(R"({"wildcard":"a*\\*c"})", R"("ab*c")"));
  EXPECT_FALSE(holds(R"({"wildcard":"a*\\*c"})", R"("abbc")"));
  EXPECT_TRUE(holds(R"({"anything-but":["a","b"]})", R"("c")"));
  EXPECT_TRUE(holds(R"({"anything-but":["a","b"]})", "7"));
  EXPECT_FALSE(holds(R"({"anything-but":[7,8]})", "7.0"));
  EXPECT_FALSE(holds(R"({"anything-but":{"prefix":["a","b"]}})", R"("bc")"));
  EXPECT_TRUE(holds(R"({"anything-but":{"wildcard":"*x*"}})", R"("abc")"));
  EXPECT_FALSE(holds(R"({"anything-but":{"equals-ignore-case":"X"}})", R"("x")"));
  EXPECT_TRUE(holds(R"({"numeric":[">=",1,"<",2]})", "1"));
  EXPECT_FALSE(holds(R"({"numeric":[">=",1,"<",2]})", "2"));
  EXPECT_FALSE(holds(R"({"numeric":["=",1]})", R"("1")"));
  EXPECT_FALSE(holds(R"({"cidr":"10.2.0.0/15"})", R"("10.1.9.9")"));
  EXPECT_TRUE(holds(R"({"cidr":"10.0.0.0/15"})", R"("10.1.9.9")"));
  EXPECT_TRUE(holds(R"({"cidr":"2001:db8::/32"})", R"("2001:DB8:0:1::5")"));
  EXPECT_FALSE(holds(R"({"cidr":"0.0.0.0/0"})", R"("::1")"));
  EXPECT_FALSE(holds(R"({"cidr":"0.0.0.0/0"})", R"("10.0.0.1 ")"));
  EXPECT_TRUE(holds(R"({"exists":true})", "false"));
  EXPECT_FALSE(holds(R"({"exists":true})", "{}"));
  EXPECT_FALSE(holds(R"({"exists":true})", "[]"));
  EXPECT_TRUE(holds(R"({"exists":false})", "[[],{}]"));
}

TEST(PatternTest, FieldsBeneathOneArrayHoldForOneElement) {
  constexpr std::string_view kBoth = R"({"data":{"l":{"a":[1],"b":[2]}}})";
  EXPECT_TRUE(Matches(kBoth, R"({"l":[{"a":0},{"a":1,"b":2}]})"));
  EXPECT_FALSE(Matches(kBoth, R"({"l":[{"a":1},{"b":2}]})"));
  EXPECT_TRUE(Matches(kBoth, R"({"l":[[{"a":[0,1],"b":[3,2]}]]})"));
  EXPECT_FALSE(Matches(kBoth, R"({"l":[[{"a":1}],[{"b":2}]]})"));
  // Different arrays have nothing to do with each other.
  EXPECT_TRUE(Matches(R"({"data":{"l":{"a":[1]},"m":{"b":[2]}}})",
                      R"({"l":[{},{"a":1}],"m":[{"b":2},{}]})"));
  EXPECT_FALSE(Matches(R"({"data":{"l":{"a":[1],"$or":[{"b":[2]},{"c":[3]}]}}})",
                       R"({"l":[{"a":1},{"c":3}]})"));
  EXPECT_TRUE(Matches(R"({"data":{"l":{"a":[1],"$or":[{"b":[2]},{"c":[3]}]}}})",
                      R"({"l":[{"b":2},{"a":1,"c":3}]})"));
}

TEST(PatternTest, AbsenceIsThatOfTheElementThatTheOtherFieldsChoose) {
  constexpr std::string_view kChosen = R"({"data":{"l":{"a":[1],"x":[{"exists":false}]}}})";
  EXPECT_TRUE(Matches(kChosen, R"({"l":[{"a":1},{"x":2}]})"));
  EXPECT_FALSE(Matches(kChosen, R"({"l":[{"a":1,"x":1},{"a":2}]})"));
  // Nothing chooses one: it must be absent in all.
  constexpr std::string_view kAlone = R"({"data":{"l":{"x":[{"exists":false}]}}})";
  EXPECT_FALSE(Matches(kAlone, R"({"l":[{"a":1},{"x":2}]})"));
  EXPECT_TRUE(Matches(kAlone, R"({"l":[{"a":1},{"y":2}]})"));
  EXPECT_TRUE(Matches(kAlone, R"({"l":7})"));
  EXPECT_TRUE(Matches(kAlone, "{}"));
  EXPECT_TRUE(Matches(R"({"data":{"a":["x",{"exists":false}]}})", R"({"a":"x"})"));
  EXPECT_TRUE(Matches(R"({"data":{"a":["x",{"exists":false}]}})", R"({"b":"x"})"));
  EXPECT_FALSE(Matches(R"({"data":{"a":["x",{"exists":false}]}})", R"({"a":"y"})"));
}

TEST(PatternTest, ChoicesStandAtAnyLevel) {
  constexpr std::string_view kTop =
      R"({"$or":[{"type":["x"]},{"data":{"$or":[{"a":[1]},{"b":[1]}]}}],)"
      R"("subject":[{"prefix":"eu/"}]})";
  EXPECT_TRUE(Matches(kTop, R"({"b":1})"));
  EXPECT_FALSE(Matches(kTop, R"({"b":2})"));
  // As in EventBridge: operators inside make it a field of that name.
  EXPECT_TRUE(Matches(R"({"data":{"$or":[{"prefix":"x"}]}})", R"({"$or":"xy"})"));
}

// What stands beside `$or` and what stands in it is about one element.
TEST(PatternTest, ObjectsBesideAndInsideAChoiceGoTogether) {
  constexpr std::string_view kBeside =
      R"({"data":{"p":{"c":[2]}},"$or":[{"id":["x"]},{"data":{"p":{"a":[1]}}}]})";
  EXPECT_TRUE(Matches(kBeside, R"({"p":[{"a":1,"c":2}]})"));
  EXPECT_FALSE(Matches(kBeside, R"({"p":[{"a":1},{"c":2}]})"));
  // Found by fuzzing: the array is the payload, within another.
  constexpr std::string_view kRoot =
      R"({"data":{"c":[2]},"$or":[{"id":["x"]},{"data":{"a":[1]}}]})";
  EXPECT_TRUE(Matches(kRoot, R"([[{"a":1,"c":2}],3.5])"));
  EXPECT_FALSE(Matches(kRoot, R"([[{"a":1},{"c":2}],3.5])"));
  constexpr std::string_view kInner =
      R"({"data":{"p":{"c":[2]},"$or":[{"$or":[{"p":{"a":[1]}},{"q":[1]}]},{"q":[2]}]}})";
  EXPECT_FALSE(Matches(kInner, R"({"p":[{"a":1},{"c":2}]})"));
  EXPECT_TRUE(Matches(kInner, R"({"p":[{"a":1,"c":2}]})"));
  EXPECT_TRUE(Matches(kInner, R"({"p":[{"c":2}],"q":2})"));
  EXPECT_FALSE(Matches(kInner, R"({"p":[{"c":3}],"q":2})"));
  // Dotted names bring two choices into one object.
  constexpr std::string_view kTwo = R"({"data.p":{"$or":[{"r.a":[1]},{"r.b":[1]}]},)"
                                    R"("data":{"p":{"$or":[{"r.c":[1]},{"d":[1]}]}}})";
  EXPECT_TRUE(Matches(kTwo, R"({"p":{"r":[{"b":1,"c":1}]}})"));
  EXPECT_FALSE(Matches(kTwo, R"({"p":{"r":[{"b":1},{"c":1}]}})"));
  EXPECT_TRUE(Matches(kTwo, R"({"p":{"r":[{"b":1}],"d":1}})"));
  // Values of one array are each on their own.
  EXPECT_TRUE(Matches(R"({"data":{"a":[1],"$or":[{"a":[2]},{"b":[1]}]}})", R"({"a":[1,2]})"));
}

// F20: what two readers may take for different things is nothing that a trigger acts on.
TEST(PatternTest, HostilePayloadsDoNotMatchAndSayWhy) {
  constexpr std::string_view kPattern = R"({"data":{"a":[1]}})";
  const auto reason = [&](std::string_view payload) {
    return Explain(kPattern, JsonEvent(payload)).reason;
  };
  EXPECT_NE(reason(R"({"a":1)").find("line 1, column 7: object without end"), std::string::npos);
  EXPECT_NE(reason(R"({"a":1,"b":1e400})").find("out of the range of a double"), std::string::npos);
  EXPECT_NE(reason(R"({"a":1,"b":"\ud800"})").find("lone surrogate"), std::string::npos);
  EXPECT_NE(reason(R"({"a":1,"b":"\uDC00"})").find("lone surrogate"), std::string::npos);
  EXPECT_NE(reason(R"({"a":1,"b":NaN})").find("expected a JSON value"), std::string::npos);
  EXPECT_NE(reason("{\"a\":1,\"b\":\"\xFF\"}").find("not valid UTF-8"), std::string::npos);
  EXPECT_NE(reason(R"({"a":1} {"a":1})").find("something follows"), std::string::npos);
  EXPECT_NE(reason(std::string(100'000, '[')).find("nested too deeply"), std::string::npos);
  EXPECT_NE(reason("").find("expected a JSON value"), std::string::npos);
  EXPECT_NE(reason(R"({"a":1,"a":1})").find("occurs twice"), std::string::npos);
  EXPECT_NE(reason(R"({"\u0061":1,"a":1})").find("occurs twice"), std::string::npos);
  // Not even absence can be told.
  EXPECT_FALSE(Matches(R"({"data":{"x":[{"exists":false}]}})", R"({"a":1)"));
  EXPECT_FALSE(Matches(R"({"data":{"x":[{"exists":false}]}})", R"({"x":{},"x":{}})"));
  EXPECT_FALSE(Matches(R"({"data":{"x":{"y":[{"exists":false}]}}})", R"({"x":1,"x":2})"));
  // Others are as they were, and so are attributes.
  EXPECT_TRUE(Matches(R"({"data":{"b":[1]}})", R"({"a":1,"a":2,"b":1})"));
  EXPECT_TRUE(Matches(R"({"$or":[{"data":{"a":[1]}},{"type":["order.paid"]}]})", "{"));
  EXPECT_TRUE(Matches(R"({"data":{"l":{"a":[1]}}})", R"({"l":[{"a":1,"a":1},{"a":1}]})"));
}

TEST(PatternTest, EscapesAndPairsOfSurrogatesAreRead) {
  EXPECT_TRUE(Matches(R"({"data":{"a":["😀\n"]}})", R"({"\u0061":"\ud83d\ude00\n"})"));
  EXPECT_TRUE(Matches(R"({"data":{"a":["x"]}})", R"({"b":[1,{"a":"\\ud800"},"}"],"a":"x"})"));
  EXPECT_TRUE(
      Matches(R"({"data":{"a":{"b":[true]}}})",
              R"({"s":"\ud83d\ude00","n":-1.5e3,"t":true,"a" : [ {"b":false} , {"b":true} ]})"));
}

TEST(PatternTest, OtherPayloadsThanJsonAreOneText) {
  EXPECT_TRUE(Explain(R"({"data":[{"prefix":"hel"}]})", JsonEvent("hello", "text/plain")).matched);
  EXPECT_FALSE(Explain(R"({"data":{"a":[1]}})", JsonEvent(R"({"a":1})", "text/plain")).matched);
  EXPECT_TRUE(Explain(R"({"data":{"a":[1]}})", JsonEvent(R"({"a":1})", "")).matched);
  EXPECT_TRUE(
      Explain(R"({"data":{"a":[1]}})", JsonEvent(R"({"a":1})", "application/x+json")).matched);
  const Event none = Event::FromTrustedBytes(EventBuilder("1", "/s", "t").Encode());
  EXPECT_TRUE(Explain(R"({"data":[{"exists":false}]})", none).matched);
  EXPECT_FALSE(Explain(R"({"data":[{"exists":true}]})", none).matched);
}

TEST(PatternTest, VerdictsNamePlaceAndBothValues) {
  const auto explain = [](std::string_view pattern, std::string_view payload) {
    const Verdict verdict = Explain(pattern, JsonEvent(payload));
    return fmt::format("{} | {} | {}", verdict.clause, verdict.expected, verdict.actual);
  };
  EXPECT_EQ(explain(R"({"type":[{"prefix":"row."}]})", "{}"),
            R"(pattern.type | [{"prefix":"row."}] | "order.paid")");
  EXPECT_EQ(
      explain(R"({"data":{"a":[1],"b":{"c":[{"numeric":[">",5]}]}}})", R"({"a":1,"b":{"c":3}})"),
      R"(pattern.data.b.c | [{"numeric":[">",5]}] | 3)");
  EXPECT_EQ(explain(R"({"data":{"b":{"c":[2]}}})", R"({"b":[{"c":3},{"c":"x"}]})"),
            R"(pattern.data.b.c | [2] | [3,"x"])");
  EXPECT_EQ(explain(R"({"data":{"b":{"c":[2]}}})", "{}"), "pattern.data.b.c | [2] | ");
  EXPECT_EQ(explain(R"({"data":{"$or":[{"a":[1]},{"b":[2]}]}})", R"({"a":7})"),
            R"(pattern.data.$or | [{"a":[1]},{"b":[2]}] | 7)");
  const Verdict apart =
      Explain(R"({"data":{"l":{"a":[1],"b":[2]}}})", JsonEvent(R"({"l":[{"a":1},{"b":2}]})"));
  EXPECT_EQ(apart.clause, "pattern.data");
  EXPECT_NE(apart.reason.find("different elements of an array"), std::string::npos);
}

void ExpectRefused(std::string_view json, std::string_view text) {
  const absl::StatusOr<PatternPtr> pattern = Pattern::FromJson(json);
  ASSERT_FALSE(pattern.ok()) << json;
  EXPECT_NE(MessageOf(pattern.status()).find(text), std::string_view::npos)
      << json << ": " << pattern.status();
}

TEST(PatternTest, BadPatternsAreRefusedWithTheirPlace) {
  ExpectRefused("{}", "line 1, column 1: an empty object");
  ExpectRefused(R"({"data":{"a":[]}})", "column 14: an empty array");
  ExpectRefused(R"({"data":{"a":"x"}})",
                "column 14: \"a\" takes an array of values, such as [\"x\"]");
  ExpectRefused("{\n  \"Type\":[\"x\"]}", "line 2, column 10: \"Type\" is not an attribute's name");
  ExpectRefused(R"({"type":{"a":["x"]}})", "the attribute \"type\" takes an array of values");
  ExpectRefused(R"({"data":{"a":[["x"]]}})", "an array stands in an array");
  ExpectRefused(R"({"data":{"a":[{"perfix":"x"}]}})", "\"perfix\" is no operator");
  ExpectRefused(R"({"data":{"a":[1],"a":[2]}})", "duplicate name");
  ExpectRefused(R"({"data":{"a.b":[1],"a":{"b":[2]}}})", "\"b\" is given twice");
  ExpectRefused(R"({"data":{"a":[1],"a.b":[2]}})", "\"a.b\" is given twice");
  ExpectRefused(R"({"data":{"a":[{"numeric":[">",2,"<",1]}]}})", "no number is in this range");
  ExpectRefused(R"({"data":{"a":[1e400]}})", "out of the range");
  ExpectRefused(R"({"data":{"a":[{"cidr":"10.0.0.0"}]}})", "a range of addresses is written");
  ExpectRefused(R"({"data":{"a":[{"cidr":"10.0.0.0/33"}]}})", "a number from 0 to 32");
  ExpectRefused(R"({"$or":[{"type":["x"]}]})", "at least two alternatives");
}

// F52: what is over a budget is refused when it is read, with the reason.
TEST(PatternTest, BudgetsAreRefusedWithTheReason) {
  std::string wildcards = R"({"data":{"a":[)";
  for (int i = 0; i < 129; ++i)
    wildcards += fmt::format(R"({}{{"wildcard":"*{}*"}})", i ? "," : "", i);
  ExpectRefused(wildcards + "]}}", "at most 128 wildcards");
  std::string scans = R"({"data":{"a":[)";
  for (int i = 0; i < 257; ++i) scans += fmt::format(R"({}{{"prefix":"{}"}})", i ? "," : "", i);
  ExpectRefused(scans + "]}}", "at most 256 clauses that are no plain values");
  std::string values = R"({"data":{"a":[0)";
  for (int i = 0; i < 9000; ++i) values += fmt::format(",{}", i + 1);
  ExpectRefused(values + "]}}", "at most 8192 parts");
  std::string deep = "[1]";
  for (int i = 0; i < 33; ++i) deep = "{\"data\":" + deep + "}";
  ExpectRefused(deep, "at most 32 names deep");
  std::string many = R"({"data":{"p":{"x":[0)";
  for (int i = 0; i < 900; ++i) many += fmt::format(",{}", i + 1);
  many += R"(]},"$or":[{"p":{"a":[0]}})";
  for (int i = 0; i < 20; ++i) many += fmt::format(R"(,{{"p":{{"a":[{}]}}}})", i + 1);
  ExpectRefused(many + "]}}", "written out that is more than 8192 parts");
  ExpectRefused(R"({"data":{"a":[")" + std::string(300'000, 'x') + "\"]}}", "at most 262144 bytes");
}

TEST(PatternTest, CanonicalJsonReadsBackAsItself) {
  const auto canonical = [](std::string_view json) {
    return Pattern::FromJson(json).value()->ToJson();
  };
  EXPECT_EQ(canonical(R"({"data.b":[2,1,"b","a"],"data":{"a":[{"exactly":"x"}]},"type":["t"]})"),
            R"({"type":["t"],"data":{"a":["x"],"b":["a","b",1,2]}})");
  const std::string all =
      R"({"subject":["a",{"prefix":"p"}],"$or":[{"id":["1"]},{"type":["2"]}],)"
      R"("data":{"a":["t",-1.5,)"
      R"(true,false,null,{"prefix":"p"},{"suffix":"s"},{"equals-ignore-case":"e"},)"
      R"({"prefix":{"equals-ignore-case":"e"}},{"suffix":{"equals-ignore-case":"e"}},)"
      R"({"wildcard":"a*\\*"},{"numeric":[">",1,"<=",2.5]},{"cidr":"10.0.0.0/8"},{"exists":true},)"
      R"({"exists":false},{"anything-but":["a","b"]}],"b":{"c":[{"numeric":["=",3]},)"
      R"({"anything-but":[1,2]},{"anything-but":{"suffix":["x"]}}],"$or":[{"d":[1]},{"e":[2]}]}}})";
  EXPECT_EQ(canonical(all), all);
  // A choice and what stands beside it, written out.
  const std::string joined = canonical(
      R"({"data":{"p":{"a":[1],"c":[2]}},"$or":[{"id":["x"]},{"data":{"p":{"a":[3]}}}]})");
  EXPECT_EQ(joined, R"({"$or":[{"id":["x"],"data":{"p":{"a":[1],"c":[2]}}},)"
                    R"({"data":{"p":{"a":[3],"c":[2],"$or":[{"a":[1]},{"a":[1]}]}}}]})");
  EXPECT_EQ(canonical(joined), joined);
}

}  // namespace
}  // namespace tocsin
