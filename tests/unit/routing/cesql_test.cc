#include "broker/routing/cesql.h"

#include <gtest/gtest.h>

#include "broker/base/status.h"
#include "broker/routing/text_case.h"
#include "broker/routing/wildcard.h"

namespace tocsin {
namespace {

Event MakeEvent() {
  std::string bytes = std::move(EventBuilder("1", "/sources/inbox", "file.created")
                                    .Attribute("subject", "Straße/Ünï.csv")
                                    .Attribute("hop", "5")
                                    .Attribute("ttl", "10")
                                    .Attribute("20lives", "yes")
                                    .Integer("count", -5)
                                    .Boolean("flag", true)
                                    .Binary("raw", "f")
                                    .Timestamp("time", 0, 0))
                          .Encode();
  return Event::FromBytes(std::move(bytes), EventLimits()).value();
}

// The value and the kinds of errors: `false missingAttribute`.
std::string Value(std::string_view text) {
  static const Event event = MakeEvent();
  const absl::StatusOr<CesqlPtr> cesql = Cesql::Parse(text);
  if (!cesql.ok()) return std::string(MessageOf(cesql.status()));
  const CesqlResult result = (*cesql)->Evaluate(event.View());
  EXPECT_EQ((*cesql)->Matches(event.View()), result.matched()) << text;
  std::string out = result.value.ToJson();
  for (const CesqlError& error : result.errors) {
    out += ' ';
    out += CesqlErrorName(error.kind);
  }
  return out;
}

bool Matches(std::string_view text) {
  return Cesql::Parse(text).value()->Matches(MakeEvent().View());
}

TEST(CesqlTest, PrecedenceIsThatOfTheSpecification) {
  EXPECT_EQ(Value("1 + 2 * 3 - 4 % 3"), "6");
  EXPECT_EQ(Value("1 + 1 = 2 AND 3 > 2"), "true");
  EXPECT_EQ(Value("TRUE OR TRUE AND FALSE"), "false");  // (TRUE OR TRUE) AND FALSE
  EXPECT_EQ(Value("FALSE AND FALSE OR TRUE"), "true");
  EXPECT_EQ(Value("TRUE XOR TRUE OR TRUE"), "true");
  EXPECT_EQ(Value("TRUE OR FALSE XOR TRUE"), "false");  // from left to right, on one level
  EXPECT_EQ(Value("NOT FALSE AND FALSE"), "false");
  EXPECT_EQ(Value("NOT type LIKE 'x'"), "false cast");  // (NOT type) LIKE 'x'
  EXPECT_EQ(Value("- 2 + 3"), "1");
  EXPECT_EQ(Value("1 + 2 IN (3)"), "1");  // 1 + (2 IN (3))
  EXPECT_EQ(Value("NOT EXISTS nothing"), "true");
  EXPECT_EQ(Value("8 / 2 / 2"), "2");
  EXPECT_EQ(Value("LENGTH('ab') * 2 LIKE '_'"), "2");  // LENGTH('ab') * (2 LIKE '_')
}

TEST(CesqlTest, TheRightOperandChoosesTheOverload) {
  EXPECT_EQ(Value("hop = 5"), "true");
  EXPECT_EQ(Value("5 = hop"), "true");
  EXPECT_EQ(Value("'05' = 5"), "true");
  EXPECT_EQ(Value("5 = '05'"), "false");
  EXPECT_EQ(Value("hop < ttl"), "true");
  EXPECT_EQ(Value("'x' = 5"), "false cast");
  EXPECT_EQ(Value("'x' != 5"), "false cast");
  EXPECT_EQ(Value("flag = 'true'"), "true");
  EXPECT_EQ(Value("1 = TRUE"), "false cast");
  EXPECT_EQ(Value("count + 1"), "-4");
  EXPECT_EQ(Value("flag"), "true");
}

TEST(CesqlTest, AttributesHaveTheirTypesAndAnyCase) {
  EXPECT_EQ(Value("COUNT"), "-5");
  EXPECT_EQ(Value("20lives"), "\"yes\"");
  EXPECT_EQ(Value("raw"), "\"Zg==\"");
  EXPECT_EQ(Value("TIME"), "\"1970-01-01T00:00:00Z\"");
  EXPECT_EQ(Value("specversion"), "\"1.0\"");
}

TEST(CesqlTest, WhatIsMissingMakesTheSmallestPartItsZero) {
  EXPECT_EQ(Value("nothing"), "false missingAttribute");
  EXPECT_EQ(Value("nothing = 2"), "false missingAttribute");
  EXPECT_EQ(Value("nothing != 2"), "false missingAttribute");
  EXPECT_EQ(Value("nothing != more"), "false missingAttribute missingAttribute");
  EXPECT_EQ(Value("NOT nothing"), "false missingAttribute");
  EXPECT_EQ(Value("LENGTH(nothing)"), "0 missingAttribute");
  EXPECT_EQ(Value("CONCAT('a', nothing)"), "\"\" missingAttribute");
  EXPECT_EQ(Value("nothing NOT IN (1)"), "false missingAttribute");
  EXPECT_EQ(Value("nothing NOT LIKE 'x'"), "false missingAttribute");
  EXPECT_EQ(Value("1 IN (nothing, 1)"), "true missingAttribute");
  EXPECT_EQ(Value("(nothing = 2) OR TRUE"), "true missingAttribute");
  EXPECT_EQ(Value("FALSE AND nothing"), "false");
  EXPECT_EQ(Value("TRUE OR nothing"), "true");
}

// The specification: an event does not pass a filter whose evaluation had errors.
TEST(CesqlTest, AFilterMatchesOnTrueWithoutErrorsOnly) {
  EXPECT_TRUE(Matches("hop < ttl"));
  EXPECT_FALSE(Matches("hop > ttl"));
  EXPECT_FALSE(Matches("(nothing = 2) OR TRUE"));
  EXPECT_FALSE(Matches("NOT 10"));
  EXPECT_FALSE(Matches("1"));
  EXPECT_FALSE(Matches("'true'"));
}

TEST(CesqlTest, IntegersStayIn32Bits) {
  EXPECT_EQ(Value("2147483647 + 1"), "2147483647 math");
  EXPECT_EQ(Value("-2147483648 - 1"), "-2147483648 math");
  EXPECT_EQ(Value("-2147483648 / -1"), "2147483647 math");
  EXPECT_EQ(Value("-2147483648 % -1"), "0");
  EXPECT_EQ(Value("65536 * 65536"), "2147483647 math");
  EXPECT_EQ(Value("- (-2147483648)"), "2147483647 math");
  EXPECT_EQ(Value("-7 / 2"), "-3");
  EXPECT_EQ(Value("-7 % 2"), "-1");
  EXPECT_EQ(Value("2147483648"), "column 1: integers have 32 bits");
  EXPECT_EQ(Value("INT('2147483648')"), "0 cast");
  EXPECT_EQ(Value("INT('+7')"), "7");
  EXPECT_EQ(Value("INT('+-7')"), "0 cast");
  EXPECT_EQ(Value("INT('')"), "0 cast");
}

TEST(CesqlTest, TextFunctionsCountCharacters) {
  EXPECT_EQ(Value("LENGTH(subject)"), "14");
  EXPECT_EQ(Value("LEFT(subject, 5)"), "\"Straß\"");
  EXPECT_EQ(Value("RIGHT(subject, 7)"), "\"Ünï.csv\"");
  EXPECT_EQ(Value("SUBSTRING(subject, 8, 3)"), "\"Ünï\"");
  EXPECT_EQ(Value("SUBSTRING(subject, 8, -3)"), "\"\" functionEvaluation");
  EXPECT_EQ(Value("UPPER('ünï ñ я ω ÿ')"), "\"ÜNÏ Ñ Я Ω Ÿ\"");
  EXPECT_EQ(Value("LOWER('ÜNÏ Ñ Я Ω Ÿ')"), "\"ünï ñ я ω ÿ\"");
  EXPECT_EQ(Value("subject LIKE 'Stra_e/_n_.csv'"), "true");
  EXPECT_EQ(Value("concat_ws('-', 1, TRUE, 'x')"), "\"1-true-x\"");
  EXPECT_EQ(Value("NOFUNCTION(1)"), "false missingFunction");
}

TEST(CesqlTest, LikeSearchesFromLeftToRight) {
  EXPECT_EQ(Value("'xaybzab' LIKE 'x%a_%b'"), "true");
  EXPECT_EQ(Value("'abab' LIKE '%ab'"), "true");
  EXPECT_EQ(Value("'aba' LIKE 'ab%ba'"), "false");  // the ends may not overlap
  EXPECT_EQ(Value("'' LIKE '%%'"), "true");
  EXPECT_EQ(Value("'' LIKE '_'"), "false");
  EXPECT_EQ(Value("'äöü' LIKE '_%_ü'"), "true");
  EXPECT_EQ(Value("'xäbycdz' LIKE 'x%_b_c%z'"), "true");
  EXPECT_EQ(Value("'aXbXcXd' LIKE '%_b%_d'"), "true");
}

TEST(CesqlTest, FaultsSayWhere) {
  EXPECT_EQ(Value("this is wrong"), "column 6: `is` is not expected here");
  EXPECT_EQ(Value(""), "column 1: expected a value and not the end");
  EXPECT_EQ(Value("a = 'x"), "column 5: a string without end");
  EXPECT_EQ(Value("a = $"), "column 5: a character that no expression has");
  EXPECT_EQ(Value("ABS("), "column 5: expected a value and not the end");
  EXPECT_EQ(Value("a IN ()"), "column 7: expected a value and not `)`");
  EXPECT_EQ(Value("a LIKE b"), "column 8: LIKE takes a text in quotes, not `b`");
  EXPECT_EQ(Value("a NOT b"), "column 7: `NOT` between operands stands before LIKE or IN");
  EXPECT_EQ(Value("EXISTS 'x'"), "column 8: EXISTS takes an attribute, not `'x'`");
  EXPECT_EQ(Value("my_ext = 1"),
            "column 1: `my_ext` is no attribute's name: they have letters and digits only");
  EXPECT_EQ(Value("(a = 1"), "column 7: expected `)` and not the end");
}

TEST(CesqlTest, SizeDepthAndBuiltTextAreBounded) {
  std::string deep(70, '(');
  EXPECT_EQ(Value(deep + "1" + std::string(70, ')')), "column 65: nested more than 64 deep");
  std::string wide = "1";
  for (int i = 0; i < 600; ++i) wide += "+1";
  EXPECT_NE(Value(wide).find("at most 1024 parts"), std::string::npos);
  std::string nots;
  for (int i = 0; i < 100; ++i) nots += "NOT ";
  EXPECT_NE(Value(nots + "TRUE").find("64 deep"), std::string::npos);
  // Doubles itself ten times a level.
  std::string grow = "subject";
  for (int i = 0; i < 3; ++i) {
    std::string next = "CONCAT(" + grow;
    for (int n = 0; n < 6; ++n) next += "," + grow;
    grow = next + ")";
  }
  EXPECT_EQ(Value("LENGTH(" + grow + ") > 0"), "true");
  const Event event = [] {
    EventBuilder builder("1", "/s", "t");
    builder.Attribute("subject", std::string(10'000, 'x'));
    return Event::FromTrustedBytes(std::move(builder).Encode());
  }();
  EXPECT_FALSE(Cesql::Parse("LENGTH(" + grow + ") > 0").value()->Matches(event.View()));
}

TEST(CesqlTest, WhatCanNeverBeTrueSaysWhy) {
  EXPECT_EQ(Cesql::Parse("1 + 1").value()->NeverTrue(), "its value is an Integer");
  EXPECT_EQ(Cesql::Parse("FOO(1) = 1").value()->NeverTrue(),
            "there is no function FOO of 1 arguments");
  EXPECT_EQ(Cesql::Parse("flag").value()->NeverTrue(), "");
  EXPECT_EQ(Cesql::Parse("type = 'x'").value()->NeverTrue(), "");
}

// F52: the cost of a hostile pattern on a hostile text is linear.
TEST(WildcardTest, ManyGapsCostLittle) {
  std::string pattern;
  for (int i = 0; i < 60; ++i) pattern += "*a";
  const Wildcard wildcard = Wildcard::FromPattern(pattern + "b*").value();
  EXPECT_FALSE(wildcard.Matches(std::string(1 << 20, 'a')));
  std::string like;
  for (int i = 0; i < 10; ++i) like += "%" + std::string(60, '_');
  EXPECT_FALSE(Wildcard::FromLike(like + "x%y").value().Matches(std::string(1 << 20, 'a')));
}

TEST(WildcardTest, LimitsAreRefusedWithTheReason) {
  const auto refusal = [](std::string_view text, bool like) {
    const auto wildcard = like ? Wildcard::FromLike(text) : Wildcard::FromPattern(text);
    return wildcard.ok() ? std::string() : std::string(MessageOf(wildcard.status()));
  };
  EXPECT_EQ(refusal("a**b", false), "`**` at byte 1 of a wildcard: one `*` is enough");
  EXPECT_EQ(refusal("a\\**", false), "");
  EXPECT_NE(refusal("a\\", false), "");
  EXPECT_NE(refusal("a\\b", false), "");
  EXPECT_EQ(refusal(std::string(5000, 'a'), false), "a wildcard has at most 4096 bytes");
  std::string gaps;
  for (int i = 0; i < 65; ++i) gaps += "*a";
  EXPECT_EQ(refusal(gaps, false), "a wildcard has at most 64 gaps");
  EXPECT_EQ(refusal("%" + std::string(65, '_') + "%", true),
            "between two `%` are at most 64 characters if one of them is `_`");
}

TEST(TextCaseTest, LowerAndUpperAreInverse) {
  for (std::uint32_t c = 0x80; c < 0x10000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    if (c < 0x800) {
      text = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
    } else {
      text = {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)),
              static_cast<char>(0x80 | (c & 0x3F))};
    }
    const std::string lower = LowerCase(text);
    ASSERT_EQ(lower.size(), text.size());
    ASSERT_EQ(LowerCase(lower), lower) << c;
    std::string upper(text.size(), '\0');
    UpperCase(lower, upper.data());
    ASSERT_EQ(LowerCase(upper), lower) << c;
    ASSERT_TRUE(EqualsLowered(text, lower));
    if (lower != text) {
      ASSERT_EQ(upper, text) << c;
    }
  }
}

}  // namespace
}  // namespace tocsin
