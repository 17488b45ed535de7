// JsonTokens must never take what JsonScanner refuses: the payload would be read as something that
// it does not say.

#include "broker/routing/json_tokens.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "broker/base/json_scan.h"
#include "broker/base/random.h"
#include "tests/support/json_texts.h"

namespace tocsin {
namespace {

bool Passes(JsonTokens& tokens, std::string_view text) {
  return tokens.Begin(text) && tokens.Skip(kJsonDepthMax - 1) && tokens.at_end();
}

std::string Nested(std::size_t depth) {
  return std::string(depth, '[') + "1" + std::string(depth, ']');
}

TEST(JsonTokensTest, TakesWhatIsJson) {
  JsonTokens tokens;
  for (const char* text :
       {"1", "-0", "0.5e-7", " [ ] ", "{}", "\"\"", "true", "null", "[1,[2,{\"a\":[]}],{}]",
        "{\"a\" : {\"a\": 1, \"a\": 2}, \"\\u00e9\\n\": \"\\ud83d\\ude00 \\\\\"}", "[1e99,-1E+9]",
        "12345678901234567890123", "1e-400", "\t{\"x\":\r\n\"y\"}\n", "\"\xc3\xa9\"",
        "[\"\\\\\",\"\\\"\",\"a\\\\\\\"\"]"}) {
    EXPECT_TRUE(Passes(tokens, text)) << text;
    EXPECT_TRUE(IsJson(text)) << text;
  }
  EXPECT_TRUE(Passes(tokens, Nested(kJsonDepthMax - 1)));
  EXPECT_FALSE(Passes(tokens, Nested(kJsonDepthMax)));  // left to the scanner
}

TEST(JsonTokensTest, RefusesWhatIsNone) {
  JsonTokens tokens;
  for (const char* text : {"", " "}) EXPECT_FALSE(Passes(tokens, text) || IsJson(text));
  for (const char* text : kNoJson) {
    EXPECT_FALSE(Passes(tokens, text)) << text;
    EXPECT_FALSE(IsJson(text)) << text;
  }
}

TEST(JsonTokensTest, AgreesWithTheScannerOnDamagedTexts) {
  constexpr std::string_view kText =
      "{\"type\":\"Feature\",\"p\":{\"M\":\"14\\u00e9\",\"n\":[-122.42497815088458,0.0,1e5,true],"
      "\"s\":\"a\\\\b\\\"\",\"e\":{},\"l\":[ ]},\"z\" : null}";
  JsonTokens tokens;
  ASSERT_TRUE(Passes(tokens, kText));
  SeededRandom random(20261128);
  std::size_t good = 0;
  for (int i = 0; i < 60'000; ++i) {
    std::string text(kText);
    Damage(text, random, 1 + random.Next() % 3);
    const bool json = IsJson(text);
    good += json ? 1 : 0;
    ASSERT_EQ(Passes(tokens, text), json) << text;
  }
  EXPECT_GT(good, 1000u);
}

TEST(JsonTokensTest, ShowsStringsAndWords) {
  JsonTokens tokens;
  ASSERT_TRUE(tokens.Begin("[\"a b\" , \"c\\td\", -1.5 ,true]"));
  ASSERT_TRUE(tokens.Take('['));
  std::string_view text;
  bool escaped = true;
  ASSERT_TRUE(tokens.String(text, escaped));
  EXPECT_EQ(text, "a b");
  EXPECT_FALSE(escaped);
  ASSERT_TRUE(tokens.Take(',') && tokens.String(text, escaped));
  EXPECT_EQ(text, "c\\td");
  EXPECT_TRUE(escaped);
  ASSERT_TRUE(tokens.Take(',') && tokens.Word(text));
  EXPECT_EQ(text, "-1.5");
  ASSERT_TRUE(tokens.Take(',') && tokens.Word(text));
  EXPECT_EQ(text, "true");
  EXPECT_TRUE(tokens.Take(']') && tokens.at_end());
  EXPECT_EQ(tokens.First(), '\0');
}

}  // namespace
}  // namespace tocsin
