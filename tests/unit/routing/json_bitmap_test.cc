// JsonBitmap must never take what JsonScanner refuses, wherever its blocks of 64 characters begin,
// and shows the same tokens as JsonTokens.

#include "broker/routing/json_bitmap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "broker/base/random.h"
#include "broker/routing/json_tokens.h"
#include "tests/support/json_texts.h"

namespace tocsin {
namespace {

constexpr std::size_t kBlock = 64;

// Each text alone and behind so many characters that it lies at every place of a block, and over
// the edges of blocks.
template <typename Check>
void AtEveryPlace(const std::string& text, const Check& check) {
  check(text);
  for (std::size_t shift = 0; shift < 2 * kBlock; ++shift) {
    const std::string spaces(shift, ' ');
    const std::string letters(shift, 'x');
    check(spaces + text);
    check(text + spaces);
    check("[" + spaces + text + spaces + "]");
    check("[\"" + letters + "\"," + text + "]");
    check("{\"" + letters + "\":" + text + ",\"a\":1}");
    check("[1" + std::string(shift, '2') + "," + text + ",-0.5]");
  }
}

class JsonBitmapTest : public testing::Test {
 protected:
  // Without AVX2 everything is left to others, and there is no more to show.
  bool RefusesAll() {
    if (JsonBitmap::Supported()) return false;
    EXPECT_FALSE(bitmap_.Begin("{}"));
    return true;
  }

  void ShowsTheSame(const std::string& text) {
    std::string by_bitmap;
    std::string by_tokens;
    ASSERT_TRUE(ShowTokens(bitmap_, text, by_bitmap)) << text;
    ASSERT_TRUE(ShowTokens(tokens_, text, by_tokens)) << text;
    ASSERT_EQ(by_bitmap, by_tokens) << text;
  }

  // Over all members, and up to each one.
  void PassesMembers(const std::string& text, const std::vector<std::string>& names) {
    for (std::size_t wanted = 0; wanted <= names.size(); ++wanted) {
      std::vector<std::string> passed;
      ASSERT_TRUE(bitmap_.Begin(text) && bitmap_.Take('{'));
      const bool stopped = bitmap_.PassMembers([&](std::string_view name) {
        passed.emplace_back(name);
        return passed.size() > wanted;
      });
      const auto has_escape = [](const std::string& name) {
        return name.find('\\') != std::string::npos;
      };
      const auto escaped = std::find_if(names.begin(), names.end(), has_escape);
      const auto first = static_cast<std::size_t>(escaped - names.begin());
      const std::size_t stop = std::min(wanted, first);
      ASSERT_EQ(stopped, stop < names.size()) << text;
      ASSERT_EQ(passed, std::vector<std::string>(
                            names.begin(), names.begin() + static_cast<std::ptrdiff_t>(
                                                               std::min(stop + 1, names.size()))))
          << text;
      if (!stopped) {
        ASSERT_TRUE(bitmap_.Take('}') && bitmap_.at_end()) << text;
        continue;
      }
      std::string_view name;
      bool is_escaped = false;
      ASSERT_TRUE(bitmap_.String(name, is_escaped) && name == names[stop]) << text;
    }
  }

  JsonBitmap bitmap_;
  JsonTokens tokens_;
};

TEST_F(JsonBitmapTest, TakesWhatIsJsonAtEveryPlace) {
  if (RefusesAll()) return;
  for (const char* text : {"1",
                           "-0",
                           "1.05",
                           "-20.007",
                           "0.5",
                           "10",
                           "1e5",
                           "1.5E+7",
                           "-2e-07",
                           "0e0",
                           "[ ]",
                           "{}",
                           "\"\"",
                           "true",
                           "false",
                           "null",
                           "[1,[2,{\"a\":[]}],{}]",
                           "{\"a\" : {\"a\": 1, \"a\": 2}, \"b\" :\t[ ] }",
                           "{\"a\":\"\\n\\\\\\\"\",\"\\\\\":\"\\/\"}",
                           "\"\\\\\\\\\"",
                           "[{},{},[[]]]",
                           "[true,false,null,0.0,1.25]",
                           "\t{\"x\":\r\n\"y\"}\n",
                           "\"\xc3\xa9\"",
                           "{\"{[,:]}\":\"{[,:]}\",\"n\":-1.0}",
                           "[\"a\",{\"b\":\"c\"},\"d\"]"}) {
    AtEveryPlace(text, [this](const std::string& whole) {
      ASSERT_TRUE(IsJson(whole)) << whole;
      // A long number is left to others.
      if (whole.find(std::string(kBlock + 1, '2')) != std::string::npos) return;
      ShowsTheSame(whole);
      ASSERT_EQ(bitmap_.First(), '\0');
    });
  }
}

TEST_F(JsonBitmapTest, RefusesWhatIsNoneAtEveryPlace) {
  if (RefusesAll()) return;
  for (const char* text : kNoJson) {
    AtEveryPlace(text, [this](const std::string& whole) {
      if (IsJson(whole)) return;  // such as "1 2" behind "[12"
      ASSERT_FALSE(bitmap_.Begin(whole)) << whole;
    });
    EXPECT_FALSE(IsJson(text)) << text;
  }
  EXPECT_FALSE(bitmap_.Begin(""));
  for (std::size_t spaces = 1; spaces < 3 * kBlock; ++spaces) {
    EXPECT_FALSE(bitmap_.Begin(std::string(spaces, ' ')));
    EXPECT_FALSE(bitmap_.Begin(std::string("1\0", 2) + std::string(spaces, ' ')));
  }
}

TEST_F(JsonBitmapTest, LeavesWhatIsRareToOthers) {
  if (RefusesAll()) return;
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + "1" + std::string(depth, ']');
  };
  EXPECT_TRUE(bitmap_.Begin(nested(64)));
  EXPECT_FALSE(bitmap_.Begin(nested(65)));
  EXPECT_FALSE(bitmap_.Begin("\"\\u00e9\""));
  EXPECT_FALSE(bitmap_.Begin(std::string(400, '9')));
}

TEST_F(JsonBitmapTest, AgreesWithTheScannerOnDamagedTexts) {
  if (RefusesAll()) return;
  const std::string compact =
      "{\"type\":\"Feature\",\"p\":{\"M\":\"14\\n\",\"n\":[-122.42497815088458,0.0,1e5,true],"
      "\"s\":\"a\\\\b\\\"\",\"e\":{},\"l\":[]},\"z\":null,\"c\":[{\"x\":-1.5,\"y\":0},"
      "{\"x\":false,\"y\":\"\xc3\xa9\"}]}";
  std::string spacious;
  for (const char c : compact) {
    spacious += c;
    if (c == ',' || c == '{' || c == '[') spacious += "\n   ";
  }
  SeededRandom random(20261129);
  std::size_t good = 0;
  std::size_t left = 0;
  for (int i = 0; i < 200'000; ++i) {
    std::string text = random.Next() % 2 == 0 ? compact : spacious;
    text.insert(0, random.Next() % kBlock, ' ');
    Damage(text, random, random.Next() % 4);
    const bool taken = bitmap_.Begin(text);
    if (!IsJson(text)) {
      ASSERT_FALSE(taken) << text;
      continue;
    }
    ++good;
    if (!taken) {
      ++left;
      continue;
    }
    ShowsTheSame(text);
    // The root is passed over as one, its members one by one.
    ASSERT_TRUE(bitmap_.Begin(text) && bitmap_.Skip(kJsonDepthMax) && bitmap_.at_end()) << text;
    ASSERT_TRUE(bitmap_.Begin(text));
    if (!bitmap_.Take('{') || bitmap_.First() == '}') continue;
    std::vector<std::string> names;
    std::string_view name;
    bool escaped = false;
    do {
      ASSERT_TRUE(bitmap_.String(name, escaped) && bitmap_.Take(':') && bitmap_.Skip(1)) << text;
      names.emplace_back(name);
    } while (bitmap_.Take(','));
    ASSERT_TRUE(bitmap_.Take('}') && bitmap_.at_end()) << text;
    PassesMembers(text, names);
  }
  EXPECT_GT(good, 50'000u);
  EXPECT_LT(left, good / 100);
}

}  // namespace
}  // namespace tocsin
